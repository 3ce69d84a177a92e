"""The evidence for the recipes: seeds × recipes, trained side by side; one table.

`make evidence` trains every recipe of params/evidence.yaml with every seed and writes
reports/evidence.csv, one row a VAE. What is there already is not run again, so an interrupted
batch goes on where it stopped; delete the file, or the rows of a recipe that has changed, to
start afresh. A job is a function of its parameters alone, so the table has the same bytes in
whatever order they finish.
"""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from .. import files, params
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from ..metrics.observation import metric, observe, values
from ..model.operations import split
from ..parallel import Job, finished
from ..training import learning_curve, recipes
from ..training.loop import follow
from .tables import number

K, SEED = 1_000_000, 20251030  # of the measurement: other draws than training's or a report's
QUESTIONS = {  # what is asked: the whole recipe, and without the part
    "Does the unevenness term help?": ("default", "default, no unevenness term"),
    "Does the crookedness term help?": ("default", "default, no crookedness term"),
    "Does turning help?": ("default", "default, not turned"),
    "Do small logits at the start help?": ("default", "default, logits of usual size at the start"),
    "Does settling help?": ("default", "default, the encoder hardly settles"),
    "Does a high price of errors help?": ("default", "default, an error costs a tenth"),
    "Is the default recipe better than v5.5?": ("default", "v5.5"),
}
METRICS = (
    "argmax_coverage_50000", "argmax_coverage_195000", "argmax_entropy", "exact_match",
    "exact_match_sampled", "exact_match_test", "rate", "mig", "dci", "active_units",
    "cell_connection",
)  # fmt: skip


def path(name: str = "evidence") -> Path:
    return files.root() / "reports" / f"{name}.csv"


def run() -> None:
    """Train and measure what the table lacks; then the learning curve, if there is none yet.

    Raises:
        InputError: a bad parameter file, named.
    """
    where = files.root() / "params" / "evidence.yaml"
    plan = yaml.safe_load(where.read_text(encoding="utf-8"))
    wanted = [(name, seed) for name, recipe in plan.items() for seed in recipe["seeds"]]
    done = {(row.recipe, row.seed) for row in read().itertuples()}
    missing = [each for each in wanted if each not in done]
    jobs = [
        Job(f"{name}, seed {seed}", attempt, (plan[name], name, seed)) for name, seed in missing
    ]
    print(f"{len(jobs)} of {len(wanted)} trainings to do", flush=True)
    failed = []
    for count, (place, rows) in enumerate(finished(jobs), 1):
        name, said = jobs[place].name, "done"
        if isinstance(rows, str):
            said = "failed"
            failed.append(f"{name} ({rows})")
        else:
            _store(pd.concat([read(), pd.DataFrame(rows)]), wanted)
        print(f"{name}: {said}, {len(jobs) - count} left", flush=True)
    if failed:
        each = "; ".join(failed)
        raise InputError(f"{len(failed)} trainings failed, the others are stored: {each}.")
    if not path("learning_curve").is_file():
        print("the learning curve", flush=True)
        curve = pd.DataFrame(learning_curve.measure(SEED))
        files.write_bytes(path("learning_curve"), curve.to_csv(index=False).encode())


def attempt(recipe: dict[str, Any], name: str, seed: int) -> list[dict] | str:
    """`train`, or in a few words why it failed, so that one failure does not end the others."""
    try:
        return train(recipe, name, seed)
    except Exception as error:
        return " ".join(str(error).split())[-200:]


def train(recipe: dict[str, Any], name: str, seed: int) -> list[dict]:
    """One training as 1_train does it, in a temporary folder, and what it selected, measured:
    a row a VAE."""
    changes = {key: value for key, value in recipe.items() if key not in ("seeds", "file")}
    found = {**params.read_yaml(files.find(recipe["file"])), **changes, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        where = f"evidence: {name}"
        chosen = {**found, "min_score": 0, "run_dir": folder}
        p = params.check(recipes.parameters(chosen, where), chosen, where)
        follow(recipes.fit(p), p, Path(folder), lambda _row: None)
        loaded = checkpoints.load(Path(folder, "checkpoint"))
    rows = []
    for vae in loaded.model.vaes:
        o = observe(loaded.model, vae, K, SEED)
        about = {"recipe": name, "seed": seed, "epoch": loaded.epoch, "vae": vae}
        measured = values(o, split(found["split_seed"]), METRICS)
        rows.append(about | {metric_: row.value for metric_, row in measured.items()})
    return rows


def _store(frame: pd.DataFrame, wanted: list[tuple[str, int]]) -> None:
    """The whole table again in one atomic write, in the order of the plan."""
    order = {each: place for place, each in enumerate(wanted)}
    places = [order.get((row.recipe, row.seed), -1) for row in frame.itertuples()]
    frame = frame.assign(place=places).sort_values(["place", "vae"], kind="stable")
    text = frame.drop(columns="place").to_csv(index=False, float_format="%.8f")
    files.write_bytes(path(), text.encode())


def read(name: str = "evidence") -> pd.DataFrame:
    """reports/evidence.csv as a frame, `recipe, seed, epoch, vae, …METRICS`; empty without it."""
    if not path(name).exists():
        return pd.DataFrame(columns=["recipe", "seed", "epoch", "vae", *METRICS])
    return pd.read_csv(path(name))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Recipe by VAE: mean over seeds and the worst seed, one column a metric."""
    table = []
    for (recipe, vae), group in frame.groupby(["recipe", "vae"], sort=False):
        line = {"recipe": recipe, "VAE": vae, "seeds": f"{len(group)}"}
        for name in METRICS:
            about, found = metric(name), group[name]
            worst = found.max() if name in ("rate", "active_units") else found.min()
            mean, least = number(found.mean(), about.unit), number(worst, about.unit)
            line[about.title] = mean if mean == least else f"{mean}, worst {least}"
        table.append(line)
    return pd.DataFrame(table)
