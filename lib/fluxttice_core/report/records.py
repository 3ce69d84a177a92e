"""What a benchmark run leaves for others: a validated JSON file, and its line in the history."""

import csv
import io
import json
import os
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import jsonschema

from .. import files
from ..errors import InputError

COLUMNS = (
    "created_utc", "run", "git_commit", "checkpoint_sha256", "epoch", "vae", "information_share",
    "argmax_50000_of_ceiling", "argmax_195000_of_ceiling", "exact_match_test",
    "exact_match_test_sampled", "latent_entropy_nats",
)  # fmt: skip


def check(document: dict[str, Any], schema: str) -> None:
    """Raise InputError, naming the first place that differs, unless `document` fits the schema."""
    text = resources("fluxttice_core").joinpath(f"schemas/{schema}.schema.json").read_text("utf-8")
    validator = jsonschema.Draft202012Validator(json.loads(text))
    for error in sorted(validator.iter_errors(document), key=lambda e: list(e.absolute_path)):
        place = "/".join(str(part) for part in error.absolute_path) or "the document"
        raise InputError(f"{place} does not fit the schema {schema}: {error.message[:200]}.")


def write(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Validate against the schema of the file's name, write atomically, return what was stored."""
    check(document, path.stem)
    files.write_json(path, document)
    return json.loads(path.read_text(encoding="utf-8"))


def append_history(document: dict[str, Any], run: Path) -> Path:
    """One line a VAE at the end of reports/history.csv; what is there is never rewritten.

    A single write to a file opened for appending: concurrent runs do not tear each other's lines.
    """
    path = files.reports_folder() / "history.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    for vae in "AB":
        writer.writerow(_line(document, run, vae))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, text.getvalue().encode())
    finally:
        os.close(handle)
    return path


def history() -> list[dict[str, str]]:
    """The lines of reports/history.csv so far, oldest first; empty where there is none."""
    path = files.reports_folder() / "history.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return list(csv.DictReader(text.splitlines()))


def _line(document: dict[str, Any], run: Path, vae: str) -> dict[str, Any]:
    result, checkpoint = document["results"][vae], document["checkpoint"]
    argmax = {
        row["n"]: row["of_ceiling"]
        for row in result["expected_coverage"]
        if row["decode"] == "argmax"
    }
    return {
        "created_utc": document["created_utc"],
        "run": files.shown(run),
        "git_commit": document["git_commit"],
        "checkpoint_sha256": checkpoint["sha256"],
        "epoch": checkpoint["epoch"],
        "vae": vae,
        "information_share": result["information_nats"]["share"],
        "argmax_50000_of_ceiling": argmax.get(50_000),
        "argmax_195000_of_ceiling": argmax.get(195_000),
        "exact_match_test": result["exact_match"]["test"],
        "exact_match_test_sampled": result["reconstruction"]["sample"]["test"]["share"],
        "latent_entropy_nats": result["latent_entropy_nats"],
    }
