"""The latent space, read from encoded operations and never from fresh noise."""

import math

import torch
from torch import Tensor

BINS, RANGE = 50, 3.0
MAX_ENTROPY_NATS = math.log(BINS)
ACTIVE = 0.01  # variance of the posterior mean above which a unit counts as active


def entropy_nats(codes: Tensor) -> float:
    """The original system's latent entropy: mean over dimensions of a histogram's entropy.

    50 equal bins on [-3, 3]; 0 … ln 50 = 3.912 nats. Codes outside are dropped silently by the
    original's histogram; `share_outside` says how many that are. `codes`: (n, D), finite.
    """
    n, d = codes.shape
    bins = ((codes + RANGE) * (BINS / (2 * RANGE))).floor().long()
    bins = bins.where(codes != RANGE, BINS - 1)  # the last bin is closed, as in torch.histc
    inside = codes.abs() <= RANGE
    flat = (bins.clamp(0, BINS - 1) + BINS * torch.arange(d, device=codes.device))[inside]
    counts = torch.bincount(flat, minlength=d * BINS).view(d, BINS).double()
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return float(torch.special.entr(p).sum(1).mean())


def share_outside(codes: Tensor) -> float:
    """Share of the entries of `codes` outside [-3, 3], which `entropy_nats` does not see."""
    return float((codes.abs() > RANGE).double().mean())


def active_units(mu: Tensor) -> int:
    """Dimensions whose posterior mean varies over the data by more than 0.01: 0 … D.

    A_u = Var_x(E_q(u|x)[u]) > 0.01 (Burda et al. 2016, Importance Weighted Autoencoders, sec. 5.2).
    """
    return int((mu.double().var(0) > ACTIVE).sum())


def kl_nats(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) ‖ N(0, I)) by sample and dimension, nats, ≥ 0; shapes (B, D) → (B, D).

    ½(σ² + μ² - 1 - ln σ²), the closed form for Gaussians (Kingma & Welling 2014, appendix B).
    """
    return 0.5 * (logvar.exp() + mu.square() - 1 - logvar)
