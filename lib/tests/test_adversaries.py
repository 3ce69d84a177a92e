import pytest
import torch
from planted import beyond

from fluxttice_core.metrics import adversaries, rate
from fluxttice_core.metrics.adversaries import linear_readout, memoriser, optimum, permuted
from fluxttice_core.metrics.coverage import indices
from fluxttice_core.metrics.marginal import marginal
from fluxttice_core.metrics.reconstruction import drawn, posterior, right_trits
from fluxttice_core.model.network import VAES, prior
from fluxttice_core.model.operations import M, all_operations, split
from fluxttice_core.model.streams import generator

PARTS = split()


def hits(model, vae, scale=0.0, seed=1):
    q = posterior(model, vae)
    return right_trits(model, vae, drawn(q, scale, generator(seed, "test"))).all(1)


@pytest.mark.parametrize("vae", VAES)
def test_the_optimum_has_the_least_rate_at_the_match_it_was_made_for(vae):
    """At 99 %; that of 99.99 % is measured whole elsewhere."""
    model, match = optimum(0.99), 0.99
    assert hits(model, vae).all()
    samples = torch.cat([hits(model, vae, 1.0, seed) for seed in range(5)]).double()
    assert abs(float(samples.mean()) - match) < 4 * (match * (1 - match) / len(samples)) ** 0.5
    q = posterior(model, vae)
    assert rate.rate(q).value == pytest.approx(rate.least_rate(match), abs=1e-4)
    assert rate.prior_norm_share(q, generator(1, "test")).value > 0.999
    counts = marginal(model.decoder(vae), 200_000, 1, vae).counts
    expected = 200_000 / M  # χ² has M - 1 degrees of freedom, so a standard deviation of √2M
    assert abs(((counts - expected) ** 2 / expected).sum() - M) < 4 * (2 * M) ** 0.5


def test_permuted_changes_what_is_generated_and_nothing_that_is_encoded():
    model = beyond(optimum())
    other = permuted(model, 3)
    z = prior(5_000, generator(1, "test"))
    inside = z.norm(dim=1) < rate.RADIUS
    assert 0.997 < inside.double().mean() < 1
    image = torch.randperm(M, generator=generator(3, "permuted"))
    for vae in other.vaes:
        assert hits(other, vae).all() and hits(other, vae, 1.0).double().mean() > 0.999
        with torch.no_grad():
            theirs, ours = other.decoder(vae)(z), model.decoder(vae)(z)
        assert torch.equal(theirs[~inside], ours[~inside])
        index = indices(ours[inside], "argmax")
        assert torch.equal(indices(theirs[inside], "argmax"), image[index])
        assert float(theirs[inside].softmax(-1).amax(-1).min()) == 1
    assert torch.equal(image.sort().values, torch.arange(M))


def test_a_memoriser_knows_what_it_was_trained_on_and_nothing_else():
    model = memoriser(1, PARTS)
    right = hits(model, "A")
    for part, index in PARTS._asdict().items():
        assert right[index].double().mean() == (part == "train")
    assert hits(model, "A", 1.0)[PARTS.train].double().mean() > 0.999
    best = optimum()
    z = prior(20_000, generator(1, "test"))
    mine, theirs = (indices(net.decoder("A")(z), "argmax") for net in (model, best))
    pairs = torch.stack([mine, theirs]).unique(dim=1)  # a bijection: each cell one operation
    assert pairs.shape[1] == len(mine.unique()) == len(theirs.unique()) > 10_000
    ops = all_operations()
    for x, source in list(enumerate(adversaries._nearest(PARTS.train)))[::500]:
        distance = (ops[PARTS.train] != ops[x]).sum(1)
        assert (ops[source] != ops[x]).sum() == distance.min() and source in PARTS.train


def test_ten_operations_are_all_that_a_linear_read_out_needs():
    """Exact on all M after ten, in 19 of 20 seeds at least; not after five; generates unevenly."""
    exact = [hits(linear_readout(seed), "A").all() for seed in range(20)]
    assert sum(exact) >= 19
    assert all(hits(linear_readout(seed, 5), "A").double().mean() < 0.2 for seed in range(5))
    assert hits(linear_readout(1), "A", 1.0).double().mean() > 0.99
    counts = marginal(linear_readout(1).decoder("A"), 100_000, 1).counts
    assert (counts > 0).mean() < 0.9


def test_a_seed_decides_and_nothing_else_does():
    z = prior(500, generator(1, "test"))
    for make in (lambda s: memoriser(s, PARTS), linear_readout, lambda s: permuted(optimum(), s)):
        one, again, other = (make(seed).decoder("A")(z) for seed in (1, 1, 2))
        assert torch.equal(one, again) and not torch.equal(one, other)
