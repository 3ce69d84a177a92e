"""The evidence table: what it concludes from planted differences, and what it must show."""

import pandas as pd
import pytest
from fluxttice_core import evidence

MUST = {
    "coverage_50000": 0.995,
    "coverage_195000": 0.9999,
    "information": 0.97,
    "exact_match_test": 1.0,
    "exact_match_test_sampled": 0.99,
}


def planted(gain: float) -> pd.DataFrame:
    """Two recipes, four seeds that move both alike, and `gain` between the recipes."""
    base = {metric: 0.5 for metric in evidence.METRICS}
    return pd.DataFrame(
        {"recipe": recipe, "seed": seed, "epoch": 0, "vae": vae, **base}
        | {"information": 0.5 + 0.01 * seed + more * (1 + 0.01 * seed)}
        for recipe, more in (("v5.5", gain), ("v5.5, no StateNet", 0.0))
        for seed in range(4)
        for vae in "AB"
    )


@pytest.mark.parametrize(("gain", "word"), [(0.1, "helps"), (-0.1, "hurts")])
def test_a_paired_difference_shows_through_the_noise_of_the_seeds(gain, word):
    (line,) = evidence.answers(planted(gain))
    assert line.startswith("Does StateNet help?") and f"information A {word}" in line


def test_no_difference_is_no_effect_and_one_seed_is_no_interval():
    (line,) = evidence.answers(planted(0.0))
    assert "information A no effect seen" in line
    (line,) = evidence.answers(planted(0.1).query("seed == 0"))
    assert "one seed" in line


def test_the_default_recipe_reaches_what_it_must_on_the_worst_seed():
    """reports/evidence.csv, five seeds, both VAEs: what the README and notebook rest on."""
    frame = evidence.read().query("recipe == 'straight'")
    assert sorted(frame[frame.vae == "A"].seed) == sorted(frame[frame.vae == "B"].seed)
    assert set(frame.seed) == {0, 1, 2, 3, 4}
    for metric, bound in MUST.items():
        assert frame[metric].min() >= bound, metric


def test_the_summary_names_the_worst_seed():
    text = evidence.summary(planted(0.1)).to_string()
    assert "worst" in text and "v5.5, no StateNet" in text
