"""What nbval cannot see: notebooks are plain Python, define nothing, mirror their parameters."""

import ast
import json

import pytest
from fluxttice_core import files
from fluxttice_core import params

ROOT = files.root()
PAIRS = {"1_train": "train", "2_benchmark": "benchmark", "3_certify": "certify"}


def code_cells(name: str) -> list[dict]:
    notebook = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def assigned(cell: dict) -> dict:
    body = ast.parse("".join(cell["source"])).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in body}


@pytest.mark.parametrize(("notebook", "yaml"), PAIRS.items())
def test_the_parameters_cell_holds_the_values_of_the_default_file(notebook, yaml):
    cell = code_cells(notebook)[0]
    assert cell["metadata"]["tags"] == ["parameters"]
    own = assigned(cell)
    assert own.pop("run_dir") == ""
    if notebook != "1_train":
        assert own.pop("checkpoint") == "checkpoints/certified"
    expected = params.read_yaml(ROOT / f"params/{yaml}.yaml")
    expected.pop("run_dir", None)
    assert own == expected


@pytest.mark.parametrize("notebook", PAIRS)
def test_code_is_plain_python_that_defines_nothing(notebook):
    """A magic that does not exist prints an error and passes nbval: none is used at all."""
    for cell in code_cells(notebook):
        tree = ast.parse("".join(cell["source"]))  # a magic is no Python
        assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]


@pytest.mark.parametrize("notebook", PAIRS)
def test_notebooks_are_committed_without_outputs(notebook):
    assert all(not c["outputs"] and c["execution_count"] is None for c in code_cells(notebook))


@pytest.mark.parametrize("notebook", PAIRS)
def test_every_notebook_asserts_and_says_its_limits(notebook):
    text = (ROOT / f"notebooks/{notebook}.ipynb").read_text(encoding="utf-8")
    assert any("assert " in "".join(cell["source"]) for cell in code_cells(notebook))
    assert "would refute" in text and ("## Limits" in text or "does not" in text)


@pytest.mark.parametrize("stem", ["train", "train_v5_5", "benchmark", "certify"])
def test_every_parameter_file_is_valid_and_every_key_is_read_by_the_library(stem):
    file = ROOT / f"params/{stem}.yaml"
    values = params.read_yaml(file)
    step = stem if stem in ("benchmark", "certify") else "train"
    extra = {} if step == "train" else {"checkpoint": ""}
    checked = params.check(step, {"run_dir": "", **extra, **values}, file.name)
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for pattern in ("lib/fluxttice_core/*.py", "notebooks/*.ipynb")
        for path in ROOT.glob(pattern)
        if path.name != "params.py"
    )
    unread = [key for key in type(checked).model_fields if f"p.{key}" not in code]
    assert unread in ([], ["recipe"]), f"keys that nothing reads: {unread}"
