"""The original's layouts, each in a small file built here: read, measured, attacked.

No file of the original is in this repository; names and shapes are those of the lineage's README.
"""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoint import pt

from fluxttice_core import cli
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.errors import InputError
from fluxttice_core.metrics import lineage as metrics
from fluxttice_core.metrics.observation import Measurement
from fluxttice_core.model.lineage import LAYOUTS, Projection, network_of
from fluxttice_core.model.network import D, DualVAE
from fluxttice_core.model.operations import M, all_operations, index_of
from fluxttice_core.model.streams import generator
from fluxttice_core.report import lineage as page

MU = all_operations().float()


def linear(name, rows, columns, rng):
    return {
        f"{name}.weight": torch.randn(rows, columns, generator=rng) / columns**0.5,
        f"{name}.bias": torch.randn(rows, generator=rng) / 9,
    }


def stack(prefix, numbers, widths, rng):
    """Layers at `numbers`: a width makes a Linear from the last width, None a LayerNorm."""
    made, last = {}, widths[0]
    for number, width in zip(numbers, widths[1:], strict=True):
        name = f"{prefix}.{number}"
        if width is None:
            made |= {f"{name}.weight": torch.rand(last, generator=rng) + 0.5}
            made |= {f"{name}.bias": torch.randn(last, generator=rng) / 9}
        else:
            made |= linear(name, width, last, rng)
            last = width
    return made


def encoder(prefix, rng, improved=False):
    plain, normed = (9, 256, 128, 64), (9, 256, None, 128, None, 64, None)
    numbers = (0, 1, 4, 5, 8, 9) if improved else (0, 2, 4)
    made = stack(f"{prefix}.encoder", numbers, normed if improved else plain, rng)
    heads = [linear(f"{prefix}.fc_{head}", 16, 64, rng) for head in ("mu", "logvar")]
    return made | heads[0] | heads[1]


def decoder_a(rng, improved=False):
    plain, normed = (16, 32, 64, 27), (16, 32, None, 64, None, 27)
    numbers = (0, 1, 4, 5, 8) if improved else (0, 2, 4)
    return stack("decoder_A.decoder", numbers, normed if improved else plain, rng)


def decoder_b(rng):
    blocks = [f"residual{i}.block.{j}" for i in (1, 2) for j in (0, 2)]
    return stack("decoder_B", ("fc_in", *blocks, "fc_out"), (16, *[128] * 5, 27), rng)


def state_net(rng, inputs, width=32, outputs=4):
    made = stack("state_net.encoder", (0, 1, 3), (inputs, width, None, 8), rng)
    return made | stack("state_net.decoder", (0, 2), (8, width, outputs), rng)


def controller(rng):
    return stack("controller.net", (0, 1, 3, 5), (8, 32, None, 32, 6), rng)


def projection(prefix, rng, width=64, deep=False, dropout=False, curved=False):
    half, depth, block = max(32, width // 2), 1 + deep, 3 + dropout
    direction = [number for i in range(depth) for number in (block * i, block * i + 1)]
    radius = [(block - 1) * i for i in range(depth + 1)]
    hidden = (16, *[width, None] * depth, 16)
    made = stack(f"{prefix}.direction_net", (*direction, block * depth), hidden, rng)
    made |= stack(f"{prefix}.radius_net", radius, (16, *[half] * depth, 1), rng)
    return made | ({f"{prefix}.manifold.isp_c": torch.tensor(0.54132)} if curved else {})


def both(rng, **options):
    a, b = (projection(f"projection.proj_{vae}", rng, **options) for vae in "AB")
    return a | b


def scalars(*names):
    return {name: torch.tensor(1.0) for name in names}


def layouts():
    """Name → (state dict, numbers in it by the lineage's README, or None where it has none)."""
    rng = generator(0, "layouts")
    one = encoder("encoder_A", rng) | encoder("encoder_B", rng) | decoder_a(rng)
    two = one | decoder_b(rng)
    old = two | scalars("grad_norm_A_ema", "grad_norm_B_ema")
    better = encoder("encoder_A", rng, True) | encoder("encoder_B", rng, True)
    better |= decoder_a(rng, True)
    v5_6 = old | state_net(rng, 12)
    deep = {"deep": True, "dropout": True, "curved": True}
    attention = {f"{kind}_attention.0.weight": torch.ones(n, 21) for kind, n in
                 (("metric", 13), ("hyperbolic", 6), ("curriculum", 4))}  # fmt: skip
    appetite = {
        **{f"base.{name}": tensor for name, tensor in v5_6.items()},
        **scalars("appetite_metabolic"), "symbiosis.net.0.weight": torch.ones(3, 3),
        "curiosity.z_history": torch.zeros(50, 16), "ranking.valuations": torch.zeros(9).long(),
        "closure.identity_idx": torch.tensor(3),
    }  # fmt: skip
    single = one | projection("projection", rng)
    return {
        "v5.5": (old | state_net(rng, 9), 168_772),
        "v5.6 to v5.9": (v5_6, 168_868),
        "v5.7": (old | state_net(rng, 14, 48) | scalars("r_A_ema", "r_B_ema")
                 | stack("state_net.metric_attention", (0,), (14, 8), rng), None),
        "v5.10": (old | state_net(rng, 21, 64) | attention | scalars("prior_sigma", "loss_ema")
                  | scalars(*(f"attention_head_scales.{i}" for i in range(3))), None),
        "v5.10 before 2025-12-14": (old | state_net(rng, 18, 64, 7), None),
        "appetitive": (appetite, None),
        "v5.11 single projection": (single, 98_828),
        "v5.11 single projection, controller": (single | controller(rng), 100_434),
        "v5.11 dual": (one | both(rng), 101_661),
        "v5.11 dual, controller": (one | both(rng) | controller(rng), 103_267),
        "v5.11.3 structural": (one | both(rng, width=128, deep=True, dropout=True), 149_149),
        "v5.11.11 and later": (one | both(rng, curved=True, dropout=True), 101_663),
        "v5.12 to v5.12.4 plain": (one | both(rng, **deep) | controller(rng), 113_957),
        "v5.12.4 improved": (better | both(rng, **deep) | controller(rng), 115_941),
        "encoders and decoders alone": (two, None),
    }  # fmt: skip


STATES = layouts()
NEEDED = ("encoder_", "decoder_", "projection.")
STATE_KEYS = ("model", "model_state", "model_state_dict", "base_model_state_dict")


def loaded(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(pt(content))
    return checkpoint.load(tmp_path / "x.pt")


def refusal(state):
    with pytest.raises(InputError) as refused:
        network_of(state, "x.pt")
    sentence = str(refused.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@torch.no_grad()
def outputs(model):
    """All that encoding and decoding give, as one list of tensors."""
    found = []
    for vae in model.encoders:
        q = model.encoder(vae)(MU[::997])
        found += [*q, *([model.decoder(vae)(q.mu)] if vae in model.vaes else [])]
        found += [model.projection(vae)(q.mu)] if model.projection(vae) else []
    return found


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- Reading ---


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(
    "prefix, key", [*zip(["", "_orig_mod.", "module.", ""], STATE_KEYS, strict=True)]
)
def test_every_layout_is_read_and_kept(tmp_path, name, prefix, key):
    state, numbers = STATES[name]
    config, claims = {"max_radius": 0.9}, {"hierarchy_A": -0.5}
    content = {key: {f"{prefix}{k}": v for k, v in state.items()}, "epoch": 3, "optimizer": {}}
    model = loaded(tmp_path, {**content, "config": config, "metrics": claims}).model
    assert name.startswith(model.layout)
    assert numbers is None or sum(v.numel() for v in model.tensors.values()) == numbers
    assert cli.main(["import", str(tmp_path / "x.pt"), str(tmp_path / "ours")]) == 0
    ours = checkpoint.load(tmp_path / "ours")
    assert ours.model.layout == model.layout and same(outputs(ours.model), outputs(model))
    bare = {k.removeprefix("base."): v for k, v in state.items()}
    assert ours.model.tensors.keys() == bare.keys()
    assert all(torch.equal(v, bare[k]) for k, v in ours.model.tensors.items())
    network = ours.manifest["network"]
    assert ours.manifest["claims"] == {"epoch": 3, "metrics": claims, "config": config}
    assert (network["layout"], network["state"], ours.epoch) == (model.layout, key, 3)
    read = set(bare) - set(network["tensors_left_out"])
    assert all(k.startswith(NEEDED) for k in read) or name == "v5.5"
    assert ours.model.vaes == (("A", "B") if "decoder_B.fc_in.bias" in bare else ("A",))
    if model.projection("B"):
        assert network["projection"]["B"]["max_radius"] == model.projection("B").max_radius == 0.9


def test_every_layout_of_the_table_but_one_has_a_file_here():
    """The one: v5.12 without dropout, which its README has read and not seen."""
    [missing] = {row for row, *_ in LAYOUTS} - set(STATES)
    assert missing == "v5.12 to v5.12.4 plain, without dropout"


def test_a_raw_state_dict_is_read(tmp_path):
    assert loaded(tmp_path, STATES["v5.11 dual"][0]).model.layout == "v5.11 dual"


def test_v5_5_by_either_class_computes_the_same():
    """The network of ours, and the one that is built from the tensors."""
    model = DualVAE.fresh(3).eval()
    state = {k: v for k, v in model.tensors.items() if k.startswith(("encoder", "decoder"))}
    assert same(outputs(network_of(state, "x")), outputs(model))


def test_an_encoder_without_a_decoder_says_so():
    model = network_of(STATES["v5.11 dual"][0], "x")
    assert model.vaes == ("A",) and model.encode(MU[:2], "B").shape == (2, D)
    with pytest.raises(InputError, match=r"encoder B has no decoder in this layout \(v5.11 dual\)"):
        model.decode(torch.zeros(1, D), "B")


def test_untrained_is_the_same_layout_with_fresh_weights():
    model = network_of(STATES["v5.12.4 improved"][0], "x")
    one, other = model.untrained(1), model.untrained(1)
    assert same(outputs(one), outputs(other)) and not same(outputs(one), outputs(model))
    ours, fresh = DualVAE.fresh(0).untrained(5).state_dict(), DualVAE.fresh(5).state_dict()
    assert all(torch.equal(ours[k], fresh[k]) for k in fresh)


# --- Forward passes, from the bare weights ---


def apply(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state, name, x):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def silu(x):
    return x / (1 + (-x).exp())


def block(state, name, number, x):
    return silu(norm(state, f"{name}.{number + 1}", apply(state, f"{name}.{number}", x)))


@pytest.mark.parametrize("recorded", [{"max_radius": 0.8}, {"model": {"max_radius": 0.8}}, None])
def test_the_projection_is_that_of_the_readme(recorded):
    state = STATES["v5.12 to v5.12.4 plain"][0]
    made = network_of(state, "x", recorded).projection("B")
    z, at = torch.randn(50, D, generator=generator(1, "z")), "projection.proj_B"
    d, r, limit = z, z, 0.8 if recorded else 0.95
    for number in (0, 4):
        d = block(state, f"{at}.direction_net", number, d)
    for number in (0, 3):
        r = silu(apply(state, f"{at}.radius_net.{number}", r))
    d = z + apply(state, f"{at}.direction_net.8", d)
    radius = limit / (1 + (-apply(state, f"{at}.radius_net.6", r)).exp())
    y = made(z)
    assert torch.allclose(y, d / d.norm(dim=1, keepdim=True) * radius, atol=1e-5)
    r = y.norm(dim=1, keepdim=True)
    assert torch.allclose(made.tangent(y), y / r * r.atanh(), atol=1e-4)
    assert math.isclose(made.curvature, 1, abs_tol=1e-4) and made.max_radius == limit
    assert ("assumed" in made.stated["max_radius_from"]) is (recorded is None)


def test_numbers_that_dropout_shifts_make_no_difference():
    """Layers 0, 1, 3 without dropout are layers 0, 1, 4 with it: the same projection."""
    for deep in (False, True):
        plain, shifted = (
            projection("p", generator(2, "p"), deep=deep, dropout=dropout)
            for dropout in (False, True)
        )
        assert plain.keys() != shifted.keys()
        z, nets = torch.randn(9, D, generator=generator(1, "z")), []
        for state in (plain, shifted):
            made = Projection(state, "p", None)
            made.load_state_dict({k.removeprefix("p."): v for k, v in state.items()})
            nets.append(made(z))
        assert torch.equal(*nets)


def test_improved_is_silu_norm_and_a_clamped_logvar():
    state = dict(STATES["v5.12.4 improved"][0])
    state["encoder_B.fc_logvar.bias"] = torch.linspace(-30, 30, D)
    h = MU[::997]
    for number in (0, 4, 8):
        h = block(state, "encoder_B.encoder", number, h)
    q = network_of(state, "x").encoder("B")(MU[::997])
    assert torch.allclose(q.mu, apply(state, "encoder_B.fc_mu", h), atol=1e-4)
    assert torch.allclose(q.logvar, apply(state, "encoder_B.fc_logvar", h).clamp(-10, 2), atol=1e-4)


# --- Attacks ---


def test_a_file_without_a_network_is_refused_and_says_why(tmp_path):
    soft = {
        "soft_proj_state_dict": {"radius_net.0.weight": torch.ones(2, 2)},
        "base_checkpoint": "b\n.pt",
    }
    with pytest.raises(InputError, match=r"no network in it, only radii for the one in b\?\.pt"):
        loaded(tmp_path, soft)
    only = projection("projection", generator(0, "x"))
    with pytest.raises(InputError, match="no encoder or decoder is among its tensors"):
        loaded(tmp_path, {"model_state": only})
    state = STATES["v5.11 dual"][0]
    with pytest.raises(InputError, match="must have one state dict, and has model, model_state"):
        loaded(tmp_path, {"model": state, "model_state": state})
    with pytest.raises(InputError, match="two of its tensors have the same name"):
        loaded(tmp_path, {"model": state | {"module.encoder_A.fc_mu.bias": torch.ones(16)}})
    shared = torch.ones(10**6)
    with pytest.raises(InputError, match="come to more than the file holds"):
        loaded(tmp_path, {"model": state | {f"controller.{i}": shared for i in range(3)}})


def spread(tensor):
    """One number that declares itself as many, of the same shape where that has more than one."""
    return torch.zeros(()).expand(tensor.shape if tensor.numel() > 1 else (2,))


EDITS = {
    "dropped": lambda state, key: state.pop(key),
    "renamed": lambda state, key: state.update({f"{key[:-1]}_": state.pop(key)}),
    "moved": lambda state, key: state.update({f"new.{key}": state.pop(key)}),
    "longer": lambda state, key: state.update({key: torch.cat([state[key].view(-1)] * 2)}),
    "deeper": lambda state, key: state.update({key: state[key][None]}),
    "double": lambda state, key: state.update({key: state[key].double()}),
    "sparse": lambda state, key: state.update({key: state[key].to_sparse()}),
    "expanded": lambda state, key: state.update({key: spread(state[key])}),
    "not finite": lambda state, key: state.update({key: state[key] * math.nan}),
    "no tensor": lambda state, key: state.update({key: state[key].tolist()}),
    "surplus": lambda state, key: state.update({f"{key}.more": state[key]}),
}  # fmt: skip


@settings(max_examples=250, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(sorted(STATES)), st.sampled_from(sorted(EDITS)), st.data())
def test_one_edit_of_what_is_needed_is_refused_by_name(name, edit, data):
    state = {k.removeprefix("base."): v for k, v in STATES[name][0].items()}
    key = data.draw(st.sampled_from([k for k in state if k.startswith(NEEDED)]))
    EDITS[edit](state, key)
    sentence = refusal(state)
    assert key.rsplit(".", 2)[0] in sentence or "layers of projection" in sentence


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
    st.sampled_from(sorted(STATES)), st.lists(st.sampled_from(sorted(EDITS)), max_size=2), st.data()
)
def test_what_is_accepted_computes_the_same(name, edits, data):
    """Any order, and any edits of any tensor: refused, or nothing that is measured has changed."""
    state = {k.removeprefix("base."): v for k, v in STATES[name][0].items()}
    right = outputs(network_of(state, "x"))
    for edit in edits:
        tensors = sorted(k for k in state if isinstance(state[k], torch.Tensor))
        EDITS[edit](state, data.draw(st.sampled_from(tensors)))
    order = data.draw(st.permutations(list(state)))
    try:
        model = network_of({key: state[key] for key in order}, "x")
    except InputError:
        assert edits
    else:
        assert same(outputs(model), right)


@pytest.mark.parametrize("name", STATES)
def test_swapped_tensors_of_one_shape_change_what_is_computed(name):
    """Or the test above proves nothing: a permutation of values is another network."""
    state = {k.removeprefix("base."): v for k, v in STATES[name][0].items()}
    one, other = "encoder_A.fc_mu.weight", "encoder_A.fc_logvar.weight"
    swapped = state | {one: state[other], other: state[one]}
    assert not same(outputs(network_of(swapped, "x")), outputs(network_of(state, "x")))


# --- The lineage's metrics ---

CEILINGS = {  # hierarchy and D3, by the lineage's README
    "all equal": (0, 0),
    "one radius a level": (-1.000, 0.999),
    "perfect order, no ties": (-0.83205, 0.912),
    "the first trit alone, no ties": (-0.8009, 0.720),
    "mean of the trits": (-0.308, 0.078),
    "random": (0, 0),
}


def test_valuation_is_how_often_three_divides_the_index():
    v = metrics.valuation()
    assert v.bincount().tolist() == [13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1] and v[0] == 9
    assert all(i % 3 ** int(v[i]) == 0 and i % 3 ** (int(v[i]) + 1) for i in range(1, M, 7))
    assert torch.equal(index_of(all_operations()), torch.arange(M))


@pytest.mark.parametrize("name", CEILINGS)
def test_cheap_radii_reach_what_they_are_said_to(name):
    radii = metrics.cheap_radii()
    assert radii.keys() == CEILINGS.keys()
    found = metrics.of_points(radii[name][:, None], 1.0, generator(0, "pairs"))
    hierarchy, d3 = CEILINGS[name]
    assert found["hierarchy"] == pytest.approx(hierarchy, abs=0.02 if name == "random" else 0.004)
    assert found["D3"] == pytest.approx(d3, abs=0.04)
    assert found["Q (D3)"] == pytest.approx(found["D3"] + 1.5 * abs(found["hierarchy"]))


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


def test_exact_match_and_measures_of_a_perfect_model(perfect_model):
    q = perfect_model.encoder("A")(MU)
    assert metrics.exact_match(perfect_model, "A", q.mu)["mu"].value == 1
    found = metrics.measure(perfect_model, "A", q, draws=3)
    row = found["hierarchy"]
    assert row.low < row.value < row.high and row.n == 3 and found["hierarchy of mu"].n == M


def test_claims_are_compared_under_their_own_definition():
    def at(value, half=0.01):
        ends = {"low": value - half, "high": value + half}
        return metrics.exact(value, 5).model_copy(update=ends)

    ours = {"hierarchy": at(-0.8), "D1": at(0.3), "D2": at(0.5), "D3": at(0.7), "Q (D3)": at(1.9)}
    claims = {
        "metrics": {"hierarchy_B": -0.805, "distance_corr_B": 0.5, "coverage": 1.0, "loss": 3.0},
        "Q": 1.9, "hierarchy": -0.9, "H_A_history": [1.0], "note": "x", "tau_frozen": True,
    }  # fmt: skip
    match = {"mu": at(1.0, 0)}
    for layout, *verdict in (
        ("v5.12 to v5.12.4 plain", "agrees", "D2 of B"), ("v5.11 dual", "differs", "D1 of B")
    ):  # fmt: skip
        rows = metrics.compare(claims, {"A": {}, "B": ours}, match, layout)
        found = {row.name: (row.verdict, row.definition) for row in rows}
        assert found["distance_corr_B"] == tuple(verdict)
    assert found["hierarchy_B"] == ("agrees", "hierarchy of B")
    assert found["hierarchy"][0] == "differs"
    assert found["Q"] == ("agrees", "Q (D3) of B") and found["coverage"][1] == "exact match from mu"
    assert found["loss"][0] == "cannot be recomputed" and len(found) == 7
    assert json.dumps([row.model_dump() for row in rows])


def test_what_floors_reach_decides_nothing():
    def found(value):
        row = metrics.exact(value, 5)
        cheap = {"one radius a level": -1.0, "the first trit alone, no ties": -0.8}
        return metrics.Lineage.model_construct(
            measured={"B": {"hierarchy of mu": row, "hierarchy": row, "radius": row}},
            cheap={name: {"hierarchy": value} for name, value in cheap.items()},
            untrained={"hierarchy": (-0.4, 0.4)},
        )  # fmt: skip

    assert found(-0.81).decides("hierarchy", "B") and found(-0.81).decides("hierarchy of mu", "B")
    assert not found(-0.79).decides("hierarchy", "B") and not found(0.9).decides("hierarchy", "B")
    assert not found(0.9).decides("radius", "B")


def test_the_page_names_every_claim_what_is_inherited_and_what_cannot_be_decoded():
    base = DualVAE.fresh(1)
    inherited = [k for k in base.state_dict() if k.startswith("decoder_A.")]
    state = STATES["v5.12 to v5.12.4 plain"][0] | {k: base.state_dict()[k] for k in inherited}
    p = Measurement.model_construct(seed=0, untrained_seed=1)
    claims = {"Q": 9.0, "coverage": 0.5, "epoch": 3, "best_Q": 2.0, "loss": float("inf")}
    found = metrics.lineage(network_of(state, "x"), claims, base, p)
    assert found.inherited == inherited
    assert [row.name for row in found.claims] == ["Q", "coverage", "best_Q"]
    text = "".join(shown.to_html() for shown in page.section(found))
    for words in ("encoder B has no decoder in this layout", "not recorded", "0.95", "best_Q",
                  "differs", "cannot be recomputed", "steers training alone",
                  inherited[0]):  # fmt: skip
        assert words in text
    [sentence] = page.section(None)
    assert "our own layout" in sentence.data
