"""A recorded run, run again: equal here, in its interval elsewhere, else refused."""

import json

import pytest
from planted import notebook, sentence

from fluxttice_core import cli
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
        (1.5, 1.51, "DIFFERS", "near"), (1.5, 1.52, "DIFFERS", "DIFFERS"),
        (0.001, 0.01, "DIFFERS", "near"), (True, False, "DIFFERS", "DIFFERS"),
    ],
)  # fmt: skip
def test_a_number_is_equal_in_its_interval_or_not_reproduced(old, new, here, elsewhere):
    [pair] = reproduce.compared("x", {"rows": [{"a": old}]}, {"rows": [{"a": new}]}).values()
    assert (told(*pair, True), told(*pair, False)) == (here, elsewhere)
    assert reproduce.judged("train rows 0 a", *pair, False) == "not judged"
    assert reproduce.judged("train rows 0 a", *pair, True) == here


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
def recorded(project, saved):
    """Records a benchmark of `saved` whose notebook finds 0.3 and 2 (really, by papermill)."""
    document = {"checkpoint": {"sha256": checkpoints.load(saved).sha256}, "two": 2}
    found = json.dumps({**document, "value": measured(0.3)})
    write = "import pathlib\nassert pathlib.Path(checkpoint).samefile('checkpoint')\n"
    write += f"pathlib.Path(run_dir, 'coverage_vs_entropy.json').write_text({found!r})"
    notebook(project / "notebooks/2_benchmark.ipynb", write)
    (project / "benchmark.params.yaml").write_text("seed: 2\ncheckpoint: elsewhere\n")
    saved.rename(project / "checkpoint")

    def record(value, **environment):
        about = {"git": {"commit": "abc"}, "environment": certificate.environment() | environment}
        whole = json.dumps({**document, **about, "value": measured(value)})
        (project / "coverage_vs_entropy.json").write_text(whole)
        return str(project)

    return record


def test_a_run_is_repeated_and_every_number_printed(recorded, refused, capsys):
    out, said = refused("reproduce", recorded(0.31))
    assert out.startswith("commit: abc then, ") and "torch: " not in out
    assert "benchmark value: 0.31 (0.2 … 0.4) → 0.3, DIFFERS" in out
    assert "benchmark two: 2 → 2, equal" in out
    assert "1 of 3 numbers are not reproduced: first benchmark value" in said
    assert cli.main(["reproduce", recorded(0.31, torch="1")]) == 0
    out = capsys.readouterr().out
    assert "benchmark value: 0.31 (0.2 … 0.4) → 0.3, in interval" in out
    assert "torch: 1 then, " in out


def test_what_records_no_run_is_named():
    assert "run is empty: give the path of a run folder." in sentence(reproduce.run, "")
    assert "No run at nowhere" in sentence(reproduce.run, "nowhere")
    assert "records no run" in sentence(reproduce.run, "params")
