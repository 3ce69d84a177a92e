import math

import numpy as np
import pytest
import torch
from fluxttice_core.metrics.codes import (
    active_units,
    aggregate_kl,
    entropy_nats,
    hamming_correlation,
    kl_nats,
    plane,
    share_outside,
)
from fluxttice_core.model.network import D, Posterior
from fluxttice_core.model.operations import M, T, all_operations
from fluxttice_core.metrics.reconstruction import posterior
from fluxttice_core.model.streams import generator
from scipy import stats
from torch.distributions import Normal, kl_divergence

CENTRES = torch.linspace(-2.94, 2.94, 50)  # of the 50 bins on [-3, 3]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "test"))


def test_entropy_is_the_mean_of_numpys_histograms():
    codes = normal(4_000, 5) * torch.tensor([0.1, 0.5, 1.0, 2.0, 9.0])
    entropies = []
    for column in codes.double().numpy().T:
        p = np.histogram(column, bins=50, range=(-3, 3))[0]
        entropies.append(stats.entropy(p))
    assert entropy_nats(codes) == pytest.approx(np.mean(entropies), rel=1e-9)


@pytest.mark.parametrize(
    "codes, nats",
    [
        (CENTRES[:, None], math.log(50)),
        (CENTRES.repeat(3)[:, None], math.log(50)),
        (CENTRES[[4, 30]][:, None], math.log(2)),
        (CENTRES[[4, 30, 30, 30]][:, None], math.log(4) - 0.75 * math.log(3)),
        (torch.full((9, 4), 0.3), 0),
        (torch.full((9, 4), 7.0), 0),
        (torch.stack([CENTRES, torch.zeros(50)], 1), math.log(50) / 2),
        (torch.tensor([[-3.0], [3.0]]), math.log(2)),
        (torch.tensor([[2.999], [3.0]]), 0),
    ],
    ids=[
        *["uniform", "tripled", "two", "skewed", "constant", "outside"],
        *["mean of two", "ends", "last bin"],
    ],
)
def test_entropy_closed_forms(codes, nats):
    assert entropy_nats(codes) == pytest.approx(nats, abs=1e-12)


def test_entropy_does_not_see_what_lies_outside_and_the_share_says_how_much():
    inside = normal(1_000, 3).clamp(-2.9, 2.9)
    codes = torch.cat([inside, torch.full((500, 3), 3.01), torch.full((500, 3), -80.0)])
    assert entropy_nats(codes) == entropy_nats(inside)
    assert share_outside(codes) == 0.5
    assert share_outside(torch.tensor([[3.0, -3.0]])) == 0


def test_share_outside_of_a_standard_normal():
    expected = 2 * stats.norm.sf(3)
    n = 400_000
    assert abs(share_outside(normal(n, 1)) - expected) < 5 * (expected / n) ** 0.5


@pytest.mark.parametrize("active", [0, 1, 9, D])
def test_active_units_counts_variances_above_the_threshold(active):
    """±0.11 has variance 0.0121, ±0.09 has 0.0081; a mean far from 0 changes nothing."""
    signs = torch.tensor([-1.0, 1.0]).repeat(500)[:, None]
    spread = torch.where(torch.arange(D) < active, 0.11, 0.09)
    assert active_units(1e3 + signs * spread) == active


@pytest.mark.parametrize("vae", ["A", "B"])
def test_a_perfect_model_uses_nine_dimensions(perfect_model, vae):
    assert active_units(posterior(perfect_model, vae).mu) == T


@pytest.mark.parametrize(
    "mu, logvar, nats",
    [(0, 0, 0), (2, 0, 2), (0, 1, (math.e - 2) / 2), (0, -8, (math.exp(-8) + 7) / 2)],
)
def test_kl_closed_forms(mu, logvar, nats):
    got = kl_nats(torch.tensor([[float(mu)]]), torch.tensor([[float(logvar)]]))
    assert float(got) == pytest.approx(nats, abs=1e-6)


def test_kl_is_torchs():
    mu, logvar = 3 * normal(200, D, seed=1).double(), 2 * normal(200, D, seed=2).double()
    theirs = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_nats(mu, logvar), theirs)
    assert (kl_nats(mu, logvar) >= 0).all()


def test_aggregate_kl_is_zero_where_every_posterior_is_the_prior():
    q = Posterior(torch.zeros(M, D), torch.zeros(M, D))
    result = aggregate_kl(q, 1, "zero", n=300)
    assert [result["value"], *result["ci95"]] == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("shift, logvar", [(1.5, 0.0), (0.5, -2.0)])
def test_aggregate_kl_of_one_gaussian_for_all_is_its_own_kl(shift, logvar):
    """What a collapsed encoder with a wrong constant would have; 20 draws of the interval."""
    q = Posterior(torch.full((M, D), shift), torch.full((M, D), logvar))
    truth = float(kl_nats(q.mu[:1], q.logvar[:1]).sum())
    held = 0
    for seed in range(20):
        low, high = aggregate_kl(q, seed, "one", n=100)["ci95"]
        held += low <= truth <= high
    assert held >= 16  # binomial(20, 0.95) falls below with odds of 1 to 400


def test_aggregate_kl_of_posteriors_that_never_overlap(perfect_model):
    """Then x is known from z, so KL(q(z)‖p) = E_x KL(q(z|x)‖p) - ln M."""
    q = posterior(perfect_model, "A")
    truth = float(kl_nats(q.mu, q.logvar).sum(1).double().mean()) - math.log(M)
    result = aggregate_kl(q, 1, "perfect", n=500)
    assert result["ci95"][0] <= truth <= result["ci95"][1]
    assert result["value"] == pytest.approx(truth, rel=0.02)


def test_hamming_correlation_of_a_code_that_keeps_the_distance_is_one():
    """Three numbers a trit, one of them 1: the squared distance is twice the Hamming distance."""
    codes = torch.nn.functional.one_hot(all_operations() + 1).flatten(1).float()
    result = hamming_correlation(codes, 1, "one-hot", pairs=2_000)
    assert result["value"] == pytest.approx(1)
    assert result["ci95"] == pytest.approx([1, 1])


def test_hamming_correlation_of_a_code_that_keeps_nothing_is_zero():
    result = hamming_correlation(normal(M, D), 1, "noise")
    low, high = result["ci95"]
    assert low < result["value"] < high
    assert abs(result["value"]) < 4 / 20_000**0.5
    assert high - low == pytest.approx(2 * 1.96 / 20_000**0.5, rel=0.01)


def test_hamming_correlation_of_a_constant_code_is_zero():
    result = hamming_correlation(torch.ones(M, D), 1, "constant")
    assert result == {"value": 0.0, "ci95": [0.0, 0.0]}


def test_plane_shows_the_two_widest_axes_and_the_trit_the_first_sorts_by():
    """Planted: trit 4 on a wide axis, noise on a narrower one, little elsewhere; signs are free."""
    codes = normal(M, D) * 0.1
    codes[:, 5] += 9 * all_operations()[:, 4]
    codes[:, 11] *= 30
    found = plane(codes, seed=3, n=400)
    rows = torch.tensor(found["points"])
    pick = torch.randperm(M, generator=generator(3, "plane"))[:400]
    assert found["trit"] == 4 and rows.shape == (400, 3)
    centred = codes - codes.mean(0)
    for axis, column in ((0, 5), (1, 11)):
        torch.testing.assert_close(
            rows[:, axis].abs(), centred[pick, column].abs(), atol=0.2, rtol=0
        )
    assert torch.equal(rows[:, 2].long(), all_operations()[pick, 4])
