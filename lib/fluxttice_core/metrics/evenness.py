"""Evenness: how rare the rarest operation is, and how frequent the most frequent one.

Entropy and coverage hardly see a single operation among M, so the two extremes are metrics of
their own. Both are of argmax decoding, as multiples of the uniform frequency 1/M.
"""

from ..model.operations import M
from .intervals import CONFIDENCE, clopper_pearson
from .marginal import Marginal
from .results import Measured

# Bonferroni: M intervals, one an operation, that all hold their truths together in 95 %.
EACH = 1 - (1 - CONFIDENCE) / M


def least_frequency(m: Marginal) -> Measured:
    """min_x P(x)·M of the argmax marginal: 0 … 1, and 1 for a perfect generator.

    The value is that of the counts, which is low by chance: the rarest of M noisy counts of a
    perfect generator, at 10⁶ latents, is about half of the mean. The interval holds the truth.
    """
    return _extreme(int(m.counts.min()), m.k)


def largest_frequency(m: Marginal) -> Measured:
    """max_x P(x)·M of the argmax marginal: 1 … M, and 1 for a perfect generator.

    The value is that of the counts, which is high by chance; the interval holds the truth.
    """
    return _extreme(int(m.counts.max()), m.k)


def _extreme(count: int, k: int) -> Measured:
    """The extreme of M frequencies, from the extreme of their counts, with a 95 % interval.

    If every P(x) lies in its own interval [low(x), high(x)], the least of them lies between the
    least low and the least high (the largest likewise). Clopper and Pearson's ends grow with the
    count, so both belong to the extreme count, and no other operation's interval is needed.
    """
    low, high = (end * M for end in clopper_pearson(count, k, EACH))
    method = "Clopper-Pearson, simultaneous over all operations"
    return Measured(value=count / k * M, low=low, high=high, n=k, method=method)
