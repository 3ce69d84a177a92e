"""The layouts of v5.5 to v5.12.4, each in a small file built here: read, kept, edited.

This repository has no v5.x file; names and shapes are those of its public code.
"""

import contextlib
import itertools
import math
import random
import re

import pytest
import torch
from planted import same, sentence
from test_checkpoint import pt
from torch.nn import functional

from fluxttice_core import cli
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.checkpoints.layouts import LAYOUTS, STRICT, network_of
from fluxttice_core.checkpoints.sandbox import RAW
from fluxttice_core.errors import InputError
from fluxttice_core.model.network import D, DualVAE
from fluxttice_core.model.operations import all_operations
from fluxttice_core.model.streams import generator

pytestmark = pytest.mark.usefixtures("forked")
OPS = all_operations().float()

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
KEYS = {  # where a state dict stands, and a prefix of its names
    "model": "", "model_state": "_orig_mod.", "model_state_dict": "module.",
    "base_model_state_dict": "", RAW: "",
}  # fmt: skip


def loaded(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(pt(content))
    return checkpoint.load(tmp_path / "x.pt")


@torch.no_grad()
def outputs(model):
    """All that a model encodes and decodes, and the tensors that it projects by."""
    found = dict(model.extra_tensors)
    for vae in model.encoders:
        q = model.encoder(vae)(OPS[::997])
        found |= {f"mu {vae}": q.mu, f"logvar {vae}": q.logvar}
        found |= {f"logits {vae}": model.decoder(vae)(q.mu)} if vae in model.vaes else {}
    return found


# --- Reading ---


@pytest.mark.parametrize("name, key", [*zip(STATES, itertools.cycle(KEYS), strict=False)])
def test_every_layout_is_read_and_kept(tmp_path, name, key):
    """Under one of the keys, with its prefix; or raw, where the file claims nothing."""
    assert {row for row, *_ in LAYOUTS} < STATES.keys()
    (state, numbers), bare = STATES[name], BARE[name]
    state = {f"{KEYS[key]}{k}": v for k, v in reversed(state.items())}
    claims = {"epoch": 3, "metrics": {"hierarchy_A": -0.5}, "config": {"max_radius": 0.9}}
    content = {key: state, "controller_state": {"a": torch.ones(2)}, **claims}
    parts = {"controller_state": "steers training alone"}
    if key == RAW:
        content, claims, parts = state, {}, {}
    model = loaded(tmp_path, content).model
    assert name.startswith(model.layout)
    assert numbers is None or sum(v.numel() for v in model.tensors.values()) == numbers
    assert cli.main(["import", str(tmp_path / "x.pt"), str(tmp_path / "ours")]) == 0
    ours = checkpoint.load(tmp_path / "ours")
    assert same(ours.model.tensors, bare) and same(outputs(ours.model), outputs(model))
    imported = ours.manifest["imported"]
    assert ours.manifest["claims"] == claims and ours.epoch == claims.get("epoch")
    assert (imported["layout"], imported["state"], imported["cut"]) == (model.layout, key, 0)
    assert imported["ignored"] == parts | ours.model.ignored_tensors
    used = set(bare) - set(imported["ignored"])
    assert all(k.startswith(STRICT) for k in used) or name == "v5.5"
    assert all(imported["ignored"].values())  # every layout's ignored tensors are known
    assert ours.model.vaes == (("A", "B") if "decoder_B.fc_in.bias" in bare else ("A",))
    assert {*ours.model.extra_tensors} == {k for k in bare if k.startswith("projection.")}


def test_v5_5_by_either_class_computes_the_same():
    """The network with a controller, and the one that is built from the other tensors."""
    model = DualVAE.fresh(3).eval()
    state = {k: v for k, v in model.tensors.items() if k.startswith(STRICT)}
    assert same(outputs(network_of(state, "x")), outputs(model))


def test_an_encoder_without_a_decoder_says_so():
    model = network_of(BARE["v5.11 dual"], "x")
    assert model.vaes == ("A",) and model.encode(OPS[:2], "B").shape == (2, D)
    words = r"encoder B has no decoder in this layout \(v5.11 dual\)"
    assert re.search(words, sentence(model.decode, torch.zeros(1, D), "B"))


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


def test_improved_is_silu_norm_and_a_clamped_logvar():
    state = dict(BARE["v5.12.4 improved"])
    state["encoder_B.fc_logvar.bias"] = torch.linspace(-30, 30, D)
    h = OPS[::997]
    for number in (0, 4, 8):
        h = block(state, "encoder_B.encoder", number, h)
    q = network_of(state, "x").encoder("B")(OPS[::997])
    assert torch.allclose(q.mu, apply(state, "encoder_B.fc_mu", h), atol=1e-4)
    assert torch.allclose(q.logvar, apply(state, "encoder_B.fc_logvar", h).clamp(-10, 2), atol=1e-4)


# --- Edits ---


def without(state, part):
    return {k: v for k, v in state.items() if part not in k}


DUAL, GEOOPT = BARE["v5.11 dual"], BARE["v5.11.11 and later"]
PLAIN = BARE["v5.12 to v5.12.4 plain"]
NO_NETWORK = {
    r"no network in it, only radii for the one in b\?\.pt":
        {"soft_proj_state_dict": {"radius_net.0.weight": OPS}, "base_checkpoint": "b\n.pt"},
    "no encoder or decoder in it": {"model_state": {"projection.a": torch.ones(1)}},
    r"must have one state dict \(model, .*\), and has 2": {"model": DUAL, "model_state": DUAL},
    "encoder_A.fc_mu.bias is not one dense tensor":
        {"model": DUAL | {"module.encoder_A.fc_mu.bias": torch.ones(16)}},
    "come to more than the file holds":
        {"model": DUAL | dict.fromkeys(("controller.1", "controller.2"), torch.ones(10**6))},
    "encoder_A.fc_mu.weight is not one dense tensor":
        {"model": DUAL | {"encoder_A.fc_mu.weight": torch.ones(16, 64).to_sparse()}},
    "projection.proj_B.manifold.isp_c is missing": {"model": without(GEOOPT, "B.manifold")},
    "projection.proj_B.direction_net.0.weight is missing": {"model": without(DUAL, "proj_B")},
    "projection.proj_A.radius_net.0.weight is missing": {"model": without(DUAL, "A.radius_net")},
    "proj_A.direction_net.4.weight is torch.float32": {"model": without(PLAIN, "net.8.")},
    "proj_A.radius_net.3.weight is missing": {"model": without(PLAIN, "radius_net.3.")},
    "proj_A.direction_net.5.weight is missing": {"model": without(PLAIN, "A.direction_net.5.")},
    "proj_A.gain is not part of it": {"model": DUAL | scalars("projection.proj_A.gain")},
}  # fmt: skip


@pytest.mark.parametrize("words", NO_NETWORK)
def test_a_file_without_a_network_is_refused_and_says_why(tmp_path, words):
    assert re.search(words, sentence(loaded, tmp_path, NO_NETWORK[words]))


def test_unknown_tensors_are_ignored_and_kept(tmp_path):
    model = loaded(tmp_path, {"model": DUAL | scalars("latent_scale", "loss_ema")}).model
    ignored = {"latent_scale": "", "loss_ema": "a running number of training"}
    assert ignored.items() <= model.ignored_tensors.items() and "latent_scale" in model.tensors
    assert same(outputs(model), outputs(network_of(DUAL, "x")))


EDITS = (  # why it is refused; the key and the tensor → what stands there instead
    ("missing|must be", lambda key, x: {}),
    ("missing|must be", lambda key, x: {f"{key[:-1]}_": x}),
    ("is not part of it", lambda key, x: {key: x, f"{key}.more": x}),
    (r"is torch.float32 \(.*, but must be", lambda key, x: {key: torch.cat([x.view(-1)] * 2)}),
    (r"is torch.float32 \(.*, but must be", lambda key, x: {key: x[None]}),
    ("is torch.float64 .*, but must be torch.float32", lambda key, x: {key: x.double()}),
    ("holds values that are not finite", lambda key, x: {key: x * math.nan}),
)


@pytest.mark.parametrize("name", STATES)
def test_an_edit_is_refused_by_name_or_changes_nothing_that_is_measured(name):
    """One of a strict tensor is refused; two of any are, or all outputs are as they were.
    (Two tensors that change places do change the outputs, or that proves nothing.)"""
    bare, rng = BARE[name], random.Random(name)
    right = outputs(network_of(bare, "x"))
    one, other = "encoder_A.fc_mu.weight", "encoder_A.fc_logvar.weight"
    swapped = bare | {one: bare[other], other: bare[one]}
    assert not same(outputs(network_of(swapped, "x")), right)
    for words, edit in EDITS:
        state, key = dict(bare), rng.choice([k for k in bare if k.startswith(STRICT)])
        state |= edit(key, state.pop(key))
        text = sentence(network_of, state, "x.pt")
        assert key.rsplit(".", 2)[0] in text and re.search(words, text)
        state = dict(bare)
        for change in (edit, rng.choice(EDITS)[1]):
            key = rng.choice([*state])
            state |= change(key, state.pop(key))
        with contextlib.suppress(InputError):
            assert same(outputs(network_of(state, "x")), right)
