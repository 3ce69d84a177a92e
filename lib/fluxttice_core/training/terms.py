"""The terms of the `axis_aligned` recipe, as functions of tensors.

Shape letters: B batch, D latents (16), T trits (9), C classes (3).
"""

import math

import torch
from torch import Tensor

from ..model.network import D, Posterior
from ..model.operations import C, T

OTHER_CLASSES = torch.tensor([[1, 2], [0, 2], [0, 1]])  # (C, 2): those other than the row's


def whitened(prior: Tensor) -> Tensor:
    """Prior latents (n, D), n > D, shifted and mixed to mean 0 and covariance I, exactly.

    Moment matching (Boyle, Broadie & Glasserman 1997, sec. 3): `uniformity_loss` is nearly linear
    in these moments, so it loses most of its noise.
    """
    z = prior - prior.mean(0)
    root = torch.linalg.cholesky(z.T @ z / len(z))
    return torch.linalg.solve_triangular(root, z.T, upper=False).T


def uniformity_loss(logits: Tensor) -> Tensor:
    """Chi-square distance of the decoder's marginal from uniform, orders 1 and 2; a scalar.

    With g = p - 1/3 (B, T, C), order 1 is 3·Σ_t ‖E g_t‖² and order 2 is 9·Σ_{t<s} ‖E g_t g_sᵀ‖².
    They are the first terms of M·Σ_x P(x)² - 1 = Σ_S 3^|S|·‖E Π_{t in S} g_t‖² over sets S of
    trits. The estimate is unbiased at every batch size, so it may be below 0.

    Args:
        logits: (B, T, C) at B independent prior latents, B ≥ 2.
    """
    b = len(logits)
    g = logits.softmax(-1) - 1 / C  # (B, T, C)
    norms = g.square().sum(-1)  # (B, T): ‖g_t‖² of each latent
    flat = g.flatten(1)  # (B, T·C)
    sums = (flat.T @ flat).view(T, C, T, C)  # Σ_B g_t g_sᵀ
    squares = sums.square().sum((1, 3))  # (T, T)

    # The squared norm of a sum over latents, less each latent's product with itself, is the sum
    # over pairs of different latents: a U-statistic, which has no bias.
    order_1 = C * (flat.sum(0).square().sum() - norms.sum())

    # The same for the products g_t g_sᵀ. Each pair of trits occurs as (t, s) and as (s, t), so
    # the sum over all t ≠ s is halved.
    same_latent = norms.sum(1).square() - norms.square().sum(1)
    different_trits = squares.sum() - squares.diagonal().sum()
    order_2 = C * C / 2 * (different_trits - same_latent.sum())

    return (order_1 + order_2) / (b * (b - 1))


def nonlinearity_loss(logits: Tensor, midpoints: Tensor) -> Tensor:
    """Var[f((z+z')/√2) - (f(z)+f(z'))/√2] / Var[f(z)]; a scalar ≥ 0.

    It is 0 if and only if the logits f are affine on the prior.

    Args:
        logits: (2h, T, C), f at independent prior latents. In their first half, each z is paired
            with its neighbour z'.
        midpoints: (h, T, C), f at (z + z')/√2, which is distributed like the prior, too.
    """
    half = logits[: len(midpoints)].flatten(1)
    difference = midpoints.flatten(1) - (half + half.roll(1, 0)) / math.sqrt(2)
    # An affine f has a constant difference, which the variance ignores. The denominator has no
    # gradient, so that larger logits don't lower the loss.
    return difference.var(0).sum() / half.detach().var(0).sum()


def quartimax(w: Tensor, steps: int = 200) -> Tensor:
    """The rotation R (D, D) that maximises Σ (W R)⁴, so that W R is sparse; W (n, D).

    A rotation keeps the norm of each row (Neuhaus & Wrigley 1954). The objective is convex, so
    the polar factor of its gradient is an ascent step (Zhai et al. 2020, Complete dictionary
    learning via l4-norm maximization).
    """
    r = torch.eye(w.shape[1], dtype=w.dtype)
    for _ in range(steps):
        u, _, v = torch.linalg.svd(w.T @ (w @ r) ** 3)
        r = u @ v
    return r


def normalised_margins(q: Posterior, w: Tensor, c: Tensor, x: Tensor) -> Tensor:
    """Mean / standard deviation of the true class's margin over each other class: (B, T·2).

    The margin is (w_x - w_r)·z + c_x - c_r for the true class x and another class r. It is
    Gaussian under q(z|x) = N(mu, diag σ²), so class r wins with probability Φ(-margin/sd).

    Args:
        w, c: the decoder's `linear_fit`.
        x: operations (B, T) in {-1, 0, 1}.
    """
    # The margins of every class over the two others, whichever is true.
    w, c = w.view(T, C, 1, D), c.view(T, C, 1)
    weights = (w - w[:, OTHER_CLASSES, 0]).flatten(0, 2).T  # (D, T·C·2)
    offsets = (c - c[:, OTHER_CLASSES, 0]).flatten()  # (T·C·2,)
    mean = q.mu @ weights + offsets
    variance = q.logvar.exp() @ weights.square()

    # Each trit keeps the two margins of its true class.
    true = 2 * (C * torch.arange(T) + x + 1)  # (B, T): their place among T·C·2
    true = (true[..., None] + torch.arange(2)).flatten(1)  # (B, T·2)
    return mean.gather(1, true) / variance.gather(1, true).sqrt()
