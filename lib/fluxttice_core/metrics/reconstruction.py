"""Reconstruction: which operations come back, each VAE alone (no cross-injection, ever).

Shape letters: M operations, D latent, T trits.
"""

import torch
from torch import Tensor

from ..metrics.intervals import clopper_pearson
from ..model.network import DualVAE, Posterior, read_out
from ..model.operations import Split, all_operations
from ..model.streams import generator

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)


@torch.no_grad()
def posterior(model: DualVAE, vae: str) -> Posterior:
    """q(z|x) of every operation by the VAE's own encoder: mu and logvar, (M, D) each."""
    return model.encoder(vae)(all_operations().float().to(model.device))


@torch.no_grad()
def right_trits(model: DualVAE, vae: str, codes: Tensor) -> Tensor:
    """(M, T) bool: which trits argmax decoding of `codes` (M, D), one an operation, returns."""
    classes = read_out(model.decoder(vae)(codes), "argmax")
    return classes - 1 == all_operations().to(model.device)


def share(hits: Tensor) -> dict:
    """`{share, n, ci95}` of a (n,) bool tensor; the interval is Clopper and Pearson's."""
    successes, n = int(hits.sum()), hits.numel()
    return {"share": successes / n, "n": n, "ci95": list(clopper_pearson(successes, n))}


def drawn(q: Posterior, scale: float, rng: torch.Generator) -> Tensor:
    """One code an operation, mu + scale·sigma·eps: (M, D). Scale 0 is the posterior mean."""
    eps = torch.randn(q.mu.shape, generator=rng, device=rng.device)
    return q.mu + scale * (q.logvar / 2).exp() * eps.to(q.mu.device)


def by_split(right: Tensor, split: Split) -> dict[str, dict]:
    """For each part: exact match `{share, n, ci95}` and `per_trit`, its mean over single trits."""
    return {
        part: {**share(right[index].all(1)), "per_trit": float(right[index].double().mean())}
        for part, index in split
    }


def robustness(model: DualVAE, vae: str, q: Posterior, seed: int) -> list[dict[str, float]]:
    """Exact match on all operations as q's standard deviation is scaled 0 … 3.

    `{scale, exact_match}`; one draw an operation and scale, so M binomial trials each.
    """
    rng = generator(seed, "robustness", vae, device=model.device)
    return [
        {"scale": s, "exact_match": float(_exact(model, vae, drawn(q, s, rng)))} for s in SCALES
    ]


def _exact(model: DualVAE, vae: str, codes: Tensor) -> Tensor:
    return right_trits(model, vae, codes).all(1).double().mean()
