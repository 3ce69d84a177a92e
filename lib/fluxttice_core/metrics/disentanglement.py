"""Disentanglement: whether single latents own single trits. All M operations are there, each once,
so nothing is drawn and the nine factors are exactly independent and uniform.

A unit whose mean varies by less than 0.01 (`codes.ACTIVE`) says nothing and counts as none; above
that, scale, sign and order of the latents change nothing, and a rotation does.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..model.operations import C, M, T, all_operations
from .codes import active
from .results import Measured, exact_value

BINS = 20


@torch.no_grad()
def mig(mu: Tensor) -> Measured:
    """Mutual information gap: mean over trits of (I₁ - I₂) / ln 3, 0 … 1, `mu` (M, D).

    I₁ and I₂ are the largest two of I(latent; trit) over the latents, the latent in 20 bins of
    equal width over its range (Chen et al. 2018, Isolating sources of disentanglement, sec. 4.1).
    Of the means: they are what the code says before noise. The plug-in's bias, at most
    19·2/(2M) = 0.001 nats a term, is left in.
    """
    low, high = mu.double().aminmax(dim=0)
    bins = ((mu.double() - low) / (high - low).clamp(min=1e-30) * BINS).long().clamp(max=BINS - 1)
    trits = _onehot(mu.device)
    counts = torch.zeros(mu.shape[1], BINS, T * C, dtype=torch.float64, device=mu.device)
    for dimension, column in zip(counts, bins.T, strict=True):
        dimension.index_add_(0, column, trits)
    joint = counts.view(-1, BINS, T, C) / M
    entr = torch.special.entr
    mutual = entr(joint.sum(3)).sum(1) + math.log(C) - entr(joint).sum((1, 3))  # (D, T), nats
    top = (mutual * active(mu)[:, None]).topk(2, dim=0).values  # (2, T)
    return exact_value(float((top[0] - top[1]).mean() / math.log(C)), M)


@torch.no_grad()
def dci_disentanglement(mu: Tensor) -> Measured:
    """DCI's disentanglement: Σ_j ρ_j·(1 - H_9(R_j.)), 0 … 1 (Eastwood & Williams 2018, sec. 2).

    H_9 is the entropy to base 9 of a row made to sum to 1, ρ_j the row's share of all R. 1: no
    latent's mean depends on two trits by themselves (what it has of products of trits, R does not
    see, and `mig` does). 0 where no unit is active.

    R_jk = Var_k(E[mu_j | trit k]) / Var(mu_j), the squared correlation ratio, and in this full
    factorial exactly the first-order Sobol index. It stands in for the importances of a fitted
    probe: no fit, no hyperparameter, and where codes are additive in the trits, what a linear probe
    weighs by its squared coefficients.
    """
    x = mu.double() - mu.double().mean(0)
    means = (x.T @ _onehot(mu.device) / (M / C)).view(-1, T, C)  # E[mu_j | trit k = c]
    share = means.square().mean(2) / x.square().mean(0).clamp(min=1e-30)[:, None]
    r = share * active(mu)[:, None]  # (D, T)
    weight = r.sum(1)
    rows = r / weight.clamp(min=1e-30)[:, None]
    entropy = torch.special.entr(rows).sum(1) / math.log(T)
    return exact_value(float((weight / weight.sum().clamp(min=1e-30) * (1 - entropy)).sum()), M)


def _onehot(device: torch.device) -> Tensor:
    return one_hot(all_operations() + 1, C).flatten(1).double().to(device)  # (M, T·C)
