"""The original system's own files, v5.5 to v5.12.4: `.pt` archives read as data, each as its
tensors describe it.

No byte of a pickle is executed (see `archive`). A layout is a row of LAYOUTS. It says what a file
is called, never what is computed: encoders, decoders, norms, activations and projections are read
from the tensors' names and shapes. What a file claims of itself is kept as data.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import files
from ..errors import InputError, printable
from ..model.network import DualVAE, Network
from ..model.projection import Projection
from . import archive
from .archive import Refused

STATE_NET, NORM = "state_net.encoder.0.weight", "encoder_A.encoder.1.weight"
SINGLE, DUAL = "projection.direction_net", "projection.proj_A.direction_net"
LAYOUTS = (  # name; the tensor, and its shape where that matters, of the first row that fits
    ("appetitive", "curiosity.z_history", None),
    ("v5.5", STATE_NET, (32, 9)),
    ("v5.6 to v5.9", STATE_NET, (32, 12)),
    ("v5.7", STATE_NET, (48, 14)),
    ("v5.10 before 2025-12-14", STATE_NET, (64, 18)),
    ("v5.10", STATE_NET, (64, 21)),
    ("v5.12.4 improved", NORM, (256,)),
    ("v5.11.3 structural", f"{DUAL}.0.weight", (128, 16)),
    ("v5.12 to v5.12.4 plain", f"{DUAL}.8.weight", (16, 64)),
    ("v5.12 to v5.12.4 plain, without dropout", f"{DUAL}.6.weight", (16, 64)),
    ("v5.11.11 and later", "projection.proj_A.manifold.isp_c", ()),
    ("v5.11 dual", f"{DUAL}.0.weight", None),
    ("v5.11 single projection", f"{SINGLE}.0.weight", None),
)
ALONE = "encoders and decoders alone"
STEERS = "steers training alone"
NUMBERS = (
    r"(grad_norm|r)_[AB]_ema|mean_radius_[AB]|prior_sigma|curvature|loss_(ema|prev|grad_ema)"
    r"|appetite_\w+"
)
LEFT_OUT = {  # how a tensor's name (and shape) or a part's begins; why no measurement needs it
    r"(state_net|attention_head_scales|controller\.net)\.|controller_state$": STEERS,
    r"(metric|hyperbolic|curriculum)_attention\.": STEERS,
    r"symbiosis\.|curiosity\.z_history|ranking\.valuations|closure\.identity_idx": STEERS,
    rf"(\w+\.)*({NUMBERS}) \((1(, 1)*,?)?\)$": "a running number of training",
    r"(model_)?optim\S*$": "state of an optimiser",
    r"snap\S*$": "radii by the true valuation, given, not learnt: the network is measured without",
}
STATES = ("model", "model_state", "model_state_dict", "base_model_state_dict")
RAW = "the file itself"
PREFIXES = r"((_orig_mod|module|base)\.)*"  # of compiling, parallel training and a wrapper
MAX_CLAIMS = 2**24  # characters of what a file claims, as JSON


def read_original(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict by the tensors' own names, and manifest, of a `.pt` of the original's.

    The manifest's "claims" are what the file says of itself, its config among it, as plain data;
    "imported" says which file it was, where the state dict stood, and why other parts are left out.

    Raises:
        InputError: not such an archive, no network in it, or too much of anything.
    """
    try:
        content = archive.read(data)
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
        found = content.pop(under[0])
        state = {re.sub(f"^{PREFIXES}", "", str(key)): value for key, value in found.items()}
        if len(state) < len(found):
            raise Refused("two of its tensors have the same name")
        if sum(v.nbytes for v in state.values() if isinstance(v, Tensor)) > len(data):
            raise Refused("its tensors come to more than the file holds")
        texts, left_out = {}, {}
        for key, value in content.items():
            try:
                texts[str(key)] = json.dumps(value, default=_plain)
            except TypeError:
                left_out[printable(key)] = _reason(str(key), "tensors of no network measured")
        if sum(map(len, texts.values())) > MAX_CLAIMS:
            raise Refused(f"what it claims has more than {MAX_CLAIMS:,} characters")
    except (Refused, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{name} is not a checkpoint of the original: {why}.") from None
    claims = {k: json.loads(t, parse_constant=lambda x: str(float(x))) for k, t in texts.items()}
    epoch = claims.get("epoch")
    return state, {
        "epoch": epoch if type(epoch) is int else None,
        "imported": {
            "file": Path(name).name,
            "sha256": files.sha256(data),
            "bytes": len(data),
            "state": under[0],
            "left_out": left_out,
        },
        "claims": claims,
    }


def _plain(value: Any) -> Any:
    """A claim that JSON has no form for: the number in a tensor, or the name of its type."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise TypeError("a tensor is no claim")
    return value.item() if isinstance(value, Tensor) else f"({type(value).__name__})"


def _reason(begins: str, otherwise: str = "") -> str:
    """Why a tensor or a part of a file is left out."""
    return next((why for name, why in LEFT_OUT.items() if re.match(name, begins)), otherwise)


def _described(value: Any) -> str:
    """What two tensors must have in common for one to stand for the other."""
    if not isinstance(value, Tensor):
        return "missing" if value is None else "no tensor"
    dense = value.layout == torch.strided and value.is_contiguous()
    return f"{'' if dense else 'not dense, '}{value.dtype} {tuple(value.shape)}"


def network_of(state: dict[str, Any], name: str, config: Any = None) -> Network:
    """The network that `state` (tensors by their names) is, in evaluation mode; strictly.

    Args:
        name: what to call the file in a refusal.
        config: the file's own, as data: its max_radius and curvature, which no tensor may hold.

    Raises:
        InputError: no network, or the first tensor that is missing, surplus, misshapen, not
            float32, not dense or not finite.
    """
    shapes = {key: tuple(getattr(tensor, "shape", "?")) for key, tensor in state.items()}
    fits = (row for row, key, shape in LAYOUTS if key in shapes and shape in (None, shapes[key]))
    layout = next(fits, ALONE)
    if not any(key.startswith(("encoder_", "decoder_")) for key in state):
        raise InputError(f"{name} has no encoder or decoder in it: there is nothing to measure.")
    vaes = ("A", "B") if any(key.startswith("decoder_B.") for key in shapes) else ("A",)
    with torch.device("meta"):  # shapes alone: the numbers are the file's
        model = DualVAE() if layout == "v5.5" else Network(vaes, NORM in shapes)
        if any(key.startswith(SINGLE) for key in shapes):  # one for both
            model.projection = Projection(shapes, "projection", config)
            model.projections = dict.fromkeys(model.encoders, model.projection)
        elif any(key.startswith("projection.") for key in shapes):
            places = {vae: f"projection.proj_{vae}" for vae in model.encoders}
            model.projections = {v: Projection(shapes, at, config) for v, at in places.items()}
            made = {f"proj_{vae}": ball for vae, ball in model.projections.items()}
            model.projection = nn.ModuleDict(made)
    model.layout = layout
    wanted = model.float().state_dict()  # whatever torch makes by default
    for key in [*wanted, *state]:
        got, problem = _described(state.get(key)), ""
        if key not in wanted:
            model.left_out[key] = _reason(f"{key} {shapes[key]}")
            if layout in ("v5.5", ALONE) or not model.left_out[key] or not got.startswith("torch."):
                problem = "is not part of it"
        elif got != _described(wanted[key]):
            problem = f"is {printable(got)}, but must be {_described(wanted[key])}"
        elif not state[key].isfinite().all():
            problem = "holds values that are not finite"
        if problem:
            lineage = f"{name} is no network of the lineage ({layout})"
            raise InputError(f"{lineage}: {printable(key)} {problem}.")
    own = {key: tensor.detach().clone() for key, tensor in state.items()}
    model.load_state_dict({key: own[key] for key in wanted}, assign=True)
    model.kept = {key: own[key] for key in model.left_out}
    for ball in model.projections.values():
        for c in ball.manifold.values():
            ball.stated["curvature"] = nn.functional.softplus(c).item(), "isp_c"
    return model.eval()
