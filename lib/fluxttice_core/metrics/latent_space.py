"""The latent space: which latents are used, what each says of each trit, and what a code costs.

Computed from the posteriors of all M operations. Each operation counts once, so the nine trits are
exactly independent and uniform, and nothing is drawn.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..model.network import Posterior
from ..model.operations import C, M, T, all_operations
from .results import Measured, exact_value

ACTIVE = 0.01  # variance of the posterior mean above which a unit counts as active
BINS, RANGE = 50, 3.0
NODES = 2_048  # most nodes of the quadrature over one latent
PART = 64  # of its nodes at a time, so that distant posteriors can be left out
NEGLIGIBLE = 1e-6  # nats, less than the quadrature's error
REACH = 8.0  # standard deviations beyond which a posterior has less than 10⁻¹⁵ of its mass


def active_units(mu: Tensor) -> Tensor:
    """(D,) bool: dimensions whose posterior mean (n, D) varies over the data by more than 0.01.

    A_u = Var_x(E_q(u|x)[u]) > 0.01 (Burda et al. 2016, Importance Weighted Autoencoders, sec. 5.2).
    """
    return mu.double().var(0) > ACTIVE


def kl_nats(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) ‖ N(0, I)) by sample and dimension, nats, ≥ 0; shapes (B, D) → (B, D).

    ½(σ² + μ² - 1 - ln σ²), the closed form for Gaussians (Kingma & Welling 2014, appendix B).
    """
    return 0.5 * (logvar.exp() + mu.square() - 1 - logvar)


def entropy_nats(codes: Tensor) -> float:
    """The original system's latent entropy: mean over dimensions of a histogram's entropy.

    50 equal bins on [-3, 3]; 0 … ln 50 = 3.912 nats. Codes (n, D) outside are not counted, as in
    the original.
    """
    d = codes.shape[1]
    bins = ((codes + RANGE) * (BINS / (2 * RANGE))).floor().long()
    # The last bin is closed, as in torch.histc.
    flat = bins.clamp(0, BINS - 1) + BINS * torch.arange(d, device=codes.device)
    inside = flat[codes.abs() <= RANGE]
    counts = torch.bincount(inside, minlength=d * BINS).view(d, BINS).double()
    p = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return float(torch.special.entr(p).sum(1).mean())


@torch.no_grad()
def mutual_information_matrix(q: Posterior) -> Tensor:
    """I(z_j; trit k), nats, (D, T) float64, 0 … ln 3, where z is drawn from q(z|x).

    Given a trit, z_j is a mixture of the Gaussians of M/3 operations, so each entry is a
    one-dimensional integral. The trapezoid rule takes it with nodes half of the smallest standard
    deviation apart: within 10⁻⁵ nats (tested). A standard deviation below 1/1,024 of the latent's
    range is taken as that, which can only lower an entry.
    """
    trits = one_hot(all_operations() + 1, C).flatten(1).double().to(q.mu.device)  # (M, T·C)
    columns = zip(q.mu.double().T, (q.logvar.double() / 2).exp().T, strict=True)
    return torch.stack([_trit_information(mu, sigma, trits) for mu, sigma in columns])


def _trit_information(mu: Tensor, sigma: Tensor, trits: Tensor) -> Tensor:
    """One row of the matrix, (T,): `mu`, `sigma` (M,) of the latent, `trits` (M, T·C) one-hot."""
    total = torch.zeros(T, dtype=mu.dtype, device=mu.device)
    width = float((mu + REACH * sigma).max() - (mu - REACH * sigma).min())
    if width == 0:  # one point for every operation
        return total
    sigma = sigma.clamp(min=2 * width / NODES)
    low, high = float((mu - REACH * sigma).min()), float((mu + REACH * sigma).max())
    step = float(sigma.min()) / 2
    for part in torch.arange(low, high + step, step, dtype=mu.dtype, device=mu.device).split(PART):
        near = (mu + REACH * sigma > part[0]) & (mu - REACH * sigma < part[-1])
        m, s = mu[near], sigma[near]
        heights = (-0.5 * ((part[:, None] - m) / s).square()).exp_() / s  # (nodes, near)
        p = (heights @ trits[near]).view(-1, T, C) / (M * math.sqrt(2 * math.pi))  # p(z, trit)
        # Σ_c p(z, c)·ln(p(z, c) / (p(z)/3)); xlogy makes 0·ln 0 zero.
        total += (torch.xlogy(p, p) - torch.xlogy(p, p.sum(2, keepdim=True) / C)).sum((0, 2))
    return (total * step).clamp(0, math.log(C))


def mig(information: Tensor) -> Measured:
    """Mutual information gap: mean over trits of (I₁ - I₂) / ln 3, 0 … 1.

    I₁ and I₂ are a trit's two largest entries of `mutual_information_matrix` (D, T) (Chen et al.
    2018, Isolating sources of disentanglement, sec. 4.1). 1: each trit has a latent that decides it
    and no other latent knows of it, though one latent may decide several.
    """
    first, second = information.topk(2, dim=0).values  # (T,) each
    return exact_value(float((first - second).mean() / math.log(C)), M)


def mi_disentanglement(information: Tensor) -> Measured:
    """Disentanglement by the rows of `mutual_information_matrix` (D, T): Σ_j w_j·(1 - H₉(row j)).

    H₉ is the entropy to base 9 of a row made to sum to 1, w_j the row's share of the matrix. 0 … 1:
    1 if no latent knows of two trits, though two latents may know of one. DCI's disentanglement has
    this form (Eastwood & Williams 2018, sec. 2), with a fitted predictor's importances as matrix.
    """
    weight = information.sum(1)  # (D,)
    rows = information / weight.clamp(min=NEGLIGIBLE)[:, None]
    known = weight * (1 - torch.special.entr(rows).sum(1) / math.log(T))
    return exact_value(float(known.sum() / weight.sum().clamp(min=NEGLIGIBLE)), M)
