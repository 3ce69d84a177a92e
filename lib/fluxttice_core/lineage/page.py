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
    if value != value:
        return format_interval(low, high, unit)
    return format_value(value, unit) + (
        f" ({format_interval(low, high, unit)})" if low < high else ""
    )


def opening(loaded: Checkpoint, measured: pd.DataFrame, claims: pd.DataFrame) -> HTML:
    """What the file is, what it can do, and what it claims that does not hold."""
    model, file = loaded.model, loaded.section("imported").get("file")
    kind = f"a v5.x checkpoint ({model.layout})" if file else "a fluxttice checkpoint"
    said = [f"{escape(printable(file or loaded.path))} is {kind}."]
    for vae in model.encoders:
        rows = measured.value[vae].filter(regex="exact match from (mu|the)")
        shares = [
            f"{format_value(x)} {name.removeprefix('exact match ')}" for name, x in rows.items()
        ]
        can = f"Of all 19,683 operations, VAE-{vae} reconstructs exactly {' and '.join(shares)}."
        said.append(can if shares else f"Encoder {vae} has no decoder.")
    counts = claims.verdict.value_counts().reindex(VERDICTS, fill_value=0).items()
    summary = ", ".join(f"{verdict}: {count}" for verdict, count in counts)
    claimed = f"It claims {len(claims)} numbers about itself ({summary})."
    said.append(claimed if len(claims) else "It claims nothing about itself.")
    for row in claims[claims.verdict == "differs"].itertuples():
        ours = f"{row.definition} is {shown(row.definition, row.value, row.low, row.high)}"
        said.append(f"{escape(row.claim)} = {row.stored:.4g} does not hold: {ours}.")
    return HTML(f"<p><b>{' '.join(said)}</b></p>")
