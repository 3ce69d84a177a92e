"""The projection of latents into a ball that v5.x networks have from V5.11 on."""

import re
from typing import Any

from torch import Tensor, nn

from ..model.network import Network


class Projection(nn.Module):
    """y = max_radius · sigmoid(R(z)) · (z + D(z)) / ‖z + D(z)‖; z and y (B, 16).

    D: Linear, LayerNorm, SiLU, …, Linear → (B, 16). R: Linear, SiLU, …, Linear → (B, 1).
    Loading the checkpoint has checked the names and shapes of its `tensors`.
    `hyperparameters`: max_radius, and the curvature c > 0 of the ball, whose radius is 1/√c; each
    with its source: the file's config, a tensor (c = ln(1 + e^isp_c)), or an assumption.
    """

    def __init__(self, tensors: dict[str, Tensor], config: Any) -> None:
        super().__init__()
        self.direction_net = _network(tensors, "direction_net.")
        self.radius_net = _network(tensors, "radius_net.")
        assumed = "not recorded in the file: assumed"
        self.hyperparameters = {"max_radius": (0.95, assumed), "curvature": (1.0, assumed)}
        inner = config.get("model") if isinstance(config, dict) else None
        for source, values in (("config.model", inner), ("config", config)):
            for key in self.hyperparameters if isinstance(values, dict) else ():
                if type(values.get(key)) in (float, int) and 0 < values[key] <= 100:
                    self.hyperparameters[key] = float(values[key]), f"{source}.{key}"
        if "manifold.isp_c" in tensors:
            c = nn.functional.softplus(tensors["manifold.isp_c"]).item()
            self.hyperparameters["curvature"] = c, "isp_c"

    def forward(self, z: Tensor) -> Tensor:
        direction = nn.functional.normalize(z + self.direction_net(z), dim=-1)
        return direction * self.hyperparameters["max_radius"][0] * self.radius_net(z).sigmoid()

    def tangent(self, y: Tensor) -> Tensor:
        """log₀(y) = artanh(√c·‖y‖) / (√c·‖y‖) · y; not finite where ‖y‖ ≥ 1/√c."""
        c, _ = self.hyperparameters["curvature"]
        scaled = (c**0.5 * y.norm(dim=-1, keepdim=True)).clamp(min=1e-15)
        return scaled.atanh() / scaled * y


def _network(tensors: dict[str, Tensor], start: str) -> nn.Sequential:
    """Layers in the order of their numbers, because dropout shifts these and has no tensors."""
    own = {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
    made: list[nn.Module] = []
    for number in sorted({int(name.split(".")[0]) for name in own}):
        weight, bias = own[f"{number}.weight"], own[f"{number}.bias"]
        linear = weight.dim() == 2
        kind, shape = (nn.Linear, weight.T.shape) if linear else (nn.LayerNorm, weight.shape)
        layer = nn.utils.skip_init(kind, *shape)
        layer.load_state_dict({"weight": weight, "bias": bias})
        made += [nn.SiLU(), layer] if linear and made else [layer]
    return nn.Sequential(*made)


def projections(model: Network, config: Any) -> dict[str, Projection]:
    """Each encoder's projection by its name; in v5.11 both may share one."""
    made = {}
    for vae in model.encoders:
        start = rf"projection\.(proj_{vae}\.)?"
        own = {re.sub(start, "", name): x for name, x in model.extra_tensors.items()}
        if "direction_net.0.weight" in own:
            made[vae] = Projection(own, config)
    return made
