"""The main job: everything is checked before anything runs, and what is incomplete is no report."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fluxttice_core import cli, files
from fluxttice_core.report import job

ROOT = files.root()
ERROR = new_output("error", ename="ValueError", evalue="no", traceback=[])
PICTURE = new_output("display_data", {"image/png": "aGk="})


def written(path, *cells, **metadata):
    code = [new_code_cell(s, execution_count=n, outputs=out) for s, n, out in cells]
    book = new_notebook(cells=code, metadata=metadata)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    book.cells[0].metadata["tags"] = ["parameters"]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize(
    ("cells", "metadata", "reason"),
    [
        ([("1", 1, []), ("2", 2, [PICTURE])], {}, ""),
        ([("1", 1, []), ("2", None, [])], {}, "cell 1 was not executed"),
        ([("1", 1, [ERROR])], {}, "cell 0 shows an error"),
        ([("1", 1, [])], {"papermill": {"exception": True}}, "papermill noted an exception"),
    ],
)
def test_a_report_is_valid_only_if_every_cell_ran_without_an_error(
    tmp_path, cells, metadata, reason
):
    said = job.incomplete(written(tmp_path / "x.ipynb", *cells, **metadata))
    assert reason in said and bool(said) == bool(reason)


def test_the_exported_page_needs_no_network(tmp_path):
    path = written(tmp_path / "x.ipynb", ("print('here')", 1, [PICTURE]))
    html = job.export_html(path).read_text("utf-8")
    assert "here" in html and "data:image/png;base64,aGk=" in html
    for reference in ("<script src=", 'src="http', '<link rel="stylesheet"', "@import url("):
        assert reference not in html


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """No job below begins: nothing is written, and no notebook starts."""
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setattr(job, "execute", None)
    yield tmp_path / "reports"
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("step", "change", "sentence"),
    [
        ("train", "epochs: 0", "epochs should be greater"),
        ("train", "epochz: 3", "unknown parameter epochz; did you mean epochs?"),
        ("train", "recipe: v6", "recipe is 'v6'"),
        ("train", "run_dir: elsewhere", "run_dir is set"),
        ("benchmark", "trials: 1", "trials should be greater"),
        ("benchmark", "checkpoint: mine", "checkpoint is set, but here it is the run's own"),
        ("certify", "min_exact_match: high", "min_exact_match should be a valid number"),
    ],
)
def test_bad_parameters_of_any_step_stop_the_job(tmp_path, capsys, reports, step, change, sentence):
    name = change.split(":")[0]
    lines = (ROOT / f"params/{step}.yaml").read_text("utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(f"{name}:")]
    (tmp_path / "bad.yaml").write_text("\n".join([*kept, change]))
    assert cli.main(["report", f"--{step}", str(tmp_path / "bad.yaml")]) == 1
    said = capsys.readouterr().err
    assert sentence in said and "bad.yaml" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        *[([f"--{step}", "nowhere.yaml"], "No parameter file at") for step in job.NOTEBOOKS],
        *[(["--checkpoint", path], "No checkpoint at") for path in ("no.pt", "x" * 400, "a\0b")],
    ],
)
def test_what_is_not_there_is_named(capsys, reports, words, sentence):
    assert cli.main(["report", *words]) == 1
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_the_steps_share_a_folder_and_what_is_named_is_measured_alone(
    tmp_path, monkeypatch, capsys, saved
):
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    ran = []
    monkeypatch.setattr(job, "execute", lambda *words: ran.append(words))
    assert cli.main(["report", "--name", "mine"]) == 0
    assert [notebook for notebook, _, _ in ran] == ["1_train", "2_benchmark", "3_certify"]
    [folder] = (tmp_path / "reports").glob("*/*-mine")
    for notebook, values, run_dir in ran:
        assert run_dir == values["run_dir"] == str(folder)
        assert notebook == "1_train" or values["checkpoint"] == str(folder / "checkpoint")
    assert str(folder.name) in capsys.readouterr().out
    ran.clear()
    assert cli.main(["report", "--checkpoint", str(saved)]) == 0
    assert [(name, p["checkpoint"]) for name, p, _ in ran] == [
        ("2_benchmark", str(saved)), ("3_certify", str(saved)),
    ]  # fmt: skip


def test_an_unwritable_reports_folder_is_one_sentence(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "file"))
    assert cli.main(["report"]) == 1
    assert "Cannot write a report in" in capsys.readouterr().err


def test_a_step_leaves_its_page_a_failed_one_too_and_an_interrupted_one_nothing(
    tmp_path, monkeypatch, capsys
):
    """Two real papermill runs, of notebooks of one cell."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    cells = [("# parameters\nseed = 1", None, []), ("assert seed == 3, 'too low'", None, [])]
    for name in ("good", "bad"):
        written(tmp_path / f"notebooks/{name}.ipynb", *cells)
    job.execute("good", {"seed": 3}, "run")
    with pytest.raises(job.StepFailed, match="bad stopped: AssertionError: too low"):
        job.execute("bad", {"seed": 4}, "run")
    names = ["bad.html", "bad.ipynb", "good.html", "good.ipynb"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names

    def interrupt(notebook, parameters, draft, output):
        draft.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "execute_quietly", interrupt)
    with pytest.raises(job.StepFailed, match="good was interrupted: it left no report"):
        job.execute("good", {"seed": 3}, "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
