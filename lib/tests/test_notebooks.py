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


def cells(name: str, kind: str) -> list[nbformat.NotebookNode]:
    book = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    return [cell for cell in book.cells if cell.cell_type == kind]


def code(name: str) -> str:
    return "\n".join(cell.source for cell in cells(name, "code"))


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_cell_holds_literals_and_the_preamble_is_called_next_and_last(name):
    cell, following = cells(name, "code")[:2]
    assert cell.metadata.tags == ["parameters"] and cell.source.startswith("# parameters\n")
    own = literals(cell)
    calls = re.findall(r"preamble\.(\w+\(.*?\))", code(name))
    assert calls == [BEGIN[name], "end(run)"] and calls[0] in following.source
    assert cells(name, "code")[-1].source == "preamble.end(run)"
    assert own["run_dir"] == "" and own.get("checkpoint") in (None, "checkpoints/certified")
    preamble.check(re.findall(r'"(\w+)"', calls[0])[0], own, name)


def literals(cell):
    return {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}


@pytest.mark.parametrize("step, name", NOTEBOOKS.items())
def test_the_parameters_are_those_of_the_default_file(step, name):
    own, stated = literals(cells(name, "code")[0]), params.read_yaml(ROOT / f"params/{step}.yaml")
    assert {k: v for k, v in own.items() if k not in ("run_dir", "checkpoint")} == {
        k: v for k, v in stated.items() if k != "run_dir"
    }
    assert all(type(own[key]) is type(value) for key, value in stated.items())


@pytest.mark.parametrize("name", NAMES)
def test_code_is_plain_python_that_defines_nothing(name):
    """A magic that does not exist prints an error and passes nbval: none is used at all."""
    tree = ast.parse(code(name))  # a magic is no Python
    assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert not re.search(r"^\s*_ = ", code(name), re.M)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_asks_says_what_would_refute_it_asserts_and_ends_with_its_limits(name):
    texts = [cell.source for cell in cells(name, "markdown")]
    first, last = texts[0], texts[-1]
    assert first.startswith(f"# {name[0]} · ") and first.splitlines()[0].endswith("?")
    assert "What would refute" in first and "assert " in code(name)
    assert re.match(r"## (Limits|What this promises, and what it does not)\n", last)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_committed_without_outputs(name):
    assert all(not c.outputs and c.execution_count is None for c in cells(name, "code"))


def test_a_certificate_is_issued_only_after_everything_has_held():
    """Nothing may exist signed that the notebook then rejects: no assert after `issue`, and the
    verdict, the controls and the four refusals are asserted before it."""
    sources = [cell.source for cell in cells("3_certify", "code")]
    [issued] = [i for i, source in enumerate(sources) if "certificate.issue(" in source]
    asserts = {i: source for i, source in enumerate(sources) if "assert " in source}
    assert max(asserts) < issued
    before = "\n".join(asserts.values())
    assert 'stated.verdict == "PASS"' in before and "assert not passed" in before
    assert before.count("in answers[") == 4
