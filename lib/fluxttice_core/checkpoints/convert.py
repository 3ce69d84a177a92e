"""A `.pt` of torch as a checkpoint of safetensors and JSON. No byte of it is parsed here.

`sandbox` reads it in a process of its own, with bounds on time and memory. Its answer is read as
strictly as any other file.
"""

import re
import subprocess
import sys
from pathlib import Path

from .. import files
from ..errors import InputError, printable
from .layouts import network_of, reason
from .manifest import check_sha256, packed, tensors_of

SECONDS = 15
OTHER_FILES = {  # how a file begins that only looks like a .pt
    rb"version https://git-lfs": "a git-lfs pointer: `git lfs pull` fetches the file itself",
    rb"\s*<": "a web page, not the file that it offers: download that",
    rb"\x80": "a bare pickle, as torch before 1.6 wrote: load and save it with a newer torch",
    rb"(?!PK)": "not a .pt of torch, which is a zip archive",
}


def convert(path: str | Path, expected_sha256: str = "") -> dict[str, bytes]:
    """The two files of a checkpoint, by name, with the tensors and the claims of a `.pt`.

    The manifest's "claims" are what the file says of itself, its config among it, as plain data.
    "imported" says which file it was, the key of its state dict, its layout, which of its parts
    and tensors are ignored and why, and how many claimed values were cut.

    Args:
        expected_sha256: of the `.pt`; empty accepts any.

    Raises:
        InputError: no such file, another sha256, not a `.pt`, no network in it, or a file that
            takes too much time or memory.
    """
    data, name = files.read_file(files.resolve(path), links=True), str(path)
    digest = check_sha256(data, expected_sha256, name)
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
    model = network_of(tensors_of(weights, name), name)
    imported = {
        "file": Path(name).name,
        "sha256": digest,
        "bytes": len(data),
        "state": facts["state"],
        "layout": model.layout,
        "ignored": {part: reason(part) for part in facts["parts"]} | model.ignored_tensors,
        "cut": facts["cut"],
    }
    return packed(weights, facts["epoch"], {"imported": imported, "claims": facts["claims"]})


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
