"""Parameters: what each notebook takes, checked before anything runs.

A YAML file is flat and holds one notebook's parameters; the `parameters` cell of the notebook
holds the same keys as literals. Every key is used, and a key nobody uses is an error.
"""

import difflib
import json
import re
import reprlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

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


class _Yaml12(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where `017` is 15, `1:30` is 90, `1e-3` is text and `on` is true.
    Here plain scalars mean what YAML 1.2 says (10.3.2), and a key given twice is refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        None: [
            (f"tag:yaml.org,2002:{tag}", re.compile(rf"({pattern})\Z"))
            for tag, pattern in (
                ("null", r"|~|null|Null|NULL"),
                ("bool", r"true|True|TRUE|false|False|FALSE"),
                ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
                ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
            )
        ]
    }

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is given twice")
        return super().construct_mapping(node, deep)


_Yaml12.add_constructor("tag:yaml.org,2002:int", _Yaml12.construct_yaml_int)


class _Written(yaml.SafeDumper):
    """Quotes what `_Yaml12` would not read as text."""

    yaml_implicit_resolvers = _Yaml12.yaml_implicit_resolvers


def _apart(values: dict[str, Any]) -> dict[str, Any]:
    """What a run depends on: all but where it lies."""
    return {key: value for key, value in values.items() if key != "run_dir"}


def fingerprint(values: dict[str, Any]) -> str:
    """12 hexadecimal digits that change with any parameter but `run_dir`."""
    return files.sha256(json.dumps(_apart(values), sort_keys=True).encode())[:12]


def record(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Write the values in force as `folder`/<name>.params.yaml: a file papermill can rerun."""
    text = yaml.dump(_apart(values), Dumper=_Written, sort_keys=False, allow_unicode=True)
    files.write_bytes(folder / f"{name}.params.yaml", text.encode())


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A flat mapping of parameters from a YAML file.

    Raises:
        InputError: no such file, not YAML, not a mapping, nested, or with a tag.
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
    path = Path(path)
    if not path.is_file():
        raise InputError(f"No parameter file at {path}: give the path of a YAML file.")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.TagToken) for token in yaml.scan(text)):
            raise yaml.YAMLError("it has a tag, and plain values have none")
        return yaml.load(text, _Yaml12)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not readable as YAML: {reason}.") from None


def _flat(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(_is_flat(*item) for item in values.items()):
        raise InputError(f"{where} must be a flat mapping, one `name: value` a line.")
    return values


def _is_flat(name: Any, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return isinstance(name, str) and not any(isinstance(v, (dict, list)) for v in values)
