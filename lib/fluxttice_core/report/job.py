"""The main job: the three notebooks through papermill into one dated folder, then HTML."""

import contextlib
import logging
import sys
import tempfile
from pathlib import Path
from typing import TextIO

import nbformat
import papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from .. import files, params
from ..errors import InputError
from .preamble import check

NOTEBOOKS = {"train": "1_train", "benchmark": "2_benchmark", "certify": "3_certify"}
TEMPLATES = Path(__file__).parent / "template"


def run(
    train: str, benchmark: str, certify: str, checkpoint: str = "", name: str = "report"
) -> Path:
    """Execute the notebooks into a new reports/<UTC date>/<HHMMSS>-<name>/; return that folder.

    Each has a parameter file, and all are checked before anything starts. With a `checkpoint`
    nothing is trained: the other two notebooks measure and certify it.

    Raises:
        InputError: bad parameters, a missing checkpoint, an unwritable folder.
        StepFailed: a notebook stopped; what it left is in the folder.
    """
    paths = {"benchmark": benchmark, "certify": certify}
    paths = paths if checkpoint else {"train": train, **paths}
    checked = {step: _checked(step, path, checkpoint) for step, path in paths.items()}
    given = files.existing(checkpoint).resolve() if checkpoint else None
    folder = files.run_folder("", name)
    with contextlib.chdir(files.root()):  # so that records hold paths of the project alone
        for step, p in checked.items():
            values = {**p.model_dump(), "run_dir": files.local(folder)}
            if step != "train":
                values["checkpoint"] = files.local(given or folder / "checkpoint")
            execute(NOTEBOOKS[step], values, files.local(folder))
    return folder


def _checked(step: str, path: str, checkpoint: str) -> params.Params:
    values = params.read_yaml(files.find(path))
    for name in ("run_dir", "checkpoint"):
        if values.get(name):
            raise InputError(
                f"{path}: {name} is set, but here it is the run's own: "
                "leave it empty (another checkpoint is named by CHECKPOINT=path)."
            )
    if step != "train":
        values["checkpoint"] = checkpoint
    return check(step, {"run_dir": "", **values}, path)


class StepFailed(InputError):
    """A notebook stopped with an error; the message is one sentence."""


def execute(notebook: str, parameters: dict, run_dir: str) -> None:
    """Run one notebook into `run_dir`, export it to HTML, refuse a run that is not complete."""
    folder = Path(run_dir)
    target, draft = folder / f"{notebook}.ipynb", folder / f".{notebook}.running.ipynb"
    problem = ""
    print(f"\n── {notebook} → {files.shown(folder)}", flush=True)
    try:
        execute_quietly(notebook, parameters, draft, sys.stdout)
    except PapermillExecutionError as error:
        problem = f"{notebook} stopped: {error.ename}: {error.evalue}"
    except KeyboardInterrupt:
        # papermill's output of an interrupted run looks like a finished one: leave none.
        draft.unlink(missing_ok=True)
        raise StepFailed(f"{notebook} was interrupted: it left no report.") from None
    draft.replace(target)
    export_html(target)
    if problem := problem or incomplete(target):
        raise StepFailed(problem)


def execute_quietly(notebook: str, parameters: dict, target: Path, output: TextIO | None) -> None:
    """papermill of notebooks/<notebook>.ipynb, cell output to `output`, without its warnings.

    It warns of parameters that the notebook's cell lacks (the other recipes'; the notebook itself
    checks all of them). The kernel talks through sockets in a private folder: kernels side by side
    would race for TCP ports (papermill issues 239 and 511).
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        sockets = {"transport": "ipc", "ip": str(Path(folder, "kernel"))}
        papermill.execute_notebook(
            f"notebooks/{notebook}.ipynb", str(target), parameters=parameters,
            kernel_name="python3", progress_bar=False, stdout_file=output,
            config=Config({"KernelManager": sockets}),
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )  # fmt: skip


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
