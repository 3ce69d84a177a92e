"""Planted truth: decoders and codes whose answer is known in closed form, over twenty seeds.

An estimate is honest when its 95 % interval holds the truth as often as that says, when it is
right on average, and when the interval is as wide as the estimate varies: neither narrower nor
so wide that it says nothing. `assert_honest` asks for all three.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from fluxttice_core.metrics import codes as latent
from fluxttice_core.metrics import marginal
from fluxttice_core.metrics import reconstruction
from fluxttice_core.metrics.coverage import coverage
from fluxttice_core.metrics.marginal import FEWEST
from fluxttice_core.metrics.measurement import curve, diversity
from fluxttice_core.model.network import VAES, D, Posterior
from fluxttice_core.model.operations import C, M, T, names, split
from fluxttice_core.model.streams import generator
from scipy import stats

SEEDS = 20
MISSES = int(stats.binom.ppf(0.999, SEEDS, 0.05))  # more than these happen once in a thousand
TERCILE = 0.43072729929545744  # a third of N(0, 1) lies above it
DIGITS = np.indices((C,) * T).reshape(T, M)[::-1]  # (T, M): trit t of operation i, least first
LN2, LN3 = math.log(2), math.log(3)
GROUPS_T, TRIALS_T = stats.t.ppf(0.975, [19, 4])  # 20 groups of latents, 5 trials of sampling


def assert_honest(rows, truth, top, widest, quantile=GROUPS_T, unbiased=True):
    """`rows` of `{value, ci95}`, one a seed; `top` is where the range of the truth ends.

    `quantile` is of the interval's distribution: half-width = quantile · standard error. Where a
    bias is stated (`unbiased` false) only the intervals are held to the truth.
    """
    value, low, high = np.array([[row["value"], *row["ci95"]] for row in rows]).T
    rounding = 4e-6 * max(5, truth)  # of float32
    assert ((low <= value) & (value <= high)).all()
    assert (high - low).max() <= widest + rounding
    assert ((low > truth + rounding) | (high < truth - rounding)).sum() <= MISSES
    if truth > top - rounding or truth < rounding:  # estimates are cut at the truth
        assert abs(value - truth).max() <= (high - low).max() + rounding
        return
    spread = value.std(ddof=1)
    if spread < rounding:  # nothing is left to chance
        assert abs(value - truth).max() < 2 * rounding
        return
    assert not unbiased or abs(value.mean() - truth) < 4 * spread / SEEDS**0.5
    assert 0.6 < (high - value).mean() / quantile / spread < 2.5


# --- Planted decoders ---


@dataclass(frozen=True)
class Planted:
    """Latents fall into cells, and the cell has a distribution for every trit.

    `cell`: latents (B, D) → cells (B,), int64; `table`: (cells, T, C) probabilities; `p`, `q`:
    (M,), the marginals by categorical and by argmax decoding; then three numbers, in nats;
    `k`: as many latents as it takes to see every cell often.
    """

    cell: Callable[[torch.Tensor], torch.Tensor]
    table: np.ndarray
    p: np.ndarray
    q: np.ndarray
    information: float
    entropy: float
    argmax_entropy: float
    k: int

    def decoder(self):
        logits = torch.tensor(np.log(np.maximum(self.table, 1e-80)), dtype=torch.float32)
        return lambda z: logits[self.cell(z)]


def thirds(dims):
    """Base-3 number of the terciles that the first `dims` latents fall into: 3^dims cells."""

    def cell(z):
        classes = (z[:, :dims] > -TERCILE).long() + (z[:, :dims] > TERCILE).long()
        return (classes * C ** torch.arange(dims)).sum(1)

    return cell


def quantiles(*shares):
    """Cells of the last latent that have these shares of the prior."""
    ends = torch.tensor(stats.norm.ppf(np.cumsum(shares)[:-1]), dtype=torch.float32)
    return lambda z: torch.bucketize(z[:, -1].contiguous(), ends)


def everywhere(z):
    return torch.zeros(len(z), dtype=torch.long)


def soft(cells):
    """(cells, T, C): uniform trits."""
    return np.full((cells, T, C), 1 / C)


def certain(operations):
    """(cells, T, C): cell i makes operation `operations[i]`."""
    return np.eye(C)[DIGITS[:, operations].T]


def point(index):
    return (np.arange(M) == index).astype(float)


def uniform():
    return Planted(everywhere, soft(1), np.full(M, 1 / M), point(0), 0, 9 * LN3, 0, 400)


def constant(index=7_777):
    return Planted(everywhere, certain([index]), point(index), point(index), 0, 0, 0, 400)


def missing():
    """Two halves of the latents. One makes trit 0 = -1, the other 0 and then no +1 at trit 1:
    8,748 operations are out of reach, and one bit is known of the rest."""
    table = soft(2)
    table[0, 0], table[1, 0], table[1, 1] = [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]
    first, second = DIGITS[0] == 0, (DIGITS[0] == 1) & (DIGITS[1] < 2)
    p = first / 2 / C**8 + second / 2 / (2 * C**7)
    entropy = LN2 + (8 * LN3 + LN2 + 7 * LN3) / 2
    return Planted(
        quantiles(0.5, 0.5), table, p, (point(0) + point(1)) / 2, LN2, entropy, LN2, 2_000
    )


def skewed_softly():
    """Trit 0 is -1 half of the time, whatever the latent: a skew without information."""
    table = soft(1)
    table[0, 0] = [0.5, 0.25, 0.25]
    p = np.array([0.5, 0.25, 0.25])[DIGITS[0]] / C**8
    return Planted(everywhere, table, p, point(0), 0, 8 * LN3 + 1.5 * LN2, 0, 400)


def skewed():
    """The same skew, decided by the latent, and three more trits that are decided evenly."""
    table = soft(81)
    thirds_of, halves = thirds(3), quantiles(0.5, 0.25, 0.25)
    for i, digits in enumerate(itertools.product(range(C), repeat=4)):
        table[i, :4] = np.eye(C)[list(digits)]

    def cell(z):
        even = thirds_of(z)
        low, mid, high = even % C, even // C % C, even // C**2
        return halves(z) * C**3 + low * C**2 + mid * C + high

    p = np.array([0.5, 0.25, 0.25])[DIGITS[0]] / C**8
    q = p * C**5 * (DIGITS[4:] == 0).all(0)
    information = 1.5 * LN2 + 3 * LN3
    return Planted(cell, table, p, q, information, 8 * LN3 + 1.5 * LN2, information, 10_000)


def noisy():
    """Five trits follow the latent eight times in ten, the others are free: P is uniform."""
    table = soft(C**5)
    for t in range(5):
        table[:, t] = np.where(np.eye(C)[DIGITS[t, : C**5]] > 0, 0.8, 0.1)
    q = (DIGITS[5:] == 0).all(0) / C**5
    channel = LN3 + 0.8 * math.log(0.8) + 0.2 * math.log(0.1)
    return Planted(thirds(5), table, np.full(M, 1 / M), q, 5 * channel, 9 * LN3, 5 * LN3, 10_000)


def few():
    """Six trits decided evenly and three that never change: 18,954 operations are missing."""
    p = ((DIGITS[6] == 1) & (DIGITS[7] == 1) & (DIGITS[8] == 2)) / C**6
    there = np.flatnonzero(p)
    return Planted(thirds(6), certain(there), p, p, 6 * LN3, 6 * LN3, 6 * LN3, 30_000)


def bijection():
    """Every operation owns one cell of the latent space, all of one size: nothing is better."""
    p = np.full(M, 1 / M)
    return Planted(thirds(9), certain(np.arange(M)), p, p, 9 * LN3, 9 * LN3, 9 * LN3, FEWEST)


def uneven():
    """Every operation owns one cell, those of trit 0 = -1 twice the size of the others."""
    eighths, halves = thirds(8), quantiles(0.5, 0.25, 0.25)
    p = np.array([0.5, 0.25, 0.25])[DIGITS[0]] / C**8
    nats = 1.5 * LN2 + 8 * LN3

    def cell(z):
        return halves(z) + C * eighths(z)

    return Planted(cell, certain(np.arange(M)), p, p, nats, nats, nats, FEWEST)


PLANTED = {
    make.__name__: make
    for make in (uniform, constant, missing, skewed_softly, skewed, noisy, few, bijection, uneven)
}
CATEGORICAL_NS = (1_000, 50_000)


def argmax_ns(k):
    return (10, k // 2)


def distinct(p, n):
    return float((1 - (1 - p) ** n).sum())


@cache
def measured(name):
    """What each seed measures of a planted decoder, by name of the metric."""
    planted = PLANTED[name]()
    decoder, found = planted.decoder(), []
    for seed in range(SEEDS):
        m = marginal.marginal(decoder, planted.k, seed, name)
        row = {
            "information": marginal.information(m),
            "kl_uniform": marginal.kl_uniform(m),
            "argmax_entropy": marginal.argmax_entropy(m),
        }
        for n in argmax_ns(planted.k):
            row["argmax", n] = marginal.coverage_at(m, n, "argmax")
        for n in CATEGORICAL_NS:
            row["categorical", n] = marginal.coverage_at(m, n, "categorical")
        found.append(row)
    return found


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_decoder_is_what_it_says(name):
    """The closed forms against sums over the cells, so that no test checks a wrong truth."""
    planted = PLANTED[name]()
    z = torch.randn(200_000, D, generator=generator(1, name))
    share = np.bincount(planted.cell(z).numpy(), minlength=len(planted.table)) / len(z)
    assert len(share) == len(planted.table)
    assert planted.p.sum() == pytest.approx(1) and planted.q.sum() == pytest.approx(1)
    assert stats.entropy(planted.p) == pytest.approx(planted.entropy)
    assert stats.entropy(planted.q) == pytest.approx(planted.argmax_entropy)
    if len(planted.table) < 1_000:
        rows = [np.prod(one[np.arange(T)[:, None], DIGITS], 0) for one in planted.table]
        assert abs(share @ rows - planted.p).max() < 5 * (planted.p.max() / len(z)) ** 0.5
        trits = stats.entropy(planted.table, axis=2).sum(1)
        assert planted.entropy - share @ trits == pytest.approx(planted.information, abs=0.01)


@pytest.mark.parametrize("name", PLANTED)
def test_information(name):
    rows = [row["information"] for row in measured(name)]
    assert_honest(rows, PLANTED[name]().information, 9 * LN3, widest=0.04)
    for row in rows:
        assert row["share"] == pytest.approx(row["value"] / 9.88751059801)


@pytest.mark.parametrize("name", PLANTED)
def test_kl_from_uniform(name):
    rows = [row["kl_uniform"] for row in measured(name)]
    assert_honest(rows, math.log(M) - PLANTED[name]().entropy, 9 * LN3, widest=0.04)


@pytest.mark.parametrize("name", PLANTED)
def test_entropy_by_argmax(name):
    rows = [row["argmax_entropy"] for row in measured(name)]
    assert_honest(rows, PLANTED[name]().argmax_entropy, 9 * LN3, widest=0.04)


@pytest.mark.parametrize("which", [0, 1], ids=["10", "half of k"])
@pytest.mark.parametrize("name", PLANTED)
def test_coverage_by_argmax(name, which):
    planted = PLANTED[name]()
    n = argmax_ns(planted.k)[which]
    rows = [row["argmax", n] for row in measured(name)]
    ceiling = M * (1 - (1 - 1 / M) ** n)
    assert_honest(rows, distinct(planted.q, n), ceiling, widest=0.02 * ceiling)


@pytest.mark.parametrize("n", CATEGORICAL_NS)
@pytest.mark.parametrize("name", PLANTED)
def test_coverage_by_categorical_decoding(name, n):
    planted = PLANTED[name]()
    rows = [row["categorical", n] for row in measured(name)]
    ceiling = M * (1 - (1 - 1 / M) ** n)
    unbiased = name != "uneven"  # sharp, and 50,000 draws of 400,000 latents: it overshoots
    truth = distinct(planted.p, n)
    assert_honest(rows, truth, ceiling, widest=0.04 * ceiling, unbiased=unbiased)


@pytest.mark.parametrize("name", PLANTED)
def test_the_curve(name):
    """Categorical is within a per cent of the closed form for every N, argmax as far as k
    carries it; beyond k it says nothing."""
    planted = PLANTED[name]()
    m = marginal.marginal(planted.decoder(), planted.k, 99, name)
    rows = curve(m)
    assert rows[0]["n"] == 1 and rows[-1]["n"] == 10**7 and len(rows) > 50
    for row in rows:
        n = row["n"]
        assert row["ceiling"] == pytest.approx(M * (1 - (1 - 1 / M) ** n), rel=1e-9)
        categorical = distinct(planted.p, n)
        bias = (
            0.05 if name in ("bijection", "uneven") else 0.01
        )  # twenty latents a cell, and the plug-in is low
        assert categorical * (1 - bias) <= row["categorical"] <= categorical * 1.01 + 1e-3
        if n <= planted.k:
            assert row["argmax"] == pytest.approx(distinct(planted.q, n), rel=0.02)
        else:
            assert row["argmax"] is None
    for column in ("ceiling", "argmax", "categorical"):
        values = [row[column] for row in rows if row[column] is not None]
        assert (np.diff(values) >= -1e-3).all()


# --- Sharp decoders at the size that the parameters ask for ---


def sharp(q, k, seed):
    """The marginal of a decoder that is certain everywhere: k draws from `q`."""
    counts = np.random.default_rng([seed, k]).multinomial(k // 20, q, size=20)
    return marginal.Marginal(counts.astype(float), counts, np.zeros(20), k)


def test_a_sharp_skewed_decoder_at_a_million_latents():
    """Every operation has its cell, and those whose trit 0 is -1 own twice as much."""
    q = np.array([0.5, 0.25, 0.25])[DIGITS[0]] / C**8
    found = [sharp(q, 1_000_000, seed) for seed in range(SEEDS)]
    entropy = 8 * LN3 + 1.5 * LN2
    assert_honest([marginal.information(m) for m in found], entropy, 9 * LN3, widest=0.003)
    for n in (10_000, 195_000):
        rows = [marginal.coverage_at(m, n, "argmax") for m in found]
        ceiling = M * (1 - (1 - 1 / M) ** n)
        assert_honest(rows, distinct(q, n), ceiling, widest=20)
    for n in (10_000, 50_000, 195_000):
        rows = [marginal.coverage_at(m, n, "categorical") for m in found]
        low, high = np.array([row["ci95"] for row in rows]).T
        truth = distinct(q, n)
        assert ((low > truth) | (high < truth)).sum() <= MISSES
        assert (high - low).max() < 200  # 1 % of M


# --- Hardest operations, by name ---


def all_but(index):
    """Nine cells of one size: cell j agrees with operation `index` before trit j and never at
    it. So one operation alone is missing, and those that differ at trit 0 are next: p·M = 1/6."""
    table = soft(T)
    for j in range(T):
        own = DIGITS[:, index]
        table[j, :j] = np.eye(C)[own[:j]]
        table[j, j] = (1 - np.eye(C)[own[j]]) / 2
    return Planted(quantiles(*[1 / T] * T), table, *[np.zeros(M)] * 2, 0, 0, 0, 2_000)


@pytest.mark.parametrize("name", ["Kleene implication", "AND (min)", "sum mod 3"])
def test_the_missing_operation_is_named(name):
    index = {value: key for key, value in names().items()}[name]
    planted, held = all_but(index), 0
    for seed in range(SEEDS):
        m = marginal.marginal(planted.decoder(), planted.k, seed, name)
        first, *others = marginal.hardest(m, "categorical")
        assert first == {"index": index, "name": name, "p_times_m": 0, "ci95": [0, 0]}
        assert len(others) == 9
        for row in others:
            assert DIGITS[0, row["index"]] != DIGITS[0, index]
        low, high = others[0]["ci95"]
        assert high - low < 0.12
        held += low <= M / 9 / (2 * 3**8) + 1e-6 and high >= M / 9 / (2 * 3**8) - 1e-6
    assert held >= SEEDS - MISSES


def test_the_rarest_operation_of_a_skewed_decoder_is_named():
    """Each trit of "consensus" has probability 0.2, beside 0.3 and 0.5: p·M = 0.6^9, and the
    nine next differ in one trit: 0.6^8·0.9."""
    index = {value: key for key, value in names().items()}["consensus"]
    table = soft(1)
    for t in range(T):
        table[0, t, (DIGITS[t, index] + np.arange(C)) % C] = [0.2, 0.3, 0.5]
    planted = Planted(everywhere, table, *[np.zeros(M)] * 2, 0, 0, 0, 200)
    first, *others = marginal.hardest(marginal.marginal(planted.decoder(), 200, 1), "categorical")
    assert first["name"] == "consensus"
    assert first["p_times_m"] == pytest.approx(0.6**9, rel=1e-5)
    for row in others:
        assert row["p_times_m"] == pytest.approx(0.6**8 * 0.9, rel=1e-5)
        assert (DIGITS[:, row["index"]] != DIGITS[:, index]).sum() == 1


def test_operations_that_a_sharp_decoder_never_makes_are_named():
    """Three cells of the bijection make their neighbour instead. 400,000 latents are 20 a cell:
    another operation is unseen with odds of 1 to 25,000."""
    gone = [index for index, name in names().items() if name in ("XOR (-a·b)", "NOT first")]
    gone = sorted([*gone, 12_345])
    made = np.arange(M)
    made[gone] += 1
    p = np.bincount(made, minlength=M) / M
    planted = Planted(thirds(9), certain(made), p, p, 0, 0, 0, 400_000)
    m = marginal.marginal(planted.decoder(), planted.k, 1)
    for how in ("argmax", "categorical"):
        rows = marginal.hardest(m, how, count=4)
        assert [row["index"] for row in rows[:3]] == gone
        assert [row["p_times_m"] for row in rows[:3]] == [0, 0, 0] < [rows[3]["p_times_m"]] * 3
        assert {"XOR (-a·b)", "NOT first"} < {row["name"] for row in rows[:3]}
    entropy = 9 * LN3 - 3 * 2 / M * LN2
    low, high = marginal.information(m)["ci95"]
    assert low <= entropy <= high < low + 0.005


# --- Sampled coverage ---


@pytest.mark.parametrize("name", ["constant", "missing", "skewed", "noisy", "few", "bijection"])
def test_sampled_coverage(name):
    """Mean of five trials with Student's interval, both modes from the same latents."""
    planted, n = PLANTED[name](), 300
    found = [
        coverage(planted.decoder(), [n], how=["argmax", "categorical"], trials=5, seed=s)
        for s in range(SEEDS)
    ]
    for column, p in enumerate((planted.q, planted.p)):
        rows = [{"value": row[column]["unique"], "ci95": row[column]["ci95"]} for row in found]
        assert_honest(rows, distinct(p, n), M, widest=60, quantile=TRIALS_T)


# --- Two decoders side by side ---


def marked(*classes):
    """Five trits decided evenly, and trit 8 one of `classes`, evenly too: 243 operations each."""
    operations = np.concatenate([np.arange(C**5) + c * C**8 for c in classes])
    which, five = quantiles(*[1 / len(classes)] * len(classes)), thirds(5)
    p = np.isin(np.arange(M), operations) / len(operations)
    cell = lambda z: which(z) * C**5 + five(z)  # noqa: E731
    return Planted(cell, certain(operations), p, p, 0, 0, 0, 2_000)


@pytest.mark.parametrize("a, b", [((0,), (2,)), ((0, 1), (1, 2)), ((0, 1, 2), (1,)), ((1,), (1,))])
def test_diversity(a, b):
    """What only one, both or either reach, on average over the seeds: (Σp, Σq, Σp·q) by hand."""
    first, second, ns = marked(*a), marked(*b), [50, 1_000]
    found = [
        diversity(
            marginal.marginal(first.decoder(), 2_000, seed, "A"),
            marginal.marginal(second.decoder(), 2_000, seed, "B"),
            ns,
        )
        for seed in range(SEEDS)
    ]
    for column, n in enumerate(ns):
        reach_a, reach_b = 1 - (1 - first.p) ** n, 1 - (1 - second.p) ** n
        truth = {
            "only_a": (reach_a * (1 - reach_b)).sum(),
            "only_b": (reach_b * (1 - reach_a)).sum(),
            "both": (reach_a * reach_b).sum(),
            "union": (1 - (1 - reach_a) * (1 - reach_b)).sum(),
        }
        for key, expected in truth.items():
            values = np.array([rows[column][key] for rows in found])
            error = values.std(ddof=1) / SEEDS**0.5
            assert abs(values.mean() - expected) < 4 * error + 1e-4
            assert values.std() < 6
        assert all(rows[column]["n"] == n for rows in found)


# --- Reconstruction: encoded near -1, 0, 1, cut at the terciles ---


def chances(mean, sigma):
    """Chance that a trit survives: at 0, and at either end, where the code is ±mean."""
    middle = 1 - 2 * stats.norm.cdf(-TERCILE / sigma)
    return middle, stats.norm.cdf((mean - TERCILE) / sigma)


@pytest.mark.parametrize(
    "vae, mean, sigma", [("A", 1.0, 0.3), ("B", 1.0, 0.3), ("A", 0.8, 0.25), ("A", 1.4, 0.5)]
)
def test_exact_match_from_a_posterior_sample(perfect_model, vae, mean, sigma):
    """No trit may cross its cut: Π of nine normal chances, averaged over the part's operations."""
    encoder = perfect_model.encoder(vae)
    encoder.fc_mu.weight.data *= mean
    encoder.fc_logvar.bias.data[:T] = 2 * math.log(sigma)
    q, parts = reconstruction.posterior(perfect_model, vae), split(42)
    middle, end = chances(mean, sigma)
    zeros = (DIGITS == 1).sum(0)
    chance = middle**zeros * end ** (T - zeros)
    by_trit = (zeros * middle + (T - zeros) * end) / T
    missed = {part: 0 for part, _ in parts}
    for seed in range(SEEDS):
        codes = reconstruction.drawn(q, 1.0, generator(seed, "sample", vae))
        right = reconstruction.right_trits(perfect_model, vae, codes)
        for part, row in reconstruction.by_split(right, parts).items():
            index = getattr(parts, part).numpy()
            (low, high), truth = row["ci95"], chance[index].mean()
            missed[part] += not low <= truth <= high
            assert row["n"] == len(index)
            assert high - low < 2.3 / len(index) ** 0.5
            error = (by_trit[index].mean() * (1 - by_trit[index].mean()) / len(index) / T) ** 0.5
            assert abs(row["per_trit"] - by_trit[index].mean()) < 5 * error
    assert max(missed.values()) <= MISSES


def test_robustness_falls_as_the_normal_distribution_says(perfect_model, monkeypatch):
    """Twenty seeds of M binomial trials at each scale, pooled: the mean within 4 deviations."""
    monkeypatch.setattr(reconstruction, "SCALES", (0.0, 1.0, 2.0, 3.0))
    perfect_model.encoder_A.fc_logvar.bias.data[:T] = 2 * math.log(0.2)
    q = reconstruction.posterior(perfect_model, "A")
    found = [reconstruction.robustness(perfect_model, "A", q, seed) for seed in range(SEEDS)]
    for i, scale in enumerate(reconstruction.SCALES):
        middle, end = chances(1, max(0.2 * scale, 1e-9))
        chance = ((middle + 2 * end) / 3) ** T
        values = np.array([rows[i]["exact_match"] for rows in found])
        deviation = (chance * (1 - chance) / M) ** 0.5
        assert {rows[i]["scale"] for rows in found} == {scale}
        assert abs(values.mean() - chance) < 4 * deviation / SEEDS**0.5 + 1e-9
        assert values.std() < 2 * deviation + 1e-9


@pytest.mark.parametrize("vae", VAES)
@pytest.mark.parametrize("broken", [[4], [0, 8], [1, 2, 3]])
def test_exact_match_from_the_mean_counts_whole_operations(perfect_model, vae, broken):
    """A trit that is not encoded is read as 0: 3^-b of the operations survive, in any part."""
    perfect_model.encoder(vae).fc_mu.weight.data[broken] = 0
    q, missed = reconstruction.posterior(perfect_model, vae), 0
    right = reconstruction.right_trits(perfect_model, vae, q.mu)
    survive = (DIGITS[broken] == 1).all(0)
    assert np.array_equal(right.all(1).numpy(), survive)
    for seed in range(SEEDS):  # another split, another sample of the 3^-b
        parts = split(seed)
        row = reconstruction.by_split(right, parts)["test"]
        assert row["share"] == survive[parts.test.numpy()].mean()
        missed += not row["ci95"][0] <= 3 ** -len(broken) <= row["ci95"][1]
        lost = len(broken) * 2 / 3 / T
        assert row["per_trit"] == pytest.approx(1 - lost, abs=5 * (lost / 1_969 / T) ** 0.5)
    assert missed <= MISSES


# --- The latent space ---


@pytest.mark.parametrize("vae", VAES)
def test_the_latent_space_of_a_perfect_model(perfect_model, vae):
    """Nine dimensions at -1, 0, 1 with deviation e^-4, and seven that are the prior."""
    q = reconstruction.posterior(perfect_model, vae)
    assert latent.entropy_nats(q.mu) == pytest.approx(9 * LN3 / 16, rel=1e-6)
    assert latent.share_outside(q.mu) == 0
    assert latent.active_units(q.mu) == 9
    by_dimension = latent.kl_nats(*q).mean(0)
    trit = (math.exp(-8) + 2 / 3 - 1 + 8) / 2
    assert by_dimension.tolist() == pytest.approx([trit] * T + [0] * 7, rel=1e-5)


def test_entropy_and_overflow_of_a_normal_latent_space():
    """Fifty bins of N(0, 1.5²), and what lies beyond three."""
    edges = stats.norm.cdf(np.linspace(-3, 3, 51) / 1.5)
    shares = np.diff(edges)
    truth = stats.entropy(shares / shares.sum())
    outside = 1 - shares.sum()
    for seed in range(SEEDS):
        codes = 1.5 * torch.randn(M, D, generator=generator(seed, "codes"))
        assert latent.entropy_nats(codes) == pytest.approx(truth - 49 / 2 / M, abs=0.002)
        error = (outside / M / D) ** 0.5
        assert abs(latent.share_outside(codes) - outside) < 5 * error
        assert latent.active_units(codes * torch.linspace(0.02, 0.11, D)) == 8


def two_normals(a):
    """KL(½N(-a, 1) + ½N(a, 1) ‖ N(0, 1)), nats, by quadrature."""
    z = np.linspace(-a - 12, a + 12, 200_001)
    q = (stats.norm.pdf(z, a) + stats.norm.pdf(z, -a)) / 2
    return float(np.trapezoid(q * np.log(q / stats.norm.pdf(z)), z))


@pytest.mark.parametrize("a", [0.7, 2.0])
def test_aggregate_kl_of_one_and_of_two_normals(a):
    """a²/2 in a dimension where all operations share a mean, and less where halves differ."""
    signs = torch.tensor([-1.0, 1.0]).repeat(M // 2 + 1)[:M]
    mu = torch.zeros(M, D)
    mu[:, 3], mu[:, 9] = a, a * signs
    q = Posterior(mu, torch.zeros(M, D))
    rows = [latent.aggregate_kl(q, seed, "planted", n=80) for seed in range(SEEDS)]
    truth = a * a / 2 + two_normals(a)
    assert truth < a * a
    assert_honest(rows, truth, math.inf, widest=3, quantile=stats.t.ppf(0.975, 79))


def test_aggregate_kl_of_the_prior_is_zero():
    q = Posterior(torch.zeros(M, D), torch.zeros(M, D))
    for seed in range(3):
        row = latent.aggregate_kl(q, seed, "planted", n=50)
        assert [row["value"], *row["ci95"]] == pytest.approx([0, 0, 0], abs=1e-9)


def partial_correlation(kept):
    """Spearman's ρ of the Hamming distance of nine trits and of `kept` of them: both are sums of
    independent trits that differ with chance 2/3, ranked with ties at their middle."""
    one = stats.binom.pmf(np.arange(kept + 1), kept, 2 / 3)
    rest = stats.binom.pmf(np.arange(T - kept + 1), T - kept, 2 / 3)
    joint = np.zeros((T + 1, kept + 1))
    for i, j in itertools.product(range(kept + 1), range(T - kept + 1)):
        joint[i + j, i] += one[i] * rest[j]
    ranks = [np.cumsum(p) - p / 2 for p in (joint.sum(1), joint.sum(0))]
    centred = [r - 0.5 for r in ranks]  # the mean rank
    covariance = centred[0] @ joint @ centred[1]
    scale = [joint.sum(1 - axis) @ np.square(c) for axis, c in enumerate(centred)]
    return covariance / math.sqrt(scale[0] * scale[1])


@pytest.mark.parametrize("kept", [2, 5, 8])
def test_hamming_correlation_of_codes_that_keep_some_trits(kept):
    """One number in three a trit: the squared distance is twice the Hamming distance of those."""
    classes = torch.tensor(DIGITS[:kept].T.copy())
    codes = torch.nn.functional.one_hot(classes, C).flatten(1).float()
    rows = [latent.hamming_correlation(codes, seed, "kept", 4_000) for seed in range(SEEDS)]
    assert_honest(rows, partial_correlation(kept), 1, widest=0.08, quantile=1.96)


def test_hamming_correlation_of_codes_that_keep_nothing():
    rows = []
    for seed in range(SEEDS):
        codes = torch.randn(M, D, generator=generator(seed, "codes"))
        rows.append(latent.hamming_correlation(codes, seed, "nothing", 4_000))
    value, low, high = np.array([[row["value"], *row["ci95"]] for row in rows]).T
    assert ((low > 0) | (high < 0)).sum() <= MISSES
    assert abs(value.mean()) < 4 / math.sqrt(4_000 * SEEDS)
    assert (high - low).max() < 0.065
