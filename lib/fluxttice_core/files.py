"""Paths, hashes, provenance, and writes that leave nothing half-written."""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import tokenize
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from .errors import InputError

MAX_BYTES = 64 * 2**20  # the network is 0.7 MB; a v5.5 file with its optimiser state about 2 MB
MEASURING = ("model", "metrics", "benchmark.py", "parallel.py")  # parallel sets the threads
STATEMENT_ENDS = (tokenize.ENCODING, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
LIBRARIES = ("torch", "numpy", "scipy", "pandas", "pydantic", "safetensors")


def root() -> Path:
    """The repository that this package is in; the working directory if it was installed alone."""
    above = Path(__file__).resolve().parents[2]
    return above if (above / "notebooks").is_dir() else Path.cwd()


def resolve(path: str | Path, what: str = "checkpoint") -> Path:
    """The file or folder at `path`: in the working directory, else in the repository.

    Raises:
        InputError: neither has it; the sentence calls it `what`.
    """
    if not str(path).strip():
        raise InputError(f"{what} is empty: give the path of a {what}.")
    with contextlib.suppress(OSError, ValueError):  # too long, or with a null byte
        for place in (Path(os.path.expanduser(str(path))), root() / str(path)):
            if place.exists():
                return place
    raise InputError(f"No {what} at {path}: there is no such file or folder.")


def read_file(path: Path, links: bool = False) -> bytes:
    """All bytes of a regular file of at most MAX_BYTES; a link is refused unless `links`."""
    if path.is_symlink() and not links:
        raise InputError(f"{path} is a link, but a checkpoint holds its own files: refused.")
    if not path.is_file():
        raise InputError(f"{path} is not a file that can be read.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{path} has more than 64 MiB, and a checkpoint of this network has under 3 MB."
        )
    if not data:
        raise InputError(f"{path} is empty (0 bytes): not a checkpoint.")
    return data


def parse_json(data: bytes) -> Any:
    """Strict JSON: no name twice, no NaN. Raises ValueError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("its JSON gives a name twice")
        return dict(pairs)

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(data, object_pairs_hook=unique, parse_constant=no_constant)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def relative_to_root(path: Path) -> str:
    """`path` relative to the repository if it is inside it, else unchanged."""
    home = root().resolve()
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)


def display_path(path: str | Path) -> str:
    """`path` for people and records: relative to the repository, else its last two parts.

    Never opened. A published record must not name anyone's home folder.
    """
    place = Path(relative_to_root(Path(path).resolve()))
    return Path(*place.parts[-2:]).as_posix() if place.is_absolute() else place.as_posix()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache  # because the code that runs is the code that was imported
def code_hash(*parts: str) -> str:
    """sha256 of the source of `parts`, folders and files of this package (default: MEASURING).

    Without comments, docstrings and layout, and the same on every Python.
    """
    package, texts = Path(__file__).parent, []
    for part in parts or MEASURING:
        place = package / part
        for path in [place] if place.is_file() else place.rglob("*.py"):
            texts.append(f"{path.relative_to(package).as_posix()}\n{_code(path)}")
    return sha256("\n".join(sorted(texts)).encode())


def _code(path: Path) -> str:
    """The source text with comments and docstrings cut out.

    Tokens tell where those are. The text between them is kept and not the tokens, because Pythons
    differ in the tokens of an f-string.
    """
    with path.open("rb") as file:
        tokens = [t for t in tokenize.tokenize(file.readline) if t.type != tokenize.NL]
    cut = [t for t in tokens if t.type == tokenize.COMMENT]
    tokens = [t for t in tokens if t.type != tokenize.COMMENT]
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        ends = after.type == tokenize.NEWLINE or after.string == ";"
        if token.type == tokenize.STRING and before.type in STATEMENT_ENDS and ends:
            cut.append(token)  # a statement that is only a string
    lines = path.read_text("utf-8").split("\n")
    for token in sorted(cut, key=lambda token: token.start, reverse=True):
        (top, left), (bottom, right) = token.start, token.end
        lines[top - 1 : bottom] = [lines[top - 1][:left] + lines[bottom - 1][right:]]
    lines = [re.sub(r"(?<=\S)\s+", " ", line.rstrip()) for line in lines]  # indents are syntax
    return "\n".join(filter(None, lines))


def utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def reports_folder() -> Path:
    """The folder that FLUXTTICE_REPORTS names, or reports/; a relative one is in the repository."""
    return root() / os.path.expanduser(os.environ.get("FLUXTTICE_REPORTS") or "reports")


def run_folder(run_dir: str, name: str) -> Path:
    """`run_dir`, made if need be; if it is empty, a new reports/<UTC date>/<HHMMSS>-<name>/.

    A second run in the same second gets a folder that ends in -2.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    dated = reports_folder() / f"{utc_now():%Y-%m-%d/%H%M%S}-{name}"
    folder, others = Path(os.path.expanduser(run_dir or dated)), count(2)
    try:
        while not run_dir and folder.exists():
            folder = dated.with_name(f"{dated.name}-{next(others)}")
        folder.mkdir(parents=True, exist_ok=bool(run_dir))
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise InputError(
            f"Cannot write a report in {folder} ({getattr(error, 'strerror', error)}): give a "
            "writable run_dir, or set FLUXTTICE_REPORTS to a writable folder."
        ) from None


def sockets_place() -> str:
    """Where a folder of sockets goes: the temporary folder, or /tmp if its name is too long.

    A socket's path has at most 104 bytes (macOS), and Python adds up to 60 of its own.
    """
    place = tempfile.gettempdir()
    return place if len(os.fsencode(place)) <= 40 else "/tmp"


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic: the file is the old one or the new one, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        delete(draft)
        raise


def json_bytes(value: Any) -> bytes:
    """Strict JSON (no NaN), indented, keys in the order given, newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def new_folder(folder: Path, contents: dict[str, bytes]) -> Path:
    """Write `contents`, path below `folder` → bytes; `folder` appears only when it is complete.

    Raises:
        InputError: `folder` exists or cannot be made.
    """
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists already: a checkpoint is never written over.")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    try:
        for name, data in contents.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(draft / name, data)
        return draft.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}).") from None
    finally:
        delete(draft)


def delete(path: Path) -> None:
    """A file, or a folder with all that is in it, if it is there and can be deleted."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def git_commit() -> dict[str, Any]:
    """`{commit, clean}` of this project's own git repository; None where it has none or no git.

    Clean means unchanged outside reports/, which holds only what runs write.
    """
    # Its .git is named, because git would also take a repository further up.
    where = f"--git-dir={root() / '.git'}", f"--work-tree={root()}"
    asked = "status", "--porcelain=v2", "--branch", "--", ".", ":!reports"
    env = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        said = subprocess.run(["git", *where, *asked], cwd=root(), env=env, capture_output=True)
        lines = said.stdout.decode().splitlines()
    except OSError:  # no git
        lines = []
    if not lines:
        return {"commit": None, "clean": None}
    return {"commit": lines[0].split()[-1], "clean": all(line[0] == "#" for line in lines)}


def environment() -> dict[str, str]:
    """What equal figures depend on: versions, platform, processor, and the code that measures."""
    import torch  # here, because `fluxttice --help` does not wait for it

    info = Path("/proc/cpuinfo")
    first = info.read_text().partition("\n\n")[0] if info.is_file() else ""
    found = re.findall(r"^(model name|cpu family|model|stepping)\s*: (.*)", first, re.M)
    cpu = [" ".join(pair) for pair in found] or [platform.processor()]
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": ", ".join([*cpu, torch.backends.cpu.get_cpu_capability()]),
        "code": code_hash(),
    }
