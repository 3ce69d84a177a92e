"""Reconstruction: which operations are reconstructed exactly, each VAE alone.

Shape letters: M operations, D latent, T trits, R draws.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..model.network import Measurable, Posterior, decode_logits
from ..model.operations import Split, all_operations
from ..model.streams import generator
from .marginal import logits_of
from .results import Measured, exact_value, proportion

SCALES = [step / 4 for step in range(13)]  # of the posterior's sigma
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
def correct_trits(model: Measurable, vae: str, codes: Tensor) -> Tensor:
    """(M, T) bool: which trits argmax decoding returns of `codes` (M, D), one an operation."""
    classes = decode_logits(logits_of(model.decoder(vae), codes), "argmax")
    return classes - 1 == all_operations().to(model.device)


def sample_posterior(q: Posterior, scale: float, rng: torch.Generator) -> Tensor:
    """One code an operation, mu + scale·sigma·eps: (M, D). Scale 0 is the posterior mean."""
    eps = torch.randn(q.mu.shape, generator=rng, device=rng.device)
    return q.mu + scale * (q.logvar / 2).exp() * eps.to(q.mu.device)


class Samples(NamedTuple):
    """R posterior samples of n operations, decoded."""

    exact_matches: Tensor  # (R, n) bool: which operations are reconstructed exactly
    nats: Tensor  # (R,) float64: mean of -ln p(x|z)


@torch.no_grad()
def samples(
    model: Measurable, vae: str, q: Posterior, rng: torch.Generator, of: Tensor | slice = EVERY
) -> Samples:
    """DRAWS posterior samples of the rows `of`; a row's samples do not depend on `of`."""
    classes = all_operations()[of].to(model.device) + 1  # (n, T)
    matches, nats = [], []
    for _ in range(DRAWS):
        logits = logits_of(model.decoder(vae), sample_posterior(q, 1.0, rng)[of])
        matches.append((decode_logits(logits, "argmax") == classes).all(1).cpu())
        own = logits.gather(-1, classes[..., None])[..., 0]
        nats.append((logits.logsumexp(-1) - own).sum(1).double().mean().cpu())
    return Samples(torch.stack(matches), torch.stack(nats))


def robustness(model: Measurable, vae: str, q: Posterior, seed: int) -> dict[str, Measured]:
    """Exact match as the posterior's sigma is multiplied by 0 … 3, by name; M trials each."""
    rng = generator(seed, "robustness", vae, device=model.device)
    return {
        f"exact_match_at_sigma_{scale}": proportion(
            correct_trits(model, vae, sample_posterior(q, scale, rng)).all(1).cpu()
        )
        for scale in SCALES
    }


def subgroups(exact_matches: Tensor, split: Split) -> dict[str, Measured]:
    """Exact match on groups of operations outside the training split, from `exact_matches` (M,).

    unseen: validation and test; test: test alone; sparse: unseen, at most 3 entries that are not
    0; dense: unseen, no entry that is 0. The groups overlap, and a linear probe with 10 examples
    has them all, because a code composes trits.
    """
    ops, unseen = all_operations(), torch.cat([split.val, split.test])
    groups = {
        "unseen": unseen,
        "test": split.test,
        "sparse": unseen[(ops[unseen] != 0).sum(1) <= 3],
        "dense": unseen[(ops[unseen] != 0).all(1)],
    }
    return {
        f"exact_match_on_{name}": exact_value(float(exact_matches[rows].double().mean()), len(rows))
        for name, rows in groups.items()
    }
