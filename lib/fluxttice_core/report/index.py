"""reports/index.html: every run on one page, read from the run folders, which are the history.

The page is one file and needs no network. It is also its own cache: the rows of an earlier page
are taken over where no file of the run has changed since.
"""

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from .. import files, params
from ..metrics.gates import Judged
from ..metrics.measurement import MODEL
from ..metrics.observation import metric
from ..metrics.results import CENSUS, Measured
from . import status
from .document import DOCUMENT, Document

TEMPLATE = Path(__file__).parent / "template" / "index"
VERDICT = "verdict.json"
READ = (status.STATUS, "*.params.yaml", VERDICT, DOCUMENT, "*.html")
HEADLINES = {
    "argmax_entropy": "argmax entropy",
    "argmax_coverage_50000": "argmax coverage at 50,000",
    "exact_match_sampled": "exact match, posterior sample",
    "rate": "rate, nats",
}
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def path() -> Path:
    return files.reports_folder() / "index.html"


def write() -> None:
    """Write the page anew, newest run first. What is damaged is named here and on the page."""
    reports, old = files.reports_folder(), _earlier()
    runs = [run for run in reports.glob("*/*/") if any(run.glob("*.params.yaml"))]
    rows: list[dict[str, Any]] = []
    bands: dict[str, Any] = {}
    for run in sorted(runs, key=lambda run: (run.parent.name, run.name), reverse=True):
        name, stamp = run.relative_to(reports).as_posix(), _stamp(run)
        known = old["rows"].get(name, {})
        if known.get("stamp") == stamp and known["state"] != "running":
            found = known
        else:
            found = {"run": name, "stamp": stamp, **row(run, old["bands"])}
        if found["damaged"]:
            print(f"{files.display_path(run)}: {found['damaged']}")
        if found["band"]:
            bands[found["band"]] = old["bands"][found["band"]]
        rows.append(found)
    names = dict.fromkeys(n for r in rows for figures in r["figures"].values() for n in figures)
    entries = {name: metric(name) for name in (*HEADLINES, *names)}
    about = {name: [entry.title, entry.unit, entry.better] for name, entry in entries.items()}
    data = {"rows": rows, "bands": bands, "metrics": about, "headlines": HEADLINES}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    page = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True).get_template("page.html")
    try:
        files.write_bytes(path(), page.render(data=text.replace("<", "\\u003c")).encode())
    except OSError as error:
        print(f"{files.display_path(path())} cannot be written ({error.strerror})")


def row(run: Path, bands: dict[str, Any]) -> dict[str, Any]:
    """One run as the page has it; what the controls have goes into `bands`, under its hash.

    A damaged file is named under "damaged", and the row holds what the others say.
    """
    found: dict[str, Any] = {
        "date": f"{run.parent.name} {run.name[:2]}:{run.name[2:4]}",
        "name": run.name[7:], "state": "unknown", "reason": "", "steps": {}, "damaged": "",
        "pages": sorted(page.name for page in run.glob("[1-4]_*.html")), "verdict": "",
        "checkpoint": "", "recipe": "", "seed": None, "figures": {}, "band": "", "params": {},
    }  # fmt: skip
    for place in [path for names in READ[:4] for path in sorted(run.glob(names))]:
        try:
            found |= _said(place, found, bands)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            found["damaged"] = f"{place.name} is damaged or of another release: left out"
    return found


def _said(place: Path, row: dict[str, Any], bands: dict[str, Any]) -> dict[str, Any]:
    """What one file of a run adds to its row, as far as it is known."""
    if place.name == status.STATUS:
        return status.read(place.parent).model_dump(include={"state", "reason", "steps"})
    data = place.read_bytes()
    figures: dict[str, Any] = {}
    band: dict[str, Any] = {}
    if place.suffix == ".yaml":
        values, step = params.read_yaml(place), place.name.partition(".")[0]
        given = {f"{step}: {name}": value for name, value in values.items()}
        trained = {"recipe": values["recipe"], "seed": values["seed"]} if step == "train" else {}
        return {"params": row["params"] | given, **trained}
    if place.name == VERDICT:
        said = files.parse_json(data)
        for gate in [Judged.model_validate(gate) for gate in said["gates"]]:
            figures.setdefault(gate.vae, {})[gate.gate[4:]] = _numbers(gate.measured)
        recipe = row["recipe"] or (said["recipe"] or {}).get("name") or ""
        return {"figures": figures, "recipe": recipe, "verdict": str(said["verdict"])}
    document = Document.model_validate_json(data)
    for one in document.results.comparison:
        band.setdefault(one.vae, {})[one.metric] = one.controls
    key = files.sha256(json.dumps(band).encode())[:12]
    bands[key] = band
    figures = {vae: {name: _numbers(one) for name, one in measured.values.items()}
               for vae, measured in document.results.of(MODEL).items()}  # fmt: skip
    return {"band": key, "checkpoint": document.checkpoint["sha256"],
            "figures": row["figures"] | figures}  # fmt: skip


def _numbers(one: Measured) -> list[float | None]:
    """Value, low and high; what is exact has the value alone."""
    whole = one.value is None or one.method.startswith(CENSUS)
    return [one.value] if whole else [one.value, one.low, one.high]


def _stamp(run: Path) -> str:
    """Changes with every file that `row` reads, and with the code that reads them."""
    seen = [(p.name, s.st_mtime_ns, s.st_size) for pattern in READ
            for p in sorted(run.glob(pattern)) for s in [p.stat()]]  # fmt: skip
    return files.sha256(f"{files.sha256(Path(__file__).read_bytes())} {seen}".encode())[:12]


def _earlier() -> dict[str, Any]:
    """Rows by run, and bands, of the page that is there; empty where it is not one of ours."""
    try:
        data = json.loads(DATA.search(path().read_text("utf-8"))[1])
        return {"rows": {r["run"]: r for r in data["rows"]}, "bands": data["bands"]}
    except (OSError, ValueError, TypeError, KeyError):
        return {"rows": {}, "bands": {}}
