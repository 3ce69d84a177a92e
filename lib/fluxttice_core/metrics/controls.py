"""Controls: what a number must beat before it says anything about learning."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..model.initialisation import looks_linear, mirror
from ..model.network import DualVAE, Measurable, linears
from ..model.streams import generator
from .reconstruction import posterior

LOGIT_SCALE = 200.0  # at least that of params/train.yaml (tested)


@torch.no_grad()
def random_linear(seed: int) -> DualVAE:
    """Random linear maps, the hardest to beat of what has learnt nothing.

    The decoders are those the `straight` recipe starts with, their logits scaled as that recipe
    scales its own: scale alone turns even cells of any kind into information. The encoders
    project the table at random onto codes of unit variance, all 16 units active.
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
    """A kind of network that stands beside the model: how to make one, and from how many seeds."""

    make: Callable[[int], Measurable]
    seeds: int


# What has learnt nothing: a metric that one of these reaches decides nothing.
CONTROLS = {
    "untrained": Control(DualVAE.fresh, 5),
    "random linear": Control(random_linear, 5),
    "collapsed": Control(collapsed, 1),
    "uniform": Control(uniform, 1),
}
# What knows something stands beside it too, and is no control: the best there can be, and how
# little knowledge exact match takes.
OPTIMUM, READOUT = "by hand", "ten operations"
