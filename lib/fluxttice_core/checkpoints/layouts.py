"""Which network a file's tensors are: the layouts of v5.5 to v5.12.4.

Names and shapes of the tensors decide, never the file's own config. LAYOUTS only names the result.
"""

import re
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import InputError, printable
from ..model.network import D, DualVAE, Network

STATE_NET, NORM = "state_net.encoder.0.weight", "encoder_A.encoder.1.weight"
FIRST = "projection.proj_A.direction_net"
LAYOUTS = (  # name; the tensor, and its shape where that matters, of the first row that fits
    ("appetitive", "curiosity.z_history", None),
    ("v5.5", STATE_NET, (32, 9)),
    ("v5.6 to v5.9", STATE_NET, (32, 12)),
    ("v5.7", STATE_NET, (48, 14)),
    ("v5.10 before 2025-12-14", STATE_NET, (64, 18)),
    ("v5.10", STATE_NET, (64, 21)),
    ("v5.12.4 improved", NORM, (256,)),
    ("v5.11.3 structural", f"{FIRST}.0.weight", (128, 16)),
    ("v5.12 to v5.12.4 plain", f"{FIRST}.8.weight", (16, 64)),
    ("v5.12 to v5.12.4 plain, without dropout", f"{FIRST}.6.weight", (16, 64)),
    ("v5.11.11 and later", "projection.proj_A.manifold.isp_c", ()),
    ("v5.11 dual", f"{FIRST}.0.weight", None),
    ("v5.11 single projection", "projection.direction_net.0.weight", None),
)
ALONE = "encoders and decoders alone"
STRICT = ("encoder_", "decoder_", "projection.")
IGNORED = {  # why no measurement needs a tensor or a part of a file, and how its name begins
    "steers training alone":
        r"(state_net|attention_head_scales|controller\.net|symbiosis|curiosity|ranking|closure)\."
        r"|(metric|hyperbolic|curriculum)_attention\.|controller_state$",
    "a running number of training":
        r"(grad_norm|r)_[AB]_ema$|loss_|mean_radius_|prior_sigma$|curvature$|appetite_",
    "state of an optimiser": r"(model_)?optim",
    "radii by the true valuation, given, not learnt": r"snap",
}  # fmt: skip


def reason(name: str) -> str:
    """Why a tensor or a part of a file is ignored; empty if that is not known."""
    return next((why for why, begins in IGNORED.items() if re.match(begins, name)), "")


def network_of(tensors: dict[str, Tensor], name: str) -> Network:
    """The network that `tensors` are, in evaluation mode; `name` is the file's in an error.

    Encoders, decoders and projections are strict. Other tensors are kept and ignored.

    Raises:
        InputError: no network, or the first tensor that is missing, unexpected, of another shape,
            not float32, or not finite.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    fits = (row for row, key, shape in LAYOUTS if key in shapes and shape in (None, shapes[key]))
    layout = next(fits, ALONE)
    if not any(key.startswith(("encoder_", "decoder_")) for key in shapes):
        raise InputError(f"{name} has no encoder or decoder in it.")
    vaes = ("A", "B") if any(key.startswith("decoder_B.") for key in shapes) else ("A",)
    with torch.device("meta"):  # shapes alone: the numbers are the file's
        model = DualVAE() if layout == "v5.5" else Network(vaes, NORM in shapes)
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    wanted = own | projections(shapes)
    for key in [*wanted, *tensors]:
        problem = ""
        if key not in wanted:
            problem = "is not part of it" if key.startswith(STRICT) else ""
        elif key not in shapes:
            problem = "is missing"
        elif (tensors[key].dtype, shapes[key]) != (torch.float32, wanted[key]):
            found = printable(f"{tensors[key].dtype} {shapes[key]}")
            problem = f"is {found}, but must be torch.float32 {wanted[key]}"
        elif not tensors[key].isfinite().all():
            problem = "holds values that are not finite"
        if problem:
            raise InputError(f"{name} is no {layout} network: {printable(key)} {problem}.")
    model.load_state_dict({key: tensors[key] for key in own}, assign=True)
    model.layout = layout
    model.other_tensors = {key: tensors[key] for key in tensors if key not in own}
    model.ignored_tensors = {key: reason(key) for key in tensors if key not in wanted}
    return model.eval()


def projections(shapes: dict[str, tuple]) -> dict[str, tuple]:
    """The shapes that the tensors of a file's projections must have, by name; none before v5.11.

    direction_net is linear layers from D to D, with a LayerNorm after each but the last; radius_net
    linear layers from D to 1. How many, and how wide, is read from the file. Activations, and in
    some files dropout, take a number and have no tensor.
    """
    wanted: dict[str, tuple] = {}
    if not any(key.startswith("projection.") for key in shapes):
        return wanted
    single = any(key.startswith("projection.direction_net.") for key in shapes)
    for place in ["projection"] if single else ["projection.proj_A", "projection.proj_B"]:
        if any(key.endswith(".manifold.isp_c") for key in shapes):  # both have one, or none has
            wanted[f"{place}.manifold.isp_c"] = ()
        for net, step, end in (("direction_net", 3, D), ("radius_net", 2, 1)):
            weight = re.compile(re.escape(f"{place}.{net}.") + r"(0|[1-9]\d?)\.weight")
            found = {int(hit[1]): shapes[hit[0]] for hit in map(weight.fullmatch, shapes) if hit}
            linear = sorted(number for number, shape in found.items() if len(shape) == 2) or [0]
            widths = [D, *(found[number][0] for number in linear[:-1]), end]
            step += linear[-1] != step * (len(linear) - 1)  # of dropout
            for i, (wide, narrow) in enumerate(pairwise(widths)):
                at = f"{place}.{net}.{step * i}"
                wanted |= {f"{at}.weight": (narrow, wide), f"{at}.bias": (narrow,)}
                if net == "direction_net" and i < len(linear) - 1:
                    norm = f"{place}.{net}.{step * i + 1}"
                    wanted |= {f"{norm}.weight": (narrow,), f"{norm}.bias": (narrow,)}
    return wanted
