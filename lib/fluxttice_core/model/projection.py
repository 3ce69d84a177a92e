"""The projection into a ball that the original's networks have from V5.11 on."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from .network import D, Network, layers

MAX_WIDTH = 1_024  # of its layers


class Projection(nn.Module):
    """Latents into the ball: y = max_radius · sigmoid(R(z)) · (z + D(z)) / ‖z + D(z)‖.

    D: Linear, LayerNorm, SiLU, …, Linear, (B, 16) → (B, 16). R: Linear, SiLU, …, Linear → (B, 1);
    as many layers, as wide and so numbered as the file has them. `stated`: max_radius, and the
    curvature c > 0 of the ball, whose radius is 1/√c, each with where it comes from: the file's
    config, or that's part "model"; c = ln(1 + e^isp_c) where there is such a tensor.
    """

    direction_net: nn.Sequential
    radius_net: nn.Sequential

    def __init__(self, shapes: dict[str, tuple], prefix: str, config: Any) -> None:
        super().__init__()
        for net, lacks, out in (("direction_net", (), D), ("radius_net", nn.LayerNorm, 1)):
            weight = re.compile(re.escape(f"{prefix}.{net}.") + r"(0|[1-9]\d?)\.weight")
            found = {int(hit[1]): shapes[hit[0]] for hit in map(weight.fullmatch, shapes) if hit}
            linear = sorted(number for number, shape in found.items() if len(shape) == 2)
            widths = [max(1, min(found[number][0], MAX_WIDTH)) for number in linear[:-1]] or [D]
            made = [layer for layer in layers((D, *widths), True) if not isinstance(layer, lacks)]
            if linear and linear[-1] != len(made):  # no dropout, which has a number and no tensor
                made = [layer for layer in made if not isinstance(layer, nn.Identity)]
            setattr(self, net, nn.Sequential(*made, nn.Linear(widths[-1], out)))
        curved = any(key.endswith(".manifold.isp_c") for key in shapes)  # of both, or of none
        self.manifold = nn.ParameterDict({"isp_c": torch.zeros(())} if curved else {})
        assumed = "not recorded in the file: assumed"
        self.stated = {"max_radius": (0.95, assumed), "curvature": (1.0, assumed)}
        inner = config.get("model") if isinstance(config, dict) else None
        for where, place in (("config.model", inner), ("config", config)):
            for key in self.stated if isinstance(place, dict) else ():
                if type(place.get(key)) in (float, int) and 0 < place[key] <= 100:
                    self.stated[key] = float(place[key]), f"{where}.{key}"

    def forward(self, z: Tensor) -> Tensor:  # (B, D) → (B, D)
        direction = nn.functional.normalize(z + self.direction_net(z), dim=-1)
        return direction * self.stated["max_radius"][0] * self.radius_net(z).sigmoid()

    def tangent(self, y: Tensor) -> Tensor:  # (B, D) → (B, D)
        """log₀(y) = artanh(√c·‖y‖) / (√c·‖y‖) · y, not finite outside the ball, where max_radius
        above 1/√c lets points lie: decoder A's other input (V5.12.1 on)."""
        c, _ = self.stated["curvature"]
        scaled = (c**0.5 * y.norm(dim=-1, keepdim=True)).clamp(min=1e-15)
        return scaled.atanh() / scaled * y


def attach(model: Network, config: Any) -> dict[str, Projection]:
    """Makes modules of `model` from its extra tensors: the projections, by encoder."""
    tensors, made = model.extra_tensors, {}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for place in ("projection", "projection.proj_A", "projection.proj_B"):
        if f"{place}.direction_net.0.weight" in tensors:
            with torch.device("meta"):
                ball = made[place] = Projection(shapes, place, config)
            own = {k.removeprefix(f"{place}."): v for k, v in tensors.items() if place in k}
            ball.load_state_dict(own, assign=True)
            for c in ball.manifold.values():
                ball.stated["curvature"] = nn.functional.softplus(c).item(), "isp_c"
    model.projection_modules = nn.ModuleList(made.values())  # so that `untrained` resets them
    found = dict(zip(model.encoders, [*made.values()] * 2, strict=False)) if made else {}
    vars(model)["projections"] = found
    return found
