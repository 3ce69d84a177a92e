"""Intervals, and the typed rows that carry them."""

import math

import pytest
from planted import ends
from pydantic import ValidationError
from scipy import stats

from fluxttice_core.metrics.intervals import clopper_pearson, student_t
from fluxttice_core.metrics.results import CENSUS, Measured, exact, mean, share


@pytest.mark.parametrize(
    "values, half",  # s = √2, t(0.975, 4) of the printed table
    [([2, 4, 4, 4, 6], 2.776445 * 0.4**0.5), ([4] * 3, 0)],
)
def test_student_t_by_hand(values, half):
    assert student_t(values) == pytest.approx((4 - half, 4 + half), rel=1e-6)


@pytest.mark.parametrize("k, n", [(1, 10), (443, 1_969), (0, 9), (9, 9)])
def test_clopper_pearson_leaves_two_and_a_half_percent_in_each_tail(k, n):
    """But at 0 and n, where there is nothing beyond."""
    low, high = clopper_pearson(k, n)
    assert stats.binom.sf(k - 1, n, low) == pytest.approx(0.025) if k else low == 0
    assert stats.binom.cdf(k, n, high) == pytest.approx(0.025) if k < n else high == 1


# --- Rows ---


def test_rows_by_hand():
    assert ends(exact(0.3, 9)) == [0.3] * 3 and exact(0.3, 9).method == CENSUS
    x = mean([1.0, 2.0, 6.0])
    assert ends(x) == pytest.approx([3, *student_t([1, 2, 6])])
    assert (x.n, x.method) == (3, "Student t")
    assert ends(mean([1.0, 3.0], low=0.0, high=1.5)) == pytest.approx([1.5, 0, 1.5])  # cut
    x = share([[True, False], [True, True]])
    assert ends(x) == pytest.approx([0.75, *clopper_pearson(3, 4)]) and x.n == 4


def test_a_share_of_a_limit_scales_value_and_interval_and_nothing_else():
    x = Measured(value=2, low=1, high=4, n=5, method="m")
    assert x.of(4) == Measured(value=0.5, low=0.25, high=1, n=5, method="m")


@pytest.mark.parametrize(
    "change", [{"value": math.nan}, {"low": -math.inf}, {"ci95": [0, 1]}, {"method": None}]
)
def test_no_row_holds_what_is_no_number_or_has_no_name(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        Measured(**{"value": 1.0, "low": 0.0, "high": 2.0, "n": 3, "method": "m", **change})


def test_rows_never_change_and_come_back_from_json():
    x = share([True, False])
    with pytest.raises(ValidationError, match="frozen"):
        x.value = 1.0
    assert Measured.model_validate_json(x.to_json()) == x and x.to_json().endswith(b"}\n")
