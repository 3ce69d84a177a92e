"""What latents say of trits, of codes whose mutual information is known or integrated by scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from planted import DIGITS, LN3
from scipy import integrate, stats

from fluxttice_core.metrics.latent_space import mi_disentanglement, mig, mutual_information_matrix
from fluxttice_core.model.network import D, Posterior
from fluxttice_core.model.operations import M, T, all_operations

OPS = all_operations().float()
THREE = OPS @ torch.kron(torch.eye(3), torch.tensor([[1.0], [3.0], [9.0]]))  # three trits a latent


def code(*columns, sigma=0.1):
    """The posterior of these means (M, ·) and of latents that are the prior."""
    mu = torch.cat(columns, 1)
    unused = torch.zeros(M, D - mu.shape[1])
    logvar = torch.full_like(mu, 2 * math.log(sigma))
    return Posterior(torch.cat([mu, unused], 1), torch.cat([logvar, unused], 1))


def rotation(n):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1)))[0]


PLANTED = {  # codes, MIG, disentanglement by the matrix
    "a latent a trit": (code(OPS), 1, 1),
    "other scales, signs and places": (code(1e3 - OPS.flip(1) * 7), 1, 1),
    "seven trits twice": (code(OPS, OPS[:, :7]), 2 / 9, 1),
    "three trits a latent": (code(THREE), 1, 0.5),
    "three trits a latent, without noise": (code(THREE, sigma=1e-12), 1, 0.5),
    "nothing, at one point": (code(torch.full((M, D), 7.0), sigma=1e-30), 0, 0),
    "nothing, far from 0": (code(torch.full((M, D), 1e6)), 0, 0),
    "hardly anything": (code(OPS / 1e3), 0, 1),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_codes(name):
    q, gap, by_rows = PLANTED[name]
    information = mutual_information_matrix(q)
    assert information.shape == (D, T)
    assert mig(information).value == pytest.approx(gap, abs=1e-4)
    assert mi_disentanglement(information).value == pytest.approx(by_rows, abs=1e-4)


def test_what_is_finer_than_the_nodes_is_lowered_and_the_rest_is_not():
    """All nine trits in one latent: the last of 3^9 steps are closer together than the nodes."""
    one = THREE @ torch.tensor([[1.0], [27.0], [729.0]])
    found = mutual_information_matrix(code(one))[0]
    assert found[7:].tolist() == pytest.approx([LN3] * 2, abs=0.02)
    assert found[0] < 0.01 and (found <= LN3).all()


def test_a_rotation_lowers_both():
    information = mutual_information_matrix(code(OPS @ rotation(T)))
    assert mig(information).value < 0.3 and mi_disentanglement(information).value < 0.5


@pytest.mark.parametrize("noise", [0.03, 0.3, 1.0])
def test_the_matrix_by_scipys_quadrature(noise):
    """H(z) - E_v H(z | trit = v) of one latent, a random projection whose noise depends on a
    trit; each entropy integrated by itself."""
    mu = (OPS @ rotation(T)[:, 0]).double().numpy()
    sigma = noise * (1 + 0.5 * OPS[:, 3].double().numpy())
    q = Posterior(*(torch.tensor(x)[:, None].float() for x in (mu, 2 * np.log(sigma))))

    def entropy(rows):
        def term(z):
            p = np.mean(np.exp(-0.5 * ((z - mu[rows]) / sigma[rows]) ** 2) / sigma[rows])
            return (
                -p * math.log(p / math.sqrt(2 * math.pi)) / math.sqrt(2 * math.pi)
                if p > 1e-300
                else 0.0
            )

        low, high = (mu - 8 * sigma).min(), (mu + 8 * sigma).max()
        grid = np.linspace(low, high, 12)
        return sum(
            integrate.quad(term, a, b, epsabs=1e-7, limit=200)[0]
            for a, b in itertools.pairwise(grid)
        )

    found = mutual_information_matrix(q)[0]
    for trit in (0, 3):
        parts = [entropy(DIGITS[trit] == value) for value in range(3)]
        truth = entropy(slice(None)) - np.mean(parts)
        assert float(found[trit]) == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("apart", [1.0, 3.0, 5.0, 6.0, 9.0])
def test_three_equal_gaussians(apart):
    """Where neighbours are 5 or 6 deviations apart, the nodes have the hardest work."""

    def term(z):
        p = stats.norm.pdf(z, [-apart, 0, apart]) / 3
        return float(np.sum(p * np.log(p / p.sum() / (1 / 3)))) if p.all() else 0.0

    cuts = np.linspace(-apart - 9, apart + 9, 20)
    truth = sum(integrate.quad(term, a, b)[0] for a, b in itertools.pairwise(cuts))
    found = mutual_information_matrix(code(OPS[:, :1] * apart, sigma=1.0))[0]
    assert found.tolist() == pytest.approx([truth, *[0] * (T - 1)], abs=1e-5)
    assert 0 < truth < LN3
