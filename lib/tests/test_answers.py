"""The evidence: what it concludes from planted differences, and what it must show."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fluxttice_core.metrics.observation import metric
from fluxttice_core.report import evidence
from fluxttice_core.report.evidence import ASKED_OF, Answer

QUESTION = {"Does it help?": ("whole", "without")}
GAINS = np.array([0.09, 0.10, 0.11, 0.10])  # over seeds, which move both recipes alike
N = len(ASKED_OF) * 2  # differences that are asked of, over both VAEs


def planted(gain=0.0, of="mig", vaes="AB", seeds=4, recipes=("whole", "without")):
    """A frame of recipes × seeds × VAEs, with `gain`·GAINS/0.1 between the first two in `of`."""
    base = dict.fromkeys([*ASKED_OF, *evidence.METRICS], 0.5)
    return pd.DataFrame(
        {"recipe": recipe, "seed": seed, "epoch": 0, "vae": vae, **base}
        | {of: 0.5 + 0.1 * seed + (recipe == "whole") * gain * GAINS[seed] / 0.1}
        for recipe in recipes
        for seed in range(seeds)
        for vae in vaes
    )


@pytest.mark.parametrize(
    "gain, of, word",
    [(0.1, "mig", "helps"), (-0.1, "mig", "hurts"), (9, "rate", "hurts"), (-9, "rate", "helps")],
)
def test_a_paired_difference_shows_through_the_noise_of_the_seeds(gain, of, word):
    """The closed form: Student t at 1 - 5 %/n; of the rate, less is better."""
    found = {(a.vae, a.metric): a for a in evidence.answers(planted(gain, of), QUESTION)}
    points = ASKED_OF[of] * gain * GAINS / 0.1
    half = stats.t.ppf(1 - 0.05 / N / 2, 3) * points.std(ddof=1) / 2
    assert len(found) == N
    for (_, name), answer in found.items():
        assert answer.verdict == (word if name == of else "no effect")
        if name == of:
            expected = points.mean(), points.mean() - half, points.mean() + half
            assert answer[4:] == pytest.approx(expected) and answer.seeds == 4
    line = next(iter(found.values()))
    assert line.row["answer"] == line.verdict and line.row["unit"] == "points"


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
    [*found] = evidence.answers(planted(0.1, seeds=1), QUESTION)
    assert {a.verdict for a in found} == {"–"} and {a.low for a in found} == {-np.inf}
    apart = planted()
    apart.loc[apart.recipe == "without", "seed"] += 100
    for frame in (planted(recipes=["whole"]), apart):
        assert evidence.answers(frame, QUESTION) == []


def test_where_nothing_differs_an_effect_is_claimed_in_at_most_one_case_of_twenty():
    """200 tables of noise, three seeds each; five standard errors of 5 % above it."""
    rng, frame, claims = np.random.default_rng(1), planted(seeds=3, vaes="A"), 0
    for _ in range(200):
        frame[list(ASKED_OF)] = rng.normal(size=(len(frame), len(ASKED_OF)))
        found = {a.verdict for a in evidence.answers(frame, QUESTION)}
        claims += bool(found & {"helps", "hurts"})
    assert 0.02 * 200 < claims < (0.05 + 5 * (0.05 * 0.95 / 200) ** 0.5) * 200


def test_the_summary_names_the_worst_seed_and_never_rounds_to_all():
    frame = planted(0.1, of="mig")
    frame["exact_match_test"], frame["exact_match"] = 0.9999999, 1.0
    frame["rate"] = 16.0 + frame["seed"]  # of which the largest is the worst
    whole, *_ = evidence.summary(frame).to_dict("records")
    assert (whole["recipe"], whole["VAE"], whole["seeds"]) == ("whole", "A", "4")
    assert whole[metric("mig").title] == "0.750, worst 0.590"
    assert whole[metric("rate").title] == "17.5000, worst 19.0000"
    assert whole[metric("exact_match").title] == "100.00%"
    assert whole[metric("exact_match_test").title] == "99.99999%"
