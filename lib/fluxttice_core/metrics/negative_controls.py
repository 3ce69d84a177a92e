"""Networks that a certificate must refuse because each is wrong in one way that one gate is for.

Each is made of a network, whose other qualities it keeps.
"""

import torch
from scipy.special import ndtri
from torch import Tensor

from ..model.network import Decode, Functions, Measurable, decode_logits
from ..model.operations import C, T
from .rate import TERCILE


def scaled_logits(model: Measurable, factor: float) -> Functions:
    """`model` with its logits times `factor` > 0, which moves no argmax boundary.

    A factor of 10⁻⁶ leaves a uniform likelihood (a distortion of ln M = 9.89 nats), and one of 10²⁵
    makes each miss of a posterior sample cost some 10²⁵ nats.
    """

    def decoder(vae: str) -> Decode:
        decode = model.decoder(vae)
        return lambda z: factor * decode(z)

    return Functions(model.encoder, decoder, model.vaes, model.device)


def uneven(model: Measurable, times: float) -> Functions:
    """`model`, but the operation that is 0 everywhere is generated `times` as often by argmax.

    Its region is stretched (or shrunk) about its code z₀, so it stays around that code, and no line
    from inside it to z₀ leaves it: a latent z in it, or in what it becomes, decodes as
    z₀ + (z - z₀)/s does. `times` is exact where each trit is cut at the terciles of a latent of its
    own (`oracles.oracle`): there s turns the middle third of each of nine latents into
    times^(1/9)/3. Range: above 0, and below 3⁹.
    """
    stretch = float(ndtri((1 + times ** (1 / T) / C) / 2)) / TERCILE
    zero = torch.zeros(1, T, device=model.device)

    def decoder(vae: str) -> Decode:
        decode = model.decoder(vae)
        with torch.no_grad():
            code = model.encoder(vae)(zero).mu

        def decode_uneven(z: Tensor) -> Tensor:
            before, after = decode(z), decode(code + (z - code) / stretch)
            changed = _is_zero(before) | _is_zero(after)
            return torch.where(changed[:, None, None], after, before)

        return decode_uneven

    return Functions(model.encoder, decoder, model.vaes, model.device)


def _is_zero(logits: Tensor) -> Tensor:
    """(B,) bool: whether all trits are 0 (class 1) by argmax, of logits (B, T, C)."""
    return (decode_logits(logits, "argmax") == 1).all(1)
