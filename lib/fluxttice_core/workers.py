"""The pool's processes: forked by a server that has imported torch, with one torch thread each."""

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from .errors import InputError, printable

COUNT = "FLUXTTICE_WORKERS"
PRELOADED = ["fluxttice_core.metrics.measurement"]  # imported once, for all workers
# Freed memory stays with its process: glibc would map and clear every large array anew.
KEPT = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**30))
_LOCK = threading.Lock()


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
    """Start the server, and return its multiprocessing context.

    The server imports torch while the caller goes on, so the first jobs wait less if it is
    started early.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()  # first, because it would unblock the signal
    # A socket's path has at most 104 characters, and the server adds 32 to its folder's.
    folder = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # also while the server imports
    with mock.patch.dict(os.environ, KEPT), mock.patch.object(tempfile, "tempdir", folder):
        forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return context


class Pool(ProcessPoolExecutor):
    """`count()` processes, each started when a job needs it.

    They don't import the caller's script, because it may be a pipe or have no main guard. Jobs and
    results are pickled here, because torch would pass tensors through shared memory, which may be
    small.
    """

    def __init__(self) -> None:
        super().__init__(count(), start(), _begin)

    def submit(self, function: Callable, /, *arguments: Any) -> Future:  # type: ignore[override]
        packed = pickle.dumps((function, arguments))
        with _LOCK:
            script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
            try:
                return super().submit(_work, packed)
            finally:
                sys.modules["__main__"] = script

    def end(self) -> None:
        """End the processes, whatever they are doing; the pool takes no more jobs."""
        for process in multiprocessing.active_children():
            if isinstance(process, start().Process):  # none of the caller's own
                process.terminate()
        self.shutdown(cancel_futures=True)


def _begin() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


class _Packed:
    """Is pickled as bytes, and unpickled as the value itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple:
        return pickle.loads, (pickle.dumps(self.value),)


def _work(packed: bytes) -> _Packed:
    function, arguments = pickle.loads(packed)
    return _Packed(function(*arguments))
