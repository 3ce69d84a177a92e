"""Codes with three trits a latent: how much cheaper they are, and that they pass every gate, by
`.venv/bin/python lib/benchmarks/packed.py` (half a minute).

Each of three latents is cut into 27 cells of equal probability. They hold the values of three trits
in reflected Gray order, so neighbours differ in one trit.
"""

import math

import torch
from scipy.special import ndtri
from torch import Tensor

from fluxttice_core import files, params
from fluxttice_core.metrics import rate
from fluxttice_core.metrics.gates import Certify, bounds_of, vae_gates
from fluxttice_core.metrics.latent_space import mi_disentanglement, mutual_information_matrix
from fluxttice_core.metrics.oracles import PAIRS, oracle, set_by_hand, trit_logits
from fluxttice_core.metrics.reconstruction import posterior
from fluxttice_core.model.network import VAES, DualVAE
from fluxttice_core.model.operations import C, T

LATENTS = 3  # that have three trits each
CELLS = C ** (T // LATENTS)
START = 6.0  # the decoder is constant below -START, where the prior has 10⁻⁹ of its mass
SHIPPED = 0.9996  # the shipped checkpoint's exact match from a sample


@torch.no_grad()
def packed_oracle(exact_match: float = 0.9999) -> DualVAE:
    """The packed network at `exact_match`, 0.5 … below 1, from a posterior sample.

    The encoder's second layer is one-hot in the 27 values of each latent, and its third layer has
    their means and -ln σ². Each trit is a zigzag of its latent, which the decoder makes from one
    hinge a turn.
    """
    cell, wave = torch.arange(CELLS), torch.tensor([-1, 0, 1, 1, 0, -1])
    trits = torch.stack([wave[cell // step % 6] for step in (9, 3, 1)], 1)  # (27, 3)
    mean, sigma = _posteriors(exact_match)
    zero, each = (trits == 0).float(), torch.eye(LATENTS)
    # [x = 0] is 1 - relu(x) - relu(-x). A unit adds up its three trits' agreement, less 2.
    agrees = [torch.kron(each, (trits == v).float() - zero) for v in (1, -1)]
    one_hot = torch.cat(agrees, 1), (zero.sum(1) - 2).repeat(LATENTS)
    heads = torch.kron(each, torch.stack([mean + START, -2 * sigma.log()]))  # (6, 81)
    first, second = torch.eye(2 * LATENTS).unflatten(0, (LATENTS, 2)).unbind(1)  # (3, 6) each
    codes = [(PAIRS,), one_hot, (heads,), (first, torch.full((LATENTS,), -START)), (-second,)]

    turns, zigzags, start = _zigzags()
    hinges = torch.kron(each, torch.ones(len(turns), 1))  # (33, 3)
    bends = -turns.repeat(LATENTS)
    logits = trit_logits(torch.kron(each, zigzags), start.repeat(LATENTS), 0.5)
    pairs = torch.cat([each, -each])
    return set_by_hand(
        codes,
        [(pairs,), (hinges @ pairs.T, bends), logits],
        [(hinges, bends), *[()] * 4, logits],
    )


def _posteriors(exact_match: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in each of 27 cells, (27,) each, with the same chance of leaving
    it. Inner posteriors are centred; the outer two are the cheapest (`rate.axis_aligned_cells`)."""
    leaves = 1 - exact_match ** (1 / LATENTS)
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


def main() -> None:
    torch.set_num_threads(1)
    for name, network in (
        ("a latent for each trit", oracle(SHIPPED)),
        ("three trits a latent", packed_oracle(SHIPPED)),
    ):
        q = posterior(network, "A")
        matrix = mi_disentanglement(mutual_information_matrix(q)).value
        nats = rate.rate(q).value
        print(f"{name}: rate {nats:.2f} nats, disentanglement by the matrix {matrix:.2f}")
    path = files.root() / "params" / "certify.yaml"
    p = params.check(
        Certify, {**params.read_yaml(path), "checkpoint": "", "run_dir": ""}, path.name
    )
    for vae in VAES:
        for row in vae_gates(packed_oracle(), vae, p.k, 1, bounds_of(p)):
            print(f"VAE-{vae} {row.gate} {row.bound:g}: {row.value:.6g} {row.verdict}")


if __name__ == "__main__":
    main()
