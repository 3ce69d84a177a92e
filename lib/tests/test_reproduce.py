"""A recorded run, repeated: equal here, within its interval elsewhere, else refused."""

import json
import re

import pandas as pd
import pytest
from planted import notebook, sentence

from fluxttice_core import cli, files, params
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.metrics import measurement
from fluxttice_core.report import reproduce


def measured(value, low=0.2, high=0.4):
    return {"value": value, "low": low, "high": high, "n": 5, "method": "m"}


def row(*number, **labels):
    return {"network": "model", "vae": "A", "metric": "rate", **labels, **measured(*number)}


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
        (measured(None, None, None), measured(None, None, None), "equal", "equal"),
        (1.5, 1.51, "DIFFERS", "near"), (1.5, 1.52, "DIFFERS", "DIFFERS"),
        (0.001, 0.01, "DIFFERS", "near"), (1.5, "1.5", "DIFFERS", "DIFFERS"),
    ],
)  # fmt: skip
def test_a_number_is_equal_in_its_interval_or_not_reproduced(old, new, here, elsewhere):
    tables = [reproduce.table("x", {"values": {"a": value}}) for value in (old, new)]
    for same, expected in ((True, here), (False, elsewhere)):
        assert reproduce.compare(*tables, same).agreement.tolist() == [expected]
    assert reproduce.compare(*tables, True, {""}).agreement.tolist() == ["not checked"]


def test_measured_numbers_are_found_in_nested_and_flat_documents_and_labels_are_not_counted():
    nested = {
        "schema": "x/1", "created_utc": "now", "params": {"seed": 1}, "checkpoint": {"epoch": 3},
        "results": {"rows": [
            {"network": "u", "seed": 7, "vae": "A", "k": 9, "values": {"rate": measured(1.0)}},
        ]},
        "gates": [{"gate": "max_rate", "vae": "B", "bound": 2, "measured": measured(0.3),
                   "verdict": "PASS"}],
        "curve": [{"n": 1, "argmax": 0.5}, {"n": 10, "argmax": 5}],
    }  # fmt: skip
    found = reproduce.table("b", nested).sort_values("metric")[["network", "seed", "vae", "metric"]]
    assert [*found.itertuples(index=False, name=None)] == [
        ("", "", "", "curve 0 argmax"), ("", "", "", "curve 1 argmax"),
        ("", "", "B", "max_rate"), ("u", "7", "A", "rate"),
    ]  # fmt: skip
    flat = {"rows": [row(1.0, network="u", seed=7)]}
    tables = reproduce.table("b", nested).query("network == 'u'"), reproduce.table("b", flat)
    pd.testing.assert_frame_equal(*(one.reset_index(drop=True) for one in tables))


def test_a_number_that_only_one_document_has_differs():
    old, new = (reproduce.table("x", {"rows": [row(0.3, vae=vae)]}) for vae in "AB")
    assert reproduce.compare(old, new, False).agreement.tolist() == ["DIFFERS"] * 2


@pytest.fixture(scope="module")
def control():
    """The one control of this file's runs, as it is measured: rows, and how to measure only it."""
    values = params.read_yaml(files.root() / "params/benchmark.yaml")
    p = params.check(measurement.Benchmark, {**values, "checkpoint": "", "run_dir": ""}, "test")
    with pytest.MonkeyPatch.context() as patch:
        few = {"collapsed": measurement.BESIDE["collapsed"]}
        patch.setattr(measurement, "BESIDE", few)
        patch.setattr(measurement, "VAES", ("A",))
        yield [row.model_dump() for row in measurement.measured_beside(p, lambda _: None).rows]


@pytest.fixture
def recorded(project, saved, control):
    """Records a benchmark and a certification of `saved`; their notebooks really run.

    The notebook of the benchmark finds 0.3 and reads the `stored` controls; that of the
    certification ends in FAIL.
    """
    about = {"checkpoint": {"sha256": checkpoints.load(saved).sha256}}
    saved.rename(project / "checkpoint")
    places = {"2_benchmark": "coverage_vs_entropy.json", "3_certify": "verdict.json"}
    given = params.read_yaml(project / "params/benchmark.yaml")
    for step in ("benchmark", "certify"):
        params.record(project, step, {**given, "checkpoint": "elsewhere"})

    def document(number, controls):
        return {**about, "results": {"rows": [row(*number), *controls]}}

    def record(*number, controls=control, stored=control, verdict="FAIL", **environment):
        here = {"git": {"commit": "abc"}, "environment": files.environment() | environment}
        certified = {"gates": [{"gate": "max_rate", "vae": "A", "measured": measured(0.3)}]}
        for name, found, was, end in (
            ("2_benchmark", document([0.3], stored), document(number or [0.3], controls), ""),
            ("3_certify", certified | {"verdict": "FAIL"}, certified | {"verdict": verdict},
             "\nraise ValueError('a bound is missed')"),
        ):  # fmt: skip
            write = "import pathlib\nassert pathlib.Path(checkpoint).samefile('checkpoint')\n"
            write += f"pathlib.Path(run_dir, {places[name]!r}).write_text({json.dumps(found)!r})"
            notebook(project / f"notebooks/{name}.ipynb", write + end)
            (project / places[name]).write_text(json.dumps({**here, **was}))
        return str(project)

    return record


def forged(control):
    """A control that looks worse than it is, so that a model looks better beside it."""
    values = {**control[0]["values"], "rate": {**control[0]["values"]["rate"], "value": -1.0}}
    return [{**control[0], "values": values}]


def test_a_run_whose_verdict_is_fail_is_repeated_with_its_controls(recorded, control, capsys):
    numbers = sum(len(one["values"]) for one in control) + 2
    assert cli.main(["reproduce", recorded()]) == 0
    out = capsys.readouterr().out
    assert "commit: abc then, " in out and "every number must be equal" in out
    assert f"{numbers} numbers measured again: {numbers} equal\n0 numbers not checked" in out
    [path] = files.reports_folder().glob("*/*-reproduce/reproduced.csv")
    table = pd.read_csv(path)
    assert len(table) == numbers and set(table.agreement) == {"equal"}
    assert cli.main(["reproduce", recorded(), "--quick"]) == 0
    out = capsys.readouterr().out
    assert f"2 numbers measured again: 2 equal\n{numbers - 2} numbers not checked" in out


def test_forged_numbers_controls_and_verdicts_are_found(recorded, control, refused):
    out, said = refused("reproduce", recorded(0.31), "--quick")
    assert "benchmark model A rate: 0.31 then, 0.3 now" in out
    assert "1 numbers are not reproduced, the first is benchmark model A rate." in said
    said = refused("reproduce", recorded(verdict="PASS"), "--quick").err
    assert "the verdict is FAIL and was PASS" in said
    # Forged in the record and in the store alike, so that the notebook finds the same.
    out, said = refused("reproduce", recorded(controls=forged(control), stored=forged(control)))
    assert re.search(r"benchmark collapsed \d+ A rate: -1 then, ", out)
    assert "1 numbers are not reproduced" in said


def test_on_another_machine_a_number_must_lie_in_its_interval(recorded, refused, capsys):
    assert cli.main(["reproduce", recorded(0.31, torch="1"), "--quick"]) == 0
    out = capsys.readouterr().out
    assert "torch: 1 then, " in out and "1 equal, 1 in interval" in out
    assert "not reproduced" in refused("reproduce", recorded(0.31, 0.301, torch="1"), "--quick").err


def test_what_records_no_run_is_named():
    assert "run is empty: give the path of a run." in sentence(reproduce.run, "")
    assert "No run at nowhere" in sentence(reproduce.run, "nowhere")
    assert "records no run" in sentence(reproduce.run, "params")
