"""The evaluation of a VAE: the parts of it that several metrics need, each computed once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..model.network import Measurable, Posterior
from ..model.operations import Split, split
from ..model.streams import generator
from ..params import Digest, Params, Seed, Text, Whole
from . import marginal, rate, reconstruction
from .latent_space import mutual_information_matrix
from .marginal import GROUPS, MIN_LATENTS, Marginal
from .results import Measured

HOURS = "more would take hours"
SAMPLE = "posterior sample"  # the name of its random stream


class Measurement(Params):
    """Parameters of every measurement. `checkpoint` is a fluxttice checkpoint or a `.pt`."""

    checkpoint: Text
    expected_sha256: Digest
    split_seed: Seed
    k: Annotated[Whole, Field(ge=MIN_LATENTS, le=10**9, multiple_of=GROUPS, description=HOURS)]
    untrained_seed: Seed


@dataclass(frozen=True)
class Evaluation:
    """One VAE, evaluated with `k` prior latents; a part is computed when it is first needed.

    `stream` is part of every random stream's name, so another `stream` gives other draws.
    """

    network: Measurable
    vae: str
    k: int
    seed: int
    stream: str
    split_seed: int

    def rng(self, name: str) -> torch.Generator:
        return generator(self.seed, name, self.stream, device=self.network.device)

    @cached_property
    def split(self) -> Split:
        return split(self.split_seed)

    @cached_property
    def q(self) -> Posterior:
        return reconstruction.posterior(self.network, self.vae)

    @cached_property
    def exact_matches(self) -> Tensor:
        """(M,) bool: which operations the posterior mean reconstructs exactly."""
        return reconstruction.correct_trits(self.network, self.vae, self.q.mu).all(1).cpu()

    @cached_property
    def samples(self) -> reconstruction.Samples:
        return reconstruction.samples(self.network, self.vae, self.q, self.rng(SAMPLE))

    @cached_property
    def information(self) -> Tensor:
        return mutual_information_matrix(self.q)

    @cached_property
    def marginal(self) -> Marginal:
        device = self.network.device
        decoder = self.network.decoder(self.vae)
        return marginal.marginal(decoder, self.k, self.seed, self.stream, device)

    @cached_property
    def aggregate_kl(self) -> Measured:
        return rate.aggregate_kl(self.q, self.rng("aggregate"))

    @cached_property
    def rate(self) -> Measured:
        return rate.rate(self.q)

    @cached_property
    def distortion(self) -> Measured:
        return rate.distortion(self.samples)
