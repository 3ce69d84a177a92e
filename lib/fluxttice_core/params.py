"""Parameters: what each notebook takes, checked before anything runs.

A YAML file is flat and holds one notebook's parameters; the `parameters` cell of the notebook
holds the same keys as literals. Every key is used, and a key nobody uses is an error.
"""

import ast
import contextlib
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from .errors import InputError
from .metrics.marginal import FEWEST, GROUPS
from .model.operations import SPLIT_SIZES


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as a string: take it as the number it means. True is no number."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, str):
        for kind in (int, float):  # an int first: a float would round a large seed
            with contextlib.suppress(ValueError):
                return kind(value)
        raise ValueError("must be a number")
    return value


def _not_null(value: Any) -> Any:
    return "" if value is None else value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Count = Annotated[Whole, Field(ge=1)]
Latents = Annotated[Whole, Field(ge=FEWEST, multiple_of=GROUPS)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Text = Annotated[str, BeforeValidator(_not_null)]


class Params(BaseModel):
    """Common to all notebooks. `run_dir` empty: a new dated folder under reports/."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    seed: Seed
    run_dir: Text


class Train(Params):
    """Common to all recipes. Epochs count from 0."""

    split_seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    epochs: Count
    patience: Count
    keep_every: Count
    coverage_n: Annotated[Count, Field(le=50_000)]
    min_score: Share
    batch_size: Annotated[Whole, Field(ge=2, le=SPLIT_SIZES["train"])]


class TrainStraight(Train):
    """The `straight` recipe: see `train_straight`."""

    recipe: Literal["straight"]
    prior_size: Annotated[Whole, Field(ge=8, multiple_of=2)]
    lr: Positive
    warmup_share: Annotated[Positive, Field(le=1)]
    adam_beta2: Annotated[Share, Field(lt=1)]
    looks_linear: bool
    ramp_start: Share
    beta_start: Positive
    beta_end: Positive
    beta_ramp_end: Share
    uniformity_weight: NonNegative
    uniformity_scale: Positive
    straightness_weight: NonNegative
    logit_scale: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.ramp_start >= self.beta_ramp_end:
            raise ValueError("ramp_start must be below beta_ramp_end")
        return self


class TrainV55(Train):
    """The v5.5 recipe: see `train_v5_5`."""

    recipe: Literal["v5_5"]
    weight_decay: NonNegative
    grad_clip: Positive
    lr_epochs: list[Annotated[Whole, Field(ge=0)]]
    lr_values: list[Positive]
    cycle_epochs: Count
    late_epoch: Count
    temp_epochs: Count
    temp_A_start: Positive
    temp_A_end: Positive
    temp_A_cycle_share: NonNegative
    temp_A_late_amplitude: NonNegative
    temp_A_floor: Positive
    temp_B_start: Positive
    temp_B_end: Positive
    temp_B_lag: Annotated[Whole, Field(ge=0)]
    temp_B_late: Positive
    rho_start: Share
    rho_hold: Share
    rho_late: Share
    rho_ramp_epoch: Count
    rho_hold_epoch: Count
    rho_rise_epochs: Count
    beta_warmup_epochs: Count
    beta_epochs: Count
    beta_start: NonNegative
    beta_end: NonNegative
    beta_B_phase: NonNegative
    free_bits: NonNegative
    output_entropy_weight: NonNegative
    repulsion_weight: NonNegative
    repulsion_width: Positive
    scale_min: Positive
    scale_max: Positive
    lambda_start: Positive
    lambda_min: Positive
    lambda_max: Positive
    lambda_step: NonNegative
    lambda_up: Positive
    lambda_down: Positive
    lambda3_mean: NonNegative
    lambda3_amplitude: NonNegative
    lambda3_min: NonNegative
    lambda3_max: NonNegative
    balance_low: Positive
    balance_high: Positive
    coverage_low: Positive
    coverage_high: Positive
    ema_balanced: Share
    ema_unbalanced: Share
    statenet: bool
    statenet_lr_scale: NonNegative
    statenet_lambda_scale: NonNegative
    lr_min: Positive
    lr_max: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        starts = self.lr_epochs
        if len(starts) != len(self.lr_values) or starts != sorted({0, *starts}):
            raise ValueError("lr_epochs must rise from 0 and be as many as lr_values")
        for low, high in (
            ("rho_ramp_epoch", "rho_hold_epoch"), ("scale_min", "scale_max"), ("lr_min", "lr_max"),
            ("lambda_min", "lambda_max"), ("lambda3_min", "lambda3_max"),
            ("balance_low", "balance_high"), ("coverage_low", "coverage_high"),
        ):  # fmt: skip
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} must be below {high}")
        return self


class Benchmark(Params):
    """`checkpoint` is a folder of ours or a v5.5 `.pt`; `ns` are numbers of draws."""

    checkpoint: Text
    expected_sha256: Text
    split_seed: Seed
    k: Latents
    ns: Annotated[list[Annotated[Count, Field(le=195_000)]], Field(min_length=1)]
    trials: Annotated[Whole, Field(ge=5)]
    untrained_seed: Seed
    speed_repeats: Annotated[Whole, Field(ge=3)]


class Certify(Params):
    """Bounds are parameters too. Shares: of the test operations, of 9·ln 3, of M or of C(N)."""

    checkpoint: Text
    expected_sha256: Text
    split_seed: Seed
    k: Latents
    untrained_seed: Seed
    min_exact_match_test: Share
    min_exact_match_test_sampled: Share
    min_coverage_50000: Share
    min_coverage_50000_of_ceiling: Share
    min_coverage_195000_of_ceiling: Share
    min_information_share: Share


RECIPES: dict[str, type[Train]] = {"straight": TrainStraight, "v5_5": TrainV55}


def check(notebook: str, values: dict[str, Any], where: str) -> Params:
    """`values` as validated parameters of "train", "benchmark" or "certify".

    Raises:
        InputError: an unknown, missing, mistyped or out-of-range parameter, named, with `where`.
    """
    kind = {"benchmark": Benchmark, "certify": Certify}.get(notebook) or _recipe(values, where)
    try:
        return kind(**values)
    except ValidationError as error:
        # A misspelt name is also a missing one: the name that is there says which.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise InputError(_sentence(first, kind, where)) from None


def _recipe(values: dict[str, Any], where: str) -> type[Params]:
    name = values.get("recipe")
    if not isinstance(name, str) or name not in RECIPES:
        raise InputError(f"{where}: recipe is {name!r}, but must be one of {', '.join(RECIPES)}.")
    return RECIPES[name]


def _sentence(error: dict[str, Any], kind: type[Params], where: str) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, kind.model_fields, 1)
        hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(kind.model_fields)}."
        return f"{where}: unknown parameter {name}; {hint}"
    if error["type"] == "missing":
        return f"{where}: parameter {name} is missing."
    problem = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not name:
        return f"{where}: {problem}."
    return f"{where}: {name} {problem[0].lower()}{problem[1:]}, but is {error['input']!r}."


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A flat mapping of parameters from a YAML file.

    Raises:
        InputError: no such file, not YAML, not a mapping, or nested.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"No parameter file at {path}: give the path of a YAML file.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _NoRepeats)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not readable as YAML: {reason}.") from None
    if not isinstance(values, dict) or not all(_is_flat(*item) for item in values.items()):
        raise InputError(f"{path} must be a flat mapping, one `name: value` a line.")
    return values


class _NoRepeats(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is given twice")
        return super().construct_mapping(node, deep)


def _is_flat(name: Any, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return isinstance(name, str) and not any(isinstance(v, (dict, list)) for v in values)


def from_notebook(notebook: str) -> Params:
    """The running notebook's parameters, validated: call it in the cell after `parameters`.

    It looks at the cells that assign parameters (the notebook's own starts with "# parameters",
    the one papermill injects below it with "# Parameters"), so that a misspelt name is an error
    instead of a variable nobody reads.
    """
    from IPython import get_ipython

    shell = get_ipython()
    own = _assigned(_last_cell(shell.user_ns["In"], "# parameters"))
    given = _assigned(_last_cell(shell.user_ns["In"], "# Parameters"))
    if not own:  # nbval runs cells without a history, in a fresh kernel: whatever is there
        own = [name for name, value in shell.user_ns.items() if _is_parameter(shell, name, value)]
    names = given if "recipe" in given else [*own, *given]  # another recipe has other parameters
    values = {name: shell.user_ns[name] for name in dict.fromkeys(names)}
    return check(notebook, values, f"notebook {notebook}")


def _is_parameter(shell: Any, name: str, value: Any) -> bool:
    literal = isinstance(value, (str, int, float, list, dict, type(None)))
    return literal and not name.startswith("_") and name not in shell.user_ns_hidden


def _last_cell(history: list[str], first_words: str) -> str:
    return next((source for source in reversed(history) if source.startswith(first_words)), "")


def _assigned(source: str) -> list[str]:
    """Names that a cell assigns at its top level."""
    names = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
