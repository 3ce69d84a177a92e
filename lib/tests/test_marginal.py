import itertools
import math

import numpy as np
import pytest
import torch
from planted import DIGITS, sentence
from scipy import stats

from fluxttice_core.metrics.marginal import marginal, scaled, trit_distributions
from fluxttice_core.model.network import D, prior, read_out
from fluxttice_core.model.operations import C, T
from fluxttice_core.model.streams import generator


def rough(z):
    """A decoder without structure: every logit is a sine of the latents."""
    weight = torch.arange(1, 1 + D * T * C).view(D, T * C).double().sin()
    return 2 * (3 * z.double() @ weight).sin().view(-1, T, C).float()


def test_trit_distributions_are_torchs():
    """Also of all 27 orders and ties of three values, where the first of equals counts as in
    decoding, and of extreme ones, which neither overflow nor have an entropy."""
    extreme = [[500, 800, 200], [-500, -200, -800], [0, -math.inf, 0]]
    odd = torch.tensor([*itertools.product([0.0, 1.0, 2.0], repeat=C), *extreme])
    logits = 4 * torch.randn(300, T, C, generator=generator(1, "test"))
    logits = torch.cat([logits, odd[:, None].expand(-1, T, C)])
    before = logits.clone()
    p, entropy, classes = trit_distributions(logits)
    theirs = logits.double().softmax(-1)
    np.testing.assert_allclose(p.permute(2, 0, 1), theirs, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(entropy, stats.entropy(theirs, axis=2).sum(1), rtol=1e-5, atol=1e-6)
    first = [[row.index(max(row)) for row in one] for one in logits.tolist()]
    assert classes.T.tolist() == read_out(logits, "argmax").tolist() == first
    assert torch.equal(logits, before)


def test_the_marginal_is_the_product_of_the_trits_in_their_order():
    """Nine different distributions, so that no trit can stand in another's place."""
    p = np.random.default_rng(1).dirichlet(np.full(C, 0.7), size=T)
    logits = torch.tensor(np.log(p), dtype=torch.float32)
    m = marginal(lambda z: logits.repeat(len(z), 1, 1), 40, seed=1)
    truth = np.prod([p[t][DIGITS[t]] for t in range(T)], axis=0)
    np.testing.assert_allclose(m.P, truth, rtol=2e-5)
    assert m.counts[int(truth.argmax())] == m.k == 40
    assert m.entropy.sum() / m.k == pytest.approx(stats.entropy(p, axis=1).sum(), rel=1e-5)


def test_seed_and_stream_decide():
    cases = (1, "A"), (1, "A"), (2, "A"), (1, "B")
    first, again, *others = (marginal(rough, 200, *case).probability for case in cases)
    assert np.array_equal(first, again)
    assert not any(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("k", [-20, 0, 30])
def test_groups_must_be_of_one_size(k):
    assert f"k is {k}, but must be a positive multiple of 20" in sentence(marginal, rough, k, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused(value):
    """Of one latent only."""
    wrong = torch.zeros(10, 1, 1).index_fill(0, torch.tensor(3), value)
    assert "logits that are not numbers" in sentence(marginal, lambda z: rough(z) + wrong, 200, 1)


def test_the_common_scale_undoes_any_other():
    """A shift of all three logits is none; a decoder that always ties stays as it is."""
    z, same = prior(300, generator(1, "z")), torch.zeros(300, T, C)
    found = scaled(lambda z: 0.01 * rough(z) + 5, 200.0, generator(2, "scale"))(z)
    found -= found.mean(-1, keepdim=True)
    theirs = rough(z) - rough(z).mean(-1, keepdim=True)
    assert float(found.square().mean().sqrt()) == pytest.approx(200, rel=0.05)
    np.testing.assert_allclose(found / found.norm(), theirs / theirs.norm(), atol=1e-5, rtol=1e-3)
    assert torch.equal(scaled(lambda _: same, 200.0, generator(2, "scale"))(z), same)
