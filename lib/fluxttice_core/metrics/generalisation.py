"""Generalisation: what each VAE does, alone, with operations that its training never saw.

Exact match is argmax decoding of the posterior mean, all nine trits, no cross-injection. It is
computed once for all M operations; every share below is a reading of those M hits. The shares
therefore overlap and are no independent evidence: they ask whether any *kind* of new operation
is left behind. An operation is new where it is outside the training split: validation, which
chose the epoch, and test, which nothing before certification reads (and has a row of its own).

Index letters as in `operations`; n counts whatever a row is about.
"""

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from ..metrics.intervals import CONFIDENCE, student_t
from ..metrics.codes import active_units
from ..model.network import DualVAE, Posterior
from ..model.operations import C, M, Split, all_operations, index_of, noisy
from ..metrics.reconstruction import posterior, right_trits, share
from ..model.streams import generator

FLIPS = (1, 2)
RESAMPLES = 1_000
RELABELLINGS = tuple(permutations((-1, 0, 1)))[1:]  # images of -1, 0, 1; the identity comes first
EXACT = "none: exact, over all there are"

# Where a row's quantity, with its whole interval, must lie; None is no bound. "share" alone shows
# learning (see `codes`); an untrained network and a constant encoder pass none of them.
BOUNDS = {
    "share": (0.9, 1.0),
    "ratio": (0.1, 1.0),  # more than nothing, and less than another operation would move it
    "sigmas": (1.0, None),  # one trit moves the code by more than the code's own noise
    "active": (9, 16),  # nine trits need nine dimensions
}


def measure(model: DualVAE, vae: str, split: Split, seed: int) -> dict[str, dict]:
    """Every row of this file for one VAE: `shares` of its hits, and `codes` of its posterior.

    Args:
        model: on any device.
        vae: "A" or "B".
        split: the split that the model was trained with.
        seed: of the noise, the random pairs and the bootstrap; nothing else is drawn.

    Returns:
        JSON-ready rows by name; `failures` judges them.

    Raises:
        InputError: an unknown VAE.
    """
    q = posterior(model, vae)
    hits = right_trits(model, vae, q.mu).all(1).cpu()
    q = Posterior(q.mu.cpu(), q.logvar.cpu())
    return {**shares(hits, split, seed), **codes(q, split, seed)}


def failures(rows: dict[str, dict]) -> dict[str, str]:
    """The rows that do not pass BOUNDS, each with a sentence; empty where all pass.

    A row passes where its whole interval lies in the bounds (its value, where it is exact). One
    whose interval straddles a bound does not pass, nor does a value that was refused (None).
    """
    reasons = {}
    for name, row in rows.items():
        [quantity] = BOUNDS.keys() & row.keys()
        value, (low, high) = row[quantity], BOUNDS[quantity]
        first, last = row["ci95"] or (value, value)
        if value is None or not (low <= first and (high is None or last <= high)):
            limits = f"{low} … {'∞' if high is None else high}"
            reasons[name] = f"{quantity} is {value}, 95 % {row['ci95']}, but must lie in {limits}."
    return reasons


def shares(hits: Tensor, split: Split, seed: int) -> dict[str, dict]:
    """Exact match over kinds of new operations, from `hits` (M,) bool, one per operation.

    - unseen: validation and test; test: test alone.
    - sparse: at most 3 entries that are not 0; dense: none that is 0.
    - noisy_k: training operations with k entries flipped (`noisy_pairs`). A hit returns the
      *noisy* table; to be pulled back to the familiar clean one counts as a miss.
    - compositions, outputs_relabelled, inputs_relabelled: the functions of these names.

    Returns:
        Rows `{share, n, ci95, distinct, interval, decode}`: `share` 0 … 1 of `n` cases, which
        are `distinct` operations. What is exact has `ci95` None: all cases are counted, none is
        drawn. A Clopper-Pearson interval takes the operations, or the flips, as random draws.
    """
    unseen = torch.cat([split.val, split.test])
    ops = all_operations()[unseen]
    known = all_operations()[split.train]
    return {
        "unseen": _row(hits, unseen),
        "test": _row(hits, split.test),
        "sparse": _row(hits, unseen[(ops != 0).sum(1) <= 3]),
        "dense": _row(hits, unseen[(ops != 0).all(1)]),
        **{f"noisy_{k}": _row(hits, noisy_pairs(split, k, seed)[1]) for k in FLIPS},
        "compositions": _weighted_row(hits, compositions(), unseen),
        "outputs_relabelled": _weighted_row(hits, _counts(outputs_relabelled(known)), unseen),
        "inputs_relabelled": _weighted_row(hits, _counts(inputs_relabelled(known)), unseen),
    }


def codes(q: Posterior, split: Split, seed: int) -> dict[str, dict]:
    """Rows about the codes q, (M, D) each, of all operations: shift_k, separation_k, active_units.

    They refuse a code that carries nothing or that scatters neighbours. They show no learning:
    a random projection of the table passes them, and only `shares` tells what a decoder reads.
    """
    rows = {}
    for k in FLIPS:
        pairs = noisy_pairs(split, k, seed)
        rows[f"shift_{k}"] = code_shift(q.mu, *pairs, seed)
        rows[f"separation_{k}"] = separation(q, *pairs)
    active = active_units(q.mu)
    return {**rows, "active_units": {"active": active, "n": M, "ci95": None, "interval": EXACT}}


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


def code_shift(mu: Tensor, clean: Tensor, changed: Tensor, seed: int) -> dict:
    """How far noise moves a code, relative to how far apart the codes of random operations lie.

    ratio = mean ‖mu(x) - mu(x')‖ / mean ‖mu(u) - mu(v)‖, x and x' the clean and the changed
    operations, u and v drawn uniformly, n pairs of each; codes that know nothing of neighbours
    have 1. It has no scale: the ratio of an untrained encoder's faint codes would be about 0.5,
    so that a good one proves nothing, and a bad one refutes. Where no unit is active (see
    `latent.active_units`) it is refused, None: a constant encoder's would be 0/0.

    Args:
        mu: (M, D), posterior means of all operations.
        clean, changed: (n,), indices.
        seed: of the random pairs and of the bootstrap.

    Returns:
        `{ratio, n, ci95, interval}`, ratio ≥ 0; both means are resampled by themselves.
    """
    row = {"ratio": None, "n": len(clean), "ci95": None, "interval": "none: refused"}
    if not active_units(mu):
        return row
    rng = generator(seed, "code shift")
    u, v = torch.randint(M, (2, len(clean)), generator=rng)
    near, far = ((mu[i] - mu[j]).double().norm(dim=1) for i, j in ((clean, changed), (u, v)))
    means = [
        d[torch.randint(len(d), (RESAMPLES, len(d)), generator=rng)].mean(1) for d in (near, far)
    ]
    tail = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).double()
    ci95 = (means[0] / means[1]).quantile(tail).tolist()
    name = f"percentile bootstrap, {RESAMPLES:,} resamples"
    return {**row, "ratio": float(near.mean() / far.mean()), "ci95": ci95, "interval": name}


def separation(q: Posterior, clean: Tensor, changed: Tensor) -> dict:
    """How far noise moves a code, in standard deviations of the clean operation's posterior.

    Mean of ‖(mu(x) - mu(x')) / σ(x)‖ over the pairs: `{sigmas, n, ci95, interval}`, ≥ 0. Below
    1 the two codes blur into one another; a constant encoder has 0, an untrained one less than 0.1.
    """
    z = (q.mu[clean] - q.mu[changed]) / (q.logvar[clean] / 2).exp()
    sigmas = z.double().norm(dim=1).numpy()
    row = {"sigmas": float(sigmas.mean()), "n": len(clean)}
    return {**row, "ci95": list(student_t(sigmas)), "interval": "Student t"}


def _row(hits: Tensor, index: Tensor) -> dict:
    row = {**share(hits[index]), "distinct": index.unique().numel()}
    return {**row, "interval": "Clopper-Pearson", "decode": "argmax"}


def _weighted_row(hits: Tensor, weights: Tensor, index: Tensor) -> dict:
    """Σ w·hit / Σ w over `index`: the share of cases, where w of them lead to an operation."""
    w = weights[index]
    n = int(w.sum())
    row = {"share": int(w[hits[index]].sum()) / n, "n": n, "ci95": None}
    return {**row, "distinct": int((w > 0).sum()), "interval": EXACT, "decode": "argmax"}


def _counts(ops: Tensor) -> Tensor:
    return torch.bincount(index_of(ops).flatten(), minlength=M)
