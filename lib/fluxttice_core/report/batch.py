"""A grid of notebooks, on the cores of this machine or on a Dask cluster.

A plan is YAML, `name: {notebook: …, file: …, parameter: value, …}` a line: a notebook (1_train by
default), its parameter file, and the parameters that differ from it. A list is a grid: one job for
each of its values, and for each combination of several lists.
"""

import contextlib
import io
import itertools
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from .. import files, parallel, params
from ..errors import InputError
from ..sweep import point_key
from .notebook import check
from .run import NOTEBOOKS, check_name, execute

Job = tuple[str, dict[str, Any]]  # step and parameters


def run(plan: str, scheduler: str = "") -> Path:
    """Run the jobs of a plan that have no page in reports/batch-<plan>/; return that folder.

    The workers of a cluster share the folder. A job that fails is reported at the end, and the
    others go on.

    Raises:
        InputError: as `jobs`, no such scheduler, or jobs that failed.
    """
    place = files.reports_folder().resolve() / f"batch-{Path(plan).stem}"
    wanted, failed = jobs(plan), []
    done = {name for name, (step, _) in wanted.items()
            if (place / name / f"{NOTEBOOKS[step]}.html").exists()}  # fmt: skip
    print(
        f"{len(wanted) - len(done)} of {len(wanted)} jobs to do, into {files.display_path(place)}"
    )
    with parallel.executor(scheduler) as workers:
        futures = {workers.submit(_perform, *wanted[name], place / name): name
                   for name in wanted if name not in done}  # fmt: skip
        for future in as_completed(futures):
            name, error = futures[future], future.exception()
            said = " ".join(str(error or "done").split()) or type(error).__name__
            print(f"{name}: {said}", flush=True)
            failed += [f"{name} ({said})"] if error else []
    if failed:
        raise InputError(f"{len(failed)} of {len(wanted)} jobs failed: {'; '.join(failed)}.")
    return place


def jobs(path: str) -> dict[str, Job]:
    """The jobs of the plan at `path`, by folder: a name, and the hash of the checked parameters.

    Raises:
        InputError: no plan, an unknown key, a bad value, a file that does not exist.
    """
    found, steps = {}, {notebook: step for step, notebook in NOTEBOOKS.items()}
    for name, changes in params.read_plan(path).items():
        check_name(name)
        notebook, where = changes.pop("notebook", "1_train"), f"{path}: {name}"
        if notebook not in [*steps]:
            known = f"must be one of {', '.join(steps)}"
            raise InputError(f"{where}: notebook is {params.brief(notebook)}, but {known}.")
        step = steps[notebook]
        values = params.read_yaml(str(changes.pop("file", f"params/{step}.yaml")))
        if "run_dir" in changes or [] in changes.values():
            raise InputError(f"{where}: run_dir and empty lists make no job: leave them out.")
        lists = [value if isinstance(value, list) else [value] for value in changes.values()]
        for point in itertools.product(*lists):
            chosen = dict(zip(changes, point, strict=True))
            p = check(step, {**values, **chosen, "run_dir": ""}, where).model_dump()
            if "checkpoint" in p:
                p["checkpoint"] = files.relative_to_root(files.resolve(p["checkpoint"]).resolve())
            found[f"{name}-{point_key(p)}"] = step, p
    return found


def _perform(step: str, parameters: dict[str, Any], folder: Path) -> None:
    files.delete(folder)  # with all that an earlier attempt left there
    params.record(files.run_folder(str(folder), ""), step, parameters)
    with contextlib.redirect_stdout(io.StringIO()):
        execute(step, parameters, folder)
