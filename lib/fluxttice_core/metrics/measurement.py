"""The whole measurement of a network, its controls beside it: observe once, then pure functions.

Nothing is printed here; tables and figures come from the file these rows are stored in.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from .. import files, parallel
from ..model.network import HOW, VAES, Measurable, Network
from ..model.operations import split
from ..parallel import Job
from ..params import Count, Whole
from . import codes, coverage, marginal, reconstruction
from .adversaries import linear_readout, optimum
from .controls import CONTROLS, OPTIMUM, READOUT, Control
from .marginal import FEWEST
from .observation import HOURS, Measurement, Observed, metric, names, observe, values
from .results import Measured, Record

MODEL, UNTRAINED = "model", "untrained"
BESIDE = {
    OPTIMUM: Control(lambda _seed: optimum(), 1),
    READOUT: Control(linear_readout, 1),
    **CONTROLS,
}


class Benchmark(Measurement):
    """What 2_benchmark takes. `ns` are numbers of draws."""

    ns: Annotated[list[Annotated[Count, Field(le=195_000)]], Field(min_length=1)]
    trials: Annotated[Whole, Field(ge=5, le=10_000, description=HOURS)]


class Details(Record):
    """What only the pages show of a VAE: curves, hard operations, the latent space."""

    curve: list[coverage.Point]
    hardest: dict[str, Measured]
    kl_nats_by_dimension: list[float]


def details(o: Observed) -> Details:
    return Details(
        curve=coverage.curve(o.marginal),
        hardest=marginal.hardest(o.marginal),
        kl_nats_by_dimension=codes.kl_nats(*o.q).mean(0).tolist(),
    )


class Drawings(Record):
    """What plain sampling shows of a VAE, for whoever would check the exact figures."""

    coverage: list[coverage.Drawn]
    robustness: list[reconstruction.Robustness]


def drawings(network: Measurable, vae: str, p: Benchmark) -> Drawings:
    q = reconstruction.posterior(network, vae)
    return Drawings(
        coverage=coverage.coverage(
            network.decoder(vae), p.ns, how=HOW, trials=p.trials, seed=p.seed, stream=vae,
            device=network.device,
        ),
        robustness=reconstruction.robustness(network, vae, q, p.seed),
    )  # fmt: skip


class Row(Record):
    """One VAE of one network: what was measured of it, by the names of `METRICS`; `details` and
    `drawings` of the networks that the pages show: the model, and one that is untrained."""

    network: str
    seed: int | None
    vae: str
    k: int
    values: dict[str, Measured]
    details: Details | None = None
    drawings: Drawings | None = None


class Compared(Record):
    """A metric of one VAE beside the hull of each control's intervals over its seeds.

    It discriminates where the whole interval is better than every control's of CONTROLS that has
    one (and one has); where it does not, noise can win the number, and it decides nothing.
    `best`: what the optimum written by hand has; `readout`: what a random linear encoder with a
    read-out fitted to ten operations has.
    """

    metric: str
    vae: str
    ours: Measured
    controls: dict[str, tuple[float, float]]
    best: Measured
    readout: Measured
    discriminates: bool


def compare(ours: list[Row], others: list[Row]) -> list[Compared]:
    """Every metric of every VAE in `ours` beside those in `others`."""
    table = []
    for name in ours[0].values:
        for row in ours:
            beside = [(o.network, o.values[name]) for o in others if o.vae == row.vae]
            hulls: dict[str, tuple[float, float]] = {}
            for network, theirs in beside:
                if network in CONTROLS and theirs.value is not None:
                    low, high = hulls.get(network, (theirs.low, theirs.high))
                    hulls[network] = min(low, theirs.low), max(high, theirs.high)
            good = better(row.values[name], list(hulls.values()), metric(name).better)
            table.append(
                Compared(
                    metric=name, vae=row.vae, ours=row.values[name], controls=hulls,
                    best=dict(beside)[OPTIMUM], readout=dict(beside)[READOUT], discriminates=good,
                )
            )  # fmt: skip
    return table


def better(mine: Measured, hulls: list[tuple[float, float]], direction: int) -> bool:
    """Is the whole interval beyond every hull (and there is one), upwards for a `direction` above
    0, downwards below, never for 0?"""
    if mine.value is None or not hulls or not direction:
        return False
    if direction > 0:
        return all(mine.low > high for _, high in hulls)
    return all(mine.high < low for low, _ in hulls)


class Results(Record):
    """All of a benchmark: the model's rows first, then those of what stands beside it."""

    rows: list[Row]
    controls_measured: str
    comparison: list[Compared]

    def of(self, network: str) -> dict[str, Row]:
        """The rows of the first network of that name, by VAE."""
        found = {row.vae: row for row in reversed(self.rows) if row.network == network}
        return dict(sorted(found.items()))


class Beside(Record):
    """What stands beside every model; it depends on no model, so it is measured once.

    code: `files.code_hash` of what measures; key: the parameters that it depends on.
    """

    code: str
    key: dict[str, int | list[int]]
    created_utc: str
    environment: dict[str, str]
    rows: list[Row]


def measure(model: Measurable, p: Benchmark, report: Callable[[str], None] = print) -> Results:
    """Measure every VAE of `model`, in worker processes, and compare it with `beside`.

    Raises:
        InputError: a decoder that gives no numbers.
    """
    report(f"measuring {p.k:,} latents and {p.trials} × {max(p.ns):,} draws a VAE")
    jobs = [
        Job(f"VAE-{vae}, {name}", function, (model, vae, p))
        for name, function in (("metrics", _row), ("drawn", drawings))
        for vae in model.vaes[::-1]  # B's decoder is the larger one: the longest job begins first
    ]
    found, n = parallel.each(jobs, report)[::-1], len(model.vaes)
    pairs = zip(found[n:], found[:n], strict=True)
    rows = [row.model_copy(update={"drawings": drawn}) for row, drawn in pairs]
    stored = beside(p, report)
    others = stored.rows
    # The stored untrained networks have no such layers.
    if isinstance(model, Network) and model.normed:
        own = [job for job in _jobs(p, model) if job.arguments[0] == UNTRAINED]
        others = [row for row in others if row.network != UNTRAINED] + parallel.each(own, report)
    return Results(
        rows=[*rows, *others],
        controls_measured=stored.created_utc,
        comparison=compare(rows, others),
    )


def _row(model: Measurable, vae: str, p: Benchmark) -> Row:
    o = observe(model, vae, p.k, p.seed)
    found = values(o, split(p.split_seed), names(p.ns))
    return Row(network=MODEL, seed=None, vae=vae, k=p.k, values=found, details=details(o))


def beside_path() -> Path:
    return files.root() / "reports" / "controls.json"


def beside(p: Benchmark, report: Callable[[str], None] = print) -> Beside:
    """The stored rows (reports/controls.json) where the code that measures and the parameters are
    the same, else measured now. `make controls` stores them anew."""
    if beside_path().is_file():
        stored = files.parse_json(beside_path().read_bytes())
        if stored == stored | _key(p):
            return Beside.model_validate(stored)
        report("reports/controls.json is of other code or parameters: measuring the controls now")
    return measured_beside(p, report)


def measured_beside(p: Benchmark, report: Callable[[str], None] = print) -> Beside:
    """The optimum, the read-out of ten operations, and every control from each of its seeds."""
    return Beside(
        **_key(p),
        created_utc=files.utc_now().isoformat(),
        environment=files.environment(),
        rows=parallel.each(_jobs(p), report),
    )


def _jobs(p: Benchmark, model: Network | None = None) -> list[Job]:
    """`control_row` of all that stands beside a model; of its own layout if it is given."""
    return [
        Job(f"{name} {seed}, VAE-{vae}", control_row, (name, seed, vae, p, model))
        for vae in (model.vaes if model else VAES)[::-1]
        for name, network in BESIDE.items()
        for seed in range(p.untrained_seed, p.untrained_seed + network.seeds)
    ]


def control_row(name: str, seed: int, vae: str, p: Benchmark, model: Network | None = None) -> Row:
    """What stands beside a model, at FEWEST latents: its intervals are wider than a model's. What
    is untrained is of the layout of `model`, if it is given."""
    network = model.untrained(seed) if model else BESIDE[name].make(seed)
    shown = (name, seed) == (UNTRAINED, p.untrained_seed)
    o = observe(network, vae, FEWEST, p.seed, f"{name} {seed} {vae}")
    return Row(
        network=name, seed=seed, vae=vae, k=FEWEST,
        values=values(o, split(p.split_seed), names(p.ns)),
        details=details(o) if shown else None,
        drawings=drawings(network, vae, p) if shown else None,
    )  # fmt: skip


def _key(p: Benchmark) -> dict[str, Any]:
    wanted = ("seed", "split_seed", "untrained_seed", "ns", "trials")
    key = {name: getattr(p, name) for name in wanted}
    return {"code": files.code_hash("model", "metrics"), "key": key}
