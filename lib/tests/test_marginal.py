"""What is generated: intervals and the rows that carry them, the marginal, coverage, likelihood."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from planted import DIGITS, PLANTED, SEEDS, assert_honest, ends, from_counts, sentence, sharp
from pydantic import ValidationError
from scipy import stats

from fluxttice_core.metrics import likelihood
from fluxttice_core.metrics.coverage import CHUNK, ceiling, coverage, distinct, expected, rarefied
from fluxttice_core.metrics.intervals import clopper_pearson, prediction_interval
from fluxttice_core.metrics.marginal import GROUPS, Marginal, marginal, trit_distributions
from fluxttice_core.metrics.measurement import Metric
from fluxttice_core.metrics.results import (
    EXHAUSTIVE,
    Measured,
    exact_value,
    mean_of_trials,
    proportion,
)  # fmt: skip
from fluxttice_core.model.network import DECODING_MODES, D, decode_logits, prior
from fluxttice_core.model.operations import C, M, T
from fluxttice_core.model.streams import generator

# --- Intervals and rows ---


@pytest.mark.parametrize("k, n", [(1, 10), (443, 1_969), (0, 9), (9, 9)])
def test_clopper_pearson_leaves_two_and_a_half_percent_in_each_tail(k, n):
    """But at 0 and n, where there is nothing beyond."""
    low, high = clopper_pearson(k, n)
    assert stats.binom.sf(k - 1, n, low) == pytest.approx(0.025) if k else low == 0
    assert stats.binom.cdf(k, n, high) == pytest.approx(0.025) if k < n else high == 1


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_a_sixth_seed_lies_inside_as_often_as_is_said(confidence):
    """The range of five, on the contrary, holds it in two cases of three."""
    values = np.random.default_rng(1).normal(3, 2, size=(20_000, 6))
    ends = np.array([prediction_interval(x[:5], confidence) for x in values])
    inside = ((ends[:, 0] <= values[:, 5]) & (values[:, 5] <= ends[:, 1])).mean()
    deviation = (confidence * (1 - confidence) / len(values)) ** 0.5
    assert abs(inside - confidence) < 4 * deviation


def test_a_prediction_is_cut_where_the_truth_lies():
    x = [0.9, 0.95, 1.0, 0.99, 0.97]
    low, high = prediction_interval(x)
    half = stats.t.ppf(0.995, 4) * np.std(x, ddof=1) * np.sqrt(1.2)
    assert (low, high) == pytest.approx((np.mean(x) - half, np.mean(x) + half))
    assert prediction_interval(x, high=1.0) == (low, 1.0)
    assert prediction_interval([0.5, 0.5], low=0.0, high=1.0) == (0.5, 0.5)


def test_rows_by_hand():
    """Of the mean: s = √2, and t(0.975, 4) is that of the printed table."""
    assert ends(exact_value(0.3, 9)) == [0.3] * 3 and exact_value(0.3, 9).method == EXHAUSTIVE
    x, half = mean_of_trials([2, 4, 4, 4, 6]), 2.776445 * 0.4**0.5
    assert ends(x) == pytest.approx([4, 4 - half, 4 + half], rel=1e-6)
    assert (x.n, x.method) == (5, "Student t")
    assert ends(mean_of_trials([1.0, 3.0], low=0.0, high=1.5)) == pytest.approx(
        [1.5, 0, 1.5]
    )  # cut
    x = proportion([[True, False], [True, True]])
    assert ends(x) == pytest.approx([0.75, *clopper_pearson(3, 4)]) and x.n == 4
    x = Measured(value=2, low=1, high=4, n=5, method="m")
    assert x.divided_by(4) == Measured(value=0.5, low=0.25, high=1, n=5, method="m")


def test_a_row_never_changes_and_holds_numbers_alone_under_their_own_names():
    row = proportion([True, False])
    for change in ({"value": math.nan}, {"low": -math.inf}, {"ci95": [0, 1]}):
        with pytest.raises(ValidationError, match=next(iter(change))):
            Measured(**row.model_dump() | change)
    with pytest.raises(ValidationError, match="frozen"):
        row.value = 1.0


def test_a_metric_is_cut_where_its_truth_lies():
    about = {"n": 5, "method": "m"}
    found = Measured(value=1.001, low=0.9, high=1.1, **about)
    assert ends(Metric("share", lambda _e: found).compute(None)) == [1, 0.9, 1]
    assert Metric("least", lambda _e: found, limits=(1, 2)).compute(None).low == 1
    unknown = Measured(value=None, low=None, high=None, **about)
    assert Metric("share", lambda _e: unknown).compute(None) == unknown


# --- The marginal ---


def rough(z):
    """A decoder without structure: every logit is a sine of the latents."""
    weight = torch.arange(1, 1 + D * T * C).view(D, T * C).double().sin()
    return 2 * (3 * z.double() @ weight).sin().view(-1, T, C).float()


def test_trit_distributions_are_torchs():
    """Also of all 27 orders and ties of three values, where the first of equals counts as in
    decoding, and of extreme ones, which neither overflow nor have an entropy."""
    extreme = [[500, 800, 200], [-500, -200, -800], [0, -math.inf, 0]]
    odd = torch.tensor([*itertools.product([0.0, 1.0, 2.0], repeat=C), *extreme])
    logits = 4 * torch.randn(300, T, C, generator=generator(1, "test"))
    logits = torch.cat([logits, odd[:, None].expand(-1, T, C)])
    before = logits.clone()
    p, entropy, classes = trit_distributions(logits)
    theirs = logits.double().softmax(-1)
    np.testing.assert_allclose(p.permute(2, 0, 1), theirs, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(entropy, stats.entropy(theirs, axis=2).sum(1), rtol=1e-5, atol=1e-6)
    first = [[row.index(max(row)) for row in one] for one in logits.tolist()]
    assert classes.T.tolist() == decode_logits(logits, "argmax").tolist() == first
    assert torch.equal(logits, before)


def test_the_marginal_is_the_product_of_the_trits_in_their_order():
    """Nine different distributions, so that no trit can stand in another's place."""
    p = np.random.default_rng(1).dirichlet(np.full(C, 0.7), size=T)
    logits = torch.tensor(np.log(p), dtype=torch.float32)
    m = marginal(lambda z: logits.repeat(len(z), 1, 1), 40, seed=1)
    truth = np.prod([p[t][DIGITS[t]] for t in range(T)], axis=0)
    np.testing.assert_allclose(m.P, truth, rtol=2e-5)
    assert m.counts[int(truth.argmax())] == m.k == 40
    assert m.entropy.sum() / m.k == pytest.approx(stats.entropy(p, axis=1).sum(), rel=1e-5)


def test_seed_and_stream_decide():
    cases = (1, "A"), (1, "A"), (2, "A"), (1, "B")
    first, again, *others = (marginal(rough, 200, *case).probability for case in cases)
    assert np.array_equal(first, again)
    assert not any(np.array_equal(first, other) for other in others)


def test_what_cannot_be_measured_is_refused():
    """Groups that are not of one size, and logits that are not numbers, of one latent in ten."""
    for k in (-20, 0, 30):
        assert f"k is {k}, but must be a positive multiple of 20" in sentence(marginal, rough, k, 1)
    for value in (math.nan, math.inf):
        wrong = torch.where(torch.arange(10) == 3, value, 0.0)[:, None, None]
        refused = sentence(marginal, lambda z, wrong=wrong: rough(z) + wrong, 200, 1)
        assert "logits that are not numbers" in refused


# --- Coverage ---


def test_counts_are_those_of_a_set_filled_row_by_row(untrained):
    """The same stream, the modes in the same order, and a Python set of tuples; a larger n
    continues a smaller one."""
    decoder, rng = untrained.decoder_A, generator(9, "same")
    seen, counts = {how: set() for how in DECODING_MODES}, {}
    for n in (CHUNK, CHUNK + 700):
        logits = decoder(prior(n - (n > CHUNK) * CHUNK, rng)).detach()
        for how in DECODING_MODES:
            seen[how] |= set(map(tuple, decode_logits(logits, how, rng).tolist()))
            counts[how, n] = len(seen[how])
    assert counts == distinct(decoder, [CHUNK + 700, CHUNK], DECODING_MODES, generator(9, "same"))


def test_rows_hold_the_trials(untrained):
    ns, how = [100, 900], ["categorical", "argmax"]
    rows = coverage(untrained.decoder_B, iter(ns), modes=iter(how), trials=3, seed=5)
    assert [(row.decode, row.n) for row in rows] == [(mode, n) for mode in how for n in ns]
    rngs = [generator(5, "coverage", "", trial) for trial in range(3)]
    runs = [distinct(untrained.decoder_B, ns, how, rng) for rng in rngs]
    for row in rows:
        counts, top = [run[row.decode, row.n] for run in runs], float(ceiling(row.n))
        assert row.unique == mean_of_trials(counts, high=top) and row.of_ceiling.high <= 1
        assert row.share.value == row.unique.value / M
    assert coverage(untrained.decoder_B, ns, modes=how, trials=3, seed=5, stream="A") != rows


@pytest.mark.parametrize(
    "counts", [np.array([4, 0, 0, 2, 1, 0, 1]), sharp(PLANTED["uniform"].p, 205_280, 1).counts]
)
@pytest.mark.parametrize("share", [0, 0.13, 0.5, 0.95, 1])
def test_rarefaction_is_exact(counts, share):
    """1 - C(K - c, n) / C(K, n) as fractions: no rounding adds up, whatever K and n."""
    k = int(counts.sum())
    n, total = round(share * k), 0.0
    for c, times in zip(*np.unique(counts, return_counts=True), strict=True):
        missed = (Fraction(max(k - n - j, 0), k - j) for j in range(c))
        total += times * float(1 - math.prod(missed, start=Fraction(1)))
    assert rarefied(counts, n) == pytest.approx(total, rel=1e-11)


def test_more_draws_than_were_counted_say_nothing():
    assert "n is 6, but must be at most the 5 draws" in sentence(rarefied, np.array([0, 3, 2]), 6)
    m = sharp(PLANTED["uniform"].p, 1_000, 1)
    assert 0 < expected(m, 500, "argmax").value <= 500
    assert "n is 501, but argmax coverage from 1000" in sentence(expected, m, 501, "argmax")
    assert expected(m, 501, "categorical").value > 0


# --- Likelihood ---


@pytest.mark.parametrize("name", ["uneven", "noisy", "uniform"])
def test_estimates_are_honest(name):
    """Of the uneven one the plug-in is 0.01 off. The NLL is shifted by ln M, where its range
    begins."""
    planted = PLANTED[name]
    p, ms = planted.p, [planted.marginal(seed, "planted") for seed in range(SEEDS)]
    above = [likelihood.nll(m).map(lambda nats: nats - math.log(M)) for m in ms]
    assert_honest(above, -np.log(p).mean() - math.log(M), 1, widest=0.05)
    simpson = [likelihood.inverse_simpson(m) for m in ms]
    assert_honest(simpson, 1 / (M * (p @ p)), 1, widest=0.05)


def test_estimates_are_those_of_scipys_k_statistics():
    """Of 27 operations, each there 729 times; no group and each left out."""
    y = np.random.default_rng(3).gamma(2.0, size=(GROUPS, 27))
    m = Marginal(np.tile(y, 729), np.ones((GROUPS, M), int), np.zeros(GROUPS), round(729 * y.sum()))

    def terms(y, k):
        g, total = len(y), y.sum(0)
        p, pairs = total / k, total**2 - (y**2).sum(0)  # of draws of different groups
        v, k3 = (g * stats.kstat(y, n, axis=0) / total**n for n in (2, 3))
        v2 = v * v * (g - 1) / (g + 1)
        nll = -np.log(p) - v / 2 - 2 * k3 / 3 + 0.75 * v2
        agree = pairs * g / (g - 1) / k**2
        return np.array([nll.mean(), 1 / (M * 729 * agree.sum())])

    whole = terms(y, m.k)
    rest = [terms(np.delete(y, i, 0), m.k * 19 / 20) for i in range(GROUPS)]
    half = stats.t.ppf(0.975, 19) * np.std(rest, axis=0) * 19**0.5 + likelihood.ROUNDING
    nll, simpson = (whole + np.outer((0, -1, 1), half)).T
    truth = np.maximum(nll, math.log(M)), np.minimum(simpson, 1)
    estimates = likelihood.nll(m), likelihood.inverse_simpson(m)
    np.testing.assert_allclose([ends(x) for x in estimates], truth, rtol=1e-6)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_an_operation_that_is_never_or_hardly_generated_is_refused(left):
    """None at all, one, or three latents of one group: no finite number, and how many there are."""
    counts = np.full((GROUPS, M), 3)
    counts[:, [7, 99]] = 0
    counts[4, [7, 99]] = left
    m = from_counts(counts)
    nll = likelihood.nll(m)
    why = "undefined: P(x) of 2 operations cannot be distinguished from 0"
    assert nll == Measured(value=None, low=None, high=None, n=m.k, method=why)


@pytest.mark.parametrize("p, told", [(1e-13, False), (1e-11, True)])
def test_below_what_the_marginal_drops_nothing_is_said(p, told):
    """1e-13 is a hundredfold of what one latent may lose."""
    m = from_counts(np.ones((GROUPS, M), int))
    m.probability[:, 3] = p * M
    assert (likelihood.nll(m).value is not None) == told
