"""The `turned` recipe: nine latents that own nine trits, in two phases and one closed form.

1. The ELBO at its own scale with half the weight on its KL finds a code for every operation, while
   two terms on prior latents grow: `unevenness`, so that every operation gets its share of the
   prior, and `crookedness`, so that boundaries are straight. The KL's weight stays, so what no
   trit needs stays unused: nine latent directions are left, but turned against the axes.
2. `turn`: the prior knows no axes, so a rotation of the latent space changes nothing that is
   generated. The one that makes the decoder's slopes sparsest (quartimax) is taken; it is told
   nothing of trits. Latents that the decoder hardly reads are cut off.
3. `settle`: the decoder stays as it is. As it is straight, the gap between two logits is Gaussian
   under q(z|x), so the probability of an error has a closed form; the encoder alone minimises
   KL + price · errors without any sampling.

At last a constant multiplies the logits, so that the latent decides; it moves no boundary.
VAE-A and VAE-B share nothing but the data, and are trained side by side in processes of their own.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..metrics.latent_space import kl_nats
from ..model.initialisation import looks_linear
from ..model.network import VAES, D, DualVAE, Encoder, Posterior, linears
from ..model.operations import C, T, all_operations, split
from ..model.streams import generator
from ..parallel import together
from ..params import Count, Positive, Real, Whole
from .loop import Epoch, Train, finite, honest_measures, pick_device

PROBE = 8_192  # prior latents for the decoder's slopes, whose least squares is nearly noiseless
UNREAD = 0.2  # of the largest column of slopes: below it a latent counts as not read
RIVALS = torch.tensor([[1, 2], [0, 2], [0, 1]])  # of each class


FLOAT32 = "beyond it squared gradients leave float32"
Weight = Annotated[Real, Field(ge=0, le=1e9, description=FLOAT32)]
Scale = Annotated[Real, Field(ge=1e-6, le=1e6, description=FLOAT32)]


class TrainTurned(Train):
    """Its parameters, the same for both VAEs. `prior_size` latents must span all of D."""

    recipe: Literal["turned"]
    prior_size: Annotated[
        Whole, Field(ge=2 * D, le=100_000, multiple_of=4, description="a step's memory grows by it")
    ]
    lr: Annotated[Real, Field(ge=1e-9, le=1, description="weights would leave float32")]
    beta: Weight
    start_scale: Scale
    ramp_end: Annotated[Positive, Field(le=1)]
    uniformity_weight: Weight
    straightness_weight: Weight
    rotate: Annotated[bool, Field(strict=True)]
    settle_steps: Annotated[Count, Field(le=1_000_000, description="more would take hours")]
    error_price: Annotated[Weight, Field(ge=1)]
    logit_scale: Scale


def anneal(lr: float, progress: float) -> float:
    """Linear warm-up over 5 % of the steps, times a half cosine to zero; progress 0 … 1."""
    return lr * min(1, 20 * progress) * 0.5 * (1 + math.cos(math.pi * progress))


def grown(progress: float, end: float, start: float) -> float:
    """Geometric from `start` to 1 at progress `end`, 1 after it."""
    return start ** max(0.0, 1 - progress / end)


def whitened(prior: Tensor) -> Tensor:
    """Prior latents (n, D), n > D, moved to mean 0 and covariance I, exactly.

    Moment matching (Boyle, Broadie & Glasserman 1997, sec. 3): the estimates of the marginal's
    first orders, which are near linear in these moments, lose most of their noise.
    """
    z = prior - prior.mean(0)
    root = torch.linalg.cholesky(z.T @ z / len(z))
    return torch.linalg.solve_triangular(root, z.T, upper=False).T


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


def loss(
    enc: Encoder, dec: nn.Module, x: Tensor, eps: Tensor, prior: Tensor, p: TrainTurned, t: float
) -> Tensor:
    """CE(f(z)) + β·KL + growth·(w_u·unevenness(6·f) + w_s·crookedness(f)); nats a sample, scalar.

    x (B, T) in {-1, 0, 1}; eps (B, D) and prior (S, D) standard normal; t progress 0 … 1.
    Six times f the marginal is near the one by argmax, and still has a gradient.
    """
    q = enc(x.float())
    pairs = prior[: len(prior) // 4]
    z = q.mu + (q.logvar / 2).exp() * eps
    f = dec(torch.cat([z, prior, (pairs + pairs.roll(1, 0)) / math.sqrt(2)]))
    at_z, at_prior, at_middle = f.split([len(z), len(prior), len(pairs)])
    ce = cross_entropy(at_z.flatten(0, 1), (x + 1).flatten(), reduction="sum") / len(x)
    even = p.uniformity_weight * unevenness(6 * at_prior)
    straight = p.straightness_weight * crookedness(at_prior, at_middle)
    growth = grown(t, p.ramp_end, 1e-3)
    return ce + p.beta * kl_nats(*q).sum(1).mean() + growth * (even + straight)


@torch.no_grad()
def slopes(dec: nn.Module, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Least squares f(z) ≈ W z + c on the prior, logits centred a trit: W (T·C, D), c (T·C,)."""
    z = torch.cat([torch.randn(PROBE, D, generator=rng), torch.ones(PROBE, 1)], 1)
    f = dec(z[:, :D])
    finite(float(f.square().sum()), "square of the logits on the prior")
    f = (f - f.mean(2, keepdim=True)).flatten(1)
    solution = torch.linalg.lstsq(z.double(), f.double()).solution
    return solution[:D].T, solution[D]


def quartimax(w: Tensor, steps: int = 200) -> Tensor:
    """The rotation R (D, D) that maximises Σ (W R)^4: slopes W (n, D) become sparse, rows' norms
    being fixed (Neuhaus & Wrigley 1954). Of a convex function the polar factor of its gradient
    is the ascent step (Zhai et al. 2020, Complete dictionary learning via l4-norm maximization).
    """
    r = torch.eye(w.shape[1], dtype=w.dtype)
    for _ in range(steps):
        u, _, v = torch.linalg.svd(w.T @ (w @ r) ** 3)
        r = u @ v
    return r


@torch.no_grad()
def turn(enc: Encoder, dec: nn.Module, rotate: bool, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """z → Rᵀz with R from `quartimax`, or R = I, in place; the new slopes W (T·C, D) and c (T·C,).

    Decoder and means stay the same function of each other; variances are mixed by R², which is
    their exact change where R permutes. A latent whose column is below UNREAD of the largest is
    cut off: the decoder's weights on it become 0 and its posterior the prior.
    """
    w, c = slopes(dec, rng)
    r = quartimax(w) if rotate else torch.eye(D, dtype=w.dtype)
    w = w @ r
    read = w.norm(dim=0) > UNREAD * w.norm(dim=0).max()
    r = (r * read).float()  # (D, D), columns of the latents that are cut off are 0
    first = linears(dec)[0]
    first.weight.copy_(first.weight @ r)
    for head, mix in ((enc.fc_mu, r.T), (enc.fc_logvar, r.T.square())):
        head.weight.copy_(mix @ head.weight)
        head.bias.copy_(mix @ head.bias)
    return (w * read).float(), c.float()


def certainty(q: Posterior, w: Tensor, c: Tensor, x: Tensor) -> Tensor:
    """gap/sd of the true class's lead over each rival under q, by the slopes w, c: (B, T·2).

    Under q(z|x) = N(mu, diag σ²) the lead (w_x - w_r)·z + c_x - c_r is Gaussian, so the true class
    is behind with probability Φ(-gap/sd). x (B, T) in {-1, 0, 1}.
    """
    w, c = w.view(T, C, 1, D), c.view(T, C, 1)
    lead = (w - w[:, RIVALS, 0]).flatten(0, 2).T  # (D, T·C·2)
    offset = (c - c[:, RIVALS, 0]).flatten()  # (T·C·2,)
    own = 2 * (C * torch.arange(T) + x + 1)  # (B, T): where the true class's rivals are
    own = (own[..., None] + torch.arange(2)).flatten(1)  # (B, T·2)
    gap = (q.mu @ lead + offset).gather(1, own)
    return gap / (q.logvar.exp() @ lead.square()).gather(1, own).sqrt()


def settle(
    enc: Encoder, w: Tensor, c: Tensor, data: Tensor, p: TrainTurned, rng: torch.Generator
) -> None:
    """Train the encoder alone on KL - price·Σ_t Σ_r ln Φ(gap/sd), exact in q: nothing is drawn.

    -ln Φ is the convex form of the probability of an error. The price grows from 1, so that the
    code moves along the best trade of rate for exactness.
    """
    optimiser = torch.optim.Adam(enc.parameters(), betas=(0.9, 0.99), fused=True)
    for k in range(p.settle_steps):
        x = data[torch.randint(len(data), (256,), generator=rng)]
        progress = k / p.settle_steps
        optimiser.param_groups[0]["lr"] = anneal(p.lr, progress)
        q = enc(x.float())
        errors = -torch.special.log_ndtr(certainty(q, w, c, x)).sum(1).mean()
        price = p.error_price * grown(progress, 1.0, 1 / p.error_price)
        total = kl_nats(*q).sum(1).mean() + price * errors
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    finite(float(total.detach()), "loss of the encoder that settles")


def train(vae: str, p: TrainTurned, data: Tensor) -> Iterator[tuple[DualVAE, float]]:
    """Train one VAE on `data` (n, T); the model and the mean loss after each epoch, and at last
    the finished one. The other VAE of the model stays at its start.

    All random numbers are drawn on the CPU, so every device sees the same ones.

    Raises:
        TrainingError: the loss is no longer finite.
        InputError: `p.device` is not there.
    """
    device, model = pick_device(p.device), DualVAE.fresh(p.seed)
    looks_linear(model, p.seed)
    model.scale_logits(vae, p.start_scale)
    enc, dec = model.to(device).encoder(vae), model.decoder(vae)
    optimiser = torch.optim.Adam([*enc.parameters(), *dec.parameters()], fused=True)
    rng, steps = generator(p.seed, "training", vae), len(data) // p.batch_size
    for epoch in range(p.epochs):
        order = torch.randperm(len(data), generator=rng)[: steps * p.batch_size]
        batches = data[order].view(steps, p.batch_size, T).to(device)
        eps = torch.randn(steps, p.batch_size, D, generator=rng).to(device)
        losses = torch.zeros(steps, device=device)
        for k in range(steps):
            progress = (epoch * steps + k) / (p.epochs * steps)
            optimiser.param_groups[0]["lr"] = anneal(p.lr, progress)
            prior = whitened(torch.randn(p.prior_size, D, generator=rng)).to(device)
            value = loss(enc, dec, batches[k], eps[k], prior, p, progress)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            losses[k] = value.detach()
        mean = finite(float(losses.mean()), f"loss of VAE-{vae} in epoch {epoch}")
        yield model, mean
    model.cpu()
    settle(enc, *turn(enc, dec, p.rotate, rng), data, p, rng)
    model.scale_logits(vae, p.logit_scale)
    yield model, mean


def fit(p: TrainTurned) -> Iterator[Epoch]:
    """Train both VAEs, each in a process and on one thread of its own, and yield after each epoch
    and at the end: number `p.epochs` is the finished network.

    Raises:
        as `train`.
    """
    model = DualVAE.fresh(p.seed)
    for number, both in enumerate(together(_measured, [(vae, p) for vae in VAES])):
        measures: dict[str, float] = {}
        for weights, found in both:
            model.load_state_dict({**model.state_dict(), **weights})
            measures |= found
        yield Epoch(number, measures, model)


def _measured(vae: str, p: TrainTurned) -> Iterator[tuple[dict[str, Tensor], dict[str, float]]]:
    data = all_operations()[split(p.split_seed).train]
    own = f"encoder_{vae}.", f"decoder_{vae}."
    for number, (model, loss_) in enumerate(train(vae, p, data)):
        weights = {k: v.cpu() for k, v in model.state_dict().items() if k.startswith(own)}
        measures = honest_measures(model, vae, p, number)
        yield weights, {f"loss_{vae}": loss_, **measures}
