"""Independent jobs side by side, each in a process and on one torch thread.

Two torch threads wait for each other in every small operation, and wait long if anything else
runs. With one thread, no figure depends on the number of threads.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, as_completed
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch

from . import files
from .errors import InputError
from .workers import Pool
from .workers import start as start

CODE = ("model", "metrics", "checkpoints", "training", "certification", "report")
CONNECT_S = 5  # seconds for a scheduler to answer
_pool = cache(Pool)
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
        for count, future in enumerate(as_completed(names), 1):
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
        with _cluster(scheduler) if scheduler else _local() as workers:
            yield workers
    except BrokenExecutor:
        raise InputError("A worker process was killed: is there enough memory?") from None
    except CancelledError:
        raise InputError(f"The scheduler at {scheduler} is gone: run it again.") from None


@contextmanager
def _local() -> Iterator[Executor]:
    pool = _pool()
    try:
        yield pool
    except BaseException:
        _pool.cache_clear()
        pool.end()
        raise


@contextmanager
def _cluster(scheduler: str) -> Iterator[Executor]:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # one sentence says it all
    from distributed import Client

    try:
        client = Client(scheduler, timeout=CONNECT_S)
        client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError) as error:  # OSError includes TimeoutError
        reason = " ".join(str(error).split())
        raise InputError(f"No Dask scheduler with workers at {scheduler}: {reason}.") from None
    with client:
        yield _Cluster(client.get_executor(pure=False))


class _Cluster(Executor):
    def __init__(self, workers: Executor) -> None:
        self.workers, self.code = workers, files.code_hash(*CODE)

    def submit(self, function: Callable, /, *arguments: Any) -> Future:  # type: ignore[override]
        return self.workers.submit(_here, self.code, function, *arguments)


def _here(code: str, function: Callable, *arguments: Any) -> Any:
    """One job of a cluster, by the sender's code or not at all."""
    if files.code_hash(*CODE) != code:
        raise InputError("This worker has another version of fluxttice: install the sender's.")
    with _ONE:  # a new network takes its weights from torch's global stream, which threads share
        torch.set_num_threads(1)
        return function(*arguments)
