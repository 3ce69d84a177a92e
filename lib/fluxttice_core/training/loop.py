"""What training is judged by, epoch by epoch: honest measures and the rule that picks one."""

import copy
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field

from ..checkpoints.folder import save
from ..errors import InputError
from ..metrics.evaluation import SAMPLE, Evaluation
from ..metrics.measurement import METRICS, expected_coverage
from ..metrics.reconstruction import samples
from ..model.network import VAES, DualVAE
from ..model.operations import SPLIT_SIZES, split_record
from ..params import Count, Params, Seed, Share, Whole

RULE = (
    "the epoch whose worse VAE is best: largest min over A and B of (validation exact match from "
    "a posterior sample) × (argmax coverage, of the ceiling) × (argmax entropy, of 9·ln 3); of "
    "equals, the last"
)
LATENTS = 100_000
FACTORS = ("val_exact_sampled", "coverage", "argmax_entropy")


class Train(Params):
    """Common to all recipes. Epochs count from 0."""

    recipe: str
    seed: Seed
    split_seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    epochs: Annotated[Count, Field(le=10_000, description="more would take days")]
    patience: Count
    keep_every: Count
    coverage_n: Annotated[Count, Field(le=50_000)]
    min_score: Share
    batch_size: Annotated[
        Whole, Field(ge=2, le=SPLIT_SIZES["train"], description="the training split has no more")
    ]


class TrainingError(InputError):
    """Training cannot go on; the message is one sentence."""


class Epoch(NamedTuple):
    """What `fit` yields: the epoch's number, its measures, and the model as it is now."""

    number: int
    measures: dict[str, float]
    model: DualVAE


def honest_measures(model: DualVAE, vae: str, p: Train, epoch: int) -> dict[str, float]:
    """One VAE alone: exact match on the validation split from the posterior mean and from 20
    samples, expected argmax coverage of `p.coverage_n` draws as share of C(N), argmax entropy as
    share of 9·ln 3, rate and latent entropy in nats.

    Everything drawn comes from random streams that each epoch has for itself, apart from
    training's. It carries noise, so the maximum over epochs is biased upwards: it selects, and the
    benchmark measures the selected epoch again with other draws, and more of them.
    """
    e = Evaluation(model, vae, LATENTS, p.seed, f"epoch {epoch} {vae}", p.split_seed)
    sampled = samples(model, vae, e.q, e.rng(SAMPLE), e.split.val).exact_matches
    found = {
        "val_exact": float(e.exact_matches[e.split.val].double().mean()),
        "val_exact_sampled": float(sampled.double().mean()),
        "coverage": expected_coverage("argmax", p.coverage_n).compute(e).value,
    }
    for name in ("argmax_entropy", "rate", "latent_entropy"):
        found[name] = METRICS[name].compute(e).value
    return {f"{name}_{vae}": value for name, value in found.items()}


def score(measures: dict[str, float]) -> float:
    """The number that `RULE` maximises: 0 … about 1."""
    return min(math.prod(measures[f"{factor}_{vae}"] for factor in FACTORS) for vae in VAES)


def finite(value: float, what: str) -> float:
    """`value`.

    Raises:
        TrainingError: it is infinite or not a number.
    """
    if not math.isfinite(value):
        raise TrainingError(f"The {what} is no longer finite: {value}.")
    return value


def pick_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one, else the CPU.

    Raises:
        InputError: "cuda" where there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch sees no GPU here: use auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def follow(epochs: Iterable[Epoch], p: Train, run_dir: Path, progress: Callable) -> list[dict]:
    """Run training to its end, keep what the rule selects, and write it as `run_dir`/checkpoint.

    Every `p.keep_every`-th epoch's weights, and the last's, are kept under `run_dir`/epochs/.
    Training ends after `p.epochs`, or `p.patience` epochs after the last improvement of the
    score. Whatever ends it, an error and Ctrl-C included, the selected epoch so far is written.

    Args:
        epochs: what a recipe's `fit` yields.
        p: its parameters.
        run_dir: the run's folder, without a checkpoint in it.
        progress: called with each row as it comes.

    Returns:
        One row an epoch: `{epoch, score, selected, …}`; exactly one is selected.
    """
    rows, selected = [], None
    try:
        for epoch in epochs:
            row: dict = {"epoch": epoch.number, "score": score(epoch.measures), **epoch.measures}
            if selected is None or row["score"] >= selected[0]["score"]:
                # In one step: an interrupt never parts the two.
                selected = row, copy.deepcopy(epoch.model)
            rows.append(row)
            patient = epoch.number - selected[0]["epoch"] < p.patience
            if epoch.number % p.keep_every == 0 or epoch.number >= p.epochs - 1 or not patient:
                folder = run_dir / "epochs" / f"epoch-{epoch.number:03d}"
                save(folder, epoch.model, epoch.number, _facts(p, row, len(rows)))
            progress(row)
            if not patient:
                break
    finally:
        if selected:
            row, model = selected
            save(run_dir / "checkpoint", model, row["epoch"], _facts(p, row, len(rows)))
    return [{**row, "selected": row is selected[0]} for row in rows]


def _facts(p: Train, row: dict, epochs_run: int) -> dict[str, Any]:
    return {
        "selection": {"rule": RULE, "epochs_run": epochs_run, "measures": row},
        "config": {k: v for k, v in p.model_dump().items() if k != "run_dir"},
        "seeds": {"seed": p.seed, "split_seed": p.split_seed},
        "split": split_record(p.split_seed),
    }
