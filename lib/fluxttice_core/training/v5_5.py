"""The v5.5 recipe, kept for comparison: every schedule and term, and none of the waste.

What of it has no effect is said where it stands: StateNet never gets a gradient, and the
entropy term of the loss is a histogram, which has none. Both are computed once an epoch, from
numbers that are there anyway, instead of in every step. Its epochs count from 0.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..metrics import codes
from ..model.network import VAES, D, DualVAE
from ..model.operations import C, all_operations, split
from ..model.streams import generator
from .loop import Epoch, TrainingError, honest_measures, pick_device
from .v5_5_schedules import (
    TrainV55,
    beta_A,
    beta_B,
    lambda3,
    learning_rate,
    rho,
    temperature_A,
    temperature_B,
)


def repulsion(z: Tensor, width: float) -> Tensor:
    """Mean over pairs of exp(-‖z_i - z_j‖² / width), scalar, 0 without a pair; z (B, D)."""
    if len(z) < 2:
        return z.new_zeros(())
    return torch.exp(torch.pdist(z).square() / -width).mean()


def output_entropy(logits: Tensor) -> Tensor:
    """Entropy of the batch-mean softmax, summed over trits: nats, 0 … T·ln 3; logits (B, T, C)."""
    p = logits.softmax(-1).mean(0)
    # A batch's last slice has two rows: a class may be absent, and ln 0 has no finite gradient.
    return -(p * (p + 1e-10).log()).sum()


def vae_loss(logits: Tensor, classes: Tensor, kl: Tensor, beta: float, free_bits: float) -> Tensor:
    """CE + beta·KL in nats, both summed over their entries and averaged over the batch.

    Each dimension's KL is clamped from below at `free_bits`, which leaves it no gradient there.
    """
    ce = cross_entropy(logits.reshape(-1, C), classes.reshape(-1), reduction="sum")
    return ce / len(classes) + beta * kl.clamp(min=free_bits).sum(1).mean()


class Controller:
    """λ1, λ2, λ3, the gradient balance and StateNet: everything that changes once an epoch."""

    def __init__(self, p: TrainV55) -> None:
        self.p = p
        self.lambda1 = self.lambda2 = p.lambda_start
        self.lambda3 = self.lr = 0.0
        self.balanced = False

    def start(self, epoch: int) -> None:
        self.lr = learning_rate(self.p, epoch)
        self.lambda3 = lambda3(self.p, epoch)

    def momentum(self) -> float:
        return self.p.ema_balanced if self.balanced else self.p.ema_unbalanced

    def balance(self, ratio: float, coverage_ratio: float) -> None:
        """λ1, λ2 after an epoch with gradient ratio B/A and coverage ratio B/A."""
        p = self.p
        self.balanced = p.balance_low < ratio < p.balance_high
        if not self.balanced:
            step = p.lambda_step if ratio <= p.balance_low else -p.lambda_step
            self.lambda1, self.lambda2 = self.lambda1 + step, self.lambda2 - step
        elif coverage_ratio > p.coverage_high:
            self._tilt(p.lambda_up, p.lambda_down)
        elif coverage_ratio < p.coverage_low:
            self._tilt(p.lambda_down, p.lambda_up)
        self._clamp()

    def correct(self, corrections: list[float]) -> None:
        """StateNet's four outputs: a relative one of the learning rate, absolute ones of the λ."""
        p, (d0, d1, d2, d3) = self.p, corrections
        self.lr = min(p.lr_max, max(p.lr_min, self.lr * (1 + p.statenet_lr_scale * d0)))
        self.lambda1 += p.statenet_lambda_scale * d1
        self.lambda2 += p.statenet_lambda_scale * d2
        self.lambda3 += p.statenet_lambda_scale * d3
        self.lambda3 = min(p.lambda3_max, max(p.lambda3_min, self.lambda3))
        self._clamp()

    def _tilt(self, factor1: float, factor2: float) -> None:
        self.lambda1, self.lambda2 = self.lambda1 * factor1, self.lambda2 * factor2

    def _clamp(self) -> None:
        low, high = self.p.lambda_min, self.p.lambda_max
        self.lambda1 = min(high, max(low, self.lambda1))
        self.lambda2 = min(high, max(low, self.lambda2))


def fit(p: TrainV55) -> Iterator[Epoch]:
    """Train both VAEs together and yield after each epoch; the caller says when to stop.

    Draws come from streams of `p.seed` named after training alone, so measuring (which has its
    own) changes nothing; the coverage in the λ rule is v5.5's own feedback at `p.coverage_n`.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    device = pick_device(p.device)
    model = DualVAE.fresh(p.seed).to(device)
    data = all_operations()[split(p.split_seed).train].to(device)
    parameters = [v for k, v in model.named_parameters() if not k.startswith("state_net")]
    optimiser = torch.optim.AdamW(parameters, weight_decay=p.weight_decay, fused=True)
    order_rng, noise_rng = generator(p.seed, "order"), generator(p.seed, "noise")
    control, state = Controller(p), None
    for epoch in range(p.epochs):
        control.start(epoch)
        if p.statenet and state is not None:
            with torch.no_grad():  # as in v5.5: no gradient ever reaches StateNet
                control.correct(model.state_net(torch.tensor(state, device=device)).tolist())
        for group in optimiser.param_groups:
            group["lr"] = control.lr
        step = _Step(p, epoch, model, optimiser, control)
        shuffled = data[torch.randperm(len(data), generator=order_rng).to(device)]
        noise = torch.randn(len(data), 2, D, generator=noise_rng).to(device)
        for x, eps in zip(shuffled.split(p.batch_size), noise.split(p.batch_size), strict=True):
            step(x, eps)
        means = step.means(epoch)
        measures: dict[str, float] = {}
        for vae in VAES:
            measures |= honest_measures(model, vae, p, epoch)
        ratio = float(model.grad_norm_B_ema / model.grad_norm_A_ema)
        control.balance(ratio, measures["coverage_B"] / max(measures["coverage_A"], 1e-12))
        state = [
            means["H_A_nats"],
            means["H_B_nats"],
            means["kl_A_nats"],
            means["kl_B_nats"],
            ratio,
        ]
        state += [step.rho, control.lambda1, control.lambda2, control.lambda3]
        yield Epoch(epoch, {**means, **measures, "grad_ratio": ratio, "lr": control.lr}, model)


class _Step:
    """One optimiser step; an epoch's constants are computed once and its sums stay tensors."""

    def __init__(
        self, p: TrainV55, epoch: int, model: DualVAE, optimiser: torch.optim.Optimizer,
        control: Controller,
    ) -> None:  # fmt: skip
        self.p, self.model, self.optimiser, self.control = p, model, optimiser, control
        self.rho = rho(p, epoch, control.balanced)
        temperatures = [temperature_A(p, epoch), temperature_B(p, epoch)]
        self.temperature = torch.tensor(temperatures, device=model.device)
        self.beta = beta_A(p, epoch), beta_B(p, epoch)
        self.own = [
            [v for k, v in model.named_parameters() if k.split(".")[0].endswith(f"coder_{vae}")]
            for vae in VAES
        ]
        self.sums = torch.zeros(4, device=model.device)
        self.drawn: list[Tensor] = []

    def __call__(self, x: Tensor, eps: Tensor) -> None:
        """x (B, T) in {-1, 0, 1}; eps (B, 2, D) standard normal, for A and for B."""
        p, model = self.p, self.model
        posteriors = [model.encoder(vae)(x.float()) for vae in VAES]
        mu, logvar = (torch.stack(parts, 1) for parts in zip(*posteriors, strict=True))  # (B, 2, D)
        z = mu + self.temperature[:, None] * (logvar / 2).exp() * eps
        mixed = (1 - self.rho) * z + self.rho * z.detach().flip(1)
        kl = codes.kl_nats(mu, logvar)  # (B, 2, D)
        logits = model.decoder_A(mixed[:, 0]), model.decoder_B(mixed[:, 1])
        loss_A, loss_B = (
            vae_loss(logits[i], x + 1, kl[:, i], self.beta[i], p.free_bits) for i in (0, 1)
        )
        loss_B = loss_B - p.output_entropy_weight * output_entropy(logits[1])
        loss_B = loss_B + p.repulsion_weight * repulsion(z[:, 1], p.repulsion_width)
        balance = model.grad_norm_B_ema / model.grad_norm_A_ema
        g_A, g_B = (
            balance.clamp(p.scale_min, p.scale_max),
            (1 / balance).clamp(p.scale_min, p.scale_max),
        )
        self.optimiser.zero_grad()
        (self.control.lambda1 * g_A * loss_A + self.control.lambda2 * g_B * loss_B).backward()
        self._clip()
        self.optimiser.step()
        with torch.no_grad():
            self.sums += torch.stack([loss_A, loss_B, *kl.sum(2).mean(0)]) * len(x)
        self.drawn.append(z.detach())

    @torch.no_grad()
    def _clip(self) -> None:
        """Joint clip; the norms that balance the two are taken before it (v5.5 took them after)."""
        grads = [[v.grad for v in own] for own in self.own]
        norms = torch.stack([get_total_norm(g) for g in grads])
        clip_grads_with_norm_(self.own[0] + self.own[1], self.p.grad_clip, norms.norm())
        momentum = self.control.momentum()
        self.model.grad_norm_A_ema.lerp_(norms[0], 1 - momentum)
        self.model.grad_norm_B_ema.lerp_(norms[1], 1 - momentum)

    def means(self, epoch: int) -> dict[str, float]:
        """Epoch means; H over all of the epoch's codes (a batch of 64 is biased low for 50 bins).

        The total is λ1·L_A + λ2·L_B + λ3·|H_A - H_B|, without the scales g that change in every
        step; a histogram has no gradient, so the last term moves the number, not the network.
        """
        drawn = torch.cat(self.drawn)
        loss_A, loss_B, kl_A, kl_B = (self.sums / len(drawn)).tolist()
        if not math.isfinite(loss_A + loss_B):
            raise TrainingError(
                f"The loss is no longer finite in epoch {epoch}: {loss_A}, {loss_B}."
            )
        H_A, H_B = (codes.entropy_nats(drawn[:, i]) for i in (0, 1))
        c = self.control
        total = c.lambda1 * loss_A + c.lambda2 * loss_B + c.lambda3 * abs(H_A - H_B)
        return {
            "loss": total, "loss_A": loss_A, "loss_B": loss_B, "kl_A_nats": kl_A,
            "kl_B_nats": kl_B, "H_A_nats": H_A, "H_B_nats": H_B, "rho": self.rho,
            "lambda1": c.lambda1, "lambda2": c.lambda2, "lambda3": c.lambda3,
        }  # fmt: skip
