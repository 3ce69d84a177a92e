"""The section of the pages on files of the original's: what one is, has, and claims."""

from collections import Counter

import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from .. import files, params
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from ..metrics.lineage import GIVEN, Lineage, lineage
from ..metrics.observation import Measurement
from .tables import GREY, VERDICT, ends, left, with_interval, without

OURS = "This checkpoint is of our own layout: the original claims nothing of it."
PRIOR = "by decoder A from N(0, I), as v5.5 meant it: this version defines none of its own"
COLOURS = {"agrees": VERDICT["PASS"], "differs": VERDICT["FAIL"]}


def of(
    loaded: checkpoints.Checkpoint, p: Measurement, claims: str = "", inherited_from: str = ""
) -> Lineage | None:
    """What the lineage's own metrics say of a file of the original's; None for one of ours.

    Args:
        claims: path of a YAML file of name: number, claimed of it elsewhere.
        inherited_from: path of a checkpoint whose tensors it may hold.

    Raises:
        InputError: one of these cannot be read, or a claim is no number.
    """
    if "imported" not in loaded.manifest:
        return None
    base = checkpoints.load(inherited_from).model if inherited_from else None
    given = params.read_yaml(files.find(claims)) if claims else {}
    for name, value in given.items():
        if type(value) not in (int, float):
            raise InputError(f"{claims}: {name} is {value!r}, but a claim must be a number.")
    print("measuring by the lineage's own metrics")
    return lineage(loaded.model, {**loaded.section("claims"), GIVEN: given}, base, p)


def section(found: Lineage | None) -> list[Markdown | Styler]:
    """One sentence for a checkpoint of ours, else three tables: what it is, has, and claims."""
    return [is_(found), has(found), claims(found)] if found else [Markdown(OURS)]


def is_(found: Lineage) -> Styler:
    """What the file is, by its tensors."""
    lines = {"layout, by the tensors": found.layout, "split": "none recorded: it may have seen all"}
    lines |= {"generation": PRIOR} if without(found.vaes) else {}
    for vae, stated in found.stated.items():
        for name, (value, source) in stated.items():
            lines[f"{name} of projection {vae}"] = f"{value:g} ({source})"
    for reason, count in Counter(found.left_out.values()).items():
        lines[f"{count} tensors left out"] = reason
    if found.inherited:
        lines["inherited bit for bit"] = f"{len(found.inherited)}: {', '.join(found.inherited)}"
    return left(pd.DataFrame(lines.items(), columns=["this file", ""]))


def has(found: Lineage) -> Styler:
    """Each metric beside its ceilings and floors; greyed where a floor reaches it."""
    lines, grey = [], []
    for name in [name for name in found.measured["A"] if "radius" not in name]:
        unit, key = "share" if "exact" in name else "number", name.removesuffix(" of mu")
        line, dull = {"metric": name}, {}
        for vae, rows in found.measured.items():
            cell = with_interval(rows[name], unit) if name in rows else without(found.vaes)
            line[f"encoder {vae} (99.9 %)"] = cell.removeprefix("VAE-B: ")
            decides = name in rows and found.decides(name, vae)
            dull[f"encoder {vae} (99.9 %)"] = "" if decides else GREY
        at = {what: ends(*row[key], unit) for what, row in found.beside.items() if key in row}
        lines.append(line | dict.fromkeys(found.beside, "–") | at)
        grey.append(dull)
    return left(lines).apply(lambda _: pd.DataFrame(grey), axis=None)


def claims(found: Lineage) -> Styler:
    """Every number that the file, or someone for it, claims, beside ours."""
    lines = [
        {
            "claim": row.name,
            "stored": f"{row.stored:.4g}",
            "measured (99.9 %)": with_interval(row.measured, "number") if row.measured else "–",
            "verdict": row.verdict,
            "as, or why not": row.definition,
        }
        for row in found.claims
    ]
    nothing = [{"claim": "this file claims nothing of itself", "verdict": ""}]
    return left(lines or nothing).map(lambda said: COLOURS.get(said, GREY), subset=["verdict"])
