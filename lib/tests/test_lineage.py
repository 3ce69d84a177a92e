"""The original's layouts, each in a small file built here: read, measured, attacked.

No file of the original is in this repository; names and shapes are those of the lineage's README.
"""

import contextlib
import itertools
import math
import random
import re
from decimal import Decimal

import pytest
import torch
from planted import same, sentence
from test_checkpoint import pt
from torch.nn import functional

from fluxttice_core import cli, files, parallel
from fluxttice_core.certification import certificate
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.checkpoints.lineage import LAYOUTS, RAW, network_of
from fluxttice_core.errors import InputError
from fluxttice_core.metrics import lineage as metrics
from fluxttice_core.metrics.gates import Judged
from fluxttice_core.model.network import D, DualVAE
from fluxttice_core.model.operations import M, all_operations
from fluxttice_core.model.streams import generator
from fluxttice_core.report import lineage as page
from fluxttice_core.report.tables import ends

MU = all_operations().float()

# Layers by their names and the shapes of their weights; a weight of one dimension is a LayerNorm's.
HEADS = "fc_mu 16 64, fc_logvar 16 64"
ENCODER = f"encoder.0 256 9, encoder.2 128 256, encoder.4 64 128, {HEADS}"
NORMED = f"{HEADS}, encoder.0 256 9, encoder.1 256, encoder.4 128 256, encoder.5 128"
NORMED = f"{NORMED}, encoder.8 64 128, encoder.9 64"
DECODER_A = "decoder.0 32 16, decoder.2 64 32, decoder.4 27 64"
NORMED_A = "decoder.0 32 16, decoder.1 32, decoder.4 64 32, decoder.5 64, decoder.8 27 64"
BLOCKS = ", ".join(f"residual{i}.block.{j} 128 128" for i in (1, 2) for j in (0, 2))
DECODER_B = f"fc_in 128 16, {BLOCKS}, fc_out 27 128"
CONTROLLER = "net.0 32 8, net.1 32, net.3 32 32, net.5 6 32"
STATE_NET = "encoder.0 {1} {0}, encoder.1 {1}, encoder.3 8 {1}, decoder.0 {1} 8, decoder.2 {2} {1}"


def projection(width=64, depth=1, dropout=0):
    half, layers = max(32, width // 2), []
    for i, (wide, narrow) in enumerate([(16, 16), *[(width, half)] * depth]):
        d, r, last = (3 + dropout) * i, (2 + dropout) * i, i == depth
        layers += [f"direction_net.{d} {16 if last else width} {wide}"]
        layers += [] if last else [f"direction_net.{d + 1} {width}"]
        layers += [f"radius_net.{r} {1 if last else half} {narrow}"]
    return ", ".join(layers)


def made(rng, **layers):
    """The tensors of `layers`: what stands before their names ("__" for a dot), and they."""
    state = {}
    for prefix, text in layers.items():
        for name, *shape in map(str.split, text.split(", ")):
            shape, place = [*map(int, shape)], f"{prefix.replace('__', '.')}.{name}"
            noise = torch.randn(shape, generator=rng) / shape[-1] ** 0.5
            state[f"{place}.weight"] = noise if len(shape) > 1 else noise.abs() + 0.5
            state[f"{place}.bias"] = torch.randn(shape[0], generator=rng) / 9
    return state


def both(rng, text, curved=False):
    state = made(rng, projection__proj_A=text, projection__proj_B=text)
    names = [f"projection.proj_{vae}.manifold.isp_c" for vae in "AB" if curved]
    return state | dict.fromkeys(names, torch.tensor(0.54132))


def scalars(*names):
    return {name: torch.tensor(1.0) for name in names}


def layouts():
    """Name → (state dict, numbers in it by the lineage's README, or None where it has none)."""
    rng = generator(0, "layouts")
    one = made(rng, encoder_A=ENCODER, encoder_B=ENCODER, decoder_A=DECODER_A)
    better = made(rng, encoder_A=NORMED, encoder_B=NORMED, decoder_A=NORMED_A)
    two = one | made(rng, decoder_B=DECODER_B)
    old = two | scalars("grad_norm_A_ema", "grad_norm_B_ema")
    kinds = (9, 32, 4), (12, 32, 4), (14, 48, 4), (18, 64, 7), (21, 64, 4)
    state_net = {kind[0]: made(rng, state_net=STATE_NET.format(*kind)) for kind in kinds}
    steers = made(rng, controller=CONTROLLER)
    appetite = {
        **{f"base.{name}": tensor for name, tensor in (old | state_net[12]).items()},
        **scalars("appetite_metabolic"), "symbiosis.net.0.weight": torch.ones(3, 3),
        "curiosity.z_history": torch.zeros(50, 16), "ranking.valuations": torch.zeros(9).long(),
        "closure.identity_idx": torch.tensor(3),
    }  # fmt: skip
    v5_7 = scalars("r_A_ema", "r_B_ema") | made(rng, state_net="metric_attention.0 8 14")
    widths = {"metric": 13, "hyperbolic": 6, "curriculum": 4}
    attention = made(rng, **{f"{kind}_attention": f"0 {n} 21" for kind, n in widths.items()})
    v5_10 = scalars("prior_sigma", *(f"attention_head_scales.{i}" for i in range(3)))
    single, dual = made(rng, projection=projection()), both(rng, projection()) | steers
    plain = both(rng, projection(64, 2, 1), True) | steers
    undropped = both(rng, projection(64, 2, 0), True)
    return {
        "v5.5": (old | state_net[9], 168_772),
        "v5.6 to v5.9": (old | state_net[12], 168_868),
        "v5.7": (old | state_net[14] | v5_7, None),
        "v5.10": (old | state_net[21] | attention | v5_10, None),
        "v5.10 before 2025-12-14": (old | state_net[18], None),
        "appetitive": (appetite, None),
        "v5.11 single projection": (one | single, 98_828),
        "v5.11 dual": (one | dual, 103_267),
        "v5.11.3 structural": (one | both(rng, projection(128, 2, 1)), 149_149),
        "v5.11.11 and later": (one | both(rng, projection(64, 1, 1), True), 101_663),
        "v5.12 to v5.12.4 plain": (one | plain, 113_957),
        "v5.12 to v5.12.4 plain, without dropout": (one | undropped | steers, None),
        "v5.12.4 improved": (better | plain, 115_941),
        "encoders and decoders alone": (two, None),
    }


STATES = layouts()
BARE = {n: {k.removeprefix("base."): v for k, v in s.items()} for n, (s, _) in STATES.items()}
NEEDED = ("encoder_", "decoder_", "projection.")
KEYS = {  # where a state dict stands, and a prefix of its names
    "model": "", "model_state": "_orig_mod.", "model_state_dict": "module.",
    "base_model_state_dict": "", RAW: "",
}  # fmt: skip


def loaded(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(pt(content))
    return checkpoint.load(tmp_path / "x.pt")


@torch.no_grad()
def outputs(model):
    """All that encoding and decoding give, in their order."""
    found = []
    for vae in model.encoders:
        q = model.encoder(vae)(MU[::997])
        found += [*q, *([model.decoder(vae)(q.mu)] if vae in model.vaes else [])]
        found += [ball(q.mu) for ball in [model.projections.get(vae)] if ball]
    return {str(number): tensor for number, tensor in enumerate(found)}


# --- Reading ---


@pytest.mark.parametrize("name, key", [*zip(STATES, itertools.cycle(KEYS), strict=False)])
def test_every_layout_is_read_and_kept(tmp_path, name, key):
    """Under one of the keys, with its prefix; or raw, where the file claims nothing."""
    assert {row for row, *_ in LAYOUTS} < STATES.keys()
    (state, numbers), bare = STATES[name], BARE[name]
    state, left_out = {f"{KEYS[key]}{k}": v for k, v in reversed(state.items())}, {}
    claims = {"epoch": 3, "metrics": {"hierarchy_A": -0.5}, "config": {"max_radius": 0.9}}
    content = {key: state, "optimizer": [torch.ones(2)], **claims}
    if key == RAW:
        content, claims = state, {}
    else:
        left_out["optimizer"] = "state of an optimiser"
    model = loaded(tmp_path, content).model
    assert name.startswith(model.layout)
    assert numbers is None or sum(v.numel() for v in model.tensors.values()) == numbers
    assert cli.main(["import", str(tmp_path / "x.pt"), str(tmp_path / "ours")]) == 0
    ours = checkpoint.load(tmp_path / "ours")
    assert same(ours.model.tensors, bare) and same(outputs(ours.model), outputs(model))
    imported = ours.manifest["imported"]
    assert ours.manifest["claims"] == claims and ours.epoch == claims.get("epoch")
    assert (imported["layout"], imported["state"]) == (model.layout, key)
    assert imported["left_out"] == left_out | ours.model.left_out
    used = set(bare) - set(imported["left_out"])
    assert all(k.startswith(NEEDED) for k in used) or name == "v5.5"
    assert ours.model.vaes == (("A", "B") if "decoder_B.fc_in.bias" in bare else ("A",))
    for ball in ours.model.projections.values():
        assert ball.stated["max_radius"][0] == (0.9 if claims else 0.95)


def test_what_is_claimed_is_kept_as_data_and_other_tensors_are_named(tmp_path):
    claims = {"H_A_history": [torch.tensor(1.5), math.nan], "raw": b"x", "pair": (1, -math.inf)}
    deep = {"ema": {"shadow": [torch.ones(2)]}, "radii": torch.ones(10), "model": BARE["v5.5"]}
    manifest = loaded(tmp_path, claims | deep).manifest
    kept = {"H_A_history": [1.5, "nan"], "raw": "(bytes)", "pair": [1, "-inf"]}
    assert manifest["claims"] == kept
    reason = "tensors of no network measured"
    assert manifest["imported"]["left_out"] == {"ema": reason, "radii": reason}


def test_v5_5_by_either_class_computes_the_same():
    """The network of ours, and the one that is built from the tensors."""
    model = DualVAE.fresh(3).eval()
    state = {k: v for k, v in model.tensors.items() if k.startswith(("encoder", "decoder"))}
    assert same(outputs(network_of(state, "x")), outputs(model))


def test_an_encoder_without_a_decoder_says_so():
    model = network_of(BARE["v5.11 dual"], "x")
    assert model.vaes == ("A",) and model.encode(MU[:2], "B").shape == (2, D)
    with pytest.raises(InputError, match=r"encoder B has no decoder in this layout \(v5.11 dual\)"):
        model.decode(torch.zeros(1, D), "B")


def test_untrained_is_the_same_layout_with_fresh_weights():
    model = network_of(BARE["v5.12.4 improved"], "x")
    one, other = model.untrained(1), model.untrained(1)
    assert same(outputs(one), outputs(other)) and not same(outputs(one), outputs(model))
    assert same(DualVAE.fresh(0).untrained(5).state_dict(), DualVAE.fresh(5).state_dict())


# --- Forward passes, from the bare weights ---


def apply(state, name, x):
    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def block(state, name, number, x):
    h, norm = apply(state, f"{name}.{number}", x), f"{name}.{number + 1}"
    weight, bias = state[f"{norm}.weight"], state[f"{norm}.bias"]
    return functional.silu(functional.layer_norm(h, weight.shape, weight, bias))


@pytest.mark.parametrize("dropout", [0, 1])
@pytest.mark.parametrize("recorded", [{"max_radius": 0.8}, {"model": {"max_radius": 0.8}}, None])
def test_the_projection_is_that_of_the_readme(recorded, dropout):
    """Dropout has a number among the layers and no tensor, and so changes no output."""
    state = BARE["v5.12 to v5.12.4 plain" + ", without dropout" * (not dropout)]
    made = network_of(state, "x", recorded).projections["B"]
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


def test_improved_is_silu_norm_and_a_clamped_logvar():
    state = dict(BARE["v5.12.4 improved"])
    state["encoder_B.fc_logvar.bias"] = torch.linspace(-30, 30, D)
    h = MU[::997]
    for number in (0, 4, 8):
        h = block(state, "encoder_B.encoder", number, h)
    q = network_of(state, "x").encoder("B")(MU[::997])
    assert torch.allclose(q.mu, apply(state, "encoder_B.fc_mu", h), atol=1e-4)
    assert torch.allclose(q.logvar, apply(state, "encoder_B.fc_logvar", h).clamp(-10, 2), atol=1e-4)


# --- Attacks ---

DUAL, GEOOPT = BARE["v5.11 dual"], BARE["v5.11.11 and later"]
NO_NETWORK = {
    r"no network in it, only radii for the one in b\?\.pt":
        {"soft_proj_state_dict": {"radius_net.0.weight": MU}, "base_checkpoint": "b\n.pt"},
    "no encoder or decoder in it": {"model_state": {"projection.a": torch.ones(1)}},
    "must have one state dict, and has model, model_state": {"model": DUAL, "model_state": DUAL},
    "two of its tensors have the same name":
        {"model": DUAL | {"module.encoder_A.fc_mu.bias": torch.ones(16)}},
    "projection.proj_B.manifold.isp_c is missing":
        {"model": {k: v for k, v in GEOOPT.items() if "B.manifold" not in k}},
    "come to more than the file holds":
        {"model": DUAL | dict.fromkeys(("controller.1", "controller.2"), torch.ones(10**6))},
    "latent_scale is not part of it": {"model": DUAL | scalars("latent_scale")},
    "controller.gain is not part of it": {"model": DUAL | scalars("controller.gain")},
    "controller.net.0.bias is not part of it": {"model": DUAL | {"controller.net.0.bias": None}},
    "claims has more than 16,777,216 characters": {"model": DUAL, "x": ["\0" * 10**6] * 3},
}  # fmt: skip


@pytest.mark.parametrize("words", NO_NETWORK)
def test_a_file_without_a_network_is_refused_and_says_why(tmp_path, words):
    assert re.search(words, sentence(loaded, tmp_path, NO_NETWORK[words]))


def spread(tensor):
    """One number that declares itself as many, of the same shape where that has more than one."""
    return torch.zeros(()).expand(tensor.shape if tensor.numel() > 1 else (2,))


EDITS = (  # why it is refused; the key and the tensor → what stands there instead
    ("missing|must be", lambda key, x: {}),
    ("missing|must be", lambda key, x: {f"{key[:-1]}_": x}),
    ("is not part of it", lambda key, x: {key: x, f"{key}.more": x}),
    (r"is torch.float32 \(.*, but must be", lambda key, x: {key: torch.cat([x.view(-1)] * 2)}),
    (r"is torch.float32 \(.*, but must be", lambda key, x: {key: x[None]}),
    ("is torch.float64 .*, but must be torch.float32", lambda key, x: {key: x.double()}),
    ("is not dense", lambda key, x: {key: x.to_sparse()}),
    (r"is (not dense|torch.float32 \(2,\))", lambda key, x: {key: spread(x)}),
    ("holds values that are not finite", lambda key, x: {key: x * math.nan}),
    ("is no tensor|must be", lambda key, x: {key: x.tolist()}),
    ("is missing", lambda key, x: {key: None}),
)


@pytest.mark.parametrize("name", STATES)
def test_an_edit_is_refused_by_name_or_changes_nothing_that_is_measured(name):
    """One of a tensor that is needed is refused; two of any are, or all outputs are as they were.
    (Two tensors that change places do change the outputs, or that proves nothing.)"""
    bare, rng = BARE[name], random.Random(name)
    right = outputs(network_of(bare, "x"))
    one, other = "encoder_A.fc_mu.weight", "encoder_A.fc_logvar.weight"
    swapped = bare | {one: bare[other], other: bare[one]}
    assert not same(outputs(network_of(swapped, "x")), right)
    for words, edit in EDITS:
        state, key = dict(bare), rng.choice([k for k in bare if k.startswith(NEEDED)])
        state |= edit(key, state.pop(key))
        text = sentence(network_of, state, "x.pt")
        assert key.rsplit(".", 2)[0] in text and re.search(words, text)
        state = dict(bare)
        for change in (edit, rng.choice(EDITS)[1]):
            dense = [k for k, v in state.items() if getattr(v, "layout", "") == torch.strided]
            key = rng.choice(dense)
            state |= change(key, state.pop(key))
        with contextlib.suppress(InputError):
            assert same(outputs(network_of(state, "x")), right)


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
    with pytest.raises(InputError, match="not finite"):
        metrics.measure(network_of(wide, "x"), "B", 2, 0)


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
