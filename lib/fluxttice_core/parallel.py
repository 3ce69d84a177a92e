"""Independent work side by side: one process and one torch thread a job.

Two torch threads inside each small operation wait for each other at OpenMP's barriers, and do so
badly when anything else runs. One thread a job costs a busy neighbour's share and no more, and
makes every figure independent of the number of threads.
"""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from typing import Any, NamedTuple

import torch

WORKERS = "FLUXTTICE_WORKERS"


@cache
def pool() -> ProcessPoolExecutor:
    """This process's workers, as many as it may use cores (or as FLUXTTICE_WORKERS says).

    A server process imports torch once and forks them, so they start in milliseconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fluxttice_core.metrics.measurement"])
    count = int(os.environ.get(WORKERS) or os.cpu_count() or 1)
    return ProcessPoolExecutor(count, context, initializer=torch.set_num_threads, initargs=(1,))


class Job(NamedTuple):
    """A module's function and its arguments, all of which must pickle."""

    name: str
    function: Callable
    arguments: tuple


def each(jobs: Sequence[Job], said: Callable[[str], None]) -> list[Any]:
    """What every job returns, in the order of the jobs, whoever finishes first.

    `said` is told of each as it finishes, and how many are left.

    Raises:
        whatever a job raises; those that have not begun are then left out.
    """
    # Pickled here: torch would pass its tensors through shared memory, which may be small.
    futures = [pool().submit(_call, pickle.dumps((job.function, job.arguments))) for job in jobs]
    names = {future: job.name for future, job in zip(futures, jobs, strict=True)}
    try:
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            said(f"{names[future]}: done, {len(jobs) - done} left")
    finally:
        for future in futures:
            future.cancel()
    return [pickle.loads(future.result()) for future in futures]


def _call(packed: bytes) -> bytes:
    function, arguments = pickle.loads(packed)
    return pickle.dumps(function(*arguments))
