"""Paths, hashes, provenance, and writes that leave nothing half-written."""

import ast
import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import tokenize
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .errors import InputError

MAX_BYTES = 64 * 2**20  # the network is 0.7 MB; a v5.5 file with its optimiser state about 2 MB
DRAFT = ".draft"  # how the names of drafts end
MEASURING = ("model", "metrics", "benchmark.py", "parallel.py")  # parallel sets the threads
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
LIBRARIES = ("torch", "numpy", "scipy", "pandas", "pydantic", "safetensors")


def root() -> Path:
    """The repository: the folder above this package's, else the nearest one above the caller's."""
    here = Path(__file__).resolve().parents[2]
    candidates = [here, Path.cwd(), *Path.cwd().parents]
    return next(
        (c for c in candidates if (c / "notebooks" / "1_train.ipynb").is_file()), Path.cwd()
    )


def resolve(path: str | Path, what: str = "checkpoint") -> Path:
    """The file or folder at `path`: in the working directory, else in the repository.

    Raises:
        InputError: neither has it; the sentence calls it `what`.
    """
    text = str(path).strip() and os.path.expanduser(path)
    if not text:
        raise InputError(f"{what} is empty: give the path of a {what}.")
    with contextlib.suppress(OSError, ValueError):  # too long, or with a null byte
        for place in (Path(text), root() / text):
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


def display_path(path: str | Path) -> str:
    """`path` for people and records: relative to the repository if inside it, else its last two
    parts, because a published record must not name anyone's home folder. Never opened."""
    place = Path(relative_to_root(Path(path).resolve()))
    return (Path(*place.parts[-2:]) if place.is_absolute() else place).as_posix()


def relative_to_root(path: Path) -> str:
    """`path` relative to the repository if it is inside it, else unchanged."""
    home = root().resolve()
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache  # because the code that runs is the code that was imported
def code_hash(*parts: str) -> str:
    """sha256 of the library's source, without comments, docstrings and layout.

    The same on every Python, because it reads the text and not a parser's rendering of it. A
    line's indentation counts, because it is syntax.

    Args:
        parts: folders and files of this package; MEASURING if none is given.
    """
    package, texts = Path(__file__).parent, []
    for part in parts or MEASURING:
        place = package / part
        for path in [place] if place.is_file() else place.glob("*.py"):
            texts.append(path.relative_to(package).as_posix().encode() + b"\n" + _code(path))
    return sha256(b"\n".join(sorted(texts)))


def _code(path: Path) -> bytes:
    source = path.read_text("utf-8")
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:  # it goes to the end of its line
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    data = [line.encode() for line in lines]  # because ast counts columns in bytes
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    found = [node.body[0] for node in nodes if ast.get_docstring(node) is not None]
    for doc in sorted(found, key=lambda doc: doc.lineno, reverse=True):  # earlier ones stay true
        rest = data[doc.end_lineno - 1][doc.end_col_offset :]
        data[doc.lineno - 1 : doc.end_lineno] = [data[doc.lineno - 1][: doc.col_offset] + rest]
    indents = [line[: len(line) - len(line.lstrip())] for line in data]
    squeezed = [
        indent + b" ".join(line.split()) for indent, line in zip(indents, data, strict=True)
    ]
    return b"\n".join(line for line in squeezed if line.strip())


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
    now = utc_now()
    day = reports_folder() / now.strftime("%Y-%m-%d")
    try:
        place = Path(os.path.expanduser(run_dir)) if run_dir else day
        place.mkdir(parents=True, exist_ok=True)
        folder = place if run_dir else unique_dir(day / f"{now:%H%M%S}-{name}")
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"Cannot write a report in {run_dir or day} ({reason}): give a writable run_dir, "
            "or set FLUXTTICE_REPORTS to a writable folder."
        ) from None


def short_tempdir() -> tempfile.TemporaryDirectory:
    """A temporary folder for sockets, as a context manager that gives its path.

    A socket's path has at most 104 bytes (macOS; 108 on Linux). Python adds 33 bytes of its own to
    TMPDIR, so a TMPDIR of 48 bytes is too long for a folder in a folder in it.
    """
    long = len(os.fsencode(tempfile.gettempdir())) > 40
    return tempfile.TemporaryDirectory(
        prefix="fluxttice-", dir="/tmp" if long else None, ignore_cleanup_errors=True
    )


def unique_dir(wanted: Path) -> Path:
    """A new folder of that name, or with -2, -3, … behind it."""
    folder, attempt = wanted, 1
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        attempt += 1
        folder = wanted.with_name(f"{wanted.name}-{attempt}")


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic: the file is the old one or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=DRAFT)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # CIFS and vfat refuse it, and the file is good
            os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (no NaN), indented, keys in the order given, newline at the end; atomic."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def write_all(folder: Path, contents: dict[str, bytes]) -> None:
    """Write `contents`, path below `folder` → bytes, each file atomically."""
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, data)


@contextlib.contextmanager
def new_folder(folder: Path, contents: dict[str, bytes] | None = None) -> Iterator[Path]:
    """A draft with `contents`, which becomes `folder` at the end, or nothing if anything fails.

    Raises:
        InputError: `folder` exists or cannot be made.
    """
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists already: a checkpoint is never written over.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(DRAFT, f".{folder.name}.", folder.parent))
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}).") from None
    try:
        write_all(draft, contents or {})
        yield draft
        with contextlib.suppress(OSError):
            draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        delete(draft)
        raise


def delete(path: Path) -> None:
    """A file, or a folder with all that is in it, if it is there and can be deleted."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def git_commit() -> dict[str, Any]:
    """`{commit, clean}` of this project's own git repository; None where it has none or no git.

    Clean means unchanged outside reports/, which holds only what runs write.
    """
    place = root() / ".git"  # named, because git would also take a repository further up
    asked = ["status", "--porcelain=v2", "--branch", "--", ".", ":!reports"]
    command = ["git", "-C", str(root()), f"--git-dir={place}", f"--work-tree={root()}", *asked]
    environ = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        said = subprocess.check_output(command, env=environ, text=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}
    lines = said.splitlines()
    return {"commit": lines[0].split()[-1], "clean": all(line[0] == "#" for line in lines)}


def environment() -> dict[str, str]:
    """What equal figures depend on: versions, platform, processor, and the code that measures.

    The number of threads is not among them because every job has one (see `parallel`).
    """
    from torch.backends.cpu import get_cpu_capability  # torch takes a second to import

    info, wanted = Path("/proc/cpuinfo"), r"^(model name|cpu family|model|stepping)\s*: (.*)$"
    lines = info.read_text().partition("\n\n")[0] if info.is_file() else ""
    parts = [" ".join(pair) for pair in re.findall(wanted, lines, re.M)] or [platform.processor()]
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": ", ".join([*parts, get_cpu_capability()]),
        "code": code_hash(),
    }
