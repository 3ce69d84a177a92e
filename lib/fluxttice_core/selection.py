"""What training is judged by, epoch by epoch: honest measures and the rule that picks one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import save, split_record
from .coverage import ceiling, distinct
from .latent import entropy_nats
from .marginal import information, marginal
from .model import VAES, DualVAE
from .operations import split
from .reconstruction import matches, posterior
from .streams import generator

RULE = (
    "the epoch whose worse VAE is best: largest min over A and B of (validation exact match) × "
    "(argmax coverage as a share of the ceiling); of equals, the first"
)


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one sentence."""

    def _render_traceback_(self) -> list[str]:
        return [f"TrainingError: {self}"]


@dataclass(frozen=True)
class Epoch:
    """What `fit` yields: the epoch's number, its measures, and the model as it is now."""

    number: int
    measures: dict[str, float]
    model: DualVAE


def honest_measures(
    model: DualVAE, split_seed: int, coverage_n: int, seed: int, epoch: int
) -> dict[str, float]:
    """Each VAE alone: exact match on the validation split, argmax coverage as share of C(N),
    generative information as share of 9·ln 3 (from 20,000 latents), latent entropy in nats.

    Each epoch has random streams of its own, apart from training's. The coverage is one draw of
    `coverage_n` latents, so the maximum over epochs is biased upwards: it selects, and the
    benchmark measures the selected epoch again with other draws.
    """
    val = split(split_seed).val
    measures = {}
    for vae in VAES:
        rng = generator(seed, "epoch coverage", vae, epoch, device=model.device)
        found = distinct(model.decoder(vae), [coverage_n], ["argmax"], rng)
        m = marginal(model.decoder(vae), 20_000, seed, f"epoch {epoch} {vae}", model.device)
        measures[f"information_{vae}"] = information(m)["share"]
        measures[f"latent_entropy_{vae}"] = entropy_nats(posterior(model, vae).mu)
        measures[f"val_exact_{vae}"] = float(matches(model, vae)[val].double().mean())
        measures[f"coverage_{vae}"] = found["argmax", coverage_n] / float(ceiling(coverage_n))
    return measures


def score(measures: dict[str, float]) -> float:
    """The number that `RULE` maximises: 0 … about 1."""
    return min(measures[f"val_exact_{vae}"] * measures[f"coverage_{vae}"] for vae in VAES)


def follow(epochs: Iterable[Epoch], p: Any, run_dir: Path, progress: Callable) -> list[dict]:
    """Run training to its end, keep what the rule selects, and write it as `run_dir`/checkpoint.

    Every `p.keep_every`-th epoch's weights are kept under `run_dir`/epochs/. Training ends after
    `p.epochs`, or `p.patience` epochs after the last improvement of the score. Whatever ends it,
    an error and Ctrl-C included, the selected epoch so far is written.

    Args:
        epochs: what a recipe's `fit` yields.
        p: its parameters.
        run_dir: the run's folder, without a checkpoint in it.
        progress: called with each row as it comes.

    Returns:
        One row an epoch: `{epoch, score, selected, …}`; exactly one is selected.
    """
    rows, weights = [], None
    try:
        for epoch in epochs:
            rows.append({"epoch": epoch.number, "score": score(epoch.measures), **epoch.measures})
            progress(rows[-1])
            best = _best(rows)
            if best is rows[-1]:
                weights = {k: v.clone() for k, v in epoch.model.state_dict().items()}
            if epoch.number % p.keep_every == 0:
                folder = run_dir / "epochs" / f"epoch-{epoch.number:03d}"
                save(folder, epoch.model, epoch.number, _facts(p, rows[-1], len(rows)))
            if epoch.number - best["epoch"] >= p.patience:
                break
    finally:
        if weights:
            model = DualVAE.fresh(0)
            model.load_state_dict(weights)
            best = _best(rows)
            save(run_dir / "checkpoint", model, best["epoch"], _facts(p, best, len(rows)))
    return [{**row, "selected": row is best} for row in rows]


def _best(rows: list[dict]) -> dict:
    return max(rows, key=lambda row: row["score"])  # max returns the first of equals


def _facts(p: Any, row: dict, epochs_run: int) -> dict[str, Any]:
    return {
        "selection": {"rule": RULE, "epochs_run": epochs_run, "measures": row},
        "config": {k: v for k, v in p.model_dump().items() if k != "run_dir"},
        "seeds": {"seed": p.seed, "split_seed": p.split_seed},
        "split": split_record(p.split_seed),
    }
