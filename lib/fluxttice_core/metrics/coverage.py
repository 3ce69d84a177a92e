"""Coverage by drawing: how many distinct operations N latents of the prior lead to.

A coverage is a number only together with its N and its decoding mode, and an honest one stands
beside the ceiling: what a perfect (uniform) generator would reach with the same N. A decoder
here is any function from latents (B, D) to logits (B, T, C).
"""

from collections.abc import Callable, Iterable, Iterator
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..metrics.intervals import student_t
from ..model.network import HOW, prior, read_out
from ..model.operations import C, M, T
from ..model.streams import generator

Decoder = Callable[[Tensor], Tensor]
CHUNK = 16_384  # latents at a time: what bounds the memory, whatever N is
SLICE = 2_048  # of them at a time through the decoder, whose layers then stay in the cache


def ceiling(n: object) -> np.ndarray:
    """C(N) = M·(1 - (1 - 1/M)^N): expected distinct operations of N uniform draws; exact."""
    return -M * np.expm1(np.asarray(n, dtype=float) * np.log1p(-1 / M))


def chunks(n: int) -> Iterator[int]:
    """Sizes of at most CHUNK that add up to n."""
    for start in range(0, n, CHUNK):
        yield min(CHUNK, n - start)


def indices(logits: Tensor, how: str, rng: torch.Generator | None = None) -> Tensor:
    """Operation index (B,), int64, that logits (B, T, C) decode to."""
    powers = C ** torch.arange(T, device=logits.device)
    # A float32 product is exact here (every sum is below 2^24), and far faster than int64's.
    return (read_out(logits, how, rng).float() @ powers.float()).long()


@torch.no_grad()
def distinct(
    decoder: Decoder, ns: Iterable[int], how: Iterable[str], rng: torch.Generator
) -> dict[tuple[str, int], int]:
    """Distinct operations among the first N prior draws, for each N in `ns` and mode in `how`.

    One stream of latents serves all of them: the modes read the same logits, and a larger N
    continues a smaller one (so figures of different N share their noise). Memory does not grow
    with N. Each count is an unbiased draw of the number whose mean the exact marginal gives.
    """
    counts, drawn, how = {}, 0, tuple(how)
    seen = {mode: torch.zeros(M, dtype=torch.bool, device=rng.device) for mode in how}
    for n in sorted(set(ns)):
        for size in chunks(n - drawn):
            logits = torch.cat([decoder(z) for z in prior(size, rng).split(SLICE)])
            for mode in how:
                seen[mode][indices(logits, mode, rng)] = True
        drawn = n
        counts.update({(mode, n): int(seen[mode].sum()) for mode in how})
    return counts


def coverage(
    decoder: Decoder,
    ns: Iterable[int],
    *,
    how: Iterable[str] = HOW,
    trials: int = 5,
    seed: int,
    stream: str = "",
    device: str | torch.device = "cpu",
) -> list[dict]:
    """Sampled coverage over independent trials, one row for each mode and N.

    Args:
        decoder: latents (B, D) → logits (B, T, C).
        ns: numbers of draws, each 1 or more.
        how: decoding modes.
        trials: independent trials, 2 or more; trial k draws from its own stream.
        seed, stream: what the random streams depend on.

    Returns:
        Rows `{decode, n, trials, unique, share, of_ceiling, ci95}`: `unique` is the mean count
        over the trials, `share` = unique / M, `of_ceiling` = unique / C(n), `ci95` the Student t
        interval of `unique` (a count).

    Raises:
        InputError: an n that is not a whole number or below 1, or fewer than 2 trials.
    """
    ns, how = list(ns), list(how)
    if not ns or not all(_is_count(n) for n in ns):
        raise InputError(f"ns is {ns}, but must be numbers of draws, each 1 or more.")
    if not _is_count(trials) or trials < 2:
        raise InputError(f"trials is {trials}, but an interval needs 2 or more.")
    runs = [
        distinct(decoder, ns, how, generator(seed, "coverage", stream, trial, device=device))
        for trial in range(trials)
    ]
    return [_row(mode, n, [run[mode, n] for run in runs]) for mode in how for n in ns]


def _is_count(n: object) -> bool:
    return isinstance(n, Integral) and not isinstance(n, bool) and n >= 1


def _row(mode: str, n: int, counts: list[int]) -> dict:
    unique = float(np.mean(counts))
    return {
        "decode": mode,
        "n": n,
        "trials": len(counts),
        "unique": unique,
        "share": unique / M,
        "of_ceiling": unique / float(ceiling(n)),
        "ci95": list(student_t(counts)),
    }
