"""Generalisation: what each VAE does, alone, with operations that its training never saw.

Exact match is argmax decoding of the posterior mean, all nine trits, no cross-injection. It is
computed once for all M operations; every share below is a reading of those M hits. The shares
therefore overlap and are no independent evidence: they ask whether any *kind* of new operation
is left behind. An operation is new where it is outside the training split: validation, which
chose the epoch, and test, which nothing before certification reads.

They show no more than that a code composes trits: a random linear encoder with a read-out fitted
to ten operations has them all (`controls.linear_readout`).

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
    - noisy_k: training operations with k entries flipped (`noisy_pairs`). A hit returns the
      *noisy* table; to be pulled back to the familiar clean one counts as a miss.
    - compositions, outputs_relabelled, inputs_relabelled: the functions of these names.

    Each is a census, 0 … 1: all cases of the kind are counted, and `method` says how many
    operations they are. The noise of `noisy_k` is drawn, once, from `seed`.
    """
    unseen = torch.cat([split.val, split.test])
    ops = all_operations()[unseen]
    known = all_operations()[split.train]
    once = {
        "unseen": unseen,
        "test": split.test,
        "sparse": unseen[(ops != 0).sum(1) <= 3],
        "dense": unseen[(ops != 0).all(1)],
        **{f"noisy_{k}": noisy_pairs(split, k, seed)[1] for k in FLIPS},
    }
    weights = {kind: _counts(index) for kind, index in once.items()}
    known_to = {
        "compositions": compositions(),
        "outputs_relabelled": _counts(index_of(outputs_relabelled(known))),
        "inputs_relabelled": _counts(index_of(inputs_relabelled(known))),
    }
    new = torch.isin(torch.arange(M), unseen)
    weights |= {kind: w * new for kind, w in known_to.items()}
    return {kind: _census(hits, w) for kind, w in weights.items()}


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


def outputs_relabelled(ops: Tensor) -> Tensor:
    """π(f(x, y)) for `ops` f (n, T) and the 5 π ≠ id of the symbols: (5, n, T), int64."""
    return torch.tensor(RELABELLINGS)[:, ops + 1]


def inputs_relabelled(ops: Tensor) -> Tensor:
    """f(π(x), π(y)) for `ops` f (n, T) and the 5 π ≠ id of the symbols: (5, n, T), int64."""
    classes = torch.tensor(RELABELLINGS) + 1
    entries = (C * classes[:, :, None] + classes[:, None, :]).flatten(1)  # (5, T): where to read
    return ops[:, entries].transpose(0, 1)


def noisy_pairs(split: Split, flips: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (n,) of training operations, and (n,) of what `flips` flipped entries made of them.

    Every training operation is flipped once (`operations.noisy`); the pairs are those whose
    noisy side is new: about a fifth.
    """
    noisy_index = index_of(noisy(all_operations()[split.train], flips, seed))
    new = ~torch.isin(noisy_index, split.train)
    return split.train[new], noisy_index[new]


def _census(hits: Tensor, weights: Tensor) -> Measured:
    """Σ w·hit / Σ w: the share of cases, where w (M,) of them lead to an operation."""
    cases, operations = int(weights.sum()), int((weights > 0).sum())
    return exact(int(weights[hits].sum()) / cases, cases, f"{CENSUS}; {operations:,} operations")


def _counts(index: Tensor) -> Tensor:
    return torch.bincount(index.flatten(), minlength=M)
