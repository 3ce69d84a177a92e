"""Agreement: whether a network decides alike however it is computed.

The other metrics are taken in float32 and in large batches. A matrix product adds in another order
for one, two or three rows than for many, so a network can be built that is right where it is
measured and wrong elsewhere. Trained networks differ in about one row in a million.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..model.network import Decode, Encode, Measurable, decode_logits, prior
from ..model.operations import M, all_operations
from .marginal import SLICE
from .results import Measured, exact_value, proportion

LATENTS = 20_000  # prior latents that are decoded in float64
ROWS = 5_000  # prior latents, and operations, that are computed in each size of SMALL_BATCHES
SMALL_BATCHES = (1, 2, 3)  # from 4 rows on, no batch size was found that changes a sum
Path = Callable[[Tensor], Tensor]  # latents or operations (B, …) → logits (B, T, C)


@torch.no_grad()
def agreement_float64(model: Measurable, vae: str, rng: torch.Generator) -> Measured:
    """Share of argmax decisions that float64 leaves as they are: 0 … 1, Clopper-Pearson.

    The smaller share of two: LATENTS latents of the prior, decoded; and round trips (operation →
    encoder → mu → decoder) of all M operations. Plain functions have no float64 copy and count as
    agreeing.
    """
    encoder, decoder = model.encoder(vae), model.decoder(vae)
    if not (isinstance(encoder, nn.Module) and isinstance(decoder, nn.Module)):
        method = "plain functions have no float64 copy: counted as agreeing"
        return exact_value(1.0, LATENTS, method)
    in_float32 = _paths(encoder, decoder)
    in_float64 = _paths(copy.deepcopy(encoder).double(), copy.deepcopy(decoder).double())
    inputs = prior(LATENTS, rng), all_operations().float().to(model.device)
    return _smallest(
        _classes(single, rows, SLICE) == _classes(double, rows.double(), SLICE)
        for single, double, rows in zip(in_float32, in_float64, inputs, strict=True)
    )


@torch.no_grad()
def agreement_small_batches(model: Measurable, vae: str, rng: torch.Generator) -> Measured:
    """Share of argmax decisions that batches of 1, 2 or 3 rows leave as they are: 0 … 1.

    The smallest share of six: in each size of batch, ROWS latents of the prior, decoded, and round
    trips (operation → encoder → mu → decoder) of as many operations, drawn without replacement.
    Clopper-Pearson, of that share alone.
    """
    picked = torch.randperm(M, generator=rng, device=rng.device)[:ROWS].cpu()
    inputs = prior(ROWS, rng), all_operations()[picked].float().to(model.device)
    pairs = [*zip(_paths(model.encoder(vae), model.decoder(vae)), inputs, strict=True)]
    large = [_classes(path, rows, SLICE) for path, rows in pairs]
    return _smallest(
        _classes(path, rows, size) == expected
        for (path, rows), expected in zip(pairs, large, strict=True)
        for size in SMALL_BATCHES
    )


def _paths(encoder: Encode, decoder: Decode) -> tuple[Path, Path]:
    """Decoding, and the round trip."""
    return decoder, lambda ops: decoder(encoder(ops).mu)


def _classes(path: Path, rows: Tensor, batch: int) -> Tensor:
    """Argmax classes (n, T) of `rows` (n, …), computed `batch` rows at a time."""
    return decode_logits(torch.cat([path(part) for part in rows.split(batch)]), "argmax")


def _smallest(agreeing: Iterable[Tensor]) -> Measured:
    """Of several comparisons (n, T) bool, the share of whole rows with the lowest lower end."""
    shares = [proportion(rows.all(1).cpu().numpy()) for rows in agreeing]
    worst = min(shares, key=lambda one: one.low)
    return worst.model_copy(update={"method": f"{worst.method}, the smallest of {len(shares)}"})
