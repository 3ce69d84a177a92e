"""What a run says of itself, and what is left of it, whatever ends it: real jobs, really ended."""

import contextlib
import os
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

    def others(self) -> list[psutil.Process]:
        """Processes of this job that are not the job: kernel and workers."""
        return [one for one in others(self.reports) if one.pid != self.process.pid]


@pytest.fixture
def running(tmp_path, request):
    """A job in the middle of its first notebook, ended whatever the test comes to."""
    job = Job(tmp_path, stand_in=getattr(request, "param", False))
    if not any("selected:" in line for line in job.process.stdout):
        pytest.fail(job.process.stderr.read())
    yield job
    for process in [job.process, *job.others()]:
        process.kill()
    with job.process:
        pass  # its pipes are closed


INTERRUPTED = "1_train was interrupted. make report RESUME="
ENDS = {
    "SIGTERM": (lambda job: job.terminate(), INTERRUPTED),
    "Ctrl-C": (lambda job: job.send_signal(signal.SIGINT), INTERRUPTED),
    "a closed pipe": (lambda job: job.stdout.close(), "its output cannot be written (Broken pipe)"),
}


@pytest.mark.parametrize(
    "running, name", [(name != "SIGTERM", name) for name in ENDS], ids=ENDS, indirect=["running"]
)
def test_whatever_ends_a_run_is_one_sentence_and_leaves_what_it_had_alone(running, name):
    end, sentence = ENDS[name]
    while name == "SIGTERM" and not (running.folder / "epochs" / "epoch-000").exists():
        time.sleep(0.1)
    with pytest.raises(InputError, match="being run now, by another process"):
        job.run("", "", "", resume=str(running.folder))
    assert status.read(running.folder).state == "running"
    end(running.process)
    error = running.process.communicate(timeout=120)[1]
    assert running.process.returncode == 1 and sentence in error and error.count("\n") == 1, error
    for _ in range(50):
        if not running.others():
            break
        time.sleep(0.1)
    assert not running.others()
    assert not list(running.temporary.rglob("*"))
    assert not list(running.reports.glob("*/*/.*")), "a draft stayed behind"
    found = status.read(running.folder)
    assert (found.state, found.steps) == ("interrupted", {"train": "interrupted"})
    assert '"state":"interrupted"' in (running.reports / "index.html").read_text("utf-8")
    assert "Interrupted.</b>" in (running.folder / "1_train.html").read_text("utf-8")
    cells = nbformat.read(running.folder / "1_train.ipynb", as_version=4).cells
    assert "Interrupted.</b>" in cells[0].source
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
