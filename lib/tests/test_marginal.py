import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from fluxttice_core.metrics import marginal as module
from fluxttice_core.metrics.coverage import ceiling
from fluxttice_core.errors import InputError
from fluxttice_core.metrics.marginal import (
    FEWEST,
    GROUPS,
    LIMIT_NATS,
    Marginal,
    argmax_entropy,
    coverage_at,
    expected_distinct,
    hardest,
    information,
    kl_uniform,
    marginal,
    min_p_times_m,
    noise_floor,
    rarefied,
    reach,
    shannon_nats,
    trit_distributions,
)
from fluxttice_core.model.network import D, read_out
from fluxttice_core.model.operations import C, M, T, all_operations, describe
from fluxttice_core.model.streams import generator
from scipy import stats

DIGITS = np.indices((C,) * T).reshape(T, M)[::-1]  # (T, M): trit t of operation i, least first


def uneven(seed, *shape):
    """Distributions over the last axis, (…, C), none of them near another."""
    return np.random.default_rng(seed).dirichlet(np.full(C, 0.7), size=shape)


def planted(p):
    """A decoder that gives every latent the distributions `p` (T, C)."""
    logits = torch.tensor(np.log(p), dtype=torch.float32)
    return lambda z: logits.repeat(len(z), 1, 1)


def product(p):
    """P(x) = Π_t p[t, x_t] for every operation: (M,)."""
    return np.prod([p[t][DIGITS[t]] for t in range(T)], axis=0)


def noisy(z):
    """A decoder without structure: every logit is a sine of the latents."""
    weight = torch.arange(1, 1 + D * T * C).view(D, T * C).double().sin()
    return 2 * (3 * z.double() @ weight).sin().view(-1, T, C).float()


def from_counts(counts, entropy=0.0):
    """The marginal of certain decoders (p(x|z) is 0 or 1): `counts` (GROUPS, M)."""
    counts = np.asarray(counts)
    return Marginal(counts.astype(float), counts, np.full(GROUPS, entropy), int(counts.sum()))


def drawn(p, k, seed=0):
    """Counts (GROUPS, M) of k draws from `p` (M,)."""
    return np.random.default_rng(seed).multinomial(k // GROUPS, p, size=GROUPS)


def same(a, b, rtol):
    np.testing.assert_allclose(a.probability, b.probability, rtol=rtol, atol=1e-9)
    np.testing.assert_array_equal(a.argmax, b.argmax)
    np.testing.assert_allclose(a.entropy, b.entropy, rtol=rtol)


# --- One pass through the decoder ---


def test_trit_distributions_are_torchs():
    logits = 4 * torch.randn(300, T, C, generator=generator(1, "test"))
    p, entropy, classes = trit_distributions(logits)
    theirs = logits.double().softmax(-1)
    torch.testing.assert_close(p.permute(2, 0, 1).double(), theirs, rtol=1e-5, atol=1e-7)
    nats = torch.special.entr(theirs).sum((1, 2))
    torch.testing.assert_close(entropy.double(), nats, rtol=1e-5, atol=1e-6)
    assert torch.equal(classes.T.long(), logits.argmax(-1))


@pytest.mark.parametrize("shift", [0.0, 500.0, -500.0])
def test_trit_distributions_do_not_overflow(shift):
    logits = torch.tensor([[0.0, 300.0, -300.0]]).expand(4, T, C) + shift
    p, entropy, _ = trit_distributions(logits)
    torch.testing.assert_close(p[:, :, 0], torch.tensor([0.0, 1.0, 0.0]).expand(T, C))
    assert entropy.tolist() == pytest.approx([0] * 4, abs=1e-20)


def test_a_class_that_is_ruled_out_has_no_entropy():
    logits = torch.tensor([[0.0, -math.inf, 0.0]]).expand(2, T, C)
    p, entropy, classes = trit_distributions(logits)
    assert p[:, :, 0].tolist() == [pytest.approx([0.5, 0.0, 0.5], abs=1e-20)] * T
    assert entropy.tolist() == pytest.approx([T * math.log(2)] * 2)
    assert not classes.any()


def test_the_decoders_output_is_left_alone():
    for logits in (torch.randn(T, C, 5).permute(2, 0, 1), torch.randn(1, T, C)):
        before = logits.clone()
        trit_distributions(logits)
        assert torch.equal(logits, before)


def test_of_equal_logits_the_first_is_the_argmax_as_in_decoding():
    """All 27 orders and ties of three values."""
    logits = torch.tensor(list(itertools.product([0.0, 1.0, 2.0], repeat=C)))
    logits = logits[:, None].expand(-1, T, C)
    classes = trit_distributions(logits)[2].T.long()
    firsts = [[row.index(max(row))] * T for row in logits[:, 0].tolist()]
    assert classes.tolist() == firsts
    assert torch.equal(classes, read_out(logits, "argmax"))


def test_the_marginal_is_the_product_of_the_trits_in_their_order():
    """Nine different distributions, so that no trit can stand in another's place."""
    p = uneven(1, T)
    m = marginal(planted(p), 40, seed=1)
    np.testing.assert_allclose(m.P, product(p), rtol=2e-5)
    np.testing.assert_array_equal(DIGITS.T - 1, all_operations().numpy())
    assert m.counts[int(product(p).argmax())] == m.k == 40
    assert m.entropy.sum() / m.k == pytest.approx(stats.entropy(p, axis=1).sum(), rel=1e-5)
    assert np.ptp(m.entropy) == 0


@pytest.mark.parametrize("index", [0, 1, 3**4, 3**5, 12_345, M - 1])
def test_a_certain_decoder_makes_its_operation(index):
    certain = 200 * np.eye(C)[DIGITS[:, index]]
    m = marginal(lambda z: torch.tensor(certain).float().expand(len(z), T, C), 100, seed=1)
    assert m.P[index] == 1 and m.P.sum() == 1
    assert m.counts[index] == 100 and m.counts.sum() == 100


def test_sums_are_those_of_every_latent_and_group():
    """The latents the decoder was given, taken one by one."""
    seen = []

    def decoder(z):
        seen.append(z)
        return noisy(z)

    m = marginal(decoder, 60, seed=3)
    groups = torch.cat(seen).double().view(GROUPS, 3, D)
    for group, sums in zip(groups, m.probability, strict=True):
        q = noisy(group.float()).double().softmax(-1).numpy()
        np.testing.assert_allclose(sums, sum(product(one) for one in q), rtol=1e-4)
    assert m.P.sum() == pytest.approx(1, abs=1e-5)
    assert m.argmax.sum(1).tolist() == [3] * GROUPS


def test_the_latents_are_the_prior_s():
    seen = []

    def decoder(z):
        seen.append(z)
        return noisy(z)

    marginal(decoder, 4_000, seed=1)
    z = torch.cat(seen)
    assert z.shape == (4_000, D)
    assert abs(float(z.mean())) < 4 / math.sqrt(z.numel())
    assert float(z.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * z.numel()))
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("chunk", [1, 7, 50, 99, 10**6])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, chunk):
    whole = marginal(noisy, 2_000, seed=5)
    monkeypatch.setattr(module, "CHUNK", chunk)
    same(marginal(noisy, 2_000, seed=5), whole, rtol=1e-5)


def test_no_more_than_a_chunk_of_latents_is_held(monkeypatch):
    sizes = []

    def decoder(z):
        sizes.append(len(z))
        return noisy(z)

    monkeypatch.setattr(module, "CHUNK", 30)
    marginal(decoder, 2_000, seed=1)
    assert max(sizes) <= 30 and sum(sizes) == 2_000


def test_seed_and_stream_decide_and_nothing_else_does():
    first = marginal(noisy, 200, seed=1, stream="A")
    torch.manual_seed(99)
    torch.rand(1)
    again = marginal(noisy, 200, seed=1, stream="A")
    same(first, again, rtol=0)
    assert information(first) == information(again)
    for other in (marginal(noisy, 200, 2, "A"), marginal(noisy, 200, 1, "B")):
        assert not np.array_equal(other.probability, first.probability)


def test_the_global_random_stream_is_left_alone():
    state = torch.get_rng_state()
    marginal(noisy, 20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_asks_for_gradients(untrained):
    asked = []

    def decoder(z):
        logits = untrained.decoder_B(z)
        asked.append(logits.requires_grad)
        return logits

    marginal(decoder, 20, seed=1)
    assert not any(asked)


@pytest.mark.parametrize("k", [-20, 0, 1, 19, 21, 30, 1_001])
def test_groups_must_be_of_one_size(k):
    with pytest.raises(InputError, match=f"k is {k}, but must be a positive multiple of 20"):
        marginal(noisy, k, seed=1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1)])
def test_logits_that_are_not_numbers_are_refused(rows, value):
    def decoder(z):
        logits = noisy(z)
        logits[rows] = value
        return logits

    with pytest.raises(InputError, match="logits that are not numbers"):
        marginal(decoder, 200, seed=1)


# --- Closed forms ---


def test_shannon_by_hand():
    ln = math.log
    assert shannon_nats(np.full(M, 1 / M)) == pytest.approx(9 * ln(3), rel=1e-12)
    assert shannon_nats(np.array([1.0, 0, 0])) == 0
    assert shannon_nats(np.array([0.5, 0, 0.5])) == pytest.approx(ln(2))
    assert shannon_nats(np.array([0.5, 0.25, 0.25])) == pytest.approx(1.5 * ln(2))
    assert shannon_nats(np.array([2 / 3, 1 / 3])) == pytest.approx(ln(3) - 2 / 3 * ln(2))
    assert pytest.approx(9 * ln(3), rel=1e-12) == LIMIT_NATS == pytest.approx(9.8875, abs=2e-5)


@pytest.mark.parametrize("n", [1, 2, 100, 50_000, 195_000, 10**7])
def test_expected_distinct_by_hand(n):
    uniform = np.full(M, 1 / M)
    assert expected_distinct(uniform, n) == pytest.approx(float(ceiling(n)), rel=1e-9)
    assert expected_distinct(np.array([1.0, 0, 0]), n) == pytest.approx(1)
    two = 2 - 0.99**n - 0.01**n
    assert expected_distinct(np.array([0.99, 0.01, 0]), n) == pytest.approx(two, rel=1e-9)
    levels = np.array([0.5, 0.25, 0.25])
    three = 3 - 0.5**n - 2 * 0.75**n
    assert expected_distinct(levels, n) == pytest.approx(three, rel=1e-9)


def test_a_probability_that_rounds_above_one_is_one():
    assert expected_distinct(np.array([1 + 1e-7, 0.0]), 5) == pytest.approx(1)


@pytest.mark.parametrize("n", range(0, 9))
def test_rarefaction_is_the_mean_over_all_subsamples(n):
    """Every subset of n of the 8 draws, counted with a set."""
    draws = [0, 0, 0, 0, 3, 3, 4, 7]
    subsets = list(itertools.combinations(draws, n))
    counts = np.bincount(draws, minlength=10)
    mean = np.mean([len(set(subset)) for subset in subsets])
    assert rarefied(counts, n) == pytest.approx(mean, abs=1e-9)
    held = [np.mean([x in subset for subset in subsets]) for x in range(10)]
    np.testing.assert_allclose(reach(counts, n), held, atol=1e-9)


def test_rarefaction_by_integers():
    """C(K - c, n) / C(K, n) with Python's whole numbers, for counts as large as those in use."""
    counts = drawn(product(uneven(2, T)), 200_000).sum(0)
    for n in (1, 2, 1_000, 190_000, 200_000):
        miss = {}
        for c in np.unique(counts).tolist()[:40]:
            whole = math.lgamma(1)
            for j in range(c):  # Π_j (K - n - j) / (K - j), in logarithms
                left = 200_000 - n - j
                whole = whole + math.log(left / (200_000 - j)) if left > 0 else -math.inf
            miss[c] = math.exp(whole)
        got = reach(counts, n)
        for c, chance in miss.items():
            assert got[counts == c] == pytest.approx(1 - chance, abs=1e-6)


def test_rarefaction_is_unbiased():
    """Mean over 400 samples of 300 draws, beside the truth of 200 fresh draws."""
    p = np.array([0.3, 0.2, *[0.5 / 500] * 500])
    rng = np.random.default_rng(1)
    values = [rarefied(rng.multinomial(300, p), 200) for _ in range(400)]
    truth = expected_distinct(p, 200)
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / 20
    plug_in = expected_distinct(rng.multinomial(300, p) / 300, 200)
    assert plug_in < truth - 10  # what rarefaction is for


@pytest.mark.parametrize("n", [1, 10, 195_000])
def test_rarefaction_keeps_its_digits(n):
    """M operations that are seen about ten times each: no rounding adds up over them."""
    counts = drawn(np.full(M, 1 / M), 205_280).sum(0)
    miss = {}
    for c in np.unique(counts).tolist():
        chances = [1 - Fraction(n, 205_280 - j) for j in range(c)]
        miss[c] = float(math.prod(chances, start=Fraction(1)))
    truth = math.fsum(1 - miss[c] for c in counts.tolist())
    assert rarefied(counts, n) == pytest.approx(truth, rel=1e-11)


def test_more_draws_than_were_counted_cannot_be_rarefied():
    counts = np.array([0, 3, 2])
    assert reach(counts, 5).tolist() == [0, 1, 1]
    with pytest.raises(InputError, match="n is 6, but must be at most the 5 draws"):
        reach(counts, 6)


# --- The jackknife ---


def by_pseudo_values(function, groups):
    """Tukey's form: mean and t interval of G·f(all) - (G-1)·f(all but one)."""
    whole = function(np.concatenate(groups))
    rest = [function(np.concatenate(groups[:i] + groups[i + 1 :])) for i in range(GROUPS)]
    pseudo = np.array([GROUPS * whole - (GROUPS - 1) * other for other in rest])
    half = stats.t.ppf(0.975, GROUPS - 1) * stats.sem(pseudo)
    return [pseudo.mean(), pseudo.mean() - half, pseudo.mean() + half]


@pytest.mark.parametrize("n", [5, 200])
def test_intervals_are_tukeys(n):
    """Draws of nine operations, the functions written over the draws themselves."""
    p = np.array([0.3, 0.3, 0.1, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01])
    draws = np.random.default_rng(4).choice(9, p=p, size=(GROUPS, 50))
    counts = np.stack([np.bincount(row, minlength=M) for row in draws])
    m = from_counts(counts, entropy=50 * 0.2)

    def entropy(x):
        return stats.entropy(np.bincount(x))

    def plug_in(x):
        return sum(1 - (1 - c / len(x)) ** n for c in np.bincount(x))

    def subsampled(x):
        k = len(x)
        return sum(1 - math.comb(k - c, n) / math.comb(k, n) for c in np.bincount(x).tolist())

    groups = list(draws)
    for estimate, function in (
        (information(m), lambda x: entropy(x) - 0.2),
        (argmax_entropy(m), entropy),
        (coverage_at(m, n, "argmax"), subsampled),
    ):
        theirs = by_pseudo_values(function, groups)
        theirs = [min(v, float(ceiling(n))) for v in theirs] if "n" in estimate else theirs
        assert [estimate["value"], *estimate["ci95"]] == pytest.approx(theirs, abs=1e-6)
    value, low, high = by_pseudo_values(entropy, groups)
    kl = kl_uniform(m)
    whole = math.log(M)
    assert [kl["value"], *kl["ci95"]] == pytest.approx([whole - value, whole - high, whole - low])
    categorical, theirs = coverage_at(m, n, "categorical"), by_pseudo_values(plug_in, groups)
    assert categorical["value"] == pytest.approx(min(theirs[0], float(ceiling(n))), abs=1e-6)


def test_groups_that_agree_leave_no_doubt():
    m = marginal(planted(uneven(3, T)), 200, seed=1)
    for estimate in (information(m), kl_uniform(m), coverage_at(m, 500, "categorical")):
        low, high = estimate["ci95"]
        assert high - low == pytest.approx(0, abs=1e-6 * max(1, high))


def test_the_bias_of_order_one_over_k_is_taken_out():
    """The plug-in of the entropy of 243 equal cells is too low by 242/2k; 200 samples of 4,860."""
    p, k = np.where(np.arange(M) < 243, 1 / 243, 0), 4_860
    samples = [from_counts(drawn(p, k, seed)) for seed in range(200)]
    plug_in = np.mean([shannon_nats(m.counts / k) for m in samples]) - math.log(243)
    corrected = np.mean([argmax_entropy(m)["value"] for m in samples]) - math.log(243)
    assert plug_in == pytest.approx(-242 / (2 * k), rel=0.06)
    assert abs(corrected) < 0.06 * 242 / (2 * k)


def test_values_and_intervals_stay_where_the_truth_can_be():
    """A uniform sample overshoots about every second time; no estimate leaves its range."""
    for seed in range(5):
        m = from_counts(drawn(np.full(M, 1 / M), FEWEST, seed))
        for estimate, top in (
            (information(m), LIMIT_NATS),
            (argmax_entropy(m), LIMIT_NATS),
            (kl_uniform(m), LIMIT_NATS),
            (coverage_at(m, 195_000, "argmax"), float(ceiling(195_000))),
            (coverage_at(m, 195_000, "categorical"), float(ceiling(195_000))),
        ):
            low, high = estimate["ci95"]
            assert 0 <= low <= estimate["value"] <= high <= top


def test_shares_are_of_the_limit_of_m_and_of_the_ceiling():
    m = from_counts(drawn(np.where(np.arange(M) < 729, 1 / 729, 0), 20_000))
    assert information(m)["share"] == pytest.approx(6 / 9, abs=0.001)
    assert argmax_entropy(m)["share"] == pytest.approx(6 / 9, abs=0.001)
    for how in ("argmax", "categorical"):
        row = coverage_at(m, 10_000, how)
        assert (row["n"], row["decode"]) == (10_000, how)
        assert row["share"] == pytest.approx(729 / M, rel=0.001)
        assert row["of_ceiling"] == pytest.approx(729 / (M * (1 - (1 - 1 / M) ** 10_000)), rel=1e-3)


@pytest.mark.parametrize("n, fine", [(500, True), (501, False), (1_000, False)])
def test_argmax_coverage_needs_twice_as_many_latents_as_draws(n, fine):
    m = marginal(noisy, 1_000, seed=1)
    if fine:
        assert 0 < coverage_at(m, n, "argmax")["value"] <= n
    else:
        with pytest.raises(InputError, match=f"n is {n}, but argmax coverage from 1000 latents"):
            coverage_at(m, n, "argmax")
    assert coverage_at(m, n, "categorical")["value"] > 0


# --- Names ---


def test_hardest_are_the_smallest_with_their_names_and_intervals():
    """Group by group, for three operations of known counts."""
    counts = np.full((GROUPS, M), 3)
    counts[:, 5_000] = 0
    counts[:, 77] = [1, 1, 2, 2] * 5
    counts[:, 19_000] = 2
    m = from_counts(counts)
    for how in ("argmax", "categorical"):
        rows = hardest(m, how, count=3)
        assert [row["index"] for row in rows] == [5_000, 77, 19_000]
        assert [row["name"] for row in rows] == [describe(i) for i in (5_000, 77, 19_000)]
        scale = M / (m.k / GROUPS)
        assert [row["p_times_m"] for row in rows] == pytest.approx([0, 1.5 * scale, 2 * scale])
        half = 2.262157 * math.sqrt(10 / 9 * 0.25 / 10) * scale
        wide = [1.5 * scale - half, 1.5 * scale + half]
        assert rows[1]["ci95"] == pytest.approx(wide, rel=1e-5)
        assert rows[0]["ci95"] == [0, 0]
        assert rows[2]["ci95"] == pytest.approx([2 * scale] * 2)
    assert len(hardest(m, "argmax")) == 10


def test_the_hardest_of_a_perfect_generator_are_not_hard():
    """What half of the latents chose, the other half measures without bias: 1, 20 seeds."""
    found = [row for seed in range(20) for row in hardest(from_counts(uniform(seed)), "argmax")]
    values = [row["p_times_m"] for row in found]
    assert abs(np.mean(values) - 1) < 4 * np.std(values) / len(found) ** 0.5
    held = np.mean([row["ci95"][0] <= 1 <= row["ci95"][1] for row in found])
    assert held > 0.95 - 4 * (0.05 * 0.95 / len(found)) ** 0.5
    assert max(min_p_times_m(from_counts(uniform(seed)), "argmax") for seed in range(5)) < 0.7


def uniform(seed):
    return drawn(np.full(M, 1 / M), 1_000_000, seed)


def test_the_least_of_all_is_over_all_groups():
    counts = np.full((GROUPS, M), 4)
    counts[0, 9] = 0
    m = from_counts(counts)
    assert min_p_times_m(m, "argmax") == pytest.approx(3.8 / (m.k / GROUPS) * M)
    assert min_p_times_m(m, "categorical") == min_p_times_m(m, "argmax")


def test_the_noise_floor_is_that_of_poisson_counts():
    """min P·M of k uniform draws: P(min ≥ c) ≈ P(Poisson(k/M) ≥ c)^M; twenty draws."""
    for k in (200_000, 5_000_000):
        c = np.arange(10 * k // M)
        below = 1 - stats.poisson.sf(c - 1, k / M) ** M  # P(min < c)
        smallest, largest = c[below < 1e-4].max(), c[below > 1 - 1e-4].min()
        low, high = (end * k / M for end in noise_floor(k, 1))
        assert smallest <= low < high <= largest
    assert noise_floor(10_000, 1) == [0, 0]
    assert noise_floor(10**6, 1) == noise_floor(10**6, 1) != noise_floor(10**6, 2)
