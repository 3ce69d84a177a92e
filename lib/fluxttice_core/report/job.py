"""The main job: the three notebooks through papermill into one dated folder, then HTML."""

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import papermill
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from .. import files, params
from ..checkpoints import folder as checkpoints
from ..errors import InputError, printable
from . import index, pages, status
from .preamble import check
from .status import State

NOTEBOOKS = {"train": "1_train", "benchmark": "2_benchmark", "certify": "3_certify"}
WRITTEN_ONCE = {"train": ("checkpoint", "epochs"), "benchmark": (), "certify": ("certified",)}
LEFT = ".fluxttice-scratch-"  # and eight letters: our temporary folders
# A kernel that is asked to end waits for every child of its own, and the tracker beside the pool's
# server heeds no signal. Nothing is left to do by then, so the kernel ends itself at once.
END = "get_ipython().observe(lambda _: __import__('os')._exit(0), 'exit_now')"
KERNEL = ("--IPKernelApp.log_level=CRITICAL", f"--IPKernelApp.exec_lines={END}")


class StepFailed(InputError):
    """A notebook stopped with an error; the message is one sentence."""


def run(
    train: str, benchmark: str, certify: str, checkpoint: str = "", name: str = "report",
    resume: str = "",
) -> Path:  # fmt: skip
    """Execute the notebooks into a new reports/<UTC date>/<HHMMSS>-<name>/; return that folder.

    Each has a parameter file, and all are checked before anything starts. With a `checkpoint`
    nothing is trained: the other two notebooks measure and certify it. With `resume`, a run's
    folder, that run goes on with what is not complete, by the parameters it recorded.

    Nothing follows a training that failed; a benchmark that failed keeps nothing from running.

    Raises:
        InputError: a bad parameter or name, a missing checkpoint, an unwritable folder, nothing to
            resume.
        StepFailed: notebooks stopped; what they left is in the folder.
        KeyboardInterrupt: Ctrl-C, SIGTERM, or nobody reads the output any more; what there was
            until then is in the folder.
    """
    sweep()
    if resume:
        folder, values, done = _recorded(resume)
    elif not re.fullmatch(r"[\w.+-]+", name):
        raise InputError(f"name is {name!r}, but must be letters, digits and any of . _ + -.")
    else:
        paths = {"train": train, "benchmark": benchmark, "certify": certify}
        if checkpoint:
            del paths["train"]
            checkpoint = files.local(files.existing(checkpoint).resolve())
            checkpoints.load(checkpoint)  # what is none is told before anything runs
        values = {step: _checked(step, path, checkpoint) for step, path in paths.items()}
        folder, done = files.run_folder("", name), {}
    for step, each in values.items():
        each["run_dir"] = files.local(folder)
        if step != "train" and "train" in values:
            each["checkpoint"] = files.local(folder / "checkpoint")
    with status.held(folder), contextlib.chdir(files.root()):  # records hold the project's paths
        _steps(folder, values, done)
    return folder


def sweep() -> None:
    """Tidy up after jobs that were killed: pages of how far they came, no drafts, no keys."""
    for run in files.reports_folder().glob("*/*/"):
        with contextlib.suppress(InputError), status.held(run):
            found = status.stored(run)
            killed = found is not None and found.state == "running"
            for draft in run.glob(".*.running.ipynb") if killed else ():
                target = run / draft.name.replace(".running", "")[1:]
                pages.write(draft, target, "interrupted", f"{target.stem} was killed.")
                draft.unlink()
            for draft in run.rglob(f".*{files.DRAFT}"):
                files.delete(draft)
    for place in Path(tempfile.gettempdir()).glob(f"{LEFT}????????/"):
        with contextlib.suppress(InputError, OSError), status.held(place):  # or another user's
            files.delete(place)


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A temporary folder. If this process is killed, the next run deletes it."""
    made = tempfile.TemporaryDirectory(prefix=LEFT, ignore_cleanup_errors=True)
    with made as folder, status.held(Path(folder)):
        yield folder


def _steps(folder: Path, values: dict[str, dict], done: dict[str, State]) -> None:
    """Run what is not `done`, and say in the folder what became of it, whatever ends it."""
    state: State = "failed"
    steps: dict[str, State] = {}
    problems: list[str] = []
    try:
        for step, given in values.items():  # at once, so that a resumed run has all of them
            params.record(folder, step, given)
        for step, given in values.items():
            if done.get(step) == "complete":
                continue
            try:
                _set_aside(folder, step)
                status.write(folder, "running", {**steps, step: "running"})
                steps[step] = "failed"
                execute(NOTEBOOKS[step], given, given["run_dir"])
                steps[step] = "complete"
            except OSError as error:
                why = f"{error.filename or folder}: {error.strerror or error}"
                why = why if folder.is_dir() else f"{folder} was moved or deleted"
                problems.append(f"{NOTEBOOKS[step]} stopped: {why}.")
            except InputError as error:
                problems.append(str(error))
            if problems and (step == "train" or not folder.is_dir()):
                break
        if problems:
            raise StepFailed(" ".join(problems))
        state = "complete"
    except KeyboardInterrupt as interrupt:
        steps[step] = state = "interrupted"
        problems = [str(interrupt) or f"{NOTEBOOKS[step]} was interrupted."]
        go_on = f"make report RESUME={files.local(folder)} goes on with it."
        raise KeyboardInterrupt(f"{problems[0]} {go_on}") from None
    finally:
        with contextlib.suppress(InputError):  # the folder is gone: that was said already
            status.write(folder, state, steps, " ".join(problems))
        index.write()


def _recorded(path: str) -> tuple[Path, dict[str, dict], dict[str, State]]:
    """The folder of a run that is not complete, its parameters by notebook, and what each of them
    came to."""
    folder = files.existing(path, "run").resolve()
    found = status.read(folder)
    if found is None or found.state == "complete":
        why = "it has no status.json" if found is None else "it is complete"
        raise InputError(f"{path} cannot be resumed: {why}.")
    values = {}
    for step in NOTEBOOKS:
        where = folder / f"{step}.params.yaml"
        if where.is_file():
            recorded = {"run_dir": "", **params.read_yaml(where)}
            values[step] = check(step, recorded, files.shown(where)).model_dump()
    return folder, values, found.steps


def _set_aside(folder: Path, step: str) -> None:
    """What an attempt at `step` left, and a second one would refuse to write over."""
    left = [folder / name for name in WRITTEN_ONCE[step] if (folder / name).exists()]
    if left:
        aside = files.fresh(folder / "interrupted")
        for path in left:
            path.rename(aside / path.name)


def _checked(step: str, path: str, checkpoint: str) -> dict:
    values = params.read_yaml(files.find(path))
    for name in ("run_dir", "checkpoint"):
        if values.get(name):
            raise InputError(
                f"{path}: {name} is set, but here it is the run's own: "
                "leave it empty (another checkpoint is named by CHECKPOINT=path)."
            )
    if step != "train":
        values["checkpoint"] = checkpoint
    return check(step, {"run_dir": "", **values}, path).model_dump()


def execute(notebook: str, parameters: dict, run_dir: str) -> None:
    """Run one notebook into `run_dir`, export it to HTML, refuse a run that is not complete.

    Raises:
        StepFailed: it stopped; its pages show how far it came.
        OSError: the folder is gone, or the disk is full.
        KeyboardInterrupt: with a sentence; the pages say that they are of an interrupted run.
    """
    folder = Path(run_dir)
    target, draft = folder / f"{notebook}.ipynb", folder / f".{notebook}.running.ipynb"
    said = _Said(folder)
    try:
        said.write(f"\n── {notebook} → {files.shown(folder)}\n")
        execute_quietly(notebook, parameters, draft, said)
        pages.write(draft, target)
        problem = pages.incomplete(target)
    except StepFailed as error:
        problem = str(error)
        pages.write(draft, target, "failed", problem)
    except KeyboardInterrupt:
        reason = f"{notebook} was interrupted{said.why}."
        pages.write(draft, target, "interrupted", reason)
        raise KeyboardInterrupt(reason) from None
    finally:
        draft.unlink(missing_ok=True)
    if problem:
        raise StepFailed(problem)


class _Kernel(AsyncKernelManager):
    """Its standard error goes to a file: its libraries say things as it ends that are nobody's."""

    async def start_kernel(self, **named: Any) -> None:
        with open(f"{self.ip}.stderr", "wb") as said:
            await super().start_kernel(stderr=said, **named)


class _Said:
    """Standard output, where the end of a reader (`| head`) or of the run folder is an interrupt
    at once; papermill would notice at the end of the cell, and saved weights make a new folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.why = folder, ""
        self.place = folder.stat()

    def write(self, text: str) -> None:
        try:
            print(text, end="", flush=True)
        except OSError as error:
            self.why = f": its output cannot be written ({error.strerror})"
        if not (self.folder.exists() and os.path.samestat(self.folder.stat(), self.place)):
            self.why = f": {self.folder} was moved or deleted"
        if self.why:
            raise KeyboardInterrupt

    def flush(self) -> None:
        """Every write is."""


def execute_quietly(notebook: str, parameters: dict, target: Path, output: _Said | None) -> None:
    """papermill of notebooks/<notebook>.ipynb, cell output to `output`, without its warnings.

    It warns of parameters that the notebook's cell lacks (the other recipes'; the notebook itself
    checks all of them). The kernel talks through sockets in a private folder: kernels side by side
    would race for TCP ports (papermill issues 239 and 511). That folder is the kernel's for
    temporary files, too, so that one that is killed leaves no key behind. An interrupted kernel
    has a minute to write the weights that training had selected.

    Raises:
        StepFailed: a cell raised an error, or the kernel died; its last words are in the message.
    """
    for name in ("papermill", "traitlets", "asyncio"):  # what they say of an end, `execute` says
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with scratch() as folder, mock.patch.dict(os.environ, TMPDIR=folder):
        place = str(Path(folder, "kernel"))
        kernel = {"transport": "ipc", "ip": place, "connection_file": f"{place}.json",
                  "shutdown_wait_time": 60}  # fmt: skip
        try:
            papermill.execute_notebook(
                f"notebooks/{notebook}.ipynb", str(target), parameters=parameters,
                kernel_name="python3", progress_bar=False, stdout_file=output,
                config=Config({"KernelManager": kernel}), kernel_manager_class=_Kernel,
                extra_arguments=[*KERNEL],
            )  # fmt: skip
        except PapermillExecutionError as error:
            why = " ".join(error.evalue.split())
            raise StepFailed(f"{notebook} stopped: {error.ename}: {why}") from None
        except RuntimeError:  # DeadKernelError, and what nbclient raises before the first cell
            said = Path(f"{place}.stderr").read_text("utf-8", "replace")
            last = said.strip().rpartition("\n")[2]
            why = f"({printable(last)})" if last else "without a word"
            raise StepFailed(f"{notebook} stopped: its kernel died {why}.") from None
