"""The main job and the command line, from the outside where that is what a user meets."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from fluxttice_core import cli
from fluxttice_core import files
from fluxttice_core.report import records
from fluxttice_core.report import job as report
from fluxttice_core.errors import InputError

ROOT = files.root()
DEFAULTS = ("params/train.yaml", "params/benchmark.yaml", "params/certify.yaml")


def notebook(*sources: str) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells)


def saved(path, *cells) -> None:
    book = notebook(*(["1 + 1"] * len(cells)))
    for cell, (count, outputs) in zip(book.cells, cells, strict=True):
        cell.execution_count, cell.outputs = count, outputs
    nbformat.write(book, path)


ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([(1, []), (2, [])], ""),
        ([(1, []), (None, [])], "cell 1 was not executed"),
        ([(1, [ERROR])], "cell 0 shows an error"),
    ],
)
def test_a_report_is_valid_only_if_every_cell_ran_without_an_error(tmp_path, cells, reason):
    saved(tmp_path / "x.ipynb", *cells)
    assert (
        reason in report.incomplete(tmp_path / "x.ipynb")
        if reason
        else not report.incomplete(tmp_path / "x.ipynb")
    )


def test_a_report_with_papermills_exception_flag_is_refused(tmp_path):
    saved(tmp_path / "x.ipynb", (1, []))
    book = nbformat.read(tmp_path / "x.ipynb", as_version=4)
    book.metadata["papermill"] = {"exception": True}
    nbformat.write(book, tmp_path / "x.ipynb")
    assert "exception" in report.incomplete(tmp_path / "x.ipynb")


def test_the_exported_page_needs_no_network(tmp_path):
    saved(tmp_path / "x.ipynb", (1, []))
    html = report.export_html(tmp_path / "x.ipynb").read_text(encoding="utf-8")
    assert "<script src=" not in html and 'src="http' not in html and "@import url(" not in html


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("epochs: -1", "epochs should be greater"),
        ("epochs: 0", "epochs should be greater"),
        ("batch_size: -4", "batch_size should be greater"),
        ("epochz: 3", "unknown parameter epochz; did you mean epochs?"),
        ("lr: fast", "lr must be a number"),
        ("recipe: v6", "recipe is 'v6'"),
        ("run_dir: elsewhere", "run_dir is set"),
    ],
)
def test_bad_parameters_stop_the_job(tmp_path, capsys, monkeypatch, change, sentence):
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    name = change.split(":")[0]
    lines = (ROOT / "params/train.yaml").read_text(encoding="utf-8").splitlines()
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "\n".join([line for line in lines if not line.startswith(f"{name}:")] + [change])
    )
    assert cli.main(["report", "--train", str(bad)]) == 1
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1 and "Traceback" not in message
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("option", ["--train", "--benchmark", "--certify"])
def test_a_parameter_file_that_is_not_there_is_named(capsys, option):
    assert cli.main(["report", option, "params/nowhere.yaml"]) == 1
    assert "No parameter file at" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_named_first(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    assert cli.main(["report", "--checkpoint", "nowhere.pt"]) == 1
    assert "No checkpoint at nowhere.pt" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_an_unwritable_reports_folder_is_one_sentence(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "file"))
    assert cli.main(["report"]) == 1
    assert "Cannot write a report in" in capsys.readouterr().err


def test_a_step_leaves_its_notebook_and_page_and_a_failed_one_too(tmp_path, monkeypatch):
    """Two real papermill runs, of notebooks of one cell."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    good, bad = (
        notebook("# parameters\nseed = 1", "print(seed)"),
        notebook("assert 1 == 2, 'too low'"),
    )
    for name, book in (("good", good), ("bad", bad)):
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
        nbformat.write(book, tmp_path / "notebooks" / f"{name}.ipynb")
    report.execute("good", {"seed": 3}, "run")
    with pytest.raises(report.StepFailed, match="bad stopped: AssertionError: too low"):
        report.execute("bad", {}, "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "bad.html", "bad.ipynb", "good.html", "good.ipynb",
    ]  # fmt: skip
    assert "3" in (tmp_path / "run" / "good.html").read_text(encoding="utf-8")


def test_the_command_is_installed_and_exits_non_zero_for_a_mistake():
    done = subprocess.run(
        [Path(sys.executable).with_name("fluxttice"), "report", "--train", "nowhere.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_the_default_files_pass_the_checks_of_the_job():
    for step, path in zip(report.NOTEBOOKS, DEFAULTS, strict=True):
        report._checked(step, path, "" if step == "train" else "x")


def test_a_document_that_does_not_fit_its_schema_is_refused_by_place():
    with pytest.raises(InputError, match="does not fit the schema coverage_vs_entropy"):
        records.check({"schema": "fluxttice/coverage_vs_entropy/2"}, "coverage_vs_entropy")
