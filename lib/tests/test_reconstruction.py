"""Which operations are reconstructed exactly, beside the normal distribution and loops."""

import math

import numpy as np
import pytest
import torch
from planted import DIGITS, SEEDS, TERCILE, ends, no_number, sentence
from scipy import stats

from fluxttice_core.metrics import reconstruction
from fluxttice_core.metrics.reconstruction import (
    correct_trits,
    posterior,
    robustness,
    samples,
    subgroups,
)  # fmt: skip
from fluxttice_core.model.network import D, Posterior
from fluxttice_core.model.operations import M, T, all_operations, split
from fluxttice_core.model.streams import generator

OPS, PARTS = all_operations(), split(42)
UNSEEN = torch.cat([PARTS.val, PARTS.test])


@pytest.mark.parametrize("vae, other", ["AB", "BA"])
def test_a_vae_reconstructs_without_the_other(perfect_model, vae, other):
    """v5.5 mixed the other encoder's code in while evaluating; whatever that one does, here."""
    no_number(perfect_model.encoder(other), perfect_model.decoder(other))
    assert correct_trits(perfect_model, vae, posterior(perfect_model, vae).mu).all()
    refused = sentence(posterior, perfect_model, other)
    assert f"encoder {other} gives codes that are not finite" in refused


def test_exact_match_falls_as_the_normal_distribution_says(perfect_model, monkeypatch):
    """Twenty seeds of M trials at each scale, and of two samples, pooled: the mean within 4
    deviations. A code is at -1, 0 or 1 of nine latents, and no trit may cross its cut: nine normal
    chances. The samples of a part are those of the whole."""
    assert reconstruction.DRAWS == 20
    monkeypatch.setattr(reconstruction, "DRAWS", 2)
    monkeypatch.setattr(reconstruction, "SCALES", (0.0, 0.5, 1.0, 1.5))
    mu = torch.cat([OPS, torch.zeros(M, D - T)], 1)
    q, found, hits = Posterior(mu, torch.full_like(mu, 2 * math.log(0.4))), [], []
    for seed in range(SEEDS):
        rows = robustness(perfect_model, "A", q, seed)
        hits.append(samples(perfect_model, "A", q, generator(seed, "z")).exact_matches)
        found.append([row.value for row in rows.values()] + hits[-1].double().mean(1).tolist())
    zeros = (DIGITS == 1).sum(0)  # (M,): trits that are 0
    scales = [0, 0.5, 1, 1.5, 1, 1]
    assert list(rows) == [f"exact_match_at_sigma_{scale:.1f}" for scale in scales[:4]]
    assert not torch.equal(*hits[0])
    for scale, values in zip(scales, np.transpose(found), strict=True):
        sigma = max(0.4 * scale, 1e-9)
        middle = 1 - 2 * stats.norm.cdf(-TERCILE / sigma)
        truth = middle**zeros * stats.norm.cdf((1 - TERCILE) / sigma) ** (T - zeros)
        deviation = (truth * (1 - truth)).sum() ** 0.5 / M
        assert abs(values.mean() - truth.mean()) < 4 * deviation / SEEDS**0.5 + 1e-9
        assert values.std() < 2 * deviation + 1e-9
    part = samples(perfect_model, "A", q, generator(0, "z"), PARTS.test).exact_matches
    assert torch.equal(part, hits[0][:, PARTS.test])


# --- Subgroups: matches whose shares are known ---


def matches_at(index):
    """(M,) bool: true at `index` and nowhere else."""
    return torch.zeros(M, dtype=torch.bool).index_fill(0, torch.as_tensor(index), True)


def test_subgroups_hold_unseen_operations_alone():
    for index, value in ((PARTS.train, 0), (UNSEEN, 1)):
        assert {row.value for row in subgroups(matches_at(index), PARTS).values()} == {value}
    found = subgroups(matches_at(PARTS.val), PARTS)
    unseen, test = (found[f"exact_match_on_{name}"] for name in ("unseen", "test"))
    assert (len(found), unseen.n, test.n) == (4, 3_937, 1_969)
    assert (test.value, unseen.value) == (0, 1_968 / 3_937)


def test_sparse_and_dense_are_counted_one_by_one():
    found = subgroups(matches_at(UNSEEN[::3]), PARTS)
    hit, tables = set(UNSEEN[::3].tolist()), OPS.tolist()
    for name, zeros in (("sparse", range(6, T + 1)), ("dense", [0])):
        members = {i for i in UNSEEN.tolist() if tables[i].count(0) in zeros}
        value = len(members & hit) / len(members)
        row = found[f"exact_match_on_{name}"]
        assert (row.n, ends(row)) == (len(members), pytest.approx([value] * 3))
