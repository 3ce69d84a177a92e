"""The whole measurement of a network, its controls beside it: observe once, then pure functions.

Nothing is printed here; tables and figures come from the file these rows are stored in.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field

from .. import parallel
from ..model.network import HOW, DualVAE, Network
from ..model.operations import split
from ..model.streams import generator
from ..parallel import Job
from ..params import Count, Whole
from . import codes, coverage, marginal, reconstruction
from .adversaries import optimum
from .controls import CONTROLS, OPTIMUM
from .marginal import FEWEST
from .observation import Measurement, Observed, metric, names, observe, values
from .results import Measured, Record

MODEL, UNTRAINED = "model", "untrained"
T = TypeVar("T")


class Benchmark(Measurement):
    """What 2_benchmark takes. `ns` are numbers of draws."""

    ns: Annotated[list[Annotated[Count, Field(le=195_000)]], Field(min_length=1)]
    trials: Annotated[Whole, Field(ge=5)]
    speed_repeats: Annotated[Whole, Field(ge=3)]


class Row(Record):
    """One VAE of one network: what was measured of it, by the names of `METRICS`."""

    network: str
    seed: int | None
    vae: str
    k: int
    values: dict[str, Measured]


class Details(Record):
    """What only the pages show of a VAE: curves, hard operations, the latent space."""

    curve: list[coverage.Point]
    hardest: dict[str, Measured]
    min_p_times_m: float
    share_outside: float
    kl_nats_by_dimension: list[float]
    plane: codes.Plane


def details(o: Observed) -> Details:
    return Details(
        curve=coverage.curve(o.marginal),
        hardest=marginal.hardest(o.marginal),
        min_p_times_m=marginal.min_p_times_m(o.marginal),
        share_outside=codes.share_outside(o.q.mu),
        kl_nats_by_dimension=codes.kl_nats(*o.q).mean(0).tolist(),
        plane=codes.plane(o.q.mu, o.seed),
    )


class Drawings(Record):
    """What plain sampling shows of a VAE, for whoever would check the exact figures."""

    coverage: list[coverage.Drawn]
    robustness: list[reconstruction.Robustness]


def drawings(network: Network, vae: str, p: Benchmark) -> Drawings:
    q = reconstruction.posterior(network, vae)
    return Drawings(
        coverage=coverage.coverage(
            network.decoder(vae), p.ns, how=HOW, trials=p.trials, seed=p.seed, stream=vae,
            device=network.device,
        ),
        robustness=reconstruction.robustness(network, vae, q, p.seed),
    )  # fmt: skip


class Compared(Record):
    """A metric of one VAE beside the hull of each control's intervals over its seeds.

    It discriminates where the whole interval is better than every control's of CONTROLS that has
    one; where it does not, noise can win the number, and it decides nothing. `best`: what the
    optimum written by hand has.
    """

    metric: str
    vae: str
    ours: Measured
    controls: dict[str, tuple[float, float]]
    best: Measured
    discriminates: bool


def compare(ours: list[Row], others: list[Row]) -> list[Compared]:
    """Every metric of every VAE in `ours` beside the controls' and the optimum's in `others`."""
    table = []
    for name in ours[0].values:
        for row in ours:
            beside = [other for other in others if other.vae == row.vae]
            best = next(other.values[name] for other in beside if other.network == OPTIMUM)
            hulls: dict[str, tuple[float, float]] = {}
            for other in beside:
                theirs = other.values[name]
                if other.network == OPTIMUM or theirs.value is None:
                    continue
                low, high = hulls.get(other.network, (theirs.low, theirs.high))
                hulls[other.network] = min(low, theirs.low), max(high, theirs.high)
            good = _better(row.values[name], list(hulls.values()), metric(name).better)
            table.append(
                Compared(
                    metric=name, vae=row.vae, ours=row.values[name], controls=hulls, best=best,
                    discriminates=good,
                )
            )  # fmt: skip
    return table


def _better(mine: Measured, hulls: list[tuple[float, float]], direction: int) -> bool:
    if mine.value is None or not direction:
        return False
    if direction > 0:
        return all(mine.low > high for _, high in hulls)
    return all(mine.high < low for low, _ in hulls)


class Results(Record):
    """All of a benchmark: the model's rows first, then the controls'. `details` and `drawings` by
    network and VAE: the model's, and an untrained network's."""

    rows: list[Row]
    comparison: list[Compared]
    details: dict[str, dict[str, Details]]
    drawings: dict[str, dict[str, Drawings]]
    diversity: list[coverage.Diversity]
    noise_floor: tuple[float, float]

    @property
    def vaes(self) -> list[str]:
        """The VAEs that the model has."""
        return [row.vae for row in self.rows if row.network == MODEL]

    def of(self, vae: str) -> dict[str, Measured]:
        """The model's values by name."""
        return next(r.values for r in self.rows if r.network == MODEL and r.vae == vae)


def measure(model: Network, p: Benchmark, report: Callable[[str], None] = print) -> Results:
    """Measure every VAE of `model`, the optimum and all controls, each in a worker process.

    All but the model are measured at FEWEST latents, so their intervals are wider than the
    model's. `report` is told of each step.
    """
    report(
        f"measuring {p.k:,} latents and {p.trials} × {max(p.ns):,} draws a VAE, and the controls"
    )
    vaes = model.vaes[::-1]  # B's decoder is the larger one: the longest job begins first
    fresh = CONTROLS["untrained"].make(p.untrained_seed)
    beside = [(OPTIMUM, p.untrained_seed)]
    for name, control in CONTROLS.items():
        beside += [(name, p.untrained_seed + number) for number in range(control.seeds)]
    jobs = [Job(f"VAE-{vae}", _model, (model, vae, p)) for vae in vaes]
    jobs += [
        Job(f"{name}, VAE-{vae}, by drawing", drawings, (network, vae, p))
        for name, network in ((MODEL, model), (UNTRAINED, fresh))
        for vae in vaes
    ]
    jobs += [
        Job(f"{name} {seed}, VAE-{vae}", _other, (name, seed, vae, p))
        for name, seed in beside
        for vae in vaes
    ]
    found = parallel.each(jobs, report)
    n = len(vaes)
    ours, drawn, others = found[:n][::-1], found[n : 3 * n], found[3 * n :]
    shown = [*ours, *(other for other in others if other[2])]
    rows, controls = [row for row, *_ in ours], [row for row, *_ in others]
    return Results(
        rows=[*rows, *controls],
        comparison=compare(rows, controls),
        details=_by_network((row.network, row.vae, extra) for row, _, extra in shown),
        drawings=_by_network(
            zip([MODEL] * n + [UNTRAINED] * n, [*vaes, *vaes], drawn, strict=True)
        ),
        diversity=coverage.diversity(ours[0][1], ours[1][1], p.ns) if n == 2 else [],
        noise_floor=marginal.noise_floor(p.k, p.seed),
    )


def _by_network(found: Iterable[tuple[str, str, T]]) -> dict[str, dict[str, T]]:
    table: dict[str, dict[str, T]] = {}
    for network, vae, value in sorted(found, key=lambda row: row[:2]):
        table.setdefault(network, {})[vae] = value
    return table


def _model(model: Network, vae: str, p: Benchmark) -> tuple[Row, np.ndarray, Details]:
    o = observe(model, vae, p.k, p.seed)
    found = values(o, split(p.split_seed), names(p.ns))
    row = Row(network=MODEL, seed=None, vae=vae, k=p.k, values=found)
    return row, o.marginal.counts, details(o)


def _other(
    name: str, seed: int, vae: str, p: Benchmark
) -> tuple[Row, np.ndarray | None, Details | None]:
    """The optimum or a control; details of the untrained network that the pages show."""
    network = optimum() if name == OPTIMUM else CONTROLS[name].make(seed)
    o = observe(network, vae, FEWEST, p.seed, f"{name} {seed} {vae}")
    found = values(o, split(p.split_seed), names(p.ns))
    row = Row(network=name, seed=seed, vae=vae, k=FEWEST, values=found)
    return row, None, details(o) if (name, seed) == (UNTRAINED, p.untrained_seed) else None


class Speed(Record):
    """Operations a second: the median of `repeats` runs of n operations each, and their range."""

    n: int
    repeats: int
    median: float
    low: float
    high: float


def speed(model: DualVAE, vae: str, repeats: int, seed: int, n: int = 195_000) -> Speed:
    """Argmax sampling, memory bounded, on this machine at this moment."""
    rng, rates = generator(seed, "speed", vae), []
    for _ in range(repeats):
        start = time.perf_counter()
        for size in [n // 13] * 13:
            model.sample(size, vae, "argmax", rng=rng)
        rates.append(n / (time.perf_counter() - start))
    median = statistics.median(rates)
    return Speed(n=n, repeats=repeats, median=median, low=min(rates), high=max(rates))
