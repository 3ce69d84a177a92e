import math
from fractions import Fraction

import numpy as np
import pytest
from planted import UNIFORM, sentence, sharp

from fluxttice_core.metrics.coverage import CHUNK, coverage, distinct, expected, rarefied
from fluxttice_core.metrics.results import mean
from fluxttice_core.model.network import HOW, prior, read_out
from fluxttice_core.model.operations import M
from fluxttice_core.model.streams import generator

# --- Drawn ---


def test_counts_are_those_of_a_set_filled_row_by_row(untrained):
    """The same stream, the modes in the same order, and a Python set of tuples; a larger n
    continues a smaller one."""
    decoder, rng = untrained.decoder_A, generator(9, "same")
    seen, counts = {how: set() for how in HOW}, {}
    for n in (CHUNK, CHUNK + 700):
        logits = decoder(prior(n - (n > CHUNK) * CHUNK, rng)).detach()
        for how in HOW:
            seen[how] |= set(map(tuple, read_out(logits, how, rng).tolist()))
            counts[how, n] = len(seen[how])
    assert counts == distinct(decoder, [CHUNK + 700, CHUNK], HOW, generator(9, "same"))


def test_rows_hold_the_trials(untrained):
    ns, how = [100, 900], ["categorical", "argmax"]
    rows = coverage(untrained.decoder_B, iter(ns), how=iter(how), trials=3, seed=5)
    assert [(row.decode, row.n) for row in rows] == [(mode, n) for mode in how for n in ns]
    rngs = [generator(5, "coverage", "", trial) for trial in range(3)]
    runs = [distinct(untrained.decoder_B, ns, how, rng) for rng in rngs]
    for row in rows:
        assert row.unique == mean([run[row.decode, row.n] for run in runs])
        assert row.share.value == row.unique.value / M
    assert coverage(untrained.decoder_B, ns, how=how, trials=3, seed=5, stream="A") != rows


# --- Expected ---


@pytest.mark.parametrize(
    "counts", [np.array([4, 0, 0, 2, 1, 0, 1]), sharp(UNIFORM, 205_280, 1).counts]
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
    m = sharp(UNIFORM, 1_000, 1)
    assert 0 < expected(m, 500, "argmax").value <= 500
    assert "n is 501, but argmax coverage from 1000" in sentence(expected, m, 501, "argmax")
    assert expected(m, 501, "categorical").value > 0
