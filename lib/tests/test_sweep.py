"""Sweeps: nothing is computed twice or lost, and a cluster gives the same bytes."""

import json
import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from fluxttice_core import files, parallel
from fluxttice_core.errors import InputError
from fluxttice_core.report import evidence
from fluxttice_core.sweep import key, path, read, stored_rows, sweep

POINTS = [{"n": n} for n in (3, 1, 2)]


class Here:
    """An executor in this process that counts what it computes."""

    def __init__(self):
        self.done = []

    def submit(self, function, point):
        self.done.append(point["n"])
        future = parallel.Future()
        try:
            future.set_result(function(point))
        except Exception as error:
            future.set_exception(error)
        return future


def tenths(point):
    return [{"n": point["n"], "tenths": point["n"] / 10, "vae": vae} for vae in "AB"]


@pytest.fixture(autouse=True)
def folder(project):
    (project / "reports").mkdir()
    return project


def test_rows_are_in_the_order_of_the_points_and_read_back_to_the_bit():
    found = sweep("tenths", tenths, POINTS, Here())
    assert [*found.n] == [3, 3, 1, 1, 2, 2] and [*found.tenths[::2]] == [0.3, 0.1, 0.2]
    pd.testing.assert_frame_equal(found, stored_rows("tenths", POINTS))
    assert [*found.key[::2]] == [key(point) for point in POINTS]
    assert (
        stored_rows("tenths", POINTS[:1]).n.tolist() == [3, 3]
        and stored_rows("tenths", [{"n": 4}]) is None
    )


def test_what_is_stored_is_not_computed_again_but_after_a_change_of_code(monkeypatch):
    """What no point asks for any more is removed."""
    sweep("tenths", tenths, [*POINTS, {"n": 9}], Here())
    sweep("tenths", tenths, [*POINTS, {"n": 4}], here := Here())
    assert here.done == [4] and {*read("tenths").n} == {1, 2, 3, 4}
    before = path("tenths").read_bytes()
    sweep("tenths", tenths, [*POINTS, {"n": 4}], here)
    assert here.done == [4] and path("tenths").read_bytes() == before
    monkeypatch.setattr(files, "code_hash", lambda *_: "another")
    assert stored_rows("tenths", POINTS) is None
    sweep("tenths", tenths, POINTS, here)
    assert here.done == [4, 3, 1, 2] and {*read("tenths").key} == {key(p) for p in POINTS}


def test_a_column_of_removed_rows_alone_is_removed_with_them():
    sweep("tenths", lambda point: [{**point, "old": 1}], [{"n": 9}], Here())
    sweep("tenths", tenths, POINTS, Here())
    assert {*read("tenths")} == {"n", "tenths", "vae", "key"}


def test_a_failed_point_is_told_at_the_end_and_the_others_are_stored():
    def failing(point):
        return tenths(point) if point["n"] != 1 else 1 / 0

    sweep("tenths", tenths, [{"n": 9}], Here())
    with pytest.raises(InputError, match=r"^1 of 3 points failed.*: Zero.* at {'n': 1}"):
        sweep("tenths", failing, POINTS, Here())
    assert {*read("tenths").n} == {9, 3, 2}  # nothing is removed before all points are done
    sweep("tenths", tenths, POINTS, here := Here())
    assert here.done == [1] and [*read("tenths").n[::2]] == [3, 1, 2]


def test_a_killed_worker_ends_the_sweep_and_loses_nothing():
    sweep("tenths", tenths, POINTS, Here())
    with (
        pytest.raises(InputError, match="A worker process was killed"),
        parallel.executor() as workers,
    ):
        sweep("tenths", killed, [*POINTS, {"n": 4}], workers)
    assert len(stored_rows("tenths", POINTS)) == 6


def killed(point):
    os._exit(1)


@pytest.fixture
def cluster(tmp_path):
    """A real Dask scheduler with a real worker; its address and its process."""
    place = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    ends = ["--scheduler-file", str(place)]
    words = [["scheduler", "--port=0", "--no-dashboard"], ["worker", "--no-nanny", "--nthreads=2"]]
    started = [
        subprocess.Popen([*dask[:2], dask[2] + one[0], *one[1:], *ends], cwd=tmp_path, **silent)
        for one in words
    ]
    try:
        while not (place.is_file() and place.read_bytes()[-1:] == b"}"):
            assert started[0].poll() is None
            time.sleep(0.1)
        yield json.loads(place.read_bytes())["address"], started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_cluster_trains_the_same_bytes_as_this_machine(cluster):
    """Two trainings, by a worker that has two threads; then the scheduler is lost."""
    small = {"epochs": 1, "batch_size": 4_000, "coverage_n": 500, "finetune_steps": 10}
    wanted = [point for point in evidence.plan() if point["recipe"] in ("default", "v5.5")][::5]
    for point in wanted:
        known = point["parameters"]
        known |= {name: value for name, value in small.items() if name in known}
        point["k"] = 400_000
    tables = []
    for scheduler in ("", cluster[0]):
        with parallel.executor(scheduler) as workers:
            sweep("evidence", evidence.train, wanted, workers, evidence.PACKAGES)
        tables.append(path("evidence").read_bytes())
        path("evidence").unlink()
    assert tables[0] == tables[1] and tables[0].count(b"\n") == 1 + 2 * len(wanted)

    for process in cluster[1]:
        process.kill()
    with (
        pytest.raises(InputError, match=rf"scheduler .*at {cluster[0]}"),
        parallel.executor(cluster[0]) as workers,
    ):
        workers.submit(abs, -1).result()
