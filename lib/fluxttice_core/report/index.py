"""reports/index.html: one row for each run, from its verdict.json and its *.params.yaml alone."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import Template

from .. import files, params
from ..metrics.measurement import METRICS
from .tables import format_measured

TEMPLATE = Path(__file__).parent / "template" / "index.html.j2"
HEADLINES = "argmax_entropy", "exact_match_sampled", "rate"


def path() -> Path:
    return files.reports_folder() / "index.html"


def write() -> None:
    """Write the page, newest run first."""
    runs = sorted({place.parent for place in path().parent.glob("*/*/*.params.yaml")}, reverse=True)
    page = Template(TEMPLATE.read_text("utf-8"), autoescape=True).render(rows=map(row, runs))
    with contextlib.suppress(OSError):  # no reason to fail a run
        files.write_bytes(path(), page.encode())


def row(run: Path) -> dict[str, Any]:
    """A run's cells by heading; a damaged file is named under "state"."""
    found, problems = dict[str, dict[str, Any]](), []
    pages = sorted(place.name for place in run.glob("*.html"))
    for place in [*sorted(run.glob("*.params.yaml")), *run.glob("verdict.json")]:
        step = place.name.partition(".")[0]
        try:
            found[step] = _verdict(place) if step == "verdict" else params.read_yaml(place)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            problems.append(f"damaged: {place.name}")
        if step != "verdict" and not any(page.endswith(f"_{step}.html") for page in pages):
            problems.append(f"unfinished: {step}")
    train, certify, judged = (found.get(name, {}) for name in ("train", "certify", "verdict"))
    given = (certify or found.get("benchmark", {})).get("checkpoint") or judged.get("file", "")
    profile = params.profile_of(certify)
    own = " (own bounds)" if judged and certify and not profile else ""
    return {
        "date (UTC)": f"{run.parent.name} {run.name[:2]}:{run.name[2:4]}",
        "run": run.name[7:],
        "checkpoint": "trained here" if train else Path(str(given)).name,
        "recipe": f"{train.get('recipe')}, seed {train.get('seed')}" if train else "",
        "layout": judged.get("layout", "fluxttice" if train else ""),
        "bounds": profile,
        "verdict": judged.get("verdict", "") + own,
        "state": "\n".join(problems) or "complete",
        **{name.replace("_", " "): judged.get(name, "") for name in HEADLINES},
        "pages": [f"{run.parent.name}/{run.name}/{page}" for page in pages],
    }


def _verdict(place: Path) -> dict[str, str]:
    """Cells from a verdict.json; a figure is shown with half the width of its interval."""
    found = files.parse_json(place.read_bytes())
    cells = {name: str(found["checkpoint"][name]) for name in ("file", "layout")}
    cells["verdict"] = str(found["verdict"])
    for gate in found["gates"]:
        name = gate["gate"][4:]
        if name in HEADLINES:
            figure = format_measured(SimpleNamespace(**gate), METRICS[name].unit)
            line = f"{gate['vae']} {figure}\n".replace(" ", "\xa0")
            cells[name] = cells.get(name, "") + line
    return cells
