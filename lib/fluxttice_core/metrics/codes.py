"""The latent space, read from encoded operations and never from fresh noise."""

import math

import torch
from torch import Tensor

from ..model.network import Posterior
from ..model.streams import generator
from .results import Measured, mean

BINS, RANGE = 50, 3.0
ACTIVE = 0.01  # variance of the posterior mean above which a unit counts as active


def entropy_nats(codes: Tensor) -> float:
    """The original system's latent entropy: mean over dimensions of a histogram's entropy.

    50 equal bins on [-3, 3]; 0 … ln 50 = 3.912 nats. Codes outside are dropped silently by the
    original's histogram; `share_outside` says how many that are. `codes`: (n, D), finite.
    """
    d = codes.shape[1]
    bins = ((codes + RANGE) * (BINS / (2 * RANGE))).floor().long()
    bins = bins.where(codes != RANGE, BINS - 1)  # the last bin is closed, as in torch.histc
    inside = codes.abs() <= RANGE
    flat = (bins.clamp(0, BINS - 1) + BINS * torch.arange(d, device=codes.device))[inside]
    counts = torch.bincount(flat, minlength=d * BINS).view(d, BINS).double()
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return float(torch.special.entr(p).sum(1).mean())


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


def aggregate_kl(q: Posterior, seed: int, stream: str, n: int = 400) -> Measured:
    """KL(q(z) ‖ N(0, I)) of the aggregate posterior q(z) = mean_x q(z|x), nats, ≥ 0.

    E_q[ln q(z) - ln p(z)] over `n` draws of q(z), with the mixture over all operations evaluated
    exactly, so the mean is unbiased. It is the part of the ELBO's KL that costs coverage
    (Hoffman & Johnson 2016, ELBO surgery, eq. 3).
    """
    rng = generator(seed, "aggregate", stream, device=q.mu.device)
    mu, logvar = q.mu.double(), q.logvar.double()
    pick = torch.randint(len(mu), (n,), generator=rng, device=mu.device)
    eps = torch.randn(n, mu.shape[1], generator=rng, device=mu.device, dtype=torch.float64)
    z = mu[pick] + (logvar[pick] / 2).exp() * eps
    ratio = torch.cat([_log_mixture(part, mu, logvar) for part in z.split(250)])
    ratio += 0.5 * z.square().sum(1)  # the constants of q and p cancel
    return mean(ratio.cpu().numpy(), low=0.0)


def _log_mixture(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """ln mean_x N(z; mu_x, σ²_x) + D/2·ln 2π for z (n, D), as three matrix products: (n,)."""
    precision = (-logvar).exp()  # (M, D)
    square = z.square() @ precision.T - 2 * z @ (mu * precision).T
    square += (mu.square() * precision + logvar).sum(1)
    return torch.logsumexp(-0.5 * square, 1) - math.log(len(mu))
