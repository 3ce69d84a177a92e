"""The tie between what is generated and what is encoded."""

import torch

from ..model.network import Measurable, decode_logits, prior
from .marginal import SLICE
from .results import Measured, share

STEPS = [step / 10 for step in range(1, 11)]  # t = 0.1 … 1
N = 20_000  # prior latents


@torch.no_grad()
def cell_connection(model: Measurable, vae: str, rng: torch.Generator, n: int = N) -> Measured:
    """Share of z ~ N(0, I) that a straight line inside one cell joins to its operation's own code.

    decode((1 - t)·z + t·mu(decode(z))) = decode(z) at every t = 0.1 … 1, argmax: 0 … 1. It needs
    generator and encoder to mean the same by a code; a network whose prior latents decode to
    anything else than the codes beside them scores about 0. A decoder that ignores z has 1 as well:
    this says that the two agree, not what they know. n independent draws, Clopper-Pearson.
    """
    encoder, decoder, hits = model.encoder(vae), model.decoder(vae), []
    for z in prior(n, rng).split(SLICE):
        classes = decode_logits(decoder(z), "argmax")  # (B, T)
        code = encoder((classes - 1).float()).mu
        stays = [decode_logits(decoder(z.lerp(code, t)), "argmax") == classes for t in STEPS]
        hits.append(torch.stack(stays).all(0).all(1))
    return share(torch.cat(hits).cpu().numpy())
