"""The section of 2_benchmark on files of the original's: what one is, has, and claims."""

from collections import Counter

import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from .. import files, params
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from ..metrics.lineage import CEILINGS, Lineage, lineage
from ..metrics.measurement import Benchmark
from ..metrics.results import Measured
from .tables import GREY, left, number, with_interval, without

OURS = "This checkpoint is of our own layout: the original claims nothing of it."
VERDICT = {"agrees": "color: #1a7f37", "differs": "color: #c1121f; font-weight: bold"}


def of(p: Benchmark, loaded: checkpoints.Checkpoint) -> Lineage | None:
    """What the lineage's own metrics say of a file of the original's; None for one of ours.

    Raises:
        InputError: `p.claims` or `p.inherited_from` cannot be read, or a claim is no number.
    """
    if "imported" not in loaded.manifest:
        return None
    claims = loaded.manifest.get("claims")
    base = checkpoints.load(p.inherited_from).model if p.inherited_from else None
    given = params.read_yaml(files.find(p.claims)) if p.claims else {}
    for name, value in given.items():
        if type(value) not in (int, float):
            raise InputError(f"{p.claims}: {name} is {value!r}, but a claim must be a number.")
    claims = {**(claims if isinstance(claims, dict) else {}), **given}
    return lineage(loaded.model, claims, base, p)


def section(found: Lineage | None) -> list[Markdown | Styler]:
    """One sentence for a checkpoint of ours, else three tables."""
    return [is_(found), has(found), claims(found)] if found else [Markdown(OURS)]


def is_(found: Lineage) -> Styler:
    """What the file is, by its tensors."""
    lines = {
        "layout, by the tensors": found.layout,
        "split": "not recorded: trained on all, perhaps",
    }
    for vae, rows in found.match.items():
        for name, row in rows.items():
            lines[f"exact match {vae} → {vae}, decoder given {name}"] = number(row.value)
    if without(found.vaes):
        lines["exact match B → B"] = without(found.vaes).removeprefix("VAE-B: ")
    for vae, stated in found.stated.items():
        for name in ("max_radius", "curvature"):
            lines[f"{name} of projection {vae}"] = f"{stated[name]:g} ({stated[f'{name}_from']})"
    for reason, count in Counter(found.left_out.values()).items():
        lines[f"{count} tensors left out"] = reason
    if found.inherited:
        lines["inherited bit for bit"] = f"{len(found.inherited)}: {', '.join(found.inherited)}"
    return left(pd.DataFrame(lines.items(), columns=["this file", ""]))


def has(found: Lineage) -> Styler:
    """The lineage's metrics beside ceilings and floors; greyed where a floor reaches them."""
    lines, good = [], []
    for vae, rows in found.measured.items():
        for name, row in rows.items():
            if name.startswith("radius"):
                continue
            key, unit = name.removesuffix(" of mu"), "number"
            cheap = {radii: number(at[key], unit) for radii, at in found.cheap.items()}
            good.append(found.decides(name, vae))
            lines.append({
                "metric": name if good[-1] else f"{name} (alone decides nothing)",
                "encoder": vae, "one draw (99.9 %)": with_interval(row, unit),
                **{f"ceiling: {radii}": cheap.pop(radii) for radii in CEILINGS}, **cheap,
                "untrained": " … ".join(number(end, unit) for end in found.untrained[key]),
            })  # fmt: skip
    return left(pd.DataFrame(lines)).apply(lambda column: ["" if g else GREY for g in good])


def claims(found: Lineage) -> Styler:
    """Every number that the file, or someone for it, claims, beside ours."""
    frame = pd.DataFrame(
        {
            "claim": row.name,
            "stored": f"{row.stored:.4g}",
            "one draw, measured (99.9 %)": _span(row.measured),
            "verdict": row.verdict,
            "as": row.definition,
        }
        for row in found.claims
    )
    if frame.empty:
        return left(pd.DataFrame({"claim": ["this file claims nothing of itself"]}))
    return left(frame).map(lambda verdict: VERDICT.get(verdict, GREY), subset=["verdict"])


def _span(row: Measured | None) -> str:
    if row is None or row.value is None:
        return "–"
    exact = row.low == row.high
    return f"{row.value:.4g}" + ("" if exact else f" ({row.low:.4g} … {row.high:.4g})")
