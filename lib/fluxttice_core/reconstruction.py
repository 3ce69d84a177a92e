"""Reconstruction: which operations come back whole, each VAE alone."""

import torch
from torch import Tensor

from .intervals import clopper_pearson
from .model import DualVAE, read_out
from .operations import Split, all_operations


@torch.no_grad()
def matches(model: DualVAE, vae: str, ops: Tensor) -> Tensor:
    """(n,) bool: does argmax decoding of the posterior mean return all nine trits of `ops` (n, T)?

    No cross-injection, and no other encoder: what this VAE does on its own.
    """
    logits = model.decoder(vae)(model.encode(ops, vae))
    return (read_out(logits, "argmax") - 1 == ops.to(logits.device)).all(1)


def share(hits: Tensor) -> dict:
    """`{share, n, ci95}` of a (n,) bool tensor; the interval is Clopper and Pearson's."""
    successes, n = int(hits.sum()), hits.numel()
    return {"share": successes / n, "n": n, "ci95": list(clopper_pearson(successes, n))}


def exact_match(model: DualVAE, vae: str, split: Split) -> dict[str, dict]:
    """`share` of `matches` on each part of the split; "test" holds operations never trained on."""
    hits = matches(model, vae, all_operations().to(model.device))
    return {part: share(hits[index]) for part, index in split}
