"""A run: its notebooks, executed by papermill one after another into one dated folder.

A page exists only if its notebook ran to its end: NAME.unfinished.ipynb then becomes NAME.ipynb and
NAME.html. So whatever ends a run, the names say how far it came.
"""

import logging
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers
from traitlets.config import Config

from .. import files, params
from ..checkpoints import folder as checkpoints
from ..errors import InputError, ThresholdMissed
from . import index, kernel
from .notebook import check

# Step → its notebook, in the order they run.
NOTEBOOKS = {
    "train": "1_train", "benchmark": "2_benchmark", "certify": "3_certify",
    "evidence": "4_evidence", "lineage": "5_lineage",
}  # fmt: skip
# A second attempt begins without these; all else that a notebook writes, it writes over.
OUTPUTS = {
    "train": ("checkpoint", "epochs"),
    "certify": ("certified", "verdict.json", "test_result.sigstore.json"),
}
UNFINISHED = ".unfinished"
TEMPLATES = Path(__file__).parent / "template"


Steps = dict[str, dict[str, Any]]  # step → parameters


class StepFailed(InputError):
    """A notebook stopped with an error; the message is one sentence."""


def run(
    train: str, benchmark: str, certify: str, checkpoint: str = "", name: str = "report",
    resume: str = "",
) -> Path:  # fmt: skip
    """Execute the notebooks into a new reports/<UTC date>/<HHMMSS>-<name>/; return that folder.

    All input is checked before anything starts. Nothing follows a training that failed, but a
    certification follows a benchmark that failed.

    Args:
        train, benchmark, certify: parameter files.
        checkpoint: measured and certified; nothing is trained then.
        resume: the folder of a run, whose notebooks without a page run, as recorded there.

    Raises:
        InputError: a bad parameter, name or signing key, a missing checkpoint, an unwritable
            folder, or nothing to resume.
        StepFailed: notebooks stopped or missed a bound; the folder holds what they left.
        KeyboardInterrupt: Ctrl-C or SIGTERM, with a sentence.
    """
    from ..certification import signing  # a library of its own, which pages do without

    if key := os.environ.get(signing.KEY_VARIABLE):
        signing.public_key(files.root() / Path(key).expanduser())  # as 3_certify finds it
    paths, problems = {"train": train, "benchmark": benchmark, "certify": certify}, []
    folder, steps = _unfinished(resume) if resume else _new(paths, checkpoint, name)
    try:
        for step, values in steps.items():
            try:
                execute(step, values, folder)
            except InputError as error:
                problems.append(str(error))
                if step == "train":
                    break
    except KeyboardInterrupt:
        go_on = f"make report RESUME={files.relative_to_root(folder)} goes on with it."
        raise KeyboardInterrupt(f"{NOTEBOOKS[step]} was interrupted. {go_on}") from None
    finally:
        index.write()
    if problems:
        raise StepFailed(" ".join(problems))
    return folder


def _new(paths: dict[str, str], checkpoint: str, name: str) -> tuple[Path, Steps]:
    """A new run folder that records its steps, and these."""
    check_name(name)
    converted = {}
    if checkpoint:
        place = files.resolve(checkpoint).resolve()
        loaded, checkpoint = checkpoints.load(place), files.relative_to_root(place)
        paths = {step: path for step, path in paths.items() if step != "train"}
        if place.is_file() and place.name != checkpoints.WEIGHTS:
            # A foreign file is converted once. Everything after it reads the run's own checkpoint.
            converted, checkpoint = loaded.contents, ""
            paths["lineage"] = "params/lineage.yaml"
    steps = {step: _checked(step, path, checkpoint) for step, path in paths.items()}
    for values in steps.values() if converted else ():
        # A parameter file names the foreign file's sha256; the run's own checkpoint has another.
        digest, expected = loaded.section("imported")["sha256"], values["expected_sha256"]
        checkpoints.check_sha256(digest, expected, str(place))
        values["expected_sha256"] = loaded.sha256
    folder = files.run_folder("", name)
    if converted:
        files.new_folder(folder / "checkpoint", converted)
    for step, values in steps.items():
        params.record(folder, step, values)
    return folder, steps


def check_name(name: str) -> None:
    """InputError unless `name` can be a part of a folder's name."""
    if not re.fullmatch(r"[\w.+-]+", name):
        raise InputError(f"name is {name!r}, but must be letters, digits and any of . _ + -.")


def _checked(step: str, path: str, checkpoint: str) -> dict[str, Any]:
    values = {"run_dir": "", **params.read_yaml(path)}
    for name in ("run_dir", "checkpoint"):
        if values.get(name):
            raise InputError(
                f"{path}: {name} is set, but here it is the run's own: "
                "leave it empty (another checkpoint is named by CHECKPOINT=path)."
            )
    if step != "train":
        values["checkpoint"] = checkpoint
    return check(step, values, path).model_dump()


def _unfinished(path: str) -> tuple[Path, Steps]:
    """The folder of a run, and the recorded steps that have no page. Their outputs are deleted."""
    folder, steps = files.resolve(path, "run").resolve(), {}
    recorded = {step: folder / f"{step}.params.yaml" for step in NOTEBOOKS}
    recorded = {step: file for step, file in recorded.items() if file.is_file()}
    for step, file in recorded.items():
        if not (folder / f"{NOTEBOOKS[step]}.html").is_file():
            values = {"run_dir": "", **params.read_yaml(file)}
            steps[step] = check(step, values, files.display_path(file)).model_dump()
    if not recorded:
        raise InputError(f"{path} cannot be resumed because it records no parameters of a run.")
    if not steps:
        raise InputError(f"{path} cannot be resumed because it is complete.")
    training = folder / f"{NOTEBOOKS['train']}.ipynb"
    if training.is_file() and "fluxttice" in nbformat.read(training, as_version=4).metadata:
        raise InputError(f"{path} cannot be resumed because its training missed a bound.")
    for step in steps:
        for pattern in (f"{NOTEBOOKS[step]}.*", *OUTPUTS.get(step, ())):
            for left in folder.glob(pattern):
                files.delete(left)
    return folder, steps


def execute(step: str, parameters: dict[str, Any], folder: Path) -> None:
    """Run the notebook of `step` into `folder`, and export its page.

    Raises:
        ThresholdMissed: the notebook ran to its end and failed its verdict; its page says so.
        StepFailed: a cell raised another error, or the kernel died; NAME.unfinished.html shows it.
    """
    name, missed = NOTEBOOKS[step], ""
    draft = folder / f"{name}{UNFINISHED}.ipynb"
    print(f"\n── {name} → {files.display_path(folder)}", flush=True)
    try:
        _papermill(name, {**parameters, "run_dir": files.relative_to_root(folder)}, draft)
    except PapermillExecutionError as error:
        missed = " ".join(error.evalue.split())
        if error.ename != ThresholdMissed.__name__:
            export_html(draft)
            raise StepFailed(f"{name} stopped: {error.ename}: {missed}") from None
        _keep_verdict(draft, missed)
    except RuntimeError:  # from nbclient: a DeadKernelError, or one before the first cell
        export_html(draft)
        died = "its kernel died. It was killed, or there was too little memory"
        raise StepFailed(f"{name} stopped: {died}.") from None
    page = export_html(draft)
    draft.rename(folder / f"{name}.ipynb")
    page.rename(folder / f"{name}.html")
    if missed:
        raise ThresholdMissed(f"{name} missed a bound: {missed}")


def _keep_verdict(path: Path, missed: str) -> None:
    """Make a notebook that ended in ThresholdMissed a finished one, and record the sentence."""
    book = remove_error_markers(nbformat.read(path, as_version=4))
    for about in (book.metadata, *(cell.metadata for cell in book.cells)):
        about.get("papermill", {}).pop("exception", None)
    book.metadata["fluxttice"] = {"missed": missed}
    files.write_bytes(path, nbformat.writes(book).encode())


def export_html(path: Path) -> Path:
    """One self-contained HTML file beside the notebook: images inside, nothing from the network."""
    exporter = HTMLExporter(
        config=Config({"CoalesceStreamsPreprocessor": {"enabled": True}}), embed_images=True,
        template_name="fluxttice", extra_template_basedirs=[str(TEMPLATES)],
    )  # fmt: skip
    title = {"metadata": {"name": f"fluxttice: {path.stem.removesuffix(UNFINISHED)}"}}
    html, _ = exporter.from_notebook_node(nbformat.read(path, as_version=4), title)
    target = path.with_suffix(".html")
    files.write_bytes(target, html.encode())
    return target


def _papermill(name: str, parameters: dict[str, Any], target: Path) -> None:
    """papermill of notebooks/NAME.ipynb from the repository's root; cell output is printed.

    The kernel talks through sockets in a private folder, because kernels side by side would race
    for TCP ports. An interrupted kernel has a minute to write the weights that training selected.
    """
    for logger in ("papermill", "traitlets", "asyncio"):  # our own sentences say it
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(
        prefix="fluxttice-", dir=files.sockets_place(), ignore_cleanup_errors=True
    ) as place:
        sockets = {"transport": "ipc", "ip": f"{place}/kernel", "shutdown_wait_time": 60,
                   "connection_file": f"{place}/kernel.json"}  # fmt: skip
        papermill.execute_notebook(
            str(files.root() / f"notebooks/{name}.ipynb"), str(target), parameters=parameters,
            kernel_name="python3", progress_bar=False, stdout_file=sys.stdout,
            config=Config({"KernelManager": sockets}), kernel_manager_class=kernel.Manager,
            cwd=str(files.root()),
        )  # fmt: skip
