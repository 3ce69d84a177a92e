"""Networks written by hand: the best there can be, and those a certificate must refuse.

Each is a network to measure like any other: `encoder(vae)` gives posteriors, `decoder(vae)` logits.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..model.network import D, Decode, Functions, Measurable, Posterior
from ..model.operations import C, M, Split, T, all_operations, index_of
from ..model.streams import generator
from .coverage import indices
from .oracles import SHARPNESS, oracle
from .rate import RADIUS

optimum = oracle
CONFIDENT = 200.0  # logit of the class that a table gives; the others have 0


def permuted(model: Measurable, seed: int) -> Functions:
    """`model`, but where the prior has 99.9 % of its mass the operations are dealt out anew.

    A latent of norm below RADIUS decodes to the image, under one random bijection of all M, of
    what `model` decodes it to; beyond that, as `model`. Codes that lie outside come back as before
    and what is generated is as even as before, yet the two have nothing to do with each other:
    rate, `prior_norm_share` and cell connection must tell.
    """
    table = _table(torch.randperm(M, generator=generator(seed, "permuted"))).to(model.device)

    def decoder(vae: str) -> Decode:
        def decode(z: Tensor) -> Tensor:
            logits = model.decoder(vae)(z)
            inside = z.norm(dim=1) < RADIUS
            return torch.where(inside[:, None, None], table[indices(logits, "argmax")], logits)

        return decode

    return Functions(model.encoder, decoder, model.vaes, model.device)


def memoriser(seed: int, parts: Split) -> Functions:
    """Codes that know each training operation by heart and no other.

    The cells of the optimum hold the operations in random order, so neighbours in latent space
    share nothing: all of M is generated evenly at the least rate. The encoder is what fitting such
    a bijection on `parts.train` gives, written as a look-up: a training operation has its own
    cell's posterior, an unseen one that of the nearest training operation (Hamming distance, the
    first of equals). Exact match is perfect on train and 0 on val and test.
    """
    order = torch.randperm(M, generator=generator(seed, "memoriser"))  # cell → operation
    best, table = optimum(), _table(order)
    with torch.no_grad():
        own = best.encoder("A")(all_operations()[order.argsort()].float())  # operation → posterior
    source = _nearest(parts.train)

    def encode(x: Tensor) -> Posterior:
        row = source[index_of(x)]
        return Posterior(own.mu[row], own.logvar[row])

    def decode(z: Tensor) -> Tensor:
        return table[indices(best.decoder("A")(z), "argmax")]

    return Functions(lambda _vae: encode, lambda _vae: decode)


def linear_readout(seed: int, n_train: int = 10) -> Functions:
    """What exact match on unseen operations is worth: a random linear encoder and a least-squares
    read-out fitted on `n_train` operations.

    Nine tables that span the space fix the read-out for all M, since a code composes trits; ten
    random ones nearly always do. Its logits -½(v - c)² decide for the nearest of c = -1, 0, 1 to
    the read value v, sharply. Codes have unit variance, posteriors a small fixed one.
    """
    rng = generator(seed, "linear read-out")
    encoder = torch.randn(T, D, generator=rng) / (T * 2 / 3) ** 0.5  # a trit has variance 2/3
    ops = all_operations()[torch.randperm(M, generator=rng)[:n_train]].float()
    # Not every ten tables have full rank: the driver must take that, too.
    reader = torch.linalg.lstsq(ops @ encoder, ops, driver="gelsd").solution  # (D, T)
    ends = torch.tensor([-1.0, 0.0, 1.0])

    def encode(x: Tensor) -> Posterior:
        mu = x @ encoder
        return Posterior(mu, torch.full_like(mu, -6.0))

    def decode(z: Tensor) -> Tensor:
        return SHARPNESS * ((z @ reader)[..., None] * ends - ends.square() / 2)

    return Functions(lambda _vae: encode, lambda _vae: decode)


def _table(order: Tensor) -> Tensor:
    """(M, T, C): for each index i, confident logits of operation order[i]."""
    return CONFIDENT * one_hot(all_operations()[order] + 1, C).float()


def _nearest(known: Tensor) -> Tensor:
    """(M,): for each operation the index of the nearest of `known`, itself where it is known."""
    nearest = torch.arange(M)
    new = torch.ones(M, dtype=torch.bool).index_fill(0, known, False).nonzero()[:, 0]
    hot = one_hot(all_operations() + 1, C).flatten(1).float()  # a product counts equal trits
    nearest[new] = torch.cat([known[(hot[x] @ hot[known].T).argmax(1)] for x in new.split(500)])
    return nearest
