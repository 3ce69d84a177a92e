"""Controls: the networks that a number is compared with.

CONTROLS are untrained, so a number that one of them reaches says nothing about learning. The oracle
has weights set by hand, and the linear probe shows how little knowledge exact match takes. A
certificate must also refuse `memoriser`, `permuted` and the three changed copies of the model
(`gates.negative_controls`).

Each is a network like any other: `encoder(vae)` gives posteriors, `decoder(vae)` gives logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.special import chdtri
from torch import Tensor
from torch.nn.functional import one_hot

from ..model.initialisation import looks_linear, mirror
from ..model.network import D, Decode, DualVAE, Functions, Measurable, Posterior, linears
from ..model.operations import C, M, Split, T, all_operations, index_of
from ..model.streams import generator
from .coverage import indices
from .rate import TERCILE, axis_aligned_cells
from .reconstruction import posterior

LOGIT_SCALE = 200.0  # at least that of params/train.yaml (tested)
SHARPNESS = 1e4  # slope of the logits: softness at the cuts costs about 0.02 % of the information
RADIUS = float(chdtri(D, 0.001)) ** 0.5  # 6.265: the norm of a prior latent is below it in 99.9 %
CONFIDENT = 200.0  # logit of the class that a table gives; the others have 0


# --- Untrained networks -------------------------------------------------------------------------


@torch.no_grad()
def random_linear(seed: int) -> DualVAE:
    """Random linear maps: the untrained network that is hardest to beat.

    The decoders are the default recipe's before its first step, with the logits scaled as that
    recipe scales them in the end: scale alone turns even cells of any kind into information. The
    encoders project the table at random onto codes of unit variance, so all 16 units are active.
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
    """Fresh weights whose decoders give every class of every trit probability 1/3.

    Sampled categorically it is the perfect uniform generator, which encodes nothing.
    """
    model = DualVAE.fresh(seed)
    for vae in model.vaes:
        model.scale_logits(vae, 0.0)
    return model


class Control(NamedTuple):
    """A kind of network beside the model: how to make one from a seed, and from how many seeds."""

    make: Callable[[int], Measurable]
    seeds: int


CONTROLS = {
    "untrained": Control(DualVAE.fresh, 5),
    "random linear": Control(random_linear, 5),
    "collapsed": Control(collapsed, 1),
    "uniform": Control(uniform, 1),
}


# --- Weights set by hand, and a probe -----------------------------------------------------------


@torch.no_grad()
def oracle(exact_match: float = 0.9999) -> DualVAE:
    """Weights set by hand in this architecture: an even generator with one latent per entry.

    Latent i < 9 owns trit i, cut at the normal terciles by large logits; the posterior is the
    cheapest at `exact_match` from a sample (`rate.axis_aligned_cells`); the other seven latents
    are the prior. Every ReLU layer carries +x and -x in two units, since x = relu(x) - relu(-x)
    and |x| = relu(x) + relu(-x), from which the encoder makes ln σ² of -1, 0, +1. It has learnt
    nothing and gets PASS, because a certificate is about what a network does.
    """
    model, cells = DualVAE.fresh(0), axis_aligned_cells(exact_match)
    pairs, eye = torch.cat([torch.eye(T), -torch.eye(T)]), torch.eye(2 * T)  # (18, T), (18, 18)
    middle, outer = 2 * torch.tensor([cells.middle, cells.outer]).log()
    logvar = torch.cat([middle.repeat(T), torch.zeros(D - T)])
    ends = torch.tensor([-1.0, 0.0, 1.0])
    weight = SHARPNESS * torch.kron(torch.eye(T), ends[:, None]) @ pairs.T
    bias = (-SHARPNESS * TERCILE * ends.square()).repeat(T)
    spread = (outer - middle) * pairs.T.abs(), logvar
    codes = [(pairs,), (eye,), (eye,), (cells.mean * pairs.T,), spread]
    for part, values in (
        (model.encoder_A, codes),
        (model.encoder_B, codes),
        (model.decoder_A, [(pairs,), (eye,), (weight, bias)]),
        (model.decoder_B, [(pairs,), *[()] * 4, (weight, bias)]),
    ):
        for parameter in part.parameters():
            parameter.zero_()
        for layer, corners in zip(linears(part), values, strict=True):
            for tensor, corner in zip((layer.weight, layer.bias), corners, strict=False):
                tensor[tuple(map(slice, corner.shape))] = corner
    return model


def linear_probe(seed: int, n_train: int = 10) -> Functions:
    """A random linear encoder, and a least-squares linear probe fitted on `n_train` operations.

    It shows the worth of exact match on unseen operations. Nine tables that span the space fix the
    probe for all M, since a code composes trits; ten random ones nearly always do. Its logits
    -½(v - c)² decide for the nearest of c = -1, 0, 1 to the predicted value v, with a large slope.
    Codes have unit variance, posteriors a small fixed one.
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


def permuted(model: Measurable, seed: int) -> Functions:
    """`model`, but with its operations permuted where the prior has 99.9 % of its mass.

    A latent of norm below RADIUS decodes to the image, under one random bijection of all M, of the
    operation that `model` decodes it to; beyond that, as `model`. Codes beyond RADIUS are still
    reconstructed, and the generator is as even as before, yet generator and encoder have nothing to
    do with each other. So the rate and path consistency must find it.
    """
    table = _table(torch.randperm(M, generator=generator(seed, "permuted"))).to(model.device)

    def permute(z: Tensor, logits: Tensor) -> Tensor:
        inside = z.norm(dim=1) < RADIUS
        return torch.where(inside[:, None, None], table[indices(logits, "argmax")], logits)

    return changed(model, permute)


def memoriser(seed: int, parts: Split) -> Functions:
    """A network that has memorised the training operations and knows no other.

    The oracle's cells hold the operations in random order, so neighbours in latent space share
    nothing: all of M is generated evenly at the least rate. The encoder is a look-up table, as if
    fitted on `parts.train`: a training operation has its own cell's posterior, an unseen one that
    of the nearest training operation (Hamming distance, the first of equals). Exact match is
    perfect on train and 0 on val and test.
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


def uneven(model: Measurable, factor: float = 8.0) -> Functions:
    """`model`, but operation 0 has `factor` times its probability: latents beyond the norm that the
    prior exceeds in (factor - 1)/M of draws decode to it, too."""
    radius = float(chdtri(D, (factor - 1) / M)) ** 0.5
    first = _table(torch.zeros(1, dtype=torch.int64)).to(model.device)  # (1, T, C)
    return changed(
        model, lambda z, logits: torch.where((z.norm(dim=1) > radius)[:, None, None], first, logits)
    )


def changed(model: Measurable, change: Callable[[Tensor, Tensor], Tensor]) -> Functions:
    """`model` with `change(z, logits)` in place of its decoders' logits."""

    def decoder(vae: str) -> Decode:
        return lambda z: change(z, model.decoder(vae)(z))

    return Functions(model.encoder, decoder, model.vaes, model.device)


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
