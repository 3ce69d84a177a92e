"""The oracle: weights set by hand, in this very architecture. It was never trained and passes all
gates, because a certificate is about what a network does.
"""

import torch
from torch import Tensor

from ..model.network import D, DualVAE, linears
from ..model.operations import T
from .rate import TERCILE, axis_aligned_cells

SHARPNESS = 1e4  # slope of the logits: softness at the cuts costs about 0.02 % of the information
PAIRS = torch.cat([torch.eye(T), -torch.eye(T)])  # (18, T): relu gives x and -x a unit each
Corners = list[tuple[Tensor, ...]]  # of each layer in turn the weights and biases that are not 0


@torch.no_grad()
def oracle(exact_match: float = 0.9999) -> DualVAE:
    """The oracle with one latent a trit, which has the lowest rate of such codes.

    Latent i < 9 owns trit i, cut at the normal terciles by sharp logits; the posterior is the
    cheapest at `exact_match` from a sample (`rate.axis_aligned_cells`); the other seven latents
    are the prior. Every ReLU layer carries +x and -x in two units, since x = relu(x) - relu(-x)
    and |x| = relu(x) + relu(-x), from which the encoder makes ln σ² of -1, 0, +1.
    """
    cells, eye = axis_aligned_cells(exact_match), torch.eye(2 * T)
    middle, outer = 2 * torch.tensor([cells.middle, cells.outer]).log()
    logvar = torch.cat([middle.repeat(T), torch.zeros(D - T)])
    spread = (outer - middle) * PAIRS.T.abs(), logvar
    logits = trit_logits(PAIRS.T, torch.zeros(T), TERCILE)
    return set_by_hand(
        [(PAIRS,), (eye,), (eye,), (cells.mean * PAIRS.T,), spread],
        [(PAIRS,), (eye,), logits],
        [(PAIRS,), *[()] * 4, logits],
    )


def trit_logits(values: Tensor, start: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of a last layer that decides a trit for -1, 0 or 1 by whether its value, from
    `values` (T, units) and `start` (T,), is below -half, between, or above half."""
    ends = torch.tensor([-1.0, 0.0, 1.0])
    weight = SHARPNESS * torch.kron(torch.eye(T), ends[:, None]) @ values
    return weight, SHARPNESS * (torch.kron(start, ends) - (half * ends.square()).repeat(T))


def set_by_hand(encoder: Corners, decoder_A: Corners, decoder_B: Corners) -> DualVAE:
    """A network whose weights are 0 outside of these corners; both encoders have the same."""
    model = DualVAE.fresh(0)
    parts = model.encoder_A, model.encoder_B, model.decoder_A, model.decoder_B
    for part, corners in zip(parts, (encoder, encoder, decoder_A, decoder_B), strict=True):
        for layer, given in zip(linears(part), corners, strict=True):
            for tensor in (layer.weight, layer.bias):
                tensor.zero_()
            for tensor, corner in zip((layer.weight, layer.bias), given, strict=False):
                tensor[tuple(map(slice, corner.shape))] = corner
    return model
