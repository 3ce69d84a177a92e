"""The `v5_5` recipe, kept for comparison: all schedules and loss terms of v5.5.

Its constants are facts of the original system, as its description gives them, so they are no
parameters, and each is written where it is used. Epochs count from 0.

Two parts have no effect on the weights: StateNet never gets a gradient, and the entropy term of
the loss is a histogram, which has none. Both are computed once an epoch instead of in every step.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..metrics.latent_space import entropy_nats, kl_nats
from ..model.network import VAES, D, DualVAE
from ..model.operations import C
from ..model.streams import generator
from .selection import Train, finite, training_data, validation_metrics

LEARNING_RATES = {
    0: 1e-3, 50: 5e-4, 120: 3e-4, 180: 1e-4, 220: 5e-5, 250: 2e-5, 300: 1e-5, 350: 5e-6,
}  # fmt: skip
LATE = 250  # from this epoch on, T_A, T_B and ρ follow other schedules


class TrainV55(Train):
    """The recipe's parameters: those that all recipes have."""

    recipe: Literal["v5_5"]


def clamp(x: float, low: float, high: float) -> float:
    return min(high, max(low, x))


def between(start: float, end: float, progress: float) -> float:
    """Linear from `start` to `end`; progress is clamped to 0 … 1."""
    return start + (end - start) * clamp(progress, 0, 1)


def learning_rate(epoch: int) -> float:
    """Piecewise constant: the value of the last epoch in LEARNING_RATES that is reached."""
    return [lr for start, lr in LEARNING_RATES.items() if epoch >= start][-1]


def cycle(epoch: int) -> float:
    """The angle of T_A and λ3 in their cycle of 30 epochs, from 0."""
    return 2 * math.pi * epoch / 30


def temperature_A(epoch: int) -> float:
    """A linear decrease plus a cosine of a tenth of its amplitude; from LATE on, of 0.5.

    v5.5 says "0.1·base (0.5 from epoch 250)". The 0.5 is read as an amplitude, not as a share.
    """
    base = between(1.0, 0.3, epoch / 400)
    amplitude = 0.5 if epoch >= LATE else 0.1 * base
    return max(0.1, base + amplitude * math.cos(cycle(epoch)))


def temperature_B(epoch: int) -> float:
    """A linear decrease that starts at epoch 30; from LATE on, a constant."""
    return 0.3 if epoch >= LATE else between(0.9, 0.2, (epoch - 30) / 400)


def rho(epoch: int, balanced: bool) -> float:
    """Share of the other VAE's latent that a decoder sees while training."""
    if epoch < 120:
        return between(0.1, 0.3, (epoch - 40) / 80)
    if epoch >= LATE:
        return 0.7
    return between(0.3, 0.7, (epoch - 120) / 80) if balanced else 0.3


def beta_A(epoch: int) -> float:
    """Weight of the KL: from 0 to 0.3 in 50 epochs, then to 0.8 in 350."""
    return between(0, 0.3, epoch / 50) if epoch < 50 else between(0.3, 0.8, (epoch - 50) / 350)


def beta_B(epoch: int) -> float:
    """Zero through the warm-up, then a jump to 0.21: v5.5's warm-up multiplied zero."""
    return 0.0 if epoch < 50 else beta_A(epoch) * math.sin(0.785)


def lambda3(epoch: int) -> float:
    """Weight of |H_A - H_B|, before StateNet's correction."""
    return 0.3 + 0.15 * math.cos(cycle(epoch % 30) + math.pi / 2)


def repulsion(z: Tensor) -> Tensor:
    """Mean over pairs of exp(-‖z_i - z_j‖² / 0.25), scalar, 0 without a pair; z (B, D)."""
    if len(z) < 2:
        return z.new_zeros(())
    return torch.exp(torch.pdist(z).square() / -0.25).mean()


def output_entropy(logits: Tensor) -> Tensor:
    """Entropy of the batch-mean softmax, summed over trits: nats, 0 … T·ln 3; logits (B, T, C)."""
    p = logits.softmax(-1).mean(0)
    # A batch's last slice has two rows: a class may be absent, and ln 0 has no finite gradient.
    return -(p * (p + 1e-10).log()).sum()


def vae_loss(logits: Tensor, classes: Tensor, kl: Tensor, beta: float) -> Tensor:
    """CE + beta·KL in nats, both summed over their entries and averaged over the batch.

    Each dimension's KL is clamped from below at 0.5 nats, which leaves it no gradient there.
    """
    ce = cross_entropy(logits.reshape(-1, C), classes.reshape(-1), reduction="sum")
    return ce / len(classes) + beta * kl.clamp(min=0.5).sum(1).mean()


@dataclass
class Controller:
    """λ1, λ2, λ3, learning rate and gradient balance; they change once an epoch."""

    lambda1: float = 0.7
    lambda2: float = 0.7
    lambda3: float = 0.0
    lr: float = 0.0
    balanced: bool = False

    def start(self, epoch: int, corrections: list[float]) -> None:
        """Set the epoch's learning rate and λ from their schedules and StateNet's four outputs.

        StateNet corrects the learning rate relatively, and the λ absolutely.
        """
        d0, d1, d2, d3 = corrections
        self.lr = clamp(learning_rate(epoch) * (1 + 0.05 * d0), 1e-6, 0.01)
        self._set(self.lambda1 + 0.01 * d1, self.lambda2 + 0.01 * d2)
        self.lambda3 = clamp(lambda3(epoch) + 0.01 * d3, 0.15, 0.75)

    def balance(self, ratio: float, coverage_ratio: float) -> None:
        """Set λ1 and λ2 after an epoch, by its ratios B/A of gradient norms and of coverage."""
        self.balanced = 0.8 < ratio < 1.2
        if not self.balanced:
            step = 0.02 if ratio <= 0.8 else -0.02
            self._set(self.lambda1 + step, self.lambda2 - step)
        elif coverage_ratio > 1.5:
            self._set(self.lambda1 * 1.05, self.lambda2 * 0.95)
        elif coverage_ratio < 0.67:
            self._set(self.lambda1 * 0.95, self.lambda2 * 1.05)

    def _set(self, lambda1: float, lambda2: float) -> None:
        self.lambda1, self.lambda2 = clamp(lambda1, 0.5, 0.95), clamp(lambda2, 0.5, 0.95)


def losses(
    model: DualVAE, x: Tensor, eps: Tensor, epoch: int, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """L_A and L_B (2,), both KL (B, 2, D) in nats, and the latents (B, 2, D).

    x (B, T) in {-1, 0, 1}; eps (B, 2, D) standard normal, for A and for B; `share` is ρ.
    """
    posteriors = [model.encoder(vae)(x.float()) for vae in VAES]
    mu, logvar = (torch.stack(parts, 1) for parts in zip(*posteriors, strict=True))  # (B, 2, D)
    temperature = mu.new_tensor([temperature_A(epoch), temperature_B(epoch)])
    z = mu + temperature[:, None] * (logvar / 2).exp() * eps
    seen_A, seen_B = ((1 - share) * z + share * z.detach().flip(1)).unbind(1)
    kl = kl_nats(mu, logvar)
    loss_A = vae_loss(model.decoder_A(seen_A), x + 1, kl[:, 0], beta_A(epoch))
    logits = model.decoder_B(seen_B)
    loss_B = vae_loss(logits, x + 1, kl[:, 1], beta_B(epoch))
    loss_B = loss_B - 0.05 * output_entropy(logits) + 0.01 * repulsion(z[:, 1])
    return torch.stack([loss_A, loss_B]), kl.detach(), z.detach()


def descend(
    model: DualVAE, optimiser: torch.optim.Optimizer, own: list, loss: Tensor, control: Controller
) -> None:
    """One step on λ1·g_A·L_A + λ2·g_B·L_B, clipped together to norm 1.

    The scales g balance running means of the two gradients' norms. Those are taken before the
    clip (v5.5 took them after). `own` holds the parameters of A and those of B.
    """
    balance = model.grad_norm_B_ema / model.grad_norm_A_ema
    g_A, g_B = balance.clamp(0.5, 2), (1 / balance).clamp(0.5, 2)
    optimiser.zero_grad()
    (control.lambda1 * g_A * loss[0] + control.lambda2 * g_B * loss[1]).backward()
    norms = torch.stack([get_total_norm([v.grad for v in parameters]) for parameters in own])
    clip_grads_with_norm_(own[0] + own[1], 1.0, norms.norm())
    momentum = 0.95 if control.balanced else 0.5
    model.grad_norm_A_ema.lerp_(norms[0], 1 - momentum)
    model.grad_norm_B_ema.lerp_(norms[1], 1 - momentum)
    optimiser.step()


@dataclass
class State:
    """Both VAEs in training; each has its own loss and sees the other's latents."""

    model: DualVAE
    optimiser: torch.optim.Optimizer
    order: torch.Generator
    noise: torch.Generator
    control: Controller
    corrections: list[float]
    epoch: int = 0
    trains: tuple[str, ...] = ("",)  # prefixes of names of weights: all of them


def start(p: TrainV55) -> list[State]:
    """One state, for both VAEs together."""
    model = DualVAE.fresh(p.seed)
    weights = [v for both in own_parameters(model) for v in both]
    optimiser = torch.optim.AdamW(weights, weight_decay=1e-4, fused=True)
    order, noise = generator(p.seed, "order"), generator(p.seed, "noise")
    return [State(model, optimiser, order, noise, Controller(), [0.0] * 4)]


def own_parameters(model: DualVAE) -> list[list[torch.nn.Parameter]]:
    """The parameters of VAE-A, and those of VAE-B."""
    return [[*model.encoder(v).parameters(), *model.decoder(v).parameters()] for v in VAES]


def train_epoch(p: TrainV55, state: State) -> tuple[State, dict[str, float]]:
    """One epoch of both VAEs.

    Training has random streams of its own, so measuring changes nothing. The coverage in the λ
    rule is v5.5's own feedback, at `p.coverage_n`.

    Returns:
        The state, changed in place, and its metrics: losses, v5.5's schedules, and
        `validation_metrics` of each VAE.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    model, control, epoch = state.model, state.control, state.epoch
    control.start(epoch, state.corrections)
    state.optimiser.param_groups[0]["lr"] = control.lr
    share = rho(epoch, control.balanced)
    metrics = _descend_epoch(p, state, share)
    for vae in VAES:
        finite(metrics[f"loss_{vae}"], f"loss of VAE-{vae} in epoch {epoch}")
        metrics |= validation_metrics(model, vae, p, epoch)
    ratio = float(model.grad_norm_B_ema / model.grad_norm_A_ema)
    control.balance(ratio, metrics["coverage_B"] / max(metrics["coverage_A"], 1e-12))

    seen = [metrics[name] for name in ("H_A_nats", "H_B_nats", "kl_A_nats", "kl_B_nats")]
    seen += [ratio, share, control.lambda1, control.lambda2, control.lambda3]
    with torch.no_grad():  # as in v5.5: no gradient ever reaches StateNet
        state.corrections = model.state_net(torch.tensor(seen)).tolist()
    state.epoch += 1
    return state, {**metrics, "grad_ratio": ratio}


def _descend_epoch(p: TrainV55, state: State, share: float) -> dict[str, float]:
    """A step for each batch; losses and KL averaged over the epoch, and what controls them.

    The latent entropies H are of all of the epoch's codes, because the histogram of a batch of 64
    is biased low for 50 bins.
    """
    model, control, data = state.model, state.control, training_data(p)
    own = own_parameters(model)
    shuffled = data[torch.randperm(len(data), generator=state.order)]
    noise = torch.randn(len(data), 2, D, generator=state.noise)
    sums, drawn = torch.zeros(4), []
    for x, eps in zip(shuffled.split(p.batch_size), noise.split(p.batch_size), strict=True):
        loss, kl, z = losses(model, x, eps, state.epoch, share)
        descend(model, state.optimiser, own, loss, control)
        sums += torch.cat([loss.detach(), kl.sum(2).mean(0)]) * len(x)
        drawn.append(z)
    loss_A, loss_B, kl_A, kl_B = (sums / len(data)).tolist()
    H_A, H_B = (entropy_nats(codes) for codes in torch.cat(drawn).unbind(1))
    # The reported total leaves out the scales g, which change in every step. Its last term is a
    # difference of histograms, which moves no weight.
    total = control.lambda1 * loss_A + control.lambda2 * loss_B + control.lambda3 * abs(H_A - H_B)
    return {
        "loss": total, "loss_A": loss_A, "loss_B": loss_B, "kl_A_nats": kl_A, "kl_B_nats": kl_B,
        "H_A_nats": H_A, "H_B_nats": H_B, "rho": share, "lambda1": control.lambda1,
        "lambda2": control.lambda2, "lambda3": control.lambda3, "lr": control.lr,
    }  # fmt: skip
