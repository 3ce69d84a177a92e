"""The lineage's metrics, its projection, and what its files claim."""

import math
from decimal import Decimal

import pytest
import torch
from fluxttice_core.model.projection import attach
from planted import same
from test_layouts import BARE, apply, block, loaded, outputs
from torch.nn import functional

from fluxttice_core import files, parallel
from fluxttice_core.certification import certificate
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.checkpoints.layouts import network_of
from fluxttice_core.errors import InputError
from fluxttice_core.metrics import lineage as metrics
from fluxttice_core.metrics.gates import Judged
from fluxttice_core.model.network import D, DualVAE
from fluxttice_core.model.operations import M
from fluxttice_core.model.streams import generator
from fluxttice_core.report import lineage as page
from fluxttice_core.report.tables import ends

pytestmark = pytest.mark.usefixtures("forked")


@pytest.mark.parametrize("dropout", [0, 1])
@pytest.mark.parametrize("recorded", [{"max_radius": 0.8}, {"model": {"max_radius": 0.8}}, None])
def test_the_projection_is_that_of_the_readme(recorded, dropout):
    """Dropout has a number among the layers and no tensor, and so changes no output."""
    state = BARE["v5.12 to v5.12.4 plain" + ", without dropout" * (not dropout)]
    made = attach(network_of(state, "x"), recorded)["B"]
    z, at = torch.randn(50, D, generator=generator(1, "z")), "projection.proj_B"
    d, r, limit = z, z, 0.8 if recorded else 0.95
    for layer in (0, 1):
        d = block(state, f"{at}.direction_net", (3 + dropout) * layer, d)
        r = functional.silu(apply(state, f"{at}.radius_net.{(2 + dropout) * layer}", r))
    d = z + apply(state, f"{at}.direction_net.{6 + 2 * dropout}", d)
    radius = limit / (1 + (-apply(state, f"{at}.radius_net.{4 + 2 * dropout}", r)).exp())
    y = made(z)
    assert torch.allclose(y, d / d.norm(dim=1, keepdim=True) * radius, atol=1e-5)
    r = y.norm(dim=1, keepdim=True)
    assert torch.allclose(made.tangent(y), y / r * r.atanh(), atol=1e-4)
    (radius, source), (c, at) = made.stated.values()
    assert math.isclose(c, 1, abs_tol=1e-4) and at == "isp_c" and radius == limit
    assert ("assumed" in source) is (recorded is None)


# --- The lineage's metrics ---

CHEAP = {  # hierarchy and D3, by the lineage's README
    "all equal": (0, 0),
    "ceiling": (-1.000, 0.999),
    "ceiling, no ties": (-0.83205, 0.912),
    "first trit": (-0.8009, 0.720),
    "mean trit": (-0.308, 0.078),
    "random": (0, 0),
}


@pytest.fixture
def few(monkeypatch):
    """The metrics come from few pairs and triplets, in this process, which knows of it."""
    monkeypatch.setattr(parallel, "each", lambda jobs, _: [one[1](*one[2]) for one in jobs])
    monkeypatch.setattr(metrics, "OPERATIONS", 50)
    monkeypatch.setattr(metrics, "TRIPLETS", metrics.PAIRS)


def exact(value, half=0.0):
    ends = {"low": value - half, "high": value + half}
    return metrics.exact(value, 5).model_copy(update=ends)


def test_valuation_is_how_often_three_divides_the_index():
    v = metrics.valuation()
    assert v.bincount().tolist() == [13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1] and v[0] == 9
    assert all(i % 3 ** int(v[i]) == 0 and i % 3 ** (int(v[i]) + 1) for i in range(1, M, 7))


def test_cheap_points_reach_what_they_are_said_to():
    points = metrics.cheap_points(0)
    assert [name for name, _ in points] == [*CHEAP, *["random maps"] * 5]
    for (name, y), (hierarchy, d3) in zip(points, CHEAP.values(), strict=False):
        found = metrics.of_points(y, 1.0, generator(0, "pairs"))
        near = 0.02 if name == "random" else 0.004
        assert found["hierarchy"] == pytest.approx(hierarchy, abs=near)
        assert found["D3"] == pytest.approx(d3, abs=0.04)
        assert found["Q (D3)"] == pytest.approx(found["D3"] + 1.5 * abs(found["hierarchy"]))
    for _, y in points[len(CHEAP) :]:
        r = y.norm(dim=1)
        [hierarchy] = metrics.correlations("spearman", v=metrics.valuation(), r=r).values()
        assert r.max() < 1 and -0.3 < hierarchy < 0.5
        assert torch.linalg.matrix_rank(y) == 10  # affine in the nine trits


def test_planted_points_have_their_closed_forms():
    v, rng = metrics.valuation(), generator(0, "planted")
    collapsed = metrics.of_points(torch.zeros(M, 2), 1.0, rng)
    assert collapsed["triplets"] == pytest.approx(0.75, abs=0.01) and collapsed["hierarchy"] == 0
    coin = metrics.of_points(torch.randn(M, 16, generator=rng), None, rng)
    assert coin["triplets"] == pytest.approx(0.5, abs=0.01) and "D1" not in coin
    outside = metrics.of_points(torch.full((M, 1), 0.8), 2.0, rng)  # beyond 1/√2
    assert "D1" not in outside and "richness, hyperbolic" not in outside
    spread = torch.where(torch.arange(M) % 2 == 0, 0.5, 0.3) * (v == 0)
    found = metrics.of_points(spread[:, None], 1.0, rng)
    assert found["richness"] == pytest.approx(float(spread[v == 0].double().var(correction=0)) / 10)
    line = metrics.of_points((v[:, None] - 4.5) / 10, 0.01, rng)
    assert line["D2"] == pytest.approx(1, abs=1e-3)  # distance is the difference of v


def test_a_point_that_is_not_finite_is_a_sentence_and_no_number():
    state = BARE["v5.11 dual"]
    wide = state | {"encoder_B.fc_mu.weight": state["encoder_B.fc_mu.weight"] * 1e38}
    attach(model := network_of(wide, "x"), None)
    with pytest.raises(InputError, match="not finite"):
        metrics.measure(model, "B", 2, 0)


def test_d1_is_pearson_of_the_poincare_distance():
    """From the definition by artanh of the Möbius difference, on the same pairs."""
    y = torch.rand(M, 1, generator=generator(0, "y"), dtype=torch.float64) * 0.9
    i, j, _ = torch.randint(M, (3, metrics.TRIPLETS), generator=generator(7, "pairs"))
    i, j = i[: metrics.PAIRS], j[: metrics.PAIRS]
    distance = 2 * ((y[i] - y[j]).abs() / (1 - y[i] * y[j])).atanh()[:, 0]
    wanted = 3 * (-metrics.valuation()[(i - j).abs()] / 3).exp()
    expected = torch.corrcoef(torch.stack([distance, wanted.double()]))[0, 1]
    found = metrics.of_points(y, 1.0, generator(7, "pairs"))
    assert found["D1"] == pytest.approx(float(expected), abs=1e-6)


def test_measures_of_a_perfect_model(perfect_model, few):
    found = metrics.measure(perfect_model, "A", 3, 0)
    row = found["hierarchy"]
    assert found["exact match from mu"].value == 1 and found["hierarchy of mu"].n == M
    assert row.low < row.value < row.high and row.n == 3


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
v5.12 radius_max_B 3.6 agrees: radius_max, hyperbolic of B
v5.12 radius_min 0.1 agrees: radius_min of B or radius_min of A
v5.11 Q_B 1.5 agrees: Q (D1) of B
v5.12 Q_B 1.5 cannot be recomputed: ?
epsilon-coupled radius_min_B 0.1 cannot be recomputed: ?
epsilon-coupled coverage 1.0 cannot be recomputed: ?
v5.6 coverage_A 1.0 cannot be recomputed: ?
v5.6 H_A_history 1.0 cannot be recomputed: ?
v5.12 best_Q 1.0 cannot be recomputed: ?
"""


@pytest.mark.parametrize("line", CLAIMS.strip().splitlines())
def test_claims_are_compared_under_their_own_definition(line):
    (layout, name, stored, *_), what = line.split(" "), line.split(" ", 3)[3]
    values = {"hierarchy": -0.8, "D1": 0.3, "D2": 0.5, "D3": 0.7, "Q (D3)": 1.9, "radius_min": 0.1}
    values |= {
        "Q (D1)": 1.5,
        "radius_v0": 0.8,
        "radius_v0, hyperbolic": 2.2,
        "radius_max, hyperbolic": 3.6,
    }
    ours = {name: exact(value, 0.01) for name, value in values.items()}
    a = {"exact match from mu": 1.0, "exact match from a sample": 0.3, "radius_min": 0.1}
    measured = {"A": {name: exact(value) for name, value in a.items()}, "B": ours}
    noise = {"epoch": 3, "lambda1": 0.5, "note": "x", "tau_frozen": True, "loss": math.inf}
    claim = [9.0, float(stored)] if "history" in name else float(stored)
    [row] = metrics.compare({"metrics": {name: claim}, **noise}, measured, layout)
    assert (row.name, row.stored) == (name, float(stored))
    assert f"{row.verdict}: {row.definition}" == what.replace("?", metrics.UNKNOWN)
    assert (row.measured is None) is (row.verdict == "cannot be recomputed")


def test_coverage_is_of_draws_where_b_has_a_decoder():
    both = {vae: {"exact match from mu": exact(1.0)} for vae in "AB"}
    [row] = metrics.compare({"coverage": 1.0}, both, "v5.6 to v5.9")
    assert row.verdict == "cannot be recomputed"


@pytest.mark.parametrize("stored, verdict", [
    (Decimal("0.62"), "agrees"), (Decimal("0.6"), "agrees"), (Decimal("6e-1"), "agrees"),
    (Decimal("0.620"), "differs"), (Decimal("0.61"), "differs"), (1, "differs"), (0.62, "differs"),
])  # fmt: skip
def test_a_claim_made_elsewhere_agrees_at_the_digits_it_is_given_with(stored, verdict):
    name = f"richness_A{metrics.ELSEWHERE}"
    measured = {"A": {"richness": exact(0.6183)}, "B": {}}
    [row] = metrics.compare({name: stored}, measured, "v5.12")
    assert (row.name, row.stored, row.verdict) == (name, float(stored), verdict)


def test_what_floors_reach_decides_nothing():
    def decides(value, name="hierarchy"):
        beside = {"ceiling: one": -1.0, "one trit": -0.8, "untrained": 0.4}
        found = metrics.Lineage.model_construct(
            measured={"B": {name: exact(value)}},
            beside={
                what: {"hierarchy": (at, at), "hierarchy of mu": (at, at)}
                for what, at in beside.items()
            },
        )  # fmt: skip
        return found.decides(name, "B")

    assert decides(-0.81) and decides(-0.81, "hierarchy of mu")
    assert not decides(-0.79) and not decides(0.9)
    assert not decides(1.0, "exact match from the tangent path")  # there is nothing to compare with


# --- The section of the pages and of the certificate ---


def test_a_file_is_shown_and_certified_as_what_it_is(tmp_path, strict, few):
    """The whole way of a file: loaded, with a README's claims, beside the v5.5 file it began as."""
    base = checkpoint.save(tmp_path / "v5_5", DualVAE.fresh(1), 0, {})
    state = checkpoint.load(base).model.state_dict()
    inherited = [k for k in state if k.startswith(("encoder_A.", "decoder_A."))]
    state = BARE["v5.12 to v5.12.4 plain"] | {k: state[k] for k in inherited}
    claims = {"Q": 9.0, "epoch": 3, "best_Q": 2.0, "loss": math.inf}
    given = tmp_path / "claims.yaml"
    given.write_text("Q: 1.96\nmean_radius_A: 0.40\nmean_radius_B: 0.5")
    file = loaded(tmp_path, {"model_state_dict": state, **claims})
    found = page.of(file, strict, str(given), str(base))
    assert found.inherited == inherited
    assert [f"{row.name}: {row.verdict}" for row in found.claims] == [
        "Q: differs", "best_Q: cannot be recomputed", "Q, claimed elsewhere: differs",
        "mean_radius_A, claimed elsewhere: differs", "mean_radius_B, claimed elsewhere: agrees",
    ]  # fmt: skip
    text = "".join(shown.to_html() for shown in page.section(found))
    words = "none recorded|0.95|differs|assumed|steers training alone|tangent path|random maps"
    words = (*words.split("|"), "encoder B has no decoder", page.PRIOR, inherited[0])
    assert [word for word in words if word not in text] == []
    mu, sample = (found.beside["untrained"][f"hierarchy{of}"] for of in (" of mu", ""))
    assert mu != sample and ends(*mu, "number") in text and ends(*sample, "number") in text
    assert "claims nothing" in page.section(found.model_copy(update={"claims": []}))[2].data

    row = Judged(gate="max_rate", vae="A", bound=1, measured=exact(1), verdict="PASS")
    stated = certificate.state(file, strict, [row], [], found)
    issued = certificate.issue(tmp_path / "certified", file, stated)
    assert issued.imported["sha256"] == files.sha256((tmp_path / "x.pt").read_bytes())
    assert issued.split["trained_on"] == "not recorded" and issued.recipe is None
    written = (tmp_path / "certified" / certificate.CERTIFICATE).read_bytes()
    assert certificate.Certificate.model_validate_json(written, strict=True) == issued
    assert issued.lineage == found
    again = checkpoint.load(tmp_path / "certified")
    assert again.manifest["claims"] == file.manifest["claims"]
    assert same(outputs(again.model), outputs(file.model))

    given.write_text("Q: all")
    with pytest.raises(InputError, match="Q is 'all', but a claim must be a number"):
        page.of(file, strict, str(given))


def test_a_checkpoint_of_ours_has_no_such_section(saved, strict):
    assert page.of(checkpoint.load(saved), strict) is None
    assert "our own layout" in page.section(None)[0].data
