import math
from fractions import Fraction

import numpy as np
import pytest
from planted import PLANTED, SEEDS, UNIFORM, assert_honest, ends, sharp
from planted import distinct as truth

from fluxttice_core.errors import InputError
from fluxttice_core.metrics.coverage import CHUNK, coverage, distinct, expected, rarefied
from fluxttice_core.model.network import HOW, VAES, prior, read_out
from fluxttice_core.model.operations import M
from fluxttice_core.model.streams import generator

# --- Drawn ---


@pytest.mark.parametrize("name", ["constant", "missing", "noisy", "bijection"])
def test_drawn_coverage_is_honest(name):
    """Mean of five trials with Student's interval, both modes from the same latents."""
    planted, n = PLANTED[name], 300
    found = [
        coverage(planted.decoder(), [n], how=["argmax", "categorical"], trials=5, seed=seed)
        for seed in range(SEEDS)
    ]
    for column, p in enumerate((planted.q, planted.p)):
        rows = [rows[column].unique for rows in found]
        assert_honest(rows, truth(p, n), M, widest=60, df=4)


@pytest.mark.parametrize("vae", VAES)
def test_counts_are_those_of_a_set_filled_row_by_row(untrained, vae):
    """The same stream, the modes in the same order, and a Python set of tuples."""
    n, decoder, rng = CHUNK + 700, untrained.decoder(vae), generator(9, "same")
    seen = {how: set() for how in HOW}
    for size in (CHUNK, 700):
        logits = decoder(prior(size, rng)).detach()
        for how in HOW:
            seen[how] |= set(map(tuple, read_out(logits, how, rng).tolist()))
    counts = distinct(decoder, [n], HOW, generator(9, "same"))
    assert counts == {(how, n): len(seen[how]) for how in HOW}


def test_rows_hold_the_trials_and_a_larger_n_continues_a_smaller_one(untrained):
    ns, how = [100, 900], ["categorical", "argmax"]
    rows = coverage(untrained.decoder_B, iter(ns), how=iter(how), trials=3, seed=5)
    assert [(row.decode, row.n) for row in rows] == [(mode, n) for mode in how for n in ns]
    rngs = [generator(5, "coverage", "", trial) for trial in range(3)]
    runs = [distinct(untrained.decoder_B, ns, how, rng) for rng in rngs]
    for row in rows:
        x = [run[row.decode, row.n] for run in runs]
        half = 4.302653 * np.std(x, ddof=1) / 3**0.5  # t(0.975, 2) = 4.302653
        assert ends(row.unique) == pytest.approx([np.mean(x), np.mean(x) - half, np.mean(x) + half])
        assert row.unique.n == 3 and row.share.value == row.unique.value / M
    given = {"how": how, "trials": 3, "seed": 5}
    again, a, b = (coverage(untrained.decoder_B, ns, stream=x, **given) for x in ("", "A", "B"))
    assert again == rows and a != rows and b not in (a, rows)
    alone = distinct(untrained.decoder_A, [500], ["argmax"], generator(1, "z"))
    both = distinct(untrained.decoder_A, [3_000, 500, 3_000], ["argmax"], generator(1, "z"))
    assert both["argmax", 500] == alone["argmax", 500] < both["argmax", 3_000]


# --- Expected ---


@pytest.mark.parametrize("counts", [[4, 0, 0, 2, 1, 0, 1], 205_280], ids=["few", "many"])
@pytest.mark.parametrize("share", [0, 0.13, 0.5, 0.95, 1])
def test_rarefaction_is_exact(counts, share):
    """1 - C(K - c, n) / C(K, n) as fractions: no rounding adds up, whatever K and n."""
    counts = sharp(UNIFORM, counts, 1).counts if isinstance(counts, int) else np.array(counts)
    k = int(counts.sum())
    n, there = round(share * k), {}
    for c in set(counts.tolist()):
        missed = (Fraction(max(k - n - j, 0), k - j) for j in range(c))
        there[c] = float(1 - math.prod(missed, start=Fraction(1)))
    total = math.fsum(there[c] for c in counts.tolist())
    assert rarefied(counts, n) == pytest.approx(total, rel=1e-11)


def test_more_draws_than_were_counted_say_nothing():
    with pytest.raises(InputError, match="n is 6, but must be at most the 5 draws"):
        rarefied(np.array([0, 3, 2]), 6)
    m = sharp(UNIFORM, 1_000, 1)
    assert 0 < expected(m, 500, "argmax").value <= 500
    with pytest.raises(InputError, match="n is 501, but argmax coverage from 1000 latents"):
        expected(m, 501, "argmax")
    assert expected(m, 501, "categorical").value > 0
