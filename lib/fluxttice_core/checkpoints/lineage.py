"""The original system's own files: `.pt` archives of v5.5 to v5.12.4, read as data.

No byte of a pickle is executed (see `archive`). What a file claims of itself is kept as data, and
decides nothing: its layout is read from its tensors (see `model.lineage`).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import files
from ..errors import InputError, printable
from . import archive
from .archive import Refused

MAX_VALUES = 1_000_000  # of what a file claims
STATES = ("model", "model_state", "model_state_dict", "base_model_state_dict")
PREFIXES = ("_orig_mod.", "module.", "base.")
LEFT_OUT = {  # what stands in the name of a part of the file; why no measurement needs it
    "optim": "state of an optimiser",
    "sched": "state of a schedule",
    "snap": "radii by the true valuation, given and not learnt: the network is measured without",
    "controller": "another network: it steers training alone",
}


def read_original(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict by the tensors' own names, and manifest, of a `.pt` of the original's.

    The manifest's "claims" are what the file says of itself, its config among it, as plain data;
    "network" says where the state dict stood, and why other parts are left out.

    Raises:
        InputError: not such an archive, no network in it, or too much of anything.
    """
    try:
        content = archive.read(data)
        if not isinstance(content, dict):
            raise Refused("it holds no dict")
        under, found = _state_of(content)
        state = {_bare(str(key)): value for key, value in found.items()}
        if len(state) < len(found):
            raise Refused("two of its tensors have the same name")
        if sum(v.nbytes for v in state.values() if isinstance(v, Tensor)) > len(data):
            raise Refused("its tensors come to more than the file holds")
        left_out = {k: _reason(k, v) for k, v in content.items() if v is not found}
        claimed = {k: v for k, v in content.items() if v is not found and not left_out[k]}
        claims = _plain({} if under == RAW else claimed, iter(range(MAX_VALUES)))
    except Refused as error:
        raise InputError(f"{name} is not a checkpoint of the original: {error}.") from None
    except RecursionError:
        raise InputError(
            f"{name} is not a checkpoint of the original: nested too deeply."
        ) from None
    epoch = claims.get("epoch")
    out = {printable(k): reason for k, reason in left_out.items() if reason}
    return state, {
        "epoch": epoch if type(epoch) is int else None,
        "imported": {
            "file": Path(name).name,
            "sha256": files.sha256(data),
            "bytes": len(data),
            "left_out": [*out],
        },
        "network": {"state": under, "left_out": out},
        "claims": claims,
    }


RAW = "the file itself"


def _state_of(content: dict[Any, Any]) -> tuple[str, dict[Any, Any]]:
    """The one state dict of a file, and where it stands."""
    found = {key: content[key] for key in STATES if isinstance(content.get(key), dict)}
    if not found and content and all(isinstance(value, Tensor) for value in content.values()):
        return RAW, content
    if not found and "soft_proj_state_dict" in content:
        base = printable(content.get("base_checkpoint", "another file"))
        raise Refused(f"there is no network in it, only radii for the one in {base}")
    if len(found) != 1:
        known = ", ".join(found) or "none of " + ", ".join(STATES)
        raise Refused(f"it must have one state dict, and has {known}")
    return found.popitem()


def _bare(key: str) -> str:
    """A tensor's name without what compiling, parallel training or a wrapper put before it."""
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def _reason(key: Any, value: Any) -> str:
    """Why a part of the file is left out, or nothing where it is a claim."""
    for word, reason in LEFT_OUT.items():
        if word in str(key) and isinstance(value, dict):
            return reason
    tensors = isinstance(value, dict) and any(
        isinstance(v, Tensor) and v.ndim for v in dict.values(value)
    )
    return "tensors of no network that is measured" if tensors else ""


def _plain(value: Any, budget: Iterator[int]) -> Any:
    """JSON-ready copy of a claim; what is not finite or not data becomes a text."""
    if next(budget, None) is None or (isinstance(value, Tensor) and value.numel() > MAX_VALUES):
        raise Refused(f"it claims more than {MAX_VALUES:,} values")
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v, budget) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, budget) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    known = isinstance(value, (bool, int, float, str, type(None)))
    return value if known else f"({type(value).__name__})"
