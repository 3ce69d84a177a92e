"""The main job: everything is checked before anything runs, and what is incomplete is no report."""

import json
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from planted import notebook

from fluxttice_core import cli, files, params
from fluxttice_core.report import job, pages, status

ERROR = new_output("error", ename="ValueError", evalue="no", traceback=[])
CODE = {
    "good": "print('here')\ndisplay({'image/png': 'aGk='}, raw=True)",
    "bad": "assert seed == 3, f'{seed} is too low'",
    "dead": "import os\nos.write(2, b'no\\nmemory left\\n')\nos._exit(1)",
    "killed": "import os\nos.kill(os.getpid(), 9)",
}


def test_a_report_is_valid_only_if_every_cell_ran_without_an_error(tmp_path):
    for count, outputs, noted, reason in (
        (2, [], {}, ""),
        (None, [], {}, "cell 1 was not executed"),
        (2, [ERROR], {}, "cell 1 shows an error"),
        (2, [], {"exception": True}, "papermill noted an exception"),
    ):
        first = new_code_cell("1", execution_count=1, outputs=[new_output("stream", text="1")])
        last = new_code_cell("2", execution_count=count, outputs=outputs)
        book = new_notebook(cells=[first, last], metadata={"papermill": noted})
        nbformat.write(book, tmp_path / "x.ipynb")
        said = pages.incomplete(tmp_path / "x.ipynb")
        assert said == (f"x.ipynb is not a finished run: {reason}." if reason else "")


def test_a_step_leaves_a_page_that_needs_no_network_and_a_failed_one_a_banner(
    tmp_path, monkeypatch, caplog
):
    """Real papermill runs, of small notebooks."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for name, source in CODE.items():
        notebook(Path(f"notebooks/{name}.ipynb"), source, "1")
    job.execute("good", {}, "run")
    html = Path("run/good.html").read_text("utf-8")
    assert "here" in html and "data:image/png;base64,aGk=" in html and 'role="status"' not in html
    for reference in ("<script src=", 'src="http', '<link rel="stylesheet"', "@import url("):
        assert reference not in html
    ends = {"bad": "AssertionError: 2 is too low", "dead": r"its kernel died \(memory left\)"}
    for name, why in {**ends, "killed": "its kernel died without a word."}.items():
        with pytest.raises(job.StepFailed, match=f"{name} stopped: {why}"):
            job.execute(name, {"seed": 2}, "run")
        assert "<b>Failed.</b>" in Path(f"run/{name}.html").read_text("utf-8")
        book = nbformat.read(f"run/{name}.ipynb", as_version=4)
        assert "<b>Failed.</b>" in book.cells[0].source and book.metadata.papermill.exception
        papermill = [cell.metadata.get("papermill", {}) for cell in book.cells]
        states = [found.status for found in papermill if found]
        assert states == ["completed", "completed", "failed", "pending"]
    assert not caplog.records, "on standard error there would be more than one sentence"
    names = {f"{name}.{kind}" for name in CODE for kind in ("html", "ipynb")}
    assert {path.name for path in Path("run").iterdir()} == names


def test_a_run_whose_folder_is_deleted_ends_at_once_in_one_sentence(project, reports, refused):
    source = "import shutil, time\nshutil.rmtree(run_dir)\n"
    source += "for _ in range(200):\n    print('here', flush=True)\n    time.sleep(0.1)\n"
    notebook(project / "notebooks/1_train.ipynb", source + "open('finished', 'w')")
    assert "was moved or deleted." in refused("report").err
    assert not (project / "finished").exists() and not list(reports.glob("*/*/"))


@pytest.fixture
def stubs(reports, monkeypatch):
    """The notebooks that ran, with their parameters; and which error one of them comes to."""
    ran, ends = {}, {}

    def execute(notebook, values, run_dir):
        ran[notebook] = values
        assert values["run_dir"] == run_dir
        if notebook == "1_train":
            Path(run_dir, "checkpoint").mkdir()  # is never written over
        if notebook in ends:
            raise ends[notebook](f"{notebook} ended.")

    monkeypatch.setattr(job, "execute", execute)
    return ran, ends


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--train", {"epochz": 3}, "bad.yaml: unknown parameter epochz; did you mean epochs?"),
        ("--train", {"run_dir": "elsewhere"}, "bad.yaml: run_dir is set"),
        ("--benchmark", {"trials": 1}, "bad.yaml: trials should be greater"),
        ("--benchmark", {"checkpoint": "x"}, "bad.yaml: checkpoint is set, but here it is"),
        ("--certify", {"min_exact_match": "high"}, "bad.yaml: min_exact_match should be a valid"),
        *[(f"--{step}", "nowhere.yaml", "No parameter file at") for step in job.NOTEBOOKS],
        *[("--checkpoint", path, "No checkpoint at") for path in ("no.pt", "x" * 400, "a\0b")],
        *[("--name", name, "fluxttice: name is ") for name in ("a/b", "", "..\\x", "two words")],
        *[("--resume", path, "No run at") for path in ("nowhere", "a\0b")],
        ("--resume", "params", "it has no status.json"),
    ],
)
def test_what_is_bad_or_not_there_is_one_sentence_and_nothing_begins(
    tmp_path, stubs, reports, refused, option, value, words
):
    if isinstance(value, dict):
        stated = params.read_yaml(files.root() / f"params/{option[2:]}.yaml") | value
        value = str(tmp_path / "bad.yaml")
        Path(value).write_text(json.dumps(stated))
    assert words in refused("report", option, value).err
    assert not stubs[0] and not reports.exists()


def test_what_is_named_is_measured_and_nothing_is_trained(stubs, saved):
    assert cli.main(["report", "--checkpoint", str(saved)]) == 0
    measured = {name: values["checkpoint"] for name, values in stubs[0].items()}
    assert measured == dict.fromkeys(("2_benchmark", "3_certify"), str(saved))


def test_a_failed_benchmark_stops_nothing_and_is_all_that_a_resumed_run_does_again(
    reports, stubs, refused, capsys
):
    ran, ends = stubs
    ends["2_benchmark"] = job.StepFailed
    assert refused("report", "--name", "mine").err == "fluxttice: 2_benchmark ended.\n"
    [folder] = reports.glob("*/*-mine")
    assert list(ran) == ["1_train", "2_benchmark", "3_certify"]
    assert {values["run_dir"] for values in ran.values()} == {str(folder)}
    measured = [ran[name]["checkpoint"] for name in ("2_benchmark", "3_certify")]
    assert measured == [str(folder / "checkpoint")] * 2
    found = status.read(folder)
    assert (found.state, found.reason) == ("failed", "2_benchmark ended.")
    assert found.steps == {"train": "complete", "benchmark": "failed", "certify": "complete"}
    recorded = (folder / "benchmark.params.yaml").read_text().replace("k: 1000000", "k: 400000")
    (folder / "benchmark.params.yaml").write_text(recorded)
    ends.clear()
    ran.clear()
    assert cli.main(["report", "--resume", str(folder)]) == 0
    assert list(ran) == ["2_benchmark"] and ran["2_benchmark"]["k"] == 400_000
    assert status.read(folder).state == "complete"
    index, last = capsys.readouterr().out.splitlines()[-2:]
    assert index.endswith("reports/index.html") and last.endswith(folder.name)
    said = refused("report", "--resume", str(folder)).err
    assert "cannot be resumed: it is complete." in said


@pytest.mark.parametrize("end, state", [(KeyboardInterrupt, "interrupted"), (OSError, "failed")])
def test_nothing_follows_a_training_that_ended_and_a_second_one_keeps_what_it_left(
    reports, stubs, refused, end, state
):
    ran, ends = stubs
    ends["1_train"] = end
    refused("report")
    assert list(ran) == ["1_train"]
    [folder] = reports.glob("*/*/")
    assert status.read(folder).steps == {"train": state}
    ends.clear()
    assert cli.main(["report", "--resume", str(folder)]) == 0 and len(ran) == 3
    assert (folder / "interrupted" / "checkpoint").is_dir()
