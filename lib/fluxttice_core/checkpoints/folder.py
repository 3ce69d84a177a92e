"""Checkpoints: folders with weights and a manifest. A foreign `.pt` is converted to one first.

What is hashed is what is loaded: a file is read once, its bytes are hashed, and the weights come
from those bytes.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

from .. import files
from ..errors import InputError
from ..model.network import Network
from ..model.operations import split_record
from .convert import convert
from .layouts import network_of
from .manifest import MANIFEST, SCHEMA, WEIGHTS, check_sha256, packed, tensors_of

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "WEIGHTS",
    "Checkpoint",
    "check_split",
    "from_bytes",
    "load",
    "save",
]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and where it came from.

    `contents` are the bytes of its two files by name: as read, or as converted from a `.pt`.
    `sha256` is of the weights among them.
    """

    model: Network
    path: str
    sha256: str
    manifest: dict[str, Any] = field(repr=False)
    contents: dict[str, bytes] = field(repr=False)

    @property
    def epoch(self) -> int | None:
        return self.manifest.get("epoch")

    def section(self, name: str) -> dict[str, Any]:
        """A part of the manifest, empty where it has none."""
        found = self.manifest.get(name)
        return found if isinstance(found, dict) else {}

    def record(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256, "epoch": self.epoch}


def load(path: str | Path, expected_sha256: str = "") -> Checkpoint:
    """Read a checkpoint (its folder, or the weights in it), or convert a `.pt`.

    The model is in evaluation mode, on the CPU. Each file is read once.

    Args:
        expected_sha256: of the weights, or of the `.pt`; empty accepts any.

    Raises:
        InputError: nothing there, not a checkpoint, another network, values that are not
            finite, or weights whose sha256 is not the manifest's or not `expected_sha256`.
    """
    place = files.resolve(path)
    if place.is_file() and place.name != WEIGHTS:
        contents = convert(path, expected_sha256)
        return from_bytes(
            contents[WEIGHTS], contents[MANIFEST], str(path), files.display_path(place)
        )
    folder = place if place.is_dir() else place.parent
    if not (folder / WEIGHTS).is_file() and not (folder / WEIGHTS).is_symlink():
        raise InputError(
            f"{path} is a folder without a {WEIGHTS}: give a checkpoint's folder or file."
        )
    weights = files.read_file(folder / WEIGHTS, links=not place.is_dir())
    check_sha256(weights, expected_sha256, path)
    if not (folder / MANIFEST).is_file() and not (folder / MANIFEST).is_symlink():
        raise InputError(
            f"{path} has no {MANIFEST} beside it: weights without one are of unknown origin."
        )
    manifest = files.read_file(folder / MANIFEST)
    return from_bytes(weights, manifest, str(path), files.display_path(place))


def from_bytes(weights: bytes, manifest: bytes, name: str, shown: str) -> Checkpoint:
    """The checkpoint that the bytes of its two files make.

    Args:
        weights, manifest: contents of model.safetensors and of manifest.json.
        name: what to call it in an error; shown: what to call it in a record.

    Raises:
        InputError: as `load`.
    """
    tensors, digest = tensors_of(weights, name), files.sha256(weights)
    try:
        record = files.parse_json(manifest)
        claimed, epoch = record["weights"]["sha256"], record.get("epoch")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{name} has a {MANIFEST} that is not a checkpoint's manifest: not valid JSON, or cut."
        ) from None
    if claimed != digest:
        raise InputError(f"{name} has sha256 {digest}, but its manifest says {claimed}: refused.")
    if type(epoch) not in (int, type(None)):
        raise InputError(f"{name} has a manifest whose epoch is {epoch!r}, not a whole number.")
    contents = {WEIGHTS: weights, MANIFEST: manifest}
    return Checkpoint(network_of(tensors, name), shown, digest, record, contents)


def save(folder: Path, model: Network, epoch: int | None, facts: dict[str, Any]) -> Path:
    """Write weights and manifest to a new `folder`; never over an existing one.

    Args:
        folder: where to; it appears only when it is complete.
        epoch: the epoch of these weights, from 0.
        facts: JSON-ready extras of the manifest (config, selection, split …).

    Raises:
        InputError: `folder` exists or cannot be made.
    """
    weights = safetensors.torch.save({k: v.cpu().contiguous() for k, v in model.tensors.items()})
    return files.new_folder(folder, packed(weights, epoch, facts))


def import_pt(path: str | Path, folder: Path) -> Path:
    """Write the `.pt` at `path` as a checkpoint: a new `folder` with every tensor bit for bit.

    Raises:
        InputError: not such a `.pt` (see `convert`), or `folder` exists or cannot be made.
    """
    if files.resolve(path).is_dir() or Path(path).name == WEIGHTS:
        raise InputError(f"{path} is a fluxttice checkpoint already: there is nothing to import.")
    return files.new_folder(folder, convert(path))


def check_split(loaded: Checkpoint, seed: int) -> dict[str, Any]:
    """`split_record` of `seed`, and whether the checkpoint records it: `trained_on`.

    A foreign `.pt` records none, so it cannot be checked.

    Raises:
        InputError: it was trained on another split, so the test operations may have been seen.
    """
    split, recorded = split_record(seed), loaded.manifest.get("split")
    if recorded not in (None, split):
        raise InputError(
            f"{loaded.path} was trained on another split than that of split_seed {seed}: "
            "what would be tested may have been trained on."
        )
    return {**split, "trained_on": "recorded, the same" if recorded else "not recorded"}
