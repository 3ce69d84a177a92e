"""Initialisations other than PyTorch's own."""

import torch
from torch import Tensor, nn

from ..model.network import D, DualVAE, Encoder, linears
from ..model.operations import C, T
from ..model.streams import generator


@torch.no_grad()
def looks_linear(model: DualVAE, seed: int) -> None:
    """Start both decoders as random linear maps (Balduzzi et al. 2017, sec. 4.1): mirrored rows
    ±W before each ReLU, mirrored columns after it, and residual branches at zero."""
    rng = generator(seed, "looks linear")
    first, middle, last = linears(model.decoder_A)
    _mirror(first, _orthogonal(16, D, rng), rows=True)
    _mirror(middle, _orthogonal(32, 16, rng), rows=True, columns=True)
    _mirror(last, _orthogonal(T * C, 32, rng), columns=True)
    first, *blocks, last = linears(model.decoder_B)
    _mirror(first, _orthogonal(64, D, rng), rows=True)
    _mirror(last, _orthogonal(T * C, 64, rng), columns=True)
    for layer in blocks[1::2]:
        layer.weight.zero_()
        layer.bias.zero_()


@torch.no_grad()
def linear_encoder(encoder: Encoder, rng: torch.Generator) -> None:
    """Make the posterior means a random linear map of the table, in the same way."""
    first, second, third, mu, _ = linears(encoder)
    _mirror(first, _orthogonal(128, T, rng), rows=True)
    _mirror(second, _orthogonal(64, 128, rng), rows=True, columns=True)
    _mirror(third, _orthogonal(32, 64, rng), rows=True, columns=True)
    _mirror(mu, _orthogonal(D, 32, rng), columns=True)


def _mirror(layer: nn.Linear, w: Tensor, rows: bool = False, columns: bool = False) -> None:
    w = torch.cat([w, -w], 1) if columns else w
    layer.weight.copy_(torch.cat([w, -w]) if rows else w)
    layer.bias.zero_()


def _orthogonal(rows: int, columns: int, rng: torch.Generator) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, columns), generator=rng)
