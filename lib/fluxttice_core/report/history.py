"""What a benchmark run leaves for others: its file of every number, and its line in the history."""

import csv
import fcntl
import os
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from .. import files
from ..errors import InputError
from ..metrics.lineage import Lineage
from ..metrics.measurement import MODEL, Results
from ..metrics.results import Record

METRICS = (
    "argmax_entropy", "argmax_coverage_50000", "argmax_coverage_195000", "exact_match",
    "exact_match_sampled", "exact_match_test", "information", "latent_entropy",
)  # fmt: skip
COLUMNS = ("created_utc", "run", "git_commit", "checkpoint_sha256", "epoch", "vae", *METRICS)


class Document(Record):
    """coverage_vs_entropy.json: everything that the pages of a benchmark are drawn from."""

    schema_: Literal["fluxttice/coverage_vs_entropy/3"] = Field(
        "fluxttice/coverage_vs_entropy/3", alias="schema"
    )
    created_utc: str
    git: dict[str, str | bool | None]
    environment: dict[str, str]
    checkpoint: dict[str, str | int | None]
    params: dict[str, Any]
    results: Results
    lineage: Lineage | None = None  # of a file of the original's


def store(document: Document, path: Path) -> Document:
    """Write atomically, and return what was stored."""
    files.write_bytes(path, document.to_json())
    return Document.model_validate_json(path.read_bytes())


def append(document: Document, run: Path) -> Path:
    """One line a VAE at the end of reports/history.csv; what is there is never rewritten.

    The file is locked while a line is written, and cut back to what it was if the disk is full.

    Raises:
        InputError: it cannot be written, or its columns are not those of this release.
    """
    path = files.reports_folder() / "history.csv"
    rows = [_line(document, run, vae) for vae in document.results.of(MODEL)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+b", buffering=0)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from None
    with opened as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start = file.seek(0, os.SEEK_END)
        file.seek(0)
        if start and file.readline() != f"{','.join(COLUMNS)}\n".encode():
            raise InputError(f"{path} has other columns than this release's: move it away.")
        data = pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, header=not start).encode()
        try:
            if file.write(data) != len(data):
                raise OSError(None, "the disk is full")
        except OSError as error:
            file.truncate(start)
            raise InputError(
                f"{path} cannot be written ({error.strerror}): kept as it was."
            ) from None
    return path


def history() -> list[dict[str, Any]]:
    """The lines of reports/history.csv, oldest first; a damaged one is named and left out."""
    path = files.reports_folder() / "history.csv"
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
    found, reader = [], csv.DictReader(lines)
    for row in reader:
        try:
            if None in row or None in row.values():  # too long, too short
                raise ValueError
            found.append({**row, **{name: float(row[name] or "nan") for name in METRICS}})
        except (ValueError, KeyError):
            print(f"{files.shown(path)}: line {reader.line_num} is damaged and left out")
    return found


def _line(document: Document, run: Path, vae: str) -> dict[str, Any]:
    values = document.results.of(MODEL)[vae].values
    return {
        "created_utc": document.created_utc,
        "run": files.shown(run),
        "git_commit": document.git["commit"],
        "checkpoint_sha256": document.checkpoint["sha256"],
        "epoch": document.checkpoint["epoch"],
        "vae": vae,
        **{name: values[name].value if name in values else None for name in METRICS},
    }
