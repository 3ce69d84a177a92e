"""What is encoded: what codes say and cost, which operations come back, what is tied to its code.

Beside numpy, scipy, torch, quadrature, loops and closed forms.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from fluxttice_core.metrics.controls import oracle
from fluxttice_core.metrics.disentanglement import dci_disentanglement, mig
from fluxttice_core.metrics.generalisation import FLIPS, compositions, kinds, worst_kind
from planted import DIGITS, SEEDS, TERCILE, ends, held, no_number, sentence
from scipy import integrate, stats
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import cross_entropy

from fluxttice_core.metrics import controls, rate, reconstruction
from fluxttice_core.metrics.latent_space import active, entropy_nats, kl_nats
from fluxttice_core.metrics.rate import least_rate, straight_cells
from fluxttice_core.metrics.reconstruction import posterior, right_trits, robustness, samples
from fluxttice_core.metrics.results import Measured, exact, share
from fluxttice_core.model.network import D, Posterior
from fluxttice_core.model.operations import C, M, T, all_operations, index_of, names, noisy, split
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
    assert active(1e3 + signs * spread).tolist() == [True] * 9 + [False] * (D - 9)


def test_kl_is_torchs():
    mu, logvar = 3 * normal(200, D, seed=1).double(), 2 * normal(200, D, seed=2).double()
    theirs = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    np.testing.assert_allclose(kl_nats(mu, logvar), theirs, rtol=1e-9)


# --- Disentanglement ---


def test_mig_by_numpys_histograms():
    """One latent and trit at a time; I from its definition."""
    mu, gaps = codes(1), []
    for trit in OPS.T.numpy():
        nats = []
        for latent in mu.double().T.numpy():
            joint = np.histogram2d(latent, trit, bins=(20, 3))[0] / M
            independent = np.outer(joint.sum(1), joint.sum(0))
            seen = joint > 0
            nats.append((joint[seen] * np.log(joint[seen] / independent[seen])).sum())
        first, second = sorted(nats)[:-3:-1]
        gaps.append((first - second) / math.log(3))
    assert mig(mu).value == pytest.approx(np.mean(gaps), abs=2e-4)  # edges, to float32


def test_dci_by_scipys_analysis_of_variance():
    """η² of one way: F = η²(M - 3) / ((1 - η²)·2)."""
    mu, r = codes(1), np.zeros((D, T))
    for j, latent in enumerate(mu.double().T.numpy()):
        for k, trit in enumerate(OPS.T.numpy()):
            f = stats.f_oneway(*(latent[trit == value] for value in (-1, 0, 1))).statistic
            r[j, k] = 2 * f / (2 * f + M - 3)
    truth = np.average([1 - stats.entropy(row, base=T) for row in r], weights=r.sum(1))
    assert dci_disentanglement(mu).value == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("measure", [mig, dci_disentanglement])
def test_what_is_constant_or_hardly_moves_counts_as_none(measure):
    for mu in (torch.full((M, D), 1e6), 0.01 * OPS):
        assert measure(mu).value == 0
    faint = 0.01 * OPS.float() @ torch.linalg.qr(normal(T, T))[0]
    found = measure(torch.cat([OPS, faint[:, :7]], 1))
    assert ends(found) == pytest.approx([1] * 3) and found.n == M


# --- What codes cost ---


def test_information_is_the_mean_of_its_own_logarithms(certified):
    """R = I_q + KL(q(z) ‖ p), with I_q from ln q(z|x) - ln q(z); R is the mean of its terms."""
    for model in (certified, controls.random_linear(1_000), oracle()):
        q, rng = posterior(model, "A"), generator(1, "z")
        r = rate.rate(q)
        i = rate.mutual_information(r, rate.aggregate_kl(q, generator(1, "KL")))
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
    assert held([rate.mutual_information(r, kl) for kl in draws], truth)


def test_distortion_is_torchs_cross_entropy(untrained):
    """Of codes without noise."""
    q = posterior(untrained, "A")
    found = rate.distortion(
        samples(untrained, "A", q._replace(logvar=q.logvar - 200), generator(1, "z"))
    )
    logits = untrained.decoder_A(q.mu).detach().double().view(-1, C)
    truth = T * cross_entropy(logits, OPS.flatten() + 1)
    assert found.value == pytest.approx(float(truth), abs=1e-5)


def test_elbo_and_gap_by_hand():
    """Ends are turned round by a sign, those of two intervals added up, and cut at 0."""
    d, nll = (Measured(value=x, low=x - 2, high=x + 2, n=5, method="m") for x in (3, 4))
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


# --- What comes back ---


@pytest.mark.parametrize("vae, other", ["AB", "BA"])
def test_a_vae_reconstructs_without_the_other(perfect_model, vae, other):
    """v5.5 mixed the other encoder's code in while evaluating; whatever that one does, here."""
    no_number(perfect_model.encoder(other), perfect_model.decoder(other))
    assert right_trits(perfect_model, vae, posterior(perfect_model, vae).mu).all()
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
        hits.append(samples(perfect_model, "A", q, generator(seed, "z")).hits)
        found.append([row.exact_match for row in rows] + hits[-1].double().mean(1).tolist())
    zeros = (DIGITS == 1).sum(0)  # (M,): trits that are 0
    scales = [row.scale for row in rows] + [1, 1]
    assert scales == [0, 0.5, 1, 1.5, 1, 1] and not torch.equal(*hits[0])
    for scale, values in zip(scales, np.transpose(found), strict=True):
        sigma = max(0.4 * scale, 1e-9)
        middle = 1 - 2 * stats.norm.cdf(-TERCILE / sigma)
        truth = middle**zeros * stats.norm.cdf((1 - TERCILE) / sigma) ** (T - zeros)
        deviation = (truth * (1 - truth)).sum() ** 0.5 / M
        assert abs(values.mean() - truth.mean()) < 4 * deviation / SEEDS**0.5 + 1e-9
        assert values.std() < 2 * deviation + 1e-9
    part = samples(perfect_model, "A", q, generator(0, "z"), PARTS.test).hits
    assert torch.equal(part, hits[0][:, PARTS.test])


# --- Kinds of new operations: hits whose shares are known ---


def hits_at(index):
    """A hit vector (M,) that is true at `index` and nowhere else."""
    return torch.zeros(M, dtype=torch.bool).index_fill(0, torch.as_tensor(index), True)


def test_only_new_operations_count_and_the_worst_kind_is_named():
    for index, value in ((PARTS.train, 0), (UNSEEN, 1)):
        assert {row.value for row in kinds(hits_at(index), PARTS, 0).values()} == {value}
    found = kinds(hits_at(PARTS.val), PARTS, 0)
    assert len(found) == 9 and (found["unseen"].n, found["test"].n) == (3_937, 1_969)
    assert (found["test"].value, found["unseen"].value) == (0, 1_968 / 3_937)
    worst = worst_kind(found)
    assert ends(worst) == [0, 0, 0] and worst.method.endswith("; test") and worst.n == 1_969


def test_sparse_and_dense_are_counted_one_by_one():
    found = kinds(hits_at(UNSEEN[::3]), PARTS, seed=0)
    hit, tables = set(UNSEEN[::3].tolist()), OPS.tolist()
    for name, zeros in (("sparse", range(6, T + 1)), ("dense", [0])):
        members = {i for i in UNSEEN.tolist() if tables[i].count(0) in zeros}
        value = len(members & hit) / len(members)
        assert (found[name].n, ends(found[name])) == (len(members), [value] * 3)


def test_a_composition_counts_as_often_as_pairs_lead_to_it():
    """#{(f, g): f(g(x, y), y) = h(x, y)} with every g tried: f is free where g does not lead."""
    places = 3 * (OPS + 1) + torch.arange(T) % 3  # (M, T): the entry of f that g's entry reads
    free = T - torch.zeros_like(OPS).scatter(1, places, 1).sum(1)
    some = torch.randperm(M, generator=torch.Generator().manual_seed(1))[:20].tolist()
    for index in [*some, *names()]:
        h = OPS[index].expand(M, T)
        f = torch.zeros_like(OPS).scatter(1, places, h)
        possible = (f.gather(1, places) == h).all(1)
        assert int(compositions()[index]) == int((possible * 3**free).sum())
    assert int(compositions().sum()) == M**2
    row = kinds(hits_at(UNSEEN[:7]), PARTS, seed=0)["compositions"]
    assert row.n == M**2 - int(compositions()[PARTS.train].sum())
    assert row.value == int(compositions()[UNSEEN[:7]].sum()) / row.n
    assert row.method.endswith("; 3,937 operations")


RELABELLED = {
    "outputs_relabelled": lambda f, p: {k: p[v] for k, v in f.items()},
    "inputs_relabelled": lambda f, p: {(a, b): f[p[a], p[b]] for a, b in f},
}


@pytest.mark.parametrize("name", RELABELLED)
def test_relabelled_shares_are_counted_one_by_one(name):
    parts, hit = PARTS._replace(train=PARTS.train[:2_000]), UNSEEN[::5]
    inputs = list(itertools.product((-1, 0, 1), repeat=2))
    symbols = [dict(zip((-1, 0, 1), p, strict=True)) for p in itertools.permutations((-1, 0, 1))]
    tables = [dict(zip(inputs, table, strict=True)) for table in OPS[parts.train].tolist()]
    new = [[*RELABELLED[name](f, p).values()] for f in tables for p in symbols[1:]]
    new = index_of(torch.tensor(new))
    new = new[torch.isin(new, UNSEEN)]
    row = kinds(hits_at(hit), parts, seed=0)[name]
    assert row.n == len(new) and row.method.endswith(f"; {len(new.unique()):,} operations")
    assert row.value == float(torch.isin(new, hit).double().mean())


@pytest.mark.parametrize("flips", FLIPS)
def test_noise_leads_from_known_operations_to_new_ones(flips):
    changed = index_of(noisy(OPS[PARTS.train], flips, seed=0))
    changed = changed[torch.isin(changed, UNSEEN)]
    row = kinds(hits_at(changed[:9]), PARTS, seed=0)[f"noisy_{flips}"]
    assert row.n == len(changed)
    assert row.value == float(torch.isin(changed, changed[:9]).double().mean())


def test_the_seed_decides_what_is_drawn():
    first, again, other = (kinds(hits_at(UNSEEN[::2]), PARTS, seed) for seed in (0, 0, 1))
    assert first == again
    assert {kind for kind in first if first[kind] != other[kind]} == {"noisy_1", "noisy_2"}
