"""The `axis_aligned` recipe: nine latents, each of which encodes one trit.

1. *Joint training.* The ELBO, with a tenth of its KL, finds a code for every operation. Two terms
   on prior latents are ramped up: `uniformity_loss`, so that every operation is generated equally
   often, and `nonlinearity_loss`, so that the logits become linear in the latents and boundaries
   between operations become straight. The KL term prunes directions that carry no information.
   Nine remain, but rotated relative to the latent axes.
2. *Rotation.* The prior N(0, I) is the same in every direction, so rotating the latent space
   changes nothing that is generated. `rotate_latents` takes the rotation that makes the decoder's
   linear weights sparsest (quartimax), which does not know about trits. Latents with negligible
   decoder weight are pruned.
3. *Fine-tuning.* The decoder is frozen. Because its logits are linear, the margin between two
   classes is Gaussian under q(z|x), so the probability of an error has a closed form.
   `finetune_encoder` minimises KL + weight · errors without sampling.

In the end the logits are multiplied by a constant, so that decoding becomes nearly deterministic.
This moves no boundary. VAE-A and VAE-B share only the data, so they train in separate processes.

Shape letters: B batch, D latents (16), T trits (9), C classes (3).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..metrics.latent_space import kl_nats
from ..model.initialisation import looks_linear
from ..model.network import VAES, D, DualVAE, Encoder, linears
from ..model.operations import T
from ..model.streams import generator
from ..params import Count, Positive, Real, Whole
from .selection import Train, finite, training_data, validation_metrics
from .terms import (
    nonlinearity_loss,
    normalised_margins,
    quartimax,
    uniformity_loss,
    whitened,
)

PROBE = 8_192  # prior latents for `linear_fit`; so many that its noise is negligible
PRUNE_THRESHOLD = 0.2  # of the largest decoder weight of a latent
FINETUNE_BATCH = 256

FLOAT32 = "beyond it squared gradients leave float32"
Weight = Annotated[Real, Field(ge=0, le=1e9, description=FLOAT32)]
Scale = Annotated[Real, Field(ge=1e-6, le=1e6, description=FLOAT32)]


class TrainAxisAligned(Train):
    """The recipe's parameters, the same for both VAEs. `prior_size` latents must span all of D."""

    recipe: Literal["axis_aligned"]
    prior_size: Annotated[
        Whole, Field(ge=2 * D, le=100_000, multiple_of=4, description="a step's memory grows by it")
    ]
    lr: Annotated[Real, Field(ge=1e-9, le=1, description="weights would leave float32")]
    beta: Weight
    init_logit_scale: Scale
    ramp_end: Annotated[Positive, Field(le=1)]
    uniformity_weight: Weight
    linearity_weight: Weight
    rotate: Annotated[bool, Field(strict=True)]
    finetune_steps: Annotated[Count, Field(le=1_000_000, description="more would take hours")]
    error_weight: Annotated[Weight, Field(ge=1)]
    logit_scale: Scale

    @property
    def last_epoch(self) -> int:
        """One more than the joint epochs: rotation and fine-tuning count as an epoch."""
        return self.epochs


@dataclass
class State:
    """One VAE in training. The other VAE of `model` stays untrained."""

    vae: str
    model: DualVAE
    optimiser: torch.optim.Optimizer
    rng: torch.Generator
    epoch: int = 0
    loss: float = math.nan

    @property
    def trains(self) -> tuple[str, ...]:
        """The prefixes of the weights that this state trains."""
        return f"encoder_{self.vae}.", f"decoder_{self.vae}."


def start(p: TrainAxisAligned) -> list[State]:
    """A state for each VAE, whose decoder starts as a linear map with small logits."""
    return [_start(vae, p) for vae in VAES]


def _start(vae: str, p: TrainAxisAligned) -> State:
    model = DualVAE.fresh(p.seed)
    looks_linear(model, p.seed)
    # Small logits make the first gradients those of a linear model, which finds one latent a trit.
    model.scale_logits(vae, p.init_logit_scale)
    weights = [*model.encoder(vae).parameters(), *model.decoder(vae).parameters()]
    optimiser = torch.optim.Adam(weights, fused=True)
    return State(vae, model, optimiser, generator(p.seed, "training", vae))


def train_epoch(p: TrainAxisAligned, state: State) -> tuple[State, dict[str, float]]:
    """One epoch of joint training; after `p.epochs` of them, rotation and fine-tuning.

    Returns:
        The state, changed in place, and its metrics: `loss_<vae>` in nats (the last joint epoch's
        after fine-tuning) and `validation_metrics`.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    vae, data = state.vae, training_data(p)
    if state.epoch < p.epochs:
        state.loss = _joint_epoch(p, state, data)
    else:
        enc, dec = state.model.encoder(vae), state.model.decoder(vae)
        w, c = rotate_latents(enc, dec, p.rotate, state.rng)
        finetune_encoder(enc, w, c, data, p, state.rng)
        state.model.scale_logits(vae, p.logit_scale)
    metrics = validation_metrics(state.model, vae, p, state.epoch)
    state.epoch += 1
    return state, {f"loss_{vae}": state.loss, **metrics}


def _joint_epoch(p: TrainAxisAligned, state: State, data: Tensor) -> float:
    """Every operation of `data` (n, T) once, but for an incomplete last batch; the mean loss."""
    enc, dec = state.model.encoder(state.vae), state.model.decoder(state.vae)
    steps = len(data) // p.batch_size
    order = torch.randperm(len(data), generator=state.rng)[: steps * p.batch_size]
    batches = data[order].view(steps, p.batch_size, T)
    eps = torch.randn(steps, p.batch_size, D, generator=state.rng)
    losses = torch.zeros(steps)
    for k in range(steps):
        progress = (state.epoch * steps + k) / (p.epochs * steps)
        state.optimiser.param_groups[0]["lr"] = cosine_schedule(p.lr, progress)
        prior = whitened(torch.randn(p.prior_size, D, generator=state.rng))
        value = loss(enc, dec, batches[k], eps[k], prior, p, progress)
        state.optimiser.zero_grad()
        value.backward()
        state.optimiser.step()
        losses[k] = value.detach()
    return finite(float(losses.mean()), f"loss of VAE-{state.vae} in epoch {state.epoch}")


def cosine_schedule(lr: float, progress: float) -> float:
    """Linear warm-up over 5 % of the steps, times a half cosine to zero; progress 0 … 1."""
    return lr * min(1, 20 * progress) * 0.5 * (1 + math.cos(math.pi * progress))


def geometric_ramp(progress: float, end: float, start: float) -> float:
    """Grows geometrically from `start` to 1 at progress `end`, and is 1 afterwards."""
    return start ** max(0.0, 1 - progress / end)


def loss(
    enc: Encoder,
    dec: nn.Module,
    x: Tensor,
    eps: Tensor,
    prior: Tensor,
    p: TrainAxisAligned,
    progress: float,
) -> Tensor:
    """CE(f(z)) + β·KL + ramp·(uniformity + nonlinearity), weighted; a scalar, nats a sample.

    Args:
        x: operations (B, T) in {-1, 0, 1}.
        eps, prior: standard normal draws (B, D) and (S, D).
        progress: 0 … 1.
    """
    q = enc(x.float())
    z = q.mu + (q.logvar / 2).exp() * eps
    pairs = prior[: len(prior) // 4]
    midpoints = (pairs + pairs.roll(1, 0)) / math.sqrt(2)
    f = dec(torch.cat([z, prior, midpoints]))
    at_z, at_prior, at_midpoints = f.split([len(z), len(prior), len(pairs)])

    ce = cross_entropy(at_z.flatten(0, 1), (x + 1).flatten(), reduction="sum") / len(x)
    # At six times the logits, the marginal is close to the one by argmax, and has a gradient.
    uniformity = p.uniformity_weight * uniformity_loss(6 * at_prior)
    nonlinearity = p.linearity_weight * nonlinearity_loss(at_prior, at_midpoints)
    # The terms start small, so that the decoder can still change while codes are being found.
    ramp = geometric_ramp(progress, p.ramp_end, 1e-3)
    return ce + p.beta * kl_nats(*q).sum(1).mean() + ramp * (uniformity + nonlinearity)


@torch.no_grad()
def linear_fit(dec: nn.Module, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Least squares f(z) ≈ W z + c on the prior, f centred within each trit.

    Returns:
        W (T·C, D) and c (T·C,) in float64.

    Raises:
        TrainingError: logits so large that their squares leave float32.
    """
    z = torch.cat([torch.randn(PROBE, D, generator=rng), torch.ones(PROBE, 1)], 1)
    f = dec(z[:, :D])
    finite(float(f.square().sum()), "square of the logits on the prior")
    f = (f - f.mean(2, keepdim=True)).flatten(1)
    solution = torch.linalg.lstsq(z.double(), f.double()).solution
    return solution[:D].T, solution[D]


@torch.no_grad()
def rotate_latents(
    enc: Encoder, dec: nn.Module, rotate: bool, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change the latents from z to Rᵀz, in place, and prune those with negligible decoder weight.

    R is `quartimax` of the decoder's linear weights, or I without `rotate`. Decoded means stay
    the same. Variances are mixed by R², which is exact where R permutes latents.

    Returns:
        `linear_fit` of the rotated decoder: W (T·C, D) and c (T·C,).
    """
    w, c = linear_fit(dec, rng)
    r = quartimax(w) if rotate else torch.eye(D, dtype=w.dtype)
    w = w @ r

    # A pruned latent's column of R is 0, so the decoder ignores it and its posterior is the prior.
    norms = w.norm(dim=0)
    kept = norms > PRUNE_THRESHOLD * norms.max()
    r = (r * kept).float()

    first = linears(dec)[0]
    first.weight.copy_(first.weight @ r)
    for head, mix in ((enc.fc_mu, r.T), (enc.fc_logvar, r.T.square())):
        head.weight.copy_(mix @ head.weight)
        head.bias.copy_(mix @ head.bias)
    return (w * kept).float(), c.float()


def finetune_encoder(
    enc: Encoder, w: Tensor, c: Tensor, data: Tensor, p: TrainAxisAligned, rng: torch.Generator
) -> None:
    """Train the encoder alone on KL - weight·Σ ln Φ(margin/sd), summed over trits and classes.

    Args:
        w, c: the frozen decoder's `linear_fit`.
        data: operations (n, T) to draw batches from.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    optimiser = torch.optim.Adam(enc.parameters(), betas=(0.9, 0.99), fused=True)
    for k in range(p.finetune_steps):
        x = data[torch.randint(len(data), (FINETUNE_BATCH,), generator=rng)]
        progress = k / p.finetune_steps
        optimiser.param_groups[0]["lr"] = cosine_schedule(p.lr, progress)

        # -ln Φ is a convex bound on the probability of an error, exact in q without any draw.
        q = enc(x.float())
        errors = -torch.special.log_ndtr(normalised_margins(q, w, c, x)).sum(1).mean()

        # The weight of errors is a Lagrange multiplier. It grows from 1, so that the code moves
        # along the best trade-offs of rate and exactness.
        weight = p.error_weight * geometric_ramp(progress, 1.0, 1 / p.error_weight)
        total = kl_nats(*q).sum(1).mean() + weight * errors

        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    finite(float(total.detach()), "loss of the encoder's fine-tuning")
