"""The likelihood: what a model gives the data, what its codes cost, and what they must cost.

Everything is in nats and over all M operations at once, which are equally likely in the data.
P is the categorical marginal, q the encoder's posterior, p = N(0, I) the prior.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize, stats
from scipy.special import ndtri
from torch import Tensor

from ..model.network import D, Posterior
from ..model.operations import C, M, T
from .codes import _log_mixture, kl_nats
from .intervals import CONFIDENCE
from .marginal import TINY, Marginal
from .reconstruction import drawn
from .results import Measured, exact, mean, share

LN_M = math.log(M)
TERCILE = float(ndtri(2 / 3))  # 0.4307: a third of N(0, 1) lies above it
RADIUS = float(stats.chi.ppf(0.999, D))  # 6.265: the norm of a prior latent is below it in 99.9 %
ROUNDING = 1e-5  # of every interval: float32 in the products of nine softmaxes and their sums
SLICE = 2_048  # latents at a time through a decoder, whose layers then stay in the cache

# --- What is generated -------------------------------------------------------------------------


def nll(m: Marginal) -> Measured:
    """NLL = mean_x -ln P(x), nats: ln M (P uniform) … ∞.

    The plug-in is too high by half of the relative variance v of P̂(x), 1/(2·count) where logits
    are sharp. With v and the relative third cumulant κ of P̂ by k-statistics over the groups,

        -ln P̂ - v/2 - 2κ/3 + 3v²/4

    is right to second order in 1/K for any p(x|z). For certain decoders it is the digamma estimate
    -ψ(count + 1) + ln K, right to e^-(K·P) (Grassberger 2003, Entropy estimates from insufficient
    samplings). Interval: Student t over leave-one-group-out values (Efron & Stein 1981: their
    variance is never too small on average).

    None, with the number of operations that are to blame, where P(x) cannot be told from 0: all
    of it comes from one group of latents (the least of the NLL is then unknown), or is of the size
    of what `marginal` drops.
    """
    s = m.probability.sum(0)
    lost = (m.probability.max(0) > 0.95 * s) | (s <= 1e3 * TINY * m.k)
    if lost.any():
        why = f"not told: P(x) of {lost.sum()} operations cannot be told from 0"
        return Measured(value=None, low=None, high=None, n=m.k, method=why)

    def statistic(p: np.ndarray, v: np.ndarray, v2: np.ndarray, k3: np.ndarray) -> np.ndarray:
        return (-np.log(p) - v / 2 - 2 * k3 / 3 + 3 * v2 / 4).mean(-1)

    return _cut(_over_groups(m.probability, m.k, statistic), LN_M, math.inf)


def kl_uniform_p(negative: Measured) -> Measured:
    """KL(uniform ‖ P) = NLL - ln M, nats, ≥ 0, of `nll`: infinite where an operation is never
    generated, and then None, as the NLL is."""
    return _plus(negative, -LN_M)


def bits_per_trit(negative: Measured) -> Measured:
    """NLL / (9·ln 2), bits, of `nll`: log2 3 = 1.585 for a perfect generator."""
    return negative.of(T * math.log(2))


def effective_support(m: Marginal, how: str = "categorical") -> Measured:
    """exp H(P) / M, share of M: the size of the uniform distribution that is as uncertain as P.

    `how`: the categorical or the argmax marginal (which no scale of the logits changes). H is
    corrected as `nll` is: Σ_x P̂(-ln P̂ + v/2 + κ/3 - v²/4). An operation never generated counts
    as none.
    """

    def entropy(p: np.ndarray, v: np.ndarray, v2: np.ndarray, k3: np.ndarray) -> np.ndarray:
        return (p * (-np.log(np.maximum(p, TINY)) + v / 2 + k3 / 3 - v2 / 4)).sum(-1)

    h = _cut(_over_groups(_groups(m, how), m.k, entropy), 0.0, LN_M)
    ends = {key: math.exp(getattr(h, key)) / M for key in ("value", "low", "high")}
    return h.model_copy(update=ends)


def inverse_simpson(m: Marginal, how: str = "categorical") -> Measured:
    """1 / (M·Σ_x P(x)²), share of M: the size that a birthday test sees, 1 / P(two draws agree).

    Σ P² is unbiased, from pairs of different groups: P̂²·(1 - v). Simpson 1949, Measurement of
    diversity. `how` as in `effective_support`.
    """

    def statistic(p: np.ndarray, v: np.ndarray, _v2: np.ndarray, _k3: np.ndarray) -> np.ndarray:
        return 1 / (M * (p**2 * (1 - v)).sum(-1))

    return _cut(_over_groups(_groups(m, how), m.k, statistic), 0.0, 1.0)


def _groups(m: Marginal, how: str) -> np.ndarray:
    return {"categorical": m.probability, "argmax": m.argmax.astype(float)}[how]


def _over_groups(groups: np.ndarray, k: int, statistic: Callable[..., np.ndarray]) -> Measured:
    """`statistic` of P̂, of its relative variance v, of v² and of its relative third cumulant, each
    (…, M), from `groups` (G, M); Student t over the values with one group left out."""
    g = len(groups)
    powers = np.stack([groups, groups**2, groups**3])
    sums = powers.sum(1)
    whole = float(statistic(*_moments(sums, g, k)))
    left_out = statistic(*_moments(sums[:, None] - powers, g - 1, k * (g - 1) / g))
    spread = (g - 1) / g * np.square(left_out - left_out.mean()).sum()
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, g - 1) * math.sqrt(spread)) + ROUNDING
    method = f"second order, {g} groups left out in turn"
    return Measured(value=whole, low=whole - half, high=whole + half, n=k, method=method)


def _moments(sums: np.ndarray, g: int, k: float) -> tuple[np.ndarray, ...]:
    """From Σ y, Σ y², Σ y³ over g groups: P̂, and unbiased cumulants of it relative to it (Fisher's
    k-statistics; v² as for a normal v). 0 where nothing was seen."""
    s1, s2, s3 = sums
    seen = np.where(s1 > 1e-12, s1, np.inf)  # below it only rounding is left
    a, b = s2 / seen / seen, s3 / seen / seen / seen
    one = (s1 > 1e-12).astype(float)
    v = g / (g - 1) * (a - one / g)
    k3 = g * g / ((g - 1) * (g - 2)) * (b - 3 * a / g + 2 * one / g**2)
    return np.maximum(s1, 0) / k, v, (g - 1) / (g + 1) * v**2, k3


def _cut(x: Measured, low: float, high: float) -> Measured:
    ends = {key: min(high, max(low, getattr(x, key))) for key in ("value", "low", "high")}
    return x.model_copy(update=ends)


def _plus(x: Measured, constant: float) -> Measured:
    if x.value is None:
        return x
    ends = {key: getattr(x, key) + constant for key in ("value", "low", "high")}
    return x.model_copy(update=ends)


# --- What codes cost ---------------------------------------------------------------------------


def rate(q: Posterior) -> Measured:
    """R = E_x KL(q(z|x) ‖ N(0, I)), nats an operation, ≥ 0: exact, in closed form. At least
    I_q(x; z), so at least ln M for codes that lose nothing."""
    return exact(float(kl_nats(q.mu.double(), q.logvar.double()).sum(1).mean()), len(q.mu))


@torch.no_grad()
def distortion(
    decoder: Callable[[Tensor], Tensor], q: Posterior, rng: torch.Generator, draws: int = 10
) -> Measured:
    """D = -E_x E_q(z|x) ln p(x|z), nats, ≥ 0: `draws` ≥ 2 codes of every operation, Student t over
    the means of the draws. q is of all M operations, in their order."""
    right = torch.arange(M, device=q.mu.device)[:, None] // C ** torch.arange(T, device=q.mu.device)
    right = (right % C)[..., None]  # (M, T, 1)

    def nats() -> float:
        parts = zip(drawn(q, 1.0, rng).split(SLICE), right.split(SLICE), strict=True)
        said = [decoder(z).log_softmax(-1).gather(-1, x).sum((1, 2)) for z, x in parts]
        return -float(torch.cat(said).double().mean())

    return mean([nats() for _ in range(draws)], low=0.0)


def elbo(r: Measured, d: Measured) -> Measured:
    """ELBO = -(R + D) ≤ -NLL, nats (Kingma & Welling 2014, eq. 3), of `rate` and `distortion`."""
    ends = {"value": -(r.value + d.value), "low": -(r.high + d.high), "high": -(r.low + d.low)}
    return d.model_copy(update=ends)


def posterior_gap(bound: Measured, negative: Measured) -> Measured:
    """-NLL - ELBO = E_x KL(q(z|x) ‖ p(z|x)), nats, ≥ 0, of `elbo` and `nll`: what the posterior is
    away from the decoder's own. The ends of both intervals are added up: at least 95 %."""
    if negative.value is None:
        return negative
    ends = {
        "value": -negative.value - bound.value,
        "low": -negative.high - bound.high,
        "high": -negative.low - bound.low,
    }
    return _cut(bound.model_copy(update=ends), 0.0, math.inf)


@torch.no_grad()
def mutual_information(q: Posterior, rng: torch.Generator, n: int = 400) -> Measured:
    """I_q(x; z) = E_x E_q(z|x)[ln q(z|x) - ln q(z)], nats: 0 (codes say nothing) … ln M.

    n draws; the mixture q(z) over all operations is evaluated exactly, so the mean is unbiased.
    R = I_q + KL(q(z) ‖ p) (Hoffman & Johnson 2016, ELBO surgery), `rate` and `aggregate_kl`.
    """
    mu, logvar = q.mu.double(), q.logvar.double()
    pick = torch.randint(len(mu), (n,), generator=rng, device=mu.device)
    eps = torch.randn(n, mu.shape[1], generator=rng, device=mu.device, dtype=torch.float64)
    z = mu[pick] + (logvar[pick] / 2).exp() * eps
    mixture = torch.cat([_log_mixture(part, mu, logvar) for part in z.split(250)])
    own = -0.5 * (eps.square() + logvar[pick]).sum(1)  # without the constant, as the mixture
    return mean((own - mixture).cpu().numpy(), low=0.0, high=math.log(len(mu)))


class Cells(NamedTuple):
    """Posteriors of one trit in straight cells: N(±mean, outer²) of ±1, N(0, middle²) of 0.

    nats: the rate of nine such trits.
    """

    nats: float
    mean: float
    outer: float
    middle: float


def straight_cells(exact_match: float) -> Cells:
    """The cheapest Gaussian posteriors in cells cut at the terciles of each of nine latents.

    Per trit, KL(N(m, s²) ‖ N(0, 1)) at an error e of leaving the cell: the middle one (-c, c) has
    m = 0 and s = c / Φ⁻¹(1 - e₀/2), an outer one m = c + q·s with q = Φ⁻¹(1 - e₁), whose best s
    solves (1 + q²)s² + cqs = 1. The errors are shared out at the least mean cost, their mean over
    the three classes being 1 - exact_match^(1/9). Range of exact_match: 1/M … below 1.
    """
    total = 3 * (1 - exact_match ** (1 / T))  # e₀ + 2·e₁

    def cells(e0: float) -> Cells:
        q = -ndtri((total - e0) / 2)
        s = (-TERCILE * q + math.sqrt((TERCILE * q) ** 2 + 4 * (1 + q * q))) / (2 * (1 + q * q))
        m, s0 = TERCILE + q * s, -TERCILE / ndtri(e0 / 2)
        outer, middle = (0.5 * (a * a + b * b - 1) - math.log(a) for a, b in ((s, m), (s0, 0.0)))
        return Cells(float(T / C * (middle + 2 * outer)), float(m), float(s), float(s0))

    ends = max(total - 4 / 3, 1e-9 * total), min(total * (1 - 1e-9), 2 / 3)  # no error above 2/3
    best = optimize.minimize_scalar(
        lambda e0: cells(e0).nats, bounds=ends, method="bounded", options={"xatol": 1e-9 * total}
    )
    return cells(best.x)


def least_rate(exact_match: float) -> float:
    """Least rate, nats, of straight axis-aligned cells with diagonal Gaussian posteriors at a share
    of operations that come back whole from a posterior sample: 0 up to 1/M (guessing), ∞ at 1.

    A limit of that family only (`straight_cells`); ln M = 9.8875 is that of all lossless codes.
    """
    if exact_match <= 1 / M:
        return 0.0
    return straight_cells(exact_match).nats if exact_match < 1 else math.inf


def prior_norm_share(q: Posterior, rng: torch.Generator) -> Measured:
    """Share of posterior samples, one an operation, whose norm is below RADIUS = 6.265.

    The norm of a prior latent (χ with D degrees of freedom) is below it in 99.9 % of draws, so
    codes beyond it lie where nothing is generated. One tail only: near 0 the prior's density is
    highest, and a code there is no way out.
    """
    return share((drawn(q, 1.0, rng).norm(dim=1) < RADIUS).cpu().numpy())
