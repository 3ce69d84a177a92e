"""explore.html: one self-contained page that runs a checkpoint's encoders and decoders.

The page holds the weights and a list of layers, and computes from them; see template/explore.
"""

import base64
import hashlib
import math
from itertools import takewhile
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor, nn

from .. import files
from ..checkpoints.folder import Checkpoint
from ..metrics import coverage
from ..metrics.measurement import DRAWS
from ..model.network import D, DecoderA, DecoderB, Encoder, Network, Residual, linears
from ..model.operations import all_operations, names
from ..model.streams import generator
from .plots import active_latents

TEMPLATE = Path(__file__).parent / "template" / "explore"
RANGE = 3.0  # of a slider, in standard deviations of the prior; wider where a code lies outside
TRIALS = 5  # of 2_benchmark, which has at least five


def write(loaded: Checkpoint, path: Path, *, seed: int, untrained_seed: int) -> Path:
    """Write the page of a checkpoint, under 1 MB; the same bytes for the same arguments.

    `seed` and `untrained_seed` are parameters of 2_benchmark: the page draws that notebook's
    trials, through the checkpoint's decoder and through that notebook's untrained decoder.
    """
    files.write_bytes(path, page(loaded, seed, untrained_seed).encode())
    return path


def page(loaded: Checkpoint, seed: int, untrained_seed: int) -> str:
    """The HTML text; arguments as in `write`."""
    parts = ("page.css", "engine.js", "page.js", "page.html.j2")
    style, engine, script, template = ((TEMPLATE / name).read_text("utf-8") for name in parts)
    policy = (
        f"default-src 'none'; script-src {_hash(engine)} {_hash(script)}; "
        f"style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    vaes = {vae: _vae(loaded.model, vae, seed, untrained_seed) for vae in loaded.model.vaes}
    data = {"vaes": vaes, "names": names(), "ns": DRAWS, "chunk": coverage.CHUNK}
    recipe = loaded.section("config").get("recipe", "not recorded")
    origin = f"fluxttice checkpoint, recipe {recipe}"
    if loaded.section("imported"):
        origin = f"v5.x checkpoint, layout {loaded.model.layout}"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(
        loaded=loaded, data=data, origin=origin, untrained_seed=untrained_seed, trials=TRIALS,
        latents=D, policy=policy, style=style, engine=engine, script=script,
    )  # fmt: skip


def _hash(text: str) -> str:
    """The name of an inline script or style in the page's content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _vae(model: Network, vae: str, seed: int, untrained_seed: int) -> dict[str, Any]:
    mu, decoder = model.encode(all_operations(), vae), model.decoder(vae)
    first = linears(decoder)[0]
    before = takewhile(lambda layer: layer is not first, linears(model))
    skip = sum(parameter.numel() for layer in before for parameter in layer.parameters())
    trials = [generator(seed, "coverage", vae, trial) for trial in range(TRIALS)]
    return {
        "encoder": layers(model.encoder(vae)),
        "decoder": layers(decoder),
        # PyTorch initialises the layers in their order, all from one stream.
        "init": {"seed": _seed(generator(untrained_seed, "init")), "skip": skip},
        "trials": [_seed(trial) for trial in trials],
        "active": active_latents(model, vae),
        "range": max(RANGE, math.ceil(float(mu.abs().max()))),
    }


def _seed(rng: torch.Generator) -> int:
    """The 32 bits of a generator's seed that torch's CPU generator uses."""
    return rng.initial_seed() % 2**32


def layers(module: nn.Module) -> list[dict[str, Any]]:
    """The layers of a module in their order, as the page's script runs them; TypeError of another.

    Of an encoder, the layers of the posterior mean. `values` is base64 of little-endian float32:
    a linear layer's weights (inputs, outputs) and biases, or a LayerNorm's weights and biases.
    """
    relu = {"kind": "relu"}
    match module:
        case nn.Sequential():
            return [layer for child in module for layer in layers(child)]
        case nn.Linear():
            shape = [module.in_features, module.out_features]
            values = _base64(module.weight.T, module.bias)
            return [{"kind": "linear", "shape": shape, "values": values}]
        case nn.LayerNorm():
            values, shape = _base64(module.weight, module.bias), list(module.normalized_shape)
            return [{"kind": "layernorm", "shape": shape, "values": values, "eps": module.eps}]
        case nn.ReLU() | nn.SiLU():
            return [{"kind": type(module).__name__.lower()}]
        case nn.Identity():
            return []
        case Residual():
            return [{"kind": "residual", "layers": layers(module.block)}]
        case Encoder():
            return layers(module.encoder) + layers(module.fc_mu)
        case DecoderA():
            return layers(module.decoder)
        case DecoderB():
            first, second = layers(module.residual1), layers(module.residual2)
            return [*layers(module.fc_in), relu, *first, relu, *second, *layers(module.fc_out)]
    raise TypeError(f"the page cannot run {type(module).__name__}")


def _base64(*tensors: Tensor) -> str:
    values = torch.cat([tensor.detach().flatten() for tensor in tensors]).cpu().numpy()
    return base64.b64encode(values.astype("<f4").tobytes()).decode()
