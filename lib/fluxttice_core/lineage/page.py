"""The result of a v5.x file in words, and its numbers as they are shown."""

from html import escape

import pandas as pd
from IPython.display import HTML

from ..checkpoints.folder import Checkpoint
from ..errors import printable
from ..report.tables import format_interval, format_value

VERDICTS = ["differs", "not told", "agrees", "cannot be recomputed"]


def shown(name: str, value: float, low: float, high: float) -> str:
    """value (low … high) of a metric, value alone if nothing was drawn, low … high if it is NaN."""
    unit = "share" if name.startswith("exact") else "number"
    number, ends = format_value(value, unit), format_interval(low, high, unit)
    if value != value:
        return ends
    return f"{number} ({ends})" if low < high else number


def opening(loaded: Checkpoint, measured: pd.DataFrame, claims: pd.DataFrame) -> HTML:
    """What the file is, what it can do, and what it claims that does not hold."""
    model, file = loaded.model, loaded.section("imported").get("file")
    kind = f"a v5.x checkpoint ({model.layout})" if file else "a fluxttice checkpoint"
    said = [f"{escape(printable(file or loaded.path))} is {kind}."]
    for vae in model.encoders:
        rows = measured.value[vae].filter(regex="from (mu|the)").map(format_value)
        shares = " and ".join(rows + rows.index.str.removeprefix("exact match"))
        can = f"Of all 19,683 operations, VAE-{vae} reconstructs exactly {shares}."
        said.append(can if shares else f"Encoder {vae} has no decoder.")
    counts = claims.verdict.value_counts().reindex(VERDICTS, fill_value=0)
    summary = ", ".join(f"{verdict}: {count}" for verdict, count in counts.items())
    claimed = f"{len(claims)} numbers about itself ({summary})"
    said.append(f"It claims {claimed if len(claims) else 'nothing about itself'}.")
    for row in claims[claims.verdict == "differs"].itertuples():
        ours = f"{row.definition} is {shown(row.definition, row.value, row.low, row.high)}"
        said.append(f"{escape(row.claim)} = {row.stored:.4g} does not hold: {ours}.")
    return HTML(f"<p><b>{' '.join(said)}</b></p>")
