"""A benchmark: every metric of a model, its controls', and the file of all these numbers."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from . import files, parallel
from .metrics.controls import CONTROLS, Control, linear_probe
from .metrics.evaluation import HOURS, Evaluation, Measurement
from .metrics.marginal import MIN_LATENTS
from .metrics.measurement import MODEL, details, measure, monte_carlo
from .metrics.oracles import oracle
from .metrics.results import Record, Row
from .model.network import VAES, Measurable, Network
from .parallel import Job
from .params import Seed, Text, Whole
from .sweep import Point, stored_rows, sweep

DOCUMENT = "coverage_vs_entropy.json"
UNTRAINED, PROBE, ORACLE = "untrained", "linear probe", "oracle"
# Names of random streams, which are seeds, stay those of the first release.
STREAMS = {ORACLE: "by hand", PROBE: "ten operations"}
NETWORKS = {
    ORACLE: Control(lambda _seed: oracle(), 1),
    PROBE: Control(linear_probe, 1),
    **CONTROLS,
}


class Benchmark(Measurement):
    """Parameters of 2_benchmark. `trials`: of sampled coverage. `against`: another checkpoint to
    compare with, or empty."""

    against: Text
    seed: Seed
    trials: Annotated[Whole, Field(ge=5, le=10_000, description=HOURS)]


class Document(Record):
    """coverage_vs_entropy.json: every number of a benchmark, of the model and of its controls."""

    schema_: Literal["fluxttice/coverage_vs_entropy/5"] = Field(
        "fluxttice/coverage_vs_entropy/5", alias="schema"
    )
    created_utc: str
    git: dict[str, str | bool | None]
    environment: dict[str, str]
    checkpoint: dict[str, str | int | None]
    params: dict[str, Any]
    controls_measured: str
    rows: list[Row]

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        return pd.DataFrame(row.model_dump() for row in self.rows)


def run(
    model: Measurable, record: dict[str, Any], p: Benchmark, report: Callable[[str], None] = print
) -> Document:
    """Measure every VAE of `model` in worker processes, beside the stored controls.

    Args:
        record: the checkpoint's path, epoch and sha256, for the file.
        report: called with a sentence for each finished part.

    Raises:
        InputError: logits or codes that are not finite.
    """
    report(f"measuring {p.k:,} latents a VAE")
    jobs = [
        Job(f"VAE-{vae}, {name}", function, (model, vae, p))
        for name, function in (("metrics", _exact), ("Monte-Carlo estimates", _monte_carlo))
        for vae in model.vaes[::-1]  # B's decoder is the larger one, so its job starts first
    ]
    rows = [row for found in parallel.each(jobs, report)[::-1] for row in found]
    controls = stored_controls(p, report)
    if isinstance(model, Network) and model.normed:  # the stored untrained networks are not
        points = [x for x in control_points(p) if x["network"] == UNTRAINED]
        alike = _measured([x for x in points if x["vae"] in model.vaes], report, model)
        controls = pd.concat([controls[controls.network != UNTRAINED], alike])
    kept = controls[[*Row.model_fields]].astype(object)
    kept = kept.where(kept.notna(), None)
    return Document(
        created_utc=files.utc_now().isoformat(),
        git=files.git_commit(),
        environment=files.environment(),
        checkpoint=record,
        params=p.model_dump(),
        controls_measured=controls.measured_utc.max(),
        rows=[*rows, *(Row(**row) for row in kept.to_dict("records"))],
    )


def store(document: Document, path: Path) -> Document:
    """Write the file atomically, and return what was stored."""
    files.write_bytes(path, document.to_json())
    return Document.model_validate_json(path.read_bytes())


def _evaluation(model: Measurable, vae: str, p: Benchmark) -> Evaluation:
    return Evaluation(model, vae, p.k, p.seed, vae, p.split_seed)


def _exact(model: Measurable, vae: str, p: Benchmark) -> list[Row]:
    e = _evaluation(model, vae, p)
    return measure(e, MODEL) + details(e, MODEL)


def _monte_carlo(model: Measurable, vae: str, p: Benchmark) -> list[Row]:
    return monte_carlo(_evaluation(model, vae, p), MODEL, None, p.trials)


# --- Controls: they depend on no model, so they are measured once and stored ---------------------


def control_points(p: Benchmark) -> list[Point]:
    """The oracle, the linear probe and every control, from each of its seeds, VAE by VAE."""
    names = ("seed", "split_seed", "untrained_seed", "trials")
    parameters = {name: getattr(p, name) for name in names}
    return [
        {"network": name, "seed": seed, "vae": vae, "parameters": parameters}
        for vae in VAES[::-1]
        for name, control in NETWORKS.items()
        for seed in range(p.untrained_seed, p.untrained_seed + control.seeds)
    ]


def stored_controls(p: Benchmark, report: Callable[[str], None] = print) -> pd.DataFrame:
    """The rows of reports/controls.csv if they are of these parameters and this code; otherwise
    the controls are measured now."""
    found = stored_rows("controls", control_points(p))
    if found is None:
        report("reports/controls.csv is of other code or parameters: measuring the controls now")
        return measured_controls(p, report)
    return found


def measured_controls(p: Benchmark, report: Callable[[str], None] = print) -> pd.DataFrame:
    """The rows of every control, measured now and not stored."""
    return _measured(control_points(p), report)


def _measured(
    points: list[Point], report: Callable[[str], None], layout: Network | None = None
) -> pd.DataFrame:
    """The points' rows; with a `layout`, those of untrained networks like it."""
    jobs = []
    for point in points:
        name = f"{point['network']} {point['seed']}, VAE-{point['vae']}"
        network = layout.untrained(point["seed"]) if layout else None
        jobs.append(Job(name, control_rows, (point, network)))
    return pd.DataFrame(row for rows in parallel.each(jobs, report) for row in rows)


def store_controls(p: Benchmark) -> None:
    """Measure the controls that reports/controls.csv lacks, and store them there."""
    with parallel.executor() as workers:
        sweep("controls", control_rows, control_points(p), workers)


def control_rows(point: Point, network: Network | None = None) -> list[dict[str, Any]]:
    """One VAE of a control, with MIN_LATENTS latents: flat rows, and when they were measured.

    The first untrained network has all details, because the figures show them. A `network` is
    measured instead of the control that the point names.
    """
    name, seed, vae, given = (point[key] for key in ("network", "seed", "vae", "parameters"))
    stream = f"{STREAMS.get(name, name)} {seed} {vae}"
    measured = network or NETWORKS[name].make(seed)
    e = Evaluation(measured, vae, MIN_LATENTS, given["seed"], stream, given["split_seed"])
    rows = measure(e, name, seed)
    if (name, seed) == (UNTRAINED, given["untrained_seed"]):
        rows += details(e, name, seed) + monte_carlo(e, name, seed, given["trials"])
    now = files.utc_now().isoformat()
    return [{**row.model_dump(), "measured_utc": now} for row in rows]
