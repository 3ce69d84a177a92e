"""The kernel that executes a run's notebooks. It ends at once when it is asked to."""

import atexit
import os
from typing import Any

import psutil  # type: ignore[import-untyped]
from ipykernel.ipkernel import IPythonKernel


class Kernel(IPythonKernel):
    def do_shutdown(self, restart: bool) -> Any:
        # ipykernel would wait half a minute for child processes that ignore SIGTERM, and
        # multiprocessing has one that does. Nothing is lost, because workers hold no results.
        children = psutil.Process().children(recursive=True)
        for child in children:
            child.kill()
        psutil.wait_procs(children)
        # One kernel in thirty waits as long for a thread that waits for it. Everything has been
        # said by then, so the first thing at its exit is the end.
        atexit.register(os._exit, 0)
        return super().do_shutdown(restart)
