"""The kernel that executes a run's notebooks."""

import os
import subprocess
import sys
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

# ipykernel would wait half a minute for the workers and their server, which ignore SIGTERM. They
# end with the kernel, which ends after its cell: an interrupted training still writes its epoch.
END_AT_ONCE = (
    "get_ipython().observe(lambda _: get_ipython().kernel.io_loop.add_callback("
    "__import__('os')._exit, 0), 'exit_now')"
)


class Manager(AsyncKernelManager):
    """Starts a kernel of this very Python, whichever one is installed under the name python3."""

    @property
    def kernel_spec(self) -> KernelSpec:
        python = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        options = [f"--IPKernelApp.exec_lines={END_AT_ONCE}", "--IPKernelApp.log_level=CRITICAL"]
        # Its temporary files go beside its sockets, so that a killed kernel leaves none elsewhere.
        near = {"TMPDIR": os.path.dirname(self.ip)}
        return KernelSpec(argv=[*python, *options], env=near)

    async def start_kernel(self, **named: Any) -> None:
        # As they end, its libraries write to standard error. What cells write is in the notebook.
        await super().start_kernel(stderr=subprocess.DEVNULL, **named)
