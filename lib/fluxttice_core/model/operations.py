"""The data: all two-input ternary operations, their indices, their split.

Shape letters: M operations (19,683), T trits of a truth table (9), C classes -1, 0, +1 (3).
Entry t of a table is the output for the inputs (a, b) with t = 3·(a + 1) + (b + 1).
"""

import hashlib
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

T, C = 9, 3
M = C**T  # 19,683
SPLIT_SIZES = {"train": 15_746, "val": 1_968, "test": 1_969}


@cache
def all_operations() -> Tensor:
    """Every operation once: (M, T), int64 in {-1, 0, 1}; row i is i in base 3, least trit first."""
    powers = C ** torch.arange(T)
    return torch.arange(M)[:, None] // powers % C - 1


def index_of(ops: Tensor) -> Tensor:
    """Row number in `all_operations` of each table: (..., T) in {-1, 0, 1} → (...), int64."""
    powers = C ** torch.arange(T, device=ops.device)
    return ((ops.long() + 1) * powers).sum(-1)


def rows(values: object, name: str, width: int) -> Tensor:
    """`values` as a tensor (n, width), or an InputError that says what is wrong with `name`."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.tensor(np.array(values))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(
            f"{name} must be an array of numbers of shape (n, {width}), with rows of equal length."
        ) from None
    masked = isinstance(values, np.ma.MaskedArray)  # masked values would count
    if tensor.is_complex() or tensor.layout != torch.strided or masked:
        raise InputError(f"{name} must hold real numbers, as a dense array without a mask.")
    if tensor.shape == (width,):
        raise InputError(
            f"{name} has shape ({width},), but must be (n, {width}): wrap a single row in a list, "
            "as in [row]."
        )
    if tensor.ndim != 2 or tensor.shape[1] != width:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, but must be (n, {width}).")
    return tensor


def check_operations(ops: object) -> Tensor:
    """`ops` as a float32 tensor (n, T), or an InputError that says what is wrong with it."""
    tensor = rows(ops, "ops", T)
    values = tensor.double()  # an unsigned type would compare -1 with its largest value
    if not ((values == -1) | (values == 0) | (values == 1)).all():
        raise InputError("ops holds a value outside {-1, 0, 1}: a truth table has no others.")
    return tensor.float()


class Split(NamedTuple):
    """Indices into `all_operations` of the three disjoint parts, which together are everything."""

    train: Tensor
    val: Tensor
    test: Tensor


def split(seed: int = 42) -> Split:
    """The 80/10/10 split that `torch.utils.data.random_split` makes.

    Its seed is not the training seed, so that another training leaves the test operations unseen.
    """
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    return Split(*order.split(list(SPLIT_SIZES.values())))


def split_record(seed: int) -> dict[str, Any]:
    """`{seed, sizes, sha256}`: the hash is over the indices as little-endian int64, in order."""
    indices = torch.cat(split(seed)).numpy().astype("<i8").tobytes()
    return {"seed": seed, "sizes": SPLIT_SIZES, "sha256": hashlib.sha256(indices).hexdigest()}


@cache
def names() -> dict[int, str]:
    """Index → name of the two-input ternary operations that have one."""
    named: dict[str, Callable[[int, int], int]] = {
        "AND (min)": min,
        "OR (max)": max,
        "NAND (-min)": lambda a, b: -min(a, b),
        "NOR (-max)": lambda a, b: -max(a, b),
        "XOR (-a·b)": lambda a, b: -a * b,
        "product (a·b)": lambda a, b: a * b,
        "sum mod 3": lambda a, b: (a + b + 1) % 3 - 1,
        "difference mod 3": lambda a, b: (a - b + 1) % 3 - 1,
        "negated sum mod 3": lambda a, b: (-a - b + 1) % 3 - 1,
        "clipped sum": lambda a, b: max(-1, min(1, a + b)),
        "consensus": lambda a, b: a if a == b else 0,
        "comparison (sign a-b)": lambda a, b: (a > b) - (a < b),
        "equality": lambda a, b: 1 if a == b else -1,
        "inequality": lambda a, b: -1 if a == b else 1,
        "Kleene implication": lambda a, b: max(-a, b),
        "Łukasiewicz implication": lambda a, b: min(1, 1 - a + b),
        "first input": lambda a, b: a,
        "second input": lambda a, b: b,
        "NOT first": lambda a, b: -a,
        "NOT second": lambda a, b: -b,
        "constant -1": lambda a, b: -1,
        "constant 0": lambda a, b: 0,
        "constant +1": lambda a, b: 1,
    }
    inputs = list(product((-1, 0, 1), repeat=2))
    tables = torch.tensor([[function(a, b) for a, b in inputs] for function in named.values()])
    return dict(zip(index_of(tables).tolist(), named, strict=True))
