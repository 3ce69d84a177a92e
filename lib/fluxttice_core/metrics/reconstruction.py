"""Reconstruction: which operations come back, each VAE alone (no cross-injection, ever).

Shape letters: M operations, D latent, T trits, R draws.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..model.network import Measurable, Posterior, decode_logits
from ..model.operations import all_operations
from ..model.streams import generator
from .marginal import logits_of
from .results import Record

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
DRAWS = 20
EVERY = slice(None)


@torch.no_grad()
def posterior(model: Measurable, vae: str) -> Posterior:
    """q(z|x) of every operation by the VAE's own encoder: mu and logvar, (M, D) each.

    Raises:
        InputError: a mean, or a variance, that is not finite in float32.
    """
    q = model.encoder(vae)(all_operations().float().to(model.device))
    if not (q.mu.isfinite() & q.logvar.exp().isfinite()).all():
        raise InputError(f"encoder {vae} gives codes that are not finite: nothing can be measured.")
    return q


@torch.no_grad()
def right_trits(model: Measurable, vae: str, codes: Tensor) -> Tensor:
    """(M, T) bool: which trits argmax decoding returns of `codes` (M, D), one an operation."""
    classes = decode_logits(logits_of(model.decoder(vae), codes), "argmax")
    return classes - 1 == all_operations().to(model.device)


def drawn(q: Posterior, scale: float, rng: torch.Generator) -> Tensor:
    """One code an operation, mu + scale·sigma·eps: (M, D). Scale 0 is the posterior mean."""
    eps = torch.randn(q.mu.shape, generator=rng, device=rng.device)
    return q.mu + scale * (q.logvar / 2).exp() * eps.to(q.mu.device)


class Samples(NamedTuple):
    """What R posterior samples of n operations decode to.

    hits: (R, n) bool, which operations come back whole; nats: (R,) float64, mean of -ln p(x|z).
    """

    hits: Tensor
    nats: Tensor


@torch.no_grad()
def samples(
    model: Measurable, vae: str, q: Posterior, rng: torch.Generator, of: Tensor | slice = EVERY
) -> Samples:
    """DRAWS posterior samples of the rows `of`, which are the same whatever is asked of."""
    classes = all_operations()[of].to(model.device) + 1  # (n, T)
    hits, nats = [], []
    for _ in range(DRAWS):
        logits = logits_of(model.decoder(vae), drawn(q, 1.0, rng)[of])
        hits.append((decode_logits(logits, "argmax") == classes).all(1).cpu())
        own = logits.gather(-1, classes[..., None])[..., 0]
        nats.append((logits.logsumexp(-1) - own).sum(1).double().mean().cpu())
    return Samples(torch.stack(hits), torch.stack(nats))


class Robustness(Record):
    """Exact match over all operations, one draw each, at a multiple of the posterior's sigma."""

    scale: float
    exact_match: float


def robustness(model: Measurable, vae: str, q: Posterior, seed: int) -> list[Robustness]:
    """Exact match as q's standard deviation is scaled 0 … 3; M binomial trials each."""
    rng = generator(seed, "robustness", vae, device=model.device)
    rows = []
    for scale in SCALES:
        hits = right_trits(model, vae, drawn(q, scale, rng)).all(1)
        rows.append(Robustness(scale=scale, exact_match=float(hits.double().mean())))
    return rows
