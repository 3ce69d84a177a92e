"""Jobs side by side: results in order, one sentence for a killed worker, no process left over."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fluxttice_core import files, parallel
from fluxttice_core.errors import InputError
from fluxttice_core.parallel import Job
from fluxttice_core.params import read_yaml
from fluxttice_core.report import kernel

# Jobs are functions of a module that the workers can import; these are the library's and Python's.


def test_results_are_in_the_order_of_the_jobs_from_one_thread_each():
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


def test_an_error_is_raised_here_and_ends_the_other_jobs(tmp_path):
    jobs = [Job("bad", read_yaml, ("nowhere.yaml",)), *[Job("sleep", time.sleep, (60,))] * 9]
    started = time.monotonic()
    with pytest.raises(InputError, match=r"No parameter file at nowhere\.yaml"):
        parallel.each([*jobs, Job("last", Path.touch, (tmp_path / "last",))], print)
    assert multiprocessing.active_children() == [] and time.monotonic() - started < 30
    assert parallel.each([Job("abs", abs, (-1,))], print) == [1]  # by new workers
    assert not (tmp_path / "last").exists()


def test_a_killed_worker_is_one_sentence_and_the_next_call_has_new_ones():
    with pytest.raises(InputError, match=r"^A worker process was killed: .*\?$"):
        parallel.each([Job("killed", os._exit, (1,))], print)
    assert parallel.each([Job("abs", abs, (-1,))], print) == [1]


SCRIPT = """
import os, time
from fluxttice_core.parallel import Job, each
print(each([Job("abs", abs, (-1,))], str), flush=True)
each([Job("sleep", time.sleep, (60,))], str)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("folder", ["short", "a" * 90])
def test_a_script_without_a_guard_has_workers_that_end_with_it(ended_by, folder, tmp_path):
    """From standard input, which workers could not read again; and with a temporary folder whose
    name is too long for a socket."""
    (tmp_path / folder).mkdir()
    with subprocess.Popen(
        [sys.executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "TMPDIR": str(tmp_path / folder)},
    ) as script:  # fmt: skip
        script.stdin.write(SCRIPT.encode())
        script.stdin.close()
        assert script.stdout.readline() == b"[1]\n"
        time.sleep(0.5)
        script.send_signal(ended_by)
        script.stdout.read()  # until the last process that could write to it has ended
        assert script.wait(20) != 0


KERNEL = """
import time
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(extra_arguments=[{end!r}])
used = "from fluxttice_core.parallel import *; each([Job('', abs, (1,))], str)"
client.execute_interactive(used, output_hook=print)
start = time.monotonic()
manager.shutdown_kernel()
print(time.monotonic() - start)
"""


def test_a_kernel_that_used_the_pool_ends_within_seconds():
    code = KERNEL.format(end=f"--IPKernelApp.exec_lines={kernel.END_AT_ONCE}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'text/plain': '[1]'" in done.stdout and float(done.stdout.split()[-1]) < 5


def test_as_many_workers_as_usable_cores_or_as_the_environment_says(monkeypatch):
    monkeypatch.delenv(parallel.COUNT, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # of the machine, not of this process
    assert parallel.count() == len(os.sched_getaffinity(0))
    monkeypatch.setenv(parallel.COUNT, "3")
    assert parallel.count() == 3
    for bad in ("0", "auto", "-1", "1.5", "²"):
        monkeypatch.setenv(parallel.COUNT, bad)
        with pytest.raises(InputError, match="must be a whole number above 0"):
            parallel.count()


def test_a_job_from_other_code_is_refused():
    assert parallel.run_here(files.code_hash("."), abs, -1) == 1
    with pytest.raises(InputError, match="another version of fluxttice"):
        parallel.run_here("other", abs, -1)
