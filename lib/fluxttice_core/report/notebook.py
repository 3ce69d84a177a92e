"""The first call of every notebook, and the one by which a notebook fails its verdict."""

import ast
import signal
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from .. import files, parallel, params
from ..benchmark import Benchmark
from ..checkpoints import folder as checkpoints
from ..errors import ThresholdMissed
from ..metrics.gates import Certify
from ..params import Digest, NonNegative, Params, Seed, Share, Text, Whole
from ..training import loop


class Evidence(Params):
    """Parameters of 4_evidence: the bounds for the default recipe's worst seed."""

    seed: Seed
    min_exact_match_sampled: Share
    max_rate: NonNegative


class Lineage(Params):
    """Parameters of 5_lineage. `draws`: posterior samples of each operation and encoder."""

    seed: Seed
    checkpoint: Text
    expected_sha256: Digest
    split_seed: Seed
    untrained_seed: Seed
    draws: Annotated[Whole, Field(ge=2, le=1_000)]


# The parameters of 1_train depend on its recipe: see `check`.
KINDS: dict[str, type[Params]] = {
    "benchmark": Benchmark, "certify": Certify, "evidence": Evidence, "lineage": Lineage,
}  # fmt: skip


def check(step: str, values: dict[str, Any], where: str) -> Any:
    """`values` as the parameters of a step: "train" or a name in KINDS.

    Raises:
        InputError: an unknown recipe, or as `params.check`.
    """
    return params.check(KINDS.get(step) or loop.parameters(values, where), values, where)


def begin(step: str) -> tuple[Any, Path]:
    """The running notebook's parameters, and its run folder, where they are recorded.

    Raises:
        InputError: a bad parameter, or a folder that cannot be written.
    """
    p = check(step, _parameters(step), f"notebook {step}")
    # A scheduler sends SIGTERM to every process. As an interrupt, it lets training keep its best
    # epoch so far.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)  # as in the workers, so that figures do not depend on the machine
    run_dir = files.run_folder(p.run_dir, step)
    params.record(run_dir, step, p.model_dump())
    parallel.start()
    environment = ", ".join(f"{name} {found}" for name, found in files.environment().items())
    seed = dict(p).get("seed", "follows from the weights")
    print(f"seed       {seed}\nrun folder {files.display_path(run_dir)}\nenvironment {environment}")
    return p, run_dir


def begin_measuring(step: str) -> tuple[Any, Path, checkpoints.Checkpoint]:
    """As `begin`, and the checkpoint that the parameters name: an empty name is the run's own.

    Raises:
        InputError: as `begin` and `checkpoints.folder.load`, or the checkpoint was trained on
            another split than that of `split_seed`.
    """
    p, run_dir = begin(step)
    loaded = checkpoints.load(p.checkpoint or run_dir / "checkpoint", p.expected_sha256)
    split = checkpoints.check_split(loaded, p.split_seed)
    print(f"checkpoint {loaded.path}\nsha256     {loaded.sha256}\nepoch      {loaded.epoch}")
    print(f"split      {split}")
    for vae in set(loaded.model.encoders) - set(loaded.model.vaes):
        print(f"VAE-{vae}      not measured: {loaded.model.layout} has no decoder {vae}")
    return p, run_dir, loaded


def require(ok: bool, sentence: str) -> None:
    """Fail the notebook's verdict with `sentence`, unless `ok`. An `assert` can be switched off."""
    if not ok:
        raise ThresholdMissed(sentence)


def _parameters(step: str) -> dict[str, Any]:
    """The notebook's variables that are parameters, and everything that papermill has injected.

    An injected name that is no parameter is kept, so that `check` refuses it. With an injected
    recipe only injected values count, because the notebook's own cell belongs to another recipe.
    """
    from IPython import get_ipython

    variables = get_ipython().user_ns
    cells = [cell for cell in variables["In"] if cell.startswith("# Parameters")]
    nodes = [node for cell in cells[-1:] for node in ast.walk(ast.parse(cell))]
    names = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    if "recipe" not in names:
        kind = KINDS.get(step) or loop.parameters(variables, f"notebook {step}")
        names += kind.model_fields
    return {name: variables[name] for name in names if name in variables}
