"""Parameters: what each notebook takes, checked before anything runs.

A YAML file is flat and holds one notebook's parameters; the `parameters` cell of the notebook
holds the same keys as literals. Every key is used, and a key nobody uses is an error.
"""

import difflib
import io
import json
import re
import reprlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from . import files
from .errors import InputError, printable


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _digest(value: Any) -> str:
    text = "" if value is None else str(value).strip().lower()
    if text and not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("must be a sha256, which has 64 hexadecimal digits, or empty")
    return text


# Text that means a number is one: papermill hands `1e-3` over as text. True is none.
Real = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_no_bool), Field(lt=2**63)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Digest = Annotated[str, BeforeValidator(_digest)]
PLAIN = str | int | float | None
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class Params(BaseModel):
    """Common to all notebooks. `run_dir` empty: a new dated folder under reports/.

    A field's `description` says why its upper bound is there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

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
        raise InputError(f"{where}: {_sentence(first, kind)}") from None


def _sentence(error: ErrorDetails, kind: type[Params]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, kind.model_fields, 1)
        hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(kind.model_fields)}."
        return f"unknown parameter {printable(name)}; {hint}"
    if error["type"] == "missing":
        return f"parameter {name} is missing."
    problem = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    why = kind.model_fields[str(error["loc"][0])].description
    reason = f" ({why})" if why and error["type"] == "less_than_equal" else ""
    return f"{name} {problem[0].lower()}{problem[1:]}{reason}, but is {brief(error['input'])}."


def brief(value: object) -> str:
    """A bad value, fit for a sentence."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def _yaml() -> YAML:
    """YAML 1.2 of plain values: `017` is 17, `on` is text, and a name given twice is an error."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml


def without_run_dir(values: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a run's results depend on."""
    return {key: value for key, value in values.items() if key != "run_dir"}


def config_hash(values: dict[str, Any]) -> str:
    """12 hexadecimal digits that change with any parameter but `run_dir`."""
    return files.sha256(json.dumps(without_run_dir(values), sort_keys=True).encode())[:12]


def record(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Write the values in force as `folder`/<name>.params.yaml: a file papermill can rerun."""
    text = io.BytesIO()
    _yaml().dump(without_run_dir(values), text)
    files.write_bytes(folder / f"{name}.params.yaml", text.getvalue())


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A flat mapping of parameters from a YAML file.

    Raises:
        InputError: no such file, not YAML 1.2, a name given twice, not a mapping, or nested.
    """
    return _flat(_read(path), str(path))


def profile_of(values: dict[str, Any]) -> str:
    """The name of the params/certify*.yaml that has exactly the bounds in `values`; "" if none.

    Bounds are the parameters that begin with min_ or max_.
    """
    wanted = _bounds(values)
    for place in sorted(files.root().glob("params/certify*.yaml")):
        if wanted and _bounds_in(place, place.stat().st_mtime_ns) == wanted:
            return place.stem
    return ""


@cache  # because the page of all runs compares every run with it
def _bounds_in(place: Path, _changed: int) -> dict[str, Any]:
    try:
        return _bounds(read_yaml(place))
    except InputError:  # a file that is being edited is no profile
        return {}


def _bounds(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k.startswith(("min_", "max_"))}


def read_plan(path: str | Path) -> dict[str, dict[str, Any]]:
    """A mapping of names to flat mappings, as a batch's plan is; raises as `read_yaml`."""
    plan = _read(path)
    entries = plan.items() if isinstance(plan, dict) else ()
    if not entries or not all(isinstance(k, str) and isinstance(v, dict) for k, v in entries):
        raise InputError(f"{path} must be a plan: `name: {{parameter: value, …}}` a line.")
    return {name: _flat(values, f"{path}: {name}") for name, values in plan.items()}


def _read(path: str | Path) -> Any:
    place = files.resolve(path, "parameter file")
    try:
        return _yaml().load(place.read_text(encoding="utf-8"))
    except (YAMLError, ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is not readable as YAML: {_problem(error)}.") from None


def _problem(error: Exception) -> str:
    """The parser's reason and its line, without the excerpt of the file that it adds."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join((getattr(error, "strerror", "") or str(error)).split())


def _flat(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(_is_flat(*item) for item in values.items()):
        raise InputError(
            f"{where} must be a flat mapping, one `name: value` a line, of plain values (a date "
            "needs quotes)."
        )
    return values


def _is_flat(name: Any, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return isinstance(name, str) and all(isinstance(v, PLAIN) for v in values)
