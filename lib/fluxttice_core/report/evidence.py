"""The evidence for the recipes: seeds × recipes, trained by 1_train; one table, and its answers:
does a part of a recipe help, hurt, do nothing, or is it undecided?

`make evidence` is the batch of params/evidence.yaml. It writes reports/evidence.csv, one row a
VAE; what is there already, by the same parameters, is not run again. Delete the file, or rows of
it, to start afresh.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .. import files, params
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from ..metrics.evaluation import Evaluation
from ..metrics.intervals import CONFIDENCE, student_t
from ..metrics.measurement import METRICS, MODEL, measure
from ..metrics.rate import least_rate
from ..training import learning_curve
from . import batch
from .job import execute
from .tables import format_value

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
MEASURED = (
    "argmax_coverage_50000", "argmax_coverage_195000", "argmax_entropy", "exact_match",
    "exact_match_sampled", "exact_match_test", "rate", "mig", "mi_disentanglement", "active_units",
    "path_consistency",
)  # fmt: skip
COLUMNS = {
    "evidence": ["recipe", "seed", "epoch", "vae", "parameters", *MEASURED],
    "learning_curve": ["operations", "vae", "trained", "read_out", "parameters"],
}
MARGIN = 1.0  # points (nats for the rate): less than that is called no effect
# What is asked of; shares in percentage points, nats of the rate, where less is better, above the
# least at that exact match: alone, the rate is won by losing operations.
ASKED_OF = {"argmax_coverage_50000": 100, "exact_match_sampled": 100, "mig": 100, "rate": -1}
RATE = "rate above the least at that exact match"


def path(name: str = "evidence") -> Path:
    return files.root() / "reports" / f"{name}.csv"


def run(scheduler: str = "") -> Path:
    """Train and measure what the table lacks; then the learning curve, unless it is of these
    parameters; then the page of both, in a folder that is returned.

    Raises:
        InputError: a bad plan or parameter file, named; trainings that failed.
        StepFailed: the evidence is not what the page asks for.
    """
    wanted = plan()
    done = {*_keys(read())}
    missing = [job for key, job in wanted.items() if key not in done]
    print(f"{len(missing)} of {len(wanted)} trainings to do", flush=True)

    def keep(_job: batch.Job, rows: list[dict]) -> None:
        """The whole table again in one atomic write."""
        frame = planned(pd.concat([read(), pd.DataFrame(rows)]), wanted, others=True)
        files.write_bytes(path(), frame.to_csv(index=False, float_format="%.8f").encode())

    batch.each(missing, train, keep, scheduler)
    if not curve_is_current():
        print("the learning curve", flush=True)
        curve = pd.DataFrame(learning_curve.measure(SEED))
        files.write_bytes(path("learning_curve"), curve.to_csv(index=False).encode())
    folder = files.run_folder("", "evidence")
    with contextlib.chdir(files.root()):
        execute("4_evidence", {"run_dir": files.local(folder)}, files.local(folder))
    return folder


def _any_score(job: batch.Job) -> dict[str, Any]:
    """Its parameters, but for the score that 1_train asks for: a recipe that fails is a finding."""
    return {**job.parameters, "min_score": 0}


def plan() -> dict[tuple[str, str], batch.Job]:
    """The trainings of params/evidence.yaml by recipe and fingerprint of their parameters.

    Raises:
        InputError: a bad plan or parameter file, named.
    """
    wanted = batch.jobs("params/evidence.yaml")
    keys = {(job.entry, job.parameters["seed"]) for job in wanted}
    if len(keys) < len(wanted) or {job.notebook for job in wanted} != {"1_train"}:
        raise InputError("params/evidence.yaml takes 1_train, and lists of no key but seed.")
    return {(job.entry, params.fingerprint(_any_score(job))): job for job in wanted}


def _keys(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return zip(table.recipe, table.parameters, strict=True)


def planned(
    table: pd.DataFrame, wanted: dict[tuple[str, str], batch.Job], others: bool = False
) -> pd.DataFrame:
    """The rows of `table` that the plan asks for, by just these parameters, in its order; and at
    the end the `others`."""
    order = {key: place for place, key in enumerate(wanted)}
    table = table.assign(place=[order.get(key, len(order)) for key in _keys(table)])
    table = table[others | (table.place < len(order))]
    return table.sort_values(["place", "vae"], kind="stable").drop(columns="place")


def curve_is_current() -> bool:
    """Is reports/learning_curve.csv of the default recipe as params/train.yaml has it now?"""
    now = params.fingerprint(learning_curve.default(SEED).model_dump())
    return {*read("learning_curve").parameters} == {now}


def train(job: batch.Job) -> list[dict]:
    """A run of 1_train, and what it selected, measured: a row a VAE."""
    p = _any_score(job)
    found = batch.perform(job._replace(parameters=p))
    weights = found[f"checkpoint/{checkpoints.WEIGHTS}"]
    manifest = found[f"checkpoint/{checkpoints.MANIFEST}"]
    loaded, rows = checkpoints.from_bytes(weights, manifest, job.name, job.name), []
    for vae in loaded.model.vaes:
        e = Evaluation(loaded.model, vae, K, SEED, vae, p["split_seed"])
        about = {"recipe": job.entry, "seed": p["seed"], "epoch": loaded.epoch, "vae": vae,
                 "parameters": params.fingerprint(p)}  # fmt: skip
        measured = measure(e, MODEL, names=MEASURED)
        rows.append(about | {row.metric: row.value for row in measured})
    return rows


def read(name: str = "evidence") -> pd.DataFrame:
    """A stored table of reports/ with its COLUMNS, which may lack in an older one; empty without
    it."""
    if not path(name).exists():
        return pd.DataFrame(columns=COLUMNS[name])
    return pd.read_csv(path(name), dtype={"parameters": str}).reindex(columns=COLUMNS[name])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Recipe by VAE: mean over seeds and the worst seed, one column a metric."""
    table = []
    for (recipe, vae), group in frame.groupby(["recipe", "vae"], sort=False):
        line = {"recipe": recipe, "VAE": vae, "seeds": f"{len(group)}"}
        line["selected epoch"] = ", ".join(map(str, sorted(set(group.epoch))))
        for name in MEASURED:
            about, found = METRICS[name], group[name]
            worst = found.max() if name in ("rate", "active_units") else found.min()
            mean, least = format_value(found.mean(), about.unit), format_value(worst, about.unit)
            line[about.title] = mean if mean == least else f"{mean}, worst {least}"
        table.append(line)
    return pd.DataFrame(table)


class Answer(NamedTuple):
    """One paired difference over seeds, with minus without the part; + is better."""

    question: str
    vae: str
    metric: str
    seeds: int
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low > 0:
            return "helps"
        if self.high < 0:
            return "hurts"
        if self.low > -MARGIN and self.high < MARGIN:
            return "no effect"
        half = (self.high - self.low) / 2
        return f"undecided: an effect below {half:.2g} would not show" if self.seeds > 1 else "–"

    @property
    def row(self) -> dict[str, object]:
        """As a reader sees it."""
        return {
            "question": self.question,
            "VAE": self.vae,
            "of": RATE if self.metric == "rate" else METRICS[self.metric].title,
            "seeds": self.seeds,
            "better by": f"{self.difference:+.2f} ({self.low:+.2f} … {self.high:+.2f})",
            "unit": "nats" if self.metric == "rate" else "points",
            "answer": self.verdict,
        }


def answers(frame: pd.DataFrame, questions: dict[str, tuple[str, str]]) -> list[Answer]:
    """Every question × metric × VAE that the evidence has data for.

    `questions`: question → (the whole recipe, the recipe without the part). Intervals are Student
    t at 1 - 5 %/n over all n differences together (Bonferroni): where there is no effect
    anywhere, one is claimed somewhere in at most 5 % of cases.
    """
    least = frame.exact_match_sampled.clip(upper=1 - 1e-6).map(least_rate)  # infinite at 1
    frame = frame.assign(rate=frame.rate - least)
    table, pairs = frame.pivot(index=["vae", "seed"], columns="recipe", values=[*ASKED_OF]), []
    for question, (whole, without) in questions.items():
        for name, factor in ASKED_OF.items() if {whole, without} <= {*frame.recipe} else ():
            points = (factor * (table[name][whole] - table[name][without])).dropna()
            pairs += [(question, vae, name, x.to_numpy()) for vae, x in points.groupby("vae")]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(pairs))
    found = []
    for question, vae, name, x in pairs:
        low, high = student_t(x, confidence) if len(x) > 1 else (-np.inf, np.inf)
        found.append(Answer(question, vae, name, len(x), float(x.mean()), low, high))
    return found
