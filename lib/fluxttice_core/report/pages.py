"""The page of an executed notebook: one HTML file, which says so where the run is not complete."""

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from traitlets.config import Config

from .. import files
from .preamble import banner
from .status import State

TEMPLATES = Path(__file__).parent / "template"


def write(draft: Path, target: Path, state: State = "complete", reason: str = "") -> None:
    """The draft as notebook and page, with a banner on top where it is not complete.

    papermill takes what an interrupt left for completed: here the cells say how far it came.
    Nothing is written where the draft is not there yet, or is damaged.
    """
    try:
        book = nbformat.read(draft, as_version=4)
    except (OSError, ValueError):  # interrupted before it was written, or twice
        return
    if state != "complete":
        begun = [c for c in book.cells if c.metadata.get("papermill", {}).get("start_time")]
        for cell in book.cells:
            if "papermill" in cell.metadata and cell not in begun:
                cell.metadata.papermill.status = "pending"
        if begun:
            begun[-1].metadata.papermill.status = "failed"
        book.metadata.papermill.exception = True
        book.cells.insert(0, nbformat.v4.new_markdown_cell(banner(state, reason)))
    files.write_bytes(target, nbformat.writes(book).encode())
    export_html(target)


def incomplete(path: Path) -> str:
    """Why an executed notebook is not a valid report; empty if it is one.

    Valid: every code cell has run, none shows an error, papermill raised no exception.
    """
    notebook, reasons = nbformat.read(path, as_version=4), []
    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for number, cell in code:
        if cell.execution_count is None:
            reasons.append(f"cell {number} was not executed")
        elif any(output.output_type == "error" for output in cell.outputs):
            reasons.append(f"cell {number} shows an error")
    if notebook.metadata.get("papermill", {}).get("exception"):
        reasons.append("papermill noted an exception")
    return f"{path.name} is not a finished run: {reasons[0]}." if reasons else ""


def export_html(path: Path) -> Path:
    """One self-contained HTML file beside the notebook: images inside, nothing from the network."""
    exporter = HTMLExporter(
        config=Config({"CoalesceStreamsPreprocessor": {"enabled": True}}),
        embed_images=True,
        template_name="fluxttice",
        extra_template_basedirs=[str(TEMPLATES)],
    )
    html, _ = exporter.from_notebook_node(
        nbformat.read(path, as_version=4), {"metadata": {"name": f"fluxttice: {path.stem}"}}
    )
    target = path.with_suffix(".html")
    files.write_bytes(target, html.encode())
    return target
