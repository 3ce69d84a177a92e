"""The latent space, read from encoded operations and never from fresh noise."""

import torch
from torch import Tensor

BINS, RANGE = 50, 3.0
ACTIVE = 0.01  # variance of the posterior mean above which a unit counts as active


def entropy_nats(codes: Tensor) -> float:
    """The original system's latent entropy: mean over dimensions of a histogram's entropy.

    50 equal bins on [-3, 3]; 0 … ln 50 = 3.912 nats. Codes outside are dropped silently, as by the
    original's histogram. `codes`: (n, D), finite.
    """
    d = codes.shape[1]
    bins = ((codes + RANGE) * (BINS / (2 * RANGE))).floor().long()
    inside = codes.abs() <= RANGE
    # The last bin is closed, as in torch.histc.
    flat = (bins.clamp(0, BINS - 1) + BINS * torch.arange(d, device=codes.device))[inside]
    counts = torch.bincount(flat, minlength=d * BINS).view(d, BINS).double()
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return float(torch.special.entr(p).sum(1).mean())


def active(mu: Tensor) -> Tensor:
    """(D,) bool: dimensions whose posterior mean (n, D) varies over the data by more than 0.01.

    A_u = Var_x(E_q(u|x)[u]) > 0.01 (Burda et al. 2016, Importance Weighted Autoencoders, sec. 5.2).
    """
    return mu.double().var(0) > ACTIVE


def kl_nats(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) ‖ N(0, I)) by sample and dimension, nats, ≥ 0; shapes (B, D) → (B, D).

    ½(σ² + μ² - 1 - ln σ²), the closed form for Gaussians (Kingma & Welling 2014, appendix B).
    """
    return 0.5 * (logvar.exp() + mu.square() - 1 - logvar)
