"""Parameters: what each notebook takes, checked before anything runs.

A YAML file is flat and holds one notebook's parameters; the `parameters` cell of the notebook
holds the same keys as literals. Every key is used, and a key nobody uses is an error.
"""

import contextlib
import difflib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from .errors import InputError


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


P = TypeVar("P", bound=Params)


def check(kind: type[P], values: dict[str, Any], where: str) -> P:
    """`values` as validated parameters of that kind.

    Raises:
        InputError: an unknown, missing, mistyped or out-of-range parameter, named, with `where`.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        # A misspelt name is also a missing one: the name that is there says which.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise InputError(_sentence(first, kind, where)) from None


def _sentence(error: ErrorDetails, kind: type[Params], where: str) -> str:
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
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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
