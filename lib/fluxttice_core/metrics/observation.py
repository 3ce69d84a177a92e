"""Observe a VAE once; every metric is a pure function of what was seen, by its name in METRICS."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ..model.network import Decode, Measurable, Posterior
from ..model.operations import M, Split
from ..model.streams import generator
from ..params import Digest, Params, Seed, Text, Whole
from . import coverage, generalisation, likelihood, marginal, rate, reconstruction
from .codes import active, entropy_nats
from .connection import cell_connection
from .coverage import ceiling
from .disentanglement import dci_disentanglement, mig
from .marginal import FEWEST, GROUPS, LIMIT_NATS, Marginal
from .results import Measured, exact, share

HOURS = "more would take hours"
SAMPLE = "posterior sample"  # the name of its random stream
COMMON_RMS = 200.0  # of logits centred per trit: sharp enough that shapes and not scales differ


class Measurement(Params):
    """Common to everything that measures. `checkpoint` is a folder of ours or a `.pt`."""

    checkpoint: Text
    expected_sha256: Digest
    split_seed: Seed
    k: Annotated[Whole, Field(ge=FEWEST, le=10**9, multiple_of=GROUPS, description=HOURS)]
    untrained_seed: Seed


@dataclass(frozen=True)
class Observed:
    """What one VAE does. Each part is computed when a metric first asks for it, and once.

    k latents of N(0, I) are streamed through the decoder. `stream` is in the name of every random
    stream: what is measured under another is measured with other draws.
    """

    network: Measurable
    vae: str
    k: int
    seed: int
    stream: str

    @property
    def decoder(self) -> Decode:
        return self.network.decoder(self.vae)

    def rng(self, name: str) -> torch.Generator:
        """A random stream of this measurement."""
        return generator(self.seed, name, self.stream, device=self.network.device)

    @cached_property
    def q(self) -> Posterior:
        """The posterior of all operations: mu and logvar, (M, D) each."""
        return reconstruction.posterior(self.network, self.vae)

    @cached_property
    def hits(self) -> Tensor:
        """(M,) bool: which operations return whole from the posterior mean."""
        return reconstruction.right_trits(self.network, self.vae, self.q.mu).all(1).cpu()

    @cached_property
    def samples(self) -> reconstruction.Samples:
        """What posterior samples of all operations decode to."""
        return reconstruction.samples(self.network, self.vae, self.q, self.rng(SAMPLE))

    @cached_property
    def marginal(self) -> Marginal:
        device = self.network.device
        return marginal.marginal(self.decoder, self.k, self.seed, self.stream, device)

    @cached_property
    def at_common_scale(self) -> Marginal:
        """The marginal at FEWEST latents, the logits scaled to a root mean square of COMMON_RMS."""
        decoder = marginal.scaled(self.decoder, COMMON_RMS, self.rng("scale"))
        stream = f"common scale {self.stream}"
        return marginal.marginal(decoder, FEWEST, self.seed, stream, self.network.device)

    @cached_property
    def aggregate_kl(self) -> Measured:
        return rate.aggregate_kl(self.q, self.rng("aggregate"))

    @cached_property
    def nll(self) -> Measured:
        return likelihood.nll(self.marginal)

    @cached_property
    def elbo(self) -> Measured:
        return rate.elbo(rate.rate(self.q), rate.distortion(self.samples))


def observe(network: Measurable, vae: str, k: int, seed: int, stream: str = "") -> Observed:
    """One VAE of a network, ready to be measured; `stream` is the VAE's name by default."""
    return Observed(network, vae, k, seed, stream or vae)


class Metric(NamedTuple):
    """How a metric is called, computed and read.

    compute: of what was observed, the split, and for coverages the number of draws N.
    better: +1 larger, -1 smaller, 0 neither.
    """

    title: str
    compute: Callable[..., Measured]
    unit: str = "share"
    better: int = 1


def _coverage(mode: str) -> Metric:
    def compute(o: Observed, _parts: Split, n: int) -> Measured:
        return coverage.expected(o.marginal, n, mode).of(float(ceiling(n)))

    return Metric(f"{mode} coverage at N = {{:,}}, of ceiling", compute)


# In the order of the comparison table; the gates are taken in their own (`gates.Certify`).
METRICS = {
    "argmax_entropy": Metric(
        "argmax entropy, share of 9·ln 3",
        lambda o, _: marginal.argmax_entropy(o.marginal).of(LIMIT_NATS),
    ),
    "argmax_coverage": _coverage("argmax"),
    "exact_match": Metric(
        "exact match, all operations, posterior mean",
        lambda o, _: exact(float(o.hits.double().mean()), M),
    ),
    "exact_match_worst_kind": Metric(
        "exact match, worst kind of unseen operation",
        lambda o, parts: generalisation.worst_kind(generalisation.kinds(o.hits, parts, o.seed)),
    ),
    "exact_match_test": Metric(
        "exact match on test, posterior mean", lambda o, parts: share(o.hits[parts.test])
    ),
    "exact_match_sampled": Metric(
        "exact match, all operations, posterior sample", lambda o, _: share(o.samples.hits)
    ),
    "exact_match_test_sampled": Metric(
        "exact match on test, posterior sample",
        lambda o, parts: share(o.samples.hits[:, parts.test]),
    ),
    "rate": Metric("rate: KL(q(z|x) ‖ prior), nats", lambda o, _: rate.rate(o.q), "nats", 0),
    "least_rate": Metric(
        "least rate of straight cells at that sampled exact match, nats",
        lambda o, _: rate.least_rate_of(share(o.samples.hits)),
        "nats",
        0,
    ),
    "cell_connection": Metric(
        "cell connection",
        lambda o, _: cell_connection(o.network, o.vae, o.rng("connection")),
    ),
    "mig": Metric("MIG", lambda o, _: mig(o.q.mu), "number"),
    "dci": Metric("DCI disentanglement", lambda o, _: dci_disentanglement(o.q.mu), "number"),
    "kl_uniform": Metric(
        "KL(P ‖ uniform), nats", lambda o, _: marginal.kl_uniform(o.marginal), "nats", -1
    ),
    "nll": Metric("NLL, nats (ln M = 9.8875)", lambda o, _: o.nll, "nats", -1),
    "kl_uniform_p": Metric(
        "KL(uniform ‖ P), nats", lambda o, _: likelihood.kl_uniform_p(o.nll), "nats", -1
    ),
    "bits_per_trit": Metric(
        "bits per trit (log₂ 3 = 1.5850)", lambda o, _: likelihood.bits_per_trit(o.nll), "nats", -1
    ),
    "elbo": Metric("ELBO, nats (ignoring z: -9.8875)", lambda o, _: o.elbo, "nats"),
    "posterior_gap": Metric(
        "−NLL − ELBO, nats", lambda o, _: rate.posterior_gap(o.elbo, o.nll), "nats", -1
    ),
    "mutual_information": Metric(
        "I_q(x; z), nats",
        lambda o, _: rate.mutual_information(rate.rate(o.q), o.aggregate_kl),
        "nats",
    ),
    "aggregate_kl": Metric(
        "KL(aggregate posterior ‖ prior), nats",
        lambda o, _: o.aggregate_kl,
        "nats",
        -1,
    ),
    "prior_norm_share": Metric(
        "posterior samples where the prior has 99.9 %",
        lambda o, _: rate.prior_norm_share(o.q, o.rng("norm")),
        better=0,  # the prior itself has 99.9 %, and a constant code more
    ),
    "effective_support": Metric(
        "effective support exp H(P), share of M",
        lambda o, _: likelihood.effective_support(o.marginal),
    ),
    "inverse_simpson": Metric(
        "1 / ΣP², share of M", lambda o, _: likelihood.inverse_simpson(o.marginal)
    ),
    "information": Metric(
        "information, share of 9·ln 3", lambda o, _: marginal.information(o.marginal).of(LIMIT_NATS)
    ),
    "information_common_scale": Metric(
        "information at a common scale, share of 9·ln 3",
        lambda o, _: marginal.information(o.at_common_scale).of(LIMIT_NATS),
    ),
    "categorical_coverage": _coverage("categorical"),
    "active_units": Metric(
        "active units", lambda o, _: exact(int(active(o.q.mu).sum()), M), "count", 0
    ),
    "latent_entropy": Metric(
        "latent entropy, nats", lambda o, _: exact(entropy_nats(o.q.mu), M), "nats", 0
    ),
}


def metric(name: str) -> Metric:
    """The entry of METRICS; a coverage's name ends in its N, `argmax_coverage_50000`."""
    if name in METRICS:
        return METRICS[name]
    stem, _, n = name.rpartition("_")
    entry = METRICS[stem]
    return entry._replace(
        title=entry.title.format(int(n)),
        compute=lambda o, parts: entry.compute(o, parts, int(n)),
    )


def names(ns: Iterable[int]) -> list[str]:
    """Every metric's name; the coverages at each N in `ns`."""
    found = []
    for name in METRICS:
        found += [f"{name}_{n}" for n in ns] if name.endswith("coverage") else [name]
    return found


def values(o: Observed, parts: Split, wanted: Iterable[str]) -> dict[str, Measured]:
    """The `wanted` metrics of one VAE, by name."""
    return {name: metric(name).compute(o, parts) for name in wanted}
