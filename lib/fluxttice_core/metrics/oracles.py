"""Oracles: weights set by hand, in this very architecture. They have learnt nothing and pass every
gate, because a certificate is about what a network does.
"""

import math

import torch
from scipy.special import ndtri
from torch import Tensor

from ..model.network import D, DualVAE, linears
from ..model.operations import C, T
from .rate import TERCILE, axis_aligned_cells

SHARPNESS = 1e4  # slope of the logits: softness at the cuts costs about 0.02 % of the information
ENDS = torch.tensor([-1.0, 0.0, 1.0])
PAIRS = torch.cat([torch.eye(T), -torch.eye(T)])  # (18, T): relu gives x and -x a unit each
PACKED = 3  # latents that have three trits each
CELLS = C ** (T // PACKED)
START = 6.0  # the packed decoder is constant below -START, where the prior has 10⁻⁹ of its mass
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
    logits = _logits(PAIRS.T, torch.zeros(T), TERCILE)
    return _network(
        [(PAIRS,), (eye,), (eye,), (cells.mean * PAIRS.T,), spread],
        [(PAIRS,), (eye,), logits],
        [(PAIRS,), *[()] * 4, logits],
    )


@torch.no_grad()
def packed_oracle(exact_match: float = 0.9999) -> DualVAE:
    """The oracle with three trits a latent, which has a lower rate at the same exact match.

    Each of three latents is cut into 27 cells of equal probability. They hold the values of three
    trits in reflected Gray order, so neighbours differ in one trit. At an `exact_match` of 0.9999
    the rate is 12.0 nats, and that of `oracle` is 17.1: a latent of its own for each trit costs 5
    nats. Range of exact_match: 0.5 … below 1.

    The encoder's second layer is one-hot in the 27 values of each latent, and its third layer has
    their means and -ln σ². Each trit is a zigzag of its latent, which the decoder makes from one
    hinge a turn.
    """
    cell, wave = torch.arange(CELLS), torch.tensor([-1, 0, 1, 1, 0, -1])
    trits = torch.stack([wave[cell // step % 6] for step in (9, 3, 1)], 1)  # (27, 3)
    mean, sigma = _packed_posteriors(exact_match)
    zero = (trits == 0).float()
    # [x = 0] is 1 - relu(x) - relu(-x). A unit adds up its three trits' agreement, less 2.
    agrees = [torch.kron(torch.eye(PACKED), (trits == v).float() - zero) for v in (1, -1)]
    one_hot = torch.cat(agrees, 1), (zero.sum(1) - 2).repeat(PACKED)
    heads = torch.kron(torch.eye(PACKED), torch.stack([mean + START, -2 * sigma.log()]))  # (6, 81)
    first, second = torch.eye(2 * PACKED).unflatten(0, (PACKED, 2)).unbind(1)  # (3, 6) each
    codes = [(PAIRS,), one_hot, (heads,), (first, torch.full((PACKED,), -START)), (-second,)]

    turns, zigzags, start = _zigzags()
    hinges = torch.kron(torch.eye(PACKED), torch.ones(len(turns), 1))  # (33, 3)
    bends = -turns.repeat(PACKED)
    logits = _logits(torch.kron(torch.eye(PACKED), zigzags), start.repeat(PACKED), 0.5)
    pairs = torch.cat([torch.eye(PACKED), -torch.eye(PACKED)])
    return _network(
        codes,
        [(pairs,), (hinges @ pairs.T, bends), logits],
        [(hinges, bends), *[()] * 4, logits],
    )


def _packed_posteriors(exact_match: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in each of 27 cells, (27,) each: every cell is left with the same
    chance. Inner posteriors are centred; the outer two are the cheapest (`axis_aligned_cells`)."""
    leaves = 1 - exact_match ** (1 / PACKED)
    q, both = -ndtri(leaves), -ndtri(leaves / 2)
    cuts = _cuts()
    c = float(cuts[-1])
    s = (-c * q + math.sqrt((c * q) ** 2 + 4 * (1 + q * q))) / (2 * (1 + q * q))
    middle, width = (cuts[1:] + cuts[:-1]) / 2, cuts.diff()
    m, outer = torch.tensor([c + q * s]), torch.tensor([s])
    return torch.cat([-m, middle, m]), torch.cat([outer, width / (2 * both), outer])


def _zigzags() -> tuple[Tensor, Tensor, Tensor]:
    """A latent's three trits as sums of hinges, relu(z - turn): `turns` (11,), the hinges' weights
    (3, 11), and each sum's start (3,). A sum is ½ or -½ exactly where its trit changes.

    The first hinge begins at -START and is the slope that all begin with; the others turn.
    """
    cuts, turns, bends, first, start = _cuts(), [], [], [], []
    for step in (9, 3, 1):  # cells between two changes
        low, high = cuts[step - 1 :: 3 * step], cuts[2 * step - 1 :: 3 * step]
        slope = (-1.0) ** torch.arange(len(low)) / (high - low)  # between two turns
        middle = (low + high) / 2  # where the sum is 0
        turns.append((slope * middle).diff() / slope.diff())
        bends.append(slope.diff()[None])
        first.append(slope[:1])
        start.append(slope[:1] * (-START - middle[:1]))
    knots = torch.cat([torch.tensor([-START]), *turns])
    return knots, torch.cat([torch.stack(first), torch.block_diag(*bends)], 1), torch.cat(start)


def _cuts() -> Tensor:
    """(26,): what cuts the standard normal distribution into 27 equal parts."""
    return torch.special.ndtri(torch.arange(1, CELLS).double() / CELLS).float()


def _logits(values: Tensor, start: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """A last layer, weight and bias, that decides a trit for -1, 0 or 1 by whether its value, from
    `values` (T, units) and `start` (T,), is below -half, between, or above half."""
    weight = SHARPNESS * torch.kron(torch.eye(T), ENDS[:, None]) @ values
    return weight, SHARPNESS * (torch.kron(start, ENDS) - (half * ENDS.square()).repeat(T))


def _network(codes: Corners, decoder_A: Corners, decoder_B: Corners) -> DualVAE:
    """Both encoders have `codes`; what no corner of a layer covers is 0."""
    model = DualVAE.fresh(0)
    for part, corners in (
        (model.encoder_A, codes),
        (model.encoder_B, codes),
        (model.decoder_A, decoder_A),
        (model.decoder_B, decoder_B),
    ):
        for parameter in part.parameters():
            parameter.zero_()
        for layer, tensors in zip(linears(part), corners, strict=True):
            for tensor, corner in zip((layer.weight, layer.bias), tensors, strict=False):
                tensor[tuple(map(slice, corner.shape))] = corner
    return model
