"""Observe a VAE once; every metric is then a pure function of what was seen, by its name."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ..model.network import Network, Posterior
from ..model.operations import M, Split
from ..model.streams import generator
from ..params import Params, Seed, Text, Whole
from . import (
    codes,
    connection,
    coverage,
    disentanglement,
    generalisation,
    likelihood,
    marginal,
    rate,
    reconstruction,
)
from .coverage import ceiling
from .marginal import FEWEST, GROUPS, LIMIT_NATS, Marginal
from .results import Measured, exact, share

Latents = Annotated[Whole, Field(ge=FEWEST, multiple_of=GROUPS)]


COMMON_RMS = 200.0  # of logits centred per trit: sharp enough that shapes and not scales differ


class Measurement(Params):
    """Common to everything that measures. `checkpoint` is a folder of ours or a `.pt`."""

    checkpoint: Text
    expected_sha256: Text
    split_seed: Seed
    k: Latents
    untrained_seed: Seed


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
    sampled, cost = share(o.sampled), rate.rate(o.q)
    elbo = rate.elbo(cost, rate.distortion(decoder, q, o.rng("distortion")))
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
        "rate": cost,
        "least_rate": exact(rate.least_rate(min(sampled.value, sampled.high)), sampled.n),
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
        "posterior_gap": rate.posterior_gap(elbo, nll),
        "mutual_information": rate.mutual_information(q, o.rng("mutual information")),
        "aggregate_kl": codes.aggregate_kl(q, o.seed, o.vae),
        "prior_norm_share": rate.prior_norm_share(q, o.rng("norm")),
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
