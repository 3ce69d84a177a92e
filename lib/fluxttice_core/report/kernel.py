"""The kernel that executes a run's notebooks."""

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
        # Its temporary files go beside its sockets, so that a killed kernel leaves none elsewhere.
        near = {"TMPDIR": os.path.dirname(self.ip)}
        return KernelSpec(argv=[*python, ours, "--IPKernelApp.log_level=CRITICAL"], env=near)

    async def start_kernel(self, **named: Any) -> None:
        # As they end, its libraries write to standard error. What cells write is in the notebook.
        await super().start_kernel(stderr=subprocess.DEVNULL, **named)


class Kernel(IPythonKernel):
    """Ends at once when it is asked to."""

    def do_shutdown(self, restart: bool) -> Any:
        # ipykernel would wait half a minute for workers, which ignore SIGTERM and keep no results.
        for child in psutil.Process().children(recursive=True):
            child.kill()
        # One kernel in thirty would wait as long for a thread that waits for it.
        atexit.register(os._exit, 0)
        return super().do_shutdown(restart)
