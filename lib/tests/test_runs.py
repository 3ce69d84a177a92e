"""What a run says of itself, and what is left of it, whatever ends it: real jobs, really ended."""

import contextlib
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
from planted import notebook

from benchmarks.kills import FLUXTTICE, SMALL, others
from fluxttice_core import files, params
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.errors import InputError
from fluxttice_core.report import job, status

# A notebook that trains nothing, in a repository of its own: what ends a job is the job's business.
CELLS = "import time\nwhile True:\n    print('selected:')\n    time.sleep(0.1)", "seed"
IN_PLACE = "from fluxttice_core import cli, files; files.root = files.Path.cwd; exit(cli.main())"


class Job:
    """`fluxttice report` in a process of its own, with all it starts: a small training, or
    `stand_in` for the notebook."""

    def __init__(self, folder: Path, stand_in: bool) -> None:
        self.temporary = Path(tempfile.mkdtemp())  # short, or sockets in it have no room
        self.reports = folder / "reports"
        values = params.read_yaml(files.root() / "params" / "train.yaml") | SMALL
        params.record(folder, "train", values)
        places = {"TMPDIR": str(self.temporary), "FLUXTTICE_REPORTS": str(self.reports)}
        command = [FLUXTTICE]
        if stand_in:
            command = [sys.executable, "-c", IN_PLACE]
            notebook(folder / "notebooks/1_train.ipynb", *CELLS)
            (folder / "params").symlink_to(files.root() / "params")
        self.process = subprocess.Popen(
            [*command, "report", "--train", folder / "train.params.yaml"], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | places,
            cwd=folder if stand_in else None,
            # As from a terminal: tests in the background start with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
        return [one for one in others(self.reports) if one.pid != self.process.pid]

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
def running(tmp_path, request):
    """A job in the middle of its first notebook, ended whatever the test comes to."""
    job = Job(tmp_path, stand_in=getattr(request, "param", False))
    job.until("selected:")
    yield job
    for process in [job.process, *job.others()]:
        process.kill()
    with job.process:
        pass  # its pipes are closed


def kernel(running: Job) -> psutil.Process:
    return next(p for p in running.others() if "ipykernel_launcher" in " ".join(p.cmdline()))


INTERRUPTED = "1_train was interrupted. make report RESUME="
ENDS = {  # how it is ended, what it says, and what the folder then says
    "SIGTERM": (lambda running: running.process.terminate(), INTERRUPTED, "interrupted"),
    "Ctrl-C": (lambda running: running.process.send_signal(signal.SIGINT), INTERRUPTED,
               "interrupted"),
    "a closed pipe": (lambda running: running.process.stdout.close(),
                      "interrupted: its output cannot be written (Broken pipe).", "interrupted"),
    "a dead kernel": (lambda running: kernel(running).kill(),
                      "1_train stopped: its kernel died without a word.", "failed"),
    "a deleted folder": (lambda running: shutil.rmtree(running.folder),
                         "was moved or deleted.", None),
}  # fmt: skip


@pytest.mark.parametrize(
    "running, name", [(name != "SIGTERM", name) for name in ENDS], ids=ENDS, indirect=["running"]
)
def test_whatever_ends_a_run_is_one_sentence_and_leaves_what_it_had_alone(running, name):
    end, sentence, state = ENDS[name]
    while name == "SIGTERM" and not (running.folder / "epochs" / "epoch-000").exists():
        time.sleep(0.1)
    with pytest.raises(InputError, match="being run now, by another process"):
        job.run("", "", "", resume=str(running.folder))
    assert status.read(running.folder).state == "running"
    end(running)
    assert sentence in running.said()
    if state is None:
        return
    found = status.read(running.folder)
    assert (found.state, found.steps) == (state, {"train": state})
    assert f'"state":"{state}"' in (running.reports / "index.html").read_text("utf-8")
    assert f"{state.title()}.</b>" in (running.folder / "1_train.html").read_text("utf-8")
    cells = nbformat.read(running.folder / "1_train.ipynb", as_version=4).cells
    assert f"{state.title()}.</b>" in cells[0].source
    states = [cell.metadata.papermill.status for cell in cells[1:]]
    assert states.count("failed") == 1 and states[-1] == "pending"
    if name == "SIGTERM":
        assert checkpoints.load(running.folder / "checkpoint").epoch is not None


def test_a_killed_job_reads_as_interrupted_and_the_next_one_tidies_up(running, monkeypatch):
    """Nobody is left to write it, but nobody holds the folder either."""
    [draft] = running.folder.glob(".*")
    while time.time() - draft.stat().st_mtime < 1:  # papermill is writing it: no page of a half
        time.sleep(0.1)
    running.process.kill()
    running.process.wait()
    while running.others():
        time.sleep(0.1)
    assert status.stored(running.folder).state == "running"
    assert status.read(running.folder).state == "interrupted"
    [left] = running.temporary.iterdir()  # the kernel's folder for temporary files
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(running.reports))
    monkeypatch.setattr(tempfile, "tempdir", str(running.temporary))
    alive = running.temporary / f"{job.LEFT}is_alive"
    other = running.temporary / "fluxttice-others"  # a user's, called much like ours
    alive.mkdir()
    other.mkdir()
    for held in (True, False):
        with status.held(alive) if held else contextlib.nullcontext(), pytest.raises(InputError):
            job.run("none.yaml", "", "")
        assert alive.exists() == held and not left.exists() and not draft.exists()
        assert other.exists()
    assert "<b>Interrupted.</b>" in (running.folder / "1_train.html").read_text("utf-8")
