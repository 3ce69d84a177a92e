"""Sweeps: a function of many points, whose rows are stored as reports/NAME.csv."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd

from . import files
from .errors import InputError

Point = dict[str, Any]  # whatever JSON can hold


def path(name: str) -> Path:
    return files.root() / "reports" / f"{name}.csv"


def point_key(point: Point) -> str:
    """12 hexadecimal digits that change with any value of the point."""
    return files.sha256(json.dumps(point, sort_keys=True).encode())[:12]


def key(point: Point, packages: tuple[str, ...] = files.MEASURING) -> str:
    """The key of a point's rows, `<point>-<code>`: everything that they depend on."""
    return f"{point_key(point)}-{files.code_hash(*packages)[:12]}"


def read(name: str) -> pd.DataFrame:
    """All stored rows, with the key of each; without the file, none."""
    if not path(name).is_file():
        return pd.DataFrame(columns=["key"])
    return pd.read_csv(path(name), dtype={"key": str})


def stored_rows(
    name: str, points: Iterable[Point], packages: tuple[str, ...] = files.MEASURING
) -> pd.DataFrame | None:
    """The stored rows of these points, in their order; None if a point has no row by this code."""
    table, keys = read(name), [key(point, packages) for point in points]
    if not {*keys} <= {*table.key}:
        return None
    groups = table.groupby("key")
    return pd.concat([groups.get_group(key) for key in keys], ignore_index=True)


def sweep(
    name: str,
    function: Callable[[Point], list[dict]],
    points: Iterable[Point],
    executor: Executor,
    packages: tuple[str, ...] = files.MEASURING,
) -> pd.DataFrame:
    """The rows of all points, in their order, stored as reports/`name`.csv.

    A point that has rows by this code is not computed again. The file is written anew after each
    point, so what is finished is kept if the sweep ends early. Rows of other points, or by other
    code, are removed when all points are done.

    Args:
        function: a point's rows; a function of a module.
        packages: those whose code the rows depend on.

    Raises:
        InputError: points failed; the others are stored.
    """
    wanted = {key(point, packages): point for point in points}
    table, failed = read(name), []
    missing = {k: point for k, point in wanted.items() if k not in {*table.key}}
    print(f"{name}: {len(missing)} of {len(wanted)} points to do", flush=True)
    submitted = {executor.submit(function, point): k for k, point in missing.items()}
    for count, future in enumerate(as_completed(submitted), 1):
        try:
            rows = pd.DataFrame(future.result()).assign(key=submitted[future])
        except (BrokenExecutor, CancelledError):
            raise  # no other point can be done
        except Exception as error:
            failed.append(" ".join(f"{error!r} at {wanted[submitted[future]]}".split())[:300])
        else:
            table = pd.concat([table, rows]) if len(table) else rows
            _write(name, table)
        print(f"{name}: {count} of {len(missing)} done, {len(failed)} failed", flush=True)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(wanted)} points failed, and the others are stored: "
            f"{'; '.join(failed)}."
        )
    # A column that only removed rows had goes with them.
    found = stored_rows(name, wanted.values(), packages).dropna(axis="columns", how="all")
    _write(name, found)
    return found


def _write(name: str, table: pd.DataFrame) -> None:
    files.write_bytes(path(name), table.to_csv(index=False).encode())
