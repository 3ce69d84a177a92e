"""A grid of notebooks, on the cores of this machine or on a Dask cluster.

A plan is YAML, `name: {notebook: …, file: …, parameter: value, …}` a line: a notebook (1_train by
default), its parameter file, and the parameters that differ from it. A list is a grid: one job for
each of its values, and for each combination of several lists. (Where the parameter itself is a
list, as `ns` is, the list is its one value.)
"""

import contextlib
import io
import itertools
import re
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, NamedTuple

from .. import files, parallel, params
from ..errors import InputError
from ..sweep import point_key
from .notebook import check
from .run import NOTEBOOKS, execute


class Job(NamedTuple):
    """One notebook with its parameters; `entry` is its name in the plan."""

    entry: str
    folder: str
    step: str
    parameters: dict[str, Any]


def run(plan: str, scheduler: str = "") -> Path:
    """Run the jobs of a plan that have no page in reports/batch-<plan>/; return that folder.

    A folder's name ends in the hash of its job's parameters. The workers of a cluster share the
    folder. A job that fails is reported at the end, and the others go on.

    Raises:
        InputError: as `jobs`, no such scheduler, or jobs that failed.
    """
    place = files.reports_folder().resolve() / f"batch-{Path(plan).stem}"
    wanted, failed = jobs(plan), []
    todo = [
        job for job in wanted if not (place / job.folder / f"{NOTEBOOKS[job.step]}.html").exists()
    ]
    print(f"{len(todo)} of {len(wanted)} jobs to do, into {files.display_path(place)}", flush=True)
    with parallel.executor(scheduler) as workers:
        futures = {workers.submit(_perform, job, place / job.folder): job for job in todo}
        for future in as_completed(futures):
            said, job = "done", futures[future]
            if error := future.exception():
                said = " ".join(str(error).split()) or type(error).__name__
                failed.append(f"{job.folder} ({said})")
            print(f"{job.folder}: {said}", flush=True)
    if failed:
        raise InputError(f"{len(failed)} of {len(wanted)} jobs failed: {'; '.join(failed)}.")
    return place


def jobs(path: str) -> list[Job]:
    """Every job of the plan at `path`, with checked parameters. Paths in it stay as they are.

    Raises:
        InputError: no plan, an unknown key, a bad value, a file that does not exist.
    """
    found = {}
    steps = {notebook: step for step, notebook in NOTEBOOKS.items()}
    for entry, changes in params.read_plan(path).items():
        notebook, where = changes.pop("notebook", "1_train"), f"{path}: {entry}"
        if notebook not in [*steps]:
            known = f"must be one of {', '.join(steps)}"
            raise InputError(f"{where}: notebook is {params.brief(notebook)}, but {known}.")
        step = steps[notebook]
        values = params.read_yaml(str(changes.pop("file", f"params/{step}.yaml")))
        if "run_dir" in changes or [] in changes.values():
            raise InputError(f"{where}: run_dir and empty lists make no job: leave them out.")
        lists = {
            name: value
            for name, value in changes.items()
            if isinstance(value, list) and not isinstance(values.get(name), list)
        }
        for point in itertools.product(*lists.values()):
            chosen = dict(zip(lists, point, strict=True))
            p = check(step, {**values, **changes, **chosen, "run_dir": ""}, where).model_dump()
            if "checkpoint" in p:
                p["checkpoint"] = files.relative_to_root(files.resolve(p["checkpoint"]).resolve())
            name = "-".join([entry, *(f"{key}-{value}" for key, value in chosen.items())])
            name = re.sub(r"[^\w.+-]+", "-", name)[:100].strip("-.")
            folder = f"{name}-{point_key(p)}"
            found[folder] = Job(entry, folder, step, p)
    return [*found.values()]


def _perform(job: Job, folder: Path) -> None:
    """Run one job into its `folder`, without what an earlier attempt left there."""
    files.delete(folder)
    params.record(files.run_folder(str(folder), ""), job.step, job.parameters)
    with contextlib.redirect_stdout(io.StringIO()):
        execute(job.step, job.parameters, folder)
