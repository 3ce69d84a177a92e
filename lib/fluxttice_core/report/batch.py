"""Many runs: the jobs of a plan, on the cores of this machine or on a Dask cluster.

A plan is YAML, `name: {notebook: …, file: …, parameter: value, …}` a line: a notebook (1_train by
default), its parameter file, and what is changed in it. A list is a grid: a job for each of its
values, and for each combination of several lists. (Where the file itself has a list, as `ns` is,
a list is that parameter's one value.)

A job is a function of bytes, the notebook and the parameters, to bytes, all that its run folder
holds, so machines share no disk. It knows nothing of other jobs: figures and weights are the same
whoever computes it, and when.
"""

import contextlib
import io
import itertools
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, wait
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from .. import files, parallel, params
from ..errors import InputError
from . import preamble, status
from .job import NOTEBOOKS, execute, scratch, sweep

STEPS = {notebook: step for step, notebook in NOTEBOOKS.items()}
READ = ("checkpoint",)  # parameters that name files
TRIES = 2
WAIT = 5  # seconds for a scheduler
PACKAGES = ("model", "metrics", "checkpoints", "training", "certification", "report")
parallel.IMPORTED.append(__name__)
_ONE = threading.Lock()  # in a process: a job is in a folder of its own, and a process in one


class Job(NamedTuple):
    """`given` are the files it reads by their path from where it runs, the notebook among them;
    `code` is the hash of the library that it is meant for; `entry` its name in the plan."""

    name: str
    entry: str
    notebook: str
    parameters: dict[str, Any]
    given: dict[str, bytes]
    code: str

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-.")

    @property
    def key(self) -> str:
        """sha256 of everything that it depends on."""
        given = {name: files.sha256(data) for name, data in self.given.items()}
        parts = [self.notebook, self.parameters, given, self.code]
        return files.sha256(json.dumps(parts, sort_keys=True).encode())


def jobs(path: str) -> list[Job]:
    """Every job of the plan at `path`, checked: nothing starts before all of them are.

    Raises:
        InputError: no plan, an unknown key, a bad value, a file that is not there.
    """
    found: dict[str, Job] = {}
    for entry, changes in params.read_plan(files.find(path)).items():
        for job in _grid(entry, changes, f"{path}: {entry}"):
            if found.setdefault(job.folder, job) is not job:
                raise InputError(f"{path} has two jobs for the folder {job.folder}: name them so.")
    return list(found.values())


def _grid(entry: str, changes: dict[str, Any], where: str) -> Iterator[Job]:
    notebook = changes.pop("notebook", "1_train")
    if notebook not in [*STEPS]:
        raise InputError(
            f"{where}: notebook is {params.brief(notebook)}, but must be one of {', '.join(STEPS)}."
        )
    step, file = STEPS[notebook], changes.pop("file", f"params/{STEPS[notebook]}.yaml")
    values = params.read_yaml(files.find(str(file)))
    if changes.get("run_dir"):
        raise InputError(f"{where}: run_dir is set, but here it is the job's own: leave it out.")
    lists = {
        name: value
        for name, value in changes.items()
        if isinstance(value, list) and not isinstance(values.get(name), list)
    }
    if [] in lists.values():
        raise InputError(f"{where}: an empty list makes no job: give it a value.")
    source = files.root() / "notebooks" / f"{notebook}.ipynb"
    given = {f"notebooks/{notebook}.ipynb": source.read_bytes()}
    code = files.code_hash(*PACKAGES)
    for point in itertools.product(*lists.values()):
        chosen = dict(zip(lists, point, strict=True))
        name = ", ".join([entry, *(f"{key} {value}" for key, value in chosen.items())])
        p = preamble.check(step, {**values, **changes, **chosen, "run_dir": ""}, where)
        parameters, read = p.model_dump(exclude={"run_dir"}), dict(given)
        for key in READ:
            if parameters.get(key) or (key in parameters and key == "checkpoint"):
                place = files.existing(parameters[key])
                parameters[key] = files.shown(place)
                for path in place.iterdir() if place.is_dir() else [place]:
                    within = path.relative_to(place).as_posix()
                    read[f"{parameters[key]}/{within}".removesuffix("/.")] = files.read_file(path)
        yield Job(name, entry, notebook, parameters, read, code)


def perform(job: Job) -> dict[str, bytes]:
    """Run one job here and now, in a folder that is gone afterwards; its files by path.

    Raises:
        StepFailed: the notebook stopped.
        InputError: this library is not the one that the job is meant for.
    """
    if files.code_hash(*PACKAGES) != job.code:
        raise InputError("this worker has another version of fluxttice than the batch: refused.")
    torch.set_num_threads(1)
    with (
        _ONE,
        scratch() as place,
        contextlib.chdir(place),
        mock.patch.dict(os.environ, FLUXTTICE_REPORTS=place),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        files.write_all(Path(place), job.given)
        Path("run").mkdir()
        execute(job.notebook, {**job.parameters, "run_dir": "run"}, "run")
        paths = [path for path in Path("run").rglob("*") if path.is_file()]
        return {path.relative_to("run").as_posix(): path.read_bytes() for path in paths}


def run(plan: str, scheduler: str = "") -> Path:
    """Every job of a plan into a folder of its own under reports/<UTC date>/<HHMMSS>-batch/.

    A batch of the same jobs, by the same code, goes on in the folder where it stopped; what is
    there is not run again.

    Raises:
        InputError: as `jobs` and `each`.
    """
    wanted = jobs(plan)
    record = (json.dumps({job.name: job.key for job in wanted}, indent=2) + "\n").encode()
    earlier = sorted(files.reports_folder().glob("*/*-batch*/batch.json"), reverse=True)
    folder = next((path.parent for path in earlier if path.read_bytes() == record), None)
    if folder is None:
        folder = files.run_folder("", "batch")
        files.write_bytes(folder / "batch.json", record)

    def keep(job: Job, contents: dict[str, bytes]) -> None:
        with files.new_folder(folder / job.folder, contents):
            pass

    with status.held(folder):
        missing = [job for job in wanted if not (folder / job.folder).is_dir()]
        print(f"{len(missing)} of {len(wanted)} jobs to do, into {files.shown(folder)}", flush=True)
        each(missing, perform, keep, scheduler)
    return folder


def each(
    wanted: Sequence[Job],
    function: Callable[[Job], Any],
    keep: Callable[[Job, Any], None],
    scheduler: str = "",
) -> None:
    """`function` of every job, on any machine; `keep` takes each result here as it comes.

    What fails or is killed is tried once more, then reported at the end, and the others go on.

    Raises:
        InputError: no such scheduler, or it is lost; jobs that failed, each with its reason.
    """
    sweep()
    began, done, failed = time.monotonic(), 0, []
    with _executor(scheduler) as workers:
        waiting = {workers.submit(function, job): (job, 1) for job in wanted}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                job, tries = waiting.pop(future)
                try:
                    found, said = future.result(), "done"
                except CancelledError:
                    raise InputError(
                        f"The scheduler at {scheduler} is gone; what was finished is stored: "
                        "run it again."
                    ) from None
                except Exception as error:
                    said = " ".join((str(error) or type(error).__name__).split())[-200:]
                    if tries < TRIES:
                        waiting[workers.submit(function, job)] = job, tries + 1
                        print(f"{job.name}: {said}; once more", flush=True)
                        continue
                    failed.append(f"{job.name} ({said})")
                else:
                    keep(job, found)
                done += 1
                left = len(wanted) - done
                minutes = (time.monotonic() - began) / done * left / 60
                print(f"{job.name}: {said}; {left} left, about {minutes:.0f} min", flush=True)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(wanted)} jobs failed, the others are stored: "
            f"{'; '.join(failed)}."
        )


@contextlib.contextmanager
def _executor(scheduler: str) -> Iterator[Executor]:
    """This machine's cores, or the workers of the Dask scheduler at that address."""
    if not scheduler:
        with parallel.Processes() as workers:
            yield workers
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it says, a sentence says
    from distributed import Client

    try:
        client = Client(scheduler, timeout=WAIT)
        client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError) as error:  # TimeoutError is the first
        reason = " ".join(str(error).split())
        raise InputError(f"No Dask scheduler with workers at {scheduler}: {reason}.") from None
    with client:
        yield client.get_executor(pure=False)
