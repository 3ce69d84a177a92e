"""Whether generator and encoder agree on the meaning of a latent."""

import torch
from torch import Tensor

from ..model.network import Measurable, decode_logits, prior
from .marginal import SLICE
from .results import Measured, proportion

STEPS = [step / 10 for step in range(1, 11)]  # t = 0.1 … 1
N = 20_000  # prior latents


def path_consistency(model: Measurable, vae: str, rng: torch.Generator, n: int = N) -> Measured:
    """Share of prior latents joined to their own code without leaving the decision region: 0 … 1.

    For z ~ N(0, I): decode((1 - t)·z + t·mu(decode(z))) = decode(z) at every t = 0.1 … 1, argmax.
    A network whose prior latents decode to other operations than the codes beside them scores
    about 0. A decoder that ignores z scores 1 too, because this metric only says that encoder and
    decoder agree. n independent draws, Clopper-Pearson.
    """
    return proportion(consistent_paths(model, vae, rng, n).cpu().numpy())


@torch.no_grad()
def consistent_paths(model: Measurable, vae: str, rng: torch.Generator, n: int = N) -> Tensor:
    """(n,) bool: which prior latents are joined so (see `path_consistency`)."""
    encoder, decoder, consistent = model.encoder(vae), model.decoder(vae), []
    for z in prior(n, rng).split(SLICE):
        classes = decode_logits(decoder(z), "argmax")  # (B, T)
        code = encoder((classes - 1).float()).mu
        stays = [decode_logits(decoder(z.lerp(code, t)), "argmax") == classes for t in STEPS]
        consistent.append(torch.stack(stays).all(0).all(1))
    return torch.cat(consistent)
