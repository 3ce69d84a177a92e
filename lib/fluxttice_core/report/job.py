"""The main job: the three notebooks through papermill into one dated folder, then HTML."""

import contextlib
import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from .. import files, params
from ..errors import InputError
from .preamble import check

NOTEBOOKS = {"train": "1_train", "benchmark": "2_benchmark", "certify": "3_certify"}
TEMPLATES = Path(__file__).parent / "template"


@dataclass(frozen=True)
class Job:
    """What `run` needs: a parameter file for each notebook, and perhaps a checkpoint.

    With a `checkpoint` nothing is trained: the other two notebooks measure and certify it.
    """

    train: str
    benchmark: str
    certify: str
    checkpoint: str = ""
    name: str = "report"


def run(job: Job) -> Path:
    """Execute the job into a new reports/<UTC date>/<HHMMSS>-<name>/ and return that folder.

    All parameters are checked before anything starts.

    Raises:
        InputError: bad parameters, a missing checkpoint, an unwritable folder.
        StepFailed: a notebook stopped; what it left is in the folder.
    """
    steps = ["benchmark", "certify"] if job.checkpoint else ["train", "benchmark", "certify"]
    checked = {step: _checked(step, getattr(job, step), job.checkpoint) for step in steps}
    given = files.existing(job.checkpoint).resolve() if job.checkpoint else None
    folder = files.run_folder("", job.name)
    checkpoint = given or folder / "checkpoint"
    with contextlib.chdir(files.root()):  # so that records hold paths of the project alone
        for step in steps:
            overrides = {"run_dir": _local(folder)}
            if step != "train":
                overrides["checkpoint"] = _local(checkpoint)
            execute(NOTEBOOKS[step], {**checked[step].model_dump(), **overrides}, _local(folder))
    return folder


def _local(path: Path) -> str:
    """`path` relative to the repository where it lies inside, absolute elsewhere."""
    root = files.root().resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


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


class StepFailed(RuntimeError):
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
    problem = problem or incomplete(target)
    if problem:
        raise StepFailed(problem)


def execute_quietly(notebook: str, parameters: dict, target: Path, output: TextIO | None) -> None:
    """papermill of notebooks/<notebook>.ipynb, cell output to `output`, without its warnings.

    It warns of parameters that the notebook's cell lacks (the other recipes'; the notebook itself
    checks all of them). The kernel talks through sockets in a private folder: kernels side by side
    would race for TCP ports (papermill issues 239 and 511).
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as sockets:

        class OverSockets(AsyncKernelManager):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.transport, self.ip = "ipc", str(Path(sockets, "kernel"))

        papermill.execute_notebook(
            f"notebooks/{notebook}.ipynb", str(target), parameters=parameters,
            kernel_name="python3", progress_bar=False, stdout_file=output,
            kernel_manager_class=OverSockets,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )  # fmt: skip


def incomplete(path: Path) -> str:
    """Why an executed notebook is not a valid report; empty if it is one.

    Valid: every code cell has run, none shows an error, papermill raised no exception.
    """
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None:
            return f"{path.name} is not a finished run: cell {number} was not executed."
        if any(output.output_type == "error" for output in cell.outputs):
            return f"{path.name} is not a finished run: cell {number} shows an error."
    failed = notebook.metadata.get("papermill", {}).get("exception")
    return f"{path.name} is not a finished run: papermill noted an exception." if failed else ""


def export_html(path: Path) -> Path:
    """One self-contained HTML file beside the notebook: images inside, nothing from the network."""
    config = Config()
    config.HTMLExporter.embed_images = True
    config.CoalesceStreamsPreprocessor.enabled = True
    exporter = HTMLExporter(
        config=config, template_name="fluxttice", extra_template_basedirs=[str(TEMPLATES)]
    )
    html, _ = exporter.from_notebook_node(
        nbformat.read(path, as_version=4), {"metadata": {"name": f"fluxttice: {path.stem}"}}
    )
    target = path.with_suffix(".html")
    files.write_bytes(target, html.encode())
    return target
