"""The likelihood and the rate, beside closed forms, quadrature and loops."""

import math

import numpy as np
import pytest
import torch
from planted import (
    PLANTED,
    SEEDS,
    assert_honest,
    ends,
    from_counts,
    held,
)
from scipy import integrate, stats

from fluxttice_core.metrics import controls, likelihood, rate
from fluxttice_core.metrics.adversaries import optimum
from fluxttice_core.metrics.codes import kl_nats
from fluxttice_core.metrics.marginal import GROUPS, LIMIT_NATS, Marginal
from fluxttice_core.metrics.rate import least_rate, straight_cells
from fluxttice_core.metrics.reconstruction import posterior, samples
from fluxttice_core.metrics.results import Measured, exact, share
from fluxttice_core.model.network import D, DualVAE, Posterior
from fluxttice_core.model.operations import M, T, all_operations
from fluxttice_core.model.streams import generator

# --- What is generated ---


@pytest.mark.parametrize("name", ["uneven", "noisy", "uniform"])
def test_estimates_are_honest(name):
    """Of the uneven one the plug-in is 0.01 off."""
    planted = PLANTED[name]
    p, ms = planted.p, [planted.marginal(seed, "planted") for seed in range(SEEDS)]
    nll = [likelihood.nll(m) for m in ms]
    above = [likelihood.kl_uniform_p(x) for x in nll]
    for rows, truth in (
        (above, -np.log(p).mean() - math.log(M)),
        ([likelihood.effective_support(m) for m in ms], math.exp(stats.entropy(p)) / M),
        ([likelihood.inverse_simpson(m) for m in ms], 1 / (M * (p @ p))),
    ):
        assert_honest(rows, truth, 1, widest=0.05)
    bits = likelihood.bits_per_trit(nll[0]).value
    assert nll[0].value == pytest.approx(above[0].value + LIMIT_NATS)
    assert nll[0].value == pytest.approx(bits * T * math.log(2))


def test_by_loops_over_operations_and_groups():
    """scipy's k-statistics of 27 operations, each there 729 times; no group and each left out."""
    y = np.random.default_rng(3).gamma(2.0, size=(GROUPS, 27))
    m = Marginal(np.tile(y, 729), np.ones((GROUPS, M), int), np.zeros(GROUPS), round(729 * y.sum()))

    def terms(groups, k):
        g, nll, entropy, pairs = len(groups), [], [], []
        for column in groups.T:
            total = column.sum()
            p, v = total / k, g * stats.kstat(column, 2) / total**2
            k3, v2 = g * stats.kstat(column, 3) / total**3, v * v * (g - 1) / (g + 1)
            nll.append(-math.log(p) - v / 2 - 2 * k3 / 3 + 0.75 * v2)
            entropy.append(729 * p * (-math.log(p) + v / 2 + k3 / 3 - v2 / 4))
            agree = sum(a * b for i, a in enumerate(column) for j, b in enumerate(column) if i != j)
            pairs.append(729 * agree * g / (g - 1) / k**2)
        return np.array([np.mean(nll), np.sum(entropy), 1 / (M * np.sum(pairs))])

    whole = terms(y, m.k)
    rest = [terms(np.delete(y, i, 0), m.k * 19 / 20) for i in range(GROUPS)]
    half = stats.t.ppf(0.975, 19) * np.std(rest, axis=0) * 19**0.5 + likelihood.ROUNDING
    nll, nats, simpson = (whole + np.outer((0, -1, 1), half)).T
    truth = np.maximum(nll, math.log(M)), np.minimum(np.exp(nats) / M, 1), np.minimum(simpson, 1)
    estimates = likelihood.nll(m), likelihood.effective_support(m), likelihood.inverse_simpson(m)
    np.testing.assert_allclose([ends(x) for x in estimates], truth, rtol=1e-6)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_an_operation_that_is_never_or_hardly_generated_is_refused(left):
    """None at all, one, or three latents of one group: no finite number, and how many there are."""
    counts = np.full((GROUPS, M), 3)
    counts[:, [7, 99]] = 0
    counts[4, [7, 99]] = left
    m = from_counts(counts)
    nll = likelihood.nll(m)
    why = "not told: P(x) of 2 operations cannot be told from 0"
    refused = Measured(value=None, low=None, high=None, n=m.k, method=why)
    assert nll == likelihood.kl_uniform_p(nll) == likelihood.bits_per_trit(nll) == refused
    assert rate.posterior_gap(exact(-20.0, M), nll) == refused
    assert likelihood.effective_support(m).value == pytest.approx((M - 2) / M, abs=1e-3)


@pytest.mark.parametrize("p, told", [(1e-13, False), (1e-11, True)])
def test_below_what_the_marginal_drops_nothing_is_said(p, told):
    """1e-13 is a hundredfold of what one latent may lose."""
    m = from_counts(np.ones((GROUPS, M), int))
    m.probability[:, 3] = p * M
    assert (likelihood.nll(m).value is not None) == told


# --- What codes cost ---


@pytest.mark.parametrize("name", ["shipped", "random", "best"])
def test_the_rate_is_information_plus_aggregate_kl(name, certified):
    """R = I_q + KL(q(z) ‖ p), each from its own draws, and the mean of the closed form."""
    make = {"shipped": lambda: certified, "best": optimum}
    q = posterior(make.get(name, lambda: controls.random_linear(1_000))(), "A")
    r, i = rate.rate(q), rate.mutual_information(q, generator(1, name))
    kl = rate.aggregate_kl(q, generator(2, name))
    assert i.low + kl.low <= r.value <= i.high + kl.high
    assert ends(r) == pytest.approx([float(kl_nats(*q).sum(1).double().mean())] * 3)


@pytest.mark.parametrize("apart, scale", [(0.0, 1.0), (0.7, 1.0), (1.0, 0.4), (9.0, 1.0)])
def test_mutual_information_and_aggregate_kl_of_two_gaussians(apart, scale):
    """Half of the codes at -a and half at +a in one dimension: by quadrature; 20 seeds. What the
    rate has beside the information is the aggregate's."""
    mu = torch.zeros(20, 3)
    mu[:10, 1], mu[10:, 1] = apart, -apart
    q = Posterior(mu, torch.full_like(mu, 2 * math.log(scale)))

    def term(z):
        one, two = (stats.norm.logpdf(z, s * apart, scale) for s in (1, -1))
        return math.exp(one) * (one - np.logaddexp(one, two) + math.log(2))

    truth = integrate.quad(term, apart - 9 * scale, apart + 9 * scale)[0]
    draws = [rate.mutual_information(q, generator(seed, "MI"), 30_000) for seed in range(SEEDS)]
    assert held(draws, truth)
    draws = [rate.aggregate_kl(q, generator(seed, "KL"), 30_000) for seed in range(SEEDS)]
    assert held(draws, rate.rate(q).value - truth)


def test_distortion_by_loops():
    """Codes without noise: -Σ ln p of the trits, operation by operation."""
    model = DualVAE.fresh(3)
    q = posterior(model, "A")
    still = Posterior(q.mu, torch.full_like(q.mu, -200.0))
    with torch.no_grad():
        p = model.decoder_A(q.mu).double().softmax(-1).numpy()
    classes = (all_operations() + 1).tolist()
    slow = [-sum(math.log(p[x, t, c]) for t, c in enumerate(row)) for x, row in enumerate(classes)]
    fast = rate.distortion(samples(model, "A", still, 1))
    assert fast.value == pytest.approx(np.mean(slow), abs=1e-5)


def test_elbo_and_gap_by_hand():
    """Ends are turned round by a sign, those of two intervals added up, and cut at 0."""
    d, nll = (
        Measured(value=value, low=value - 2, high=value + 2, n=5, method="m") for value in (3, 4)
    )
    bound = rate.elbo(exact(2.0, M), d)
    assert ends(bound) == [-5, -7, -3] and ends(rate.posterior_gap(bound, nll)) == [1, 0, 5]


@pytest.mark.parametrize(
    "match, nats", [(0.99, 14.386199), (0.999, 15.960388), (0.9999, 17.140253)]
)
def test_least_rate_is_the_table_of_section_9(match, nats):
    """To six digits, by scipy's minimiser over errors and width without the closed form."""
    assert least_rate(match) == pytest.approx(nats, abs=2e-6)
    cells = straight_cells(match)
    inside = stats.norm.cdf(rate.TERCILE, 0, cells.middle) * 2 - 1
    outside = stats.norm.sf(rate.TERCILE, cells.mean, cells.outer)
    assert ((inside + 2 * outside) / 3) ** 9 == pytest.approx(match, rel=1e-9)


def test_least_rate_at_its_ends():
    assert least_rate(0.0) == least_rate(1 / M) == 0 and least_rate(1.0) == math.inf
    all_of = share([True] * 20)
    assert ends(rate.least_rate_of(all_of)) == [least_rate(all_of.low)] * 3
    rates = [least_rate(a) for a in (1.001 / M, 1e-3, 0.1, 0.5, 0.9, 0.99, 1 - 1e-6, 1 - 1e-9)]
    assert rates == sorted(rates) and 0 < rates[0] < 0.01


def test_prior_norm_share_is_999_of_1000_for_the_prior():
    q = Posterior(torch.zeros(M, D), torch.zeros(M, D))
    draws = [rate.prior_norm_share(q, generator(seed, "test")) for seed in range(SEEDS)]
    assert held(draws, 0.999)
