"""Independent jobs side by side, each in a process and on one torch thread.

Two torch threads wait for each other in every small operation, and wait long if anything else
runs. With one thread, no figure depends on the number of threads.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import cache
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch

from . import files
from .errors import InputError, printable

COUNT = "FLUXTTICE_WORKERS"
PRELOADED = ["fluxttice_core.metrics.measurement"]  # imported once, for all workers
# Freed memory stays with its process: glibc would map and clear every large array anew.
KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**30))
_ONE = threading.Lock()


class Job(NamedTuple):
    """A function of a module, and its arguments; all of them, and the result, must pickle."""

    name: str
    function: Callable
    arguments: tuple


def each(jobs: Sequence[Job], report: Callable[[str], None]) -> list[Any]:
    """The jobs' results, in the order of the jobs; `report` gets a line as each finishes.

    Raises:
        InputError: a worker process was killed.
        Exception: the first that a job raises; the other jobs are then ended.
    """
    with executor() as workers:
        names = {workers.submit(job.function, *job.arguments): job.name for job in jobs}
        for count, future in enumerate(futures.as_completed(names), 1):
            future.result()
            report(f"{names[future]}: done, {len(jobs) - count} left")
        return [future.result() for future in names]


@contextmanager
def executor(scheduler: str = "") -> Iterator[Executor]:
    """The process's own pool of workers, or the workers of the Dask scheduler at that address.

    Any exception in the `with` block, Ctrl-C included, ends the jobs.

    Raises:
        InputError: a worker process was killed; no such scheduler, or it is lost.
    """
    try:
        with _cluster(scheduler) if scheduler else _pool() as workers:
            yield workers
    except futures.BrokenExecutor:
        raise InputError("A worker process was killed: is there enough memory?") from None
    except futures.CancelledError:
        raise InputError(f"The scheduler at {scheduler} is gone: run it again.") from None


def count() -> int:
    """As many workers as the cores that this process may use, or as FLUXTTICE_WORKERS says.

    Raises:
        InputError: FLUXTTICE_WORKERS is no whole number above 0.
    """
    given = os.environ.get(COUNT, "")
    if not given:  # macOS does not say which cores may be used
        return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"{COUNT} is {printable(given)}, but must be a whole number above 0.")
    return int(given)


@cache
def start() -> Any:
    """Start the server from which workers are forked; return its multiprocessing context.

    It imports torch while the caller goes on, so first jobs wait less if it is started early.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()  # first, because it would unblock the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # also while the server imports
    place = mock.patch.object(tempfile, "tempdir", files.sockets_place())
    with mock.patch.dict(os.environ, KEPT), place:
        forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


class _Workers(futures.ProcessPoolExecutor):
    """Worker processes, which don't import the caller's script: it may have no main guard."""

    def submit(self, function: Callable, /, *arguments: Any) -> Future:  # type: ignore[override]
        packed = _Packed((function, arguments))
        script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            return super().submit(_work, packed)
        finally:
            sys.modules["__main__"] = script


class _Packed:
    """Is pickled now, and unpickled as the value itself.

    multiprocessing would pass tensors through shared memory, which may be small.
    """

    def __init__(self, value: Any) -> None:
        self.data = pickle.dumps(value)

    def __reduce__(self) -> tuple:
        return pickle.loads, (self.data,)


def _work(job: Any) -> _Packed:
    function, arguments = job
    return _Packed(function(*arguments))


_workers = cache(lambda: _Workers(count(), start(), _begin))


@contextmanager
def _pool() -> Iterator[Executor]:
    workers = _workers()
    try:
        yield workers
    except BaseException:
        _workers.cache_clear()
        for process in multiprocessing.active_children():
            if isinstance(process, start().Process):  # none of the caller's own
                process.terminate()
        workers.shutdown(cancel_futures=True)
        raise


def _begin() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def _cluster(scheduler: str) -> Iterator[Executor]:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # one sentence says it all
    from distributed import Client

    try:
        client = Client(scheduler, timeout=5)
        client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError) as error:  # OSError includes TimeoutError
        reason = " ".join(str(error).split())
        raise InputError(f"No Dask scheduler with workers at {scheduler}: {reason}.") from None
    with client:
        yield _Cluster(client.get_executor(pure=False))


class _Cluster(Executor):
    def __init__(self, workers: Executor) -> None:
        self.workers, self.code = workers, files.code_hash(".")

    def submit(self, function: Callable, /, *arguments: Any) -> Future:  # type: ignore[override]
        return self.workers.submit(run_here, self.code, function, *arguments)


def run_here(code: str, function: Callable, *arguments: Any) -> Any:
    """One job of a cluster, by the sender's code or not at all."""
    if files.code_hash(".") != code:
        raise InputError("This worker has another version of fluxttice: install the sender's.")
    with _ONE:  # a new network takes its weights from torch's global stream, which threads share
        torch.set_num_threads(1)
        return function(*arguments)
