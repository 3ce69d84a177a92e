"""Training by any recipe: one epoch after another, and the best one is kept."""

import copy
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints.folder import save
from ..errors import InputError
from ..model.network import DualVAE
from ..model.operations import split_record
from ..params import brief
from . import axis_aligned, v5_5
from .selection import BEST, LAST, Rule, Train


class Recipe(NamedTuple):
    """A recipe's parameters, its two functions (see `selection`), and the rule that selects an
    epoch."""

    parameters: type[Train]
    start: Callable[[Any], list]
    train_epoch: Callable[[Any, Any], tuple[Any, dict[str, float]]]
    rule: Rule


class Epoch(NamedTuple):
    """An epoch's number, its metrics, and the model after it."""

    number: int
    metrics: dict[str, float]
    model: DualVAE


RECIPES = {
    "axis_aligned": Recipe(
        axis_aligned.TrainAxisAligned, axis_aligned.start, axis_aligned.train_epoch, BEST
    ),
    "v5_5": Recipe(v5_5.TrainV55, v5_5.start, v5_5.train_epoch, LAST),
}


def parameters(values: dict[str, Any], where: str) -> type[Train]:
    """The class of the parameters of the recipe that `values["recipe"]` names.

    Raises:
        InputError: no recipe is named, or an unknown one.
    """
    name = values.get("recipe")
    if not isinstance(name, str) or name not in RECIPES:
        raise InputError(
            f"{where}: recipe is {brief(name)}, but must be one of {', '.join(RECIPES)}."
        )
    return RECIPES[name].parameters


def epochs(p: Train, map: Callable[..., Any] = map) -> Iterator[Epoch]:
    """Train by the recipe `p.recipe` up to `p.last_epoch`; the caller may stop earlier.

    Args:
        p: the recipe's parameters.
        map: advances the states. An executor's `map` trains both VAEs side by side; the weights
            are the same.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    recipe, model = RECIPES[p.recipe], DualVAE.fresh(p.seed)
    states = recipe.start(p)
    for number in range(p.last_epoch + 1):
        advanced = [*map(recipe.train_epoch, repeat(p), states)]
        states = [state for state, _ in advanced]
        metrics: dict[str, float] = {}
        for state, found in advanced:
            weights = state.model.state_dict().items()
            trained = {name: w for name, w in weights if name.startswith(state.trains)}
            model.load_state_dict({**model.state_dict(), **trained})
            metrics |= found
        yield Epoch(number, metrics, model)


def train_and_select(
    p: Train, run_dir: Path, progress: Callable[[dict], object], map: Callable[..., Any] = map
) -> list[dict]:
    """Train to the end, and write the epoch that the recipe's rule selects as `run_dir`/checkpoint.

    The weights of every `p.keep_every`-th epoch and of the last are kept in `run_dir`/epochs/. If
    an error or Ctrl-C ends training, the epoch selected so far is still written.

    Args:
        p: the recipe's parameters.
        run_dir: the run's folder, without a checkpoint in it.
        progress: called with each epoch's row.
        map: as in `epochs`.

    Returns:
        One row an epoch: `{epoch, score, …, selected}`; exactly one is selected.
    """
    rows, best, rule = [], None, RECIPES[p.recipe].rule
    try:
        for epoch in epochs(p, map):
            row: dict = {"epoch": epoch.number, "score": rule.score(epoch.metrics), **epoch.metrics}
            if best is None or rule.keeps_last or row["score"] >= best[0]["score"]:
                # One assignment, so that an interrupt never parts a row from its weights.
                best = row, copy.deepcopy(epoch.model)
            rows.append(row)
            if epoch.number % p.keep_every == 0 or epoch.number >= p.epochs - 1:
                folder = run_dir / "epochs" / f"epoch-{epoch.number:03d}"
                save(folder, epoch.model, epoch.number, _facts(p, row, len(rows)))
            progress(row)
    finally:
        if best:
            row, model = best
            save(run_dir / "checkpoint", model, row["epoch"], _facts(p, row, len(rows)))
    return [{**row, "selected": row is best[0]} for row in rows]


def _facts(p: Train, row: dict, epochs_run: int) -> dict[str, Any]:
    """What a checkpoint's manifest records of its training."""
    return {
        "selection": {
            "rule": RECIPES[p.recipe].rule.text,
            "epochs_run": epochs_run,
            "measures": row,
        },
        "config": {k: v for k, v in p.model_dump().items() if k != "run_dir"},
        "seeds": {"seed": p.seed, "split_seed": p.split_seed},
        "split": split_record(p.split_seed),
    }
