"""Real runs in processes of their own, really ended: one sentence, and nothing half-written."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from fluxttice_core import files, params
from fluxttice_core.checkpoints import folder as checkpoints

FLUXTTICE = Path(sys.executable).with_name("fluxttice")
SMALL = {"epochs": 500, "keep_every": 1, "min_score": 0, "batch_size": 4096, "prior_size": 512,
         "finetune_steps": 10}  # fmt: skip


def processes(reports: Path) -> list[psutil.Process]:
    """Everything that runs with this reports folder: the run, its kernel and its workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = process.environ().get("FLUXTTICE_REPORTS") == str(reports)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def temporary(request):
    """TMPDIR: a short path, or one that is too long for a socket in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short, getattr(request, "param", ""))
        folder.mkdir(exist_ok=True)
        yield folder


@pytest.fixture
def running(tmp_path, reports, temporary):
    """`fluxttice report` in the middle of a real training."""
    values = params.read_yaml(files.root() / "params" / "train.yaml") | SMALL
    params.record(tmp_path, "train", values)
    run = subprocess.Popen(
        [FLUXTTICE, "report", "--train", tmp_path / "train.params.yaml"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONIOENCODING": "ascii"},
        # As from a terminal: in the background, tests start with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    if not any("selected:" in line for line in run.stdout):
        pytest.fail(run.stderr.read())
    folder = next(reports.glob("*/*/")).resolve()
    while not (folder / "epochs" / "epoch-000").exists():
        time.sleep(0.1)
    yield run, folder
    for process in processes(reports):
        process.kill()
    run.communicate()


@pytest.mark.parametrize(
    "name, temporary",
    [("SIGINT", "long" * 20), ("SIGTERM", ""), ("SIGKILL", "")],
    indirect=["temporary"],
)
def test_an_ended_run_says_unfinished_by_its_names(running, name, reports, temporary):
    run, folder = running
    run.send_signal(signal.Signals[name])
    error = run.communicate(timeout=120)[1]
    ended = time.monotonic()
    while processes(reports) and time.monotonic() < ended + 10:
        time.sleep(0.1)
    assert not processes(reports)
    left = {path.name for path in folder.iterdir()}
    recorded = {f"{step}.params.yaml" for step in ("train", "benchmark", "certify")}
    expected = {*recorded, "1_train.unfinished.ipynb", "epochs"}
    if name == "SIGKILL":
        assert left - {"checkpoint"} == expected and not error
        assert len([*temporary.iterdir()]) <= 1, "more than one folder of sockets stayed behind"
    else:
        assert not [*temporary.iterdir()]
        assert left == {*expected, "checkpoint"}
        assert checkpoints.load(folder / "checkpoint").epoch is not None
        assert error.startswith("fluxttice: 1_train was interrupted. make report RESUME=")
        assert error.count("\n") == 1 and run.returncode == 1
        assert "unfinished" in (reports / "index.html").read_text("utf-8")
    assert not [path for path in folder.rglob(".*") if path.is_file()], "a draft stayed behind"
