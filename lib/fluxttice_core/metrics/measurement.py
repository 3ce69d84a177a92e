"""The whole measurement of a network, its controls beside it: observe once, then pure functions.

Nothing is printed here; tables and figures come from the file these rows are stored in.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .. import parallel
from ..model.network import HOW, DualVAE, Network, Posterior
from ..model.operations import M, Split, split
from ..model.streams import generator
from ..params import Count, Params, Seed, Text, Whole
from . import codes, connection, coverage, disentanglement, generalisation, likelihood
from . import marginal, reconstruction
from .adversaries import optimum
from .controls import CONTROLS, OPTIMUM
from .coverage import ceiling
from .marginal import FEWEST, GROUPS, LIMIT_NATS, Marginal
from .results import Measured, Record, exact, share

Latents = Annotated[Whole, Field(ge=FEWEST, multiple_of=GROUPS)]


COMMON_RMS = 200.0  # of logits centred per trit: sharp enough that shapes and not scales differ


class Measurement(Params):
    """Common to everything that measures. `checkpoint` is a folder of ours or a `.pt`."""

    checkpoint: Text
    expected_sha256: Text
    split_seed: Seed
    k: Latents
    untrained_seed: Seed


class Benchmark(Measurement):
    """What 2_benchmark takes. `ns` are numbers of draws."""

    ns: Annotated[list[Annotated[Count, Field(le=195_000)]], Field(min_length=1)]
    trials: Annotated[Whole, Field(ge=5)]
    speed_repeats: Annotated[Whole, Field(ge=3)]


@dataclass(frozen=True)
class Observed:
    """What one VAE does, computed once; every metric is a function of this.

    q: posterior of all operations, (M, D) each; right: (M, T) bool, which trits return from the
    posterior mean; sampled: (R, M) bool, which operations return from R posterior samples.
    """

    network: Network
    vae: str
    seed: int
    q: Posterior
    right: Tensor
    sampled: Tensor
    marginal: Marginal

    def rng(self, stream: str) -> torch.Generator:
        """A random stream of this VAE's measurement."""
        return generator(self.seed, stream, self.vae, device=self.network.device)

    @cached_property
    def hits(self) -> Tensor:
        """(M,) bool: which operations return whole from the posterior mean."""
        return self.right.all(1)

    @cached_property
    def at_common_scale(self) -> Marginal:
        """The marginal at FEWEST latents, the logits scaled to a root mean square of COMMON_RMS."""
        decoder = marginal.scaled(self.network.decoder(self.vae), COMMON_RMS, self.rng("scale"))
        stream = f"common scale {self.vae}"
        return marginal.marginal(decoder, FEWEST, self.seed, stream, self.network.device)


def observe(network: Network, vae: str, k: int, seed: int, stream: str = "") -> Observed:
    """Encode all operations, decode them, and stream `k` prior latents through the decoder.

    `stream` names the latents' random stream (default: the VAE's name).
    """
    q = reconstruction.posterior(network, vae)
    return Observed(
        network=network,
        vae=vae,
        seed=seed,
        q=Posterior(q.mu.cpu(), q.logvar.cpu()),
        right=reconstruction.right_trits(network, vae, q.mu).cpu(),
        sampled=reconstruction.sampled_hits(network, vae, q, seed),
        marginal=marginal.marginal(network.decoder(vae), k, seed, stream or vae, network.device),
    )


def values(o: Observed, parts: Split, ns: list[int]) -> dict[str, Measured]:
    """Every metric of `METRICS` of one VAE, by name."""
    m, q, decoder = o.marginal, o.q, o.network.decoder(o.vae)
    sampled, rate = share(o.sampled), likelihood.rate(o.q)
    elbo = likelihood.elbo(rate, likelihood.distortion(decoder, q, o.rng("distortion")))
    nll = likelihood.nll(m)
    return {
        "argmax_entropy": marginal.argmax_entropy(m).of(LIMIT_NATS),
        **{f"argmax_coverage_{n}": _coverage(m, n, "argmax") for n in ns},
        "exact_match": exact(float(o.hits.double().mean()), M),
        "exact_match_worst_kind": generalisation.worst_kind(
            generalisation.kinds(o.hits, parts, o.seed)
        ),
        "exact_match_test": share(o.hits[parts.test]),
        "exact_match_sampled": sampled,
        "exact_match_test_sampled": share(o.sampled[0, parts.test]),
        "rate": rate,
        "least_rate": exact(likelihood.least_rate(min(sampled.value, sampled.high)), sampled.n),
        "cell_connection": connection.cell_connection(
            o.network.encoder(o.vae), decoder, o.rng("connection")
        ),
        "mig": disentanglement.mig(q.mu),
        "dci": disentanglement.dci_disentanglement(q.mu),
        "kl_uniform": marginal.kl_uniform(m),
        "nll": nll,
        "kl_uniform_p": likelihood.kl_uniform_p(nll),
        "bits_per_trit": likelihood.bits_per_trit(nll),
        "elbo": elbo,
        "posterior_gap": likelihood.posterior_gap(elbo, nll),
        "mutual_information": likelihood.mutual_information(q, o.rng("mutual information")),
        "aggregate_kl": codes.aggregate_kl(q, o.seed, o.vae),
        "prior_norm_share": likelihood.prior_norm_share(q, o.rng("norm")),
        "effective_support": likelihood.effective_support(m),
        "inverse_simpson": likelihood.inverse_simpson(m),
        "information": marginal.information(m).of(LIMIT_NATS),
        "information_common_scale": marginal.information(o.at_common_scale).of(LIMIT_NATS),
        **{f"categorical_coverage_{n}": _coverage(m, n, "categorical") for n in ns},
        "active_units": exact(codes.active_units(q.mu), M),
        "hamming_correlation": codes.hamming_correlation(q.mu, o.seed, o.vae),
        "latent_entropy": exact(codes.entropy_nats(q.mu), M),
    }


def _coverage(m: Marginal, n: int, how: str) -> Measured:
    return coverage.expected(m, n, how).of(float(ceiling(n)))


class Metric(NamedTuple):
    """How a metric is called and read. `better`: +1 larger, -1 smaller, 0 neither."""

    title: str
    unit: str = "share"
    better: int = 1


METRICS = {
    "argmax_entropy": Metric("argmax entropy, share of 9·ln 3"),
    "argmax_coverage": Metric("argmax coverage at N = {:,}, of ceiling"),
    "exact_match": Metric("exact match, all operations, posterior mean"),
    "exact_match_worst_kind": Metric("exact match, worst kind of unseen operation"),
    "exact_match_test": Metric("exact match on test, posterior mean"),
    "exact_match_sampled": Metric("exact match, all operations, posterior sample"),
    "exact_match_test_sampled": Metric("exact match on test, posterior sample"),
    "rate": Metric("rate: KL(q(z|x) ‖ prior), nats", "nats", 0),
    "least_rate": Metric("least rate of straight cells at that sampled exact match", "nats", 0),
    "cell_connection": Metric("cell connection"),
    "mig": Metric("MIG", "number"),
    "dci": Metric("DCI disentanglement", "number"),
    "kl_uniform": Metric("KL(P ‖ uniform), nats", "nats", -1),
    "nll": Metric("NLL, nats (ln M = 9.8875)", "nats", -1),
    "kl_uniform_p": Metric("KL(uniform ‖ P), nats", "nats", -1),
    "bits_per_trit": Metric("bits per trit (log₂ 3 = 1.5850)", "nats", -1),
    "elbo": Metric("ELBO, nats (ignoring z: -9.8875)", "nats"),
    "posterior_gap": Metric("−NLL − ELBO, nats", "nats", -1),
    "mutual_information": Metric("I_q(x; z), nats", "nats"),
    "aggregate_kl": Metric("KL(aggregate posterior ‖ prior), nats", "nats", -1),
    "prior_norm_share": Metric("posterior samples where the prior has 99.9 %"),
    "effective_support": Metric("effective support exp H(P), share of M"),
    "inverse_simpson": Metric("1 / ΣP², share of M"),
    "information": Metric("information, share of 9·ln 3"),
    "information_common_scale": Metric("information at a common scale, share of 9·ln 3"),
    "categorical_coverage": Metric("categorical coverage at N = {:,}, of ceiling"),
    "active_units": Metric("active units", "count", 0),
    "hamming_correlation": Metric("Hamming correlation of codes", "number"),
    "latent_entropy": Metric("latent entropy, nats", "nats", 0),
}


def metric(name: str) -> Metric:
    """The entry of METRICS; a name with a number of draws, `argmax_coverage_50000`, says its N."""
    if name in METRICS:
        return METRICS[name]
    stem, _, n = name.rpartition("_")
    entry = METRICS[stem]
    return entry._replace(title=entry.title.format(int(n)))


MODEL = "model"


class Row(Record):
    """One VAE of one network: what was measured of it, by the names of `METRICS`."""

    network: str
    seed: int | None
    vae: str
    k: int
    values: dict[str, Measured]


class Details(Record):
    """What only the pages show of a VAE: coverage by drawing, curves, the latent space."""

    coverage: list[coverage.Drawn]
    curve: list[coverage.Point]
    hardest: dict[str, Measured]
    min_p_times_m: float
    robustness: list[reconstruction.Robustness]
    share_outside: float
    kl_nats_by_dimension: list[float]
    plane: codes.Plane


def details(o: Observed, p: Benchmark) -> Details:
    options = {"trials": p.trials, "seed": p.seed, "stream": o.vae, "device": o.network.device}
    return Details(
        coverage=coverage.coverage(o.network.decoder(o.vae), p.ns, how=HOW, **options),
        curve=coverage.curve(o.marginal),
        hardest=marginal.hardest(o.marginal),
        min_p_times_m=marginal.min_p_times_m(o.marginal),
        robustness=reconstruction.robustness(o.network, o.vae, o.q, p.seed),
        share_outside=codes.share_outside(o.q.mu),
        kl_nats_by_dimension=codes.kl_nats(*o.q).mean(0).tolist(),
        plane=codes.plane(o.q.mu, p.seed),
    )


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
    """All of a benchmark: the model's rows first, then the controls'; `details` by network."""

    rows: list[Row]
    comparison: list[Compared]
    details: dict[str, dict[str, Details]]
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
    """Measure every VAE of `model` and all controls, each in a worker process.

    The controls are measured at FEWEST latents, so their intervals are wider than the model's;
    one untrained network has `details` too. `report` is told of each step.
    """
    report(
        f"measuring {p.k:,} latents and {p.trials} × {max(p.ns):,} draws a VAE, and the controls"
    )
    jobs = [(f"VAE-{vae}", MODEL, None, model, vae, p.k, p, True) for vae in model.vaes]
    jobs += [
        (f"{OPTIMUM}, VAE-{vae}", OPTIMUM, None, None, vae, FEWEST, p, False) for vae in model.vaes
    ]
    for name, control in CONTROLS.items():
        for seed in range(p.untrained_seed, p.untrained_seed + control.seeds):
            shown = (name, seed) == ("untrained", p.untrained_seed)
            for vae in model.vaes:
                label = f"{name} {seed}, VAE-{vae}"
                jobs.append((label, name, seed, None, vae, FEWEST, p, shown))
    rows, counts, extras = [], [], {}
    for row, reached, extra in parallel.each(_measured, jobs, report):
        rows.append(row)
        counts.append(reached)
        if extra:
            extras.setdefault(row.network, {})[row.vae] = extra
    ours = len(model.vaes)
    return Results(
        rows=rows,
        comparison=compare(rows[:ours], rows[ours:]),
        details=extras,
        diversity=coverage.diversity(*counts[:2], p.ns) if ours == 2 else [],
        noise_floor=marginal.noise_floor(p.k, p.seed),
    )


def _measured(
    label: str, name: str, seed: int | None, network: Network | None, vae: str, k: int,
    p: Benchmark, full: bool,
) -> tuple[Row, np.ndarray, Details | None]:  # fmt: skip
    """One VAE of the model, or of the control `name` made from `seed`, in a worker."""
    network = network or (optimum() if name == OPTIMUM else CONTROLS[name].make(seed))
    o = observe(network, vae, k, p.seed, vae if name == MODEL else f"{name} {seed} {vae}")
    row = Row(network=name, seed=seed, vae=vae, k=k, values=values(o, split(p.split_seed), p.ns))
    return row, o.marginal.counts, details(o, p) if full else None


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
