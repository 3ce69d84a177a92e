"""What is encoded: what codes say and cost, which operations come back, what is tied to its code.

Beside numpy, scipy, torch, quadrature, loops and closed forms.
"""

import math

import numpy as np
import pytest
import torch
from planted import DIGITS, SEEDS, TERCILE, ends, held, no_number, sentence
from scipy import integrate, stats
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import cross_entropy

from fluxttice_core.metrics import controls, rate, reconstruction
from fluxttice_core.metrics.latent_space import active_units, entropy_nats, kl_nats
from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.metrics.rate import axis_aligned_cells, least_rate
from fluxttice_core.metrics.reconstruction import (
    correct_trits,
    posterior,
    robustness,
    samples,
    subgroups,
)  # fmt: skip
from fluxttice_core.metrics.results import Measured, exact_value, proportion
from fluxttice_core.model.network import D, Posterior
from fluxttice_core.model.operations import C, M, T, all_operations, split
from fluxttice_core.model.streams import generator

OPS, PARTS = all_operations(), split(42)
UNSEEN = torch.cat([PARTS.val, PARTS.test])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "test"))


def codes(seed):
    """Random projections, bent a little so that they are not linear in the trits."""
    z = OPS.float() @ normal(T, D, seed=seed)
    return z + 0.3 * z.sin()


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
    truth = T * cross_entropy(logits, OPS.flatten() + 1)
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
    inside = stats.norm.cdf(rate.TERCILE, 0, cells.middle) * 2 - 1
    outside = stats.norm.sf(rate.TERCILE, cells.mean, cells.outer)
    assert ((inside + 2 * outside) / 3) ** 9 == pytest.approx(match, rel=1e-9)


def test_least_rate_at_its_ends():
    assert least_rate(0.0) == least_rate(1 / M) == 0 and least_rate(1.0) == math.inf
    all_of = proportion([True] * 20)
    assert ends(rate.least_rate_of(all_of)) == [least_rate(all_of.low)] * 3
    rates = [least_rate(a) for a in (1.001 / M, 1e-3, 0.1, 0.5, 0.9, 0.99, 1 - 1e-6, 1 - 1e-9)]
    assert rates == sorted(rates) and 0 < rates[0] < 0.01


# --- Reconstruction ---


@pytest.mark.parametrize("vae, other", ["AB", "BA"])
def test_a_vae_reconstructs_without_the_other(perfect_model, vae, other):
    """v5.5 mixed the other encoder's code in while evaluating; whatever that one does, here."""
    no_number(perfect_model.encoder(other), perfect_model.decoder(other))
    assert correct_trits(perfect_model, vae, posterior(perfect_model, vae).mu).all()
    refused = sentence(posterior, perfect_model, other)
    assert f"encoder {other} gives codes that are not finite" in refused


def test_exact_match_falls_as_the_normal_distribution_says(perfect_model, monkeypatch):
    """Twenty seeds of M trials at each scale, and of two samples, pooled: the mean within 4
    deviations. A code is at -1, 0 or 1 of nine latents, and no trit may cross its cut: nine normal
    chances. The samples of a part are those of the whole."""
    assert reconstruction.DRAWS == 20
    monkeypatch.setattr(reconstruction, "DRAWS", 2)
    monkeypatch.setattr(reconstruction, "SCALES", (0.0, 0.5, 1.0, 1.5))
    mu = torch.cat([OPS, torch.zeros(M, D - T)], 1)
    q, found, hits = Posterior(mu, torch.full_like(mu, 2 * math.log(0.4))), [], []
    for seed in range(SEEDS):
        rows = robustness(perfect_model, "A", q, seed)
        hits.append(samples(perfect_model, "A", q, generator(seed, "z")).exact_matches)
        found.append([row.value for row in rows.values()] + hits[-1].double().mean(1).tolist())
    zeros = (DIGITS == 1).sum(0)  # (M,): trits that are 0
    scales = [0, 0.5, 1, 1.5, 1, 1]
    assert list(rows) == [f"exact_match_at_sigma_{scale:.1f}" for scale in scales[:4]]
    assert not torch.equal(*hits[0])
    for scale, values in zip(scales, np.transpose(found), strict=True):
        sigma = max(0.4 * scale, 1e-9)
        middle = 1 - 2 * stats.norm.cdf(-TERCILE / sigma)
        truth = middle**zeros * stats.norm.cdf((1 - TERCILE) / sigma) ** (T - zeros)
        deviation = (truth * (1 - truth)).sum() ** 0.5 / M
        assert abs(values.mean() - truth.mean()) < 4 * deviation / SEEDS**0.5 + 1e-9
        assert values.std() < 2 * deviation + 1e-9
    part = samples(perfect_model, "A", q, generator(0, "z"), PARTS.test).exact_matches
    assert torch.equal(part, hits[0][:, PARTS.test])


# --- Subgroups: matches whose shares are known ---


def matches_at(index):
    """(M,) bool: true at `index` and nowhere else."""
    return torch.zeros(M, dtype=torch.bool).index_fill(0, torch.as_tensor(index), True)


def test_subgroups_hold_unseen_operations_alone():
    for index, value in ((PARTS.train, 0), (UNSEEN, 1)):
        assert {row.value for row in subgroups(matches_at(index), PARTS).values()} == {value}
    found = subgroups(matches_at(PARTS.val), PARTS)
    unseen, test = (found[f"exact_match_on_{name}"] for name in ("unseen", "test"))
    assert (len(found), unseen.n, test.n) == (4, 3_937, 1_969)
    assert (test.value, unseen.value) == (0, 1_968 / 3_937)


def test_sparse_and_dense_are_counted_one_by_one():
    found = subgroups(matches_at(UNSEEN[::3]), PARTS)
    hit, tables = set(UNSEEN[::3].tolist()), OPS.tolist()
    for name, zeros in (("sparse", range(6, T + 1)), ("dense", [0])):
        members = {i for i in UNSEEN.tolist() if tables[i].count(0) in zeros}
        value = len(members & hit) / len(members)
        row = found[f"exact_match_on_{name}"]
        assert (row.n, ends(row)) == (len(members), pytest.approx([value] * 3))
