"""Planted truth: generators whose answers are known in closed form, and what honest means.

Latents fall into cells and every cell has a distribution for each trit, so P, its entropy and what
the latent says of the operation follow by hand.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from scipy import stats

from fluxttice_core.errors import InputError
from fluxttice_core.metrics import marginal
from fluxttice_core.metrics.marginal import GROUPS, MIN_LATENTS, Marginal
from fluxttice_core.model.network import D, Functions, Posterior
from fluxttice_core.model.operations import C, M, T

SEEDS = 20
MISSES = int(stats.binom.ppf(0.999, SEEDS, 0.05))  # more than these happen once in a thousand
TERCILE = 0.43072729929545744  # a third of N(0, 1) lies above it
DIGITS = np.indices((C,) * T).reshape(T, M)[::-1]  # (T, M): trit t of operation i, least first
UNIFORM, POINTS = np.full(M, 1 / M), np.eye(2, M)  # all operations evenly; operation 0, and 1
LN2, LN3 = math.log(2), math.log(3)
Cell = Callable[[torch.Tensor], torch.Tensor]  # latents (B, D) → cells (B,)


def ends(x):
    return [x.value, x.low, x.high]


def held(estimates, truth):
    """Do the intervals of SEEDS seeds hold the truth, but for two of them at most?"""
    return sum(not x.low - 1e-9 <= truth <= x.high + 1e-9 for x in estimates) <= 2


def ceiling(n):
    return M * (1 - (1 - 1 / M) ** n)


def distinct(p, n):
    """Expected distinct operations of n draws from p."""
    return float((1 - (1 - p) ** n).sum())


def from_counts(counts, entropy=0.0):
    """The marginal of a certain decoder, from `counts` (GROUPS, M)."""
    counts = np.asarray(counts)
    return Marginal(counts.astype(float), counts, np.full(GROUPS, entropy), int(counts.sum()))


def sharp(p, k, seed):
    """The marginal of a certain decoder: k draws from p."""
    return from_counts(np.random.default_rng([seed, k]).multinomial(k // GROUPS, p, size=GROUPS))


def assert_honest(rows, truth, top, widest, df=GROUPS - 1, unbiased=True):
    """Intervals of SEEDS seeds hold the truth as often as 95 % says, the values are right on
    average, and an interval is as wide as the value varies: neither narrower nor so wide that it
    says nothing.

    `top`: where the range of the truth ends; `df`: of Student's t. Where a bias is stated
    (`unbiased` false) only the intervals are held to the truth.
    """
    value, low, high = np.array([ends(row) for row in rows]).T
    assert len(value) == SEEDS
    rounding = 4e-6 * max(5, abs(truth))  # of float32
    assert ((low >= 0) & (low <= value) & (value <= high) & (high <= top * (1 + 1e-9))).all()
    assert (high - low).max() <= widest + rounding
    assert ((low > truth + rounding) | (high < truth - rounding)).sum() <= MISSES
    spread = value.std(ddof=1)
    if truth > top - rounding or truth < rounding:  # estimates are cut at the truth
        assert abs(value - truth).max() <= (high - low).max() + rounding
    elif spread < rounding:  # nothing is left to chance
        assert abs(value - truth).max() < 2 * rounding
    else:
        assert not unbiased or abs(value.mean() - truth) < 4 * spread / SEEDS**0.5
        assert 0.6 < (high - value).mean() / stats.t.ppf(0.975, df) / spread < 2.5


@dataclass(frozen=True)
class Planted:
    """`table`: (cells, T, C) probabilities; `p`, `q`: (M,), the marginals by categorical and by
    argmax decoding; the information, nats; `k`: as many latents as show every cell often."""

    cell: Cell
    table: np.ndarray
    p: np.ndarray
    q: np.ndarray
    information: float
    k: int

    def decoder(self):
        logits = torch.tensor(np.log(np.maximum(self.table, 1e-80)), dtype=torch.float32)
        return lambda z: logits[self.cell(z)]

    def marginal(self, seed, stream):
        """By the decoder; where every operation has its cell drawn directly, which is the same."""
        if len(self.table) == M:
            return sharp(self.p, self.k, seed)
        return marginal.marginal(self.decoder(), self.k, seed, stream)


def thirds(dims):
    """Base-3 number of the terciles that the first `dims` latents fall into: 3^dims cells."""

    def cell(z):
        classes = (z[:, :dims] > -TERCILE).long() + (z[:, :dims] > TERCILE).long()
        return (classes * C ** torch.arange(dims)).sum(1)

    return cell


def quantiles(*shares):
    """Cells of the last latent that have these shares of the prior."""
    cuts = torch.tensor(stats.norm.ppf(np.cumsum(shares)[:-1]), dtype=torch.float32)
    return lambda z: torch.bucketize(z[:, -1].contiguous(), cuts)


def soft(cells):
    """(cells, T, C): uniform trits."""
    return np.full((cells, T, C), 1 / C)


def certain(operations):
    """(cells, T, C): cell i makes operation `operations[i]`."""
    return np.eye(C)[DIGITS[:, operations].T]


SKEW = np.array([0.5, 0.25, 0.25])  # of a trit
SKEWED = SKEW[DIGITS[0]] / C**8


def uniform():
    """Ignores the latent; sampled it is the perfect generator, by argmax it makes operation 0."""
    return Planted(quantiles(1), soft(1), UNIFORM, POINTS[0], 0, 400)


def constant():
    return Planted(quantiles(1), certain([1]), POINTS[1], POINTS[1], 0, 400)


def missing():
    """Two halves of the latents. One makes trit 0 = -1, the other 0 and then no +1 at trit 1:
    8,748 operations are out of reach, and one bit is known of the rest."""
    table = soft(2)
    table[0, 0], table[1, 0], table[1, 1] = [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]
    first, second = DIGITS[0] == 0, (DIGITS[0] == 1) & (DIGITS[1] < 2)
    p = first / 2 / C**8 + second / 2 / (2 * C**7)
    return Planted(quantiles(0.5, 0.5), table, p, POINTS.mean(0), LN2, 2_000)


def noisy():
    """Five trits follow the latent eight times in ten, the others are free and skewed."""
    table = np.tile(SKEW, (C**5, T, 1))
    for t in range(5):
        table[:, t] = np.where(np.eye(C)[DIGITS[t, : C**5]] > 0, 0.8, 0.1)
    p, q = SKEW[DIGITS[5:]].prod(0) / C**5, (DIGITS[5:] == 0).all(0) / C**5
    channel = LN3 + 0.8 * math.log(0.8) + 0.2 * math.log(0.1)
    return Planted(thirds(5), table, p, q, 5 * channel, 10_000)


def bijection():
    """Every operation owns one cell of the latent space, all of one size: nothing is better."""
    return Planted(thirds(9), certain(np.arange(M)), UNIFORM, UNIFORM, 9 * LN3, MIN_LATENTS)


def uneven():
    """Every operation owns one cell, those of trit 0 = -1 twice the size of the others."""
    trit_0, others = quantiles(*SKEW), thirds(8)

    def cell(z):
        return trit_0(z) + C * others(z)

    nats = 1.5 * LN2 + 8 * LN3
    return Planted(cell, certain(np.arange(M)), SKEWED, SKEWED, nats, 1_000_000)


MAKERS = (uniform, constant, missing, noisy, bijection, uneven)
PLANTED = {make.__name__: make() for make in MAKERS}


def sentence(call, *arguments, **named):
    """The one sentence with which that call is refused."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **named)
    text = str(caught.value)
    assert "\n" not in text and text[-1] in ".?"
    return text


def same(one, other, of=""):
    """Are these state dicts equal in all, or in what has `of` in its name?"""
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one if of in key)


def no_number(*modules):
    """Every weight of them: whatever computes with one of them shows."""
    for module in modules:
        for value in module.parameters():
            value.data.fill_(torch.nan)


def in_process(jobs, _report):
    """What `parallel.each` does, without other processes."""
    return [job.function(*job.arguments) for job in jobs]


def beyond(model):
    """`model`, but all codes lie at 10 in the last latent, which its decoder ignores: outside of
    where the prior has its mass."""

    def encode(x):
        q = model.encoder("A")(x)
        return Posterior(q.mu + 10 * (torch.arange(D) == D - 1), q.logvar)

    return Functions(lambda _vae: encode, model.decoder, ("A",))


def notebook(path, *sources):
    """Write a notebook for papermill, in a folder that is made: one parameter, seed, and cells."""
    own = new_code_cell("# parameters\nseed = 1", metadata={"tags": ["parameters"]})
    spec = {"name": "python3", "display_name": "", "language": "python"}
    book = new_notebook(cells=[own, *map(new_code_cell, sources)], metadata={"kernelspec": spec})
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
