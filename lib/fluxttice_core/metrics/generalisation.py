"""Generalisation: what each VAE does, alone, with operations that its training never saw.

Exact match is argmax decoding of the posterior mean, all nine trits, no cross-injection. It is
computed once for all M operations; every share below is a reading of those M hits. The shares
therefore overlap and are no independent evidence: they ask whether any *kind* of new operation
is left behind. An operation is new where it is outside the training split: validation, which
chose the epoch, and test, which nothing before certification reads.

They show no more than that a code composes trits: a random linear encoder with a read-out fitted
to ten operations has them all (`adversaries.linear_readout`).

Index letters as in `operations`; n counts whatever a row is about.
"""

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from ..model.operations import C, M, Split, all_operations, index_of, noisy
from .results import CENSUS, Measured, exact

FLIPS = (1, 2)
RELABELLINGS = tuple(permutations((-1, 0, 1)))[1:]  # images of -1, 0, 1; the identity comes first


def kinds(hits: Tensor, split: Split, seed: int) -> dict[str, Measured]:
    """Exact match over kinds of new operations, from `hits` (M,) bool, one per operation.

    - unseen: validation and test; test: test alone.
    - sparse: at most 3 entries that are not 0; dense: none that is 0.
    - noisy_k: what k flipped entries make of training operations, each flipped once. A hit returns
      the *noisy* table; to be pulled back to the familiar clean one counts as a miss.
    - compositions: h of all pairs with h(x, y) = f(g(x, y), y) (`compositions`).
    - outputs_relabelled, inputs_relabelled: π(f(x, y)) and f(π(x), π(y)) of training operations f
      and the 5 π ≠ id of the symbols.

    Each is a census, 0 … 1: all cases that lead to a new operation are counted, and `method` says
    how many operations they are. The noise of `noisy_k` is drawn, once, from `seed`.
    """
    ops = all_operations()
    known, symbols = ops[split.train], torch.tensor(RELABELLINGS)  # (5, C)
    places = (C * (symbols[:, :, None] + 1) + symbols[:, None, :] + 1).flatten(1)  # (5, T)
    new = _counts(torch.cat([split.val, split.test]))
    weights = {
        "unseen": new,
        "test": _counts(split.test),
        "sparse": (ops != 0).sum(1) <= 3,
        "dense": (ops != 0).all(1),
        **{f"noisy_{k}": _counts(index_of(noisy(known, k, seed))) for k in FLIPS},
        "compositions": compositions(),
        "outputs_relabelled": _counts(index_of(symbols[:, known + 1])),
        "inputs_relabelled": _counts(index_of(known[:, places])),
    }
    return {kind: _census(hits, w * new) for kind, w in weights.items()}


def worst_kind(found: dict[str, Measured]) -> Measured:
    """The least of `kinds`: a census as they are; `method` names the kind."""
    kind = min(found, key=lambda name: found[name].value)
    return exact(found[kind].value, found[kind].n, f"{CENSUS}; {kind.replace('_', ' ')}")


@cache
def compositions() -> Tensor:
    """(M,) int64: how many of the M² pairs (f, g) have h(x, y) = f(g(x, y), y), for each h.

    For each y, f(·, y) and g(·, y) are two of the 27 unary functions u, and h(·, y) is their
    composition; the three y are independent. So N(h) = Π_y #{(u, v): u∘v = h(·, y)}: exact, and
    Σ_h N(h) = M². f and g range over all operations, known or not. What is measured on h is
    whether it is reconstructed; composing is not asked of the network.
    """
    unary = torch.cartesian_prod(*[torch.arange(C)] * C)  # (27, 3): classes of u(-1), u(0), u(1)
    places = C ** torch.arange(C)
    ways = torch.bincount((unary[:, unary] * places).sum(-1).flatten(), minlength=C**C)  # (27,)
    h = (all_operations() + 1).view(M, C, C).transpose(1, 2)  # (M, y, x)
    return ways[(h * places).sum(-1)].prod(1)


def _census(hits: Tensor, weights: Tensor) -> Measured:
    """Σ w·hit / Σ w: the share of cases, where w (M,) of them lead to an operation."""
    cases, operations = int(weights.sum()), int((weights > 0).sum())
    return exact(int(weights[hits].sum()) / cases, cases, f"{CENSUS}; {operations:,} operations")


def _counts(index: Tensor) -> Tensor:
    return torch.bincount(index.flatten(), minlength=M)
