"""Random streams by name: every draw in this package comes from one of these."""

import hashlib
from numbers import Integral

import torch

from ..errors import InputError


def generator(seed: int, *name: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator that depends on `seed` and on its name alone.

    Two different names give unrelated streams, so that measuring more often, in another order
    or with another N can never change what training draws.

    Args:
        seed: the run's seed, any integer.
        name: what the stream is for, e.g. `"coverage", "A", 3`; anything with a stable `repr`.
        device: where the generator lives.

    Raises:
        InputError: the seed is not a whole number.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputError(f"seed is {seed!r}, but must be a whole number.")
    digest = hashlib.sha256(repr((int(seed), *name)).encode()).digest()
    stream_seed = int.from_bytes(digest[:8], "little") >> 1  # manual_seed takes 63 bits
    return torch.Generator(device).manual_seed(stream_seed)
