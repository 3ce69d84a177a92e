"""A recorded run, repeated: equal here, within its interval elsewhere, else refused."""

import json
import re

import pandas as pd
import pytest
from planted import notebook, sentence

from fluxttice_core import benchmark, cli, files, params
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.report import reproduce


def row(*number, **labels):
    low, high = number[1:] or (0.2, 0.4)
    numbers = {"value": number[0], "low": low, "high": high, "n": 5, "method": "m"}
    return {"network": "model", "seed": None, "vae": "A", "metric": "rate", **labels, **numbers}


def gate(*number):
    about = row(*number)
    return {"gate": "max_rate", **{k: about[k] for k in ("vae", "value", "low", "high")}}


@pytest.mark.parametrize(
    "old, new, here, elsewhere",
    [
        ((0.3,), (0.3,), "equal", "equal"), ((0.3,), (0.4,), "DIFFERS", "in interval"),
        ((0.3,), (0.41,), "DIFFERS", "DIFFERS"),
        ((0.3,), (0.3, 0.1, 0.4), "DIFFERS", "in interval"),
        ((0.3,), (None, None, None), "DIFFERS", "DIFFERS"),
        ((None, None, None), (None, None, None), "equal", "equal"),
    ],
)  # fmt: skip
def test_a_number_is_equal_in_its_interval_or_not_reproduced(old, new, here, elsewhere):
    tables = [reproduce.table("benchmark", {"rows": [row(*value)]}) for value in (old, new)]
    for same, expected in ((True, here), (False, elsewhere)):
        assert reproduce.compare(*tables, same).agreement.tolist() == [expected]
    assert reproduce.compare(*tables, True, {"model"}).agreement.tolist() == ["not checked"]


def test_the_numbers_of_gates_and_controls_are_found_and_one_that_is_missing_differs():
    controls = [{"control": "untrained", "gates": [gate(2.0)]}]
    found = reproduce.table("certify", {"gates": [gate(0.3)], "controls": controls})
    assert found[["network", "seed", "metric", "value"]].to_numpy().tolist() == [
        ["model", "", "max_rate", 0.3], ["untrained", "", "max_rate", 2.0],
    ]  # fmt: skip
    old, new = (reproduce.table("benchmark", {"rows": [row(0.3, vae=vae)]}) for vae in "AB")
    assert reproduce.compare(old, new, False).agreement.tolist() == ["DIFFERS"] * 2


@pytest.fixture(scope="module")
def control():
    """The one control of this file's runs, as it is measured."""
    values = params.read_yaml(files.root() / "params/benchmark.yaml")
    p = params.check(benchmark.Benchmark, {**values, "checkpoint": "", "run_dir": ""}, "test")
    with pytest.MonkeyPatch.context() as patch:
        few = {"collapsed": benchmark.NETWORKS["collapsed"]}
        patch.setattr(benchmark, "NETWORKS", few)
        patch.setattr(benchmark, "VAES", ("A",))
        rows = benchmark.measured_controls(p, lambda _: None)[[*row(0)]].astype(object)
        yield rows.where(rows.notna(), None).to_dict("records")


@pytest.fixture
def recorded(project, saved, control):
    """Records a benchmark and a certification of `saved`; their notebooks really run.

    The notebook of the benchmark finds 0.3 and reads the `stored` controls; that of the
    certification ends in FAIL.
    """
    sha256 = checkpoints.load(saved).sha256
    saved.rename(project / "checkpoint")
    given = params.read_yaml(project / "params/benchmark.yaml")
    for step in ("benchmark", "certify"):
        params.record(project, step, {**given, "checkpoint": "elsewhere"})

    def record(*number, controls=control, stored=control, verdict="FAIL", **environment):
        about = {"git": {"commit": "abc"}, "environment": files.environment() | environment}
        about["checkpoint"] = {"sha256": sha256}
        certified = {**about, "gates": [gate(0.3)], "controls": [], "weights_sha256": sha256}
        for step, name, found, was, end in (
            ("benchmark", "2_benchmark", {**about, "rows": [row(0.3), *stored]},
             {**about, "rows": [row(*number or [0.3]), *controls]}, ""),
            ("certify", "3_certify", certified | {"verdict": "FAIL"},
             certified | {"verdict": verdict},
             "\nfrom fluxttice_core.errors import ThresholdMissed\nraise ThresholdMissed('0.1')"),
        ):  # fmt: skip
            place = reproduce.DOCUMENTS[step]
            write = "import pathlib\nassert pathlib.Path(checkpoint).samefile('checkpoint')\n"
            write += f"pathlib.Path(run_dir, {place!r}).write_text({json.dumps(found)!r})"
            notebook(project / f"notebooks/{name}.ipynb", write + end)
            (project / place).write_text(json.dumps(was))
        return str(project)

    return record


def test_a_run_whose_verdict_is_fail_is_repeated_with_its_controls(recorded, control, capsys):
    numbers = len(control) + 2
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
    forged = [{**control[0], "value": -1.0}, *control[1:]]
    out, said = refused("reproduce", recorded(controls=forged, stored=forged))
    assert re.search(r"benchmark collapsed \d+ A \w+: -1 then, ", out)
    assert "1 numbers are not reproduced" in said


def test_on_another_machine_a_number_must_lie_in_its_interval(recorded, refused, capsys):
    assert cli.main(["reproduce", recorded(0.31, torch="1"), "--quick"]) == 0
    out = capsys.readouterr().out
    assert "torch: 1 then, " in out and "1 in interval" in out
    forged = recorded(0.31, 0.301, 0.4, torch="1")
    assert "not reproduced" in refused("reproduce", forged, "--quick").err


def test_training_must_end_in_the_recorded_weights(recorded, project, untrained, refused):
    folder = recorded()
    params.record(project, "train", {})
    ends = "from fluxttice_core.checkpoints import folder\nfrom fluxttice_core.model.network "
    ends += "import DualVAE\nfrom pathlib import Path\n"
    ends += "folder.save(Path(run_dir, 'checkpoint'), DualVAE.fresh(2), 7, {})"
    notebook(project / "notebooks/1_train.ipynb", ends)
    said = refused("reproduce", folder, "--quick").err
    assert "training ends in other weights than the recorded ones" in said


def test_what_records_no_run_is_named():
    assert "No run at nowhere" in sentence(reproduce.run, "nowhere")
    assert "records no run" in sentence(reproduce.run, "params")
