import math

import numpy as np
import pytest
import torch
from scipy import stats

from fluxttice_core.metrics.disentanglement import dci_disentanglement, mig
from fluxttice_core.model.network import D
from fluxttice_core.model.operations import M, T, all_operations
from fluxttice_core.model.streams import generator

OPS = all_operations().float()
MEASURES = (mig, dci_disentanglement)


def codes(seed):
    """Random projections, bent a little so that they are not linear in the trits."""
    z = OPS @ torch.randn(T, D, generator=generator(seed, "test"))
    return z + 0.3 * z.sin()


def slow_mig(mu):
    """numpy's histograms, one latent and trit at a time; I from its definition."""
    gaps = []
    for trit in OPS.T.numpy():
        nats = []
        for latent in mu.double().T.numpy():
            joint = np.histogram2d(latent, trit, bins=(20, 3))[0] / M
            independent = np.outer(joint.sum(1), joint.sum(0))
            seen = joint > 0
            nats.append((joint[seen] * np.log(joint[seen] / independent[seen])).sum())
        first, second = sorted(nats)[:-3:-1]
        gaps.append((first - second) / math.log(3))
    return np.mean(gaps)


def slow_dci(mu):
    """η² of scipy's one-way analysis of variance: F = η²(M - 3) / ((1 - η²)·2)."""
    r = np.zeros((D, T))
    for j, latent in enumerate(mu.double().T.numpy()):
        for k, trit in enumerate(OPS.T.numpy()):
            f = stats.f_oneway(*(latent[trit == value] for value in (-1, 0, 1))).statistic
            r[j, k] = 2 * f / (2 * f + M - 3)
    rows = [1 - stats.entropy(row, base=T) for row in r]
    return np.average(rows, weights=r.sum(1))


def test_by_loops():
    mu = codes(1)
    assert mig(mu).value == pytest.approx(slow_mig(mu), abs=2e-4)  # edges, to float32
    assert dci_disentanglement(mu).value == pytest.approx(slow_dci(mu), abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_constant_or_hardly_moves_counts_as_none(measure):
    for mu in (torch.full((M, D), 1e6), 0.01 * OPS):
        assert measure(mu).value == 0
    faint = 0.01 * OPS @ torch.linalg.qr(torch.randn(T, T, generator=generator(1, "faint")))[0]
    assert measure(torch.cat([OPS, faint[:, :7]], 1)).value == pytest.approx(1)
    found = measure(codes(1))
    assert found.low == found.value == found.high and found.n == M
