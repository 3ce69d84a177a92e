"""Controls: the networks that a number is compared with.

CONTROLS are untrained, so a number that one of them reaches says nothing about learning. The linear
probe shows how little knowledge exact match takes. A certificate must be refused to all of these,
and to the last four, each of which is wrong in a way that one gate is for.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from scipy.special import chdtri, ndtri
from torch import Tensor
from torch.nn.functional import one_hot

from ..model.initialisation import looks_linear, mirror
from ..model.network import D, DualVAE, Functions, Measurable, Posterior, decode_logits, linears
from ..model.operations import C, M, Split, T, all_operations, index_of
from ..model.streams import generator
from .coverage import indices
from .oracles import SHARPNESS, oracle
from .rate import TERCILE
from .reconstruction import posterior

LOGIT_SCALE = 200.0  # at least that of params/train.yaml (tested)
RADIUS = float(chdtri(D, 0.001)) ** 0.5  # 6.265: the norm of a prior latent is below it in 99.9 %
CONFIDENT = 200.0  # logit of the class that a table gives; the others have 0


# --- Untrained networks -------------------------------------------------------------------------


@torch.no_grad()
def random_linear(seed: int) -> DualVAE:
    """Random linear maps: the untrained network that is hardest to beat.

    The decoders are the default recipe's before its first step, with the logits scaled as at its
    end, since scale alone turns even cells into information. The encoders project the table onto
    codes of unit variance, so all 16 units are active.
    """
    model, rng = DualVAE.fresh(seed), generator(seed, "random linear")
    looks_linear(model, seed)
    for vae in model.vaes:
        mirror(linears(model.encoder(vae))[:-1], rng)  # all but the variances' head
        model.encoder(vae).fc_mu.weight /= posterior(model, vae).mu.std()
        model.scale_logits(vae, LOGIT_SCALE)
    return model


@torch.no_grad()
def collapsed(seed: int) -> DualVAE:
    """Fresh weights whose decoders ignore z and whose encoders ignore x (posterior = prior)."""
    model = DualVAE.fresh(seed)
    for vae in model.vaes:
        linears(model.decoder(vae))[0].weight.zero_()
        for head in linears(model.encoder(vae))[-2:]:
            head.weight.zero_()
            head.bias.zero_()
    return model


def uniform(seed: int) -> DualVAE:
    """Fresh weights whose decoders give every class probability 1/3: sampled categorically, the
    perfect uniform generator."""
    model = DualVAE.fresh(seed)
    for vae in model.vaes:
        model.scale_logits(vae, 0.0)
    return model


class Control(NamedTuple):
    """How to make a network from a seed, and from how many seeds it is made."""

    make: Callable[[int], Measurable]
    seeds: int


CONTROLS = {
    "untrained": Control(DualVAE.fresh, 5),
    "random linear": Control(random_linear, 5),
    "collapsed": Control(collapsed, 1),
    "uniform": Control(uniform, 1),
}


def linear_probe(seed: int, n_train: int = 10) -> Functions:
    """A random linear encoder, and a least-squares linear probe fitted on `n_train` operations.

    Nine tables that span the space fix the probe for all M, since a code composes trits; ten random
    ones nearly always do. It decides for the nearest of -1, 0, 1 to the predicted value. Codes have
    unit variance, posteriors a small fixed one.
    """
    rng = generator(seed, "linear read-out")  # the old name, because a stream's name is its seed
    encoder = torch.randn(T, D, generator=rng) / (T * 2 / 3) ** 0.5  # a trit has variance 2/3
    ops = all_operations()[torch.randperm(M, generator=rng)[:n_train]].float()
    # Not every ten tables have full rank, so the driver must accept a singular matrix.
    probe = torch.linalg.lstsq(ops @ encoder, ops, driver="gelsd").solution  # (D, T)
    ends = torch.tensor([-1.0, 0.0, 1.0])

    def encode(x: Tensor) -> Posterior:
        mu = x @ encoder
        return Posterior(mu, torch.full_like(mu, -6.0))

    def decode(z: Tensor) -> Tensor:
        return SHARPNESS * ((z @ probe)[..., None] * ends - ends.square() / 2)

    return Functions(lambda _vae: encode, lambda _vae: decode)


# --- Networks that a certificate must refuse ----------------------------------------------------


def memoriser(seed: int, parts: Split) -> Functions:
    """A network that has memorised the training operations: exact match is 1 on train, else 0.

    The oracle's cells hold the operations in random order, so all of M is generated evenly at the
    least rate. A training operation has its own cell's posterior, an unseen one that of the nearest
    training operation (Hamming distance, the first of equals).
    """
    order = torch.randperm(M, generator=generator(seed, "memoriser"))  # cell → operation
    best, table = oracle(), _table(order)
    with torch.no_grad():
        own = best.encoder("A")(all_operations()[order.argsort()].float())  # operation → posterior
    source = _nearest(parts.train)

    def encode(x: Tensor) -> Posterior:
        row = source[index_of(x)]
        return Posterior(own.mu[row], own.logvar[row])

    def decode(z: Tensor) -> Tensor:
        return table[indices(best.decoder("A")(z), "argmax")]

    return Functions(lambda _vae: encode, lambda _vae: decode)


def permuted(model: Measurable, seed: int) -> Functions:
    """`model`, but with its operations permuted where the prior has 99.9 % of its mass.

    Below the norm RADIUS a random bijection of all M is applied to what `model` decodes. Codes
    beyond RADIUS are still reconstructed and the generator is as even as before, yet the two have
    nothing to do with each other. So the rate and path consistency must find it.
    """
    table = _table(torch.randperm(M, generator=generator(seed, "permuted"))).to(model.device)

    def decode(vae: str, z: Tensor) -> Tensor:
        logits = model.decoder(vae)(z)
        inside = z.norm(dim=1) < RADIUS
        return torch.where(inside[:, None, None], table[indices(logits, "argmax")], logits)

    return _redecoded(model, decode)


def scaled_logits(model: Measurable, factor: float) -> Functions:
    """`model` with its logits times `factor` > 0, which moves no argmax boundary.

    A factor of 10⁻⁶ leaves a uniform likelihood (a distortion of ln M = 9.89 nats), and one of 10²⁵
    makes each miss of a posterior sample cost some 10²⁵ nats.
    """
    return _redecoded(model, lambda vae, z: factor * model.decoder(vae)(z))


def uneven(model: Measurable, times: float) -> Functions:
    """`model`, but the operation that is 0 everywhere is generated `times` as often by argmax.

    Its region is stretched (or shrunk) by s about its code z₀: a latent z in the old or the new
    region decodes as z₀ + (z - z₀)/s does. `times`, above 0 and below 3⁹, is exact for `oracle`,
    where s turns the middle third of each of nine latents into times^(1/9)/3.
    """
    stretch = float(ndtri((1 + times ** (1 / T) / C) / 2)) / TERCILE
    zero = torch.zeros(1, T, device=model.device)

    def decode(vae: str, z: Tensor) -> Tensor:
        code, decoder = model.encoder(vae)(zero).mu, model.decoder(vae)
        before, after = decoder(z), decoder(code + (z - code) / stretch)
        # Class 1 is the trit 0.
        changed = [(decode_logits(x, "argmax") == 1).all(1) for x in (before, after)]
        return torch.where((changed[0] | changed[1])[:, None, None], after, before)

    return _redecoded(model, decode)


def _redecoded(model: Measurable, decode: Callable[[str, Tensor], Tensor]) -> Functions:
    """`model`, but VAE `vae` decodes latents z by decode(vae, z)."""
    return Functions(model.encoder, lambda vae: partial(decode, vae), model.vaes, model.device)


def _table(order: Tensor) -> Tensor:
    """(n, T, C): for each index i, large logits of operation order[i]."""
    return CONFIDENT * one_hot(all_operations()[order] + 1, C).float()


def _nearest(known: Tensor) -> Tensor:
    """(M,): for each operation the index of the nearest of `known`, itself where it is known."""
    nearest = torch.arange(M)
    new = torch.ones(M, dtype=torch.bool).index_fill(0, known, False).nonzero()[:, 0]
    hot = one_hot(all_operations() + 1, C).flatten(1).float()  # a product counts equal trits
    nearest[new] = torch.cat([known[(hot[x] @ hot[known].T).argmax(1)] for x in new.split(500)])
    return nearest
