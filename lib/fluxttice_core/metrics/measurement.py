"""Metrics by name, the rows that they give of an `Evaluation`, and a comparison with controls."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..model.operations import M
from . import coverage, evenness, likelihood, marginal, rate, reconstruction
from .agreement import agreement_float64, agreement_small_batches
from .controls import CONTROLS
from .coverage import ceiling
from .evaluation import Evaluation
from .intervals import prediction_interval
from .latent_space import active_units, entropy_nats, kl_nats, mi_disentanglement, mig
from .marginal import LIMIT_NATS
from .path_consistency import path_consistency
from .results import Measured, Row, exact_value, proportion

MODEL = "model"  # the network's name in its rows
DRAWS = (10_000, 50_000, 195_000)  # N of every coverage; 39.8, 92.1 and 99.995 % at the ceiling


class Metric(NamedTuple):
    """How a metric is titled, computed and read.

    unit: "share", "nats", "number" or "count".
    better: +1 larger, -1 smaller, 0 neither; a metric with 0 never beats a control.
    limits: where the truth is known to lie; values, intervals and ranges are cut there.
    """

    title: str
    estimate: Callable[[Evaluation], Measured]
    unit: str = "share"
    better: int = 1
    limits: tuple[float, float] = (0.0, 1.0)

    def compute(self, e: Evaluation) -> Measured:
        """The metric of one VAE, cut to `limits`."""
        least, most = self.limits
        return self.estimate(e).map(lambda x: min(max(x, least), most))


POSITIVE = (0.0, np.inf)


def _coverages(mode: str) -> dict[str, Metric]:
    """Expected coverage at each N, as a share of the ceiling."""

    def metric(n: int) -> Metric:
        return Metric(
            f"{mode} coverage at N = {n:,}, of ceiling",
            lambda e: coverage.expected(e.marginal, n, mode).divided_by(float(ceiling(n))),
        )

    return {f"{mode}_coverage_{n}": metric(n) for n in DRAWS}


GENERATES = {
    "argmax_entropy": Metric(
        "argmax entropy, share of 9·ln 3",
        lambda e: marginal.argmax_entropy(e.marginal).divided_by(LIMIT_NATS),
    ),
    **_coverages("argmax"),
    "least_frequency": Metric(
        "least frequency, P(x)·M by argmax",
        lambda e: evenness.least_frequency(e.marginal), "number",
    ),
    "largest_frequency": Metric(
        "largest frequency, P(x)·M by argmax",
        lambda e: evenness.largest_frequency(e.marginal), "number", -1, (1.0, M),
    ),
    "kl_to_uniform": Metric(
        "KL(P ‖ uniform), nats",
        lambda e: marginal.kl_to_uniform(e.marginal), "nats", -1, (0.0, LIMIT_NATS),
    ),
    "nll": Metric(
        "NLL, nats (least: ln M = 9.888)",
        lambda e: likelihood.nll(e.marginal), "nats", -1, (LIMIT_NATS, np.inf),
    ),
    "inverse_simpson": Metric(
        "1 / ΣP², share of M", lambda e: likelihood.inverse_simpson(e.marginal)
    ),
    "generator_information": Metric(
        "information of the generator, share of 9·ln 3",
        lambda e: marginal.generator_information(e.marginal).divided_by(LIMIT_NATS),
    ),
    **_coverages("categorical"),
}  # fmt: skip
RECONSTRUCTS = {
    "exact_match": Metric(
        "exact match, all operations, posterior mean",
        lambda e: exact_value(float(e.exact_matches.double().mean()), M),
    ),
    "exact_match_test": Metric(
        "exact match on test, posterior mean",
        lambda e: proportion(e.exact_matches[e.split.test]),
    ),
    "exact_match_sampled": Metric(
        "exact match, all operations, posterior sample",
        lambda e: proportion(e.samples.exact_matches),
    ),
    "distortion": Metric(
        "distortion: −E ln p(x|z), nats", lambda e: e.distortion, "nats", -1, POSITIVE
    ),
    "elbo": Metric(
        "ELBO, nats (ignoring z: -9.888)",
        lambda e: rate.elbo(e.rate, e.distortion), "nats", 1, (-np.inf, -LIMIT_NATS),
    ),
}  # fmt: skip
CODES = {
    "rate": Metric("rate: KL(q(z|x) ‖ prior), nats", lambda e: e.rate, "nats", 0, POSITIVE),
    "least_rate": Metric(
        "least rate with one latent per entry (from exact match 0.896 on), nats",
        lambda e: rate.least_rate_of(proportion(e.samples.exact_matches)), "nats", 0, POSITIVE,
    ),
    "encoder_information": Metric(
        "information of the codes, I_q(x; z), nats",
        lambda e: rate.encoder_information(e.rate, e.aggregate_kl), "nats", 1, (0.0, LIMIT_NATS),
    ),
    "aggregate_kl": Metric(
        "KL(aggregate posterior ‖ prior), nats", lambda e: e.aggregate_kl, "nats", -1, POSITIVE
    ),
    "mig": Metric("MIG", lambda e: mig(e.information), "number"),
    "mi_disentanglement": Metric(
        "disentanglement by mutual information",
        lambda e: mi_disentanglement(e.information), "number",
    ),
    "active_units": Metric(
        "active units",
        lambda e: exact_value(int(active_units(e.q.mu).sum()), M), "count", 0, POSITIVE,
    ),
    "latent_entropy": Metric(
        "latent entropy (the original's histogram), nats",
        lambda e: exact_value(entropy_nats(e.q.mu), M), "nats", 0, POSITIVE,
    ),
}  # fmt: skip
AGREES = {
    "path_consistency": Metric(
        "path consistency of prior latents and their codes",
        lambda e: path_consistency(e.network, e.vae, e.rng("connection")),
    ),
    "agreement_float64": Metric(
        "agreement with float64",
        lambda e: agreement_float64(e.network, e.vae, e.rng("float64")),
    ),
    "agreement_small_batches": Metric(
        "agreement with batches of 1, 2 and 3 rows",
        lambda e: agreement_small_batches(e.network, e.vae, e.rng("small batches")),
    ),
}
# By the question that they answer, in the order of the comparison; gates have theirs (`Certify`).
QUESTIONS = {
    "generates": GENERATES, "reconstructs": RECONSTRUCTS, "codes": CODES, "agrees": AGREES,
}  # fmt: skip
METRICS: dict[str, Metric] = {k: v for group in QUESTIONS.values() for k, v in group.items()}


def measure(
    e: Evaluation, network: str, seed: int | None = None, names: Iterable[str] = METRICS
) -> list[Row]:
    """The metrics `names` of one VAE; `network` and `seed` label the rows.

    Raises:
        InputError: logits or codes that are not finite.
    """
    return _rows(e, network, seed, {name: METRICS[name].compute(e) for name in names})


def details(e: Evaluation, network: str, seed: int | None = None) -> list[Row]:
    """Rows for figures and tables of a single network: `argmax_distinct_N` and
    `categorical_distinct_N` (curves), `exact_match_on_GROUP`, `kl_dimension_J` in nats."""
    found = coverage.curve(e.marginal) | reconstruction.subgroups(e.exact_matches, e.split)
    for j, nats in enumerate(kl_nats(*e.q).mean(0).tolist()):
        found[f"kl_dimension_{j}"] = exact_value(nats, M)
    return _rows(e, network, seed, found)


def monte_carlo(e: Evaluation, network: str, seed: int | None, trials: int) -> list[Row]:
    """Monte-Carlo estimates, which check the exact figures: `sampled_MODE_coverage_N`, a share of
    the ceiling over `trials` seeded trials, and `exact_match_at_sigma_S`."""
    decoder, device = e.network.decoder(e.vae), e.network.device
    sampled = coverage.coverage(
        decoder, DRAWS, trials=trials, seed=e.seed, stream=e.vae, device=device
    )
    found = {f"sampled_{one.decode}_coverage_{one.n}": one.of_ceiling for one in sampled}
    found |= reconstruction.robustness(e.network, e.vae, e.q, e.seed)
    return _rows(e, network, seed, found)


def _rows(e: Evaluation, network: str, seed: int | None, found: dict[str, Measured]) -> list[Row]:
    return [
        Row(network=network, seed=seed, vae=e.vae, metric=name, **one.model_dump())
        for name, one in found.items()
    ]


def control_ranges(rows: pd.DataFrame) -> pd.DataFrame:
    """The range (low, high) of each control's metrics: a line a (metric, vae), columns by
    (end, network).

    Of several seeds it is a prediction interval for one more seed (t, two-sided 99 %), at least as
    wide as all their own intervals; a control of one seed keeps its own interval.
    """

    def range_of(seeds: pd.DataFrame) -> pd.Series:
        low, high = seeds.low.min(), seeds.high.max()
        if len(seeds) > 1:
            limits = METRICS[seeds.name[0]].limits
            next_low, next_high = prediction_interval(seeds.value, 0.99, *limits)
            low, high = min(low, next_low), max(high, next_high)
        return pd.Series({"low": low, "high": high})

    known = rows[(rows.network != MODEL) & rows.metric.isin(METRICS) & rows.value.notna()]
    grouped = known.groupby(["metric", "vae", "network"])[["value", "low", "high"]]
    return grouped.apply(range_of).rename_axis(columns="end").unstack("network")


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """The model's metrics in the order of METRICS, each with `beats_controls`: its whole interval
    is better than the range of every control of CONTROLS that has one (and one has)."""
    mine = rows[(rows.network == MODEL) & rows.metric.isin(METRICS)].set_index(["metric", "vae"])
    ranges = control_ranges(rows).reindex(mine.index)
    ranges = ranges.loc[:, ranges.columns.get_level_values("network").isin(CONTROLS)]
    better = mine.index.get_level_values("metric").map(lambda name: METRICS[name].better)
    above, below = mine.low > ranges["high"].max(axis=1), mine.high < ranges["low"].min(axis=1)
    return mine.assign(beats_controls=(above & (better > 0)) | (below & (better < 0)))
