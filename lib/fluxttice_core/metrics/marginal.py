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
from scipy import stats
from torch import Tensor
from torch.nn.functional import threshold

from ..metrics.coverage import Decoder, ceiling
from ..errors import InputError
from ..metrics.intervals import CONFIDENCE, student_t
from ..model.network import prior
from ..model.operations import C, M, T, describe
from ..model.streams import generator

LIMIT_NATS = T * math.log(C)  # 9·ln 3 = 9.8875: what identifies one of M operations
GROUPS = 20
CHUNK = 2_500  # latents at a time: bounds the memory, whatever K is
TINY = 1e-15
MARGINALS = ("argmax", "categorical")  # decoding modes whose distribution is known exactly
# Fewest latents for a figure that is stored: unbiased coverage for N up to half of them, and what
# the jackknife leaves of the information's bias stays inside its interval (tested).
FEWEST = 400_000


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
    decoder: Decoder, k: int, seed: int, stream: str = "", device: str | torch.device = "cpu"
) -> Marginal:
    """Stream `k` prior latents through `decoder` (B, D) → (B, T, C); memory does not grow with k.

    Raises:
        InputError: k is not a positive multiple of GROUPS (the groups must be of one size), or a
            logit is not a number.
    """
    if k < GROUPS or k % GROUPS:
        raise InputError(f"k is {k}, but must be a positive multiple of {GROUPS}.")
    rng = generator(seed, "marginal", stream, device=device)
    groups = [_group(decoder, k // GROUPS, rng) for _ in range(GROUPS)]
    probability, argmax, entropy = zip(*groups, strict=True)
    if not np.isfinite(entropy).all():
        raise InputError("the decoder gives logits that are not numbers: nothing can be measured.")
    return Marginal(np.stack(probability), np.stack(argmax), np.array(entropy), k)


def _group(decoder: Decoder, k: int, rng: torch.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    probability = torch.zeros(M // 81, 81, dtype=torch.float64, device=rng.device)
    argmax = torch.zeros(M, dtype=torch.int64, device=rng.device)
    entropy = torch.zeros((), dtype=torch.float64, device=rng.device)
    parts = math.ceil(k / CHUNK)
    for part in range(parts):
        size = k * (part + 1) // parts - k * part // parts
        p, h, classes = trit_distributions(decoder(prior(size, rng)))
        # Trits 0-3 are the low digits of the index, 4-8 the high ones: one product is all of P.
        probability += (_outer(p[4:]) @ _outer(p[:4]).T).double()
        argmax += torch.bincount((classes * _powers(p.device)).sum(0).long(), minlength=M)
        entropy += h.double().sum()
    return probability.flatten().cpu().numpy(), argmax.cpu().numpy(), float(entropy)


def trit_distributions(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From logits (B, T, C): probabilities (T, C, B), entropy Σ_i H(p_i) in nats (B,), and the
    argmax classes (T, B), float32, the first of equals.

    Trit-major, so that everything is elementwise over long rows.
    """
    x = logits.permute(1, 2, 0).contiguous()  # (T, C, B)
    top, classes = _top(x)
    x = (x - top[:, None]).clamp_(min=-69)  # e^-69 < TINY², and no denormal comes of it
    e = x.exp()
    total = e.sum(1)  # (T, B)
    entropy = (total.log() - (e * x).sum(1) / total).sum(0)
    return e.div_(total[:, None]), entropy, classes


def _top(x: Tensor) -> tuple[Tensor, Tensor]:
    low, mid, high = x.unbind(1)  # (T, B) each
    best, middle = torch.maximum(low, mid), mid > low
    is_high = high > best
    return torch.maximum(best, high), torch.where(is_high, 2.0, middle.float())


def _powers(device: torch.device) -> Tensor:
    return (C ** torch.arange(T, device=device)).float()[:, None]


def _outer(p: Tensor) -> Tensor:
    """(n, C, B) → (C^n, B): products over the n trits, the first trit the lowest digit.

    What falls below TINY becomes 0, so that no denormal number slows the arithmetic; a latent
    loses less than M·TINY of its probability by that.
    """
    product = threshold(p[0], TINY, 0.0)
    for trit in p[1:]:
        product = threshold((trit[:, None] * product[None]).flatten(0, 1), TINY, 0.0)
    return product


# --- Functions of a marginal: each takes totals (probability, argmax, entropy, k) -------------


def shannon_nats(p: np.ndarray) -> float:
    """H(P) = -Σ P ln P, nats; 0 … ln M."""
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum())


def _information(probability: np.ndarray, argmax: np.ndarray, entropy: float, k: int) -> float:
    return shannon_nats(probability / k) - entropy / k


def _argmax_information(
    probability: np.ndarray, argmax: np.ndarray, entropy: float, k: int
) -> float:
    return shannon_nats(argmax / k)


def _entropy(probability: np.ndarray, argmax: np.ndarray, entropy: float, k: int) -> float:
    return shannon_nats(probability / k)


def expected_distinct(p: np.ndarray, n: float) -> float:
    """Σ_x 1 - (1 - P(x))^N: expected distinct operations of N draws from P (M,); exact for P."""
    return float(-np.expm1(n * np.log1p(-np.minimum(p, 1 - 1e-12))).sum())


def rarefied(counts: np.ndarray, n: int) -> float:
    """Expected distinct operations of n draws, from counts of K ≥ n draws: unbiased.

    Σ_x 1 - C(K - c_x, n) / C(K, n) (Hurlbert 1971, The nonconcept of species diversity): the
    mean over all subsamples of size n, so its expectation is that of n fresh draws.
    """
    return float(reach(counts, n).sum())


def reach(counts: np.ndarray, n: int) -> np.ndarray:
    """(M,): the terms of `rarefied`, an unbiased estimate of P(x is among n draws) for each x.

    Of K draws, c_x of them x, n without x: Π_{j < c_x} 1 - n/(K - j), summed in logarithms.

    Raises:
        InputError: n above K, which says nothing about what was not seen.
    """
    k = int(counts.sum())
    if n > k:
        raise InputError(f"n is {n}, but must be at most the {k} draws that were counted.")
    with np.errstate(divide="ignore"):  # ln 0: more of x than the draws left out
        steps = np.log1p(-np.minimum(n / (k - np.arange(counts.max())), 1))
    return -np.expm1(np.concatenate([[0.0], np.cumsum(steps)])[counts])


def _jackknife(
    m: Marginal, function: Callable[..., float], limit: float, span: bool = False
) -> dict[str, object]:
    """`{value, ci95}` of a function of the totals, bias-corrected, Student t over the groups.

    With `span` the interval also reaches as far from the uncorrected value: where the correction
    overshoots, the truth lies between the two. Value and interval are cut to 0 … `limit`, where
    the truth is known to lie.
    """
    sums = m.probability.sum(0), m.argmax.sum(0), m.entropy.sum()
    whole = function(*sums, m.k)
    left_out = np.array(
        [
            function(sums[0] - p, sums[1] - a, sums[2] - h, m.k - m.k // GROUPS)
            for p, a, h in zip(m.probability, m.argmax, m.entropy, strict=True)
        ]
    )
    value = GROUPS * whole - (GROUPS - 1) * left_out.mean()
    spread = (GROUPS - 1) / GROUPS * np.square(left_out - left_out.mean()).sum()
    half = stats.t.ppf((1 + CONFIDENCE) / 2, GROUPS - 1) * math.sqrt(spread)
    low = (min(value, whole) if span else value) - half
    value, low, high = (float(min(limit, max(0, v))) for v in (value, low, value + half))
    return {"value": value, "ci95": [low, high]}


def information(m: Marginal) -> dict[str, object]:
    """Generative information I(x;z) = H(P) - E_z Σ_i H(p_i(.|z)), nats: the headline.

    High only where the prior reaches every operation evenly and the latent decides which: a
    collapsed, a mode-dropping or a fresh decoder scores low. Sharp logits count for much of it
    (see `controls.random_linear`), so it is read above what random maps have.

    `{value, ci95, share}`; share is of 9·ln 3. Jackknifed over groups of latents.
    """
    estimate = _jackknife(m, _information, LIMIT_NATS)
    return {**estimate, "share": estimate["value"] / LIMIT_NATS}


def kl_uniform(m: Marginal) -> dict[str, object]:
    """KL(P ‖ uniform) = ln M - H(P), nats, ≥ 0, of the categorical marginal: `{value, ci95}`."""
    estimate = _jackknife(m, _entropy, math.log(M))
    low, high = estimate["ci95"]
    return {
        "value": math.log(M) - estimate["value"],
        "ci95": [math.log(M) - high, math.log(M) - low],
    }


def argmax_entropy(m: Marginal) -> dict[str, object]:
    """Entropy of the argmax marginal, nats: 0 … ln M. Argmax decoding is a function of z, so this
    is also its information. `{value, ci95, share}`."""
    estimate = _jackknife(m, _argmax_information, LIMIT_NATS)
    return {**estimate, "share": estimate["value"] / LIMIT_NATS}


def coverage_at(m: Marginal, n: int, how: str) -> dict[str, object]:
    """Expected distinct operations of n draws: `{n, decode, value, ci95, share, of_ceiling}`.

    "argmax": rarefaction of the counts, unbiased; "categorical": the plug-in of P, which is biased
    low by order 1/k. The jackknife takes that out where n is well below k or p(x|z) is soft; where
    it is sharp and n near k it overshoots, so the interval spans plug-in and corrected value.

    Raises:
        InputError: argmax and n > k/2. Near k all that was seen is always drawn, and groups that
            agree on that give an interval that is too narrow.
    """
    if how == "argmax" and n > m.k // 2:
        raise InputError(f"n is {n}, but argmax coverage from {m.k} latents goes to half of them.")

    def argmax(_probability: np.ndarray, counts: np.ndarray, _entropy: float, _k: int) -> float:
        return rarefied(counts, n)

    def categorical(probability: np.ndarray, _counts: np.ndarray, _entropy: float, k: int) -> float:
        return expected_distinct(probability / k, n)

    top = float(ceiling(n))
    function = {"argmax": argmax, "categorical": categorical}[how]
    estimate = _jackknife(m, function, top, span=how == "categorical")
    value = estimate["value"]
    return {"n": n, "decode": how, **estimate, "share": value / M, "of_ceiling": value / top}


def hardest(m: Marginal, how: str, count: int = 10) -> list[dict[str, object]]:
    """The `count` operations least likely to be generated: `{index, name, p_times_m, ci95}`.

    P(x)·M is 1 for a perfect generator. Half of the groups choose the operations and the other
    half measure them, so that `p_times_m` is unbiased and its Student t interval holds: the
    smallest of M noisy numbers would be low by chance alone.
    """
    groups = _p_times_m(m, how)
    chosen = np.argsort(groups[0::2].mean(0), kind="stable")[:count]
    rows = []
    for i in chosen.tolist():
        values = groups[1::2, i]
        low, high = student_t(values)
        ci95 = [max(0.0, low), high]
        mean = float(values.mean())
        rows.append({"index": i, "name": describe(i), "p_times_m": mean, "ci95": ci95})
    return rows


def min_p_times_m(m: Marginal, how: str) -> float:
    """min P·M over all operations. Biased low, as the least of M noisy numbers: it says
    something only beside the same figure of a perfect generator, `noise_floor`."""
    return float(_p_times_m(m, how).mean(0).min())


def _p_times_m(m: Marginal, how: str) -> np.ndarray:
    """(GROUPS, M) float64."""
    return {"categorical": m.probability, "argmax": m.argmax}[how] / (m.k / GROUPS) * M


def noise_floor(k: int, seed: int, draws: int = 20) -> list[float]:
    """Least and greatest min P·M among `draws` seeded samples of k from a perfect generator."""
    rng = np.random.default_rng([seed, k])
    least = rng.multinomial(k, np.full(M, 1 / M), size=draws).min(1) * M / k
    return [float(least.min()), float(least.max())]
