"""The original system's networks, v5.5 to v5.12.4, each as its tensors describe it.

A layout is a row of LAYOUTS. It says what a file is called, never what is computed: encoders,
decoders, norms, activations and projections are read from the tensors' names and shapes.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, printable
from .network import D, DecoderA, DecoderB, DualVAE, Encoder, Network

STATE_NET = "state_net.encoder.0.weight"
DIRECTION = "projection.proj_A.direction_net"
LAYOUTS = (  # name; the tensor, and its shape where that matters, of the first row that fits
    ("appetitive", "curiosity.z_history", None),
    ("v5.5", STATE_NET, (32, 9)),
    ("v5.6 to v5.9", STATE_NET, (32, 12)),
    ("v5.7", STATE_NET, (48, 14)),
    ("v5.10 before 2025-12-14", STATE_NET, (64, 18)),
    ("v5.10", STATE_NET, (64, 21)),
    ("v5.12.4 improved", "encoder_A.encoder.1.weight", (256,)),
    ("v5.11.3 structural", f"{DIRECTION}.0.weight", (128, 16)),
    ("v5.12 to v5.12.4 plain", f"{DIRECTION}.8.weight", (16, 64)),
    ("v5.12 to v5.12.4 plain, without dropout", f"{DIRECTION}.6.weight", (16, 64)),
    ("v5.11.11 and later", "projection.proj_A.manifold.isp_c", ()),
    ("v5.11 dual", f"{DIRECTION}.0.weight", None),
    ("v5.11 single projection", "projection.direction_net.0.weight", None),
)
ALONE = "encoders and decoders alone"
TRAINING = "steers training alone"
LEFT_OUT = (  # what a name begins with; why nothing that is measured needs the tensor
    (("state_net.", "metric_attention", "hyperbolic_attention", "curriculum_attention"), TRAINING),
    (("attention_head_scales.", "controller."), TRAINING),
    (("appetite", "symbiosis.", "curiosity.", "ranking.", "closure."), f"an appetite: {TRAINING}"),
)
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
    layout = next((row for row, *tensor in LAYOUTS if _fits(state, *tensor)), ALONE)
    try:
        if not any(key.startswith(("encoder_", "decoder_")) for key in state):
            raise Misfit("nothing to measure in it, no encoder or decoder is among its tensors")
        model = DualVAE.fresh(0) if layout == "v5.5" else Original(state, layout, config)
        _fill(model.float(), state)
    except Misfit as misfit:
        which = "" if layout == ALONE else f" ({layout})"
        raise InputError(f"{name} is no network of the lineage{which}: {misfit}.") from None
    return model.eval()


class Misfit(ValueError):
    """The tensor that does not fit, and why, as the end of a sentence."""


def _fits(state: dict[str, Any], key: str, shape: tuple[int, ...] | None) -> bool:
    return key in state and shape in (None, tuple(getattr(state[key], "shape", "?")))


class Projection(nn.Module):
    """Latents into the ball: y = max_radius · sigmoid(R(z)) · (z + D(z)) / ‖z + D(z)‖.

    D: Linear, LayerNorm, SiLU, …, Linear, (B, 16) → (B, 16). R: Linear, SiLU, …, Linear → (B, 1).
    The ball has curvature c > 0 and radius 1/√c; c = ln(1 + e^isp_c) where a file has that tensor.
    `stated` says where max_radius and c come from. Source: lineage README, section 3.
    """

    def __init__(self, state: dict[str, Any], prefix: str, config: Any) -> None:
        super().__init__()
        self.direction_net = _stack(state, f"{prefix}.direction_net", "(LN)+L", D)
        self.radius_net = _stack(state, f"{prefix}.radius_net", "L+L", 1)
        self.max_radius, radius_from = _recorded(config, "max_radius", 0.95)
        self.curvature, curvature_from = _recorded(config, "curvature", 1.0)
        if any(key.endswith(".manifold.isp_c") for key in state):  # of both, or of none
            self.manifold, curvature_from = nn.Module(), f"{prefix}.manifold.isp_c"
            self.manifold.isp_c = nn.Parameter(torch.zeros(()))
            isp_c = state.get(curvature_from)  # what is wrong with it is told when it is filled in
            if _difference(isp_c, self.manifold.isp_c) == "":
                self.curvature = nn.functional.softplus(isp_c).item()
        self.stated = {
            "max_radius": self.max_radius, "max_radius_from": radius_from,
            "curvature": self.curvature, "curvature_from": curvature_from,
        }  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:  # (B, D) → (B, D)
        direction = nn.functional.normalize(z + self.direction_net(z), dim=-1)
        return direction * self.max_radius * self.radius_net(z).sigmoid()

    def tangent(self, y: Tensor) -> Tensor:
        """log₀(y) = artanh(√c·‖y‖) / (√c·‖y‖) · y, (B, D): decoder A's other input (V5.12.1 on).

        Not finite outside the ball, where max_radius > 1/√c lets points lie.
        """
        scaled = (self.curvature**0.5 * y.norm(dim=-1, keepdim=True)).clamp(min=1e-15)
        return scaled.atanh() / scaled * y


def _stack(state: dict[str, Any], prefix: str, kinds: str, out: int) -> nn.Sequential:
    """The layers under `prefix`, by their order: dropout, without tensors, shifts their numbers.

    A 2-D weight is a Linear (L), a 1-D one the LayerNorm (N) of the one before; SiLU between.
    """
    weight = re.compile(re.escape(prefix) + r"\.(0|[1-9]\d?)\.weight")
    made, width, read = nn.Sequential(), D, ""
    for number in sorted(int(hit[1]) for hit in map(weight.fullmatch, state) if hit):
        shape: tuple[int, ...] = getattr(state[f"{prefix}.{number}.weight"], "shape", ())
        read += {1: "N", 2: "L"}.get(len(shape), "?")
        if max(shape, default=0) > MAX_WIDTH:
            raise Misfit(f"{prefix}.{number}.weight is wider than any projection")
        if read[-1] == "L":
            if made:
                made.add_module(f"before {number}", nn.SiLU())
            made.add_module(str(number), nn.Linear(width, width := shape[0]))
        else:
            made.add_module(str(number), nn.LayerNorm(width))
    if not re.fullmatch(kinds, read) or width != out:
        raise Misfit(
            f"the layers of {prefix} are {read or 'missing'}, with {width} numbers at last"
        )
    return made


def _recorded(config: Any, key: str, assumed: float) -> tuple[float, str]:
    """A number of the file's config, or of its part "model", and where it stands."""
    inner = config.get("model") if isinstance(config, dict) else None
    for where, place in (("config", config), ("config.model", inner)):
        value = place.get(key) if isinstance(place, dict) else None
        if type(value) in (float, int) and 0 < value <= 100:
            return float(value), f"{where}.{key}"
    return assumed, "not recorded in the file: assumed"


class Original(Network):
    """Any network of the original's, with what its file holds besides as `kept`."""

    def __init__(self, state: dict[str, Any], layout: str, config: Any = None) -> None:
        super().__init__()
        self.layout = layout
        for vae in self.encoders:
            self.add_module(f"encoder_{vae}", Encoder(f"encoder_{vae}.encoder.1.weight" in state))
        self.decoder_A = DecoderA("decoder_A.decoder.1.weight" in state)
        if any(key.startswith("decoder_B.") for key in state):
            self.decoder_B = DecoderB()
        else:
            self.vaes = ("A",)
        single = "projection.direction_net.0.weight" in state  # one for both
        self.place = "projection." if single else r"projection.proj_\1."
        self.projections = nn.ModuleDict()
        if any(key.startswith("projection.") for key in state):
            for vae in self.encoders:
                prefix = "projection" if single else f"projection.proj_{vae}"
                self.projections[vae] = Projection(state, prefix, config)

    def projection(self, vae: str) -> Any:
        return dict(self.projections.items()).get(vae)

    @property
    def names(self) -> dict[str, str]:
        pattern = re.compile(r"projections\.(.)\.")
        return {own: pattern.sub(self.place, own) for own in self.state_dict()}

    @property
    def left_out(self) -> dict[str, str]:
        return {key: _reason(key, tensor) for key, tensor in self.kept.items()}


def _fill(model: Network, state: dict[str, Any]) -> None:
    """Give `model` the tensors of `state`, if it has neither more nor fewer nor others."""
    own = model.state_dict()
    wanted = {file: own[key] for key, file in model.names.items()}
    for key in [*wanted, *state]:
        problem = _difference(state.get(key), wanted.get(key))
        if not problem and key not in wanted:
            known = model.layout not in ("v5.5", ALONE) and _reason(key, state[key])
            problem = "" if known else "is not part of it"
        if problem:
            raise Misfit(f"{printable(key)} {problem}")
    model.load_state_dict({key: state[file] for key, file in model.names.items()}, strict=True)
    model.kept = {key: v.detach().clone() for key, v in state.items() if key not in wanted}


def _reason(key: str, tensor: Tensor) -> str:
    """Why a tensor may be left out, or nothing."""
    for begins, reason in LEFT_OUT:
        if key.startswith(begins):
            return reason
    return "" if "." in key or tensor.numel() != 1 else "a running number of training"


def _difference(got: Any, want: Tensor | None) -> str:
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
