import math

import pytest
import torch
from fluxttice_core.training import loop as selection
from fluxttice_core.training import v5_5
from fluxttice_core.model.network import VAES, D, DualVAE
from fluxttice_core.model.operations import C, T, all_operations
from fluxttice_core.params import check
from fluxttice_core.training.loop import TrainingError
from fluxttice_core.model.streams import generator
from torch.distributions import Categorical, Normal, kl_divergence

FAST = {"epochs": 1, "batch_size": 256, "coverage_n": 500, "device": "cpu"}
LONGER = {"epochs": 2, "batch_size": 128, "statenet": False}


@pytest.fixture
def p(recipe):
    return check("train", recipe, "recipe")


@pytest.fixture(scope="module")
def train(recipe):
    """Runs the recipe with a few values changed, and returns its last epoch; the same values run
    once, so the epoch must be left as it is."""
    done = {}

    def run(**changes):
        key = repr(sorted(changes.items()))
        if key not in done:
            done[key] = list(v5_5.fit(check("train", {**recipe, **FAST, **changes}, "recipe")))[-1]
        return done[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "LATENTS", 2_000)  # what is measured is not the point here
        yield run


def same(one, two):
    one, two = one.model.state_dict(), two.model.state_dict()
    return all(torch.equal(one[k], two[k]) for k in one)


# --- Schedules, at epochs where v5.5's description gives the number ---


@pytest.mark.parametrize(
    "epoch, lr",
    [
        *[(0, 1e-3), (49, 1e-3), (50, 5e-4), (119, 5e-4), (120, 3e-4), (180, 1e-4), (220, 5e-5)],
        *[(249, 5e-5), (250, 2e-5), (300, 1e-5), (350, 5e-6), (399, 5e-6)],
    ],
)
def test_learning_rate(p, epoch, lr):
    assert v5_5.learning_rate(p, epoch) == lr


@pytest.mark.parametrize(
    "epoch, t",
    [
        (0, 1.1),
        (15, 0.9 * (1 - 0.7 * 15 / 400)),  # the cycle's trough
        (60, 1.1 * (1 - 0.7 * 60 / 400)),
        (240, 1.1 * 0.58),
        (270, 0.5 + 1 - 0.7 * 270 / 400),  # late, at a peak
        (255, 0.1),  # late, at a trough: the floor
        (390, 0.5 + 1 - 0.7 * 390 / 400),
    ],
)
def test_temperature_of_a(p, epoch, t):
    assert v5_5.temperature_A(p, epoch) == pytest.approx(t)


@pytest.mark.parametrize(
    "epoch, t",
    [(0, 0.9), (30, 0.9), (130, 0.725), (230, 0.55), (249, 0.51675), (250, 0.3), (399, 0.3)],
)
def test_temperature_of_b(p, epoch, t):
    assert v5_5.temperature_B(p, epoch) == pytest.approx(t)


@pytest.mark.parametrize(
    "epoch, unbalanced, balanced",
    [
        *[(0, 0.1, 0.1), (39, 0.1, 0.1), (40, 0.1, 0.1), (80, 0.2, 0.2), (119, 0.2975, 0.2975)],
        *[(120, 0.3, 0.3), (160, 0.3, 0.5), (200, 0.3, 0.7), (249, 0.3, 0.7), (250, 0.7, 0.7)],
    ],
)
def test_rho(p, epoch, unbalanced, balanced):
    assert v5_5.rho(p, epoch, False) == pytest.approx(unbalanced)
    assert v5_5.rho(p, epoch, True) == pytest.approx(balanced)


@pytest.mark.parametrize(
    "epoch, a", [(0, 0), (25, 0.15), (49, 0.294), (50, 0.3), (225, 0.55), (400, 0.8), (500, 0.8)]
)
def test_beta(p, epoch, a):
    """B's is zero through the warm-up and then jumps to 0.21: so did the original's."""
    assert v5_5.beta_A(p, epoch) == pytest.approx(a)
    assert v5_5.beta_B(p, epoch) == pytest.approx(a * math.sin(0.785) if epoch >= 50 else 0)


@pytest.mark.parametrize(
    "epoch, swing",
    [(0, 0), (15, 0), (30, 0), (5, -(0.75**0.5)), (10, -(0.75**0.5)), (35, -(0.75**0.5))],
)
def test_lambda3(p, epoch, swing):
    assert v5_5.lambda3(p, epoch) == pytest.approx(0.3 + 0.15 * swing)
    assert v5_5.lambda3(p, epoch + 15) == pytest.approx(0.3 - 0.15 * swing)


# --- The controller ---


@pytest.mark.parametrize(
    "ratio, coverage_ratio, lambda1, lambda2, balanced",
    [
        (0.5, 1.0, 0.72, 0.68, False),
        (0.5, 9.0, 0.72, 0.68, False),
        (1.3, 1.0, 0.68, 0.72, False),
        (1.0, 1.0, 0.70, 0.70, True),
        (1.0, 1.49, 0.70, 0.70, True),
        (1.0, 0.68, 0.70, 0.70, True),
        (1.0, 1.6, 0.735, 0.665, True),
        (0.9, 0.5, 0.665, 0.735, True),
    ],
)
def test_lambda_rules(p, ratio, coverage_ratio, lambda1, lambda2, balanced):
    control = v5_5.Controller(p)
    control.balance(ratio, coverage_ratio)
    assert (control.lambda1, control.lambda2) == pytest.approx((lambda1, lambda2))
    assert control.balanced == balanced
    assert control.momentum() == (0.95 if balanced else 0.5)


@pytest.mark.parametrize("ratio, ends", [(0.1, (0.95, 0.5)), (9.0, (0.5, 0.95))])
def test_lambdas_stay_within_their_bounds(p, ratio, ends):
    control = v5_5.Controller(p)
    for _ in range(50):
        control.balance(ratio, 1.0)
    assert (control.lambda1, control.lambda2) == ends


def test_corrections_are_small_and_clamped(p):
    control = v5_5.Controller(p)
    control.start(0)
    control.correct([1.0, 1.0, -1.0, 0.5])
    assert control.lr == pytest.approx(1.05e-3)
    assert (control.lambda1, control.lambda2) == pytest.approx((0.71, 0.69))
    assert control.lambda3 == pytest.approx(0.305)
    for _ in range(300):
        control.correct([-1.0, 1.0, -1.0, 1.0])
    assert (control.lr, control.lambda1, control.lambda2) == (1e-6, 0.95, 0.5)
    assert control.lambda3 == 0.75
    for _ in range(300):
        control.correct([1.0, 1.0, -1.0, -1.0])
    assert (control.lr, control.lambda3) == (0.01, 0.15)


# --- Terms of the loss ---


def test_repulsion_closed_forms():
    same_points, far = torch.ones(7, D), torch.eye(2, D) * 100
    assert float(v5_5.repulsion(same_points, 0.25)) == 1
    assert float(v5_5.repulsion(far, 0.25)) == 0
    half = torch.tensor([[0.0], [0.5]])  # one pair at squared distance 0.25
    assert float(v5_5.repulsion(half, 0.25)) == pytest.approx(math.exp(-1))
    three = torch.tensor([[0.0], [0.0], [50.0]])  # of three pairs one coincides
    assert float(v5_5.repulsion(three, 0.25)) == pytest.approx(1 / 3)


def test_repulsion_of_a_lone_point_is_zero():
    """A batch's last slice may be one row: it has no pair, and a mean over none is not a number."""
    assert float(v5_5.repulsion(torch.ones(1, D), 0.25)) == 0


def test_output_entropy_closed_forms():
    certain = torch.zeros(4, T, C)
    certain[..., 1] = 200
    assert float(v5_5.output_entropy(torch.zeros(4, T, C))) == pytest.approx(T * math.log(3))
    assert float(v5_5.output_entropy(certain)) == pytest.approx(0, abs=1e-5)
    three = 200 * torch.nn.functional.one_hot(torch.arange(3), C)[:, None].expand(3, T, C).float()
    assert float(v5_5.output_entropy(three)) == pytest.approx(T * math.log(3), rel=1e-5)


def test_output_entropy_has_a_finite_gradient_where_a_class_is_absent():
    logits = torch.zeros(2, T, C)
    logits[..., 0] = -1e4
    logits.requires_grad_()
    v5_5.output_entropy(logits).backward()
    assert logits.grad.isfinite().all()


def test_vae_loss_closed_forms():
    """CE of uniform logits is 9·ln 3; below the free bits each dimension still costs 0.5 nats."""
    classes = torch.randint(C, (5, T), generator=generator(1, "x"))
    ce = T * math.log(3)
    for kl, cost in ((0.1, D * 0.5), (2.0, D * 2.0)):
        loss = v5_5.vae_loss(torch.zeros(5, T, C), classes, torch.full((5, D), kl), 0.3, 0.5)
        assert float(loss) == pytest.approx(ce + 0.3 * cost, rel=1e-6)
    right = 300.0 * torch.nn.functional.one_hot(classes, C)
    assert float(v5_5.vae_loss(right, classes, torch.zeros(5, D), 0.0, 0.5)) == 0


def test_free_bits_take_the_gradient_below_them():
    kl = torch.tensor([[0.4, 0.6] * 8], requires_grad=True)
    classes = torch.zeros(1, T, dtype=torch.long)
    v5_5.vae_loss(torch.zeros(1, T, C), classes, kl, 1.0, 0.5).backward()
    assert kl.grad.tolist() == [[0.0, 1.0] * 8]


def test_one_step_has_the_gradient_that_the_description_says(recipe):
    """Epoch 60, written out term by term from v5.5's description, and differentiated; with a
    repulsion strong enough to be seen, and nothing clipped."""
    given = {"grad_clip": 1e9, "repulsion_weight": 5, "repulsion_width": 20}
    p = check("train", {**recipe, **given}, "recipe")
    model, plain, rng = DualVAE.fresh(3), DualVAE.fresh(3), generator(1, "batch")
    for m in (model, plain):
        m.grad_norm_A_ema.fill_(2.0)
        m.grad_norm_B_ema.fill_(3.0)
    x = all_operations()[torch.randperm(19_683, generator=rng)[:64]]
    eps = torch.randn(64, 2, D, generator=rng)
    control = v5_5.Controller(p)
    control.lambda1, control.lambda2 = 0.6, 0.8
    v5_5._Step(p, 60, model, torch.optim.SGD(model.parameters(), lr=0.0), control)(x, eps)

    temperature = 1.1 * (1 - 0.7 * 60 / 400), 0.9 - 0.7 * 30 / 400
    rho, beta = 0.15, 0.3 + 0.5 * 10 / 350
    beta = beta, beta * math.sin(0.785)
    q = [Normal(h.mu, (h.logvar / 2).exp()) for h in (plain.encoder(v)(x.float()) for v in VAES)]
    z = [q[i].mean + temperature[i] * q[i].stddev * eps[:, i] for i in (0, 1)]
    losses = []
    for i, vae in enumerate(VAES):
        seen = Categorical(logits=plain.decoder(vae)((1 - rho) * z[i] + rho * z[1 - i].detach()))
        kl = kl_divergence(q[i], Normal(0.0, 1.0)).clamp(min=0.5).sum(1).mean()
        losses.append(-seen.log_prob(x + 1).sum(1).mean() + beta[i] * kl)
    marginal = Categorical(probs=seen.probs.mean(0))
    squared = (z[1][:, None] - z[1][None]).square().sum(-1)[*torch.triu_indices(64, 64, 1)]
    losses[1] = losses[1] - 0.05 * marginal.entropy().sum() + 5 * (-squared / 20).exp().mean()
    (0.6 * 1.5 * losses[0] + 0.8 / 1.5 * losses[1]).backward()

    for (name, got), want in zip(model.named_parameters(), plain.parameters(), strict=True):
        if name.startswith("state_net"):
            assert got.grad is None
        else:
            torch.testing.assert_close(got.grad, want.grad, rtol=1e-3, atol=1e-5)
    for vae, before in (("A", 2.0), ("B", 3.0)):  # unbalanced: half of the old, half of the new
        own = [*plain.encoder(vae).parameters(), *plain.decoder(vae).parameters()]
        norm = float(torch.cat([v.grad.flatten() for v in own]).norm())
        ema = float(getattr(model, f"grad_norm_{vae}_ema"))
        assert ema == pytest.approx((before + norm) / 2, rel=1e-4)


# --- Whole runs ---


def test_the_same_seed_trains_the_same_weights(train, recipe):
    """Whatever the caller draws between two epochs, and whatever the global stream is at."""
    torch.manual_seed(1)
    p = check("train", {**recipe, **FAST, "epochs": 2}, "recipe")
    for epoch in v5_5.fit(p):
        epoch.model.sample(100, "A", "categorical", rng=generator(p.seed, "noise"))
        torch.rand(100)
    torch.manual_seed(2)
    other = train(epochs=2)
    assert same(epoch, other) and epoch.measures == other.measures


@pytest.mark.parametrize("change", [{"seed": 43}, {"split_seed": 43}])
def test_another_seed_or_split_trains_other_weights(train, change):
    assert not same(train(), train(**change))


def test_the_initial_weights_are_those_of_the_seed(train):
    """Seen in StateNet, which training leaves as it was."""
    trained, start = (m.state_net.state_dict() for m in (train(seed=43).model, DualVAE.fresh(43)))
    assert all(torch.equal(trained[k], start[k]) for k in start)


def test_how_much_is_measured_does_not_change_the_weights(train):
    """In v5.5 it did: measuring drew from training's random stream."""
    assert same(train(), train(coverage_n=1_000))
    assert train().measures["coverage_B"] != train(coverage_n=1_000).measures["coverage_B"]


def test_statenet_gets_no_gradient_and_everything_else_moves(train, recipe):
    epoch, start = train(epochs=2), DualVAE.fresh(recipe["seed"]).state_dict()
    for name, parameter in epoch.model.named_parameters():
        frozen = name.startswith("state_net")
        assert torch.equal(parameter, start[name]) == frozen, name
        assert (parameter.grad is None) == frozen, name


def test_statenet_corrects_the_learning_rate_from_the_second_epoch(train):
    assert train().measures["lr"] == 1e-3
    lr = train(epochs=2).measures["lr"]
    assert lr != 1e-3 and abs(lr / 1e-3 - 1) <= 0.05
    assert train(**LONGER).measures["lr"] == 1e-3


def test_gradients_are_clipped_together_and_measured_before(train):
    model = train(grad_clip=1e-3).model
    grads = [v.grad for v in model.parameters() if v.grad is not None]
    assert float(torch.stack([g.norm() for g in grads]).norm()) <= 1e-3 * 1.0001
    assert model.grad_norm_A_ema > 0.1 and model.grad_norm_B_ema > 0.1


def test_a_decoder_sees_the_other_code_without_a_gradient(train, recipe):
    """With rho = 1 nothing but the other's code arrives, so in the first epoch, which has no KL
    term, the encoders learn nothing; and the decoders learn from it."""
    start = DualVAE.fresh(recipe["seed"]).state_dict()
    model = train(rho_start=1.0, repulsion_weight=0, weight_decay=0).model
    for name, value in model.state_dict().items():
        if "coder_" in name:
            assert torch.equal(value, start[name]) == name.startswith("encoder_"), name


def test_it_learns(train):
    """A few hundred steps take the losses well below a guesser's 9·ln 3, and operations of the
    validation split, which were never trained on, come back."""
    measures = train(**LONGER).measures
    assert max(measures["loss_A"], measures["loss_B"]) < 7 < T * math.log(3)
    assert measures["val_exact_B"] > 0.2


def test_measures_are_finite_and_within_their_ranges(train):
    measures = train(epochs=2).measures
    assert all(math.isfinite(value) for value in measures.values())
    for vae in VAES:
        assert 0 <= measures[f"val_exact_{vae}"] <= 1
        assert 0 < measures[f"coverage_{vae}"] < 1.1
        assert 0 <= measures[f"H_{vae}_nats"] <= math.log(50)
        assert measures[f"kl_{vae}_nats"] >= 0


def test_a_loss_that_explodes_ends_training_with_a_sentence(train):
    with pytest.raises(TrainingError, match=r"no longer finite in epoch 0.*\.$"):
        train(lr_values=[1e9] * 8)


def test_a_last_slice_of_one_row_does_not_end_training(train):
    """15,746 = 67 · 235 + 1."""
    assert math.isfinite(train(batch_size=235).measures["loss_B"])
