"""The likelihood: what a model gives the data, and how much of the data it spreads over.

Nats, over all M operations, which are equally likely in the data. Everything is a function of a
`Marginal`, corrected for the noise of its K latents to second order.
"""

import math
from collections.abc import Callable

import numpy as np

from ..model.operations import M
from .intervals import jackknife_half
from .marginal import LIMIT_NATS, TINY, Marginal
from .results import Measured

ROUNDING = 1e-5  # of every interval: float32 in the products of nine softmaxes and their sums


def nll(m: Marginal) -> Measured:
    """NLL = mean_x -ln P(x), nats: ln M (P uniform) … ∞.

    The plug-in is too high by half of the relative variance v of P̂(x), 1/(2·count) where logits
    are sharp. With v and the relative third cumulant κ of P̂ by k-statistics over the groups,

        -ln P̂ - v/2 - 2κ/3 + 3v²/4

    is right to second order in 1/K for any p(x|z) (tested from K = 5·M). For deterministic
    (saturated) decoders it is the digamma estimate -ψ(count + 1) + ln K, right to e^-(K·P)
    (Grassberger 2003, Entropy estimates from insufficient samplings). Interval: Student t over
    leave-one-group-out values (Efron & Stein 1981: their variance is never too small on average).

    None, with the number of operations that are to blame, where P(x) cannot be distinguished from
    0: all of it comes from one group of latents (the least of the NLL is then unknown), or it is no
    larger than the rounding that `marginal` drops.
    """
    s = m.probability.sum(0)
    lost = (m.probability.max(0) > 0.95 * s) | (s <= 1e3 * TINY * m.k)
    if lost.any():
        why = f"undefined: P(x) of {lost.sum()} operations cannot be distinguished from 0"
        return Measured(value=None, low=None, high=None, n=m.k, method=why)

    def statistic(p: np.ndarray, v: np.ndarray, v2: np.ndarray, k3: np.ndarray) -> np.ndarray:
        return (-np.log(p) - v / 2 - 2 * k3 / 3 + 3 * v2 / 4).mean(-1)

    return _over_groups(m, statistic, LIMIT_NATS, math.inf)


def inverse_simpson(m: Marginal) -> Measured:
    """1 / (M·Σ_x P(x)²), share of M: the size that a birthday test sees, 1 / P(two draws agree).

    Σ P² is unbiased, from pairs of different groups: P̂²·(1 - v). Simpson 1949, Measurement of
    diversity.
    """

    def statistic(p: np.ndarray, v: np.ndarray, _v2: np.ndarray, _k3: np.ndarray) -> np.ndarray:
        return 1 / (M * (p**2 * (1 - v)).sum(-1))

    return _over_groups(m, statistic, 0.0, 1.0)


def _over_groups(
    m: Marginal, statistic: Callable[..., np.ndarray], low: float, high: float
) -> Measured:
    """`statistic` of P̂, of its relative variance v, of v² and of its relative third cumulant, each
    (…, M); Student t over the values with one group left out. Cut to `low` … `high`."""
    g, k = len(m.probability), m.k
    powers = np.stack([m.probability, m.probability**2, m.probability**3])
    sums = powers.sum(1)
    whole = float(statistic(*_moments(sums, g, k)))
    left_out = statistic(*_moments(sums[:, None] - powers, g - 1, k * (g - 1) / g))
    half = jackknife_half(left_out) + ROUNDING
    ends = (min(high, max(low, whole + side * half)) for side in (0, -1, 1))
    numbers = dict(zip(("value", "low", "high"), ends, strict=True))
    return Measured(**numbers, n=k, method=f"second order, {g} groups left out in turn")


def _moments(sums: np.ndarray, g: int, k: float) -> tuple[np.ndarray, ...]:
    """From Σ y, Σ y², Σ y³ over g groups: P̂, and unbiased cumulants of it relative to it (Fisher's
    k-statistics; v² as for a normal v). 0 where nothing was seen."""
    s1, s2, s3 = sums
    seen = np.where(s1 > 1e-12, s1, np.inf)  # below it only rounding is left
    a, b = s2 / seen / seen, s3 / seen / seen / seen
    one = (s1 > 1e-12).astype(float)
    v = g / (g - 1) * (a - one / g)
    k3 = g * g / ((g - 1) * (g - 2)) * (b - 3 * a / g + 2 * one / g**2)
    return np.maximum(s1, 0) / k, v, (g - 1) / (g + 1) * v**2, k3
