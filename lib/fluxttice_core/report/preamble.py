"""The first call of every notebook: its parameters checked, its run folder, what it measures."""

import ast
from pathlib import Path
from typing import Any

import torch

from .. import files, params
from ..checkpoints import folder as checkpoints
from ..metrics.gates import Certify
from ..metrics.measurement import Benchmark
from ..params import NonNegative, Params, Share
from ..training import recipes


class Evidence(Params):
    """What 4_evidence takes: what the default recipe must reach in every seed."""

    min_exact_match_sampled: Share
    max_rate: NonNegative


KINDS: dict[str, type[Params]] = {"benchmark": Benchmark, "certify": Certify, "evidence": Evidence}


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
    params.record(run, step, p)
    print(f"seed       {p.seed}\nrun folder {files.shown(run)}")
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
