"""What a run says of itself: status.json in its folder, written first and last.

Whoever runs in a folder holds a lock on it, which the system lifts however the process ends. So a
folder that says "running" and is not locked was interrupted: SIGKILL leaves nobody to write it.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from .. import files
from ..errors import InputError
from ..metrics.results import Record

STATUS = "status.json"
State = Literal["running", "complete", "failed", "interrupted"]
_held: dict[Path, int] = {}  # folder → the open folder that carries this process's lock


class Status(Record):
    """status.json. `steps`: each notebook's own state, in the order they ran; `reason`: one
    sentence where the run is neither running nor complete."""

    schema_: Literal["fluxttice/status/1"] = Field("fluxttice/status/1", alias="schema")
    name: str
    state: State
    reason: str
    steps: dict[str, State]
    started_utc: str
    ended_utc: str | None


def hold(folder: Path) -> bool:
    """Lock `folder` until `release` or this process's end; False where another holds it."""
    if folder in _held:
        return True
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    _held[folder] = handle
    return True


def release(folder: Path) -> None:
    os.close(_held.pop(folder))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """`hold` it for the length of a block.

    Raises:
        InputError: another process holds it.
    """
    if folder in _held or not hold(folder):
        raise InputError(f"{files.display_path(folder)} is being run now, by another process.")
    try:
        yield
    finally:
        release(folder)


def write(folder: Path, state: State, steps: dict[str, State], reason: str = "") -> None:
    """Write status.json, atomically; `steps` are added to those it has.

    Raises:
        InputError: the folder is gone or full, or the status.json that is there is damaged.
    """
    now, old = files.utc_now().isoformat(), stored(folder)
    new = Status(
        name=folder.name,
        state=state,
        reason=reason,
        steps={**(old.steps if old else {}), **steps},
        started_utc=old.started_utc if old else now,
        ended_utc=None if state == "running" else now,
    )
    try:
        files.write_bytes(folder / STATUS, new.to_json())
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}).") from None


def stored(folder: Path) -> Status | None:
    """What status.json says; None without one.

    Raises:
        InputError: it is damaged.
    """
    path = folder / STATUS
    try:
        return Status.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        raise InputError(
            f"{files.display_path(path)} is damaged: it is no status of a run."
        ) from None


def read(folder: Path) -> Status | None:
    """As `stored`, but what says "running" while nobody holds the folder reads as interrupted.

    Raises:
        InputError: status.json is damaged.
    """
    found = stored(folder)
    if found is None or found.state != "running" or _is_held(folder):
        return found
    steps = {name: "interrupted" if s == "running" else s for name, s in found.steps.items()}
    reason = "its process ended without a word"
    return found.model_copy(update={"state": "interrupted", "reason": reason, "steps": steps})


def _is_held(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
