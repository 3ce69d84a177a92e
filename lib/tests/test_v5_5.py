"""The v5.5 recipe against its description: tabulated epochs, terms, one step, two epochs."""

import math

import pytest
import torch
from test_training import parameters
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn.functional import one_hot

from fluxttice_core.model.network import VAES, D, DualVAE
from fluxttice_core.model.operations import C, T, all_operations, split
from fluxttice_core.model.streams import generator
from fluxttice_core.training import loop, v5_5

FAST = {"epochs": 2, "batch_size": 1_024, "coverage_n": 500, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def few_latents():
    """What is measured is not the point here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LATENTS", 2_000)
        yield


@pytest.fixture(scope="module")
def epochs():
    """`(epoch, state dict)` of two epochs."""
    return [(e, {k: v.clone() for k, v in e.model.state_dict().items()})
            for e in v5_5.fit(parameters("v5_5", **FAST))]  # fmt: skip


COSINE = 0.75**0.5


@pytest.mark.parametrize(
    "schedule, table",
    [
        (v5_5.learning_rate, {
            0: 1e-3, 49: 1e-3, 50: 5e-4, 119: 5e-4, 120: 3e-4, 180: 1e-4, 220: 5e-5, 249: 5e-5,
            250: 2e-5, 300: 1e-5, 350: 5e-6, 399: 5e-6,
        }),
        (v5_5.temperature_A, {  # a peak, a trough, peaks; late a peak, the floor, a peak
            0: 1.1, 15: 0.9 * (1 - 0.7 * 15 / 400), 60: 1.1 * (1 - 0.7 * 60 / 400),
            240: 1.1 * 0.58, 270: 1.5 - 0.7 * 270 / 400, 255: 0.1, 390: 1.5 - 0.7 * 390 / 400,
        }),
        (v5_5.temperature_B, {
            0: 0.9, 30: 0.9, 130: 0.725, 230: 0.55, 249: 0.51675, 250: 0.3, 399: 0.3,
        }),
        (lambda epoch: v5_5.rho(epoch, False), {
            0: 0.1, 40: 0.1, 80: 0.2, 119: 0.2975, 120: 0.3, 160: 0.3, 249: 0.3, 250: 0.7,
        }),
        (lambda epoch: v5_5.rho(epoch, True), {
            39: 0.1, 80: 0.2, 119: 0.2975, 120: 0.3, 160: 0.5, 200: 0.7, 249: 0.7, 250: 0.7,
        }),
        (v5_5.beta_A, {0: 0, 25: 0.15, 49: 0.294, 50: 0.3, 225: 0.55, 400: 0.8, 500: 0.8}),
        # B's is zero through the warm-up and then jumps to 0.21: so did the original's.
        (v5_5.beta_B, {0: 0, 49: 0, 50: 0.3 * math.sin(0.785), 225: 0.55 * math.sin(0.785)}),
        (v5_5.lambda3, {
            0: 0.3, 15: 0.3, 30: 0.3, 5: 0.3 - 0.15 * COSINE, 10: 0.3 - 0.15 * COSINE,
            20: 0.3 + 0.15 * COSINE, 35: 0.3 - 0.15 * COSINE,
        }),
    ],
)  # fmt: skip
def test_schedules_at_epochs_where_the_description_gives_the_number(schedule, table):
    assert {epoch: schedule(epoch) for epoch in table} == pytest.approx(table)


@pytest.mark.parametrize(
    "ratio, coverage_ratio, lambda1, lambda2, balanced",
    [
        (0.5, 1.0, 0.72, 0.68, False), (0.5, 9.0, 0.72, 0.68, False),
        (1.3, 1.0, 0.68, 0.72, False), (1.0, 1.0, 0.70, 0.70, True),
        (1.0, 1.49, 0.70, 0.70, True), (1.0, 0.68, 0.70, 0.70, True),
        (1.0, 1.6, 0.735, 0.665, True), (0.9, 0.5, 0.665, 0.735, True),
    ],
)  # fmt: skip
def test_lambda_rules(ratio, coverage_ratio, lambda1, lambda2, balanced):
    control = v5_5.Controller()
    control.balance(ratio, coverage_ratio)
    assert (control.lambda1, control.lambda2) == pytest.approx((lambda1, lambda2))
    assert control.balanced == balanced
    for _ in range(50):
        control.balance(ratio, coverage_ratio)
    assert 0.5 <= control.lambda1 <= 0.95 and 0.5 <= control.lambda2 <= 0.95


def test_corrections_are_small_and_clamped():
    control = v5_5.Controller()
    control.start(0, [1.0, 1.0, -1.0, 0.5])
    assert (control.lr, control.lambda1, control.lambda2, control.lambda3) == pytest.approx(
        (1.05e-3, 0.71, 0.69, 0.305)
    )
    for epoch in range(300):
        control.start(epoch, [-1e4, 1.0, -1.0, 1e4])
    assert (control.lr, control.lambda1, control.lambda2, control.lambda3) == (
        1e-6,
        0.95,
        0.5,
        0.75,
    )
    control.start(0, [1e4, 1.0, -1.0, -1e4])
    assert (control.lr, control.lambda3) == (0.01, 0.15)


def test_closed_forms_of_the_terms():
    half = torch.tensor([[0.0], [0.5]])  # one pair at squared distance 0.25
    three = torch.tensor([[0.0], [0.0], [50.0]])  # of three pairs one coincides
    for z, truth in ((half, math.exp(-1)), (three, 1 / 3), (torch.ones(7, D), 1), (half[:1], 0)):
        assert float(v5_5.repulsion(z)) == pytest.approx(truth)
    even, certain = torch.zeros(4, T, C), torch.tensor([0.0, 200.0, 0.0]).expand(4, T, C)
    mixed = 200 * one_hot(torch.arange(3), C)[:, None].expand(3, T, C).float()
    for logits, truth in ((even, T * math.log(3)), (certain, 0), (mixed, T * math.log(3))):
        assert float(v5_5.output_entropy(logits)) == pytest.approx(truth, abs=1e-4)
    absent = torch.tensor([-1e4, 0.0, 0.0]).repeat(2, T, 1).requires_grad_()
    v5_5.output_entropy(absent).backward()
    assert absent.grad.isfinite().all()
    classes = torch.randint(C, (5, T), generator=generator(1, "x"))
    for kl, cost in ((0.1, D * 0.5), (2.0, D * 2.0)):  # free bits: 0.5 nats a dimension at least
        found = v5_5.vae_loss(torch.zeros(5, T, C), classes, torch.full((5, D), kl), 0.3)
        assert float(found) == pytest.approx(T * math.log(3) + 0.3 * cost)
    kl = torch.tensor([[0.4, 0.6] * 8], requires_grad=True)
    v5_5.vae_loss(torch.zeros(1, T, C), classes[:1], kl, 1.0).backward()
    assert kl.grad.tolist() == [[0.0, 1.0] * 8]


def test_one_step_has_the_gradient_that_the_description_says(monkeypatch):
    """Epoch 60, written out term by term from v5.5's description, and differentiated; with a
    repulsion strong enough to be seen (its own form is tested above)."""
    monkeypatch.setattr(v5_5, "repulsion", lambda z: 300 * z.square().mean())
    model, plain, rng = DualVAE.fresh(3), DualVAE.fresh(3), generator(1, "batch")
    for m in (model, plain):
        m.grad_norm_A_ema.fill_(2.0)
        m.grad_norm_B_ema.fill_(3.0)
    x = all_operations()[torch.randperm(19_683, generator=rng)[:64]]
    eps = torch.randn(64, 2, D, generator=rng)
    own = [[*model.encoder(v).parameters(), *model.decoder(v).parameters()] for v in VAES]
    loss, _, _ = v5_5.losses(model, x, eps, 60, 0.15)
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    v5_5.descend(model, sgd, own, loss, v5_5.Controller(lambda1=0.6, lambda2=0.8))

    temperature, rho, beta = (1.1 * (1 - 0.7 * 60 / 400), 0.9 - 0.7 * 30 / 400), 0.15, 0.3 + 5 / 350
    beta = beta, beta * math.sin(0.785)
    q = [Normal(h.mu, (h.logvar / 2).exp()) for h in (plain.encoder(v)(x.float()) for v in VAES)]
    z = [q[i].mean + temperature[i] * q[i].stddev * eps[:, i] for i in (0, 1)]
    wanted = []
    for i, vae in enumerate(VAES):
        seen = Categorical(logits=plain.decoder(vae)((1 - rho) * z[i] + rho * z[1 - i].detach()))
        kl = kl_divergence(q[i], Normal(0.0, 1.0)).clamp(min=0.5).sum(1).mean()
        wanted.append(-seen.log_prob(x + 1).sum(1).mean() + beta[i] * kl)
    output_entropy = Categorical(probs=seen.probs.mean(0)).entropy().sum()
    wanted[1] = wanted[1] - 0.05 * output_entropy + 0.01 * 300 * z[1].square().mean()
    (0.6 * 1.5 * wanted[0] + 0.8 / 1.5 * wanted[1]).backward()

    theirs = [[*plain.encoder(v).parameters(), *plain.decoder(v).parameters()] for v in VAES]
    norms = [float(torch.cat([v.grad.flatten() for v in group]).norm()) for group in theirs]
    assert math.hypot(*norms) > 1.2  # so it is clipped, both VAEs by one factor
    for got, want in zip(own[0] + own[1], theirs[0] + theirs[1], strict=True):
        torch.testing.assert_close(got.grad, want.grad / math.hypot(*norms), rtol=1e-3, atol=1e-5)
    assert all(v.grad is None for v in model.state_net.parameters())
    means = [float(model.grad_norm_A_ema), float(model.grad_norm_B_ema)]
    assert means == pytest.approx([(2 + norms[0]) / 2, (3 + norms[1]) / 2], rel=1e-4)  # unclipped


def test_a_decoder_sees_the_other_code_without_a_gradient_and_only_while_training(epochs):
    """With rho = 1 nothing but the other's code arrives, so without a KL term (epoch 0) encoder A
    learns nothing; and measuring A never asks B (test_training)."""
    model, x = DualVAE.fresh(1), all_operations()[:32]
    loss, _, _ = v5_5.losses(model, x, torch.zeros(32, 2, D), 0, 1.0)
    loss[0].backward()
    grads = {
        k: 0.0 if v.grad is None else float(v.grad.norm()) for k, v in model.named_parameters()
    }
    moved = {name for name, norm in grads.items() if norm > 0}
    assert moved == {name for name in grads if name.startswith("decoder_A")}
    model.encoder_B.fc_mu.bias.data += 1
    assert v5_5.losses(model, x, torch.zeros(32, 2, D), 0, 1.0)[0][0] != loss[0]
    assert v5_5.losses(model, x, torch.zeros(32, 2, D), 0, 0.0)[0][0] != loss[0]


def test_statenet_gets_no_gradient_and_steers_from_the_second_epoch(epochs):
    (first, _), (second, state) = epochs
    start = DualVAE.fresh(parameters("v5_5").seed).state_dict()
    for name, parameter in second.model.named_parameters():
        frozen = name.startswith("state_net")
        assert torch.equal(state[name], start[name]) == frozen, name
        assert (parameter.grad is None) == frozen, name
    assert first.measures["lr"] == 1e-3 != second.measures["lr"]
    assert abs(second.measures["lr"] / 1e-3 - 1) <= 0.05
    measures = second.measures
    assert all(math.isfinite(value) for value in measures.values())
    assert max(measures["loss_A"], measures["loss_B"]) < T * math.log(3)


def test_the_seed_alone_makes_the_weights_and_no_operation_outside_the_split(epochs, monkeypatch):
    """Whatever is drawn between two epochs, and with the other operations of no class."""
    parts, data = split(42), all_operations().clone()
    data[torch.cat([parts.val, parts.test])] = 7
    monkeypatch.setattr(v5_5, "all_operations", lambda: data)
    for (before, state), epoch in zip(epochs, v5_5.fit(parameters("v5_5", **FAST)), strict=True):
        assert all(torch.equal(state[k], v) for k, v in epoch.model.state_dict().items())
        assert epoch.measures == before.measures
        epoch.model.sample(100, "A", "categorical", rng=generator(42, "noise"))
        torch.rand(100)
    other = next(v5_5.fit(parameters("v5_5", **FAST, seed=43)))
    assert other.measures["loss_A"] != epochs[0][0].measures["loss_A"]


def test_a_loss_that_is_not_finite_ends_training_in_one_sentence(monkeypatch):
    monkeypatch.setattr(v5_5, "repulsion", lambda z: z.sum() * torch.nan)
    with pytest.raises(loop.TrainingError, match=r"^The loss of VAE-[AB] in epoch 0 is no.*\.$"):
        list(v5_5.fit(parameters("v5_5", **FAST)))
