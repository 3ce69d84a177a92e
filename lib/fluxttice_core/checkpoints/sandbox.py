"""The child process that reads a `.pt`. Everything that touches its bytes is in this file.

torch.load(weights_only=True) executes nothing that a pickle asks for, but a hostile file can crash
it, or take any time and memory. Both end this process alone.
"""

import contextlib
import io
import json
import math
import re
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..errors import printable

MEMORY = 384 * 2**20  # bytes, besides those that importing torch maps: gigabytes with CUDA
PROCESSOR = 5  # seconds; a v5.x file takes 0.1
MAX_CLAIMS, MAX_DEPTH = 2**20, 30  # values and characters; levels
STATES = ("model", "model_state", "model_state_dict", "base_model_state_dict")
RAW = "the file itself"
PREFIXES = r"^((_orig_mod|module|base)\.)*"  # of compiling, parallel training and a wrapper
SCALAR = np.float64().__reduce__()[0]
NUMPY: list[Any] = [
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class Refused(ValueError):
    """Why a file is refused, as the end of a sentence."""


def serve() -> None:
    """Answers for the `.pt` on standard input: a blank line once torch is imported, a line of JSON,
    and safetensors."""
    torch.set_num_threads(1)
    _limit()
    with open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as target:
        target.write(b"\n")
        target.flush()
        try:
            facts, weights = read(source.read())
        except Exception as error:  # a hostile file can fail in any way
            name = re.search(r"GLOBAL (\S+)", str(error))
            why = "it is damaged, or torch did not write it"
            if name:
                why = f"it asks to run {printable(name[1])}, and nothing in a checkpoint is run"
            facts = {"refused": str(error) if isinstance(error, Refused) else why}
            weights = b""
        target.write(json.dumps(facts).encode() + b"\n" + weights)


def _limit() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows, macOS, a lower bound
        import resource

        seconds = math.ceil(time.process_time()) + PROCESSOR
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def read(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The facts of a `.pt` and its weights as safetensors. Any exception but Refused is damage.

    The facts: "state", the key of its state dict; "claims", its other parts as plain data; "cut",
    how many values they lack; "parts", the names of those with tensors.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if archive.testzip():
            raise Refused("one of its checksums is wrong")
    with torch.serialization.safe_globals(NUMPY):
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False)
    content = content if isinstance(content, dict) else {}
    if content and all(isinstance(value, Tensor) for value in content.values()):
        content = {RAW: content}
    under = [key for key in (*STATES, RAW) if isinstance(content.get(key), dict)]
    if not under and "soft_proj_state_dict" in content:
        base = printable(content.get("base_checkpoint", "another file"))
        raise Refused(f"there is no network in it, only radii for the one in {base}")
    if len(under) != 1:
        known = ", ".join(STATES)
        raise Refused(f"it must have one state dict ({known}), and has {len(under)}")
    state: dict[str, Tensor] = {}
    for key, value in content.pop(under[0]).items():
        name = re.sub(PREFIXES, "", str(key))
        if name in state or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise Refused(f"{printable(name)} is not one dense tensor")
        state[name] = value.detach()
    if sum(value.nbytes for value in state.values()) > len(data):
        raise Refused("its tensors come to more than the file holds")
    # One memory for each tensor: two that share theirs cannot be written as safetensors.
    own = {k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    return {"state": under[0], **_claims(content)}, safetensors.torch.save(own)


def _claims(content: dict[Any, Any]) -> dict[str, Any]:
    claims, parts, used = {}, [], Counter[str]()
    for key, value in content.items():
        try:
            claims[printable(key)] = _plain(value, used)
        except RuntimeError:  # a tensor of several numbers is no claim
            parts.append(printable(key))
    return {"claims": claims, "parts": parts, "cut": used["cut"]}


def _plain(value: Any, used: Counter[str], depth: int = 0) -> Any:
    """`value` as JSON; cut to the name of its type if it has no such form, or there is no room."""
    if isinstance(value, Tensor | np.generic):
        value = value.item()
    size = 1 + (len(value) if isinstance(value, str | list | tuple | dict) else 0)
    if used["room"] + size <= MAX_CLAIMS and depth <= MAX_DEPTH:
        used["room"] += size
        match value:
            case str():
                return value.encode("utf-8", "replace").decode()  # no surrogate can be written
            case float():
                return value if math.isfinite(value) else str(value)
            case None | int() if value is None or abs(value) < 2**64:
                return value
            case list() | tuple():
                return [_plain(one, used, depth + 1) for one in value]
            case dict():
                return {printable(k): _plain(one, used, depth + 1) for k, one in value.items()}
    used["cut"] += 1
    return f"({type(value).__name__})"


if __name__ == "__main__":
    serve()
