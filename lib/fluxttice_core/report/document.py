"""What a benchmark leaves for others: its file of every number."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from .. import files
from ..metrics.measurement import Results
from ..metrics.results import Record

DOCUMENT = "coverage_vs_entropy.json"


class Document(Record):
    """coverage_vs_entropy.json: everything that the pages of a benchmark are drawn from."""

    schema_: Literal["fluxttice/coverage_vs_entropy/4"] = Field(
        "fluxttice/coverage_vs_entropy/4", alias="schema"
    )
    created_utc: str
    git: dict[str, str | bool | None]
    environment: dict[str, str]
    checkpoint: dict[str, str | int | None]
    params: dict[str, Any]
    results: Results
    lineage: None = None  # stays empty until this form changes


def store(document: Document, path: Path) -> Document:
    """Write atomically, and return what was stored."""
    files.write_bytes(path, document.to_json())
    return Document.model_validate_json(path.read_bytes())
