"""The parts that all recipes share: parameters, training data, and the rule that selects an epoch.

A recipe is a module with two functions, both pure but for the state that they pass on:

    start(p) → the independent states, which train apart: one for each VAE, or one for both.
    train_epoch(p, state) → (state after one more epoch, metrics of that epoch).

A state holds everything that the next epoch depends on: epoch number, model, optimiser, random
generators. It pickles, so the epochs of two states can run in two processes.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ..errors import InputError
from ..metrics import coverage
from ..metrics.evaluation import SAMPLE, Evaluation
from ..metrics.measurement import METRICS
from ..metrics.reconstruction import samples
from ..model.network import VAES, DualVAE
from ..model.operations import SPLIT_SIZES, all_operations, split
from ..params import Count, Params, Seed, Share, Whole

LATENTS = 100_000
SELECTION_METRICS = ("val_exact_sampled", "coverage", "argmax_entropy")
ALL_TRAINED = "the training split has no more"


class Train(Params):
    """The parameters that all recipes have. Epochs count from 0."""

    recipe: str
    seed: Seed
    split_seed: Seed
    train_size: Annotated[Count, Field(le=SPLIT_SIZES["train"], description=ALL_TRAINED)]
    epochs: Annotated[Count, Field(le=10_000, description="more would take days")]
    keep_every: Count
    coverage_n: Annotated[Count, Field(le=50_000)]
    min_score: Share
    batch_size: Annotated[Whole, Field(ge=2, le=SPLIT_SIZES["train"], description=ALL_TRAINED)]

    @property
    def last_epoch(self) -> int:
        return self.epochs - 1


class TrainingError(InputError):
    """Training cannot go on; the message is one sentence."""


def training_data(p: Train) -> Tensor:
    """Operations (n, T) of the whole training split's size n.

    They are the first `p.train_size` operations of the split, repeated, so that every training
    takes as many steps.
    """
    train = split(p.split_seed).train
    return all_operations()[train[torch.arange(len(train)) % p.train_size]]


def validation_metrics(model: DualVAE, vae: str, p: Train, epoch: int) -> dict[str, float]:
    """Metrics of one VAE alone, by which epochs are compared.

    Exact match on the validation split from the posterior mean and from 20 posterior samples;
    expected argmax coverage of `p.coverage_n` draws, as a share of C(N); argmax entropy as a share
    of 9·ln 3; rate and latent entropy in nats.

    Each epoch has random streams of its own, apart from training's. The metrics carry noise, so
    their maximum over epochs is biased upwards: they select an epoch, and the benchmark measures
    it again with other draws, and more of them.
    """
    e = Evaluation(model, vae, LATENTS, p.seed, f"epoch {epoch} {vae}", p.split_seed)
    val = e.split.val
    sampled = samples(model, vae, e.q, e.rng(SAMPLE), val).exact_matches
    covered = coverage.expected(e.marginal, p.coverage_n, "argmax")
    found = {
        "val_exact": float(e.exact_matches[val].double().mean()),
        "val_exact_sampled": float(sampled.double().mean()),
        "coverage": covered.divided_by(float(coverage.ceiling(p.coverage_n))).value,
    }
    for name in ("argmax_entropy", "rate", "latent_entropy"):
        found[name] = METRICS[name].compute(e).value
    return {f"{name}_{vae}": value for name, value in found.items()}


class Rule(NamedTuple):
    """How an epoch is selected, in words; the score of an epoch's metrics; and whether the last
    epoch is selected whatever its score is. `p.min_score` bounds the selected epoch's score."""

    text: str
    score: Callable[[dict[str, float]], float]
    keeps_last: bool = False


def worse_product(metrics: dict[str, float]) -> float:
    """The worse VAE's product of SELECTION_METRICS: 0 … about 1."""
    return min(math.prod(metrics[f"{name}_{vae}"] for name in SELECTION_METRICS) for vae in VAES)


def worse_coverage(metrics: dict[str, float]) -> float:
    """The worse VAE's argmax coverage, as a share of the ceiling: 0 … 1."""
    return min(metrics[f"coverage_{vae}"] for vae in VAES)


BEST = Rule(
    "the epoch whose worse VAE is best: largest min over A and B of (validation exact match from "
    "a posterior sample) × (argmax coverage, of the ceiling) × (argmax entropy, of 9·ln 3); of "
    "equals, the last",
    worse_product,
)
LAST = Rule(
    "the last epoch, as in the original system; its score is the worse VAE's argmax coverage, of "
    "the ceiling",
    worse_coverage,
    keeps_last=True,
)


def regressions(rows: list[dict]) -> list[str]:
    """Whether later epochs are worse than earlier ones: a sentence for coverage and for exact match
    from a posterior sample, each of the worse VAE."""
    found = []
    for name, title in (
        ("coverage", "argmax coverage"),
        ("val_exact_sampled", "exact match from a sample"),
    ):
        worse = [min(row[f"{name}_{vae}"] for vae in VAES) for row in rows]
        best = max(range(len(worse)), key=worse.__getitem__)
        fell = f"it is lower at the last epoch, {rows[-1]['epoch']}: {worse[-1]:.2%}"
        held = "no later epoch is worse"
        after = fell if worse[-1] < worse[best] else held
        found.append(
            f"{title}, worse VAE: best at epoch {rows[best]['epoch']}, {worse[best]:.2%}; {after}"
        )
    return found


def finite(value: float, name: str) -> float:
    """`value`.

    Raises:
        TrainingError: it is infinite or not a number.
    """
    if not math.isfinite(value):
        raise TrainingError(f"The {name} is no longer finite: {value}.")
    return value
