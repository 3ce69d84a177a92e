"""What a decoder generates, computed instead of sampled: its distribution over all operations.

K latents of the prior are streamed through the decoder. From each come nine independent
three-way distributions, hence p(x|z) for every operation x at once, and their mean over the
latents estimates P(x) = E_z p(x|z). The only error left is that of K; it is estimated by a
delete-one-group jackknife over 20 groups of latents, which also takes out the bias of order 1/K
that a plug-in of P has in curved functions (Efron & Stein 1981; Miller 1974, The jackknife).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import threshold

from ..errors import InputError
from ..model.network import Decode, prior
from ..model.operations import C, M, T
from ..model.streams import generator
from .intervals import jackknife_half
from .results import Measured

LIMIT_NATS = T * math.log(C)  # 9·ln 3 = 9.8875: what identifies one of M operations
GROUPS = 20
CHUNK = 2_500  # latents at a time: bounds the memory, whatever K is
SLICE = 2_048  # latents at a time through a decoder alone, whose layers then stay in the cache
TINY = 1e-15
# Fewest latents for a figure that is stored: unbiased coverage for N up to half of them, and what
# the jackknife leaves of the information's bias stays inside its interval (tested).
MIN_LATENTS = 400_000


@dataclass(frozen=True)
class Marginal:
    """Sums over K latents, by group.

    probability: (GROUPS, M) float64, Σ_z p(x|z); argmax: (GROUPS, M) int64, how many latents
    decode to x; entropy: (GROUPS,) float64, Σ_z Σ_i H(p_i(.|z)) in nats; k: latents in all.
    """

    probability: np.ndarray
    argmax: np.ndarray
    entropy: np.ndarray
    k: int

    @property
    def P(self) -> np.ndarray:
        """(M,), sums to 1 up to float32 rounding: the categorical marginal."""
        return self.probability.sum(0) / self.k

    @property
    def counts(self) -> np.ndarray:
        """(M,) int64, sums to k: how many of the latents decode to each operation by argmax."""
        return self.argmax.sum(0)


@torch.no_grad()
def marginal(
    decoder: Decode, k: int, seed: int, stream: str = "", device: str | torch.device = "cpu"
) -> Marginal:
    """Stream `k` prior latents through `decoder` (B, D) → (B, T, C); memory does not grow with k.

    Raises:
        InputError: k is not a positive multiple of GROUPS (the groups must be of one size), or a
            logit is not a number.
    """
    if k < GROUPS or k % GROUPS:
        raise InputError(f"k is {k}, but must be a positive multiple of {GROUPS}.")
    rng = generator(seed, "marginal", stream, device=device)
    probability = torch.zeros(GROUPS, M // 81, 81, dtype=torch.float64, device=device)
    argmax = torch.zeros(GROUPS, M, dtype=torch.int64, device=device)
    entropy = torch.zeros(GROUPS, dtype=torch.float64, device=device)
    powers = (C ** torch.arange(T, device=device)).float()
    size, parts = k // GROUPS, math.ceil(k // GROUPS / CHUNK)
    for group in range(GROUPS):
        for part in range(parts):
            n = size * (part + 1) // parts - size * part // parts
            p, nats, classes = trit_distributions(decoder(prior(n, rng)))
            # Trits 0-3 are the low digits of the index, 4-8 the high ones: one product is all of P.
            probability[group] += (_outer(p[4:]) @ _outer(p[:4]).T).double()
            argmax[group] += torch.bincount((powers @ classes).long(), minlength=M)
            entropy[group] += nats.double().sum()
    if not entropy.isfinite().all():
        raise InputError("the decoder gives logits that are not numbers: nothing can be measured.")
    summed = probability.flatten(1).cpu().numpy()
    return Marginal(summed, argmax.cpu().numpy(), entropy.cpu().numpy(), k)


def logits_of(decoder: Decode, z: Tensor) -> Tensor:
    """Logits (B, T, C) of many latents z (B, D), decoded in slices."""
    return torch.cat([decoder(part) for part in z.split(SLICE)])


def trit_distributions(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From logits (B, T, C): probabilities (T, C, B), entropy Σ_i H(p_i) in nats (B,), and the
    argmax classes (T, B), float32, the first of equals.

    Trit-major, so that everything is elementwise over long rows.
    """
    x = logits.permute(1, 2, 0).contiguous()  # (T, C, B)
    low, mid, high = x.unbind(1)  # (T, B) each
    best = torch.maximum(low, mid)
    classes = torch.where(high > best, 2.0, (mid > low).float())
    top = torch.maximum(best, high)
    x = (x - top[:, None]).clamp_(min=-69)  # e^-69 < TINY², and no denormal comes of it
    e = x.exp()
    total = e.sum(1)  # (T, B)
    entropy = (total.log() - (e * x).sum(1) / total).sum(0)
    return e.div_(total[:, None]), entropy, classes


def _outer(p: Tensor) -> Tensor:
    """(n, C, B) → (C^n, B): products over the n trits, the first trit the lowest digit.

    What falls below TINY becomes 0, so that no denormal number slows the arithmetic; a latent
    loses less than M·TINY of its probability by that.
    """
    product = threshold(p[0], TINY, 0.0)
    for trit in p[1:]:
        product = threshold((trit[:, None] * product[None]).flatten(0, 1), TINY, 0.0)
    return product


# --- Functions of a marginal ------------------------------------------------------------------


def shannon_nats(p: np.ndarray) -> float:
    """H(P) = -Σ P ln P, nats; 0 … ln M."""
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum())


Functional = Callable[[np.ndarray, np.ndarray, float], float]


def leave_one_out(m: Marginal, function: Functional) -> tuple[float, np.ndarray]:
    """A function of P (M,), counts (M,) and mean entropy, nats: of all groups, and with each one
    left out (GROUPS,)."""
    p, counts, entropy = m.probability.sum(0), m.argmax.sum(0), m.entropy.sum()
    whole, rest = function(p / m.k, counts, entropy / m.k), m.k - m.k // GROUPS
    left_out = [
        function((p - one) / rest, counts - drawn, (entropy - nats) / rest)
        for one, drawn, nats in zip(m.probability, m.argmax, m.entropy, strict=True)
    ]
    return whole, np.array(left_out)


def jackknife(m: Marginal, function: Functional, limit: float, span: bool = False) -> Measured:
    """A function as in `leave_one_out`, bias-corrected, with Student's t over the groups.

    With `span` the interval also reaches as far from the uncorrected value: where the correction
    overshoots, the truth lies between the two. Value and interval are cut to 0 … `limit`, where
    the truth is known to lie.
    """
    whole, left_out = leave_one_out(m, function)
    value = GROUPS * whole - (GROUPS - 1) * left_out.mean()
    half = jackknife_half(left_out)
    low = (min(value, whole) if span else value) - half
    value, low, high = (float(min(limit, max(0, v))) for v in (value, low, value + half))
    return Measured(value=value, low=low, high=high, n=m.k, method=f"jackknife, {GROUPS} groups")


def generator_information(m: Marginal) -> Measured:
    """Generative information I(x;z) = H(P) - E_z Σ_i H(p_i(.|z)), nats: 0 … 9·ln 3.

    High only where the prior reaches every operation evenly and the latent decides which: a
    collapsed, a mode-dropping or a fresh decoder scores low. Sharp logits count for much of it
    (see `controls.random_linear`), so it is read above what random maps have.
    """
    return jackknife(m, lambda p, _counts, entropy: shannon_nats(p) - entropy, LIMIT_NATS)


def argmax_entropy(m: Marginal) -> Measured:
    """Entropy of the argmax marginal, nats: 0 … 9·ln 3. Argmax decoding is a function of z, so
    this is also its information, and no scale of the logits changes it."""
    return jackknife(m, lambda _p, counts, _: shannon_nats(counts / counts.sum()), LIMIT_NATS)


def kl_to_uniform(m: Marginal) -> Measured:
    """KL(P ‖ uniform) = ln M - H(P), nats, ≥ 0, of the categorical marginal."""
    h = jackknife(m, lambda p, *_: shannon_nats(p), LIMIT_NATS)
    return h.map(lambda nats: LIMIT_NATS - nats)
