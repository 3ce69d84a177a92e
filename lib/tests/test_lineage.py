"""The annex on v5.x files: their projection, their structure metrics, and what they claim."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_layouts import BARE, apply, block, loaded
from torch.nn import functional

import fluxttice_core
from fluxttice_core.errors import InputError
from fluxttice_core.lineage import metrics, page
from fluxttice_core.lineage.projection import projections
from fluxttice_core.model.network import D
from fluxttice_core.model.operations import M, all_operations
from fluxttice_core.model.streams import generator

V = metrics.valuation()
POINT, WIDE = 0.01, 0.4  # half-widths of intervals


def test_nothing_else_imports_the_annex():
    root = Path(fluxttice_core.__file__).parent
    others = [p for p in root.rglob("*.py") if "lineage" not in p.relative_to(root).parts[0]]
    assert [p for p in others if "from ..lineage" in p.read_text("utf-8")] == []


@pytest.mark.parametrize("dropout", [0, 1])
@pytest.mark.parametrize("config", [{"max_radius": 0.8}, {"model": {"max_radius": 0.8}}, None])
def test_the_projection_computes_its_formula(tmp_path, config, dropout):
    """Dropout has a number among the layers and no tensor, and so changes no output."""
    state = BARE["v5.12 to v5.12.4 plain" + ", without dropout" * (not dropout)]
    ball = projections(loaded(tmp_path, {"model": state}).model, config)["B"]
    z, at = torch.randn(50, D, generator=generator(1, "z")), "projection.proj_B"
    d, r, limit = z, z, 0.8 if config else 0.95
    for layer in (0, 1):
        d = block(state, f"{at}.direction_net", (3 + dropout) * layer, d)
        r = functional.silu(apply(state, f"{at}.radius_net.{(2 + dropout) * layer}", r))
    d = z + apply(state, f"{at}.direction_net.{6 + 2 * dropout}", d)
    radius = limit / (1 + (-apply(state, f"{at}.radius_net.{4 + 2 * dropout}", r)).exp())
    y = ball(z)
    assert torch.allclose(y, d / d.norm(dim=1, keepdim=True) * radius, atol=1e-5)
    r = y.norm(dim=1, keepdim=True)
    assert torch.allclose(ball.tangent(y), y / r * r.atanh(), atol=1e-4)
    (max_radius, source), (c, tensor) = ball.hyperparameters.values()
    assert math.isclose(c, 1, abs_tol=1e-4) and tensor == "isp_c" and max_radius == limit
    assert ("assumed" in source) is (config is None)


def test_both_encoders_may_share_a_projection_or_have_none(tmp_path):
    z = torch.randn(9, D, generator=generator(1, "z"))
    one = projections(loaded(tmp_path, {"model": BARE["v5.11 single projection"]}).model, None)
    assert torch.equal(one["A"](z), one["B"](z))
    assert projections(loaded(tmp_path, {"model": BARE["v5.7"]}).model, None) == {}


def test_valuation_is_how_often_three_divides_the_index():
    assert V.bincount().tolist() == [13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1] and V[0] == 9
    assert all(i % 3 ** int(V[i]) == 0 and i % 3 ** (int(V[i]) + 1) for i in range(1, M, 7))


NOISE = torch.rand(M, generator=generator(0, "cheap radii"), dtype=torch.float64)
RADII = {  # radii that need no network → hierarchy and D3; docs/lineage.md has this table
    "one radius a level": ((9 - V) / 10, -1.000, 0.999),
    "that order without ties": ((9 - V + NOISE / 1000) / 10, -0.83205, 0.912),
    "the first trit alone": (((all_operations()[:, 0] > -1) + NOISE / 1000) / 2, -0.8009, 0.720),
    "the first trit alone, two values": ((all_operations()[:, 0] > -1) / 2, -0.981, 0.845),
    "the mean of the trits": ((all_operations().double().mean(1) + 1) / 2.1, -0.308, 0.078),
    "all equal": (NOISE * 0, 0, 0),
    "random": (NOISE, 0, 0),
}


@pytest.mark.parametrize("name", RADII)
def test_hierarchy_d3_and_q_of_radii_that_need_no_network(name):
    r, hierarchy, d3 = RADII[name]
    found = metrics.structure_metrics(r[:, None], 1.0, generator(0, "pairs"))
    assert found["hierarchy"] == pytest.approx(hierarchy, abs=0.02 if name == "random" else 0.004)
    assert found["D3"] == pytest.approx(d3, abs=0.04)
    assert found["Q (D3)"] == pytest.approx(found["D3"] + 1.5 * abs(found["hierarchy"]))


def test_planted_points_have_their_closed_forms():
    rng = generator(0, "planted")
    outside = metrics.structure_metrics(torch.full((M, 1), 0.8), 2.0, rng)  # beyond 1/√2
    assert "D1" not in outside and "richness, hyperbolic" not in outside
    spread = torch.where(torch.arange(M) % 2 == 0, 0.5, 0.3) * (V == 0)
    found = metrics.structure_metrics(spread[:, None], 1.0, rng)
    assert found["richness"] == pytest.approx(float(spread[V == 0].double().var(correction=0)) / 10)
    assert found["radius_max, hyperbolic"] == pytest.approx(2 * math.atanh(0.5))
    line = metrics.structure_metrics((V[:, None] - 4.5) / 10, 0.01, rng)
    assert line["D2"] == pytest.approx(1, abs=1e-3)  # distance is the difference of v


def test_d1_is_pearson_of_the_poincare_distance():
    """From the definition by artanh of the Möbius difference, on the same pairs."""
    y = torch.rand(M, 1, generator=generator(0, "y"), dtype=torch.float64) * 0.9
    i, j = torch.randint(M, (3, 100_000), generator=generator(7, "pairs"))[:2, :2_000]
    distance = 2 * ((y[i] - y[j]).abs() / (1 - y[i] * y[j])).atanh()[:, 0]
    wanted = 3 * (-V[(i - j).abs()] / 3).exp()
    expected = torch.corrcoef(torch.stack([distance, wanted.double()]))[0, 1]
    found = metrics.structure_metrics(y, 1.0, generator(7, "pairs"))
    assert found["D1"] == pytest.approx(float(expected), abs=1e-6)


def test_a_point_that_is_not_finite_is_an_error_and_no_number():
    with pytest.raises(InputError, match="not finite"):
        metrics.structure_metrics(torch.full((M, 2), math.inf), None, generator(0, "x"))


def test_measures_of_a_perfect_model(perfect_model):
    found = metrics.measure(perfect_model, "A", None, 3, 0)
    assert found.value["exact match from mu"] == 1
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    value, low, high = found.loc["hierarchy"]
    assert low < value < high and found.high["exact match from a sample"] <= 1
    assert "D1" not in found.index and "exact match from the tangent path" not in found.index


CLAIMS = """
v5.12 hierarchy_B -0.805 agrees: hierarchy of B
v5.12 radial_corr_B -0.9 differs: hierarchy of B
v5.12 distance_corr_B 0.5 agrees: D2 of B
v5.11 distance_corr_B 0.5 differs: D1 of B
v5.11 dist_corr_B 0.5 agrees: D2 of B
v5.12 dist_corr 0.5 agrees: D2 of B
v5.11 radius_min_B 0.1 agrees: radius_min of B
v5.12 Q 1.9 agrees: Q (D3) of B
v5.12 coverage 1.0 agrees: exact match from mu of A
v5.11 coverage 0.3 agrees: exact match from a sample of A
v5.12 r_v0_B 2.2 agrees: radius_v0, hyperbolic of B
v5.12 r_v9_B 0.36 not told: radius_v9 of B
v5.12 r_v9_B 0.6 differs: radius_v9 of B
v5.12 radius_max_B 3.6 agrees: radius_max, hyperbolic of B
v5.12 radius_min 0.1 agrees: radius_min of B or radius_min of A
v5.11 Q_B 1.5 agrees: Q (D1) of B
v5.12 Q_B 1.5 cannot be recomputed:
epsilon-coupled radius_min_B 0.1 cannot be recomputed:
epsilon-coupled coverage 1.0 cannot be recomputed:
v5.6 coverage 1.0 cannot be recomputed:
v5.6 H_A_history 1.0 cannot be recomputed:
v5.12 best_Q 1.0 cannot be recomputed:
"""


@pytest.mark.parametrize("line", CLAIMS.strip().splitlines())
def test_claims_are_compared_under_their_own_definition(line):
    (layout, name, stored), outcome = line.split(" ", 3)[:3], line.split(" ", 3)[3]
    a = {"exact match from mu": 1.0, "exact match from a sample": 0.3, "radius_min": 0.1}
    b = {"hierarchy": -0.8, "D1": 0.3, "D2": 0.5, "D3": 0.7, "Q (D3)": 1.9, "radius_min": 0.1}
    b |= {"Q (D1)": 1.5, "radius_v0": 0.8, "radius_v0, hyperbolic": 2.2, "radius_v9": 0.12}
    b |= {"radius_max, hyperbolic": 3.6}
    keys = {(vae, k): x for vae, found in (("A", a), ("B", b)) for k, x in found.items()}
    half = [WIDE if k == "radius_v9" else POINT for _, k in keys]
    value = pd.Series(keys)
    measured = pd.DataFrame({"value": value, "low": value - half, "high": value + half})
    noise = {"epoch": 3, "lambda1": 0.5, "note": "x", "tau_frozen": True, "loss": math.inf}
    claim = [9.0, float(stored)] if "history" in name else float(stored)
    [row] = metrics.compare({"metrics": {name: claim}, **noise}, measured, layout).itertuples()
    assert (row.claim, row.stored) == (name, float(stored))
    assert f"{row.verdict}: {row.definition}".strip() == outcome
    assert math.isnan(row.value) is (row.verdict == "cannot be recomputed")


def test_the_result_is_said_in_words(tmp_path):
    claims = {"Q": 9.0, "epoch": 3, "best_Q": 2.0, "metrics": {"<i>, Q": 8.0}}
    file = loaded(tmp_path, {"model": BARE["v5.12 to v5.12.4 plain"], **claims})
    balls = projections(file.model, None)
    measured = {vae: metrics.measure(file.model, vae, balls[vae], 2, 0) for vae in "AB"}
    found = metrics.compare(file.section("claims"), pd.concat(measured), file.model.layout)
    text = page.opening(file, pd.concat(measured), found).data
    for words in (
        "x.pt is a v5.x checkpoint (v5.12 to v5.12.4 plain)",
        "from mu and",
        "from the tangent path",
        "Encoder B has no decoder",
        "claims 3 numbers about itself (differs: 2, not told: 0, agrees: 0, cannot",
        "Q = 9 does not hold: Q (D3) of B is",
        "&lt;i&gt;, Q = 8",
    ):
        assert words in text
    text = page.opening(file, pd.concat(measured), found[:0]).data
    assert "It claims nothing about itself." in text


def test_a_number_is_shown_with_its_interval():
    assert page.shown("D1", 0.5, 0.4, 0.6) == "0.5 (0.4 … 0.6)"
    assert page.shown("exact match from mu", 19682 / M, 19682 / M, 19682 / M) == "99.9949%"
    assert page.shown("D1", math.nan, 0.4, 0.6) == "0.4 … 0.6"
