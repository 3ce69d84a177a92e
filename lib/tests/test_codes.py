import itertools
import math

import numpy as np
import pytest
import torch
from planted import DIGITS, LN3, MISSES, SEEDS, assert_honest, ends
from scipy import stats
from torch.distributions import Normal, kl_divergence

from fluxttice_core.metrics.adversaries import optimum
from fluxttice_core.metrics.codes import (
    active_units,
    aggregate_kl,
    entropy_nats,
    hamming_correlation,
    kl_nats,
    plane,
    share_outside,
)
from fluxttice_core.metrics.reconstruction import posterior
from fluxttice_core.model.network import VAES, D, Posterior
from fluxttice_core.model.operations import C, M, T, all_operations
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
        (CENTRES.repeat(3)[:, None], math.log(50)),
        (torch.full((9, 4), 7.0), 0),
        (torch.stack([CENTRES, torch.zeros(50)], 1), math.log(50) / 2),
        (torch.tensor([[-3.0], [3.0]]), math.log(2)),
        (torch.tensor([[2.999], [3.0]]), 0),
    ],
    ids=["uniform", "outside", "mean of two", "ends", "last bin"],
)
def test_entropy_closed_forms(codes, nats):
    assert entropy_nats(codes) == pytest.approx(nats, abs=1e-12)


def test_entropy_does_not_see_what_lies_outside_and_the_share_says_how_much():
    inside = normal(1_000, 3).clamp(-2.9, 2.9)
    codes = torch.cat([inside, torch.full((500, 3), 3.01), torch.full((500, 3), -80.0)])
    assert entropy_nats(codes) == entropy_nats(inside)
    assert share_outside(codes) == 0.5
    assert share_outside(torch.tensor([[3.0, -3.0]])) == 0


@pytest.mark.parametrize("active", [0, 1, 9, D])
def test_active_units_counts_variances_above_the_threshold(active):
    """±0.11 has variance 0.0121, ±0.09 has 0.0081; a mean far from 0 changes nothing."""
    signs = torch.tensor([-1.0, 1.0]).repeat(500)[:, None]
    spread = torch.where(torch.arange(D) < active, 0.11, 0.09)
    assert active_units(1e3 + signs * spread) == active


def test_kl_is_torchs_and_zero_of_the_prior():
    mu, logvar = 3 * normal(200, D, seed=1).double(), 2 * normal(200, D, seed=2).double()
    theirs = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    np.testing.assert_allclose(kl_nats(mu, logvar), theirs, rtol=1e-9)
    assert float(kl_nats(*PRIOR).abs().max()) == 0


@pytest.mark.parametrize("vae", VAES)
def test_the_latent_space_of_the_optimum(vae):
    """Nine dimensions at -m, 0, m and seven that are the prior: all of it is known."""
    q = posterior(optimum(), vae)
    assert entropy_nats(q.mu) == pytest.approx(9 * LN3 / D, rel=1e-6)
    assert (active_units(q.mu), share_outside(q.mu)) == (T, 0)
    by_dimension = kl_nats(*q).mean(0).tolist()
    assert by_dimension == pytest.approx([17.14 / T] * T + [0] * 7, abs=1e-3)


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
    rows = [aggregate_kl(Posterior(mu, wide), seed, "planted", n=80) for seed in range(SEEDS)]
    truth = a * a / 2 + two_normals(a) + float(kl_nats(mu, wide)[0, 5])
    assert_honest(rows, truth, math.inf, widest=3, df=79)


def test_aggregate_kl_of_the_prior_is_zero():
    assert ends(aggregate_kl(PRIOR, 1, "planted", n=50)) == pytest.approx([0, 0, 0], abs=1e-9)


def test_aggregate_kl_of_posteriors_that_never_overlap():
    """Then x is known from z, so KL(q(z)‖p) = E_x KL(q(z|x)‖p) - ln M."""
    q = posterior(optimum(1 - 1e-9), "A")
    truth = float(kl_nats(*q).sum(1).double().mean()) - math.log(M)
    found = aggregate_kl(q, 1, "optimum")
    assert found.low <= truth <= found.high and found.high - found.low < 1


# --- Distances ---


def partial_correlation(kept):
    """Spearman's ρ of the Hamming distance of nine trits and of `kept` of them: both are sums of
    independent trits that differ with chance 2/3, ranked with ties at their middle."""
    one = stats.binom.pmf(np.arange(kept + 1), kept, 2 / 3)
    rest = stats.binom.pmf(np.arange(T - kept + 1), T - kept, 2 / 3)
    joint = np.zeros((T + 1, kept + 1))
    for i, j in itertools.product(range(kept + 1), range(T - kept + 1)):
        joint[i + j, i] += one[i] * rest[j]
    centred = [np.cumsum(p) - p / 2 - 0.5 for p in (joint.sum(1), joint.sum(0))]  # ranks
    scale = [joint.sum(1 - axis) @ np.square(c) for axis, c in enumerate(centred)]
    return centred[0] @ joint @ centred[1] / math.sqrt(scale[0] * scale[1])


@pytest.mark.parametrize("kept", [2, 5, 8, 9])
def test_hamming_correlation_of_codes_that_keep_some_trits(kept):
    """One number in three a trit: the squared distance is twice the Hamming distance of those."""
    classes = torch.tensor(DIGITS[:kept].T.copy())
    codes = torch.nn.functional.one_hot(classes, C).flatten(1).float()
    rows = [hamming_correlation(codes, seed, "kept", 4_000) for seed in range(SEEDS)]
    assert_honest(rows, partial_correlation(kept), 1, widest=0.08, df=3_998)


def test_hamming_correlation_of_codes_that_keep_nothing_is_zero():
    rows = [hamming_correlation(normal(M, D, seed=s), s, "noise", 4_000) for s in range(SEEDS)]
    value, low, high = np.array([ends(row) for row in rows]).T
    assert ((low > 0) | (high < 0)).sum() <= MISSES
    assert abs(value.mean()) < 4 / math.sqrt(4_000 * SEEDS)
    assert (high - low) == pytest.approx(2 * 1.96 / 4_000**0.5, rel=0.01)
    assert ends(hamming_correlation(torch.ones(M, D), 1, "constant")) == [0, 0, 0]


def test_the_plane_shows_the_two_widest_axes_and_the_trit_the_first_sorts_by():
    """Planted: trit 4 on a wide axis, noise on a narrower one, little elsewhere; signs are free."""
    codes = normal(M, D) * 0.1
    codes[:, 5] += 9 * all_operations()[:, 4]
    codes[:, 11] *= 30
    found = plane(codes, seed=3, n=400)
    rows = torch.tensor(found.points)
    pick = torch.randperm(M, generator=generator(3, "plane"))[:400]
    assert found.trit == 4 and rows.shape == (400, 3)
    centred = codes - codes.mean(0)
    for axis, column in ((0, 5), (1, 11)):
        np.testing.assert_allclose(rows[:, axis].abs(), centred[pick, column].abs(), atol=0.2)
    assert torch.equal(rows[:, 2].long(), all_operations()[pick, 4])
