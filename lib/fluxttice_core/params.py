"""Parameters of the notebooks, checked before anything runs.

A YAML file is flat and holds one notebook's parameters; the `parameters` cell of the notebook
holds the same keys as literals. An unknown key is an error.
"""

import difflib
import io
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


def record(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Write `folder`/<name>.params.yaml, which papermill can rerun: all `values` but `run_dir`."""
    text = io.BytesIO()
    _yaml().dump({key: value for key, value in values.items() if key != "run_dir"}, text)
    files.write_bytes(folder / f"{name}.params.yaml", text.getvalue())


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A flat mapping of parameters from a YAML file.

    Raises:
        InputError: no such file, not YAML 1.2, a name given twice, not a mapping, or nested.
    """
    return _flat(_read(path), str(path))


def read_plan(path: str | Path) -> dict[str, dict[str, Any]]:
    """A mapping of names to flat mappings, as a batch's plan is; raises as `read_yaml`."""
    plan = _read(path)
    if not plan or not isinstance(plan, dict) or not all(isinstance(name, str) for name in plan):
        raise InputError(f"{path} must be a plan: `name: {{parameter: value, …}}` a line.")
    return {name: _flat(values, f"{path}: {name}") for name, values in plan.items()}


def profile_of(values: dict[str, Any]) -> str:
    """The name of the params/certify*.yaml that has exactly the bounds in `values`; "" if none.

    Bounds are the parameters that begin with min_ or max_.
    """
    profiles = _profiles(files.root() / "params")
    return next((name for name, bounds in profiles.items() if bounds == _bounds(values) != {}), "")


@cache  # because the page of all runs asks for every run
def _profiles(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: _bounds(read_yaml(path)) for path in sorted(folder.glob("certify*.yaml"))}


def _bounds(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k.startswith(("min_", "max_"))}


def _read(path: str | Path) -> Any:
    place = files.resolve(path, "parameter file")
    try:
        return _yaml().load(place.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:  # it also quotes the file
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = f"line {line}: {error.problem}"
    except RecursionError:
        problem = "it is nested too deeply"
    except (YAMLError, ValueError, OSError) as error:
        problem = " ".join((getattr(error, "strerror", "") or str(error)).split())
    raise InputError(f"{path} is not readable as YAML: {problem}.")


def _flat(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(_is_flat(*item) for item in values.items()):
        raise InputError(
            f"{where} must be a flat mapping, one `name: value` a line, of plain values (a date "
            "needs quotes)."
        )
    return values


def _is_flat(name: Any, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return isinstance(name, str) and all(isinstance(v, str | int | float | None) for v in values)
