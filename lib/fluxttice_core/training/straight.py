"""The `straight` recipe: straight, sharp boundaries that cut the prior into equal cells.

The optimum is known to exist in this architecture: nine latent dimensions, each owning one trit,
logits affine in z, boundaries at the normal terciles, and a scale that lets the latent decide.
Four forces lead there, and each is a formula of a few lines below:

- the ELBO with a small weight on its KL finds a code for every operation;
- `unevenness` is the chi-square distance from uniform of the decoder's own marginal under the
  prior, orders one and two, so every operation gets its share of the prior;
- `crookedness` is zero exactly when the logits are affine in z, so boundaries are straight;
- a constant multiplies the logits once training has ended, so that the latent decides. It moves
  no boundary, so it is no learning: `controls.random_linear` has it too.

VAE-A and VAE-B are trained in the same steps and share nothing but the data and the draws.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..metrics import codes
from ..model.initialisation import looks_linear
from ..model.network import VAES, D, DualVAE
from ..model.operations import C, T, all_operations, split
from ..model.streams import generator
from ..params import NonNegative, Positive, Share, Whole
from .loop import Epoch, Train, TrainingError, honest_measures, pick_device


class TrainStraight(Train):
    """Its parameters; ramps are shares of all steps."""

    recipe: Literal["straight"]
    prior_size: Annotated[Whole, Field(ge=8, multiple_of=2)]
    lr: Positive
    warmup_share: Annotated[Positive, Field(le=1)]
    adam_beta2: Annotated[Share, Field(lt=1)]
    looks_linear: bool
    ramp_start: Share
    beta_start: Positive
    beta_end: Positive
    beta_ramp_end: Share
    uniformity_weight: NonNegative
    uniformity_scale: Positive
    straightness_weight: NonNegative
    logit_scale: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.ramp_start >= self.beta_ramp_end:
            raise ValueError("ramp_start must be below beta_ramp_end")
        return self


def ramp(progress: float, start: float, end: float) -> float:
    """0 before `start`, 1 after `end`, linear between; progress 0 … 1 of all steps."""
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def learning_rate(p: TrainStraight, progress: float) -> float:
    """Linear warm-up times a half cosine to zero."""
    return p.lr * min(1, progress / p.warmup_share) * 0.5 * (1 + math.cos(math.pi * progress))


def beta(p: TrainStraight, progress: float) -> float:
    """Weight of the KL: `beta_start` … `beta_end`, geometric.

    Never 1: the data are uniform, so there a decoder that ignores z already is optimal.
    """
    done = ramp(progress, p.ramp_start, p.beta_ramp_end)
    return p.beta_start * (p.beta_end / p.beta_start) ** done


def unevenness(logits: Tensor) -> Tensor:
    """Chi-square distance of the marginal from uniform, its orders 1 and 2; mean ≥ 0, scalar.

    With g = p - 1/3 (B, T, C), order one is 3·Σ_t ‖E g_t‖² and order two 9·Σ_{t<s} ‖E g_t g_sᵀ‖²:
    the first terms of M·Σ_x P(x)² - 1 = Σ_S 3^|S|·‖E Π_{t in S} g_t‖² over the sets S of trits.
    Products are of different latents only (U-statistics): the batch's size brings no bias.
    """
    b = len(logits)
    g = logits.softmax(-1) - 1 / C  # (B, T, C)
    own = g.square().sum(-1)  # (B, T)
    flat = g.flatten(1)  # (B, T·C)
    gram = (flat.T @ flat).view(T, C, T, C).square().sum((1, 3))  # (T, T): ‖Σ_k g_t g_sᵀ‖²
    first = C * (flat.sum(0).square().sum() - own.sum())
    own_pairs = own.sum(1).square() - own.square().sum(1)
    second = C * C / 2 * (gram.sum() - gram.diagonal().sum() - own_pairs.sum())
    return (first + second) / (b * (b - 1))


def crookedness(logits: Tensor, midpoints: Tensor) -> Tensor:
    """Var[f((z+z')/√2) - (f(z)+f(z'))/√2] / Var[f(z)]: 0 if and only if f is affine on the prior.

    The variance drops the constant by which an affine f differs. `logits` (2h, T, C) are f at
    independent prior draws, whose first half z is paired with its own neighbours z';
    `midpoints` (h, T, C) is f at (z + z')/√2, which is a prior draw too.
    """
    half = logits[: len(midpoints)].flatten(1)
    rest = midpoints.flatten(1) - (half + half.roll(1, 0)) / math.sqrt(2)
    return rest.var(0).sum() / half.detach().var(0).sum()


def fit(p: TrainStraight) -> Iterator[Epoch]:
    """Train and yield after each epoch; see the module's text for the objective.

    All random numbers are drawn on the CPU, so every device sees the same ones.

    Raises:
        TrainingError: the loss is no longer finite.
        InputError: `p.device` is not there.
    """
    device = pick_device(p.device)
    model = DualVAE.fresh(p.seed)
    if p.looks_linear:
        looks_linear(model, p.seed)
    model.to(device)
    data = all_operations()[split(p.split_seed).train].to(device)
    parameters = [v for k, v in model.named_parameters() if not k.startswith("state_net")]
    optimiser = torch.optim.Adam(parameters, betas=(0.9, p.adam_beta2), fused=True)
    rng, steps = generator(p.seed, "training"), len(data) // p.batch_size
    for epoch in range(p.epochs):
        order = torch.randperm(len(data), generator=rng)[: steps * p.batch_size]
        batches = data[order.to(device)].view(steps, p.batch_size, T)
        eps = torch.randn(steps, 2, p.batch_size, D, generator=rng).to(device)
        prior = torch.randn(steps, p.prior_size, D, generator=rng).to(device)
        losses = torch.zeros(steps, 2, device=device)
        for k in range(steps):
            progress = (epoch * steps + k) / (p.epochs * steps)
            optimiser.param_groups[0]["lr"] = learning_rate(p, progress)
            loss = torch.stack(
                [
                    vae_loss(model, vae, batches[k], eps[k, i], prior[k], p, progress)
                    for i, vae in enumerate(VAES)
                ]
            )
            optimiser.zero_grad()
            loss.sum().backward()
            optimiser.step()
            losses[k] = loss.detach()
        means = _means(losses, epoch)
        final = model.sharpened(p.logit_scale)  # what is measured and kept
        measures = honest_measures(final, p.split_seed, p.coverage_n, p.seed, epoch)
        yield Epoch(epoch, {**means, **measures, "lr": learning_rate(p, progress)}, final)


def vae_loss(
    model: DualVAE, vae: str, x: Tensor, eps: Tensor, prior: Tensor, p: TrainStraight, t: float
) -> Tensor:
    """CE(f(z)) + β·KL + w_u·unevenness(s·f) + w_s·crookedness(f), the first two in nats a sample.

    Unevenness counts only from `ramp_start` on: before, the codes are still being found. Its
    scale s brings the marginal it sees near the one by argmax, and leaves it a gradient.

    x (B, T) in {-1, 0, 1}; eps (B, D) and prior (S, D) standard normal; t progress 0 … 1.
    """
    q = model.encoder(vae)(x.float())
    z = q.mu + (q.logvar / 2).exp() * eps
    pairs = prior[: len(prior) // 2]
    middle = (pairs + pairs.roll(1, 0)) / math.sqrt(2)
    f = model.decoder(vae)(torch.cat([z, prior, middle]))
    at_z, at_prior, at_middle = f.split([len(z), len(prior), len(middle)])
    ce = cross_entropy(at_z.flatten(0, 1), (x + 1).flatten(), reduction="sum")
    loss = ce / len(x) + beta(p, t) * codes.kl_nats(*q).sum(1).mean()
    if p.uniformity_weight and t >= p.ramp_start:
        loss = loss + p.uniformity_weight * unevenness(p.uniformity_scale * at_prior)
    if p.straightness_weight:
        loss = loss + p.straightness_weight * crookedness(at_prior, at_middle)
    return loss


def _means(losses: Tensor, epoch: int) -> dict[str, float]:
    loss_A, loss_B = losses.mean(0).tolist()
    if not math.isfinite(loss_A + loss_B):
        raise TrainingError(f"The loss is no longer finite in epoch {epoch}: {loss_A}, {loss_B}.")
    return {"loss": loss_A + loss_B, "loss_A": loss_A, "loss_B": loss_B}
