"""What the pages say exists: commands, targets, files; what exists is on the pages.

And what nbval cannot see: notebooks are plain Python, define nothing, mirror their parameters.
"""

import ast
import re
import subprocess

import nbformat
import pytest

from fluxttice_core import cli, files, params
from fluxttice_core.benchmark import DOCUMENT, Document
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.metrics.gates import GATES
from fluxttice_core.metrics.measurement import METRICS, QUESTIONS
from fluxttice_core.report import notebook, tables
from fluxttice_core.report.run import NOTEBOOKS

ROOT = files.root()
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "reports/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted(ROOT.glob("docs/*.md"))]
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
PUBLISHED = (
    r"README\.md|(controls|evidence|power)\.csv|[\d-]+/[\w-]+/([1-4]_\w+\.html|explore\.(html|png)|\w+\.params\.yaml"
    r"|coverage_vs_entropy\.json|verdict\.json)"
)


def named(pattern: str) -> set[str]:
    """What `pattern` finds in the code of all pages, blocks and single words alike."""
    pages = (path for path in PAGES if path.name != "CHANGELOG.md")  # of past releases, too
    text = "\n".join(path.read_text("utf-8") for path in pages)
    return {name for code in CODE.findall(text) for name in re.findall(pattern, code)}


def first(pattern: str, name: str) -> str:
    """What the group of `pattern` finds first in a file."""
    return re.search(pattern, (ROOT / name).read_text("utf-8"), re.MULTILINE)[1]


def test_every_make_target_has_help_and_a_place_on_a_page():
    targets = set(first(r"^\.PHONY: (.*)$", "Makefile").split())
    made = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True)
    assert set(re.findall(r"^make ([a-z]+) +\S", made.stdout, re.MULTILINE)) == targets
    assert named(r"\bmake ([a-z]+)\b") | {"help"} == targets  # `make` alone is help


def test_every_command_and_option_has_help_and_a_place_on_a_page():
    [commands] = [action for action in cli._parser()._actions if action.choices]
    names = {action.dest for action in commands._choices_actions if action.help}
    assert names == set(commands.choices) and len(names) > 3
    assert named(r"fluxttice ([a-z]+)\b") <= names <= named(r"\b(?:fluxttice|make) ([a-z]+)\b")
    for name, command in commands.choices.items():
        for action in command._actions:
            assert action.help, f"fluxttice {name}: no help for {action.dest}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text("utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", text)
    paths = re.findall(r"\b((?:lib|params|notebooks|checkpoints|docs)/[\w./-]*\w)", text)
    paths = [p for p in paths if p.startswith(("lib/", "params/", "docs/")) or "." in p]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_a_tired_newcomer_reads_the_readme_to_its_end():
    words = (ROOT / "README.md").read_text("utf-8").split()
    assert len([word for word in words if re.search(r"\w", word)]) <= 800


def test_the_reference_has_every_metric_and_gate():
    better, lines = {1: "larger", -1: "smaller", 0: "neither"}, []
    for question, group in QUESTIONS.items():
        for name, about in group.items():
            low, high = (f"{x:,.5g}".replace("inf", "∞").replace("-", "−") for x in about.limits)
            cells = f"`{name}`", about.title, question, about.unit, f"{low} … {high}"
            lines.append([*cells, better[about.better]])
    lines += [[f"`{gate}`", METRICS[gate[4:]].title] for gate in GATES]
    text = (ROOT / "docs/numbers.md").read_text("utf-8")
    rows = [" | ".join(cell.replace("|", r"\|") for cell in cells) for cells in lines]
    assert [row for row in rows if f"\n| {row} |\n" not in text] == []


PRIVATE = (
    r"crookedness|unevenness|thrifty|\bhulls?\b|\bbeside_|\btold_|nothing learnt|learnt nothing"
    r"|comes? back|(?<!set )by hand\b|file of (?:ours|the original)|what has learnt|\bwhoever\b"
)


def test_no_page_and_no_code_speaks_a_private_language():
    """The log of what was tried has the words of its time; a random stream's name is its seed."""
    kept = {"log.md", "CHANGELOG.md"}
    places = [*PAGES, *ROOT.glob("lib/fluxttice_core/**/*.py"), *ROOT.glob("params/*")]
    found = []
    for path in [*places, *ROOT.glob("notebooks/*.ipynb")]:
        text = path.read_text("utf-8").replace('ORACLE: "by hand"', "")
        hits = re.findall(PRIVATE, text) if path.name not in kept else []
        found += [(path.name, hit) for hit in hits]
    assert not found


def test_one_version_everywhere():
    version = first(r'^version = "(.+)"$', "pyproject.toml")
    assert version == first(r"^version: (\S+)$", "CITATION.cff")
    assert version == first(r"^## ([\d.]+)", "CHANGELOG.md")


def test_git_keeps_of_reports_what_their_page_says():
    if not (ROOT / ".git").exists():
        return  # a download, which has no list of what git keeps
    listed = subprocess.check_output(["git", "-C", ROOT, "ls-files", "reports"], text=True)
    names = [name.removeprefix("reports/") for name in listed.split()]
    assert [name for name in names if not re.fullmatch(PUBLISHED, name)] == []
    assert len({name.rpartition("/")[0] for name in names} - {""}) == 2, "two runs are published"
    size = sum((ROOT / "reports" / name).stat().st_size for name in names)
    assert size < 7_000_000, f"published reports are {size:,} bytes"


def test_the_readme_shows_the_published_run_and_its_numbers(published):
    shown = Document.model_validate_json((published / DOCUMENT).read_bytes())
    shipped = checkpoints.load(ROOT / "checkpoints/certified")
    assert shown.checkpoint["sha256"] == shipped.sha256
    readme = (ROOT / "README.md").read_text("utf-8")
    table = tables.summary(shown.frame, "").data.drop(columns="metric").astype(str)
    assert all(cell in readme for cell in table.to_numpy().flatten())


# --- Notebooks ---


BEGIN = {name: f'begin_measuring("{step}")' for step, name in NOTEBOOKS.items()}
BEGIN |= {NOTEBOOKS[step]: f'begin("{step}")' for step in ("train", "evidence")}
BOOKS = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


def cells(name: str, kind: str = "code") -> list[nbformat.NotebookNode]:
    book = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    return [cell for cell in book.cells if cell.cell_type == kind]


def code(name: str) -> str:
    return "\n".join(cell.source for cell in cells(name))


def literals(name: str) -> dict:
    body = ast.parse(cells(name)[0].source).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in body}


@pytest.mark.parametrize("name", BOOKS)
def test_the_parameters_cell_is_the_default_file_and_begin_is_called_next(name):
    cell, following, *_ = cells(name)
    assert cell.metadata.tags == ["parameters"] and cell.source.startswith("# parameters\n")
    calls, own = re.findall(r"notebook\.(begin\w*\(.*?\))", code(name)), literals(name)
    assert calls == [BEGIN[name]] and calls[0] in following.source
    assert own["run_dir"] == "" and own.get("checkpoint") in (None, "checkpoints/certified")
    [step] = re.findall(r'"(\w+)"', calls[0])
    notebook.check(step, own, name)
    if step != "evidence":
        stated = params.read_yaml(ROOT / f"params/{step}.yaml")
        apart = {key: own[key] for key in own.keys() & {"run_dir", "checkpoint"}}
        assert own == stated | apart
        assert all(type(own[key]) is type(value) for key, value in stated.items())


@pytest.mark.parametrize("name", BOOKS)
def test_code_is_plain_python_that_defines_nothing_and_is_committed_without_outputs(name):
    """A magic that does not exist prints an error and passes nbval: none is used at all."""
    tree = ast.parse(code(name))  # a magic is no Python
    assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert not re.search(r"^\s*_ = ", code(name), re.M)
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(name))


@pytest.mark.parametrize("name", BOOKS)
def test_a_notebook_asks_says_what_would_refute_it_and_ends_with_its_limits(name):
    first, *_, last = (cell.source for cell in cells(name, "markdown"))
    assert first.startswith(f"# {name[0]} · ") and first.splitlines()[0].endswith("?")
    assert "would refute" in first
    assert not [n for n in ast.walk(ast.parse(code(name))) if isinstance(n, ast.Assert)]
    assert re.match(r"## (Limits|What a PASS guarantees, and what it does not)\n", last)
