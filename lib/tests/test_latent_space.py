"""What latents say of trits and what codes cost, beside numpy, scipy, torch and quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from planted import DIGITS, LN3, SEEDS, TERCILE, ends, held
from scipy import integrate, stats
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import cross_entropy

from fluxttice_core.metrics import controls, rate
from fluxttice_core.metrics.latent_space import (
    active_units,
    entropy_nats,
    kl_nats,
    mi_disentanglement,
    mig,
    mutual_information_matrix,
)
from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.metrics.rate import axis_aligned_cells, least_rate
from fluxttice_core.metrics.reconstruction import posterior, samples
from fluxttice_core.metrics.results import Measured, exact_value, proportion
from fluxttice_core.model.network import D, Posterior
from fluxttice_core.model.operations import C, M, T, all_operations
from fluxttice_core.model.streams import generator

OPS = all_operations().float()
THREE = OPS @ torch.kron(torch.eye(3), torch.tensor([[1.0], [3.0], [9.0]]))  # three trits a latent


def code(*columns, sigma=0.1):
    """The posterior of these means (M, ·) and of latents that are the prior."""
    mu = torch.cat(columns, 1)
    unused = torch.zeros(M, D - mu.shape[1])
    logvar = torch.full_like(mu, 2 * math.log(sigma))
    return Posterior(torch.cat([mu, unused], 1), torch.cat([logvar, unused], 1))


def rotation(n):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1)))[0]


PLANTED = {  # codes, MIG, disentanglement by the matrix
    "a latent a trit": (code(OPS), 1, 1),
    "other scales, signs and places": (code(1e3 - OPS.flip(1) * 7), 1, 1),
    "seven trits twice": (code(OPS, OPS[:, :7]), 2 / 9, 1),
    "three trits a latent": (code(THREE), 1, 0.5),
    "three trits a latent, without noise": (code(THREE, sigma=1e-12), 1, 0.5),
    "nothing, at one point": (code(torch.full((M, D), 7.0), sigma=1e-30), 0, 0),
    "nothing, far from 0": (code(torch.full((M, D), 1e6)), 0, 0),
    "hardly anything": (code(OPS / 1e3), 0, 1),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_codes(name):
    q, gap, by_rows = PLANTED[name]
    information = mutual_information_matrix(q)
    assert information.shape == (D, T)
    assert mig(information).value == pytest.approx(gap, abs=1e-4)
    assert mi_disentanglement(information).value == pytest.approx(by_rows, abs=1e-4)


def test_what_is_finer_than_the_nodes_is_lowered_and_the_rest_is_not():
    """All nine trits in one latent: the last of 3^9 steps are closer together than the nodes."""
    one = THREE @ torch.tensor([[1.0], [27.0], [729.0]])
    found = mutual_information_matrix(code(one))[0]
    assert found[7:].tolist() == pytest.approx([LN3] * 2, abs=0.02)
    assert found[0] < 0.01 and (found <= LN3).all()


def test_a_rotation_lowers_both():
    information = mutual_information_matrix(code(OPS @ rotation(T)))
    assert mig(information).value < 0.3 and mi_disentanglement(information).value < 0.5


@pytest.mark.parametrize("noise", [0.03, 0.3, 1.0])
def test_the_matrix_by_scipys_quadrature(noise):
    """H(z) - E_v H(z | trit = v) of one latent, a random projection whose noise depends on a
    trit; each entropy integrated by itself."""
    mu = (OPS @ rotation(T)[:, 0]).double().numpy()
    sigma = noise * (1 + 0.5 * OPS[:, 3].double().numpy())
    q = Posterior(*(torch.tensor(x)[:, None].float() for x in (mu, 2 * np.log(sigma))))

    def entropy(rows):
        def term(z):
            p = np.mean(np.exp(-0.5 * ((z - mu[rows]) / sigma[rows]) ** 2) / sigma[rows])
            return (
                -p * math.log(p / math.sqrt(2 * math.pi)) / math.sqrt(2 * math.pi)
                if p > 1e-300
                else 0.0
            )

        low, high = (mu - 8 * sigma).min(), (mu + 8 * sigma).max()
        grid = np.linspace(low, high, 12)
        return sum(
            integrate.quad(term, a, b, epsabs=1e-7, limit=200)[0]
            for a, b in itertools.pairwise(grid)
        )

    found = mutual_information_matrix(q)[0]
    for trit in (0, 3):
        parts = [entropy(DIGITS[trit] == value) for value in range(3)]
        truth = entropy(slice(None)) - np.mean(parts)
        assert float(found[trit]) == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("apart", [1.0, 3.0, 5.0, 6.0, 9.0])
def test_three_equal_gaussians(apart):
    """Where neighbours are 5 or 6 deviations apart, the nodes have the hardest work."""

    def term(z):
        p = stats.norm.pdf(z, [-apart, 0, apart]) / 3
        return float(np.sum(p * np.log(p / p.sum() / (1 / 3)))) if p.all() else 0.0

    cuts = np.linspace(-apart - 9, apart + 9, 20)
    truth = sum(integrate.quad(term, a, b)[0] for a, b in itertools.pairwise(cuts))
    found = mutual_information_matrix(code(OPS[:, :1] * apart, sigma=1.0))[0]
    assert found.tolist() == pytest.approx([truth, *[0] * (T - 1)], abs=1e-5)
    assert 0 < truth < LN3


# --- Used units, and what codes cost ---


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "test"))


def test_entropy_is_the_mean_of_numpys_histograms():
    """Among the codes each end, at which numpy closes the last bin, and what lies outside."""
    codes = torch.cat([normal(4_000, 5), torch.tensor([[-3.0] * 5, [3.0] * 5, [2.999] * 5] * 300)])
    codes *= torch.tensor([0.1, 0.5, 1.0, 2.0, 9.0])
    codes[:, 4] = 7
    counts = [np.histogram(x, bins=50, range=(-3, 3))[0] for x in codes.double().numpy().T]
    truth = [stats.entropy(c) if c.any() else 0 for c in counts]
    assert entropy_nats(codes) == pytest.approx(np.mean(truth))


def test_active_units_are_those_of_variances_above_the_threshold():
    """±0.11 has variance 0.0121, ±0.09 has 0.0081; a mean far from 0 changes nothing."""
    signs = torch.tensor([-1.0, 1.0]).repeat(500)[:, None]
    spread = torch.where(torch.arange(D) < 9, 0.11, 0.09)
    assert active_units(1e3 + signs * spread).tolist() == [True] * 9 + [False] * (D - 9)


def test_kl_is_torchs():
    mu, logvar = 3 * normal(200, D, seed=1).double(), 2 * normal(200, D, seed=2).double()
    theirs = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    np.testing.assert_allclose(kl_nats(mu, logvar), theirs, rtol=1e-9)


# --- What codes cost ---


def test_information_is_the_mean_of_its_own_logarithms(certified):
    """R = I_q + KL(q(z) ‖ p), with I_q from ln q(z|x) - ln q(z); R is the mean of its terms."""
    for model in (certified, controls.random_linear(1_000), oracle()):
        q, rng = posterior(model, "A"), generator(1, "z")
        r = rate.rate(q)
        i = rate.encoder_information(r, rate.aggregate_kl(q, generator(1, "KL")))
        each = Independent(Normal(q.mu.double(), (q.logvar.double() / 2).exp()), 1)
        pick = torch.randint(M, (50,), generator=rng)
        z = q.mu[pick] + (q.logvar[pick] / 2).exp() * torch.randn(50, D, generator=rng)
        logs = each.log_prob(z.double()[:, None])  # (50, M)
        direct = logs[torch.arange(50), pick] - logs.logsumexp(1) + math.log(M)
        assert i.low - 0.01 <= float(direct.mean()) <= i.high + 1e-6
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
    r = rate.rate(q)
    draws = [rate.aggregate_kl(q, generator(seed, "KL"), 30_000) for seed in range(SEEDS)]
    assert held(draws, r.value - truth)
    assert held([rate.encoder_information(r, kl) for kl in draws], truth)


def test_distortion_is_torchs_cross_entropy(untrained):
    """Of codes without noise."""
    q = posterior(untrained, "A")
    found = rate.distortion(
        samples(untrained, "A", q._replace(logvar=q.logvar - 200), generator(1, "z"))
    )
    logits = untrained.decoder_A(q.mu).detach().double().view(-1, C)
    truth = T * cross_entropy(logits, OPS.flatten().long() + 1)
    assert found.value == pytest.approx(float(truth), abs=1e-5)


def test_elbo_by_hand():
    """A sign exchanges the interval's ends."""
    d = Measured(value=3, low=1, high=5, n=5, method="m")
    assert ends(rate.elbo(exact_value(2.0, M), d)) == [-5, -7, -3]


@pytest.mark.parametrize(
    "match, nats", [(0.99, 14.386199), (0.999, 15.960388), (0.9999, 17.140253)]
)
def test_least_rate_is_the_table_of_section_9(match, nats):
    """To six digits, by scipy's minimiser over errors and width without the closed form."""
    assert least_rate(match) == pytest.approx(nats, abs=2e-6)
    cells = axis_aligned_cells(match)
    inside = stats.norm.cdf(TERCILE, 0, cells.middle) * 2 - 1
    outside = stats.norm.sf(TERCILE, cells.mean, cells.outer)
    assert ((inside + 2 * outside) / 3) ** 9 == pytest.approx(match, rel=1e-9)


def test_least_rate_at_its_ends():
    assert least_rate(0.0) == least_rate(1 / M) == 0 and least_rate(1.0) == math.inf
    all_of = proportion([True] * 20)
    assert ends(rate.least_rate_of(all_of)) == [least_rate(all_of.low)] * 3
    rates = [least_rate(a) for a in (1.001 / M, 1e-3, 0.1, 0.5, 0.9, 0.99, 1 - 1e-6, 1 - 1e-9)]
    assert rates == sorted(rates) and 0 < rates[0] < 0.01


def test_least_rate_is_the_least_of_its_family_from_0_896_on():
    """A share s that is encoded, at a match of a/s, and the rest given up costs s·L(a/s): less than
    L(a) below the a of the least L(a)/a."""
    grid = np.arange(0.85, 0.95, 1e-4)
    assert grid[np.argmin([least_rate(a) / a for a in grid])] == pytest.approx(0.896, abs=5e-4)
