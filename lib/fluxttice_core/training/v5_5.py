"""The v5.5 recipe, kept for comparison: every schedule and term, and none of the waste.

Its numbers are facts of the original system, as its description gives them, and no parameters:
each stands where it is used. Epochs count from 0.

What of it has no effect is said where it stands: StateNet never gets a gradient, and the
entropy term of the loss is a histogram, which has none. Both are computed once an epoch, from
numbers that are there anyway, instead of in every step.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..metrics.latent_space import entropy_nats, kl_nats
from ..model.network import VAES, D, DualVAE
from ..model.operations import C, all_operations, split
from ..model.streams import generator
from .loop import Epoch, Train, finite, honest_measures, pick_device

LEARNING_RATES = {
    0: 1e-3, 50: 5e-4, 120: 3e-4, 180: 1e-4, 220: 5e-5, 250: 2e-5, 300: 1e-5, 350: 5e-6,
}  # fmt: skip
LATE = 250  # from this epoch on, T_A, T_B and ρ change their ways


class TrainV55(Train):
    """Its parameters: what is common to all recipes."""

    recipe: Literal["v5_5"]


def clamp(x: float, low: float, high: float) -> float:
    return min(high, max(low, x))


def between(start: float, end: float, progress: float) -> float:
    """From `start` to `end` in a straight line; progress counts as 0 … 1."""
    return start + (end - start) * clamp(progress, 0, 1)


def learning_rate(epoch: int) -> float:
    """A staircase: the value of the last step reached."""
    return [lr for start, lr in LEARNING_RATES.items() if epoch >= start][-1]


def cycle(epoch: int) -> float:
    """The angle of T_A and λ3 in their cycle of 30 epochs, from 0."""
    return 2 * math.pi * epoch / 30


def temperature_A(epoch: int) -> float:
    """Linear fall plus a cosine whose amplitude is a tenth of it, and a constant when late.

    v5.5 says "0.1·base (0.5 from epoch 250)"; the 0.5 is read as an amplitude, not as a share.
    """
    base = between(1.0, 0.3, epoch / 400)
    amplitude = 0.5 if epoch >= LATE else 0.1 * base
    return max(0.1, base + amplitude * math.cos(cycle(epoch)))


def temperature_B(epoch: int) -> float:
    """Linear fall that starts 30 epochs late, then a constant."""
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
    """λ1, λ2, λ3, the learning rate and the gradient balance: what changes once an epoch."""

    lambda1: float = 0.7
    lambda2: float = 0.7
    lambda3: float = 0.0
    lr: float = 0.0
    balanced: bool = False

    def start(self, epoch: int, corrections: list[float]) -> None:
        """The epoch's learning rate and λ3, and StateNet's four outputs: a relative correction of
        the learning rate, absolute ones of the λ."""
        d0, d1, d2, d3 = corrections
        self.lr = clamp(learning_rate(epoch) * (1 + 0.05 * d0), 1e-6, 0.01)
        self._set(self.lambda1 + 0.01 * d1, self.lambda2 + 0.01 * d2)
        self.lambda3 = clamp(lambda3(epoch) + 0.01 * d3, 0.15, 0.75)

    def balance(self, ratio: float, coverage_ratio: float) -> None:
        """λ1, λ2 after an epoch with gradient ratio B/A and coverage ratio B/A."""
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


def fit(p: TrainV55) -> Iterator[Epoch]:
    """Train both VAEs together and yield after each epoch; the caller says when to stop.

    Draws come from streams of `p.seed` named after training alone, so measuring (which has its
    own) changes nothing; the coverage in the λ rule is v5.5's own feedback at `p.coverage_n`.
    H is of all of the epoch's codes (a batch of 64 is biased low for 50 bins).

    Raises:
        TrainingError: the loss is no longer finite.
        InputError: `p.device` is not there.
    """
    device = pick_device(p.device)
    model = DualVAE.fresh(p.seed).to(device)
    data = all_operations()[split(p.split_seed).train].to(device)
    own = [[*model.encoder(v).parameters(), *model.decoder(v).parameters()] for v in VAES]
    optimiser = torch.optim.AdamW(own[0] + own[1], weight_decay=1e-4, fused=True)
    order_rng, noise_rng = generator(p.seed, "order"), generator(p.seed, "noise")
    control, corrections = Controller(), [0.0] * 4
    for epoch in range(p.epochs):
        control.start(epoch, corrections)
        optimiser.param_groups[0]["lr"] = control.lr
        share = rho(epoch, control.balanced)
        shuffled = data[torch.randperm(len(data), generator=order_rng).to(device)]
        noise = torch.randn(len(data), 2, D, generator=noise_rng).to(device)
        sums, drawn = torch.zeros(4, device=device), []
        for x, eps in zip(shuffled.split(p.batch_size), noise.split(p.batch_size), strict=True):
            loss, kl, z = losses(model, x, eps, epoch, share)
            descend(model, optimiser, own, loss, control)
            sums += torch.cat([loss.detach(), kl.sum(2).mean(0)]) * len(x)
            drawn.append(z)
        loss_A, loss_B, kl_A, kl_B = (sums / len(data)).tolist()
        H_A, H_B = (entropy_nats(codes) for codes in torch.cat(drawn).unbind(1))
        # v5.5's total: the scales g change in every step, and a histogram moves no weight.
        entropy_term = control.lambda3 * abs(H_A - H_B)
        measures = {
            "loss": control.lambda1 * loss_A + control.lambda2 * loss_B + entropy_term,
            "loss_A": loss_A, "loss_B": loss_B, "kl_A_nats": kl_A, "kl_B_nats": kl_B,
            "H_A_nats": H_A, "H_B_nats": H_B, "rho": share, "lambda1": control.lambda1,
            "lambda2": control.lambda2, "lambda3": control.lambda3, "lr": control.lr,
        }  # fmt: skip
        for vae in VAES:
            finite(measures[f"loss_{vae}"], f"loss of VAE-{vae} in epoch {epoch}")
            measures |= honest_measures(model, vae, p, epoch)
        ratio = float(model.grad_norm_B_ema / model.grad_norm_A_ema)
        control.balance(ratio, measures["coverage_B"] / max(measures["coverage_A"], 1e-12))
        state = [H_A, H_B, kl_A, kl_B, ratio, share]
        state += [control.lambda1, control.lambda2, control.lambda3]
        with torch.no_grad():  # as in v5.5: no gradient ever reaches StateNet
            corrections = model.state_net(torch.tensor(state, device=device)).tolist()
        yield Epoch(epoch, {**measures, "grad_ratio": ratio}, model)
