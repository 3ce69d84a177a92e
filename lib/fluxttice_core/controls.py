"""Controls: what a number must beat before it says anything about learning."""

import torch

from .initialisation import looks_linear
from .model import DualVAE


def untrained(seed: int) -> DualVAE:
    """The same architecture with fresh weights."""
    return DualVAE.fresh(seed).eval()


def linear_start(seed: int) -> DualVAE:
    """Where the `straight` recipe starts: untrained too, and harder to beat than `untrained`."""
    model = untrained(seed)
    looks_linear(model, seed)
    return model


def collapsed(seed: int) -> DualVAE:
    """Fresh weights whose decoders ignore z and whose encoders ignore x (posterior = prior)."""
    model = untrained(seed)
    state = model.state_dict()
    for vae, first in (("A", "decoder.0"), ("B", "fc_in")):
        state[f"decoder_{vae}.{first}.weight"].zero_()
        for head in ("fc_mu", "fc_logvar"):
            state[f"encoder_{vae}.{head}.weight"].zero_()
            state[f"encoder_{vae}.{head}.bias"].zero_()
    return model


def uniform(seed: int) -> DualVAE:
    """Fresh weights whose decoders give every class of every trit probability 1/3.

    Sampled categorically it is the perfect uniform generator, which encodes nothing.
    """
    model = untrained(seed)
    with torch.no_grad():
        for last in (model.decoder_A.decoder[4], model.decoder_B.fc_out):
            last.weight.zero_()
            last.bias.zero_()
    return model
