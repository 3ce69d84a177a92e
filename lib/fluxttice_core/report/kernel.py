"""The kernel that executes a run's notebooks, and how it is started."""

import atexit
import os
import subprocess
import sys
from typing import Any

import psutil  # type: ignore[import-untyped]
from ipykernel.ipkernel import IPythonKernel
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


class Manager(AsyncKernelManager):
    """Starts a kernel of this very Python, whichever one is installed under the name python3."""

    @property
    def kernel_spec(self) -> KernelSpec:
        python = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        ours = f"--IPKernelApp.kernel_class={__name__}.Kernel"
        return KernelSpec(argv=[*python, ours, "--IPKernelApp.log_level=CRITICAL"])

    async def start_kernel(self, **named: Any) -> None:
        # Its temporary files go beside its sockets, so that a killed kernel leaves none elsewhere.
        env = {**os.environ, "TMPDIR": os.path.dirname(self.ip)}
        # As they end, its libraries write to standard error. What cells write is in the notebook.
        await super().start_kernel(env=env, stderr=subprocess.DEVNULL, **named)


class Kernel(IPythonKernel):
    """Ends at once when it is asked to."""

    def do_shutdown(self, restart: bool) -> Any:
        # ipykernel would wait half a minute for child processes that ignore SIGTERM, and
        # multiprocessing has one that does. Nothing is lost, because workers keep no results.
        children = psutil.Process().children(recursive=True)
        for child in children:
            child.kill()
        psutil.wait_procs(children)
        # One kernel in thirty waits as long for a thread that waits for it. Everything has been
        # said by then, so the first thing at its exit is the end.
        atexit.register(os._exit, 0)
        return super().do_shutdown(restart)
