import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

from fluxttice_core.metrics.codes import active, entropy_nats, kl_nats
from fluxttice_core.model.network import D
from fluxttice_core.model.streams import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "test"))


def test_entropy_is_the_mean_of_numpys_histograms():
    """Among the codes each end, at which numpy closes the last bin, and what lies outside."""
    codes = torch.cat([normal(4_000, 5), torch.tensor([[-3.0] * 5, [3.0] * 5, [2.999] * 5] * 300)])
    codes *= torch.tensor([0.1, 0.5, 1.0, 2.0, 9.0])
    codes[:, 4] = 7
    counts = [np.histogram(x, bins=50, range=(-3, 3))[0] for x in codes.double().numpy().T]
    truth = [stats.entropy(c) if c.any() else 0 for c in counts]
    assert entropy_nats(codes) == pytest.approx(np.mean(truth))


@pytest.mark.parametrize("count", [0, 9, D])
def test_active_units_are_those_of_variances_above_the_threshold(count):
    """±0.11 has variance 0.0121, ±0.09 has 0.0081; a mean far from 0 changes nothing."""
    signs = torch.tensor([-1.0, 1.0]).repeat(500)[:, None]
    spread = torch.where(torch.arange(D) < count, 0.11, 0.09)
    assert active(1e3 + signs * spread).tolist() == [True] * count + [False] * (D - count)


def test_kl_is_torchs():
    mu, logvar = 3 * normal(200, D, seed=1).double(), 2 * normal(200, D, seed=2).double()
    theirs = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    np.testing.assert_allclose(kl_nats(mu, logvar), theirs, rtol=1e-9)
