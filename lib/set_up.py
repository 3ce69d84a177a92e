"""Make `.venv` from requirements.lock: what every make target needs first.

A finished environment holds the file `ready`, written last. One without it, or older than the
pins, is removed and made afresh, so an interrupted set-up costs its time and nothing else. Two at
once: the second waits, and finds the work done. The lock is the kernel's, and the programs started
here share it: it ends with the last of them, whatever killed the first. Standard library only.
"""

import fcntl
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV, PINS, PROJECT = ROOT / ".venv", ROOT / "requirements.lock", ROOT / "pyproject.toml"
READY = VENV / "ready"


def main():
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever comes with an older one
        version = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"fluxttice needs Python 3.11 or newer, this is {version}: make PYTHON=python3.11")
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            f"{sys.executable} cannot make environments, it lacks ensurepip: install it "
            "(Debian and Ubuntu: apt install python3-venv), or name another: make PYTHON=..."
        )
    with open(ROOT / ".venv.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is under way here: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished():
            print("Setting up .venv (once; about a minute)", flush=True)
            build(lock)


def finished():
    return READY.exists() and READY.stat().st_mtime >= max(
        PINS.stat().st_mtime, PROJECT.stat().st_mtime
    )


def build(lock):
    """uv installs in seconds what pip takes minutes for; its own pin is in the lock, too."""

    def call(*command):
        words = [str(word) for word in command]
        subprocess.run(words, check=True, pass_fds=[lock.fileno()], stderr=subprocess.PIPE)

    READY.unlink(missing_ok=True)  # first of all: from here on it is unfinished
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    python = VENV / "bin" / "python"
    uv = next(line for line in PINS.read_text("utf-8").splitlines() if line.startswith("uv=="))
    call(sys.executable, "-m", "venv", VENV)
    call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", uv)
    install = [VENV / "bin" / "uv", "pip", "install", "--quiet", "--python", python]
    call(*install, "--requirement", PINS, "--editable", ROOT)
    # Does it work? And torch is compiled here once, not by each process of a first run.
    call(python, "-c", "import fluxttice_core.report.evidence")
    READY.touch()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nSet-up interrupted: the next make starts it afresh")
    except subprocess.CalledProcessError as error:
        sys.stderr.write(error.stderr.decode(errors="replace"))
        sys.exit(f"Set-up failed ({' '.join(error.cmd[:4])} …): the next make starts it afresh")
