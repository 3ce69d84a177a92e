"""Parameters: what is no good is one sentence that names it, in files and in notebooks alike."""

import re
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import sentence

from fluxttice_core.errors import InputError
from fluxttice_core.files import root
from fluxttice_core.metrics.marginal import MIN_LATENTS
from fluxttice_core.model.network import D
from fluxttice_core.model.operations import all_operations
from fluxttice_core.model.streams import generator
from fluxttice_core.params import read_yaml, record
from fluxttice_core.report.notebook import check as check_step
from fluxttice_core.training import axis_aligned

FILES = ("train", "train_v5_5", "benchmark", "certify")


def shipped(name):
    """The values of a file in params/, complete."""
    values = read_yaml(root() / f"params/{name}.yaml")
    return values if "train" in name else {**values, "checkpoint": "x", "run_dir": ""}


def check(name, values):
    return check_step(name.split("_")[0], values, "my.yaml")


def complaint(name, values):
    text = sentence(check, name, values)
    assert text.startswith("my.yaml: ")
    return text.removeprefix("my.yaml: ")


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_is_valid_and_none_of_its_keys_is_dispensable_or_unread(name):
    values = shipped(name)
    assert check(name, values).model_dump() == values
    for key in values.keys() - {"recipe"}:
        rest = {k: v for k, v in values.items() if k != key}
        assert complaint(name, rest) == f"parameter {key} is missing."
    sources = [*root().glob("lib/fluxttice_core/**/*.py"), *root().glob("notebooks/*")]
    read = set(re.findall(r"\.(\w+)", "".join(path.read_text("utf-8") for path in sources)))
    by_name = ("min_", "max_", "expected_sha256", "recipe")  # gates and `begin` ask by name
    assert [key for key in values if key not in read and not key.startswith(by_name)] == []


def test_what_means_a_number_is_taken_as_it_and_never_changes():
    text = {"lr": "1e-3", "seed": 2**63 - 1, "run_dir": None}
    p = check("train", {**shipped("train"), **text})
    assert (p.lr, p.seed, p.run_dir) == (1e-3, 2**63 - 1, "")
    assert check("benchmark", {**shipped("benchmark"), "trials": "10"}).trials == 10
    with pytest.raises(ValueError):
        p.seed = 1


NAN, INF = float("nan"), float("inf")
BAD = {
    "train": {
        "recipe": [None, "v5_6", ["v5_5"]], "seed": [-1, 2**63, True],
        "epochs": [0, 2.5, 10_001, "many", True, None, [1]], "min_score": [1.01, -0.1],
        "lr": [0, True, "", NAN, "nan", INF, {}], "rotate": ["perhaps", 1], "run_dir": [5],
    },
    "benchmark": {
        "trials": [1, 4, [], "1e-3", 10_001], "checkpoint": [3],
        "k": [1_000_001, MIN_LATENTS - 20],
    },
    "certify": {"min_exact_match": [90, -0.1, NAN, True], "max_rate": [-1, INF], "k": [100_000]},
}  # fmt: skip


@pytest.mark.parametrize("name, key", [(name, key) for name in BAD for key in BAD[name]])
def test_a_bad_value_is_named_and_shown(name, key):
    for value in BAD[name][key]:
        text = complaint(name, {**shipped(name), key: value})
        assert text.startswith(f"{key} ") and repr(value) in text


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("train", {"epochs": 10_001}, "equal to 10000 (more would take days), but is 10001."),
        ("train", {"run_dir": ["x" * 9_999]}, "..."),  # what is long is shown in part
        ("train", {"zzz": 1}, "unknown parameter zzz; it takes run_dir, recipe, seed, "),
    ],
)  # fmt: skip
def test_a_bad_element_and_an_unknown_key_are_named(name, change, words):
    assert words in complaint(name, {**shipped(name), **change})
    rest = {k: v for k, v in shipped(name).items() if k != "split_seed"}  # misspelt and missing
    misspelt = complaint(name, {**rest, "split_sead": 3})
    assert misspelt == "unknown parameter split_sead; did you mean split_seed?"


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(1, 200_000), st.floats(), st.floats(0, 2),
    st.sampled_from([10**15, 10**400, 10**5_000, -(10**5_000), 5e-324, 1e-300, 1e300, -0.0]),
    st.text(max_size=9), st.sampled_from(["1e-3", "017", "1:30", "nan", "auto", "cuda", "\ud800"]),
)  # fmt: skip
ANYTHING = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), SCALARS, max_size=1)
PLAIN = st.integers(1, 20) | st.floats(0, 1) | st.sampled_from([5e-324, 1e300])


def begins_to_train(model, p):
    """The loss of its first steps is a finite number."""
    rng = generator(0, "test")
    model.scale_logits("A", p.init_logit_scale)
    eps, prior = (torch.randn(n, D, generator=rng) for n in (8, 32))
    x = all_operations()[:8]
    found = axis_aligned.loss(model.encoder_A, model.decoder_A, x, eps, prior, p, 1.0)
    assert found.isfinite() and 1e-10 < axis_aligned.cosine_schedule(p.lr, 0.5) <= 0.5


@pytest.mark.parametrize("name", FILES)
def test_any_parameters_are_refused_in_one_sentence_or_mean_the_same_when_read_again(
    tmp_path, untrained, name
):
    """One change in seven is taken, and what is refused has many reasons."""
    values = shipped(name)
    known = st.sampled_from([*values])
    kinds = (known, PLAIN), (known, ANYTHING), (known | st.text(max_size=5), PLAIN | SCALARS)
    changes = [st.dictionaries(*kind, min_size=1, max_size=2) for kind in kinds]

    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(st.one_of(changes))
    def holds(changes):
        try:
            p = check(name, {**values, **changes})
        except InputError as error:
            text = str(error)
            assert text.startswith(("my.yaml: unknown ", *(f"my.yaml: {key}" for key in changes)))
            assert len(text.splitlines()) == 1 and text[-1] in ".?" and len(text) < 2_000
            return
        bools = [key for key, value in changes.items() if isinstance(value, bool)]
        assert all(isinstance(getattr(p, key), bool) for key in bools)
        if name == "train":
            begins_to_train(deepcopy(untrained), p)
        record(tmp_path, name, p.model_dump())
        again = {"run_dir": p.run_dir, **read_yaml(tmp_path / f"{name}.params.yaml")}
        assert check(name, again) == p

    holds()


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1", "seed: \0", "seed: !foo 5", "seed: !!set {1}",
        b"seed: \xff\xfe\x00", "# nothing but a comment",
        "- seed\n- 42", "42", "1: 2", "seed: 2024-01-01", "seed: 1\noptions:\n  seed: 2",
        "seed: 1\nepochs: 3\nseed: 2\n",  # most readers keep the last one, silently
        "a: " + "[" * 1_000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_flat_yaml_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert str(path) in sentence(read_yaml, path)
    assert "No parameter file at" in sentence(read_yaml, tmp_path / "missing.yaml")
    assert "parameter file is empty" in sentence(read_yaml, "")
    assert "is not readable as YAML: Is a directory." in sentence(read_yaml, tmp_path)


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 1e-3), ("017", 17), ("0o17", 15), ("1:30", "1:30"), ("on", "on"), ("true", True),
        ("1.0e+4", 1e4), ("", None),
        ('"1"', "1"), ("[1, 2.5]", [1, 2.5]),
    ],
)  # fmt: skip
def test_plain_values_mean_what_yaml_1_2_says(tmp_path, text, value):
    (tmp_path / "x.yaml").write_text(f"x: {text}")
    [found] = read_yaml(str(tmp_path / "x.yaml")).values()
    assert found == value and type(found) is type(value)
    record(tmp_path, "x", {"x": text})
    assert read_yaml(tmp_path / "x.params.yaml") == {"x": text}


# --- In a notebook; without a history nothing was injected, as nbval shows ---


@pytest.fixture
def notebook(reports):
    """Begins a training in a real IPython that has no history on disk, below these parameters."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))

    def begin(own, injected):
        for title, values in (("# parameters", own), ("# Parameters", injected)):
            lines = [f"{key} = {value!r}  # why" for key, value in values.items()]
            shell.run_cell("\n".join([title, *lines]), store_history=True)
        call = "other = 5\nfrom fluxttice_core.report import notebook\nnotebook.begin('train')"
        return shell.run_cell(call, store_history=True)

    try:
        yield begin
    finally:
        InteractiveShell.clear_instance()


def test_a_notebook_takes_its_own_cell_and_what_was_injected_below(notebook, recipe, capsys):
    """Another recipe brings its own parameters, and none of the notebook's."""
    p, run = notebook(recipe, {"epochs": 3, "min_score": "1e-1"}).result
    assert p.model_dump() == {**recipe, "epochs": 3, "min_score": 0.1}
    assert {**read_yaml(run / "train.params.yaml"), "run_dir": ""} == p.model_dump()
    error = notebook(recipe, {"epoch": 3}).error_in_exec
    assert "unknown parameter epoch; did you mean epochs?" in str(error)
    p, _ = notebook(shipped("train"), recipe).result
    assert p.model_dump() == recipe
