"""The section of the pages on files of the original's: what one is, has, and claims."""

import copy
from collections import Counter
from decimal import Decimal

import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler
from ruamel.yaml import YAML

from .. import files, parallel, params
from ..benchmark import Benchmark
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from ..metrics.lineage import ELSEWHERE, Claim, Lineage, beside, compare, measure
<<<<<<< HEAD
=======
from ..metrics.observation import Measurement
from ..model.projection import attach
>>>>>>> e99334917ba122090e37611669dbba83676d3c70
from ..parallel import Job
from .tables import (
    GREY,
    VERDICT,
    format_interval,
    format_measured,
    missing_decoder_note,
    plain_table,
)

OURS = "This checkpoint is of our own layout: the original claims nothing of it."
PRIOR = "by decoder A from N(0, I), as v5.5 meant it: this version defines none of its own"
COLOURS = {"agrees": VERDICT["PASS"], "differs": VERDICT["FAIL"]}


def of(
    loaded: checkpoints.Checkpoint, p: Benchmark, claims: str = "", inherited_from: str = ""
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
    model, stated = copy.deepcopy(loaded.model), dict(loaded.section("claims"))
    balls = attach(model, stated.get("config"))
    theirs = checkpoints.load(inherited_from).model.tensors if inherited_from else {}
    given, written = {}, {}
    if claims:
        given, text = params.read_yaml(claims), files.resolve(claims).read_text("utf-8")
        written = YAML(typ="base", pure=True).load(text)  # with their decimals
    for name, value in given.items():
        if type(value) not in (int, float) or abs(value) >= 1e300:
            raise InputError(f"{claims}: {name} is {value!r}, but a claim must be a number.")
        stated[name + ELSEWHERE] = Decimal(written[name]) if type(value) is float else value
    coupled = "controller_state" in loaded.section("imported")["ignored"]
    layout = "epsilon-coupled" if coupled else model.layout
    print("measuring by the lineage's own metrics")
    jobs = [Job(f"encoder {vae}", measure, (model, vae, 10, p.seed)) for vae in model.encoders]
    measured = dict(zip(model.encoders, parallel.each(jobs, print), strict=True))
    return Lineage(
        layout=model.layout,
        vaes=model.vaes,
        left_out=model.ignored_tensors,
        stated={vae: ball.stated for vae, ball in balls.items()},
        measured=measured,
        beside=beside(model, p.untrained_seed, p.seed),
        claims=compare(stated, measured, layout),
        inherited=[k for k, v in model.tensors.items() if k in theirs and v.equal(theirs[k])],
    )


def section(found: Lineage | None) -> list[Markdown | Styler]:
    """One sentence for a checkpoint of ours. Else three tables: what the file is, by its tensors;
    each metric beside its ceilings and floors, greyed where a floor reaches it; and every number
    that the file, or someone for it, claims, beside ours."""
    if not found:
        return [Markdown(OURS)]
    facts = [("layout", found.layout), ("split", "none recorded: it may have seen all")]
    facts += [("generation", PRIOR)] if missing_decoder_note(found.vaes) else []
    for vae, stated in found.stated.items():
        for name, (value, source) in stated.items():
            facts += [(f"{name} of projection {vae}", f"{value:g} ({source})")]
    for reason, count in Counter(found.left_out.values()).items():
        facts += [(f"{count} tensors left out", reason)]
    if found.inherited:
        facts += [(f"{len(found.inherited)} inherited bit for bit", ", ".join(found.inherited))]
    lines, grey = [], []
    for vae, rows in found.measured.items():
        for name in [name for name in rows if "radius" not in name]:
            unit = "share" if "exact" in name else "number"
            measured = format_measured(rows[name], unit)
            line = {"encoder": vae, "metric": name, "measured (99.9 %)": measured}
            beside = {
                k: format_interval(*at[name], unit) for k, at in found.beside.items() if name in at
            }
            lines.append(line | beside)
            grey.append("" if found.decides(name, vae) else GREY)
    claims = pd.DataFrame(map(dict, found.claims), columns=[*Claim.model_fields])
    shown = {"stored": "{:.4g}", "measured": lambda x: format_measured(x, "number") if x else "–"}
    claimed = (
        plain_table(claims).format(shown).map(lambda x: COLOURS.get(x, GREY), subset=["verdict"])
    )
    return [
        plain_table(pd.DataFrame(facts, columns=["this file, by its tensors", ""])),
        plain_table(pd.DataFrame(lines).fillna("–"), vaes=found.vaes).apply(lambda column: grey),
        claimed if found.claims else Markdown("This file claims nothing of itself."),
    ]
