"""The evidence for the recipes: each is trained from five seeds, whole and without each part.

`fluxttice evidence` trains the plan in params/evidence.yaml, measures the selected epochs into
reports/evidence.csv, one row a VAE, and runs 4_evidence, which shows the table and the answers.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import files, parallel, params
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from ..metrics.controls import linear_probe
from ..metrics.evaluation import Evaluation
from ..metrics.intervals import CONFIDENCE, student_t
from ..metrics.marginal import MIN_LATENTS
from ..metrics.measurement import METRICS, measure
from ..metrics.rate import least_rate
from ..sweep import Point, point_key, read, sweep
from ..training import loop
from ..training.selection import Train
from .run import execute
from .tables import format_value

PLAN = "params/evidence.yaml"
K, SEED = 1_000_000, 20251030  # of the measurement: other draws than training's or a report's
PACKAGES = (*files.MEASURING, "training")  # whose code a row depends on
WHOLE = "default"
QUESTIONS = {  # question → the whole recipe, and the recipe without the part
    "Does the uniformity loss help?": (WHOLE, "default, no uniformity loss"),
    "Does the nonlinearity loss help?": (WHOLE, "default, no nonlinearity loss"),
    "Does rotating the latents help?": (WHOLE, "default, no rotation"),
    "Do small initial logits help?": (WHOLE, "default, initial logits of usual size"),
    "Does fine-tuning the encoder help?": (WHOLE, "default, 10 fine-tuning steps"),
    "Does a large error weight help?": (WHOLE, "default, a tenth of the error weight"),
    "Is the default recipe better than v5.5?": (WHOLE, "v5.5"),
}
COLUMNS = (
    "argmax_coverage_50000", "argmax_coverage_195000", "argmax_entropy", "exact_match",
    "exact_match_sampled", "exact_match_test", "rate", "mig", "mi_disentanglement",
    "active_units", "path_consistency",
)  # fmt: skip
MARGIN = 1.0  # points, or nats for the rate: a smaller effect is called no effect
# The metrics that answer a question, and what multiplies a difference: shares become percentage
# points, and a lower rate is better. Losing operations lowers the rate, so it is compared with the
# least rate at its exact match.
ASKED_OF = {"argmax_coverage_50000": 100, "exact_match_sampled": 100, "mig": 100, "rate": -1}
RATE = "rate above the least at that exact match"


def plan() -> list[Point]:
    """The trainings of params/evidence.yaml: recipe, parameters, and how they are measured.

    Raises:
        InputError: a bad plan or parameter file, named.
    """
    points = []
    for recipe, changes in params.read_plan(files.root() / PLAN).items():
        where, seeds = f"{PLAN}: {recipe}", changes.pop("seed", None)
        if not isinstance(seeds, list):
            raise InputError(f"{where}: seed must be a list of seeds.")
        file = changes.pop("file", "params/train.yaml")
        # A recipe that misses its score is a finding, so no score is required.
        given = params.read_yaml(files.root() / file) | changes | {"min_score": 0}
        for seed in seeds:
            p = _checked({**given, "seed": seed}, where).model_dump(exclude={"run_dir"})
            points.append({"recipe": recipe, "k": K, "seed": SEED, "parameters": p})
    return points


def _checked(given: dict, where: str) -> Train:
    kind = loop.parameters(given, where)
    return params.check(kind, {**given, "run_dir": ""}, where)


def train(point: Point) -> list[dict]:
    """Train one recipe from one seed, and measure the selected epoch: a row a VAE."""
    p = _checked(point["parameters"], point["recipe"])
    with tempfile.TemporaryDirectory() as place:
        loop.train_and_select(p, Path(place), lambda row: None)
        loaded = checkpoints.load(f"{place}/checkpoint")
    rows = []
    for vae in loaded.model.vaes:
        e = Evaluation(loaded.model, vae, point["k"], point["seed"], vae, p.split_seed)
        row = {"recipe": point["recipe"], "seed": p.seed, "epoch": loaded.epoch, "vae": vae}
        rows.append(row | {one.metric: one.value for one in measure(e, "model", None, COLUMNS)})
    return rows


def run(scheduler: str = "") -> Path:
    """Train and measure what reports/evidence.csv lacks, then run 4_evidence; its folder.

    Raises:
        InputError: a bad plan or parameter file, named; trainings that failed.
        StepFailed: the evidence is not what the page requires.
    """
    points = plan()
    with parallel.executor(scheduler) as workers:
        sweep("evidence", train, points, workers, PACKAGES)
    folder = files.run_folder("", "evidence")
    execute("evidence", {}, folder)
    return folder


def table(points: list[Point]) -> pd.DataFrame:
    """The stored rows of these points, in their order, with `train_size` and `split_seed`.

    Rows count whichever code computed them; of several versions, the last stored. The code is the
    second part of a row's `key`.
    """
    places = {point_key(point): place for place, point in enumerate(points)}
    found = read("evidence")
    found["place"] = found.key.str.partition("-")[0].map(places)
    found = found.dropna(subset="place").drop_duplicates(["place", "vae"], keep="last")
    found = found.sort_values(["place", "vae"], ignore_index=True)
    used = pd.DataFrame([point["parameters"] for point in points]).loc[found.place]
    return found.join(used[["train_size", "split_seed"]].reset_index(drop=True))


def learning_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Exact match on test operations: trained networks beside a linear probe of as many examples.

    Args:
        rows: those of `table` whose recipes differ in `train_size` alone.

    Returns:
        `{operations, vae, trained, linear_probe}`.
    """
    curve = rows.rename(columns={"train_size": "operations", "exact_match_test": "trained"})
    probes = []
    for row in curve.itertuples():
        probe = linear_probe(row.seed, row.operations)
        e = Evaluation(probe, row.vae, MIN_LATENTS, row.seed, row.vae, row.split_seed)
        probes.append(float(e.exact_matches[e.split.test].double().mean()))
    return curve[["operations", "vae", "trained"]].assign(linear_probe=probes)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Recipe by VAE: mean over seeds and the worst seed, one column a metric."""
    lines = []
    for (recipe, vae), group in frame.groupby(["recipe", "vae"], sort=False):
        line = {"recipe": recipe, "VAE": vae, "seeds": f"{len(group)}"}
        line["selected epoch"] = ", ".join(f"{epoch:.0f}" for epoch in sorted(set(group.epoch)))
        for name in COLUMNS:
            about, found = METRICS[name], group[name]
            worst = found.max() if name in ("rate", "active_units") else found.min()
            mean, least = format_value(found.mean(), about.unit), format_value(worst, about.unit)
            line[about.title] = mean if mean == least else f"{mean}, worst {least}"
        lines.append(line)
    return pd.DataFrame(lines)


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
