"""Many runs: the same bytes whoever computes them, whatever is killed, fails or is interrupted."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planted import notebook

from fluxttice_core import cli, files
from fluxttice_core.errors import InputError
from fluxttice_core.report import batch

NOTEBOOKS = files.root() / "notebooks"
# Its kernel is the worker's child. Seed 2 kills the worker once; seed 3 fails, every time; seed 4
# kills the scheduler.
CELLS = """
import os, pathlib, signal
mark = pathlib.Path({place!r}, f"{{seed}} killed its worker")
if seed == 2 and not mark.exists():
    mark.touch()
    os.kill(os.getppid(), signal.SIGKILL)
if seed == 4:
    os.kill(int(pathlib.Path({place!r}, "scheduler").read_text()), signal.SIGKILL)
assert seed != 3, "three is no good"
pathlib.Path(run_dir, "deep").mkdir()
pathlib.Path(run_dir, "deep", "rows").write_text(f"{{seed * 7}} {{lr}}")
"""


@pytest.fixture
def project(project):
    """A repository whose notebook takes a second."""
    notebook(project / "notebooks/1_train.ipynb", CELLS.format(place=str(project)))
    return project


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
        while not ((file := place / "scheduler.json").is_file() and file.read_bytes()[-1:] == b"}"):
            assert started[0].poll() is None
            time.sleep(0.1)
        yield files.parse_json((place / "scheduler.json").read_bytes())["address"], started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_batch_survives_a_kill_and_a_failure_and_goes_on(project, monkeypatch, refused):
    monkeypatch.setenv("FLUXTTICE_WORKERS", "2")
    path = plan("a: {seed: [2, 3]}\nb/c: {lr: 0.1}")
    out, said = refused("batch", path)
    assert said.startswith("fluxttice: 1 of 3 jobs failed, the others are stored: a, seed 3 (")
    assert said.count("1_train stopped: AssertionError: three is no good") == 1
    assert out.startswith("3 of 3 jobs to do") and out.count("once more") == 2
    assert "; 0 left, about 0 min" in out and (project / "2 killed its worker").exists()
    folder = assert_stored(project)
    page = (folder / "b-c" / "1_train.html").read_text("utf-8")
    assert "seed" in page and str(project / "reports") not in page
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(batch, "TRIES", 1)
    assert refused("batch", path).out.startswith("1 of 3 jobs to do")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def assert_stored(project):
    """The same bytes whoever computed them, in the one folder of the batch, which is returned."""
    [folder] = (project / "reports").glob("*/*")
    made = {path.parents[1].name: path.read_text() for path in folder.glob("*/deep/rows")}
    assert made == {"a-seed-2": "14 0.008", "b-c": "294 0.1"}
    assert {path.name for path in folder.iterdir()} == {*made, "batch.json"}
    return folder


def test_dask_runs_elsewhere_what_a_killed_worker_had(project, monkeypatch, refused, scheduler):
    """By itself: here nothing is tried twice."""
    address, processes = scheduler
    monkeypatch.setattr(batch, "TRIES", 1)
    asked = plan("a: {seed: [2, 3]}\nb/c: {lr: 0.1}"), "--scheduler", address
    assert "1_train stopped: AssertionError: three is no good" in refused("batch", *asked).err
    assert [process.poll() is not None for process in processes].count(True) == 1
    assert_stored(project)


def test_a_scheduler_lost_in_the_middle_is_one_sentence(project, scheduler, capfd):
    address, processes = scheduler
    (project / "scheduler").write_text(str(processes[0].pid))
    assert cli.main(["batch", plan("a: {seed: [4, 5]}"), "--scheduler", address]) == 1
    said = capfd.readouterr().err
    assert f"The scheduler at {address} is gone; what was finished is stored" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "must be a plan"), ("[1]", "must be a plan"), ("a: 1", "must be a plan"),
        ("a: {seed: {b: 1}}", "a must be a flat mapping"), ("1: {}", "must be a plan"),
        ("a: {seeds: [1]}", "a: unknown parameter seeds; did you mean seed?"),
        ("a: {seed: [1, x]}", "a: seed "), ("a: {seed: []}", "an empty list makes no job"),
        ("a: {notebook: 5_more}", "notebook is '5_more', but must be one of 1_train, 2_"),
        ("a: {notebook: [1_train]}", "notebook is ['1_train']"),
        ("a: {file: [1]}", "No parameter file at"), ("a: {run_dir: x}", "run_dir is set"),
        ("a b: {}\na/b: {}", "two jobs for the folder a-b"), ("a: {seed: [1, 1]}", "two jobs"),
        ("a: {notebook: 2_benchmark, checkpoint: [x, y]}", "No checkpoint at x"),
        ("a: {notebook: 2_benchmark, checkpoint: }", "checkpoint is empty"),
        ("a: !!x {}", "is not readable as YAML: line 2: "),
    ],
)  # fmt: skip
def test_a_bad_plan_is_one_sentence_and_nothing_starts(project, refused, text, words):
    shutil.copy(NOTEBOOKS / "2_benchmark.ipynb", "notebooks")
    assert words in refused("batch", plan("good: {}\n" * (text[:1] == "a") + text)).err
    assert not Path("reports").exists()


def test_a_grid_is_every_combination_and_what_a_job_reads_travels_with_it(saved):
    given = f"{saved.parent.name}/saved"
    Path(path := saved.parent / "plan.yaml").write_text(
        f"m: {{notebook: 2_benchmark, checkpoint: {saved}, trials: [5, 6], k: [400000, 800000], "
        "ns: [10, 20]}"
    )
    made = batch.jobs(str(path))
    assert [job.name.partition(", ")[2] for job in made] == [
        f"trials {t}, k {k}" for t in (5, 6) for k in (400_000, 800_000)
    ]
    for job in made:
        assert job.parameters["checkpoint"] == given and job.parameters["ns"] == [10, 20]
        assert job.given[f"{given}/model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert len({job.key for job in made}) == 4


def test_a_worker_of_another_version_and_a_scheduler_that_is_not_there_are_refused(
    project, refused, monkeypatch
):
    monkeypatch.setattr(batch, "WAIT", 1)
    [job] = batch.jobs(plan("a: {}"))
    with pytest.raises(InputError, match="another version"):
        batch.perform(job._replace(code="other"))
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        said = refused("batch", "plan.yaml", "--scheduler", address).err
        assert f"No Dask scheduler with workers at {address}" in said
