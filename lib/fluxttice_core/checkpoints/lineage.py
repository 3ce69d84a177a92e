"""The original system's own files: `.pt` archives of v5.5, read as data.

No byte of a pickle is executed (see `archive`).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import files
from ..errors import InputError
from . import archive
from .archive import Refused

MAX_HISTORY = 1_000_000  # values
# Everything a v5.5 file holds apart from the weights and the optimiser's state.
V55_HISTORY = (
    "epoch", "best_val_loss", "H_A_history", "H_B_history", "coverage_A_history",
    "coverage_B_history", "lambda1", "lambda2", "lambda3", "rho", "phase",
    "grad_balance_achieved", "grad_norm_A_ema", "grad_norm_B_ema", "grad_ema_momentum",
    "statenet_enabled", "statenet_corrections",
)  # fmt: skip


def read_v5_5(data: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and manifest (with the history) of a v5.5 `.pt`, read by `archive`.

    No byte of its pickle is executed. The optimiser's state, which measuring does not need, and
    keys that v5.5 did not write are left out, and named in the manifest.
    """
    try:
        content = archive.read(data)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise Refused("it has no state dict under 'model'")
        budget = iter(range(MAX_HISTORY))
        history = {key: _plain(content[key], budget) for key in V55_HISTORY if key in content}
    except Refused as error:
        raise InputError(f"{name} is not a v5.5 checkpoint: {error}.") from None
    except RecursionError:
        raise InputError(f"{name} is not a v5.5 checkpoint: it is nested too deeply.") from None
    state = {str(k).removeprefix("_orig_mod."): v for k, v in content["model"].items()}
    if len(state) < len(content["model"]):
        raise InputError(f"{name} is not a v5.5 checkpoint: two of its tensors have the same name.")
    epoch = history.get("epoch")
    return state, {
        "epoch": epoch if type(epoch) is int else None,
        "imported": {
            "format": "v5.5 .pt",
            "file": Path(name).name,
            "sha256": files.sha256(data),
            "bytes": len(data),
            "left_out": [str(k)[:80] for k in content if k not in ("model", *V55_HISTORY)][:100],
        },
        "history": history,
    }


def _plain(value: Any, budget: Iterator[int]) -> Any:
    """JSON-ready copy of a v5.5 history value; what is not finite or not data becomes a string."""
    if next(budget, None) is None:
        raise Refused(f"its history has more than {MAX_HISTORY:,} values")
    if isinstance(value, Tensor):
        if value.numel() > MAX_HISTORY:
            raise Refused(f"its history has more than {MAX_HISTORY:,} values")
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v, budget) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, budget) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    known = isinstance(value, (bool, int, float, str, type(None)))
    return value if known else f"({type(value).__name__})"
