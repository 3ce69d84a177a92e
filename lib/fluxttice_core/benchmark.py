"""A benchmark: every metric of a model, its controls', and the file of all these numbers."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from . import files, parallel, params
from .metrics.controls import CONTROLS, Control, linear_probe
from .metrics.evaluation import HOURS, Evaluation, Measurement
from .metrics.marginal import MIN_LATENTS
from .metrics.measurement import MODEL, details, measure, monte_carlo
from .metrics.oracles import oracle, packed_oracle
from .metrics.results import Record, Row
from .model.network import VAES, Measurable, Network
from .parallel import Job
from .params import Seed, Whole

DOCUMENT = "coverage_vs_entropy.json"
UNTRAINED, PROBE, ORACLE, PACKED = "untrained", "linear probe", "oracle", "packed oracle"
# Names of random streams, which are seeds, stay those of the first release.
STREAMS = {ORACLE: "by hand", PROBE: "ten operations"}
NETWORKS = {
    ORACLE: Control(lambda _seed: oracle(), 1),
    PACKED: Control(lambda _seed: packed_oracle(), 1),
    PROBE: Control(linear_probe, 1),
    **CONTROLS,
}


class Benchmark(Measurement):
    """Parameters of 2_benchmark. `trials`: of sampled coverage."""

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
        model: the network.
        record: its checkpoint's path, epoch and sha256, for the file.
        p: parameters.
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
    others = _rows(controls)
    if isinstance(model, Network) and model.normed:  # the stored untrained networks are not
        jobs = [job for job in _jobs(p, model) if job.arguments[0] == UNTRAINED]
        own = [row for found in parallel.each(jobs, report) for row in found]
        others = [row for row in others if row.network != UNTRAINED] + own
    return Document(
        created_utc=files.utc_now().isoformat(),
        git=files.git_commit(),
        environment=files.environment(),
        checkpoint=record,
        params=p.model_dump(),
        controls_measured=controls.measured_utc.max(),
        rows=[*rows, *others],
    )


def store(document: Document, path: Path) -> Document:
    """Write the file atomically, and return what was stored."""
    files.write_bytes(path, document.to_json())
    return Document.model_validate_json(path.read_bytes())


def _exact(model: Measurable, vae: str, p: Benchmark) -> list[Row]:
    e = Evaluation(model, vae, p.k, p.seed, vae, p.split_seed)
    return measure(e, MODEL) + details(e, MODEL)


def _monte_carlo(model: Measurable, vae: str, p: Benchmark) -> list[Row]:
    e = Evaluation(model, vae, p.k, p.seed, vae, p.split_seed)
    return monte_carlo(e, MODEL, None, p.trials)


# --- Controls: they depend on no model, so they are measured once and stored ---------------------


def controls_path() -> Path:
    return files.root() / "reports" / "controls.csv"


def stored_controls(p: Benchmark, report: Callable[[str], None] = print) -> pd.DataFrame:
    """The rows of reports/controls.csv if they are of these parameters and this code; otherwise
    the controls are measured now. `make controls` stores them."""
    if controls_path().is_file():
        stored = pd.read_csv(controls_path())
        if set(stored.get("key", ())) == {_key(p)}:
            return stored
        report("reports/controls.csv is of other code or parameters: measuring the controls now")
    return measured_controls(p, report)


def measured_controls(p: Benchmark, report: Callable[[str], None] = print) -> pd.DataFrame:
    """The oracles, the linear probe and every control from each of its seeds: flat rows."""
    rows = [row for found in parallel.each(_jobs(p), report) for row in found]
    frame = pd.DataFrame(row.model_dump() for row in rows)
    return frame.assign(measured_utc=files.utc_now().isoformat(), key=_key(p))


def _jobs(p: Benchmark, model: Network | None = None) -> list[Job]:
    """`control_rows` of every network beside a model; of its own layout if it is given."""
    return [
        Job(f"{name} {seed}, VAE-{vae}", control_rows, (name, seed, vae, p, model))
        for vae in (model.vaes if model else VAES)[::-1]
        for name, control in NETWORKS.items()
        for seed in range(p.untrained_seed, p.untrained_seed + control.seeds)
    ]


def control_rows(
    name: str, seed: int, vae: str, p: Benchmark, model: Network | None = None
) -> list[Row]:
    """One VAE of a control, with MIN_LATENTS latents; with all details of the first untrained
    network, which the figures show. With `model`, an untrained network of its layout."""
    network = model.untrained(seed) if model else NETWORKS[name].make(seed)
    old = STREAMS.get(name, name)
    e = Evaluation(network, vae, MIN_LATENTS, p.seed, f"{old} {seed} {vae}", p.split_seed)
    rows = measure(e, name, seed)
    if (name, seed) == (UNTRAINED, p.untrained_seed):
        rows += details(e, name, seed) + monte_carlo(e, name, seed, p.trials)
    return rows


def _key(p: Benchmark) -> str:
    wanted = ("seed", "split_seed", "untrained_seed", "trials")
    code = files.code_hash("model", "metrics")
    return params.fingerprint({name: getattr(p, name) for name in wanted} | {"code": code})


def _rows(frame: pd.DataFrame) -> list[Row]:
    kept = frame[[*Row.model_fields]].astype(object)
    return [Row(**record) for record in kept.where(kept.notna(), None).to_dict("records")]
