"""Checkpoints: folders with weights as safetensors and a manifest as JSON.

Each file is read once, and its bytes are hashed and loaded. A `.pt` is converted to both first.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from .. import files
from ..errors import InputError
from ..model.network import Network
from ..model.operations import split_record
from .convert import convert
from .layouts import network_of, reason

WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"
SCHEMA = "fluxttice/manifest/1"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model, the sha256 of its weights, and the bytes of its two files by name."""

    model: Network
    path: str
    sha256: str
    manifest: dict[str, Any] = field(repr=False)
    contents: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def epoch(self) -> int | None:
        return self.manifest.get("epoch")

    def section(self, name: str) -> dict[str, Any]:
        """A part of the manifest; empty if it has none."""
        found = self.manifest.get(name)
        return found if isinstance(found, dict) else {}

    def record(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256, "epoch": self.epoch}


def load(path: str | Path, expected_sha256: str = "") -> Checkpoint:
    """Read a checkpoint (its folder, or the weights in it), or convert a `.pt`.

    The model is in evaluation mode, on the CPU.

    Args:
        expected_sha256: of the weights, or of the `.pt`; empty accepts any.

    Raises:
        InputError: nothing there, not a checkpoint, another network, values that are not
            finite, or weights whose sha256 is not the manifest's or not `expected_sha256`.
    """
    place, name = files.resolve(path), str(path)
    if place.is_file() and place.name != WEIGHTS:
        data = files.read_file(place, links=True)
        check_sha256(files.sha256(data), expected_sha256, name)
        contents = _converted(data, name)
    else:
        folder = place if place.is_dir() else place.parent
        for file in (WEIGHTS, MANIFEST):
            if not os.path.lexists(folder / file):
                raise InputError(f"{folder} has no {file}, so it is no checkpoint's folder.")
        contents = {file: files.read_file(folder / file) for file in (WEIGHTS, MANIFEST)}
        check_sha256(files.sha256(contents[WEIGHTS]), expected_sha256, name)
    return from_bytes(contents[WEIGHTS], contents[MANIFEST], name, files.display_path(place))


def check_sha256(digest: str, expected: str, name: str) -> None:
    """Refuse another sha256 than the `expected` one, unless that is empty."""
    if expected and expected.strip().lower() != digest:
        raise InputError(f"{name} has sha256 {digest}, but {expected} was expected: refused.")


def from_bytes(weights: bytes, manifest: bytes, name: str, shown: str) -> Checkpoint:
    """The checkpoint with these bytes. Errors call it `name`, records `shown`; raises as `load`."""
    tensors, digest = _tensors(weights, name), files.sha256(weights)
    try:
        record = files.parse_json(manifest)
        claimed, epoch = record["weights"]["sha256"], record.get("epoch")
        if type(epoch) not in (int, type(None)):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{name} has a {MANIFEST} that is not a checkpoint's manifest.") from None
    if claimed != digest:
        raise InputError(f"{name} has sha256 {digest}, but its manifest says {claimed}: refused.")
    contents = {WEIGHTS: weights, MANIFEST: manifest}
    return Checkpoint(network_of(tensors, name), shown, digest, record, contents)


def save(folder: Path, model: Network, epoch: int | None, facts: dict[str, Any]) -> Path:
    """Write weights and manifest as a new `folder`, which appears only when it is complete.

    Args:
        epoch: of these weights, from 0.
        facts: more of the manifest, ready for JSON (config, selection, split …).

    Raises:
        InputError: `folder` exists or cannot be made.
    """
    weights = safetensors.torch.save({k: v.cpu().contiguous() for k, v in model.tensors.items()})
    return files.new_folder(folder, _packed(weights, epoch, facts))


def check_split(loaded: Checkpoint, seed: int) -> str:
    """Whether the checkpoint records the split of `seed`; a foreign `.pt` records none.

    Raises:
        InputError: it was trained on another split, so the test operations may have been seen.
    """
    recorded = loaded.manifest.get("split")
    if recorded not in (None, split_record(seed)):
        raise InputError(
            f"{loaded.path} was trained on another split than split_seed {seed} gives."
        )
    return "recorded, the same" if recorded else "not recorded"


def _converted(data: bytes, name: str) -> dict[str, bytes]:
    """The two files of a `.pt`. The manifest's "claims" are what the file says of itself."""
    facts, weights = convert(data, name)
    model = network_of(_tensors(weights, name), name)
    epoch = facts["claims"].get("epoch")
    ignored = {part: reason(part) for part in facts["parts"]} | model.ignored_tensors
    imported = {
        "file": Path(name).name, "sha256": files.sha256(data), "bytes": len(data),
        "state": facts["state"], "layout": model.layout, "ignored": ignored, "cut": facts["cut"],
    }  # fmt: skip
    epoch = epoch if type(epoch) is int else None
    return _packed(weights, epoch, {"imported": imported, "claims": facts["claims"]})


def _packed(weights: bytes, epoch: int | None, facts: dict[str, Any]) -> dict[str, bytes]:
    manifest = {
        "schema": SCHEMA,
        "created_utc": files.utc_now().isoformat(),
        "weights": {"file": WEIGHTS, "sha256": files.sha256(weights), "bytes": len(weights)},
        "epoch": epoch,
        **facts,
        "environment": files.environment(),
        "git": files.git_commit(),
    }
    return {WEIGHTS: weights, MANIFEST: files.json_bytes(manifest)}


def _tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose header names none twice."""
    try:
        files.parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError):
        raise InputError(f"{name} is not a safetensors file, or it is damaged.") from None
