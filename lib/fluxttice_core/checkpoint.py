"""Checkpoints: a folder with the weights and a manifest; and the original's v5.5 `.pt`.

What is hashed is what is loaded: a file is read once, its bytes are hashed, and the weights come
from those bytes. Nothing pickled is ever executed.
"""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from . import files
from .errors import InputError
from .model import DualVAE
from .operations import split

WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"
SCHEMA = "fluxttice/manifest/1"
MAX_BYTES = 64 * 2**20  # the network is 0.7 MB; a v5.5 file with its optimiser state about 2 MB

# Everything a v5.5 file holds apart from the weights and the optimiser's state.
V55_HISTORY = (
    "epoch", "best_val_loss", "H_A_history", "H_B_history", "coverage_A_history",
    "coverage_B_history", "lambda1", "lambda2", "lambda3", "rho", "phase",
    "grad_balance_achieved", "grad_norm_A_ema", "grad_norm_B_ema", "grad_ema_momentum",
    "statenet_enabled", "statenet_corrections",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and where it came from. `sha256` is of the weight file's bytes as read."""

    model: DualVAE
    path: str
    sha256: str
    epoch: int | None
    manifest: dict[str, Any] = field(repr=False)

    def record(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256, "epoch": self.epoch}


def load(path: str | Path, expected_sha256: str = "") -> Checkpoint:
    """Read a checkpoint of ours (its folder, or the weights in it) or a v5.5 `.pt`.

    The model comes in evaluation mode, on the CPU.

    Raises:
        InputError: nothing there, not a checkpoint, another architecture, values that are not
            finite, or weights whose sha256 is not the manifest's or not `expected_sha256`.
    """
    if not str(path).strip():
        raise InputError("checkpoint is empty: give the path of a checkpoint folder or a .pt file.")
    place = files.find(path)
    if not place.exists():
        raise InputError(f"No checkpoint at {path}: there is no such file or folder.")
    if place.is_dir() and not (place / WEIGHTS).is_file():
        raise InputError(
            f"{path} is a folder without a {WEIGHTS}: give a checkpoint's folder or file."
        )
    weights = place / WEIGHTS if place.is_dir() else place
    data = _read(weights)
    digest = files.sha256(data)
    if expected_sha256 and expected_sha256.strip().lower() != digest:
        raise InputError(
            f"{path} has sha256 {digest}, but {expected_sha256} was expected: refused."
        )
    if zipfile.is_zipfile(io.BytesIO(data)):
        state, manifest = read_v5_5(data, str(path))
    else:
        state, manifest = _read_ours(data, weights.parent / MANIFEST, digest, str(path))
    model = _model(state, str(path))
    return Checkpoint(model, files.shown(place), digest, manifest.get("epoch"), manifest)


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(
            f"{path} has {size:,} bytes, but a checkpoint of this network has under 64 MiB."
        )
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes): not a checkpoint.")
    return path.read_bytes()


def _read_ours(data: bytes, manifest: Path, digest: str, name: str) -> tuple[dict, dict]:
    try:
        state = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"{name} is neither a safetensors file nor a v5.5 .pt: {error}.") from None
    if not manifest.is_file():
        raise InputError(
            f"{name} has no {MANIFEST} beside it: weights without one are of unknown origin."
        )
    try:
        record = json.loads(_read(manifest))
        claimed = record["weights"]["sha256"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{manifest} is not a manifest of a checkpoint: not valid JSON, or cut."
        ) from None
    if claimed != digest:
        raise InputError(f"{name} has sha256 {digest}, but its manifest says {claimed}: refused.")
    return state, record


def read_v5_5(data: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and history of a v5.5 `.pt`, without executing a byte of its pickle.

    Allowed are tensors, plain containers and numpy's scalars; anything else a pickle asks for is
    refused by name. Compressed archives are refused unread (torch never writes one).
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(data):
            raise InputError(f"{name} unpacks to more than its size: not a .pt that torch wrote.")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not a checkpoint
        reason = _refused_global(str(error)) or "the archive is damaged or was not written by torch"
        raise InputError(f"{name} is not a v5.5 checkpoint: {reason}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(f"{name} is not a v5.5 checkpoint: it has no state dict under 'model'.")
    state = {str(k).removeprefix("_orig_mod."): v for k, v in content["model"].items()}
    history = {key: _plain(content[key]) for key in V55_HISTORY if key in content}
    epoch = history.get("epoch")
    return state, {
        "format": "v5.5 .pt",
        "epoch": epoch if isinstance(epoch, int) else None,
        "history": history,
    }


def _numpy_scalars() -> list[Any]:
    types = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "b1")]
    scalar = np._core.multiarray.scalar
    return [*types, np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _refused_global(message: str) -> str:
    marker = "Unsupported global: GLOBAL "
    if marker not in message:
        return ""
    asked = message.split(marker)[1].split()[0]
    return f"it asks to run {asked}, and no code in a checkpoint is ever run"


def _plain(value: Any) -> Any:
    """JSON-ready copy of a v5.5 history value; what is not finite or not data becomes a string."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.generic, Tensor)):
        value = value.tolist()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str, list, type(None))) else str(value)


def _model(state: dict[str, Any], name: str) -> DualVAE:
    model = DualVAE.fresh(0)
    reference = model.state_dict()
    first = state.get("state_net.encoder.0.weight")
    if isinstance(first, Tensor) and tuple(first.shape) == (32, 12):
        raise InputError(
            f"{name} is a v5.6 checkpoint: its StateNet reads 12 numbers, and v5.5's reads 9."
        )
    for key in [*reference, *state]:
        problem = _difference(key, state.get(key), reference.get(key))
        if problem:
            raise InputError(f"{name} is not a v5.5 network: {problem}.")
    model.load_state_dict(state, strict=True)
    return model.eval()


def _difference(key: str, got: Any, want: Tensor | None) -> str:
    if want is None:
        return f"{key} is not part of it"
    if not isinstance(got, Tensor):
        return f"{key} is missing" if got is None else f"{key} is not a tensor"
    if got.shape != want.shape or got.layout != torch.strided:
        return f"{key} has shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    if got.dtype != want.dtype:
        return f"{key} holds {got.dtype} instead of {want.dtype}"
    return "" if got.isfinite().all() else f"{key} holds values that are not finite"


def save(folder: Path, model: DualVAE, epoch: int | None, facts: dict[str, Any]) -> Path:
    """Write weights and manifest to a new `folder`; never over an existing one.

    Args:
        folder: where to; its parent exists.
        epoch: the epoch of these weights, from 0.
        facts: JSON-ready extras of the manifest (config, selection, split …).

    Raises:
        InputError: `folder` exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: a checkpoint is never written over.")
    data = safetensors.torch.save({k: v.cpu().contiguous() for k, v in model.state_dict().items()})
    manifest = {
        "schema": SCHEMA,
        "created_utc": files.utc_now().isoformat(),
        "weights": {"file": WEIGHTS, "sha256": files.sha256(data), "bytes": len(data)},
        "epoch": epoch,
        **facts,
        "environment": files.environment(),
        "git": files.git_commit(),
    }
    draft = folder.with_name(f".{folder.name}.draft")
    draft.mkdir(parents=True)
    files.write_bytes(draft / WEIGHTS, data)
    files.write_json(draft / MANIFEST, manifest)
    draft.rename(folder)
    return folder


def split_record(seed: int) -> dict[str, Any]:
    """`{seed, sizes, sha256}`: the hash is over the indices as little-endian int64, in order."""
    parts = dict(split(seed))
    indices = torch.cat(list(parts.values())).numpy().astype("<i8").tobytes()
    sizes = {name: len(part) for name, part in parts.items()}
    return {"seed": seed, "sizes": sizes, "sha256": files.sha256(indices)}
