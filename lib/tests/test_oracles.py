"""Weights set by hand, the controls made from them, and a network fitted to a known seed."""

import math

import pytest
import torch
from planted import LN3
from scipy import stats
from undeserved import fitted

from fluxttice_core import files
from fluxttice_core.metrics import rate
from fluxttice_core.metrics.controls import scaled_logits, uneven
from fluxttice_core.metrics.evenness import largest_frequency, least_frequency
from fluxttice_core.metrics.marginal import MIN_LATENTS, marginal
from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.metrics.path_consistency import path_consistency
from fluxttice_core.metrics.reconstruction import correct_trits, posterior, samples
from fluxttice_core.metrics.results import proportion
from fluxttice_core.model.network import VAES, D, prior
from fluxttice_core.model.operations import M, T
from fluxttice_core.model.streams import generator

ZERO = M // 2  # the operation that is 0 everywhere
LN_M = 9 * LN3


@pytest.mark.parametrize("vae", VAES)
def test_packed_codes_cost_less_at_the_same_exact_match(vae, monkeypatch):
    """Each of 27 equal cells, from 1/1,000 to 999/1,000 of it, has three trits of its own, and its
    neighbours differ in one."""
    monkeypatch.syspath_prepend(files.root() / "lib" / "benchmarks")
    from packed import packed_oracle

    inside = torch.tensor([0.001, 0.1, 0.5, 0.9, 0.999])
    for latent, exact_match, saved in ((0, 0.99, 3.4), (1, 0.99, 3.4), (2, 0.9999, 5.1)):
        model, z = packed_oracle(exact_match), torch.zeros(27 * 5, D)
        places = (torch.arange(27)[:, None] + inside) / 27
        z[:, latent] = torch.tensor(stats.norm.ppf(places)).flatten()
        ops = model.decode(z, vae).view(27, 5, T)
        assert (ops == ops[:, :1]).all()
        own = ops[:, 0, 3 * latent : 3 * latent + 3]
        assert len(own.unique(dim=0)) == 27
        assert (own.diff(dim=0).abs().sum(1) == 1).all()
        assert ops.flatten(0, 1).unique(dim=0).shape == (27, T)  # the other trits stay
        q = posterior(model, vae)
        assert correct_trits(model, vae, q.mu).all()
        hits = samples(model, vae, q, generator(1, "test")).exact_matches
        sampled, deviation = proportion(hits).value, math.sqrt((1 - exact_match) / hits.numel())
        assert abs(sampled - exact_match) < 4 * deviation
        assert rate.least_rate(exact_match) - rate.rate(q).value == pytest.approx(saved, abs=0.05)


def same_but(model, control):
    """What a control must leave as it is: all operations, argmax decoding of posterior samples, and
    lines to the codes; and the samples' distortion."""
    found = []
    for one in (model, control):
        q = posterior(one, "A")
        assert correct_trits(one, "A", q.mu).all()
        drawn = samples(one, "A", q, generator(1, "test"))
        assert proportion(drawn.exact_matches).low > 0.9995
        assert path_consistency(one, "A", generator(1, "test")).low > 0.9995
        found.append(rate.distortion(drawn))
    assert found[0].high < 0.5
    return found[1]


@pytest.mark.parametrize("factor, low, high", [(1e-6, 9.8, LN_M), (1e25, 1e20, 1e25)])
def test_only_the_distortion_sees_the_scale_of_logits(certified, factor, low, high):
    distortion = same_but(certified, scaled_logits(certified, factor))
    assert low < distortion.low and distortion.high < high


@pytest.mark.parametrize("times", [0.2, 3.0, 8.0])
def test_one_operation_is_more_or_less_frequent_and_nothing_else_changes(times):
    control = uneven(oracle(), times)
    assert same_but(oracle(), control).high < 0.5
    m = marginal(control.decoder("A"), MIN_LATENTS, 1)
    deviation = math.sqrt(times * MIN_LATENTS / M)
    assert abs(m.counts[ZERO] - times * MIN_LATENTS / M) < 4 * deviation
    others = m.counts[torch.arange(M) != ZERO]
    assert abs(others.mean() - (1 - times / M) * MIN_LATENTS / (M - 1)) < 0.01
    if times == 8:
        assert largest_frequency(m).low > 3.5
    elif times < 1:
        assert least_frequency(m).low < 0.08


def test_a_network_fitted_to_a_known_seed_fails_at_another():
    """Of 20,000 known latents none shows the half-spaces in which it decodes wrongly."""
    known = generator(1, "known")
    network = fitted(prior(20_000, known.clone_state()))
    assert path_consistency(network, "A", known).value == 1
    fresh = [path_consistency(network, "A", generator(seed, "fresh")) for seed in range(3)]
    assert all(found.high < 0.9995 for found in fresh)
    assert correct_trits(network, "A", posterior(network, "A").mu).all()
