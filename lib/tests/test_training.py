"""The rule that selects an epoch, and both recipes.

The axis-aligned recipe's terms are compared with brute force and closed forms; v5.5's schedules,
terms and steps with its description.
"""

import itertools
import math
from copy import deepcopy

import pytest
import torch
from fluxttice_core.metrics.codes import kl_nats
from planted import no_number, same
from torch.distributions import Categorical, Normal, kl_divergence

from fluxttice_core import files, parallel, params
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.errors import InputError
from fluxttice_core.metrics.rate import rate
from fluxttice_core.metrics.reconstruction import posterior, samples
from fluxttice_core.model.initialisation import looks_linear
from fluxttice_core.model.network import VAES, D, DualVAE, Posterior, linears, prior
from fluxttice_core.model.operations import C, T, all_operations, split, split_record
from fluxttice_core.model.streams import generator
from fluxttice_core.training import axis_aligned, loop, selection, terms, v5_5
from fluxttice_core.training.loop import Epoch
from fluxttice_core.training.selection import RULE, SELECTION_METRICS, TrainingError, score

VALUES = {
    name: params.read_yaml(files.root() / "params" / f"{file}.yaml")
    for name, file in (("axis_aligned", "train"), ("v5_5", "train_v5_5"))
}


def parameters(recipe="axis_aligned", **changes):
    values = {**VALUES[recipe], **changes}
    return params.check(loop.parameters(values, "test"), values, "test")


# --- The rule ---


def epochs(scores):
    """One model, changed in place as training does: its mark is the epoch's number. A score that is
    an error is raised."""
    model = DualVAE.fresh(0)
    for number, value in enumerate(scores):
        if isinstance(value, BaseException):
            raise value
        model.grad_norm_A_ema.fill_(number)
        found = {f"{name}_{vae}": 1.0 for name in SELECTION_METRICS for vae in VAES}
        yield Epoch(number, {**found, "coverage_B": value, "loss": -number}, model)
        model.grad_norm_A_ema.fill_(torch.nan)  # the next is under way


def marks(folder):
    """The epoch that a written checkpoint claims, and the one that its weights are of."""
    loaded = checkpoint.load(folder)
    return loaded.epoch, int(loaded.model.grad_norm_A_ema)


def run(folder, scores, **changes):
    """Select from planted scores, into that folder; the rows."""
    p = parameters(**{"keep_every": 100, "patience": 100, "epochs": 100, **changes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "epochs", lambda _p, _map: epochs(scores))
        return loop.train_and_select(p, folder, lambda row: None)


@pytest.mark.parametrize("a, b", [((1, 0.9, 1), (0.5, 1, 1)), ((1, 1, 0.5), (1, 0.6, 1))])
def test_the_score_is_that_of_the_worse_vae(a, b):
    """Each factor counts, and what one VAE does well makes up for nothing in the other."""
    names = [f"{name}_{vae}" for vae in VAES for name in SELECTION_METRICS]
    assert score(dict(zip(names, [*a, *b], strict=True))) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "scores, changes, seen, best, kept",
    [
        ([0.0, 0.0], {}, 2, 1, [0]), ([0.3, 0.1, 0.4, 0.4, 0.2], {}, 5, 3, [0]),
        ([0.1, 0.2, 0.1, 0.3, 0.1, 0.1, 0.9], {"patience": 2}, 6, 3, [0, 5]),
        ([0.5, 0.5, 0.4, 0.4, 0.9], {"patience": 2}, 4, 1, [0, 3]),
        (itertools.chain([0.5], itertools.repeat(0.1)), {"patience": 3}, 4, 0, [0, 3]),
        ([0.5] + [0.1] * 5, {"keep_every": 2}, 6, 0, [0, 2, 4]),
        ([0.5] + [0.1] * 5, {"keep_every": 4, "epochs": 6}, 6, 0, [0, 4, 5]),
        ([0.5] + [0.1] * 5, {"keep_every": 4, "epochs": 5}, 6, 0, [0, 4, 5]),  # 5: finished
    ],
)  # fmt: skip
def test_the_last_of_the_best_is_selected_patience_ends_and_weights_are_kept(
    tmp_path, scores, changes, seen, best, kept
):
    """What comes after the end is never drawn; the last epoch is kept, whatever made it the last.
    Weights are of the epoch that is claimed."""
    rows = run(tmp_path, scores, **changes)
    assert [row["selected"] for row in rows] == [number == best for number in range(seen)]
    assert marks(tmp_path / "checkpoint") == (best, best)
    found = {folder.name: marks(folder) for folder in (tmp_path / "epochs").iterdir()}
    assert found == {f"epoch-{number:03d}": (number, number) for number in kept}


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
def test_whatever_ends_training_the_best_so_far_is_written(tmp_path, error):
    """Also between an epoch's row and the next: weights and claim are of one epoch."""
    with pytest.raises(type(error)):
        run(tmp_path, [0.1, 0.5, 0.4, error])
    assert marks(tmp_path / "checkpoint") == (1, 1)


def test_without_an_epoch_nothing_is_written_and_nothing_is_written_over(tmp_path):
    with pytest.raises(RuntimeError):
        run(tmp_path, [RuntimeError("at once")])
    assert list(tmp_path.iterdir()) == []
    rows = run(tmp_path, [0.1, 0.5, 0.2], seed=5)
    with pytest.raises(InputError, match="never written over"):
        run(tmp_path, [0.9, 0.2])
    assert marks(tmp_path / "checkpoint") == (1, 1)
    manifest = checkpoint.load(tmp_path / "checkpoint").manifest
    assert rows[1].pop("selected")
    assert manifest["selection"] == {"rule": RULE, "epochs_run": 3, "measures": rows[1]}
    assert manifest["config"]["prior_size"] == VALUES["axis_aligned"]["prior_size"]
    assert manifest["seeds"] == {"seed": 5, "split_seed": 42}
    assert manifest["split"] == split_record(42)


# --- The measures ---


def test_it_measures_one_vae_alone_and_exact_match_of_validation(
    perfect_model, thrifty, monkeypatch
):
    """Encoder A loses trit 0, so it is right where that trit is 0 and generates as before.
    B is no number."""
    monkeypatch.setattr(selection, "LATENTS", 40_000)
    perfect_model.encoder_A.fc_mu.weight.data[0] = 0
    no_number(perfect_model.encoder_B, perfect_model.decoder_B)
    p = parameters(split_seed=7, coverage_n=5_000)
    truth = float((all_operations()[split(7).val][:, 0] == 0).double().mean())
    found, other, again = (
        selection.validation_metrics(perfect_model, "A", p, n) for n in (0, 1, 0)
    )
    assert found["val_exact_A"] == pytest.approx(truth)
    q = posterior(perfect_model, "A")
    rng = generator(p.seed, "posterior sample", "epoch 0 A")  # of this epoch alone
    sampled = samples(perfect_model, "A", q, rng).hits[:, split(7).val]
    assert found["val_exact_sampled_A"] == pytest.approx(float(sampled.double().mean()))
    assert (found["coverage_A"], found["argmax_entropy_A"]) == pytest.approx((1, 1), abs=0.01)
    assert found["rate_A"] == rate(q).value
    assert found == again and found["coverage_A"] != other["coverage_A"]


def test_training_data_repeat_the_first_operations_of_the_split():
    """So every training takes as many steps, on as many different operations as it is given."""
    train = all_operations()[split(42).train]
    assert torch.equal(selection.training_data(parameters(split_seed=42)), train)
    found = selection.training_data(parameters(train_size=10))
    assert torch.equal(found, train[torch.arange(len(train)) % 10])


# Losses and rates, A and B, after each epoch of three steps: a refactoring that changes a draw or
# a step shows here.
FIRST = {
    "axis_aligned": [
        160.1371,
        570.1569,
        0.0508685,
        0.0522190,
        160.1371,
        570.1569,
        14.7781,
        104.109,
    ],
    "v5_5": [9.91920, 9.47214, 0.1337371, 0.0892297],
}
SMALL = {"epochs": 1, "batch_size": 4_000, "coverage_n": 500, "keep_every": 1}


@pytest.mark.parametrize("recipe", FIRST)
def test_the_first_losses_are_those_committed_and_the_same_in_other_processes(recipe, thrifty):
    """In this process one VAE after the other, then side by side: the same to the bit."""
    more = {"finetune_steps": 10, "prior_size": 64} if recipe == "axis_aligned" else {}
    p = parameters(recipe, **SMALL, **more)
    here = [(e.metrics, deepcopy(e.model.state_dict())) for e in loop.epochs(p)]
    names = [f"{name}_{vae}" for name in ("loss", "rate") for vae in VAES]
    found = [metrics[name] for metrics, _ in here for name in names]
    assert found == pytest.approx(FIRST[recipe], rel=1e-3)
    with parallel.executor() as workers:
        for epoch, (metrics, weights) in zip(loop.epochs(p, workers.map), here, strict=True):
            assert same(weights, epoch.model.state_dict())
            assert all(epoch.metrics[f"loss_{vae}"] == metrics[f"loss_{vae}"] for vae in VAES)


# --- The axis-aligned recipe ---

QUICK = {
    "epochs": 1, "batch_size": 512, "prior_size": 64, "finetune_steps": 10, "coverage_n": 500,
}  # fmt: skip
DATA = all_operations()[::10]  # four steps of 512 - enough to move every weight


def trained(vae="A", data=DATA, **changes):
    """The finished network's weights and metrics."""
    p = parameters(**{**QUICK, **changes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axis_aligned, "training_data", lambda _p: data)
        patch.setattr(axis_aligned, "validation_metrics", lambda *_: {})
        state = axis_aligned.start(p)[VAES.index(vae)]
        for _ in range(p.last_epoch + 1):
            state, _metrics = axis_aligned.train_epoch(p, state)
    return state.model.state_dict()


def test_the_uniformity_loss_is_the_chi_square_of_one_and_two_trits_by_brute_force():
    """From the tables of all pairs of trits: 9·Σ P² - 1 of a pair holds its order two and each of
    its trits' order one, which so comes eight times. P² is over pairs of different latents, so it
    has no bias."""
    logits = 2 * torch.randn(4, T, C, generator=generator(0, "test"), dtype=torch.float64)
    p, total, pairs = logits.softmax(-1), 0.0, list(itertools.permutations(range(4), 2))
    for t, s in itertools.combinations_with_replacement(range(T), 2):
        table = p[:, t] if s == t else torch.einsum("kc,kd->kcd", p[:, t], p[:, s]).flatten(1)
        square = sum(float(table[k] @ table[m]) for k, m in pairs) / len(pairs)
        total += -7 * (3 * square - 1) if s == t else 9 * square - 1
    assert float(terms.uniformity_loss(logits)) == pytest.approx(total)


def test_the_nonlinearity_loss_is_zero_for_affine_logits_and_two_less_root_two_for_squares():
    """f = z²: Var[(1/2 - 1/√2)(z² + z'²) + z·z'] / Var[z²] = 2·(1/2 - 1/√2)² + 1/2 = 2 - √2."""
    z = prior(40_000, generator(3, "test"))
    middle = (z[:20_000] + z[:20_000].roll(1, 0)) / math.sqrt(2)
    slopes = torch.randn(D, T * C, generator=generator(3, "slopes"))
    affine = ((x @ slopes + 1).view(-1, T, C) for x in (z, middle))
    assert terms.nonlinearity_loss(*affine) < 1e-10
    found = terms.nonlinearity_loss(z.square()[..., None], middle.square()[..., None])
    assert float(found) == pytest.approx(2 - math.sqrt(2), rel=0.03)


@pytest.mark.parametrize("n", [32, 1_536])
def test_whitened_latents_have_the_priors_moments_and_are_a_linear_map_of_what_was_drawn(n):
    z = 3 * prior(n, generator(n, "test")) + 1
    w = terms.whitened(z)
    assert torch.allclose(w.mean(0), torch.zeros(D), atol=1e-5)
    assert torch.allclose(w.T @ w / n, torch.eye(D), atol=1e-4)
    ones = torch.cat([z, torch.ones(n, 1)], 1)
    assert torch.allclose(ones @ torch.linalg.lstsq(ones, w).solution, w, atol=1e-3)


def test_the_schedules():
    warm = 4 * 0.5 * (1 + math.cos(0.025 * math.pi))
    assert [axis_aligned.cosine_schedule(8, t) for t in (0, 0.025, 0.5, 1)] == pytest.approx(
        [0, warm, 4, 0]
    )
    ramp = [axis_aligned.geometric_ramp(t, 0.5, 1e-4) for t in (0, 0.25, 0.5, 1)]
    assert ramp == pytest.approx([1e-4, 1e-2, 1, 1])


@torch.no_grad()
@pytest.mark.parametrize("vae", VAES)
@pytest.mark.parametrize("seed", range(3))
def test_rotation_finds_one_latent_a_trit_and_leaves_every_code_its_logits(
    perfect_model, vae, seed
):
    """The perfect model, rotated away from its axes, is rotated back, up to signs and order, and
    unused latents are pruned. Its logits are linear in the latents."""
    enc, dec = perfect_model.encoder(vae), perfect_model.decoder(vae)
    x, first, rng = all_operations()[::7], linears(dec)[0], generator(seed, "test")
    q, _ = torch.linalg.qr(torch.randn(D, D, generator=rng))
    first.weight.copy_(first.weight @ q.T)
    enc.fc_mu.weight.copy_(q @ enc.fc_mu.weight)
    enc.fc_mu.bias.fill_(1)
    still, weight, before = deepcopy((enc, dec)), first.weight.clone(), dec(enc(x.float()).mu)
    axis_aligned.rotate_latents(*still, False, rng)
    read = linears(still[1])[0].weight.any(0)
    assert torch.equal(linears(still[1])[0].weight, weight * read)

    w, c = axis_aligned.rotate_latents(enc, dec, True, rng)
    unread, owned = w.norm(dim=0) == 0, w.view(T, C, D).norm(dim=1)
    assert ((owned > 1e-2 * owned.max()).sum(1) == 1).all() and int(unread.sum()) == D - T
    assert not first.weight[:, unread].any()
    q = enc(x.float())
    assert not q.mu[:, unread].any() and not q.logvar[:, unread].any()
    torch.testing.assert_close(dec(q.mu), before, rtol=1e-3, atol=1.0)  # of 10,000
    centred = (before - before.mean(2, keepdim=True)).flatten(1)
    torch.testing.assert_close(q.mu @ w.T + c, centred, rtol=1e-3, atol=1.0)


def test_the_normalised_margins_are_those_of_sampling():
    """How often the true class is not behind a rival, of 200,000 draws of q through the logits."""
    rng = generator(7, "test")
    w, c = torch.randn(T * C, D, generator=rng), torch.randn(T * C, generator=rng)
    x = all_operations()[torch.randint(3**T, (2,), generator=rng)]
    q = Posterior(torch.randn(2, D, generator=rng), torch.randn(2, D, generator=rng))
    closed = torch.special.ndtr(terms.normalised_margins(q, w, c, x))
    for mu, logvar, right, found in zip(*q, x + 1, closed, strict=True):
        z = mu + (logvar / 2).exp() * torch.randn(200_000, D, generator=rng)
        lead = (z @ w.T + c).view(-1, T, C)
        lead = lead.gather(2, right.expand(len(z), T)[..., None]) - lead  # 0 over itself
        ahead = (lead > 0).float().mean(0)[torch.arange(C) != right[:, None]]
        assert torch.allclose(found, ahead, atol=0.005)


def test_fine_tuning_trades_exactness_for_rate_and_leaves_the_decoder(perfect_model):
    """Codes at twice the distance that is needed: fine-tuned ones cost less, and still decode."""
    enc, dec = perfect_model.encoder_A, perfect_model.decoder_A
    enc.fc_mu.weight.data.mul_(2)
    before, state = kl_nats(*enc(DATA.float())), deepcopy(dec.state_dict())
    w, c = (part.float() for part in axis_aligned.linear_fit(dec, generator(0, "fit")))
    p = parameters(**{**QUICK, "finetune_steps": 150, "lr": 0.003})
    axis_aligned.finetune_encoder(enc, w, c, DATA, p, generator(0, "finetune"))
    q = enc(DATA.float())
    assert kl_nats(*q).sum() < 0.8 * before.sum()
    z = q.mu + (q.logvar / 2).exp() * prior(len(DATA), generator(1, "test"))
    assert (dec(z).argmax(2) - 1 == DATA).all(1).double().mean() > 0.97
    assert same(state, dec.state_dict())


@pytest.mark.parametrize("vae, other", ["AB", "BA"])
def test_a_vaes_weights_come_of_the_seed_as_if_the_other_were_not_there(vae, other, monkeypatch):
    """The other one starts as no number, and stays where it is."""

    def poisoned(model, seed):
        looks_linear(model, seed)
        no_number(model.encoder(other), model.decoder(other), model.state_net)

    clean = trained(vae)
    assert not same(clean, trained(vae, seed=7), f"decoder_{vae}")
    monkeypatch.setattr(axis_aligned, "looks_linear", poisoned)
    found = trained(vae)
    assert same(clean, found, f"coder_{vae}")
    assert all(found[k].isnan().all() for k in found if f"coder_{other}" in k)


def test_training_reads_no_operation_outside_its_split(monkeypatch):
    """The others are of no class; and a training operation that is replaced changes the weights."""
    p = parameters(**{**QUICK, "batch_size": 4_000})
    parts, data = split(p.split_seed), all_operations().clone()
    monkeypatch.setattr(selection, "all_operations", lambda: data)
    weights = trained(data=selection.training_data(p), batch_size=4_000)
    for poisoned, value in ((torch.cat([parts.test, parts.val]), 7), (parts.train[:999], 0)):
        data[poisoned] = value
        found = trained(data=selection.training_data(p), batch_size=4_000)
        assert same(weights, found) == (value == 7)


def test_the_scale_of_the_logits_moves_no_training():
    plain, scaled = trained(logit_scale=1), trained(logit_scale=8)
    last = "decoder_A.decoder.4."
    assert all(torch.equal(scaled[k], (8 if last in k else 1) * plain[k]) for k in plain)


def test_a_loss_that_is_not_finite_ends_training_in_one_sentence():
    with pytest.raises(TrainingError, match=r"^The loss of VAE-B in epoch \d is no longer .*\.$"):
        trained("B", lr=1.0, epochs=3)
    with pytest.raises(TrainingError, match=r"^The square of the logits .* is no longer finite"):
        axis_aligned.linear_fit(
            lambda z: (z[:, :1, None] * 1e30).expand(-1, T, C), generator(0, "x")
        )


# --- The v5.5 recipe ---

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


@pytest.mark.parametrize("schedule, table", SCHEDULES.items())
def test_schedules_at_epochs_where_the_description_gives_the_number(schedule, table):
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
    means = [float(model.grad_norm_A_ema), float(model.grad_norm_B_ema)]
    assert means == pytest.approx([(2 + norms[0]) / 2, (3 + norms[1]) / 2], rel=1e-4)  # unclipped


def fit(**changes):
    """`(metrics, weights, model)` of two epochs, measured from few latents."""
    p = parameters("v5_5", epochs=2, batch_size=1_024, coverage_n=500, **changes)
    [state] = v5_5.start(p)
    for _ in range(p.epochs):
        state, metrics = v5_5.train_epoch(p, state)
        yield metrics, deepcopy(state.model.state_dict()), state.model
        state.model.sample(100, "A", "categorical", rng=generator(42, "noise"))  # between two


def test_two_epochs_of_one_seed_read_no_operation_outside_the_split(monkeypatch, thrifty):
    """Again with the other operations of no class, they are the same; StateNet gets no gradient
    and steers from the second epoch."""
    (first, _, _), (second, weights, model) = epochs = list(fit())
    start, parts, data = DualVAE.fresh(42).state_dict(), split(42), all_operations().clone()
    for name, parameter in model.named_parameters():
        frozen = name.startswith("state_net")
        assert (torch.equal(weights[name], start[name]), parameter.grad is None) == (frozen, frozen)
    assert first["lr"] == 1e-3 != second["lr"] and abs(second["lr"] / 1e-3 - 1) <= 0.05
    assert max(second["loss_A"], second["loss_B"]) < T * math.log(3)  # below a guesser's

    data[torch.cat([parts.val, parts.test])] = 7
    monkeypatch.setattr(selection, "all_operations", lambda: data)
    for (metrics, weights, _), again in zip(epochs, fit(), strict=True):
        assert metrics == again[0] and same(weights, again[1])
    assert next(fit(seed=43))[0]["loss_A"] != first["loss_A"]
    monkeypatch.setattr(v5_5, "repulsion", lambda z: z.sum() * torch.nan)
    with pytest.raises(TrainingError, match=r"^The loss of VAE-[AB] in epoch 0 is no.*\.$"):
        next(fit())
