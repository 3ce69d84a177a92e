"""Which defects the gates find, on planted generators; the whole table is `make power`."""

import numpy as np
import pandas as pd
import pytest
from planted import in_process
from scipy import stats

from fluxttice_core.certification import power
from fluxttice_core.certification.power import GENERATION, LESS, detected, planted, verdicts
from fluxttice_core.metrics.gates import judge
from fluxttice_core.metrics.intervals import clopper_pearson
from fluxttice_core.metrics.results import exact
from fluxttice_core.model.operations import M


def test_planted_counts_are_of_what_they_say():
    m = planted(count=6_000, left=0.5, k=4_000_000, seed=1)
    p = np.where(np.arange(M) < 6_000, 0.5, 1.0)
    assert m.counts.sum() == m.k == 4_000_000
    assert stats.chisquare(m.counts, m.k * p / p.sum()).pvalue > 1e-3
    assert planted(3, 0.0, 400_000, 1).counts[:4].tolist()[:3] == [0, 0, 0]
    assert (m.counts / m.k == m.P).all() and not m.entropy.any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "count, defect, refused_by",
    [
        (0, "never generated", []), (1, "never generated", ["min_argmax_coverage_195000"]),
        (200, "at half their probability", ["min_argmax_coverage_195000"]),
        (1_000, "never generated", GENERATION),
    ],
)  # fmt: skip
def test_the_strict_bounds_find_a_defect_and_pass_a_perfect_generator(
    strict, count, defect, refused_by, seed
):
    found = verdicts(count, LESS[defect], strict, seed)
    refused = {gate for gate in GENERATION if found[gate] != "PASS"}
    assert refused >= set(refused_by) and bool(refused) == bool(refused_by)


@pytest.mark.parametrize("n, bound", [(500, 0.99), (20_000, 0.9995)])
def test_the_least_share_that_a_binomial_gate_finds(n, bound):
    """The chance to meet the bound at that share, by the judge itself: 5 %."""
    hits = range(n - 40, n + 1)
    passing = [h for h in hits if judge(exact(clopper_pearson(h, n)[0], n), bound) == "PASS"]
    least = power._binomial(bound, n, 0.95)
    less = least - 1e-3 * (1 - bound)  # one step of the grid
    chances = [stats.binom.pmf(passing, n, 1 - x).sum() for x in (least, less)]
    assert chances[0] <= 0.05 < chances[1]


def test_the_table_counts_refusals_and_is_read_back_for_its_own_bounds_only(
    strict, monkeypatch, tmp_path
):
    """Small: a perfect generator and two defects of a thousand, twice each, in this process."""
    monkeypatch.setattr(power.parallel, "each", in_process)
    monkeypatch.setattr(power, "COUNTS", (0, 1_000))
    p = strict.model_copy(update={"min_argmax_entropy": 0.0})  # a bound that all meet
    found = power.table(p, trials=2)
    assert found.operations.tolist() == [0, 1_000, 1_000]
    assert found.defect.tolist() == ["none", *LESS] and set(found.trials) == {2}
    assert found["any"].tolist() == found.min_argmax_coverage_195000.tolist() == [0, 1, 1]
    assert found.min_argmax_entropy.tolist() == [0] * 3
    smallest = detected(found, p).set_index("gate")
    column = "operations never generated"
    assert smallest.loc[["any", "min_argmax_entropy"], column].tolist() == ["1,000", "none tried"]

    monkeypatch.setattr(power, "path", lambda: tmp_path / "power.csv")
    monkeypatch.setattr(power, "table", lambda *_, **__: found)
    assert power.stored(p) is None
    written = power.write(p)
    pd.testing.assert_frame_equal(power.stored(p), written)
    assert power.stored(strict) is None
    assert power.stored(p.model_copy(update={"k": 2_000_000})) is None
    written.drop(columns="bound k").to_csv(power.path())
    assert power.stored(p) is None  # of before there was this bound
