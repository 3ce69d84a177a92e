"""The original system's own files: `.pt` archives of v5.5 to v5.12.4, read as data.

No byte of a pickle is executed (see `archive`). What a file claims of itself is kept as data, and
decides nothing: its layout is read from its tensors (see `model.lineage`).
"""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import files
from ..errors import InputError, printable
from . import archive
from .archive import Refused

MAX_CLAIMS = 2**24  # characters of what a file claims, as JSON
RAW = "the file itself"
STATES = ("model", "model_state", "model_state_dict", "base_model_state_dict", RAW)
PREFIXES = r"((_orig_mod|module|base)\.)*"  # of compiling, parallel training and a wrapper
LEFT_OUT = {  # what stands in the name of a part of the file; why no measurement needs it
    "optim": "state of an optimiser",
    "sched": "state of a schedule",
    "snap": "radii by the true valuation, given and not learnt: the network is measured without",
    "controller": "another network: it steers training alone",
}


def read_original(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict by the tensors' own names, and manifest, of a `.pt` of the original's.

    The manifest's "claims" are what the file says of itself, its config among it, as plain data;
    "imported" says which file it was, where the state dict stood, and why other parts are left out.

    Raises:
        InputError: not such an archive, no network in it, or too much of anything.
    """
    try:
        under, found, rest = _parts(archive.read(data))
        state = {re.sub(f"^{PREFIXES}", "", str(key)): value for key, value in found.items()}
        if len(state) < len(found):
            raise Refused("two of its tensors have the same name")
        if sum(v.nbytes for v in state.values() if isinstance(v, Tensor)) > len(data):
            raise Refused("its tensors come to more than the file holds")
        left_out = {key: reason for key, v in rest.items() if (reason := _reason(str(key), v))}
        text = json.dumps({k: v for k, v in rest.items() if k not in left_out}, default=_plain)
        if len(text) > MAX_CLAIMS:
            raise Refused(f"what it claims has more than {MAX_CLAIMS:,} characters")
    except (Refused, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{name} is not a checkpoint of the original: {why}.") from None
    claims = json.loads(text, parse_constant=lambda number: str(float(number)))
    epoch = claims.get("epoch")
    return state, {
        "epoch": epoch if type(epoch) is int else None,
        "imported": {
            "file": Path(name).name,
            "sha256": files.sha256(data),
            "bytes": len(data),
            "state": under,
            "left_out": {printable(key): reason for key, reason in left_out.items()},
        },
        "claims": claims,
    }


def _parts(content: Any) -> tuple[str, dict[str, Any], dict[Any, Any]]:
    """Where in a file its one state dict stands, that, and the rest."""
    if not isinstance(content, dict):
        raise Refused("it holds no dict")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        content = {RAW: content}
    found = [key for key in STATES if isinstance(content.get(key), dict)]
    if not found and "soft_proj_state_dict" in content:
        base = printable(content.get("base_checkpoint", "another file"))
        raise Refused(f"there is no network in it, only radii for the one in {base}")
    if len(found) != 1:
        known = ", ".join(found) or "none of " + ", ".join(STATES[:-1])
        raise Refused(f"it must have one state dict, and has {known}")
    return found[0], content.pop(found[0]), content


def _reason(key: str, value: Any) -> str:
    """Why a part of the file is left out, or nothing where it is a claim."""
    words = [why for word, why in LEFT_OUT.items() if word in key and isinstance(value, dict)]
    return next(iter(words), "tensors of no network that is measured" if _tensors(value) else "")


def _tensors(value: Any) -> bool:
    """Are there tensors in it, other than single numbers?"""
    if isinstance(value, (dict, list, tuple)):
        return any(map(_tensors, dict.values(value) if isinstance(value, dict) else value))
    return isinstance(value, Tensor) and value.numel() != 1


def _plain(value: Any) -> Any:
    """A claim that JSON has no form for: the number in a tensor, or the name of its type."""
    return value.item() if isinstance(value, Tensor) else f"({type(value).__name__})"
