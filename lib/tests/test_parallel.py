"""Jobs side by side: in order, alone with what befalls them, and never longer than who asked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from fluxttice_core import parallel
from fluxttice_core.errors import InputError
from fluxttice_core.parallel import Job
from fluxttice_core.params import read_yaml

# Jobs are functions of a module that the workers can import; these are the library's and Python's.


def test_results_keep_the_order_of_the_jobs_whoever_finishes_first():
    said = []
    jobs = [Job(f"{s}", time.sleep, (s,)) for s in (0.3, 0.0)]
    jobs += [Job("pid", os.getpid, ()), Job("threads", torch.get_num_threads, ())]
    jobs += [Job("sum", torch.add, (torch.ones(3), 2.0))]  # tensors pass both ways
    *nothing, pid, threads, total = parallel.each(jobs, said.append)
    assert nothing == [None, None] and pid != os.getpid() and threads == 1
    assert torch.equal(total, torch.full((3,), 3.0))
    assert [line.partition(": done, ")[2][0] for line in said] == ["4", "3", "2", "1", "0"]
    assert sorted(line.partition(":")[0] for line in said) == sorted(job.name for job in jobs)
    assert parallel.each([], said.append) == []


def test_what_a_job_raises_is_raised_here_and_those_that_wait_are_left_out(tmp_path):
    jobs = [Job("bad", read_yaml, ("nowhere.yaml",)), *[Job("sleep", time.sleep, (0.05,))] * 9]
    with pytest.raises(InputError, match=r"No parameter file at nowhere\.yaml"):
        parallel.each([*jobs, Job("last", Path.touch, (tmp_path / "last",))], print)
    assert parallel.each([Job("abs", abs, (-1,))], print) == [1]
    assert not (tmp_path / "last").exists()


def test_a_job_that_is_killed_fails_alone_and_what_fails_says_where():
    with parallel.Processes() as workers:
        killed, summed = workers.submit(os._exit, 1), workers.submit(sum, [1, 2])
        failed = workers.submit(read_yaml, "nowhere.yaml")
        assert isinstance(killed.exception(), parallel.Killed) and summed.result() == 3
        assert "in read_yaml" in failed.exception().__notes__[0]


def test_a_job_that_is_ended_tidies_up():
    """`subprocess.call` ends its process if anything is raised in it."""
    sleep = ["sleep", "61.7"]
    jobs = [Job("sleep", subprocess.call, (sleep,))]
    jobs.append(Job("bad", subprocess.check_output, (["sh", "-c", "sleep 1; exit 1"],)))
    with pytest.raises(subprocess.CalledProcessError):
        parallel.each(jobs, print)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == sleep]


SCRIPT = """
import os, time
from fluxttice_core.parallel import Job, each
print(each([Job("abs", abs, (-1,))], str), flush=True)
each([Job("sleep", time.sleep, (60,))], str)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
def test_a_script_from_standard_input_has_workers_that_end_with_it(ended_by):
    """A script without a guard, too, which workers that read it would start again."""
    with subprocess.Popen(
        [sys.executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as script:  # fmt: skip
        script.stdin.write(SCRIPT.encode())
        script.stdin.close()
        assert script.stdout.readline() == b"[1]\n"
        time.sleep(0.5)
        script.send_signal(ended_by)
        script.stdout.read()  # until the last process that could write to it has ended
        assert script.wait(20) != 0


def test_generators_go_in_step_until_the_shortest_ends():
    assert list(parallel.together(range, [(3,), (10, 15)])) == [(0, 10), (1, 11), (2, 12)]
    steps = parallel.together(range, [(10**9,)])
    assert [next(steps), next(steps)] == [(0,), (1,)]
    steps.close()  # and ends the process


@pytest.mark.parametrize(
    "function, job, error, words",
    [
        (range, ("three",), TypeError, "integer"),
        (os._exit, (1,), parallel.Killed, "a worker process was killed"),
    ],
)
def test_what_ends_a_generator_is_raised_here(function, job, error, words):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(error, match=words):
        list(parallel.together(function, [job]))
    assert signal.getsignal(signal.SIGINT) is before  # only the workers ignore Ctrl-C


def test_the_environment_says_how_many_workers(monkeypatch):
    monkeypatch.setenv(parallel.WORKERS, "3")
    assert parallel.Processes()._max_workers == 3
