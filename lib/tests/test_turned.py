"""The turned recipe: its terms against brute force, its closed forms, its independence."""

import itertools
import math
from copy import deepcopy

import pytest
import torch
from planted import no_number, same
from test_training import parameters

from fluxttice_core.metrics.codes import kl_nats
from fluxttice_core.model.initialisation import looks_linear
from fluxttice_core.model.network import VAES, D, Posterior, linears, prior
from fluxttice_core.model.operations import C, T, all_operations, split
from fluxttice_core.model.streams import generator
from fluxttice_core.parallel import together
from fluxttice_core.training import turned
from fluxttice_core.training.loop import TrainingError

QUICK = {
    "epochs": 1, "batch_size": 512, "prior_size": 64, "settle_steps": 10, "device": "cpu",
    "coverage_n": 500,
}  # fmt: skip
DATA = all_operations()[::10]  # four steps of 512 - enough to move every weight


def trained(vae="A", data=DATA, **changes):
    """The finished network's state."""
    *_, (model, _) = turned.train(vae, parameters(**{**QUICK, **changes}), data)
    return model.state_dict()


# --- The terms ---


def test_unevenness_is_the_chi_square_of_one_and_two_trits_by_brute_force():
    """From the tables of all pairs of trits: 9·Σ P² - 1 of a pair holds its order two and each of
    its trits' order one, which so comes eight times. P² is over pairs of different latents, so it
    has no bias."""
    logits = 2 * torch.randn(4, T, C, generator=generator(0, "test"), dtype=torch.float64)
    p, total, pairs = logits.softmax(-1), 0.0, list(itertools.permutations(range(4), 2))
    for t, s in itertools.combinations_with_replacement(range(T), 2):
        table = p[:, t] if s == t else torch.einsum("kc,kd->kcd", p[:, t], p[:, s]).flatten(1)
        square = sum(float(table[k] @ table[m]) for k, m in pairs) / len(pairs)
        total += -7 * (3 * square - 1) if s == t else 9 * square - 1
    assert float(turned.unevenness(logits)) == pytest.approx(total)


def test_crookedness_is_zero_for_affine_logits_and_two_less_root_two_for_squares():
    """f = z²: Var[(1/2 - 1/√2)(z² + z'²) + z·z'] / Var[z²] = 2·(1/2 - 1/√2)² + 1/2 = 2 - √2."""
    z = prior(40_000, generator(3, "test"))
    middle = (z[:20_000] + z[:20_000].roll(1, 0)) / math.sqrt(2)
    slopes = torch.randn(D, T * C, generator=generator(3, "slopes"))
    affine = ((x @ slopes + 1).view(-1, T, C) for x in (z, middle))
    assert turned.crookedness(*affine) < 1e-10
    found = turned.crookedness(z.square()[..., None], middle.square()[..., None])
    assert float(found) == pytest.approx(2 - math.sqrt(2), rel=0.03)


@pytest.mark.parametrize("n", [32, 1_536])
def test_whitened_latents_have_the_priors_moments_and_are_a_linear_map_of_what_was_drawn(n):
    z = 3 * prior(n, generator(n, "test")) + 1
    w = turned.whitened(z)
    assert torch.allclose(w.mean(0), torch.zeros(D), atol=1e-5)
    assert torch.allclose(w.T @ w / n, torch.eye(D), atol=1e-4)
    ones = torch.cat([z, torch.ones(n, 1)], 1)
    assert torch.allclose(ones @ torch.linalg.lstsq(ones, w).solution, w, atol=1e-3)


def test_the_schedules():
    warm = 4 * 0.5 * (1 + math.cos(0.025 * math.pi))
    assert [turned.anneal(8, t) for t in (0, 0.025, 0.5, 1)] == pytest.approx([0, warm, 4, 0])
    grown = [turned.grown(t, 0.5, 1e-4) for t in (0, 0.25, 0.5, 1)]
    assert grown == pytest.approx([1e-4, 1e-2, 1, 1])


# --- The turn ---


@torch.no_grad()
@pytest.mark.parametrize("vae", VAES)
@pytest.mark.parametrize("seed", range(3))
def test_a_turn_finds_one_latent_a_trit_and_leaves_every_code_its_logits(perfect_model, vae, seed):
    """The perfect model, turned away from its axes: the turn brings it back, up to signs and order,
    and cuts off what is not read. Its logits are linear in the latents."""
    enc, dec = perfect_model.encoder(vae), perfect_model.decoder(vae)
    x, first, rng = all_operations()[::7], linears(dec)[0], generator(seed, "test")
    q, _ = torch.linalg.qr(torch.randn(D, D, generator=rng))
    first.weight.copy_(first.weight @ q.T)
    enc.fc_mu.weight.copy_(q @ enc.fc_mu.weight)
    enc.fc_mu.bias.fill_(1)
    still, weight, before = deepcopy((enc, dec)), first.weight.clone(), dec(enc(x.float()).mu)
    turned.turn(*still, False, rng)
    read = linears(still[1])[0].weight.any(0)
    assert torch.equal(linears(still[1])[0].weight, weight * read)

    w, c = turned.turn(enc, dec, True, rng)
    unread, owned = w.norm(dim=0) == 0, w.view(T, C, D).norm(dim=1)
    assert ((owned > 1e-2 * owned.max()).sum(1) == 1).all() and int(unread.sum()) == D - T
    assert not first.weight[:, unread].any()
    q = enc(x.float())
    assert not q.mu[:, unread].any() and not q.logvar[:, unread].any()
    torch.testing.assert_close(dec(q.mu), before, rtol=1e-3, atol=1.0)  # of 10,000
    centred = (before - before.mean(2, keepdim=True)).flatten(1)
    torch.testing.assert_close(q.mu @ w.T + c, centred, rtol=1e-3, atol=1.0)


# --- The encoder alone ---


def test_the_certainty_is_what_sampling_finds():
    """How often the true class is not behind a rival, of 200,000 draws of q through the logits."""
    rng = generator(7, "test")
    w, c = torch.randn(T * C, D, generator=rng), torch.randn(T * C, generator=rng)
    x = all_operations()[torch.randint(3**T, (2,), generator=rng)]
    q = Posterior(torch.randn(2, D, generator=rng), torch.randn(2, D, generator=rng))
    closed = torch.special.ndtr(turned.certainty(q, w, c, x))
    for mu, logvar, right, found in zip(*q, x + 1, closed, strict=True):
        z = mu + (logvar / 2).exp() * torch.randn(200_000, D, generator=rng)
        lead = (z @ w.T + c).view(-1, T, C)
        lead = lead.gather(2, right.expand(len(z), T)[..., None]) - lead  # 0 over itself
        ahead = (lead > 0).float().mean(0)[torch.arange(C) != right[:, None]]
        assert torch.allclose(found, ahead, atol=0.005)


def test_settling_buys_exactness_for_rate_and_leaves_the_decoder(perfect_model):
    """Codes at twice the distance that is needed: settled ones cost less, and still come back."""
    enc, dec = perfect_model.encoder_A, perfect_model.decoder_A
    enc.fc_mu.weight.data.mul_(2)
    before, state = kl_nats(*enc(DATA.float())), deepcopy(dec.state_dict())
    w, c = (part.float() for part in turned.slopes(dec, generator(0, "slopes")))
    p = parameters(**{**QUICK, "settle_steps": 150, "lr": 0.003})
    turned.settle(enc, w, c, DATA, p, generator(0, "settle"))
    q = enc(DATA.float())
    assert kl_nats(*q).sum() < 0.8 * before.sum()
    z = q.mu + (q.logvar / 2).exp() * prior(len(DATA), generator(1, "test"))
    assert (dec(z).argmax(2) - 1 == DATA).all(1).double().mean() > 0.97
    assert same(state, dec.state_dict())


# --- Whole trainings ---


def test_the_seed_alone_makes_the_weights_on_any_number_of_threads():
    """In process, and in the processes that `fit` trains in, whatever the caller's threads."""
    torch.set_num_threads(2)
    try:
        *_, ((model, _),) = together(turned.train, [("A", parameters(**QUICK), DATA)])
    finally:
        torch.set_num_threads(1)
    assert same(trained(), model.state_dict())
    assert not same(trained(seed=7), model.state_dict(), "decoder_A")


@pytest.mark.parametrize("vae, other", ["AB", "BA"])
def test_each_vae_is_trained_as_if_the_other_were_not_there(vae, other, monkeypatch):
    """The other one starts as no number, and stays where it is."""

    def poisoned(model, seed):
        looks_linear(model, seed)
        no_number(model.encoder(other), model.decoder(other), model.state_net)

    clean = trained(vae)
    monkeypatch.setattr(turned, "looks_linear", poisoned)
    found = trained(vae)
    assert same(clean, found, f"coder_{vae}")
    assert all(found[k].isnan().all() for k in found if f"coder_{other}" in k)


def test_training_reads_no_operation_outside_its_split(monkeypatch, thrifty):
    """The others are of no class; and a training operation that is replaced changes the weights."""
    p = parameters(**{**QUICK, "batch_size": 4_000})
    *_, (weights, measures) = turned._measured("A", p)
    parts, data = split(p.split_seed), all_operations().clone()
    monkeypatch.setattr(turned, "all_operations", lambda: data)
    for poisoned, value in ((torch.cat([parts.test, parts.val]), 7), (parts.train[:999], 0)):
        data[poisoned] = value
        *_, (found, again) = turned._measured("A", p)
        assert same(weights, found) == (measures == again) == (value == 7)


def test_the_scale_of_the_logits_moves_no_training():
    plain, scaled = trained(logit_scale=1), trained(logit_scale=8)
    last = "decoder_A.decoder.4."
    assert all(torch.equal(scaled[k], (8 if last in k else 1) * plain[k]) for k in plain)


def test_a_loss_that_is_not_finite_ends_training_in_one_sentence():
    with pytest.raises(TrainingError, match=r"^The loss of VAE-B in epoch \d is no longer .*\.$"):
        trained("B", lr=1.0, epochs=3)
    with pytest.raises(TrainingError, match=r"^The square of the logits .* is no longer finite"):
        turned.slopes(lambda z: (z[:, :1, None] * 1e30).expand(-1, T, C), generator(0, "x"))
