"""The child process that reads a `.pt`: everything that touches its bytes is in this file.

torch.load(weights_only=True) executes nothing that a pickle asks for, but a hostile file can take
any time and memory, or crash it. Both end this process alone.
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
    limit()
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


def limit() -> None:
    """Bounds what this process may take and write, as far as its system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows, macOS, a lower bound
        import resource

        def at_most(kind: int, value: int) -> None:
            resource.setrlimit(kind, (value, value))

        at_most(resource.RLIMIT_FSIZE, 0)
        at_most(resource.RLIMIT_CORE, 0)
        at_most(resource.RLIMIT_CPU, math.ceil(time.process_time()) + PROCESSOR)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        at_most(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY)


def read(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The facts and the weights of a `.pt`.

    Raises:
        Refused: with the reason. Any other exception: damaged, or not written by torch.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(data):
            raise Refused("it unpacks to more than its size")
        if archive.testzip():
            raise Refused("one of its checksums is wrong")
    with torch.serialization.safe_globals(NUMPY):
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False)
    if not isinstance(content, dict):
        raise Refused("it holds no dict")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        content = {RAW: content}
    under = [key for key in (*STATES, RAW) if isinstance(content.get(key), dict)]
    if not under and "soft_proj_state_dict" in content:
        base = printable(content.get("base_checkpoint", "another file"))
        raise Refused(f"there is no network in it, only radii for the one in {base}")
    if len(under) != 1:
        known = ", ".join(under) or "none of " + ", ".join(STATES)
        raise Refused(f"it must have one state dict, and has {known}")
    state: dict[str, Tensor] = {}
    for key, value in content.pop(under[0]).items():
        name = re.sub(PREFIXES, "", str(key))
        if name in state:
            raise Refused("two of its tensors have the same name")
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise Refused(f"{printable(name)} is no dense tensor")
        state[name] = value.detach()
    if sum(value.nbytes for value in state.values()) > len(data):
        raise Refused("its tensors come to more than the file holds")
    # One memory for each tensor: two that share theirs cannot be written as safetensors.
    own = {k: v.clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    return {"state": under[0], **claims_of(content)}, safetensors.torch.save(own)


def claims_of(content: dict[Any, Any]) -> dict[str, Any]:
    """The claims, as plain data; how many values were cut; and the parts with tensors, by name."""
    claims, parts, used = {}, [], Counter[str]()
    for key, value in content.items():
        try:
            claims[printable(key)] = plain(value, used)
        except TypeError:
            parts.append(printable(key))
    epoch = claims.get("epoch")
    epoch = epoch if type(epoch) is int else None
    return {"epoch": epoch, "claims": claims, "parts": parts, "cut": used["cut"]}


def plain(value: Any, used: Counter[str], depth: int = 0) -> Any:
    """`value` in the forms of JSON, or cut to the name of its type: if it has no such form, is
    nested too deeply or is larger than the room that is left. Tensors of several numbers raise
    TypeError."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise TypeError("a tensor is no claim")
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
                return [plain(one, used, depth + 1) for one in value]
            case dict():
                return {printable(k): plain(one, used, depth + 1) for k, one in value.items()}
    used["cut"] += 1
    return f"({type(value).__name__})"


if __name__ == "__main__":
    serve()
