"""The evidence: what it concludes from planted differences, and what it must show."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fluxttice_core.metrics.measurement import METRICS
from fluxttice_core.metrics.rate import least_rate
from fluxttice_core.report import evidence
from fluxttice_core.report.evidence import ASKED_OF, Answer

QUESTIONS = dict.fromkeys(("Does it help?", "Does it?"), ("whole", "without"))
GAINS = np.array([0.9, 1.0, 1.1, 1.0])  # over seeds, which move both recipes alike
N = len(ASKED_OF) * 2 * len(QUESTIONS)  # differences that are asked of, over both VAEs


def planted(gain=0.0, of="mig", seeds=4, recipes=("whole", "without")):
    """A frame of recipes × seeds × VAEs, with `gain`·GAINS between the first two in `of`."""
    base = dict.fromkeys([*ASKED_OF, *evidence.MEASURED], 0.5)
    return pd.DataFrame(
        {"recipe": recipe, "seed": seed, "epoch": 0, "vae": vae, **base}
        | {of: 0.5 + 0.1 * seed + (recipe == "whole") * gain * GAINS[seed]}
        for recipe in recipes
        for seed in range(seeds)
        for vae in "AB"
    )


@pytest.mark.parametrize(
    "gain, of, word",
    [(0.1, "mig", "helps"), (-0.1, "mig", "hurts"), (9, "rate", "hurts"), (-9, "rate", "helps")],
)
def test_a_paired_difference_shows_through_the_noise_of_the_seeds(gain, of, word):
    """The closed form: Student t at 1 - 5 %/n; of the rate, less is better. So where nothing
    differs, an effect is claimed in at most one table of twenty."""
    found = evidence.answers(planted(gain, of), QUESTIONS)
    points = ASKED_OF[of] * gain * GAINS
    half = stats.t.ppf(1 - 0.05 / N / 2, 3) * points.std(ddof=1) / 2
    assert len({answer[:3] for answer in found}) == len(found) == N
    for answer in found:
        assert answer.verdict == (word if answer.metric == of else "no effect")
        if answer.metric == of:
            expected = points.mean(), points.mean() - half, points.mean() + half
            assert answer[4:] == pytest.approx(expected) and answer.seeds == 4
    assert found[0].row["answer"] == found[0].verdict and found[0].row["unit"] == "points"


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (0.01, 9, "helps"), (-9, -0.01, "hurts"), (-0.99, 0.99, "no effect"), (0, 0, "no effect"),
        (-1, 0.5, "undecided: an effect below 0.75 would not show"),
        (-3, 2, "undecided: an effect below 2.5 would not show"),
    ],
)  # fmt: skip
def test_no_effect_is_shown_and_not_assumed(low, high, verdict):
    assert Answer("?", "A", "mig", 4, 0.1, low, high).verdict == verdict


def test_one_seed_tells_nothing_and_what_has_no_data_is_left_out():
    [*found] = evidence.answers(planted(0.1, seeds=1), QUESTIONS)
    assert {a.verdict for a in found} == {"–"} and {a.low for a in found} == {-np.inf}
    apart = planted()
    apart.loc[apart.recipe == "without", "seed"] += 100
    for frame in (planted(recipes=["whole"]), apart):
        assert evidence.answers(frame, QUESTIONS) == []


def test_the_rate_is_asked_above_the_least_at_that_exact_match():
    """Half of the operations lost at 12 nats are no gain over nearly all of them at 16.5."""
    frame = planted()
    whole = frame.recipe == "whole"
    frame["rate"], frame["exact_match_sampled"] = whole * 4.5 + 12, whole * 0.4996 + 0.5
    rows = [answer for answer in evidence.answers(frame, QUESTIONS) if answer.metric == "rate"]
    assert {answer.verdict for answer in rows} == {"helps"}
    assert rows[0].difference == pytest.approx(least_rate(0.9996) - least_rate(0.5) - 4.5)
    assert rows[0].row["of"] == evidence.RATE


def test_rows_of_other_parameters_than_the_plans_are_left_out(monkeypatch, tmp_path):
    plan = evidence.plan()
    rows = [{"recipe": name, "vae": vae, "parameters": p} for name, p in plan for vae in "BA"]
    frame = pd.DataFrame(rows[::-1])
    found = evidence.planned(frame, plan)
    assert [*found.vae] == ["A", "B"] * len(plan)
    assert [*zip(found.recipe, found.parameters, strict=True)][::2] == [*plan]
    frame.loc[0, "parameters"] = "0" * 12
    assert len(evidence.planned(frame, plan)) == len(frame) - 1
    assert evidence.planned(frame, plan, others=True).parameters.iloc[-1] == "0" * 12
    assert evidence.curve_is_current() and len(evidence.planned(evidence.read(), plan)) == 80
    monkeypatch.setattr(evidence, "path", lambda _name="": tmp_path / "old.csv")
    assert not evidence.curve_is_current() and evidence.read().empty
    frame[["recipe", "vae"]].to_csv(tmp_path / "old.csv")  # of before they had parameters
    assert evidence.planned(evidence.read(), plan).empty and not evidence.curve_is_current()


def test_the_summary_names_the_worst_seed_and_never_rounds_to_all():
    frame = planted(0.1, of="mig")
    frame["exact_match_test"], frame["exact_match"] = 0.9999999, 1.0
    frame["rate"] = 16.0 + frame["seed"]  # of which the largest is the worst
    whole, *_ = evidence.summary(frame).to_dict("records")
    assert (whole["recipe"], whole["VAE"], whole["seeds"]) == ("whole", "A", "4")
    assert whole[METRICS["mig"].title] == "0.75, worst 0.59"
    assert whole[METRICS["rate"].title] == "17.5, worst 19"
    assert whole[METRICS["exact_match"].title] == "100.00%"
    assert whole[METRICS["exact_match_test"].title] == ">99.9999%"
