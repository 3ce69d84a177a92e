"""The v5.5 recipe against its description: tabulated epochs, terms, one step, two epochs."""

import math

import pytest
import torch
from test_training import parameters
from torch.distributions import Categorical, Normal, kl_divergence

from fluxttice_core.model.network import VAES, D, DualVAE
from fluxttice_core.model.operations import T, all_operations, split
from fluxttice_core.model.streams import generator
from fluxttice_core.training import loop, v5_5

COSINE, SINE = 0.15 * 0.75**0.5, math.sin(0.785)
SCHEDULES = {
    v5_5.learning_rate: {0: 1e-3, 49: 1e-3, 50: 5e-4, 120: 3e-4, 180: 1e-4, 220: 5e-5, 250: 2e-5,
                         300: 1e-5, 399: 5e-6},
    # A peak, a trough, peaks; late a peak, the floor, a peak.
    v5_5.temperature_A: {0: 1.1, 15: 0.876375, 60: 0.9845, 240: 0.638, 270: 1.0275, 255: 0.1,
                         390: 0.8175},
    v5_5.temperature_B: {0: 0.9, 30: 0.9, 130: 0.725, 230: 0.55, 249: 0.51675, 250: 0.3, 399: 0.3},
    lambda epoch: v5_5.rho(epoch, balanced=False): {
        0: 0.1, 40: 0.1, 80: 0.2, 119: 0.2975, 120: 0.3, 160: 0.3, 249: 0.3, 250: 0.7},
    lambda epoch: v5_5.rho(epoch, balanced=True): {
        39: 0.1, 80: 0.2, 119: 0.2975, 120: 0.3, 160: 0.5, 200: 0.7, 249: 0.7, 250: 0.7},
    v5_5.beta_A: {0: 0, 25: 0.15, 49: 0.294, 50: 0.3, 225: 0.55, 400: 0.8, 500: 0.8},
    v5_5.beta_B: {0: 0, 49: 0, 50: 0.3 * SINE, 225: 0.55 * SINE},  # it jumps, as the original's
    v5_5.lambda3: {0: 0.3, 5: 0.3 - COSINE, 15: 0.3, 20: 0.3 + COSINE, 35: 0.3 - COSINE},
}  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_at_epochs_where_the_description_gives_the_number(schedule):
    table = SCHEDULES[schedule]
    assert {epoch: schedule(epoch) for epoch in table} == pytest.approx(table)


@pytest.mark.parametrize(
    "ratio, coverage_ratio, lambda1, lambda2",
    [
        (0.5, 9.0, 0.72, 0.68), (1.3, 1.0, 0.68, 0.72), (1.0, 1.49, 0.70, 0.70),
        (1.0, 0.68, 0.70, 0.70), (1.0, 1.6, 0.735, 0.665), (0.9, 0.5, 0.665, 0.735),
    ],
)  # fmt: skip
def test_lambda_rules(ratio, coverage_ratio, lambda1, lambda2):
    control = v5_5.Controller()
    control.balance(ratio, coverage_ratio)
    assert (control.lambda1, control.lambda2) == pytest.approx((lambda1, lambda2))
    assert control.balanced == (0.8 < ratio < 1.2)


@pytest.mark.parametrize(
    "corrections, lr, lambdas",
    [
        ([1.0, 1.0, -1.0, 0.5], 1.05e-3, (0.71, 0.69, 0.305)),
        ([-1e4, 1e4, -1e4, 1e4], 1e-6, (0.95, 0.5, 0.75)),  # the bounds
        ([1e4, -1e4, 1e4, -1e4], 0.01, (0.5, 0.95, 0.15)),
    ],
)
def test_corrections_are_small_and_clamped(corrections, lr, lambdas):
    control = v5_5.Controller()
    control.start(0, corrections)
    assert control.lr == pytest.approx(lr)
    assert (control.lambda1, control.lambda2, control.lambda3) == pytest.approx(lambdas)


def test_closed_forms_of_the_terms():
    half = torch.tensor([[0.0], [0.5]])  # one pair at squared distance 0.25
    three = torch.tensor([[0.0], [0.0], [50.0]])  # of three pairs one coincides
    for z, truth in ((half, math.exp(-1)), (three, 1 / 3), (torch.ones(7, D), 1), (half[:1], 0)):
        assert float(v5_5.repulsion(z)) == pytest.approx(truth)
    certain = torch.tensor([0.0, 200.0, 0.0]).repeat(4, T, 1).requires_grad_()
    v5_5.output_entropy(certain).backward()  # of absent classes, too
    assert certain.grad.isfinite().all()


def test_one_step_has_the_gradient_that_the_description_says(monkeypatch):
    """Epoch 60, written out term by term from v5.5's description, and differentiated; with a
    repulsion strong enough to be seen (its own form is tested above)."""
    monkeypatch.setattr(v5_5, "repulsion", lambda z: 300 * z.square().mean())
    model, plain, rng = DualVAE.fresh(3), DualVAE.fresh(3), generator(1, "batch")
    model.grad_norm_A_ema.fill_(2.0)
    model.grad_norm_B_ema.fill_(3.0)
    x = all_operations()[torch.randperm(3**T, generator=rng)[:64]]
    eps = torch.randn(64, 2, D, generator=rng)
    own, theirs = (
        [[*m.encoder(v).parameters(), *m.decoder(v).parameters()] for v in VAES]
        for m in (model, plain)
    )
    loss, _, _ = v5_5.losses(model, x, eps, 60, 0.15)
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    v5_5.descend(model, sgd, own, loss, v5_5.Controller(lambda1=0.6, lambda2=0.8))

    temperature, beta = (0.9845, 0.8475), (0.3 + 5 / 350, (0.3 + 5 / 350) * SINE)
    q = [Normal(h.mu, (h.logvar / 2).exp()) for h in (plain.encoder(v)(x.float()) for v in VAES)]
    z = [q[i].mean + temperature[i] * q[i].stddev * eps[:, i] for i in (0, 1)]
    wanted = []
    for i, vae in enumerate(VAES):
        seen = Categorical(logits=plain.decoder(vae)(0.85 * z[i] + 0.15 * z[1 - i].detach()))
        kl = kl_divergence(q[i], Normal(0.0, 1.0)).clamp(min=0.5).sum(1).mean()
        wanted.append(-seen.log_prob(x + 1).sum(1).mean() + beta[i] * kl)
    wanted[1] = wanted[1] - 0.05 * Categorical(probs=seen.probs.mean(0)).entropy().sum()
    wanted[1] = wanted[1] + 0.01 * 300 * z[1].square().mean()
    (0.6 * 1.5 * wanted[0] + 0.8 / 1.5 * wanted[1]).backward()

    norms = [float(torch.cat([v.grad.flatten() for v in group]).norm()) for group in theirs]
    assert math.hypot(*norms) > 1.2  # so it is clipped, both VAEs by one factor
    for got, want in zip(own[0] + own[1], theirs[0] + theirs[1], strict=True):
        torch.testing.assert_close(got.grad, want.grad / math.hypot(*norms), rtol=1e-3, atol=1e-5)
    assert all(v.grad is None for v in model.state_net.parameters())
    means = [float(model.grad_norm_A_ema), float(model.grad_norm_B_ema)]
    assert means == pytest.approx([(2 + norms[0]) / 2, (3 + norms[1]) / 2], rel=1e-4)  # unclipped


def fit(**changes):
    """`(measures, state, model)` of two epochs, measured from few latents."""
    p = parameters("v5_5", epochs=2, batch_size=1_024, coverage_n=500, device="cpu", **changes)
    for epoch in v5_5.fit(p):
        yield epoch.measures, {k: v.clone() for k, v in epoch.model.state_dict().items()}, epoch
        epoch.model.sample(100, "A", "categorical", rng=generator(42, "noise"))  # between two


def test_two_epochs_of_one_seed_read_no_operation_outside_the_split(monkeypatch, thrifty):
    """Again with the other operations of no class, they are the same; StateNet gets no gradient
    and steers from the second epoch."""
    (first, _, _), (second, state, epoch) = epochs = list(fit())
    start, parts, data = DualVAE.fresh(42).state_dict(), split(42), all_operations().clone()
    for name, parameter in epoch.model.named_parameters():
        frozen = name.startswith("state_net")
        assert (torch.equal(state[name], start[name]), parameter.grad is None) == (frozen, frozen)
    assert first["lr"] == 1e-3 != second["lr"] and abs(second["lr"] / 1e-3 - 1) <= 0.05
    assert all(math.isfinite(value) for value in second.values())
    assert max(second["loss_A"], second["loss_B"]) < T * math.log(3)  # below a guesser's

    data[torch.cat([parts.val, parts.test])] = 7
    monkeypatch.setattr(v5_5, "all_operations", lambda: data)
    for (measures, state, _), again in zip(epochs, fit(), strict=True):
        assert measures == again[0] and all(torch.equal(state[k], again[1][k]) for k in state)
    assert next(fit(seed=43))[0]["loss_A"] != first["loss_A"]
    monkeypatch.setattr(v5_5, "repulsion", lambda z: z.sum() * torch.nan)
    with pytest.raises(loop.TrainingError, match=r"^The loss of VAE-[AB] in epoch 0 is no.*\.$"):
        next(fit())
