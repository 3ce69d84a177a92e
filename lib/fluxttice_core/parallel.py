"""Independent work side by side: one process and one torch thread a job.

Two torch threads inside each small operation wait for each other at OpenMP's barriers, and do so
badly when anything else runs. One thread a job costs a busy neighbour's share and no more, and
makes every figure independent of the number of threads.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import cache, partial
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch

WORKERS = "FLUXTTICE_WORKERS"
IMPORTED = ["fluxttice_core.benchmark"]  # once, for all processes
# Freed memory stays with its process: glibc would map and clear every large array anew.
KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**30))
_STARTING = threading.Lock()


class Killed(RuntimeError):
    """A worker process ended without a word."""


class Processes(ThreadPoolExecutor):
    """An executor with a process for each job, as many at a time as the machine has cores (or as
    FLUXTTICE_WORKERS says). One that is killed fails its own job and no other.

    A server process imports IMPORTED once and forks them, so they start in milliseconds.
    """

    def __init__(self) -> None:
        super().__init__(int(os.environ.get(WORKERS) or os.cpu_count() or 1))

    def submit(self, function: Callable, /, *arguments: Any, **named: Any) -> Future:
        work = partial(function, *arguments, **named)
        return super().submit(lambda: next(together(_once, [(work,)]))[0])

    def __exit__(self, error: Any, *about: Any) -> None:
        if error:  # whatever ended the caller's loop ends the jobs, too
            self.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
        super().__exit__(error, *about)


def _once(work: Callable) -> Iterator[Any]:
    yield work()


class Job(NamedTuple):
    """A module's function and its arguments, all of which must pickle."""

    name: str
    function: Callable
    arguments: tuple


def each(jobs: Sequence[Job], said: Callable[[str], None]) -> list[Any]:
    """What every job returns, in the order of the jobs; `said` is told of each as it finishes.

    Raises:
        whatever a job raises, Killed if its process was killed; the others are then ended.
    """
    with Processes() as workers:
        names = {workers.submit(job.function, *job.arguments): job.name for job in jobs}
        for count, future in enumerate(as_completed(names), 1):
            future.result()
            said(f"{names[future]}: done, {len(jobs) - count} left")
    return [future.result() for future in names]


def together(function: Callable[..., Iterator], jobs: Sequence[tuple]) -> Iterator[tuple]:
    """The generators `function(*job)`, each in a process and on one thread of its own, in step:
    the first items of all of them, then the second, until the shortest ends.

    `function` is a module's; it, the jobs and the items must pickle. Whatever ends the caller's
    loop ends the processes too.

    Raises:
        whatever a generator raises; Killed if its process was killed.
    """
    pipes, processes = [], []
    try:
        for job in jobs:
            here, there = start().Pipe(duplex=False)
            # Pickled here: torch would pass its tensors through shared memory, which may be small.
            packed = pickle.dumps((function, job))
            process = start().Process(target=_send, args=(there, packed), daemon=True)
            _start(process)
            there.close()
            pipes.append(here)
            processes.append(process)
        while True:
            try:
                said = [pickle.loads(pipe.recv_bytes()) for pipe in pipes]
            except EOFError:
                raise Killed("a worker process was killed") from None
            for kind, item in said:
                if kind == "error":
                    raise item
            if any(kind == "end" for kind, _ in said):
                return
            yield tuple(item for _, item in said)
    finally:
        for process in processes:
            process.terminate()
            process.join()


@cache
def start() -> Any:
    """The context whose server makes the processes. Called early, the server imports torch while
    the caller goes on, and the first jobs wait less."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    resource_tracker.ensure_running()  # it would unblock the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # while it imports, too
    with mock.patch.dict(os.environ, KEPT):
        forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


def stop() -> None:
    """End the server, and the tracker that Python starts with it, until the next job. A kernel
    that ends with them beside it waits half a minute: the tracker heeds no signal."""
    server: Any = forkserver._forkserver  # nothing public ends either
    tracker: Any = resource_tracker._resource_tracker
    for pid in (server._forkserver_pid, tracker._pid):
        if pid:  # asked to end, one takes torch apart and the other waits for every worker
            os.kill(pid, signal.SIGKILL)
    server._stop()
    tracker._stop()
    start.cache_clear()


def _start(process: Any) -> None:
    """Start it without the caller's own script, which it would import anew: one from standard
    input can't be, and one without a guard would start everything again."""
    with _STARTING:
        script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            process.start()
        finally:
            sys.modules["__main__"] = script


def _send(pipe: Any, packed: bytes) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this one
    threading.Thread(target=_follow_to_the_end, daemon=True).start()
    function, job = pickle.loads(packed)
    last: tuple[str, Any] = ("end", None)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is ended tidies up
        try:
            for item in function(*job):
                pipe.send_bytes(pickle.dumps(("item", item)))
        except Exception as error:
            error.add_note(traceback.format_exc())  # which does not pickle otherwise
            last = "error", error
        pipe.send_bytes(pickle.dumps(last))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except (BrokenPipeError, KeyboardInterrupt):
        pass  # the caller is gone, or has enough


def _follow_to_the_end() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # the caller was killed: so is this
