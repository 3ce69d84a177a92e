"""The two files of a checkpoint: its weights as safetensors, and a manifest as JSON."""

from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from .. import files
from ..errors import InputError

WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"
SCHEMA = "fluxttice/manifest/1"


def packed(weights: bytes, epoch: int | None, facts: dict[str, Any]) -> dict[str, bytes]:
    """Both files by name; `facts` are more entries of the manifest, ready for JSON."""
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


def tensors_of(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: another file, or a header that names a tensor twice.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        files.parse_json(data[8 : 8 + min(length, len(data))])
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name} is not a safetensors file: {reason}.") from None


def check_sha256(data: bytes, expected: str, name: object) -> str:
    """The sha256 of `data`, which is refused if another one is expected (and not empty)."""
    digest = files.sha256(data)
    if expected and expected.strip().lower() != digest:
        raise InputError(f"{name} has sha256 {digest}, but {expected} was expected: refused.")
    return digest
