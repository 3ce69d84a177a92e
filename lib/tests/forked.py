"""A fork of this process in place of the child that reads a `.pt`.

Starting Python and torch takes it a second; a fork takes milliseconds and has the same limits.
"""

import os
import tempfile
import warnings

from fluxttice_core.checkpoints import sandbox


def answer(data: bytes) -> bytes:
    """As `convert.answer`."""
    back, target = os.pipe()
    with tempfile.TemporaryFile() as source, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the fork uses none
        source.write(data)
        source.seek(0)
        if not (pid := os.fork()):
            try:
                os.dup2(source.fileno(), 0)
                os.dup2(target, 1)
                sandbox.serve()
            finally:
                os._exit(0)
    os.close(target)
    with open(back, "rb") as stream:
        found = stream.read()
    os.waitpid(pid, 0)
    return found[1:]
