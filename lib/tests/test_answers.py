"""The evidence: its plan, its rows, and the answers to planted differences."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fluxttice_core.errors import InputError
from fluxttice_core.metrics.measurement import METRICS
from fluxttice_core.metrics.rate import least_rate
from fluxttice_core.report import evidence
from fluxttice_core.report.evidence import ASKED_OF

GAINS = np.array([0.9, 1.0, 1.1, 1.0])  # over seeds, which move both recipes alike
N = len(ASKED_OF) * 2 * 2  # differences that are asked of, over both VAEs and two parts


def planted(gain=0.0, of="mig", seeds=4, recipes=("default", "without", "another")):
    """A frame of recipes × seeds × VAEs, with `gain`·GAINS between the first and the others."""
    base = dict.fromkeys([*ASKED_OF, *evidence.COLUMNS], 0.5)
    return pd.DataFrame(
        {"recipe": recipe, "seed": seed, "epoch": 0, "vae": vae, **base}
        | {of: 0.5 + 0.1 * seed + (recipe == "default") * gain * GAINS[seed]}
        for recipe in recipes
        for seed in range(seeds)
        for vae in "AB"
    )


def answers(frame):
    return evidence.answers(frame, frame.seed < 0)


@pytest.mark.parametrize(
    "gain, of, word",
    [(0.1, "mig", "helps"), (-0.1, "mig", "hurts"), (9, "rate", "hurts"), (-9, "rate", "helps")],
)
def test_a_paired_difference_shows_through_the_noise_of_the_seeds(gain, of, word):
    """The closed form: Student t at 1 - 5 %/n; of the rate, less is better. So where nothing
    differs, an effect is claimed in at most one table of twenty."""
    found = answers(planted(gain, of))
    points = ASKED_OF[of] * gain * GAINS
    half = stats.t.ppf(1 - 0.05 / N / 2, 3) * points.std(ddof=1) / 2
    assert len(found) == N and {*found["failed seeds"]} == {"0 and 0 of 4"}
    shown = found.of == (evidence.RATE if of == "rate" else METRICS[of].title)
    assert {*found.answer[shown]} == {word}
    assert {*found.answer[~shown]} == {"no effect on the typical seed"}
    for row in found[shown][["better by", "from", "to"]].to_numpy():
        assert row == pytest.approx([points.mean(), points.mean() - half, points.mean() + half])


@pytest.mark.parametrize(
    "low, high, words",
    [
        (0.01, 9, "helps"), (-9, -0.01, "hurts"), (0, 0, "no effect on the typical seed"),
        (-0.99, 0.99, "no effect on the typical seed"),
        (-1, 0.5, "undecided: an effect below 0.75 would not show"),
        (-np.inf, np.inf, "undecided: an effect below inf would not show"),
    ],
)  # fmt: skip
def test_no_effect_is_shown_and_not_assumed(low, high, words):
    assert evidence.answer(low, high) == words


def test_seeds_that_fail_are_counted_beside_an_answer_about_the_typical_one():
    frame = planted()
    found = evidence.answers(frame, (frame.recipe == "without") & (frame.seed == 3))
    assert {*found["failed seeds"]} == {"0 and 0 of 4", "0 and 1 of 4"}
    assert {*found.answer} == {"no effect on the typical seed"}


def test_one_seed_tells_nothing_and_a_comparison_without_data_is_left_out():
    assert {*answers(planted(0.1, seeds=1))["to"]} == {np.inf}
    apart = planted()
    apart.loc[apart.recipe != "default", "seed"] += 100
    for frame in (planted(recipes=["default"]), planted(recipes=["other"]), apart):
        assert not len(answers(frame))


def test_exact_match_is_asked_at_its_rate():
    """Half of the operations lost at 12 nats are no gain over nearly all of them at 16.5."""
    frame = planted(recipes=("default", "without"))
    whole = frame.recipe == "default"
    frame["rate"], frame["exact_match_sampled"] = whole * 4.5 + 12, whole * 0.4996 + 0.5
    found = answers(frame)
    rows = found[found.of == evidence.RATE]
    assert {*rows.answer} == {"helps"}
    truth = least_rate(0.9996) - least_rate(0.5) - 4.5
    assert rows["better by"].iloc[0] == pytest.approx(truth)


def test_the_stored_rows_are_those_of_the_plan_whatever_code_trained_them(monkeypatch):
    """Of two versions the last counts; rows of other parameters are left out."""
    points = evidence.plan()
    found = evidence.table(points)
    assert len(found) == 2 * len(points) and [*found.vae] == ["A", "B"] * len(points)
    assert [*found.recipe[::2]] == [point["recipe"] for point in points]
    stored = evidence.read("evidence")
    newer = stored[stored.recipe == "v5.5"].assign(epoch=7, key=lambda t: t.key + "newer")
    other = stored[stored.recipe == "default"].assign(key="0" * 12 + "-unknown")
    both = pd.concat([stored[stored.recipe != "default"], newer, other])
    monkeypatch.setattr(evidence, "read", lambda _name: both)
    found = evidence.table(points)
    assert {*found[found.recipe == "v5.5"].epoch} == {7} and "default" not in {*found.recipe}


def test_the_learning_curve_is_beside_a_linear_probe_of_as_many_operations():
    """Ten operations fit a linear probe of the nine trits, three do not."""
    rows = pd.DataFrame(
        {"train_size": n, "vae": "A", "seed": 1, "split_seed": 42, "exact_match_test": 0.5}
        for n in (10, 3)
    )
    curve = evidence.learning_curve(rows)
    assert [*curve.columns] == ["operations", "vae", "trained", "linear_probe"]
    assert (curve.linear_probe[0], curve.linear_probe[1] < 0.1, *curve.trained) == (
        1,
        True,
        0.5,
        0.5,
    )


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: {file: params/train.yaml}", "evidence.yaml: a: seed must be a list of seeds."),
        ("a: {seed: [1], zzz: 2}", "evidence.yaml: a: unknown parameter zzz"),
        ("a: {seed: [1, x]}", "evidence.yaml: a: seed "), ("[1]", "must be a plan"),
        ("a: {seed: [1], recipe: turned}", "recipe is 'turned', but must be one of axis_aligned"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_one_sentence(text, words, monkeypatch, tmp_path):
    (tmp_path / "evidence.yaml").write_text(text)
    monkeypatch.setattr(evidence, "PLAN", str(tmp_path / "evidence.yaml"))
    with pytest.raises(InputError, match=re.escape(words)):
        evidence.plan()


def test_the_summary_names_the_worst_seed_and_never_rounds_to_all():
    frame = planted(0.1, of="mig")
    frame["exact_match_test"], frame["exact_match_sampled"] = 0.9999999, 1.0
    frame["rate"] = 16.0 + frame["seed"]  # of which the largest is the worst
    whole, *_ = evidence.summary(frame).to_dict("records")
    assert (whole["recipe"], whole["VAE"], whole["seeds"]) == ("default", "A", "4")
    assert whole[METRICS["mig"].title] == "0.75, worst 0.59"
    assert whole[METRICS["rate"].title] == "17.5, worst 19"
    assert whole[METRICS["exact_match_sampled"].title] == "100.00%"
    assert whole[METRICS["exact_match_test"].title] == ">99.9999%"
