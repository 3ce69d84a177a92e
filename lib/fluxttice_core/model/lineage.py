"""The original system's networks, v5.5 to v5.12.4, each as its tensors describe it.

A layout is a row of LAYOUTS. It says what a file is called, never what is computed: encoders,
decoders, norms, activations and projections are read from the tensors' names and shapes.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, printable
from .network import D, DecoderA, DecoderB, DualVAE, Encoder, Network, layers

STATE_NET = "state_net.encoder.0.weight"
SINGLE, DUAL = "projection.direction_net", "projection.proj_A.direction_net"
LAYOUTS = (  # name; the tensor, and its shape where that matters, of the first row that fits
    ("appetitive", "curiosity.z_history", None),
    ("v5.5", STATE_NET, (32, 9)),
    ("v5.6 to v5.9", STATE_NET, (32, 12)),
    ("v5.7", STATE_NET, (48, 14)),
    ("v5.10 before 2025-12-14", STATE_NET, (64, 18)),
    ("v5.10", STATE_NET, (64, 21)),
    ("v5.12.4 improved", "encoder_A.encoder.1.weight", (256,)),
    ("v5.11.3 structural", f"{DUAL}.0.weight", (128, 16)),
    ("v5.12 to v5.12.4 plain", f"{DUAL}.8.weight", (16, 64)),
    ("v5.12 to v5.12.4 plain, without dropout", f"{DUAL}.6.weight", (16, 64)),
    ("v5.11.11 and later", "projection.proj_A.manifold.isp_c", ()),
    ("v5.11 dual", f"{DUAL}.0.weight", None),
    ("v5.11 single projection", f"{SINGLE}.0.weight", None),
)
ALONE = "encoders and decoders alone"
LEFT_OUT = {  # how a tensor's name begins; why nothing that is measured needs it
    r"(state_net|attention_head_scales|controller)\.": "steers training alone",
    r"(metric|hyperbolic|curriculum)_attention": "steers training alone",
    r"appetite|(symbiosis|curiosity|ranking|closure)\.": "an appetite: steers training alone",
}
MAX_WIDTH = 1_024  # of a projection's layers


def network_of(state: dict[str, Any], name: str, config: Any = None) -> Network:
    """The network that `state` (tensors by their names) is, in evaluation mode; strictly.

    Args:
        name: what to call the file in a refusal.
        config: the file's own, as data: its max_radius and curvature, which no tensor may hold.

    Raises:
        InputError: no network, or the first tensor that is missing, surplus, misshapen, not
            float32, not dense or not finite.
    """
    shapes = {key: tuple(getattr(tensor, "shape", "?")) for key, tensor in state.items()}
    fits = (row for row, key, shape in LAYOUTS if key in shapes and shape in (None, shapes[key]))
    layout = next(fits, ALONE)
    which = "" if layout == ALONE else f" ({layout})"
    sentence = f"{name} is no network of the lineage{which}: "
    if not any(key.startswith(("encoder_", "decoder_")) for key in state):
        raise InputError(f"{sentence}there is no encoder or decoder in it, nothing to measure.")
    with torch.device("meta"):  # shapes alone: the numbers are the file's
        made = DualVAE() if layout == "v5.5" else Original(shapes, layout, config)
        model = made.float()  # whatever torch makes by default
    wanted = model.state_dict()
    for key in [*wanted, *state]:
        if problem := _problem(state.get(key), wanted.get(key)):
            raise InputError(f"{sentence}{printable(key)} {problem}.")
        if key not in wanted:
            model.left_out[key] = _reason(key, shapes[key])
            if layout in ("v5.5", ALONE) or not model.left_out[key]:
                raise InputError(f"{sentence}{printable(key)} is not part of it.")
    own = {key: tensor.detach().clone() for key, tensor in state.items()}
    model.load_state_dict({key: own[key] for key in wanted}, assign=True)
    model.kept = {key: own[key] for key in model.left_out}
    return model.eval()


class Projection(nn.Module):
    """Latents into the ball: y = max_radius · sigmoid(R(z)) · (z + D(z)) / ‖z + D(z)‖.

    D: Linear, LayerNorm, SiLU, …, Linear, (B, 16) → (B, 16). R: Linear, SiLU, …, Linear → (B, 1).
    The ball has curvature c > 0 and radius 1/√c; c = ln(1 + e^isp_c) where a file has that tensor.
    Source: lineage README, section 3.
    """

    def __init__(self, shapes: dict[str, tuple], prefix: str, config: Any) -> None:
        super().__init__()
        self.direction_net = _stack(shapes, f"{prefix}.direction_net.", (), D)
        self.radius_net = _stack(shapes, f"{prefix}.radius_net.", nn.LayerNorm, 1)
        curved = any(key.endswith(".manifold.isp_c") for key in shapes)  # of both, or of none
        self.manifold = nn.ParameterDict({"isp_c": torch.zeros(())} if curved else {})
        assumed = {"max_radius": 0.95, "curvature": 1.0}
        self.recorded = {key: _recorded(config, key, value) for key, value in assumed.items()}

    @property
    def stated(self) -> dict[str, tuple[float, str]]:
        """max_radius and curvature c, each with where it comes from."""
        if "isp_c" not in self.manifold:
            return self.recorded
        c = nn.functional.softplus(self.manifold["isp_c"]).item()
        return {**self.recorded, "curvature": (c, "isp_c")}

    def forward(self, z: Tensor) -> Tensor:  # (B, D) → (B, D)
        direction = nn.functional.normalize(z + self.direction_net(z), dim=-1)
        return direction * self.stated["max_radius"][0] * self.radius_net(z).sigmoid()

    def tangent(self, y: Tensor) -> Tensor:  # (B, D) → (B, D)
        """log₀(y) = artanh(√c·‖y‖) / (√c·‖y‖) · y, not finite outside the ball, where max_radius
        above 1/√c lets points lie: decoder A's other input (V5.12.1 on)."""
        c, _ = self.stated["curvature"]
        scaled = (c**0.5 * y.norm(dim=-1, keepdim=True)).clamp(min=1e-15)
        return scaled.atanh() / scaled * y


def _stack(shapes: dict[str, tuple], prefix: str, lacks: type | tuple, out: int) -> nn.Sequential:
    """The layers under `prefix` (D → out), as many, as wide and so numbered as the file has them.

    A 2-D weight is a Linear; a block `lacks` these of its layers. Dropout has no tensor, but a
    place, which shifts the numbers after it. What does not fit is found when tensors are filled in.
    """
    weight = re.compile(re.escape(prefix) + r"(0|[1-9]\d?)\.weight")
    found = {int(hit[1]): shapes[hit[0]] for hit in map(weight.fullmatch, shapes) if hit}
    linear = sorted(number for number, shape in found.items() if len(shape) == 2)
    widths = [max(1, min(found[number][0], MAX_WIDTH)) for number in linear[:-1]] or [D]
    made = [layer for layer in layers((D, *widths), True) if not isinstance(layer, lacks)]
    if linear and linear[-1] != len(made):
        made = [layer for layer in made if not isinstance(layer, nn.Identity)]
    return nn.Sequential(*made, nn.Linear(widths[-1], out))


def _recorded(config: Any, key: str, assumed: float) -> tuple[float, str]:
    """A number of the file's config, or of its part "model", and where it stands."""
    inner = config.get("model") if isinstance(config, dict) else None
    for where, place in (("config", config), ("config.model", inner)):
        value = place.get(key) if isinstance(place, dict) else None
        if type(value) in (float, int) and 0 < value <= 100:
            return float(value), f"{where}.{key}"
    return assumed, "not recorded in the file: assumed"


class Original(Network):
    """Any network of the original's, from the shapes of its tensors."""

    def __init__(self, shapes: dict[str, tuple], layout: str, config: Any = None) -> None:
        super().__init__()
        self.layout = layout
        normed = {key.removesuffix(".1.weight") for key in shapes}
        self.encoder_A = Encoder("encoder_A.encoder" in normed)
        self.encoder_B = Encoder("encoder_B.encoder" in normed)
        self.decoder_A = DecoderA("decoder_A.decoder" in normed)
        if any(key.startswith("decoder_B.") for key in shapes):
            self.decoder_B = DecoderB()
        else:
            self.vaes = ("A",)
        if f"{SINGLE}.0.weight" in shapes:  # one for both
            self.projection: nn.Module = Projection(shapes, "projection", config)
            self.projections = dict.fromkeys(self.encoders, self.projection)
        elif any(key.startswith("projection.") for key in shapes):
            made = {v: Projection(shapes, f"projection.proj_{v}", config) for v in self.encoders}
            self.projection = nn.ModuleDict({f"proj_{v}": each for v, each in made.items()})
            self.projections = made


def _reason(key: str, shape: tuple) -> str:
    """Why a tensor may be left out, or nothing."""
    number = "a running number of training" if "." not in key and math.prod(shape) == 1 else ""
    return next((why for name, why in LEFT_OUT.items() if re.match(name, key)), number)


def _problem(got: Any, want: Tensor | None) -> str:
    """What is wrong with a tensor, as the end of a sentence; nothing if all is right."""
    if not isinstance(got, Tensor):
        return "is missing" if got is None else "is not a tensor"
    if want is not None and got.shape != want.shape:
        shape = str(tuple(got.shape))[:40]  # a hostile one has thousands of dimensions
        return f"has shape {shape} instead of {tuple(want.shape)}"
    if got.layout != torch.strided or not got.is_contiguous():
        return "is not dense and contiguous"
    if want is not None and got.dtype != want.dtype:
        return f"holds {got.dtype} instead of {want.dtype}"
    return "" if want is None or got.isfinite().all() else "holds values that are not finite"
