import math

import numpy as np
import pytest
import torch
from planted import SEEDS, assert_honest, ends
from scipy import stats
from torch.distributions import Normal, kl_divergence

from fluxttice_core.metrics.adversaries import optimum
from fluxttice_core.metrics.codes import active, entropy_nats, kl_nats
from fluxttice_core.metrics.rate import aggregate_kl
from fluxttice_core.metrics.reconstruction import posterior
from fluxttice_core.model.network import D, Posterior
from fluxttice_core.model.operations import M
from fluxttice_core.model.streams import generator

CENTRES = torch.linspace(-2.94, 2.94, 50)  # of the 50 bins on [-3, 3]
PRIOR = Posterior(torch.zeros(M, D), torch.zeros(M, D))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "test"))


# --- Histograms, units, KL ---


def test_entropy_is_the_mean_of_numpys_histograms():
    codes = normal(4_000, 5) * torch.tensor([0.1, 0.5, 1.0, 2.0, 9.0])
    counts = [np.histogram(x, bins=50, range=(-3, 3))[0] for x in codes.double().numpy().T]
    assert entropy_nats(codes) == pytest.approx(np.mean([stats.entropy(c) for c in counts]))


@pytest.mark.parametrize(
    "codes, nats",
    [
        (CENTRES.repeat(3)[:, None], math.log(50)), (torch.full((9, 4), 7.0), 0),
        (torch.stack([CENTRES, torch.zeros(50)], 1), math.log(50) / 2),
        (torch.tensor([[-3.0], [3.0]]), math.log(2)), (torch.tensor([[2.999], [3.0]]), 0),
    ],
    ids=["uniform", "outside", "mean of two", "ends", "last bin"],
)  # fmt: skip
def test_entropy_closed_forms(codes, nats):
    assert entropy_nats(codes) == pytest.approx(nats, abs=1e-12)


@pytest.mark.parametrize("count", [0, 1, 9, D])
def test_active_units_are_those_of_variances_above_the_threshold(count):
    """±0.11 has variance 0.0121, ±0.09 has 0.0081; a mean far from 0 changes nothing."""
    signs = torch.tensor([-1.0, 1.0]).repeat(500)[:, None]
    spread = torch.where(torch.arange(D) < count, 0.11, 0.09)
    assert active(1e3 + signs * spread).tolist() == [True] * count + [False] * (D - count)


def test_kl_is_torchs_and_zero_of_the_prior():
    mu, logvar = 3 * normal(200, D, seed=1).double(), 2 * normal(200, D, seed=2).double()
    theirs = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    np.testing.assert_allclose(kl_nats(mu, logvar), theirs, rtol=1e-9)
    assert float(kl_nats(*PRIOR).abs().max()) == 0


# --- The aggregate posterior ---


def two_normals(a):
    """KL(½N(-a, 1) + ½N(a, 1) ‖ N(0, 1)), nats, by quadrature."""
    z = np.linspace(-a - 12, a + 12, 200_001)
    q = (stats.norm.pdf(z, a) + stats.norm.pdf(z, -a)) / 2
    return float(np.trapezoid(q * np.log(q / stats.norm.pdf(z)), z))


@pytest.mark.parametrize("a, logvar", [(0.7, 0.0), (2.0, 0.0), (0.5, -2.0)])
def test_aggregate_kl_of_one_and_of_two_normals(a, logvar):
    """In dimension 3 all operations share a mean, in 9 the halves differ; the rest is one normal,
    as a collapsed encoder with a wrong constant has it."""
    mu = torch.zeros(M, D)
    mu[:, 3], mu[:, 9] = a, a * torch.tensor([-1.0, 1.0]).repeat(M // 2 + 1)[:M]
    wide = torch.zeros(M, D)
    wide[:, 5] = logvar
    q = Posterior(mu, wide)
    rows = [aggregate_kl(q, generator(seed, "planted"), n=40) for seed in range(SEEDS)]
    truth = a * a / 2 + two_normals(a) + float(kl_nats(mu, wide)[0, 5])
    assert_honest(rows, truth, math.inf, widest=4, df=39)


def test_aggregate_kl_of_the_prior_is_zero_and_of_codes_apart_the_rate_less_what_they_tell():
    """Where they never overlap x is known from z, so KL(q(z)‖p) = E_x KL(q(z|x)‖p) - ln M."""
    assert ends(aggregate_kl(PRIOR, generator(1, "x"), n=50)) == pytest.approx([0, 0, 0], abs=1e-9)
    q = posterior(optimum(1 - 1e-9), "A")
    truth = float(kl_nats(*q).sum(1).double().mean()) - math.log(M)
    found = aggregate_kl(q, generator(1, "optimum"))
    assert found.low <= truth <= found.high and found.high - found.low < 1
