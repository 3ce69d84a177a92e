import numpy as np
import pytest
import torch
from planted import DIGITS, MISSES, SEEDS, TERCILE, no_number
from scipy import stats

from fluxttice_core.errors import InputError
from fluxttice_core.metrics import reconstruction
from fluxttice_core.metrics.reconstruction import DRAWS, posterior, right_trits, robustness, samples
from fluxttice_core.metrics.results import share
from fluxttice_core.model.network import VAES, D, Posterior
from fluxttice_core.model.operations import M, T, all_operations, split

ZEROS = (DIGITS == 1).sum(0)  # (M,): trits that are 0


def returned(model, vae):
    return right_trits(model, vae, posterior(model, vae).mu)


def posteriors(mean, sigma):
    """Codes at -mean, 0, mean in nine latents."""
    mu = torch.zeros(M, D)
    mu[:, :T] = mean * all_operations()
    return Posterior(mu, torch.full((M, D), 2 * np.log(sigma)))


def chance(mean, sigma):
    """(M,): the chance that no trit crosses its cut: Π of nine normal chances."""
    middle = 1 - 2 * stats.norm.cdf(-TERCILE / sigma)
    return middle**ZEROS * stats.norm.cdf((mean - TERCILE) / sigma) ** (T - ZEROS)


@pytest.mark.parametrize("vae", VAES)
def test_exact_match_counts_whole_operations(perfect_model, vae):
    """A trit that is not encoded is read as 0: where both are, an operation survives."""
    broken = [0, 8]
    perfect_model.encoder(vae).fc_mu.weight.data[broken] = 0
    right = returned(perfect_model, vae)
    assert np.array_equal(right.all(1), (DIGITS[broken] == 1).all(0))
    assert (right.sum(0) != M).nonzero()[:, 0].tolist() == broken
    rows = [share(right.all(1)[split(seed).test]) for seed in range(SEEDS)]
    assert sum(not row.low <= 1 / 9 <= row.high for row in rows) <= MISSES


@pytest.mark.parametrize("vae, other", [("A", "B"), ("B", "A")])
def test_a_vae_reconstructs_without_the_other(perfect_model, vae, other):
    """v5.5 mixed the other encoder's code in while evaluating; whatever that one does, here."""
    no_number(perfect_model.encoder(other), perfect_model.decoder(other))
    assert returned(perfect_model, vae).all()
    with pytest.raises(InputError, match=f"encoder {other} gives codes that are not finite"):
        returned(perfect_model, other)


@pytest.mark.parametrize("mean, sigma", [(0.8, 0.25), (1.4, 0.5)])
def test_exact_match_from_posterior_samples(perfect_model, monkeypatch, mean, sigma):
    """Share of all operations over all draws, and of the test part from one draw, by seed."""
    q, truth, test = posteriors(mean, sigma), chance(mean, sigma), split(42).test
    missed = np.zeros(2)
    monkeypatch.setattr(reconstruction, "DRAWS", 2)
    for seed in range(SEEDS):
        hits = samples(perfect_model, "A", q, seed).hits
        assert hits.shape == (2, M) and not torch.equal(hits[0], hits[1])
        for i, (found, p) in enumerate(((hits, truth), (hits[0, test], truth[test]))):
            row = share(found)
            missed[i] += not row.low <= p.mean() <= row.high
            assert row.n == found.numel() and row.high - row.low < 2.3 / row.n**0.5
    assert missed.max() <= MISSES and DRAWS == 20  # as imported
    assert samples(perfect_model, "A", q, seed, test).hits.equal(hits[:, test])


def test_robustness_falls_as_the_normal_distribution_says(perfect_model, monkeypatch):
    """Twenty seeds of M trials at each scale, pooled: the mean within 4 deviations."""
    monkeypatch.setattr(reconstruction, "SCALES", (0.0, 1.0, 2.0, 3.0))
    found = [robustness(perfect_model, "A", posteriors(1, 0.2), seed) for seed in range(SEEDS)]
    for rows in zip(*found, strict=True):
        truth = chance(1, max(0.2 * rows[0].scale, 1e-9))
        deviation = (truth * (1 - truth)).sum() ** 0.5 / M
        values = np.array([row.exact_match for row in rows])
        assert abs(values.mean() - truth.mean()) < 4 * deviation / SEEDS**0.5 + 1e-9
        assert values.std() < 2 * deviation + 1e-9
    assert [row.scale for row in found[0]] == [0, 1, 2, 3]
