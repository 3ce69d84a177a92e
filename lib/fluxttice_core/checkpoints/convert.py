"""A `.pt` of torch as safetensors and plain data. No byte of it is parsed in this process.

`sandbox` reads it in a process of its own, with bounds on time and memory.
"""

import re
import subprocess
import sys
from typing import Any

from .. import files
from ..errors import InputError, printable

SECONDS = 15
OTHER_FILES = {  # how a file begins that only looks like a .pt
    rb"version https://git-lfs": "a git-lfs pointer: `git lfs pull` fetches the file itself",
    rb"\s*<": "a web page, not the file that it offers: download that",
    rb"\x80": "a bare pickle, as torch before 1.6 wrote: load and save it with a newer torch",
    rb"(?!PK)": "not a .pt of torch, which is a zip archive",
}


def convert(data: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """The facts that `sandbox.read` finds in a `.pt`, and its tensors as safetensors.

    Raises:
        InputError: not a `.pt`, no state dict in it, or it takes too much time or memory.
    """
    for begins, what in OTHER_FILES.items():
        if re.match(begins, data):
            raise InputError(f"{name} is {what}.")
    text, _, weights = answer(data).partition(b"\n")
    try:
        facts = files.parse_json(text)
    except ValueError:  # no answer, or none that the child itself wrote
        facts = {"refused": "torch fails on it, or takes too long"}
    if "refused" in facts:
        raise InputError(f"{name} cannot be imported: {printable(facts['refused'], 200)}.")
    return facts, weights


def answer(data: bytes) -> bytes:
    """What the child process answers for a `.pt` (see `sandbox.serve`); nothing if it fails."""
    # -P keeps modules in the working directory, where downloads may be, from being imported.
    command, pipe = [sys.executable, "-P", "-m", "fluxttice_core.checkpoints.sandbox"], -1
    with subprocess.Popen(command, 0, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as child:
        try:
            child.stdout.read(1)  # the child has imported torch: only reading is timed
            found, _ = child.communicate(data, SECONDS)
        except subprocess.TimeoutExpired:
            found = b""
        finally:
            child.kill()
    return found if len(found) <= files.MAX_BYTES else b""
