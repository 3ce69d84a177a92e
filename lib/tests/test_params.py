"""Parameters: what is no good is one sentence that names it, in files and in notebooks alike."""

import re
from typing import Annotated, Literal

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import sentence
from pydantic import Field

from fluxttice_core import files
from fluxttice_core.errors import InputError
from fluxttice_core.metrics.marginal import FEWEST
from fluxttice_core.model.network import D, DualVAE
from fluxttice_core.model.operations import all_operations
from fluxttice_core.model.streams import generator
from fluxttice_core.params import Count, Params, Positive, Share, Text, check, read_yaml, record
from fluxttice_core.report import preamble
from fluxttice_core.training import recipes, turned

FOLDER = files.root() / "params"
GIVEN_LATER = {"checkpoint": "somewhere", "run_dir": ""}
FILES = ("train", "train_v5_5", "benchmark", "certify")


class Small(Params):
    kind: Literal["one", "two"]
    steps: Annotated[Count, Field(le=100, description="more take hours")]
    rate: Positive
    part: Share
    sizes: list[Positive]
    deep: bool
    note: Text


GOOD = {
    "seed": 1, "run_dir": "", "kind": "one", "steps": 3, "rate": 0.5, "part": 0.1,
    "sizes": [1.0, 2.0], "deep": True, "note": "",
}  # fmt: skip


def complaint(values, kind=Small):
    text = sentence(check, kind, values, "my.yaml")
    assert text.startswith("my.yaml: ")
    return text


def shipped(name):
    """`(step, values)` of a file in params/, complete."""
    step, values = name.split("_")[0], read_yaml(FOLDER / f"{name}.yaml")
    return step, values if step == "train" else {**values, **GIVEN_LATER}


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_is_valid_and_none_of_its_keys_is_dispensable_or_unread(name):
    step, values = shipped(name)
    p = preamble.check(step, values, name)
    assert p.model_dump() == values
    kind = type(p)
    for key in values.keys() - {"recipe"}:
        rest = {k: v for k, v in values.items() if k != key}
        assert complaint(rest, kind) == f"my.yaml: parameter {key} is missing."
    sources = [
        *FOLDER.parent.glob("lib/fluxttice_core/**/*.py"),
        *FOLDER.parent.glob("notebooks/*"),
    ]
    read = set(re.findall(r"\.(\w+)", "".join(path.read_text("utf-8") for path in sources)))
    by_name = ("min_", "max_", "expected_sha256", "recipe")  # gates and `begin` ask by name
    unread = [key for key in values if key not in read and not key.startswith(by_name)]
    assert not unread, f"keys that nothing reads: {unread}"


@pytest.mark.parametrize("name", [None, "v5_6", 5.5, ["v5_5"], {"v5_5": 1}])
def test_a_recipe_chooses_its_parameters_and_an_unknown_one_is_named(name):
    for recipe, (kind, _fit) in recipes.RECIPES.items():
        assert recipes.parameters({"recipe": recipe}, "x") is kind
    text = sentence(preamble.check, "train", {"recipe": name}, "my.yaml")
    assert text.startswith(f"my.yaml: recipe is {name!r}, but must be one of ")


@pytest.mark.parametrize(
    "key, value, taken",
    [
        ("rate", "1e-3", 1e-3), ("rate", "1E-3", 1e-3),  # YAML 1.1 leaves these strings
        ("part", 0, 0.0), ("steps", "28", 28), ("steps", 10.0, 10), ("note", None, ""),
        ("sizes", ["1e-3", 2], [1e-3, 2.0]), ("seed", 2**63 - 1, 2**63 - 1),
        ("seed", str(2**62 + 1), 2**62 + 1),
    ],
)  # fmt: skip
def test_what_means_a_number_is_taken_as_it(key, value, taken):
    p = check(Small, {**GOOD, key: value}, "my.yaml")
    assert getattr(p, key) == taken
    with pytest.raises(ValueError):
        setattr(p, key, taken)  # checked once, never changed


NAN, INF = float("nan"), float("inf")
BAD = {
    "steps": [0, -3, 2.5, 101, "many", True, None, [1], NAN, INF], "seed": [-1, 2**63, 1.5, True],
    "rate": [0, -1e-4, True, "small", "", NAN, "nan", INF, None, {}], "part": [1.01, -0.1],
    "sizes": [1e-3, "1e-3"], "deep": ["perhaps"], "kind": ["three", None], "note": [5],
}  # fmt: skip


@pytest.mark.parametrize("key, value", [(key, value) for key in BAD for value in BAD[key]])
def test_a_bad_value_is_named_and_shown(key, value):
    text = complaint({**GOOD, key: value})
    assert text.startswith(f"my.yaml: {key} ") and repr(value) in text


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sizes": [1.0, -1.0]}, "sizes.1 "),
        ({"steps": 101}, "less than or equal to 100 (more take hours), but is 101."),
        ({"note": ["x" * 9_999]}, "..."),  # what is long is shown in part
        ({"step": 1}, "unknown parameter step; did you mean steps?"),
        ({"Part": 1}, "unknown parameter Part; did you mean part?"),
        ({"zzz": 1}, "unknown parameter zzz; it takes seed, run_dir, kind, "),
    ],
)
def test_a_bad_element_and_an_unknown_key_are_named(change, words):
    assert words in complaint({**GOOD, **change})
    rest = {key: value for key, value in GOOD.items() if key != "steps"}  # misspelt and missing
    assert "unknown parameter stepz; did you mean steps?" in complaint({**rest, "stepz": 3})


@pytest.mark.parametrize(
    "step, change",
    [
        *[("benchmark", {"ns": bad}) for bad in ([], [0], ["x"], 10_000, [195_001])],
        *[("benchmark", change) for change in (
            {"trials": 1}, {"trials": 4}, {"checkpoint": 3}, {"k": 1_000_001}, {"k": FEWEST - 20},
        )],
        *[("certify", {"min_exact_match": bad}) for bad in (90, -0.1, NAN, True)],
        ("certify", {"max_rate": -1}), ("certify", {"k": 100_000}),
    ],
)  # fmt: skip
def test_what_measures_refuses_bad_values(step, change):
    with pytest.raises(InputError, match=f"^my.yaml: {next(iter(change))}"):
        preamble.check(step, {**shipped(step)[1], **change}, "my.yaml")


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(1, 200_000), st.floats(), st.floats(0, 2),
    st.sampled_from([10**15, 10**400, 10**5_000, -(10**5_000), 5e-324, 1e-300, 1e300, -0.0]),
    st.text(max_size=9), st.sampled_from(["1e-3", "017", "1:30", "nan", "auto", "cuda", "\ud800"]),
)  # fmt: skip
ANYTHING = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), SCALARS, max_size=1)


def begins_to_train(p):
    """The loss of its first steps is a finite number."""
    model, rng = DualVAE.fresh(0), generator(0, "test")
    model.scale_logits("A", p.start_scale)
    eps, prior = (torch.randn(n, D, generator=rng) for n in (8, 32))
    x = all_operations()[:8]
    found = turned.loss(model.encoder_A, model.decoder_A, x, eps, prior, p, 1.0)
    assert found.isfinite() and 1e-10 < turned.anneal(p.lr, 0.5) <= 0.5


@pytest.mark.parametrize("name", FILES)
def test_any_parameters_are_refused_in_one_sentence_or_mean_the_same_when_read_again(
    tmp_path, name
):
    step, shipped_ = shipped(name)
    names = st.sampled_from([*shipped_]) | st.text(max_size=5)

    @settings(max_examples=2_000, deadline=None, derandomize=True, database=None)
    @given(st.dictionaries(names, ANYTHING, min_size=1, max_size=2))
    def holds(changes):
        try:
            p = preamble.check(step, {**shipped_, **changes}, "my.yaml")
        except InputError as error:
            text = str(error)
            assert text.startswith(("my.yaml: unknown ", *(f"my.yaml: {key}" for key in changes)))
            assert len(text.splitlines()) == 1 and text[-1] in ".?" and len(text) < 2_000
            return
        bools = [key for key, value in changes.items() if isinstance(value, bool)]
        assert all(isinstance(getattr(p, key), bool) for key in bools)
        if name == "train":
            begins_to_train(p)
        record(tmp_path, name, p.model_dump())
        again = {"run_dir": p.run_dir, **read_yaml(tmp_path / f"{name}.params.yaml")}
        assert preamble.check(step, again, "my.yaml") == p

    holds()


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1", "seed:\n\t- 1", "seed: 1\n  other: 2", "seed: \0",
        "seed: !!python/object/apply:os.getcwd []", "", "# nothing but a comment", "- seed\n- 42",
        "seed 42", "42", "1: 2", "seed: 1\noptions:\n  seed: 2", b"seed: \xff\xfe\x00",
        "seed: 1\nepochs: 3\nseed: 2\n",  # YAML keeps the last one, silently
        "a: " + "[" * 1_000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_flat_yaml_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert str(path) in sentence(read_yaml, path)


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 1e-3), ("017", 17), ("0o17", 15), ("1:30", "1:30"), ("on", "on"), ("true", True),
        ("1_000", "1_000"), ("1.0e+4", 1e4), ("", None), ("2024-01-01", "2024-01-01"),
        ('"1"', "1"), ("[1, 2.5]", [1, 2.5]),
    ],
)  # fmt: skip
def test_plain_values_mean_what_yaml_1_2_says(tmp_path, text, value):
    (tmp_path / "x.yaml").write_text(f"x: {text}")
    [found] = read_yaml(tmp_path / "x.yaml").values()
    assert found == value and type(found) is type(value)


def test_what_is_read_is_what_was_written_and_what_is_not_there_is_named(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert read_yaml(path) == read_yaml(str(path)) == GOOD
    for gone in (tmp_path / "missing.yaml", tmp_path, ""):
        with pytest.raises(InputError, match="No parameter file"):
            read_yaml(gone)


# --- In a notebook ---


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Runs cells in a real IPython, without a history on disk, and returns the last result."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path))
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        yield lambda *cells, kept=True: [shell.run_cell(c, store_history=kept) for c in cells][-1]
    finally:
        InteractiveShell.clear_instance()


CALL = "from fluxttice_core.report import preamble\np, run = preamble.begin('train')\np, run"


def cell(title, values):
    return "\n".join([title, *(f"{key} = {value!r}  # why" for key, value in values.items())])


def test_a_notebook_takes_its_own_cell_and_what_was_injected_below(notebook, recipe, capsys):
    injected = cell("# Parameters", {"epochs": 3, "min_score": "1e-1"})
    p, run = notebook(cell("# parameters", recipe), injected, "other = 5", CALL).result
    assert p.model_dump() == {**recipe, "epochs": 3, "min_score": 0.1}
    recorded = read_yaml(run / "train.params.yaml")
    assert {**recorded, "run_dir": ""} == p.model_dump()


def test_without_a_history_it_takes_whatever_literals_are_there(notebook, recipe, capsys):
    """As under nbval."""
    own = cell("# parameters", recipe)
    assert notebook(own, CALL, kept=False).result[0].model_dump() == recipe


def test_another_recipe_brings_other_parameters(notebook, recipe, capsys):
    own = cell("# parameters", read_yaml(FOLDER / "train.yaml"))
    assert notebook(own, cell("# Parameters", recipe), CALL).result[0].model_dump() == recipe


def test_a_misspelt_injected_name_is_an_error_in_the_notebook(notebook, recipe, capsys):
    injected = cell("# Parameters", {"epoch": 3})
    result = notebook(cell("# parameters", recipe), injected, CALL)
    assert isinstance(result.error_in_exec, InputError)
    assert "unknown parameter epoch; did you mean epochs?" in str(result.error_in_exec)
