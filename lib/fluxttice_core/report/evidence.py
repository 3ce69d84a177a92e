"""The evidence for the recipes: each is trained from five seeds, whole and without each part.

`fluxttice evidence` trains the plan in params/evidence.yaml, measures the selected epochs into
reports/evidence.csv, one row a VAE, and runs 4_evidence, which shows the table and the answers.
"""

import tempfile
from pathlib import Path

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
from .notebook import check
from .run import execute
from .tables import format_value

PLAN = "params/evidence.yaml"
K, SEED = 1_000_000, 20251030  # of the measurement: other draws than training's or a report's
PACKAGES = (*files.MEASURING, "training")  # whose code a row depends on
WHOLE = "default"
COLUMNS = (
    "argmax_coverage_50000", "argmax_coverage_195000", "argmax_entropy", "exact_match",
    "exact_match_sampled", "exact_match_test", "rate", "mig", "mi_disentanglement",
    "active_units", "path_consistency",
)  # fmt: skip
SUMMARY = (
    "argmax_coverage_50000", "exact_match_sampled", "exact_match_test", "rate", "mig",
    "active_units",
)  # fmt: skip
# The metrics that a part is judged by, and what multiplies a difference: shares become percentage
# points, and a lower rate is better. Exact match can be bought with rate, so it is asked at its
# rate: how far is the rate above the least at that exact match?
ASKED_OF = {"argmax_coverage_50000": 100, "mig": 100, "rate": -1}
RATE = "rate above the least at that exact match, nats"
MARGIN = 1.0  # points, or nats: a smaller effect is called no effect


def plan() -> list[Point]:
    """The trainings of params/evidence.yaml; InputError names a bad plan or parameter file."""
    points = []
    for recipe, changes in params.read_plan(files.root() / PLAN).items():
        where, seeds = f"{PLAN}: {recipe}", changes.pop("seed", None)
        if not isinstance(seeds, list):
            raise InputError(f"{where}: seed must be a list of seeds.")
        file = changes.pop("file", "params/train.yaml")
        # A recipe that misses its score is a finding, so no score is required.
        given = params.read_yaml(files.root() / file) | changes | {"min_score": 0, "run_dir": ""}
        for seed in seeds:
            p = check("train", {**given, "seed": seed}, where).model_dump(exclude={"run_dir"})
            points.append({"recipe": recipe, "k": K, "seed": SEED, "parameters": p})
    return points


def train(point: Point) -> list[dict]:
    """Train one recipe from one seed, and measure the selected epoch: a row a VAE."""
    given = {**point["parameters"], "run_dir": ""}
    p = check("train", given, point["recipe"])
    with tempfile.TemporaryDirectory() as place:
        loop.train_and_select(p, Path(place), lambda row: None)
        loaded = checkpoints.load(f"{place}/checkpoint")
    rows = []
    for vae in loaded.model.vaes:
        e = Evaluation(loaded.model, vae, point["k"], point["seed"], vae, given["split_seed"])
        row = {"recipe": point["recipe"], "seed": given["seed"], "epoch": loaded.epoch, "vae": vae}
        rows.append(row | {one.metric: one.value for one in measure(e, "model", None, COLUMNS)})
    return rows


def run(scheduler: str = "") -> Path:
    """Train and measure what reports/evidence.csv lacks, then run 4_evidence; its folder.

    Raises:
        InputError: a bad plan, trainings that failed, or as `execute`.
    """
    points = plan()
    with parallel.executor(scheduler) as workers:
        sweep("evidence", train, points, workers, PACKAGES)
    folder = files.run_folder("", "evidence")
    execute("evidence", {}, folder)
    return folder


def table(points: list[Point]) -> pd.DataFrame:
    """The stored rows of these points, in their order, with `train_size` and `split_seed`.

    Rows by any code count; of several versions, the last stored.
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

    `rows` are those of `table` whose recipes differ in `train_size` alone. The columns are
    `operations, vae, trained, linear_probe`.
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
        for name in SUMMARY:
            about, found = METRICS[name], group[name]
            worst = found.max() if name in ("rate", "active_units") else found.min()
            mean, least = format_value(found.mean(), about.unit), format_value(worst, about.unit)
            line[about.title] = mean if mean == least else f"{mean}, worst {least}"
        lines.append(line)
    return pd.DataFrame(lines)


def answers(frame: pd.DataFrame, failed: pd.Series) -> pd.DataFrame:
    """What each part does: paired differences over seeds, the whole recipe minus the one without
    the part, for every metric of ASKED_OF and every VAE; + is better.

    Intervals are Student t at 1 - 5 %/n over all n differences together (Bonferroni): where there
    is no effect anywhere, one is claimed somewhere in at most 5 % of cases. They are about the
    typical seed, so the seeds that fail are counted beside them.

    Args:
        frame: rows of `table`.
        failed: whether the training of each row failed.
    """
    least = frame.exact_match_sampled.clip(upper=1 - 1e-6).map(least_rate)  # infinite at 1
    frame = frame.assign(rate=frame.rate - least, failed=failed.astype(float))
    values = frame.pivot(index=["vae", "seed"], columns="recipe", values=[*ASKED_OF, "failed"])
    lines, differences = [], []
    for part in frame.recipe.unique():
        if part == WHOLE or WHOLE not in {*frame.recipe}:
            continue
        for name, factor in ASKED_OF.items():
            difference = (factor * (values[name][WHOLE] - values[name][part])).dropna()
            for vae, points in difference.groupby("vae"):
                lost = values["failed"].loc[points.index].sum().astype(int)
                line = {"default against": part, "VAE": vae}
                line["of"] = RATE if name == "rate" else METRICS[name].title
                words = f"{lost[WHOLE]} and {lost[part]} of {len(points)}"
                lines.append(line | {"better by": points.mean(), "failed seeds": words})
                differences.append(points.to_numpy())
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(lines))
    for line, points in zip(lines, differences, strict=True):
        low, high = student_t(points, confidence) if len(points) > 1 else (-np.inf, np.inf)
        line |= {"from": low, "to": high, "answer": answer(low, high)}
    return pd.DataFrame(lines)


def answer(low: float, high: float) -> str:
    """The answer that an interval gives."""
    if low > 0:
        return "helps"
    if high < 0:
        return "hurts"
    if low > -MARGIN and high < MARGIN:
        return "no effect on the typical seed"
    return f"undecided: an effect below {(high - low) / 2:.2g} would not show"
