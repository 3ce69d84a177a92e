"""Initialisations other than PyTorch's own."""

import torch
from torch import nn

from ..model.network import DualVAE, linears
from ..model.streams import generator


@torch.no_grad()
def looks_linear(model: DualVAE, seed: int) -> None:
    """Start both decoders as random linear maps (Balduzzi et al. 2017, sec. 4.1): mirrored rows
    ±W before each ReLU, mirrored columns after it, and residual branches at zero."""
    rng = generator(seed, "looks linear")
    first, *blocks, last = linears(model.decoder_B)
    mirror(linears(model.decoder_A), rng)
    mirror([first, last], rng)
    for layer in blocks[1::2]:
        layer.weight.zero_()
        layer.bias.zero_()


@torch.no_grad()
def mirror(layers: list[nn.Linear], rng: torch.Generator) -> None:
    """Make linear layers with ReLUs between them one random linear map: orthogonal ones, of half
    the width that lies between, each from -W and W to both parts of the next."""
    for layer in layers:
        rows, columns = layer is not layers[-1], layer is not layers[0]
        high, wide = layer.weight.shape
        w = layer.weight.new_empty(high // (1 + rows), wide // (1 + columns))
        nn.init.orthogonal_(w, generator=rng)
        w = torch.cat([w, -w], 1) if columns else w
        layer.weight.copy_(torch.cat([w, -w]) if rows else w)
        layer.bias.zero_()
