"""Where one more value lies, by simulation."""

import numpy as np
import pytest
from scipy import stats

from fluxttice_core.metrics.intervals import prediction_interval


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_a_sixth_seed_lies_inside_as_often_as_is_said(confidence):
    """The range of five, on the contrary, holds it in two cases of three."""
    values = np.random.default_rng(1).normal(3, 2, size=(20_000, 6))
    ends = np.array([prediction_interval(x[:5], confidence) for x in values])
    inside = ((ends[:, 0] <= values[:, 5]) & (values[:, 5] <= ends[:, 1])).mean()
    deviation = (confidence * (1 - confidence) / len(values)) ** 0.5
    assert abs(inside - confidence) < 4 * deviation


def test_it_is_cut_where_the_truth_lies():
    x = [0.9, 0.95, 1.0, 0.99, 0.97]
    low, high = prediction_interval(x)
    half = stats.t.ppf(0.995, 4) * np.std(x, ddof=1) * np.sqrt(1.2)
    assert (low, high) == pytest.approx((np.mean(x) - half, np.mean(x) + half))
    assert prediction_interval(x, high=1.0) == (low, 1.0)
    assert prediction_interval([0.5, 0.5], low=0.0, high=1.0) == (0.5, 0.5)
