"""Coverage: how many distinct operations N latents of the prior lead to, drawn and expected.

A coverage is a number only together with its N and its decoding mode, and an honest one stands
beside the ceiling: what a perfect (uniform) generator would reach with the same N.
"""

from collections.abc import Iterable
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..model.network import DECODING_MODES, Decode, decode_logits, prior
from ..model.operations import C, M, T
from ..model.streams import generator
from .marginal import Marginal, jackknife, logits_of
from .results import Measured, Record, mean_of_trials

CHUNK = 16_384  # latents at a time: what bounds the memory, whatever N is


def ceiling(n: object) -> np.ndarray:
    """C(N) = M·(1 - (1 - 1/M)^N): expected distinct operations of N uniform draws; exact."""
    return -M * np.expm1(np.asarray(n, dtype=float) * np.log1p(-1 / M))


class SampledCoverage(Record):
    """Distinct operations among N prior draws: a mean over trials and its interval, as counts.

    The expected count is at most `ceiling(n)`, so value and interval are cut there.
    """

    decode: str
    n: int
    unique: Measured

    @property
    def share(self) -> Measured:
        return self.unique.divided_by(M)

    @property
    def of_ceiling(self) -> Measured:
        return self.unique.divided_by(float(ceiling(self.n)))


def indices(logits: Tensor, mode: str, rng: torch.Generator | None = None) -> Tensor:
    """Operation index (B,), int64, that logits (B, T, C) decode to."""
    powers = C ** torch.arange(T, device=logits.device)
    # A float32 product is exact here (every sum is below 2^24), and far faster than int64's.
    return (decode_logits(logits, mode, rng).float() @ powers.float()).long()


@torch.no_grad()
def distinct(
    decoder: Decode, ns: Iterable[int], modes: Iterable[str], rng: torch.Generator
) -> dict[tuple[str, int], int]:
    """Distinct operations among the first N prior draws, for each N in `ns` and mode in `modes`.

    One stream of latents serves all of them: the modes read the same logits, and a larger N
    continues a smaller one (so figures of different N share their noise). Memory does not grow
    with N. Each count is an unbiased draw of the number whose mean `expected` gives.
    """
    counts, drawn, modes = {}, 0, tuple(modes)
    seen = {mode: torch.zeros(M, dtype=torch.bool, device=rng.device) for mode in modes}
    for n in sorted(set(ns)):
        for start in range(drawn, n, CHUNK):
            logits = logits_of(decoder, prior(min(CHUNK, n - start), rng))
            for mode in modes:
                seen[mode][indices(logits, mode, rng)] = True
        drawn = n
        counts.update({(mode, n): int(seen[mode].sum()) for mode in modes})
    return counts


def coverage(
    decoder: Decode,
    ns: Iterable[int],
    *,
    modes: Iterable[str] = DECODING_MODES,
    trials: int = 5,
    seed: int,
    stream: str = "",
    device: str | torch.device = "cpu",
) -> list[SampledCoverage]:
    """Coverage by drawing over independent trials, one row for each mode and N.

    Args:
        decoder: latents (B, D) → logits (B, T, C).
        ns: numbers of draws, each 1 or more.
        modes: decoding modes.
        trials: independent trials, 2 or more; trial k draws from its own stream.
        seed, stream: what the random streams depend on.

    Raises:
        InputError: an n that is not a whole number or below 1, or fewer than 2 trials.
    """
    ns, modes = list(ns), list(modes)
    if not ns or not all(_is_count(n) for n in ns):
        raise InputError(f"ns is {ns}, but must be numbers of draws, each 1 or more.")
    if not _is_count(trials) or trials < 2:
        raise InputError(f"trials is {trials}, but an interval needs 2 or more.")
    runs = [
        distinct(decoder, ns, modes, generator(seed, "coverage", stream, trial, device=device))
        for trial in range(trials)
    ]
    return [
        SampledCoverage(
            decode=mode,
            n=n,
            unique=mean_of_trials([run[mode, n] for run in runs], high=float(ceiling(n))),
        )
        for mode in modes
        for n in ns
    ]


def _is_count(n: object) -> bool:
    return isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 1


# --- Expected, from the exact marginal ----------------------------------------------------------


def expected_distinct(p: np.ndarray, n: float) -> float:
    """Σ_x 1 - (1 - P(x))^N: expected distinct operations of N draws from P (M,); exact for P."""
    return float(-np.expm1(n * np.log1p(-np.minimum(p, 1 - 1e-12))).sum())


def rarefied(counts: np.ndarray, n: int) -> float:
    """Expected distinct operations of n draws, from counts of K ≥ n draws: unbiased.

    Σ_x 1 - C(K - c_x, n) / C(K, n) (Hurlbert 1971, The nonconcept of species diversity): the
    mean over all subsamples of size n, so its expectation is that of n fresh draws. The share
    without x is Π_{j < c_x} 1 - n/(K - j), summed in logarithms.

    Raises:
        InputError: n above K, which says nothing about what was not seen.
    """
    k = int(counts.sum())
    if n > k:
        raise InputError(f"n is {n}, but must be at most the {k} draws that were counted.")
    with np.errstate(divide="ignore"):  # ln 0: more of x than the draws left out
        steps = np.log1p(-np.minimum(n / (k - np.arange(counts.max())), 1))
    return float(-np.expm1(np.concatenate([[0.0], np.cumsum(steps)])[counts]).sum())


def expected(m: Marginal, n: int, mode: str) -> Measured:
    """Expected distinct operations of n draws: 0 … C(n).

    "argmax": rarefaction of the counts, unbiased; "categorical": the plug-in of P, which is biased
    low by order 1/k. The jackknife takes that out where n is well below k or p(x|z) is soft; where
    it is sharp and n near k it overshoots, so the interval spans plug-in and corrected value.

    Raises:
        InputError: argmax and n > k/2. Near k all that was seen is always drawn, and groups that
            agree on that give an interval that is too narrow.
    """
    top = float(ceiling(n))
    if mode == "categorical":
        return jackknife(m, lambda p, *_: expected_distinct(p, n), top, span=True)
    if n > m.k // 2:
        raise InputError(f"n is {n}, but argmax coverage from {m.k} latents goes to half of them.")
    return jackknife(m, lambda _p, counts, _: rarefied(counts, n), top)


def curve(m: Marginal) -> dict[str, Measured]:
    """Expected distinct operations at N = 1 … 10^7, by name: "argmax_distinct_N" up to N = k, and
    "categorical_distinct_N". Point estimates, so without an interval."""
    found = {}
    for n in (int(x) for x in np.unique(np.logspace(0, 7, 57).round())):
        if n <= m.k:
            found[f"argmax_distinct_{n}"] = rarefied(m.counts, n)
        found[f"categorical_distinct_{n}"] = expected_distinct(m.P, n)
    about = {"low": None, "high": None, "n": m.k, "method": "plug-in"}
    return {name: Measured(value=value, **about) for name, value in found.items()}
