"""What a run says of itself, and what is left of it, whatever ends it: real jobs, really ended."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from fluxttice_core import files, params
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.errors import InputError
from fluxttice_core.report import job, status

FLUXTTICE = Path(sys.executable).with_name("fluxttice")
SMALL = {"epochs": 2, "keep_every": 1, "min_score": 0, "batch_size": 4096, "prior_size": 512,
         "settle_steps": 10}  # fmt: skip


class Job:
    """`fluxttice report` of a small training in a process of its own, with all it starts."""

    def __init__(self, folder: Path, *words: str, **changes: object) -> None:
        self.temporary = Path(tempfile.mkdtemp())  # short, or sockets in it have no room
        self.reports = folder / "reports"
        values = params.read_yaml(files.root() / "params" / "train.yaml") | SMALL | changes
        files.record_params(folder, "train", values)
        self.environment = {**os.environ, "TMPDIR": str(self.temporary),
                            "FLUXTTICE_REPORTS": str(self.reports)}  # fmt: skip
        self.process = subprocess.Popen(
            [FLUXTTICE, "report", "--train", folder / "train.params.yaml", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
        )  # fmt: skip

    @property
    def folder(self) -> Path:
        return next(self.reports.glob("*/*/")).resolve()

    def until(self, words: str) -> None:
        """Wait until it has said that."""
        for line in self.process.stdout:
            if words in line:
                return
        raise AssertionError(self.process.stderr.read())

    def others(self) -> list[psutil.Process]:
        """Processes of this job that are not the job: kernel and workers."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("FLUXTTICE_REPORTS") == str(self.reports)
            except psutil.Error:
                continue
            if mine and process.pid != self.process.pid and process.status() != "zombie":
                found.append(process)
        return found

    def said(self) -> str:
        """What it says on standard error once it has ended, as it must: in one sentence, with
        nothing left running and nothing left lying."""
        error = self.process.communicate(timeout=120)[1]
        for _ in range(50):
            if not self.others():
                break
            time.sleep(0.1)
        assert not self.others()
        assert not list(self.temporary.rglob("*"))
        assert not list(self.reports.glob("*/*/.*")), "a draft stayed behind"
        assert self.process.returncode == 1 and error.count("\n") == 1, error
        return error


@pytest.fixture
def start(tmp_path):
    """Starts jobs, and ends them whatever the test comes to."""
    started = []

    def go(*words, **changes):
        started.append(Job(tmp_path, *words, **changes))
        return started[-1]

    yield go
    for each in started:
        for process in [each.process, *each.others()]:
            process.kill()


def banner(folder: Path, state: str, notebook: str = "1_train") -> bool:
    """Whether page and notebook say on top what they are of."""
    book = nbformat.read(folder / f"{notebook}.ipynb", as_version=4)
    page = (folder / f"{notebook}.html").read_text("utf-8")
    return f"{state}.</b>" in book.cells[0].source and f"{state}.</b>" in page


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_keeps_weights_and_page_says_so_and_goes_on(start, number):
    ended = start(epochs=500)
    ended.until("selected:")
    while not (ended.folder / "epochs" / "epoch-001").exists():
        time.sleep(0.1)
    with pytest.raises(InputError, match="being run now, by another process"):
        job.run("", "", "", resume=str(ended.folder))
    assert status.read(ended.folder).state == "running"
    ended.process.send_signal(number)
    assert "1_train was interrupted. make report RESUME=" in ended.said()
    found = status.read(ended.folder)
    assert (found.state, found.steps) == ("interrupted", {"train": "interrupted"})
    assert checkpoints.load(ended.folder / "checkpoint").epoch >= 1
    assert banner(ended.folder, "Interrupted")
    cells = nbformat.read(ended.folder / "1_train.ipynb", as_version=4).cells
    states = [cell.metadata.papermill.status for cell in cells[1:]]
    assert states.count("failed") == 1 and states[-1] == "pending"
    assert "Interrupted" not in (ended.reports / "index.html").read_text("utf-8")
    assert '"state":"interrupted"' in (ended.reports / "index.html").read_text("utf-8")


def kill_the_kernel(running: Job) -> None:
    next(p for p in running.others() if "ipykernel_launcher" in " ".join(p.cmdline())).kill()


ENDS = {
    "a dead kernel": (kill_the_kernel, "1_train stopped: its kernel died.", "failed"),
    "a closed pipe": (lambda running: running.process.stdout.close(),
                      "1_train was interrupted: its output cannot be written (Broken pipe).",
                      "interrupted"),
    "a deleted folder": (lambda running: shutil.rmtree(running.folder),
                         "was moved or deleted.", None),
}  # fmt: skip


@pytest.mark.parametrize("end, sentence, state", ENDS.values(), ids=ENDS)
def test_whatever_ends_a_run_is_one_sentence_and_leaves_nothing_behind(start, end, sentence, state):
    running = start(epochs=500)
    running.until("selected:")
    end(running)
    assert sentence in running.said()
    if state:
        assert status.read(running.folder).state == state
        assert banner(running.folder, state.title())
