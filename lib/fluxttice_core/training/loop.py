"""What training is judged by, epoch by epoch: honest measures and the rule that picks one."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from ..checkpoints.folder import save
from ..errors import InputError
from ..metrics.codes import entropy_nats
from ..metrics.coverage import ceiling, expected
from ..metrics.marginal import LIMIT_NATS, information, marginal
from ..metrics.reconstruction import posterior, right_trits
from ..model.network import VAES, DualVAE
from ..model.operations import SPLIT_SIZES, split, split_record
from ..params import Count, Params, Seed, Share, Whole

RULE = (
    "the epoch whose worse VAE is best: largest min over A and B of (validation exact match) × "
    "(argmax coverage, of the ceiling) × (generative information, of 9·ln 3); of equals, the first"
)
LATENTS = 100_000
FACTORS = ("val_exact", "coverage", "information")


class Train(Params):
    """Common to all recipes. Epochs count from 0."""

    recipe: str
    split_seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    epochs: Count
    patience: Count
    keep_every: Count
    coverage_n: Annotated[Count, Field(le=50_000)]
    min_score: Share
    batch_size: Annotated[Whole, Field(ge=2, le=SPLIT_SIZES["train"])]


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
    """Each VAE alone: exact match on the validation split, expected argmax coverage of
    `coverage_n` draws as share of C(N), generative information as share of 9·ln 3, and the
    latent entropy in nats.

    Coverage and information come from LATENTS prior latents of a random stream that each epoch
    has for itself, apart from training's. They carry noise, so the maximum over epochs is biased
    upwards; and at so few latents the jackknife leaves up to 0.1 % of the limit in the information
    of sharp decoders. It selects, and the benchmark measures
    the selected epoch again with other draws, and more of them.
    """
    measures: dict[str, float] = {}
    for vae in VAES:
        m = marginal(model.decoder(vae), LATENTS, seed, f"epoch {epoch} {vae}", model.device)
        q = posterior(model, vae)
        exact = right_trits(model, vae, q.mu).all(1)[split(split_seed).val]
        measures |= {
            f"val_exact_{vae}": float(exact.double().mean()),
            f"coverage_{vae}": expected(m, coverage_n, "argmax").value / float(ceiling(coverage_n)),
            f"information_{vae}": information(m).value / LIMIT_NATS,
            f"latent_entropy_{vae}": entropy_nats(q.mu),
        }
    return measures


def score(measures: dict[str, float]) -> float:
    """The number that `RULE` maximises: 0 … about 1."""
    return min(math.prod(measures[f"{factor}_{vae}"] for factor in FACTORS) for vae in VAES)


def pick_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one, else the CPU.

    Raises:
        InputError: "cuda" where there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch sees no GPU here: use auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def follow(epochs: Iterable[Epoch], p: Any, run_dir: Path, progress: Callable) -> list[dict]:
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
            if selected is None or row["score"] > selected[0]["score"]:
                weights = {k: v.clone() for k, v in epoch.model.state_dict().items()}
                selected = row, weights  # in one step: an interrupt never parts the two
            rows.append(row)
            patient = epoch.number - selected[0]["epoch"] < p.patience
            if epoch.number % p.keep_every == 0 or epoch.number == p.epochs - 1 or not patient:
                folder = run_dir / "epochs" / f"epoch-{epoch.number:03d}"
                save(folder, epoch.model, epoch.number, _facts(p, row, len(rows)))
            progress(row)
            if not patient:
                break
    finally:
        if selected:
            model = DualVAE.fresh(0)
            model.load_state_dict(selected[1])
            facts = _facts(p, selected[0], len(rows))
            save(run_dir / "checkpoint", model, selected[0]["epoch"], facts)
    return [{**row, "selected": row is selected[0]} for row in rows]


def _facts(p: Any, row: dict, epochs_run: int) -> dict[str, Any]:
    return {
        "selection": {"rule": RULE, "epochs_run": epochs_run, "measures": row},
        "config": {k: v for k, v in p.model_dump().items() if k != "run_dir"},
        "seeds": {"seed": p.seed, "split_seed": p.split_seed},
        "split": split_record(p.split_seed),
    }
