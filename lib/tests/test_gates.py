import itertools
import math
from pathlib import Path

import pytest
import torch
from fluxttice_core import params
from fluxttice_core.errors import InputError
from fluxttice_core.metrics.gates import gates, judge, verdict
from fluxttice_core.metrics.marginal import FEWEST
from fluxttice_core.model.network import VAES
from fluxttice_core.model.operations import all_operations, split

PARAMS = Path(__file__).parents[2] / "params" / "certify.yaml"
NAN, INF = math.nan, math.inf
NAMES = [
    "exact match on test, posterior mean",
    "exact match on test, posterior sample",
    "argmax coverage at 50,000, of M",
    "argmax coverage at 50,000, of ceiling",
    "argmax coverage at 195,000, of ceiling",
    "generative information, of 9·ln 3",
]
BOUNDS = {
    "min_exact_match_test": 0.95,
    "min_exact_match_test_sampled": 0.15,
    "min_coverage_50000": 0.85,
    "min_coverage_50000_of_ceiling": 0.95,
    "min_coverage_195000_of_ceiling": 0.97,
    "min_information_share": 0.75,
}


@pytest.fixture
def certify():
    """Parameters of a certificate: these bounds, and as few latents as are allowed."""

    def build(**change):
        values = {**params.read_yaml(PARAMS), "checkpoint": "x", "run_dir": "", "k": FEWEST}
        return params.check("certify", {**values, **BOUNDS, "split_seed": 42, **change}, "test")

    return build


def quiet(_step):
    """Where reports of progress go."""


# --- One gate ---


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.91, 0.95, "PASS"),
        (0.90, 0.95, "PASS"),  # the interval begins at the bound
        (0.90, 0.90, "PASS"),
        (0.8999999, 0.95, "ABSTAIN"),
        (0.85, 0.95, "ABSTAIN"),
        (0.85, 0.90, "ABSTAIN"),  # it ends at the bound: not the whole of it is below
        (0.85, 0.8999999, "FAIL"),
        (0.0, 0.0, "FAIL"),
        (-INF, INF, "ABSTAIN"),
        (NAN, NAN, "ABSTAIN"),
        (NAN, 0.95, "ABSTAIN"),
        (NAN, 0.85, "FAIL"),
    ],
)
def test_a_gate_needs_the_whole_interval(low, high, expected):
    assert judge(low, high, 0.9) == expected


@pytest.mark.parametrize("bound", [0.0, 0.5, 1.0, NAN])
def test_what_is_not_a_number_never_passes(bound):
    assert judge(NAN, NAN, bound) != "PASS"
    assert judge(NAN, 1.0, bound) != "PASS"
    assert judge(1.0, NAN, bound) != "PASS"
    assert judge(0.0, 1.0, NAN) == judge(1.0, 1.0, NAN) == "ABSTAIN"


def test_a_gate_passes_exactly_where_the_interval_is_above():
    """On a grid, against the words: each of three verdicts from its own condition."""
    grid = [i / 20 for i in range(21)]
    for low, high, bound in itertools.product(grid, repeat=3):
        if low > high:
            continue
        above = all(x >= bound for x in (low, (low + high) / 2, high))
        below = all(x < bound for x in (low, (low + high) / 2, high))
        expected = "PASS" if above else "FAIL" if below else "ABSTAIN"
        assert judge(low, high, bound) == expected


# --- The verdict ---


@pytest.mark.parametrize(
    "found, expected",
    [
        ([], "ABSTAIN"),
        (["PASS"], "PASS"),
        (["PASS", "PASS"], "PASS"),
        (["ABSTAIN"], "ABSTAIN"),
        (["PASS", "ABSTAIN"], "ABSTAIN"),
        (["FAIL"], "FAIL"),
        (["PASS", "FAIL"], "FAIL"),
        (["ABSTAIN", "FAIL"], "FAIL"),
        (["PASS", "ABSTAIN", "FAIL"], "FAIL"),
        (["PASS"] * 11 + ["ABSTAIN"], "ABSTAIN"),
        (["PASS", "ERROR"], "ABSTAIN"),  # a word that is no verdict
        (["PASS"] * 11 + ["FAIL"], "FAIL"),
    ],
)
def test_the_verdict_is_the_worst_of_the_gates(found, expected):
    for order in (found, found[::-1]):
        assert verdict([{"verdict": one} for one in order]) == expected


# --- The gates of a model ---


def test_a_perfect_model_passes_and_a_bound_inside_an_interval_does_not(perfect_model, certify):
    steps = []
    rows = gates(perfect_model, certify(), steps.append)
    assert [(row["gate"], row["vae"]) for row in rows] == [
        (name, vae) for vae in VAES for name in NAMES
    ]
    assert [row["bound"] for row in rows] == [*BOUNDS.values()] * 2
    assert verdict(rows) == "PASS"
    for row in rows:
        low, high = row["ci95"]
        assert 0 <= low <= row["value"] <= high <= 1
        assert row["value"] > 0.9 and low >= row["bound"] and row["verdict"] == "PASS"
    assert rows[0]["ci95"] == [rows[0]["value"]] * 2 == [1, 1]  # a census: nothing is drawn
    assert rows[2]["value"] == pytest.approx(0.9212, abs=0.001)  # of M: what N = 50,000 allows
    assert len(steps) == 2

    # The same draws again, against a bound inside an interval and one that no one can reach.
    inside = sum(rows[3]["ci95"]) / 2
    p = certify(min_coverage_50000=0.93, min_coverage_50000_of_ceiling=inside)
    again = gates(perfect_model, p, quiet)
    assert [(row["value"], row["ci95"]) for row in again] == [
        (row["value"], row["ci95"]) for row in rows
    ]
    assert [row["verdict"] for row in again[:6]] == [
        *["PASS"] * 2,
        "FAIL",
        "ABSTAIN",
        *["PASS"] * 2,
    ]
    assert verdict(again) == "FAIL"


def test_what_one_vae_lacks_fails_its_own_gates_alone(perfect_model, certify):
    """VAE-B does not encode trit 6, so a third of the operations come back. VAE-A's decoder never
    changes it, so a third are reached, and 8/9 of the information is left."""
    perfect_model.encoder_B.fc_mu.weight.data[6] = 0
    layer = perfect_model.decoder_A.decoder[4]
    layer.weight.data[18:21], layer.bias.data[18:21] = 0, torch.tensor([0.0, 1e6, 0.0])
    rows = gates(perfect_model, certify(), quiet)
    a, b = rows[:6], rows[6:]
    reached = 3**8 * (1 - (1 - 3**-8) ** 195_000) / (3**9 * (1 - (1 - 3**-9) ** 195_000))
    assert a[4]["value"] == pytest.approx(reached, abs=0.001)
    assert a[5]["value"] == pytest.approx(8 / 9, abs=0.002)
    assert [row["verdict"] for row in a] == ["FAIL", "PASS", *["FAIL"] * 3, "PASS"]
    survive = float((all_operations()[split(42).test, 6] == 0).double().mean())  # of test alone
    assert a[0]["value"] == b[0]["value"] == pytest.approx(survive, abs=1e-9)
    assert 0.3 < survive < 0.37
    assert [row["verdict"] for row in b] == ["FAIL", *["PASS"] * 5]  # of samples 0.15 is enough
    assert verdict(rows) == "FAIL" and verdict(rows[7:]) == "PASS"


def test_weights_that_are_not_numbers_are_refused(perfect_model, certify):
    perfect_model.decoder_B.fc_out.bias.data[0] = NAN
    with pytest.raises(InputError, match="logits that are not numbers"):
        gates(perfect_model, certify(), quiet)


def test_fresh_weights_fail_every_gate(untrained, certify):
    rows = gates(untrained, certify(), quiet)
    assert [row["verdict"] for row in rows] == ["FAIL"] * 12
    assert verdict(rows) == "FAIL"
