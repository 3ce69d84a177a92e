import re
from pathlib import Path

import fluxttice_core
import pytest
import yaml
from fluxttice_core import files
from fluxttice_core import params
from fluxttice_core.errors import InputError
from fluxttice_core.params import check, read_yaml

FOLDER = Path(__file__).parents[2] / "params"
LIBRARY = Path(fluxttice_core.__file__).parent
GIVEN_LATER = {"checkpoint": "somewhere", "run_dir": ""}


def complaint(values, notebook="train"):
    with pytest.raises(InputError) as caught:
        check(notebook, values, "my.yaml")
    sentence = str(caught.value)
    assert sentence.startswith("my.yaml: ") and "\n" not in sentence
    assert sentence[-1] in ".?"
    return sentence


def test_the_v5_5_recipe_validates_and_says_what_it_must(recipe):
    p = check("train", recipe, "train_v5_5.yaml")
    assert (p.seed, p.split_seed, p.batch_size, p.patience) == (42, 42, 64, 100)
    assert (p.weight_decay, p.grad_clip, p.free_bits) == (1e-4, 1.0, 0.5)
    assert p.lr_epochs == [0, 50, 120, 180, 220, 250, 300, 350]
    assert p.lr_values == [1e-3, 5e-4, 3e-4, 1e-4, 5e-5, 2e-5, 1e-5, 5e-6]


@pytest.mark.parametrize("name", ["train", "train_v5_5", "benchmark", "certify"])
def test_the_shipped_files_validate(name):
    notebook, values = name.split("_")[0], read_yaml(FOLDER / f"{name}.yaml")
    if notebook != "train":
        values |= GIVEN_LATER
    assert check(notebook, values, "file")


@pytest.mark.parametrize("recipe_name, kind", params.RECIPES.items())
def test_every_parameter_of_a_recipe_is_read_by_its_code(recipe_name, kind):
    """A key that nothing reads would be a promise without effect."""
    names = ("train", "selection", f"train_{recipe_name}")
    code = [LIBRARY / f"{name}.py" for name in names] + [FOLDER.parent / "notebooks/1_train.ipynb"]
    source = "\n".join(file.read_text("utf-8") for file in code)
    assert set(kind.model_fields) <= set(re.findall(r"\bp\.(\w+)", source))


@pytest.mark.parametrize(
    "key, value, taken",
    [
        ("lr_min", "1e-3", 1e-3),  # YAML 1.1 leaves this a string
        ("lr_min", "1E-3", 1e-3),
        ("weight_decay", 0, 0.0),
        ("batch_size", "128", 128),
        ("epochs", 10.0, 10),
        ("lr_values", ["1e-3"] + ["5e-4"] * 7, [1e-3] + [5e-4] * 7),
        ("run_dir", None, ""),
        ("seed", 0, 0),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("seed", str(2**62 + 1), 2**62 + 1),
    ],
)
def test_what_means_a_number_is_taken_as_it(recipe, key, value, taken):
    assert getattr(check("train", {**recipe, key: value}, "my.yaml"), key) == taken


@pytest.mark.parametrize(
    "key, value",
    [
        ("epochs", 0),
        ("epochs", -3),
        ("epochs", 2.5),
        ("epochs", "many"),
        ("epochs", True),
        ("epochs", None),
        ("epochs", [1]),
        ("epochs", float("nan")),
        ("epochs", float("inf")),
        ("coverage_n", 0),
        ("coverage_n", False),
        ("batch_size", 1),
        ("patience", 0),
        ("keep_every", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 1.5),
        ("seed", True),
        ("weight_decay", -1e-4),
        ("weight_decay", True),
        ("weight_decay", "small"),
        ("weight_decay", ""),
        ("free_bits", float("nan")),
        ("free_bits", "nan"),
        ("free_bits", float("inf")),
        ("grad_clip", 0),
        ("grad_clip", None),
        ("grad_clip", {}),
        ("rho_late", 1.01),
        ("rho_late", -0.1),
        ("lr_values", 1e-3),
        ("lr_values", "1e-3"),
        ("statenet", "perhaps"),
        ("run_dir", 5),
        ("recipe", "v5_6"),
        ("recipe", None),
        ("recipe", 5.5),
        ("recipe", ["v5_5"]),
        ("recipe", {"v5_5": 1}),
    ],
)
def test_a_bad_value_is_named_and_shown(recipe, key, value):
    sentence = complaint({**recipe, key: value})
    assert key in sentence and repr(value) in sentence


def test_a_bad_element_of_a_list_is_named_by_its_place(recipe):
    values = [*recipe["lr_values"][:3], -1.0, *recipe["lr_values"][4:]]
    assert "lr_values.3" in complaint({**recipe, "lr_values": values})


@pytest.mark.parametrize("notebook", ["train", "benchmark", "certify"])
def test_every_key_must_be_there(notebook):
    name = "train_v5_5" if notebook == "train" else notebook
    values = {**read_yaml(FOLDER / f"{name}.yaml"), **GIVEN_LATER}
    if notebook == "train":
        del values["checkpoint"]
    for key in values.keys() - {"recipe"}:
        rest = {k: v for k, v in values.items() if k != key}
        assert complaint(rest, notebook) == f"my.yaml: parameter {key} is missing."


@pytest.mark.parametrize(
    "key, hint",
    [
        ("batchsize", "did you mean batch_size?"),
        ("Epochs", "did you mean epochs?"),
        ("beta_A_start", "did you mean beta_start?"),
        ("temp_B_start_", "did you mean temp_B_start?"),
        ("zzz", "it takes seed, run_dir, "),
        ("checkpoint", "unknown parameter checkpoint"),
    ],
)
def test_an_unknown_key_is_refused_with_a_hint(recipe, key, hint):
    assert hint in complaint({**recipe, key: 1})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lr_epochs": [0, 50, 120, 180, 220, 250, 300]}, "lr_epochs"),
        ({"lr_epochs": [0, 50, 120, 180, 220, 300, 250, 350]}, "lr_epochs"),
        ({"lr_epochs": [0, 50, 50, 180, 220, 250, 300, 350]}, "lr_epochs"),
        ({"lr_epochs": [1, 50, 120, 180, 220, 250, 300, 350]}, "lr_epochs"),
        ({"lr_epochs": [-5, 0, 120, 180, 220, 250, 300, 350]}, "lr_epochs"),
        ({"lr_epochs": [], "lr_values": []}, "lr_epochs"),
        ({"rho_ramp_epoch": 120}, "rho_ramp_epoch must be below rho_hold_epoch"),
        ({"scale_min": 3}, "scale_min must be below scale_max"),
        ({"lr_min": 1}, "lr_min must be below lr_max"),
        ({"lambda_min": 0.95}, "lambda_min must be below lambda_max"),
        ({"lambda3_max": 0.1}, "lambda3_min must be below lambda3_max"),
        ({"balance_low": 1.5}, "balance_low must be below balance_high"),
        ({"coverage_high": 0.5}, "coverage_low must be below coverage_high"),
    ],
)
def test_what_does_not_fit_together_is_refused(recipe, change, words):
    assert words in complaint({**recipe, **change})


@pytest.mark.parametrize(
    "notebook, change",
    [
        ("benchmark", {"ns": []}),
        ("benchmark", {"ns": [0]}),
        ("benchmark", {"ns": ["x"]}),
        ("benchmark", {"ns": 10_000}),
        ("benchmark", {"trials": 1}),
        ("benchmark", {"checkpoint": 3}),
        ("certify", {"min_exact_match_test": 90}),
        ("certify", {"min_exact_match_test": -0.1}),
        ("certify", {"min_exact_match_test": float("nan")}),
        ("certify", {"min_exact_match_test": True}),
    ],
)
def test_the_other_notebooks_refuse_bad_values(notebook, change):
    values = {**read_yaml(FOLDER / f"{notebook}.yaml"), **GIVEN_LATER, **change}
    assert next(iter(change)) in complaint(values, notebook)


def test_parameters_cannot_be_changed_after_the_check(recipe):
    p = check("train", recipe, "my.yaml")
    with pytest.raises(ValueError):
        p.seed = 1


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1",
        "seed:\n\t- 1",
        "seed: 1\n  other: 2",
        "seed: \0",
        "seed: 2024-13-45",
        "seed: !!python/object/apply:os.getcwd []",
        "",
        "# nothing but a comment",
        "- seed\n- 42",
        "seed 42",
        "42",
        "1: 2",
        "seed: 1\noptions:\n  seed: 2",
    ],
)
def test_a_file_that_is_no_flat_yaml_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence and sentence.endswith(".")


def test_a_key_given_twice_is_refused(tmp_path):
    """YAML keeps the last one, silently."""
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\nepochs: 3\nseed: 2\n")
    with pytest.raises(InputError, match="seed"):
        read_yaml(path)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"seed: \xff\xfe\x00")
    with pytest.raises(InputError, match="not readable as YAML"):
        read_yaml(path)


@pytest.mark.parametrize("name", ["missing.yaml", "", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(InputError, match="No parameter file"):
        read_yaml(tmp_path / name if name else "")


def test_what_is_read_is_what_was_written(tmp_path, recipe):
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert read_yaml(path) == read_yaml(str(path)) == recipe


@pytest.fixture
def notebook():
    """Runs cells in a real IPython, without a history on disk, and returns the last value."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=config)
    try:
        yield lambda *cells: [shell.run_cell(c, store_history=True) for c in cells][-1]
    finally:
        InteractiveShell.clear_instance()


CALL = "from fluxttice_core.params import from_notebook\nfrom_notebook('train')"


def cell(title, values):
    return "\n".join([title, *(f"{key} = {value!r}  # why" for key, value in values.items())])


def test_a_notebook_takes_its_own_cell_and_what_was_injected_below(notebook, recipe, capsys):
    injected = cell("# Parameters", {"epochs": 3, "lr_min": "1e-5"})
    p = notebook(cell("# parameters", recipe), injected, "other = 5", CALL).result
    assert (p.epochs, p.lr_min, p.seed) == (3, 1e-5, 42)
    assert p.model_dump() == {**recipe, "epochs": 3, "lr_min": 1e-5}


def test_a_misspelt_injected_name_is_an_error_in_the_notebook(notebook, recipe, capsys):
    injected = cell("# Parameters", {"epoch": 3})
    result = notebook(cell("# parameters", recipe), injected, CALL)
    assert isinstance(result.error_in_exec, InputError)
    assert "unknown parameter epoch; did you mean epochs?" in str(result.error_in_exec)


@pytest.mark.parametrize("name, file", [("trials", "benchmark"), ("epochs", "train")])
def test_a_misspelt_name_is_named_and_not_the_one_that_it_leaves_missing(name, file):
    values = params.read_yaml(files.root() / f"params/{file}.yaml")
    values[name[:-1]] = values.pop(name)
    if file == "benchmark":
        values.update(run_dir="", checkpoint="x")
    with pytest.raises(InputError, match=f"unknown parameter {name[:-1]}; did you mean {name}"):
        params.check(file, values, "test")
