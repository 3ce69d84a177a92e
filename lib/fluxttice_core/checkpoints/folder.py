"""Checkpoints: a folder with the weights and a manifest; and the original's `.pt`.

What is hashed is what is loaded: a file is read once, its bytes are hashed, and the weights come
from those bytes. Nothing pickled is ever executed.
"""

import io
import json
import zipfile
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
from .lineage import network_of, read_original

WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"
SCHEMA = "fluxttice/manifest/1"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and where it came from. `sha256` is of the weight file's bytes as read.

    `contents` are the bytes of its two files by name; empty for a `.pt`.
    """

    model: Network
    path: str
    sha256: str
    manifest: dict[str, Any] = field(repr=False)
    contents: dict[str, bytes] = field(default_factory=dict, repr=False)

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
    """Read a checkpoint of ours (its folder, or the weights in it) or a `.pt` of the original's.

    The model comes in evaluation mode, on the CPU. Each file is read once.

    Raises:
        InputError: nothing there, not a checkpoint, another network, values that are not
            finite, or weights whose sha256 is not the manifest's or not `expected_sha256`.
    """
    place = files.resolve(path)
    weights = place / WEIGHTS if place.is_dir() else place
    if place.is_dir() and not (weights.is_file() or weights.is_symlink()):
        raise InputError(
            f"{path} is a folder without a {WEIGHTS}: give a checkpoint's folder or file."
        )
    data = files.read_file(weights, links=not place.is_dir())
    digest = files.sha256(data)
    if expected_sha256 and expected_sha256.strip().lower() != digest:
        raise InputError(
            f"{path} has sha256 {digest}, but {expected_sha256} was expected: refused."
        )
    if weights.name != WEIGHTS and zipfile.is_zipfile(io.BytesIO(data)):
        state, manifest = read_original(data, str(path))
        model = network_of(state, str(path), manifest["claims"].get("config"))
        manifest["imported"]["layout"] = model.layout
        manifest["imported"]["left_out"] |= model.left_out
        return Checkpoint(model, files.display_path(place), digest, manifest)
    beside = weights.parent / MANIFEST
    if not (beside.is_file() or beside.is_symlink()):
        state_of(data, str(path))  # what is no checkpoint at all is better told so
        raise InputError(
            f"{path} has no {MANIFEST} beside it: weights without one are of unknown origin."
        )
    return from_bytes(data, files.read_file(beside), str(path), files.display_path(place))


def from_bytes(weights: bytes, manifest: bytes, name: str, shown: str) -> Checkpoint:
    """The checkpoint that the bytes of its two files make: what was hashed is what is loaded.

    Args:
        weights, manifest: contents of model.safetensors and of manifest.json.
        name: what to call it in a refusal; shown: what to call it in a record.

    Raises:
        InputError: as `load`.
    """
    state, digest = state_of(weights, name), files.sha256(weights)
    try:
        record = files.parse_json(manifest)
        claimed, epoch = record["weights"]["sha256"], record.get("epoch")
        config = record.get("claims", {}).get("config")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{name} has a {MANIFEST} that is not a checkpoint's manifest: not valid JSON, or cut."
        ) from None
    if claimed != digest:
        raise InputError(f"{name} has sha256 {digest}, but its manifest says {claimed}: refused.")
    if type(epoch) not in (int, type(None)):
        raise InputError(f"{name} has a manifest whose epoch is {epoch!r}, not a whole number.")
    contents = {WEIGHTS: weights, MANIFEST: manifest}
    return Checkpoint(network_of(state, name, config), shown, digest, record, contents)


def state_of(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; a header that names one twice is refused."""
    try:
        length = int.from_bytes(data[:8], "little")
        files.parse_json(data[8 : 8 + min(length, len(data))])
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name} is neither a safetensors file nor a .pt of torch: {reason}."
        ) from None


def save(folder: Path, model: Network, epoch: int | None, facts: dict[str, Any]) -> Path:
    """Write weights and manifest to a new `folder`; never over an existing one.

    Args:
        folder: where to; it appears only when it is complete.
        epoch: the epoch of these weights, from 0.
        facts: JSON-ready extras of the manifest (config, selection, split …).

    Raises:
        InputError: `folder` exists or cannot be made.
    """
    with files.new_folder(folder, packed(model, epoch, facts)):
        return folder


def packed(model: Network, epoch: int | None, facts: dict[str, Any]) -> dict[str, bytes]:
    """The bytes of a checkpoint's two files, by name."""
    data = safetensors.torch.save({k: v.cpu().contiguous() for k, v in model.tensors.items()})
    manifest = {
        "schema": SCHEMA,
        "created_utc": files.utc_now().isoformat(),
        "weights": {"file": WEIGHTS, "sha256": files.sha256(data), "bytes": len(data)},
        "epoch": epoch,
        **facts,
        "environment": files.environment(),
        "git": files.git_commit(),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    return {WEIGHTS: data, MANIFEST: (text + "\n").encode()}


def import_original(path: str | Path, folder: Path) -> Path:
    """Write the original's `.pt` at `path` as a checkpoint of ours: a new `folder`.

    Tensors bit for bit, under their own names; what the file claims as manifest data.

    Raises:
        InputError: not such a `.pt` (see `load`), or `folder` exists or cannot be made.
    """
    loaded = load(path)
    if "imported" not in loaded.manifest or loaded.contents:
        raise InputError(f"{path} is a checkpoint of ours already: there is nothing to import.")
    with files.new_folder(folder, contents(loaded)):
        return folder


def contents(loaded: Checkpoint) -> dict[str, bytes]:
    """Both files of a loaded checkpoint: as they were read, or made now from a `.pt`."""
    facts = {key: value for key, value in loaded.manifest.items() if key != "epoch"}
    return loaded.contents or packed(loaded.model, loaded.epoch, facts)


def check_split(loaded: Checkpoint, seed: int) -> dict[str, Any]:
    """`split_record` of `seed`, and whether the checkpoint records it: `trained_on`.

    A `.pt` of the original records none, and is taken at its word.

    Raises:
        InputError: it was trained on another split: what would be tested may have been trained on.
    """
    split, recorded = split_record(seed), loaded.manifest.get("split")
    if recorded not in (None, split):
        raise InputError(
            f"{loaded.path} was trained on another split than that of split_seed {seed}: "
            "what would be tested may have been trained on."
        )
    return {**split, "trained_on": "recorded, the same" if recorded else "not recorded"}
