"""Tests of paired measurements of two networks, their power, and Holm's correction."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import betainc, ndtri, stdtr, stdtrit

from .intervals import CONFIDENCE

ALPHA, POWER = 1 - CONFIDENCE, 0.8


class Paired(NamedTuple):
    """One metric of one VAE in both networks.

    p: two-sided, None where nothing is drawn. noise, df: standard error and degrees of freedom of a
    t-test. pairs, discordant: of McNemar's test, else 0.
    """

    vae: str
    metric: str
    first: float
    second: float
    p: float | None = None
    noise: float = 0.0
    df: int = 1
    pairs: int = 0
    discordant: int = 0

    def detectable(self, tests: int) -> float | None:
        """The smallest true difference that shows in 80 % of cases, at the strictest level that
        Holm's procedure sets for one of `tests`; None where nothing is drawn."""
        level = 1 - ALPHA / tests / 2
        if self.p is None:
            return None
        if not self.pairs:
            return float(stdtrit(self.df, level) + stdtrit(self.df, POWER)) * self.noise
        # A difference of n pairs must exceed z standard deviations of itself and of the discordant
        # pairs that chance makes: n = z·√(n + discordant).
        z = float(ndtri(level) + ndtri(POWER)) ** 2
        return (z + math.sqrt(z * z + 4 * z * self.discordant)) / 2 / self.pairs


def mcnemar(vae: str, metric: str, first: np.ndarray, second: np.ndarray) -> Paired:
    """McNemar's exact test (1947) of paired successes (n,), bool. It is conservative where pairs
    have different probabilities."""
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    total, most = gained + lost, max(gained, lost)
    # Without a difference each discordant pair is a fair coin: P(X ≥ most), on both sides.
    p = min(1.0, 2 * float(betainc(most, total - most + 1, 0.5))) if total else 1.0
    shares = float(first.mean()), float(second.mean())
    return Paired(vae, metric, *shares, p, pairs=first.size, discordant=total)


def student(vae: str, metric: str, first: float, second: float, noise: float, df: int) -> Paired:
    """Student's t-test of a paired difference with the standard error `noise`."""
    difference = abs(second - first)
    p = 2 * float(stdtr(df, -difference / noise)) if noise else float(difference == 0)
    return Paired(vae, metric, first, second, p, noise, df)


def holm(p: list[float]) -> list[bool]:
    """Which tests show a difference; the chance of any false one is at most 5 % (Holm 1979)."""
    shown = [False] * len(p)
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[i] > ALPHA / (len(p) - rank):
            break
        shown[i] = True
    return shown
