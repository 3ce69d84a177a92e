"""A recorded run, run again: equal here, in its interval elsewhere, else refused."""

import json

import pytest
from planted import notebook, sentence

from fluxttice_core import cli, files
from fluxttice_core.certification import certificate
from fluxttice_core.certification.verify import told
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.report import reproduce


def measured(value, low=0.2, high=0.4):
    return {"value": value, "low": low, "high": high, "n": 5, "method": "m"}


@pytest.mark.parametrize(
    "old, new, here, elsewhere",
    [
        (measured(0.3), measured(0.3), "equal", "equal"),
        (measured(0.3), measured(0.4), "DIFFERS", "in interval"),
        (measured(0.3), measured(0.41), "DIFFERS", "DIFFERS"),
        (measured(0.3), measured(0.19), "DIFFERS", "DIFFERS"),
        (measured(3, 3, 3), measured(3 + 2e-6, 3, 3), "DIFFERS", "in interval"),  # of float32
        (measured(3, 3, 3), measured(3 + 4e-6, 3, 3), "DIFFERS", "DIFFERS"),
        (measured(0.3), measured(0.3, 0.1), "DIFFERS", "in interval"),  # its interval is another
        (measured(0.3), measured(None, None, None), "DIFFERS", "DIFFERS"),
        (1.5, 1.6, "DIFFERS", "no interval"), (True, False, "DIFFERS", "DIFFERS"),
    ],
)  # fmt: skip
def test_a_number_is_equal_in_its_interval_or_not_reproduced(old, new, here, elsewhere):
    [pair] = reproduce.compared("x", {"rows": [{"a": old}]}, {"rows": [{"a": new}]}).values()
    assert (told(*pair, True), told(*pair, False)) == (here, elsewhere)


def test_dates_and_places_are_not_compared_and_what_is_missing_is():
    apart = {name: name for name in reproduce.APART + reproduce.TOLD}
    old = {**apart, "checkpoint": {"sha256": "a", "path": "x"}, "rows": [{"gate": "g", "n": 1}]}
    new = {"checkpoint": {"sha256": "b", "path": "y"}, "more": 2}
    found = reproduce.compared("x", old, new)
    assert found == {
        "x checkpoint sha256": ("a", "b"),
        "x rows 0 g 1 gate": ("g", "nothing"),
        "x rows 0 g 1 n": (1, "nothing"),
        "x more": ("nothing", 2),
    }
    assert {told(*pair, False) for pair in found.values()} == {"DIFFERS"}


@pytest.fixture
def recorded(tmp_path, saved, reports, monkeypatch):
    """Records a benchmark of `saved` whose notebook finds 0.3 (really, by papermill)."""
    monkeypatch.setattr(files, "root", lambda: tmp_path)
    document = {"checkpoint": {"sha256": checkpoints.load(saved).sha256}, "value": measured(0.3)}
    write = "import pathlib\nassert pathlib.Path(checkpoint).samefile('checkpoint')\n"
    write += f"found = {json.dumps(document)!r}\n"
    write += "pathlib.Path(run_dir, 'coverage_vs_entropy.json').write_text(found)"
    notebook(tmp_path / "notebooks/2_benchmark.ipynb", write)
    (tmp_path / "benchmark.params.yaml").write_text("seed: 2\ncheckpoint: elsewhere\n")
    saved.rename(tmp_path / "checkpoint")

    def record(value, **environment):
        about = {"git": {"commit": "abc"}, "environment": certificate.environment() | environment}
        whole = json.dumps({**document, **about, "value": measured(value)})
        (tmp_path / "coverage_vs_entropy.json").write_text(whole)
        return cli.main(["reproduce", str(tmp_path)])

    return record


@pytest.mark.parametrize(
    "value, environment, code, words",
    [
        (0.3, {}, 0, "benchmark value: 0.3 (0.2 … 0.4) → 0.3, equal"),
        (0.31, {}, 1, "benchmark value: 0.31 (0.2 … 0.4) → 0.3, DIFFERS"),
        (0.31, {"torch": "1"}, 0, "benchmark value: 0.31 (0.2 … 0.4) → 0.3, in interval"),
    ],
)
def test_a_run_is_repeated_and_every_number_printed(
    recorded, capsys, value, environment, code, words
):
    assert recorded(value, **environment) == code
    out, said = capsys.readouterr()
    assert out.startswith("commit: abc then, ") and words in out
    assert ("torch: 1 then, " in out) == bool(environment)
    assert bool(code) == ("1 of 2 numbers are not reproduced: first benchmark value" in said)


@pytest.mark.parametrize(
    "folder, words",
    [
        ("", "run is empty: give the path of a run folder."), ("nowhere", "No run at nowhere"),
        (files.root() / "params", "records no run"),
    ],
)  # fmt: skip
def test_what_records_no_run_is_named(folder, words):
    assert words in sentence(reproduce.run, str(folder))
