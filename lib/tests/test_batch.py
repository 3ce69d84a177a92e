"""Many runs: the same bytes whoever computes them, whatever is killed, fails or is interrupted."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from fluxttice_core import cli, files
from fluxttice_core.report import batch

PARAMS = files.root() / "params"
# Its kernel is the worker's child. Seed 2 kills the worker once; seed 3 fails, every time.
CELLS = """
import os, pathlib, signal
mark = pathlib.Path({place!r}, f"{{seed}} killed its worker")
if seed == 2 and not mark.exists():
    mark.touch()
    os.kill(os.getppid(), signal.SIGKILL)
assert seed != 3, "three is no good"
pathlib.Path(run_dir, "deep").mkdir()
pathlib.Path(run_dir, "deep", "rows").write_text(f"{{seed * 7}} {{lr}}")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository whose notebook takes a second: (its folder, what writes a plan)."""
    monkeypatch.setattr(files, "root", lambda: tmp_path)
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    monkeypatch.chdir(tmp_path)
    cells = [
        new_code_cell("# parameters\nseed = 1", metadata={"tags": ["parameters"]}),
        new_code_cell(CELLS.format(place=str(tmp_path))),
    ]
    spec = {"name": "python3", "display_name": "", "language": "python"}
    book = new_notebook(cells=cells, metadata={"kernelspec": spec})
    (tmp_path / "notebooks").mkdir()
    nbformat.write(book, tmp_path / "notebooks/1_train.ipynb")
    (tmp_path / "params").symlink_to(PARAMS)
    return tmp_path


def plan(text: str) -> str:
    Path("plan.yaml").write_text(text)
    return "plan.yaml"


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A real Dask scheduler and two real workers, no one to start a killed one again."""
    place = tmp_path_factory.mktemp("dask")
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    ends = ["--scheduler-file", str(place / "scheduler.json"), "--no-dashboard"]
    worker = ["--no-nanny", "--nthreads=1", "--local-directory", str(place)]
    asked = [["scheduler", "--port=0", *ends], *[["worker", *ends, *worker]] * 2]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [
        subprocess.Popen([*dask[:2], dask[2] + words[0], *words[1:]], **silent) for words in asked
    ]
    try:
        while not (place / "scheduler.json").is_file():
            assert started[0].poll() is None
        yield files.parse_json((place / "scheduler.json").read_bytes())["address"]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("workers", ["1", "2", "dask"])
def test_a_batch_survives_a_kill_and_a_failure_and_goes_on(
    project, monkeypatch, request, capsys, workers
):
    address = request.getfixturevalue("scheduler") if workers == "dask" else ""
    monkeypatch.setenv("FLUXTTICE_WORKERS", workers if workers != "dask" else "1")
    path = plan("a: {seed: [1, 2, 3], lr: [0.01, 0.1]}\nb/c: {seed: 4}")
    assert cli.main(["batch", path, "--scheduler", address]) == 1
    out, said = capsys.readouterr()
    assert said.startswith("fluxttice: 2 of 7 jobs failed, the others are stored: a, seed 3, lr 0.")
    assert said.count("1_train stopped: AssertionError: three is no good") == 2
    assert out.startswith("7 of 7 jobs to do") and out.count("once more") >= 2
    assert "; 0 left, about 0 min" in out and (project / "2 killed its worker").exists()
    [folder] = (project / "reports").glob("*/*")
    made = {path.parents[1].name: path.read_text() for path in folder.glob("*/deep/rows")}
    assert made == {
        "a-seed-1-lr-0.01": "7 0.01", "a-seed-1-lr-0.1": "7 0.1", "a-seed-2-lr-0.01": "14 0.01",
        "a-seed-2-lr-0.1": "14 0.1", "b-c": "28 0.008",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {*made, "batch.json"}
    page = (folder / "b-c" / "1_train.html").read_text("utf-8")
    assert "seed" in page and str(project / "reports") not in page
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(batch, "TRIES", 1)
    assert cli.main(["batch", path, "--scheduler", address]) == 1
    assert capsys.readouterr().out.startswith("2 of 7 jobs to do")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
