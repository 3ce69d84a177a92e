"""`fluxttice report`: all input is checked first, and only a finished notebook has a page."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from planted import notebook, sentence
from test_checkpoint import pt, v5_5

from fluxttice_core import cli, files, params
from fluxttice_core.certification import signing
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.report import run

MISSED = "from fluxttice_core.errors import ThresholdMissed\nraise ThresholdMissed('0.1 is low')"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook of these cells, really, and returns its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "root", Path.cwd)
    (tmp_path / "run").mkdir()

    def call(*cells: str) -> Path:
        notebook(Path("notebooks/1_train.ipynb"), *cells)
        run.execute("train", {"seed": 2}, tmp_path / "run")
        return tmp_path / "run"

    return call


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_notebook_has_a_page_that_needs_no_network(execute, monkeypatch, tmp_path):
    """Executed by this very Python, whichever kernel is called python3."""
    spec = {"argv": ["false"], "display_name": "another", "language": "python"}
    (other := tmp_path / "kernels/python3").mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    folder = execute("import sys\nprint(sys.executable)\ndisplay({'image/png': 'aGk='}, raw=True)")
    assert names(folder) == {"1_train.ipynb", "1_train.html"}
    html = (folder / "1_train.html").read_text("utf-8")
    assert sys.executable in html and "data:image/png;base64,aGk=" in html
    for reference in ("<script src=", 'src="http', '<link rel="stylesheet"', "@import url("):
        assert reference not in html


@pytest.mark.parametrize(
    "code, words",
    [
        ("raise KeyError(f'{seed} is\\ntoo low')", "1_train stopped: KeyError: '2 is"),
        ("import os\nos.kill(os.getpid(), 9)", "1_train stopped: its kernel died. It was killed"),
    ],
)
def test_a_stopped_notebook_is_unfinished_and_its_page_shows_where(execute, caplog, code, words):
    with pytest.raises(run.StepFailed, match=words) as caught:
        execute("print('this far')", code, "1")
    assert "\n" not in str(caught.value) and not caplog.records
    assert names(Path("run")) == {"1_train.unfinished.ipynb", "1_train.unfinished.html"}
    assert "this far" in Path("run/1_train.unfinished.html").read_text("utf-8")


def test_a_missed_training_is_finished_and_nothing_follows_it(project, reports, refused):
    notebook(project / "notebooks/1_train.ipynb", MISSED, "1")
    assert refused("report").err == "fluxttice: 1_train missed a bound: 0.1 is low\n"
    [folder] = reports.glob("*/*/")
    assert names(folder) >= {"1_train.ipynb", "1_train.html"} and not [*folder.glob("2_*")]
    book = nbformat.read(folder / "1_train.ipynb", as_version=4)
    assert book.metadata.fluxttice == {"missed": "0.1 is low"}
    assert "exception" not in json.dumps(book.metadata.papermill)
    [shown] = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert shown.traceback == ["ThresholdMissed: 0.1 is low"]
    assert "encountered" not in (folder / "1_train.html").read_text("utf-8")
    assert "its training missed a bound." in refused("report", "--resume", str(folder)).err


@pytest.fixture
def stubs(reports, monkeypatch):
    """The steps that ran, with their parameters, and the error that a step comes to."""
    ran, ends = {}, {}

    def execute(step, values, folder):
        assert (folder / f"{step}.params.yaml").is_file()
        ran[step] = values
        if step == "train":
            (folder / "checkpoint").mkdir()  # is never written over
        if step in ends:
            raise ends[step](f"{step} ended.")
        (folder / f"{run.NOTEBOOKS[step]}.html").touch()

    monkeypatch.setattr(run, "execute", execute)
    return ran, ends


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--train", {"epochz": 3}, "bad.yaml: unknown parameter epochz; did you mean epochs?"),
        ("--train", {"run_dir": "elsewhere"}, "bad.yaml: run_dir is set"),
        ("--benchmark", {"trials": 1}, "bad.yaml: trials should be greater"),
        ("--benchmark", {"checkpoint": "x"}, "bad.yaml: checkpoint is set, but here it is"),
        ("--certify", {"min_exact_match": "high"}, "bad.yaml: min_exact_match should be a valid"),
        *[(f"--{step}", "no.yaml", "No parameter file") for step in ("train", "certify")],
        *[("--checkpoint", path, "No checkpoint at") for path in ("no.pt", "x" * 400, "a\0b")],
        *[("--name", name, "fluxttice: name is ") for name in ("a/b", "", "..\\x", "two words")],
        *[("--resume", path, "No run at") for path in ("nowhere", "a\0b")],
        ("--resume", "lib", "it records no parameters of a run"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_begins(
    tmp_path, stubs, reports, refused, option, value, words
):
    if isinstance(value, dict):
        stated = params.read_yaml(files.root() / f"params/{option[2:]}.yaml") | value
        value = str(tmp_path / "bad.yaml")
        Path(value).write_text(json.dumps(stated))
    assert words in refused("report", option, value).err
    assert not stubs[0] and not reports.exists()


def test_a_key_that_cannot_sign_is_reported_before_anything_runs(stubs, refused, monkeypatch):
    monkeypatch.setenv(signing.KEY_VARIABLE, "/no/key.pem")
    assert "No signing key at /no/key.pem" in refused("report").err and not stubs[0]


def test_a_given_checkpoint_is_measured_and_nothing_is_trained(stubs, saved):
    assert cli.main(["report", "--checkpoint", str(saved)]) == 0
    measured = {step: values["checkpoint"] for step, values in stubs[0].items()}
    assert measured == dict.fromkeys(("benchmark", "certify"), str(saved))


def test_a_foreign_file_is_converted_once_and_the_run_measures_its_own_copy(
    stubs, reports, tmp_path, untrained
):
    (tmp_path / "x.pt").write_bytes(pt(v5_5(untrained)))
    assert cli.main(["report", "--checkpoint", str(tmp_path / "x.pt")]) == 0
    [folder] = reports.glob("*/*/")
    loaded = checkpoints.load(folder / "checkpoint")
    assert loaded.section("imported")["sha256"] == files.sha256((tmp_path / "x.pt").read_bytes())
    measured = {step: values["checkpoint"] for step, values in stubs[0].items()}
    assert measured == dict.fromkeys(("benchmark", "certify", "lineage"), "")


def test_an_expected_sha256_is_that_of_the_foreign_file(stubs, refused, tmp_path, untrained):
    """The run's parameters record that of its own copy, which every notebook then checks."""
    (file := tmp_path / "x.pt").write_bytes(pt(v5_5(untrained)))
    values, certify = params.read_yaml("params/certify.yaml"), tmp_path / "certify.yaml"
    words = ["report", "--checkpoint", str(file), "--certify", str(certify)]
    certify.write_text(json.dumps({**values, "expected_sha256": "0" * 64}))
    assert "0000 was expected" in refused(*words).err and not stubs[0]
    digest = files.sha256(file.read_bytes())
    certify.write_text(json.dumps({**values, "expected_sha256": digest}))
    assert cli.main(words) == 0
    recorded = {values["expected_sha256"] for values in stubs[0].values()}
    assert recorded == {checkpoints.load(file).sha256} != {digest}


@pytest.mark.parametrize("name", ["benchmark", "certify"])
def test_a_failed_step_stops_no_other_and_is_all_that_a_resumed_run_does(
    reports, stubs, refused, capsys, name
):
    ran, ends = stubs
    ends[name] = run.StepFailed
    assert refused("report", "--name", "mine").err == f"fluxttice: {name} ended.\n"
    [folder] = reports.glob("*/*-mine")
    assert list(ran) == ["train", "benchmark", "certify"]
    assert {values.get("checkpoint", "") for values in ran.values()} == {""}, "the run's own"
    recorded = folder / f"{name}.params.yaml"
    recorded.write_text(recorded.read_text().replace("k: 1000000", "k: 400000"))
    (folder / f"{run.NOTEBOOKS[name]}.unfinished.html").touch()
    (folder / "verdict.json").touch()
    ends.clear()
    ran.clear()
    assert cli.main(["report", "--resume", str(folder)]) == 0
    assert list(ran) == [name] and ran[name]["k"] == 400_000
    assert not [*folder.glob("*unfinished*")] and (folder / "checkpoint").is_dir()
    assert (folder / "verdict.json").exists() == (name == "benchmark")
    index, last = capsys.readouterr().out.splitlines()[-2:]
    assert index.endswith("reports/index.html") and last.endswith(folder.name)
    assert "cannot be resumed because it is complete." in sentence(
        run.run, "", "", "", resume=str(folder)
    )


def test_nothing_follows_an_interrupted_training_and_a_second_one_begins_afresh(
    reports, stubs, refused
):
    ran, ends = stubs
    ends["train"] = KeyboardInterrupt
    assert "1_train was interrupted. make report RESUME=" in refused("report").err
    assert list(ran) == ["train"]
    [folder] = reports.glob("*/*/")
    ends.clear()
    assert cli.main(["report", "--resume", str(folder)]) == 0 and len(ran) == 3


@pytest.mark.parametrize("value", ["~/x", "x"])
def test_the_reports_folder_may_be_in_the_home_or_relative(project, stubs, monkeypatch, value):
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("FLUXTTICE_REPORTS", value)
    assert cli.main(["report"]) == 0 and (project / "x/index.html").is_file()


def test_output_that_cannot_be_written_or_shown_is_no_traceback(
    tmp_path, stubs, monkeypatch, capsys
):
    report = ["report", "--name", "größe"]
    with open(tmp_path / "said", "w", encoding="ascii") as ascii_terminal:
        monkeypatch.setattr(sys, "stdout", ascii_terminal)
        assert cli.main(report) == 0
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(report) == 1
    assert "its output cannot be read or written (No space left" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(report) == 1
    assert capsys.readouterr().err == "fluxttice: standard output is closed.\n"


def test_a_reader_that_goes_away_ends_the_command_silently(monkeypatch, capsys):
    def closed(**_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(run, "run", closed)
    assert cli.main(["report"]) == 1 and capsys.readouterr().err == ""
