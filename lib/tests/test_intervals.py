import math

import numpy as np
import pytest
from fluxttice_core.metrics.intervals import clopper_pearson, student_t
from scipy import stats


def test_student_t_of_two_values_by_hand():
    """One degree of freedom: the quantile of 0.975 is tan(0.475·π) = 12.706."""
    low, high = student_t([1.0, 3.0])
    half = math.tan(0.475 * math.pi) * math.sqrt(2) / math.sqrt(2)
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def test_student_t_of_five_values_from_the_printed_table():
    low, high = student_t([2, 4, 4, 4, 6])  # mean 4, s = √2, t(0.975, 4) = 2.776
    assert (low, high) == pytest.approx((4 - 2.776 * 0.4**0.5, 4 + 2.776 * 0.4**0.5), abs=1e-3)


def test_student_t_of_equal_values_has_no_width():
    assert student_t([7, 7, 7]) == (7.0, 7.0)


@pytest.mark.parametrize("trials", [2, 5, 20])
def test_student_t_holds_the_truth_95_times_in_100(trials):
    """Of 4,000 experiments; the number of hits is binomial, allowed 4 standard deviations."""
    x = np.random.default_rng(trials).normal(10, 3, size=(4_000, trials))
    hits = sum(low <= 10 <= high for low, high in map(student_t, x))
    assert abs(hits - 0.95 * 4_000) < 4 * math.sqrt(4_000 * 0.95 * 0.05)


@pytest.mark.parametrize("n", [1, 10, 1_969])
def test_clopper_pearson_closed_forms_at_the_ends(n):
    assert clopper_pearson(0, n) == pytest.approx((0, 1 - 0.025 ** (1 / n)))
    assert clopper_pearson(n, n) == pytest.approx((0.025 ** (1 / n), 1))


@pytest.mark.parametrize("k, n", [(1, 10), (5, 10), (443, 1_969)])
def test_clopper_pearson_ends_leave_two_and_a_half_percent_in_each_tail(k, n):
    low, high = clopper_pearson(k, n)
    assert stats.binom.sf(k - 1, n, low) == pytest.approx(0.025)
    assert stats.binom.cdf(k, n, high) == pytest.approx(0.025)


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.93])
def test_clopper_pearson_is_never_too_narrow(p):
    """Computed, not drawn: the binomial weight of all counts whose interval holds p."""
    n = 40
    held = [k for k in range(n + 1) if clopper_pearson(k, n)[0] <= p <= clopper_pearson(k, n)[1]]
    assert stats.binom.pmf(held, n, p).sum() >= 0.95
