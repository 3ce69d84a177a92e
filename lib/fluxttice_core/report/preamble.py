"""The first call of every notebook: its parameters checked, its run folder, what it measures.
And the last one, which alone makes a run complete."""

import ast
import html
import logging
import signal
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from .. import files, parallel, params
from ..checkpoints import folder as checkpoints
from ..metrics.gates import Certify
from ..metrics.measurement import Benchmark
from ..params import Digest, NonNegative, Params, Seed, Share, Text, Whole
from ..training import recipes
from . import index, status
from .status import State

BANNER = (
    '<p role="status" style="border-left: 6px solid {colour}; padding: 0.4em 1em; '
    'background: {colour}22"><b>{title}</b> {text}</p>'
)
_running: dict[str, Path] = {}  # the step of this kernel's notebook, and its run folder


class Evidence(Params):
    """What 4_evidence takes: what the default recipe must reach in every seed."""

    min_exact_match_sampled: Share
    max_rate: NonNegative


class Lineage(Params):
    """What 5_lineage takes. `draws`: posterior samples of all operations, of each encoder."""

    checkpoint: Text
    expected_sha256: Digest
    split_seed: Seed
    untrained_seed: Seed
    draws: Annotated[Whole, Field(ge=2, le=1_000)]


KINDS: dict[str, type[Params]] = {
    "benchmark": Benchmark,
    "certify": Certify,
    "evidence": Evidence,
    "lineage": Lineage,
}


def check(step: str, values: dict[str, Any], where: str) -> Params:
    """`values` as the parameters of "train", "benchmark" or "certify".

    Raises:
        InputError: as `params.check`.
    """
    kind = KINDS.get(step) or recipes.parameters(values, where)
    return params.check(kind, values, where)


def begin(step: str) -> tuple[Any, Path]:
    """The running notebook's parameters, and the run folder they are recorded in.

    Raises:
        InputError: a bad parameter, or a folder that cannot be written.
    """
    p = check(step, _in_notebook(), f"notebook {step}")
    torch.set_num_threads(1)  # as in the workers: see `parallel`
    run = files.run_folder(p.run_dir, step)
    params.record(run, step, p.model_dump())
    _watch(step, run)
    parallel.start()
    libraries = ", ".join(f"{name} {found}" for name, found in files.environment().items())
    print(f"seed       {p.seed}\nrun folder {files.shown(run)}\nlibraries  {libraries}")
    return p, run


def begin_measuring(step: str) -> tuple[Any, Path, checkpoints.Checkpoint]:
    """As `begin`, and the checkpoint that the parameters name.

    Raises:
        InputError: as `begin` and `checkpoints.folder.load`, or a checkpoint that was trained on
            another split than the one of `split_seed`.
    """
    p, run = begin(step)
    loaded = checkpoints.load(p.checkpoint, p.expected_sha256)
    recorded = checkpoints.check_split(loaded, p.split_seed)["trained_on"]
    print(f"checkpoint {loaded.path}\nsha256     {loaded.sha256}\nepoch      {loaded.epoch}")
    print(f"split      {recorded}")
    model = loaded.model
    for vae in set(model.encoders) - set(model.vaes):
        print(f"VAE-{vae}      encoder {vae} has no decoder in this layout: {model.layout}")
    return p, run, loaded


def end(run: Path) -> None:
    """The last call of every notebook: nothing above it failed, so its page may say so."""
    _say(run, "complete")
    _running.clear()  # what is tried in the notebook afterwards is no part of the run


def banner(state: State, reason: str, link: str = "") -> str:
    """The HTML that tells a reader at once what a page is of."""
    title, colour = {
        "running": ("Not finished.", "#b7791f"),
        "complete": ("Complete.", "#1a7f37"),
        "failed": ("Failed.", "#c1121f"),
        "interrupted": ("Interrupted.", "#c1121f"),
    }[state]
    return BANNER.format(title=title, colour=colour, text=f"{html.escape(reason)} {link}")


def _watch(step: str, run: Path) -> None:
    """From here on, page and folder say that this notebook has not finished, until `end`.

    Where a job holds the folder, it keeps the status. SIGTERM is Ctrl-C here, too: a scheduler
    sends it to every process of a job, and what `finally` would save is then saved.
    """
    from IPython import get_ipython

    _running.clear()
    _running[step] = run
    status.hold(run)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of a task that ends with the kernel
    get_ipython().events.register("post_run_cell", _after_cell)
    _say(run, "running", "This page is of a run that has not come to its end.")


def _after_cell(result: Any) -> None:
    error = result.error_in_exec
    for step, run in _running.items() if error else ():
        if isinstance(error, KeyboardInterrupt):
            _say(run, "interrupted", f"{step} was interrupted.")
        else:
            _say(run, "failed", f"{step} stopped: {type(error).__name__}: {error}")


def _say(run: Path, state: State, reason: str = "") -> None:
    """Change the banner below the first call and, where no job keeps it, the folder's status."""
    from IPython.display import HTML, display

    mine = status.hold(run)
    link = "" if mine else '<a href="../../index.html">All runs</a>'  # a job puts the page there
    shown = HTML(banner(state, reason, link))
    display(shown, display_id="fluxttice", update=state != "running")
    if state != "running":
        parallel.stop()
    if mine:
        status.write(run, state, dict.fromkeys(_running, state), reason)
        index.write()


def _in_notebook() -> dict[str, Any]:
    """The running notebook's parameters by name: call it in the cell after `parameters`.

    It looks at the cells that assign parameters (the notebook's own starts with "# parameters",
    the one papermill injects below it with "# Parameters"), so that a misspelt name is an error
    instead of a variable nobody reads.
    """
    from IPython import get_ipython

    shell = get_ipython()
    known, cells = shell.user_ns, shell.user_ns["In"]
    own, given = _assigned(cells, "# parameters"), _assigned(cells, "# Parameters")
    if not own:  # nbval runs cells without a history, in a fresh kernel: whatever is there
        literal = (str, int, float, list, dict, type(None))
        mine = known.keys() - shell.user_ns_hidden.keys()
        own = [name for name in known if name in mine and isinstance(known[name], literal)]
        own = [name for name in own if not name.startswith("_")]
    names = given if "recipe" in given else [*own, *given]  # another recipe has other parameters
    return {name: known[name] for name in dict.fromkeys(names)}


def _assigned(cells: list[str], first_words: str) -> list[str]:
    """Names that the last cell which starts with `first_words` assigns."""
    source = next((cell for cell in reversed(cells) if cell.startswith(first_words)), "")
    names = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    return [node.id for node in names if isinstance(node.ctx, ast.Store)]
