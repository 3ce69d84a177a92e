"""What is generated, beside generators whose answer is known in closed form, over twenty seeds."""

from functools import cache

import numpy as np
import pytest
import torch
from planted import LN3, PLANTED, SEEDS, assert_honest, ceiling, distinct
from scipy import stats

from fluxttice_core.metrics import coverage, marginal
from fluxttice_core.model.network import D
from fluxttice_core.model.operations import M
from fluxttice_core.model.streams import generator

by_name = pytest.mark.parametrize("name", PLANTED)


def covers(m, x, how, n, widest):
    truth = distinct(x.q if how == "argmax" else x.p, n)
    return coverage.expected(m, n, how), truth, ceiling(n), widest * ceiling(n)


ESTIMATES = {  # what is measured, the truth, where its range ends, the widest an interval may be
    "information": lambda m, x: (marginal.generator_information(m), x.information, 9 * LN3, 0.04),
    "kl_to_uniform": lambda m, x: (
        marginal.kl_to_uniform(m),
        9 * LN3 - stats.entropy(x.p),
        9.9,
        0.04,
    ),
    "argmax entropy": lambda m, x: (marginal.argmax_entropy(m), stats.entropy(x.q), 9 * LN3, 0.04),
    "argmax, 10": lambda m, x: covers(m, x, "argmax", 10, 0.02),
    "argmax, most": lambda m, x: covers(m, x, "argmax", min(x.k // 2, 195_000), 0.02),
    "categorical, 1,000": lambda m, x: covers(m, x, "categorical", 1_000, 0.04),
    "categorical, 50,000": lambda m, x: covers(m, x, "categorical", 50_000, 0.04),
}


@cache
def measured(name):
    """Of every seed, each of ESTIMATES: marginals of all of them would fill the memory."""
    found = (PLANTED[name].marginal(seed, name) for seed in range(SEEDS))
    return [{key: row(m, PLANTED[name]) for key, row in ESTIMATES.items()} for m in found]


@by_name
def test_a_planted_generator_is_what_it_says(name):
    """The closed forms against sums over the cells, and the decoder's own marginal, so that no
    test checks a wrong truth."""
    planted = PLANTED[name]
    z = torch.randn(200_000, D, generator=generator(1, name))
    share = np.bincount(planted.cell(z).numpy(), minlength=len(planted.table)) / len(z)
    assert planted.p.sum() == pytest.approx(1) and planted.q.sum() == pytest.approx(1)
    own = stats.entropy(planted.p) - planted.information  # what is left once the latent is known
    assert share @ stats.entropy(planted.table, axis=2).sum(1) == pytest.approx(own, abs=0.01)
    m = marginal.marginal(planted.decoder(), 50_000, 1, name)
    for found, truth in ((m.P, planted.p), (m.counts / m.k, planted.q)):
        assert (abs(found - truth) <= 6 * (truth / m.k) ** 0.5 + 1 / m.k * (truth > 0) + 1e-9).all()


@by_name
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_estimates_are_honest(estimate, name):
    found = [row[estimate] for row in measured(name)]
    rows, truth, top, widest = [row for row, *_ in found], *found[0][1:]
    # Sharp, and n not far below k: the jackknife overshoots, so the interval spans both values.
    unbiased = (name, estimate) != ("uneven", "categorical, 50,000")
    assert_honest(rows, truth, top, widest, unbiased=unbiased)


@by_name
def test_the_curve(name):
    """Within a per cent for every N by categorical draws, within two as far as k carries argmax;
    beyond k that says nothing."""
    planted, found = PLANTED[name], coverage.curve(PLANTED[name].marginal(1, name))
    low = 0.95 if len(planted.table) == M else 0.99  # few latents a cell, so the plug-in is low
    at = {"argmax": [], "categorical": []}
    for metric, row in found.items():
        mode, _, n = metric.partition("_distinct_")
        at[mode].append(int(n))
        assert row.low is row.high is None
        truth = distinct(planted.q if mode == "argmax" else planted.p, int(n))
        if mode == "argmax":
            assert row.value == pytest.approx(truth, rel=0.02)
        else:
            assert truth * low <= row.value <= truth * 1.01 + 1e-3
    assert (at["categorical"][0], at["categorical"][-1], len(at["categorical"])) == (1, 10**7, 55)
    assert at["argmax"] == [n for n in at["categorical"] if n <= planted.k]
