"""95 % intervals: each is named after its method, and the name goes wherever the interval goes."""

import numpy as np
from scipy.special import betaincinv, stdtrit  # scipy.stats takes most of a second to import

CONFIDENCE = 0.95


def student_t(values: object, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of the mean of independent trials, `values` (trials,), at least 2.

    mean ± t(n-1)·s/√n, t(0.975) at 95 %. Right on average for few trials, where a bootstrap is
    too narrow.
    """
    x = np.asarray(values, dtype=float)
    half = stdtrit(len(x) - 1, (1 + confidence) / 2) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def clopper_pearson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact binomial interval of a share (Clopper & Pearson 1934); never too narrow."""
    tail, misses = (1 - confidence) / 2, n - successes
    low = betaincinv(successes, misses + 1, tail) if successes else 0
    high = betaincinv(successes + 1, misses, 1 - tail) if misses else 1
    return float(low), float(high)


def prediction_interval(
    values: object, confidence: float = 0.99, low: float = -np.inf, high: float = np.inf
) -> tuple[float, float]:
    """Where one more value of the same kind lies: `values` (n,), at least 2, of normal spread.

    mean ± t(n-1)·s·√(1 + 1/n), cut to `low` … `high`, where the truth is known to lie. The range of
    n values holds the next one in only (n - 1)/(n + 1) of cases (Hahn & Meeker 1991, Statistical
    intervals, sec. 4.7).
    """
    x = np.asarray(values, dtype=float)
    spread = x.std(ddof=1) * np.sqrt(1 + 1 / len(x))
    half = stdtrit(len(x) - 1, (1 + confidence) / 2) * spread
    ends = np.clip([x.mean() - half, x.mean() + half], low, high)
    return float(ends[0]), float(ends[1])


def jackknife_half(left_out: np.ndarray) -> float:
    """Half of the interval of a statistic, from its values with each of G groups left out (G,).

    Student t over G - 1 degrees of freedom times the jackknife's standard error, whose variance is
    never too small on average (Efron & Stein 1981).
    """
    g = len(left_out)
    spread = (g - 1) / g * np.square(left_out - left_out.mean()).sum()
    return float(stdtrit(g - 1, (1 + CONFIDENCE) / 2) * np.sqrt(spread))
