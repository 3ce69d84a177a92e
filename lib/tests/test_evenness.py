"""The rarest and the most frequent operation, of generators whose frequencies are planted."""

import numpy as np
import pytest
from planted import from_counts
from scipy import stats

from fluxttice_core.metrics.evenness import largest_frequency, least_frequency
from fluxttice_core.metrics.marginal import GROUPS
from fluxttice_core.model.operations import M

K, TRIALS = 1_000_000, 40


def measured(metric, times):
    """The metric of TRIALS generators, one of whose operations is `times` as frequent as 1/M."""
    p = np.append(np.full(M - 1, (1 - times / M) / (M - 1)), times / M)
    rng = np.random.default_rng(1)
    counts = rng.multinomial(K, p, size=TRIALS)
    padding = np.zeros((GROUPS - 1, M), dtype=int)
    return [metric(from_counts(np.vstack([one, padding]))) for one in counts]


def missed(found, bound, upper):
    return sum(x.high > bound if upper else x.low < bound for x in found)


@pytest.mark.parametrize("metric, upper", [(least_frequency, False), (largest_frequency, True)])
def test_a_perfect_generator_is_inside_the_bounds_and_a_defect_outside(metric, upper):
    """At bounds of 0.08 and 3.5, a perfect one is refused in 7 of 10,000 certificates; one
    operation at a fifth passes in 17 of 1,000, and three times too frequent in fewer than 1 in
    10⁴. Never generated, the upper end is 0.27, so that no bound below that can call it FAIL."""
    bound = 3.5 if upper else 0.08
    assert missed(measured(metric, 1), bound, upper) <= 1
    defect = measured(metric, 3 if upper else 0.2)
    assert missed(defect, bound, upper) >= 0.9 * TRIALS
    if not upper:
        assert {round(x.high, 2) for x in measured(metric, 0)} == {0.27}


@pytest.mark.parametrize("metric", [least_frequency, largest_frequency])
@pytest.mark.parametrize("times", [0, 0.1, 0.5, 1, 2, 8])
def test_the_interval_holds_the_truth_for_all_operations_together(metric, times):
    found, others = measured(metric, times), (1 - times / M) / (M - 1) * M
    truth = min(times, others) if metric is least_frequency else max(times, others)
    assert sum(not x.low <= truth <= x.high for x in found) <= stats.binom.ppf(0.999, TRIALS, 0.05)
    assert all(x.n == K and x.low <= x.value <= x.high for x in found)


def test_by_scipys_binomial_test():
    """Each end is the frequency at which so extreme a count has a chance of 0.05 / (2·M)."""
    counts = np.full((GROUPS, M), 2)
    counts[:, 0], counts[:, 1] = 1, 9
    m = from_counts(counts)
    least, largest = least_frequency(m), largest_frequency(m)
    for x, count in ((least, GROUPS), (largest, 9 * GROUPS)):
        assert x.value == pytest.approx(count / m.k * M)
        assert stats.binom.sf(count - 1, m.k, x.low / M) == pytest.approx(0.025 / M, rel=1e-6)
        assert stats.binom.cdf(count, m.k, x.high / M) == pytest.approx(0.025 / M, rel=1e-6)
