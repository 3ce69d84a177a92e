"""explore.html: a checkpoint's encoders and decoders in one page that needs nothing else.

The page holds the weights and a list of layers, and computes from them; see template/explore.
"""

import base64
import hashlib
import math
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor, nn

from .. import files
from ..checkpoints.folder import Checkpoint
from ..model.network import DecoderA, DecoderB, Encoder, Network, Residual
from ..model.operations import all_operations, names
from .plots import active_latents

TEMPLATE = Path(__file__).parent / "template" / "explore"
RANGE = 3.0  # of a slider: the prior's standard deviations, and further where a code lies further


def write(loaded: Checkpoint, path: Path) -> Path:
    """Write the page of a checkpoint: the same bytes for the same checkpoint, under 1 MB."""
    files.write_bytes(path, page(loaded).encode())
    return path


def page(loaded: Checkpoint) -> str:
    style, engine, script, template = (
        (TEMPLATE / name).read_text("utf-8")
        for name in ("page.css", "engine.js", "page.js", "page.html.j2")
    )
    allowed = " ".join(map(_hash, (engine, script)))
    policy = (
        f"default-src 'none'; script-src {allowed} 'wasm-unsafe-eval'; style-src {_hash(style)}; "
        "worker-src blob:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    vaes = {vae: _vae(loaded.model, vae) for vae in loaded.model.vaes}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(
        loaded=loaded, vaes=vaes, data={"vaes": vaes, "names": names()}, policy=policy,
        style=style, engine=engine, script=script,
    )  # fmt: skip


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _vae(model: Network, vae: str) -> dict[str, Any]:
    mu = model.encode(all_operations(), vae)
    return {
        "encoder": layers(model.encoder(vae)),
        "decoder": layers(model.decoder(vae)),
        "active": active_latents(model, vae),
        "range": max(RANGE, math.ceil(float(mu.abs().max()))),
    }


def layers(module: nn.Module) -> list[dict[str, Any]]:
    """What a module does, in order, as the page's script runs it; an encoder's posterior mean.

    `values`, base64 of little-endian float32: of a linear layer (inputs, outputs) and the biases,
    of a LayerNorm its factors and what it adds.
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
