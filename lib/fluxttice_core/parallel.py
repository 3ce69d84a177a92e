"""Independent work side by side: one process and one torch thread a job.

Two torch threads inside each small operation wait for each other at OpenMP's barriers, and do so
badly when anything else runs. One thread a job costs a busy neighbour's share and no more, and
makes every figure independent of the number of threads.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import forkserver, resource_tracker
from typing import Any, NamedTuple

import torch

WORKERS = "FLUXTTICE_WORKERS"


@cache
def pool() -> ProcessPoolExecutor:
    """This process's workers, as many as the machine has cores (or as FLUXTTICE_WORKERS says).

    A server process imports torch once and forks them, so they start in milliseconds.
    """
    count = int(os.environ.get(WORKERS) or os.cpu_count() or 1)
    return ProcessPoolExecutor(count, _context(), initializer=_begin)


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fluxttice_core.metrics.measurement"])
    resource_tracker.ensure_running()  # it would unblock the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # while it imports, too
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


def start() -> None:
    """Let the server import torch while the caller goes on, so that the first jobs wait less."""
    _context()


def _begin() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this one
    threading.Thread(target=_end_with_caller, daemon=True).start()


def _end_with_caller() -> None:
    """A caller that was killed ends nobody: its workers see it go."""
    multiprocessing.parent_process().join()
    os._exit(1)


class Job(NamedTuple):
    """A module's function and its arguments, all of which must pickle."""

    name: str
    function: Callable
    arguments: tuple


def finished(jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
    """Run every job; yield its place in `jobs` and what it returned, as each finishes.

    Raises:
        whatever a job raises, BrokenProcessPool if its process was killed; those that have not
        begun are then left out.
    """
    # Pickled here: torch would pass its tensors through shared memory, which may be small.
    futures = [pool().submit(_call, pickle.dumps((job.function, job.arguments))) for job in jobs]
    places = {future: place for place, future in enumerate(futures)}
    try:
        for future in as_completed(futures):
            yield places[future], pickle.loads(future.result())
    except BrokenProcessPool:
        pool.cache_clear()  # a worker was killed: the next jobs get new ones
        raise
    finally:
        for future in futures:
            future.cancel()


def each(jobs: Sequence[Job], said: Callable[[str], None]) -> list[Any]:
    """What every job returns, in the order of the jobs; `said` is told of each as it finishes.

    Raises:
        as `finished`.
    """
    found: dict[int, Any] = {}
    for place, value in finished(jobs):
        found[place] = value
        said(f"{jobs[place].name}: done, {len(jobs) - len(found)} left")
    return [found[place] for place in range(len(jobs))]


def _call(packed: bytes) -> bytes:
    function, arguments = pickle.loads(packed)
    return pickle.dumps(function(*arguments))


def together(function: Callable[..., Iterator], jobs: Sequence[tuple]) -> Iterator[tuple]:
    """The generators `function(*job)`, each in a process and on one thread of its own, in step:
    the first items of all of them, then the second, until the shortest ends.

    `function` is a module's; it, the jobs and the items must pickle. Whatever ends the caller's
    loop ends the processes too.

    Raises:
        whatever a generator raises; RuntimeError if its process was killed.
    """
    pipes, processes = [], []
    try:
        for job in jobs:
            here, there = _context().Pipe(duplex=False)
            packed = pickle.dumps((function, job))
            process = _context().Process(target=_send, args=(there, packed), daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        while True:
            try:
                said = [pickle.loads(pipe.recv_bytes()) for pipe in pipes]
            except EOFError:
                raise RuntimeError("a worker process was killed") from None
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


def _send(pipe: Any, packed: bytes) -> None:
    _begin()
    function, job = pickle.loads(packed)
    try:
        for item in function(*job):
            pipe.send_bytes(pickle.dumps(("item", item)))
        pipe.send_bytes(pickle.dumps(("end", None)))
    except BrokenPipeError:
        pass  # the caller is gone
    except Exception as error:
        pipe.send_bytes(pickle.dumps(("error", error)))
