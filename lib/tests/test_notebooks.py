"""What nbval cannot see: notebooks are plain Python, define nothing, mirror their parameters."""

import ast
import re

import nbformat
import pytest

from fluxttice_core import files, params
from fluxttice_core.report import preamble
from fluxttice_core.report.job import NOTEBOOKS

ROOT = files.root()
BEGIN = {name: f'begin_measuring("{step}")' for step, name in NOTEBOOKS.items()}
BEGIN |= {"1_train": 'begin("train")', "4_evidence": 'begin("evidence")'}
NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


def cells(name: str, kind: str = "code") -> list[nbformat.NotebookNode]:
    book = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    return [cell for cell in book.cells if cell.cell_type == kind]


def code(name: str) -> str:
    return "\n".join(cell.source for cell in cells(name))


def literals(name: str) -> dict:
    body = ast.parse(cells(name)[0].source).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in body}


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_cell_holds_literals_and_the_preamble_is_called_next_and_last(name):
    cell, following, *_, last = cells(name)
    assert cell.metadata.tags == ["parameters"] and cell.source.startswith("# parameters\n")
    calls, own = re.findall(r"preamble\.(\w+\(.*?\))", code(name)), literals(name)
    assert calls == [BEGIN[name], "end(run)"] and calls[0] in following.source
    assert last.source == "preamble.end(run)"
    assert own["run_dir"] == "" and own.get("checkpoint") in (None, "checkpoints/certified")
    preamble.check(re.findall(r'"(\w+)"', calls[0])[0], own, name)


@pytest.mark.parametrize("step, name", NOTEBOOKS.items())
def test_the_parameters_are_those_of_the_default_file(step, name):
    own, stated = literals(name), params.read_yaml(ROOT / f"params/{step}.yaml")
    apart = {key: own[key] for key in own.keys() & {"run_dir", "checkpoint"}}
    assert own == stated | apart
    assert all(type(own[key]) is type(value) for key, value in stated.items())


@pytest.mark.parametrize("name", NAMES)
def test_code_is_plain_python_that_defines_nothing_and_is_committed_without_outputs(name):
    """A magic that does not exist prints an error and passes nbval: none is used at all."""
    tree = ast.parse(code(name))  # a magic is no Python
    assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert not re.search(r"^\s*_ = ", code(name), re.M)
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_asks_says_what_would_refute_it_asserts_and_ends_with_its_limits(name):
    first, *_, last = (cell.source for cell in cells(name, "markdown"))
    assert first.startswith(f"# {name[0]} · ") and first.splitlines()[0].endswith("?")
    assert "What would refute" in first and "assert " in code(name)
    assert re.match(r"## (Limits|What this promises, and what it does not)\n", last)


def test_a_certificate_is_issued_only_after_everything_has_held():
    """Nothing may exist signed that the notebook then rejects: no assert after `issue`, and the
    verdict, the controls and the four refusals are asserted before it."""
    before, after = code("3_certify").split("certificate.issue(")
    assert "assert " not in after
    assert len(re.findall(r"^assert .+ in answers\[", before, re.M)) == 4
    assert 'assert stated.verdict == "PASS"' in before and "assert not passed" in before
