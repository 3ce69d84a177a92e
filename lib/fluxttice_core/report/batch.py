"""The evidence for the recipes: seeds × recipes, a papermill batch of 1_train, one table.

`make evidence` trains every recipe of params/evidence.yaml with every seed and appends to
reports/evidence.csv, one row a VAE. What is there already is not run again, so an interrupted
batch goes on where it stopped; delete the file, or the rows of a recipe that has changed, to
start afresh.
"""

import contextlib
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from .. import files, parallel, params
from ..checkpoints import folder as checkpoints
from ..metrics.intervals import CONFIDENCE, student_t
from ..metrics.observation import metric, observe, values
from ..model.network import VAES, DualVAE
from ..model.operations import split
from ..training import recipes
from ..training.loop import Train
from . import job, tables

K, SEED = 1_000_000, 20251030  # of the measurement: other draws than training's or a report's
METRICS = (
    "argmax_coverage_50000", "argmax_coverage_195000", "information", "exact_match_test",
    "exact_match_test_sampled",
)  # fmt: skip


def path() -> Path:
    return files.root() / "reports" / "evidence.csv"


def run() -> None:
    """Train and measure what the table lacks.

    Raises:
        InputError: a bad parameter file, named.
    """
    where = files.root() / "params" / "evidence.yaml"
    plan = yaml.safe_load(where.read_text(encoding="utf-8"))
    jobs = [(name, seed) for name, recipe in plan.items() for seed in recipe["seeds"]]
    done = {(row.recipe, row.seed) for row in read().itertuples()}
    for number, (name, seed) in enumerate(jobs, 1):
        if (name, seed) in done:
            continue
        print(f"{number} of {len(jobs)}: {name}, seed {seed}", flush=True)
        changes = {k: v for k, v in plan[name].items() if k not in ("seeds", "file")}
        found = {**params.read_yaml(files.find(plan[name]["file"])), **changes}
        found |= {"seed": seed, "min_score": 0}
        p = params.check(recipes.parameters(found, name), found, f"{where}: {name}")
        _append(pd.DataFrame({"recipe": name, "seed": seed, **row} for row in _train(p)))


def _train(p: Train) -> list[dict]:
    """Run the training notebook in a temporary folder and measure what it selects."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(files.root()):
        chosen = {**p.model_dump(), "run_dir": folder}
        job.execute_quietly("1_train", chosen, Path(folder, "train.ipynb"), output=None)
        loaded = checkpoints.load(Path(folder, "checkpoint"))
        return [{"epoch": loaded.epoch, **row} for row in rows(loaded.model, p.split_seed)]


def rows(model: DualVAE, split_seed: int) -> list[dict]:
    """`{vae, …METRICS}` of a model, one row a VAE, each alone."""
    jobs = [parallel.Job(vae, _row, (model, vae, split_seed)) for vae in VAES]
    return parallel.each(jobs, lambda _step: None)


def _row(model: DualVAE, vae: str, split_seed: int) -> dict:
    found = values(observe(model, vae, K, SEED), split(split_seed), METRICS)
    return {"vae": vae, **{name: found[name].value for name in METRICS}}


def _append(frame: pd.DataFrame) -> None:
    """The whole table again in one atomic write: an interrupted batch never leaves half a row."""
    both = pd.concat([read(), frame]) if path().exists() else frame
    path().parent.mkdir(exist_ok=True)
    files.write_bytes(path(), both.to_csv(index=False, float_format="%.8f").encode())


def read() -> pd.DataFrame:
    """reports/evidence.csv as a frame, `recipe, seed, epoch, vae, …METRICS`; empty without it."""
    if not path().exists():
        return pd.DataFrame(columns=["recipe", "seed", "epoch", "vae", *METRICS])
    return pd.read_csv(path())


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Recipe by VAE: mean over seeds, its 95 % Student t interval, and the worst seed.

    One row a recipe and VAE, one column a metric; with one seed there is no interval.
    """
    table = []
    for (recipe, vae), group in frame.groupby(["recipe", "vae"], sort=False):
        line = {"recipe": recipe, "VAE": vae, "seeds": len(group)}
        for name in METRICS:
            found = group[name].to_numpy()
            worst = f"worst {tables.number(found.min(), decimals=3)}"
            line[metric(name).title] = f"{tables.number(found.mean())}{_interval(found)}, {worst}"
        table.append(line)
    return pd.DataFrame(table)


QUESTIONS = {
    "Does StateNet help?": ("v5.5", "v5.5, no StateNet"),
    "Does cross-injection help?": ("v5.5", "v5.5, no cross-injection"),
    "Does the output entropy term help?": ("v5.5", "v5.5, no output entropy term"),
    "Does the linear start help?": ("straight", "straight, no looks-linear start"),
    "Does the unevenness term help?": ("straight", "straight, no unevenness term"),
    "Does the crookedness term help?": ("straight", "straight, no crookedness term"),
    "Does scaling the logits help?": ("straight", "straight, logits not scaled"),
    "Does the fall of beta help?": ("straight", "straight, beta kept at 0.5"),
}


ASKED_OF = ("argmax_coverage_50000", "information", "exact_match_test_sampled")


def answers(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a question: paired differences over seeds, with minus without, and what they say.

    Differences are percentage points, mean over the seeds both recipes have. Six of them bear
    on an answer, so each has a Student t interval at 1 - 5 %/6 (Bonferroni): where there is no
    effect, an answer claims one in at most 5 % of cases. A question without data is left out.
    """
    table = []
    for question, (whole, without) in QUESTIONS.items():
        if not {whole, without} <= set(frame.recipe):
            continue  # a batch that has not come so far
        line, intervals = {"question": question}, []
        for name in ASKED_OF:
            for vae in VAES:
                pairs = frame[frame.vae == vae].pivot(index="seed", columns="recipe", values=name)
                points = 100 * (pairs[whole] - pairs[without]).dropna().to_numpy()
                low, high = _paired(points)
                intervals.append((low, high))
                line[f"{metric(name).title}, VAE-{vae}"] = (
                    f"{points.mean():+.2f} ({low:+.2f} … {high:+.2f})"
                )
        table.append({**line, "answer": _answer(intervals)})
    return pd.DataFrame(table)


def _paired(points: np.ndarray) -> tuple[float, float]:
    """One seed tells nothing of the others: its interval has no ends."""
    if len(points) < 2:
        return -math.inf, math.inf
    return student_t(points, 1 - (1 - CONFIDENCE) / (len(ASKED_OF) * len(VAES)))


def _answer(intervals: list[tuple[float, float]]) -> str:
    helps, hurts = any(low > 0 for low, _ in intervals), any(high < 0 for _, high in intervals)
    if helps and hurts:
        return "helps one, hurts another"
    return "helps" if helps else "hurts" if hurts else "no effect seen"


def _interval(values: np.ndarray) -> str:
    if len(values) < 2:
        return ""
    low, high = student_t(values)
    return f" ({tables.ends(max(low, 0), min(high, 1))})"
