"""The main job: everything is checked before anything runs, and what is incomplete is no report."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fluxttice_core import cli, files
from fluxttice_core.report import job, pages, status

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
    said = pages.incomplete(written(tmp_path / "x.ipynb", *cells, **metadata))
    assert reason in said and bool(said) == bool(reason)


def test_the_exported_page_needs_no_network(tmp_path):
    path = written(tmp_path / "x.ipynb", ("print('here')", 1, [PICTURE]))
    html = pages.export_html(path).read_text("utf-8")
    assert "here" in html and "data:image/png;base64,aGk=" in html
    for reference in ("<script src=", 'src="http', '<link rel="stylesheet"', "@import url("):
        assert reference not in html


@pytest.fixture
def idle(reports, monkeypatch):
    """No job of the test begins: nothing is written, and no notebook starts."""
    monkeypatch.setattr(job, "execute", None)
    yield
    assert not reports.exists()


@pytest.mark.parametrize(
    ("step", "change", "sentence"),
    [
        ("train", "epochz: 3", "unknown parameter epochz; did you mean epochs?"),
        ("train", "run_dir: elsewhere", "run_dir is set"),
        ("benchmark", "trials: 1", "trials should be greater"),
        ("benchmark", "checkpoint: mine", "checkpoint is set, but here it is the run's own"),
        ("certify", "min_exact_match: high", "min_exact_match should be a valid number"),
    ],
)
def test_bad_parameters_of_any_step_stop_the_job(tmp_path, capsys, idle, step, change, sentence):
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
def test_what_is_not_there_is_named(capsys, idle, words, sentence):
    assert cli.main(["report", *words]) == 1
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_the_steps_share_a_folder_and_what_is_named_is_measured_alone(
    reports, monkeypatch, capsys, saved
):
    ran = []
    monkeypatch.setattr(job, "execute", lambda *words: ran.append(words))
    assert cli.main(["report", "--name", "mine"]) == 0
    assert [notebook for notebook, _, _ in ran] == ["1_train", "2_benchmark", "3_certify"]
    [folder] = reports.glob("*/*-mine")
    for notebook, values, run_dir in ran:
        assert run_dir == values["run_dir"] == str(folder)
        assert notebook == "1_train" or values["checkpoint"] == str(folder / "checkpoint")
    assert str(folder.name) in capsys.readouterr().out
    ran.clear()
    assert cli.main(["report", "--checkpoint", str(saved)]) == 0
    assert [(name, p["checkpoint"]) for name, p, _ in ran] == [
        ("2_benchmark", str(saved)), ("3_certify", str(saved)),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a/b", "", "..\\x", "two words"])
def test_a_name_that_is_no_folder_name_is_one_sentence(capsys, name):
    assert cli.main(["report", "--name", name]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fluxttice: name is ") and said.count("\n") == 1


def test_a_step_leaves_its_page_a_failed_and_an_interrupted_one_with_a_banner(
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
    dead = [("import os\nos.write(2, b'no\\nmemory left\\n')\nos._exit(1)", None, [])]
    written(tmp_path / "notebooks/dead.ipynb", *dead)
    with pytest.raises(job.StepFailed, match=r"dead stopped: its kernel died \(memory left\)"):
        job.execute("dead", {}, "run")
    names = [f"{name}.{kind}" for name in ("bad", "dead", "good") for kind in ("html", "ipynb")]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names

    def interrupt(notebook, parameters, draft, output):
        (tmp_path / "run" / "good.ipynb").replace(draft)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "execute_quietly", interrupt)
    with pytest.raises(KeyboardInterrupt, match="good was interrupted"):
        job.execute("good", {"seed": 3}, "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    for name, state in (("bad", "Failed"), ("dead", "Failed"), ("good", "Interrupted")):
        assert f"<b>{state}.</b>" in (tmp_path / f"run/{name}.html").read_text("utf-8")
        book = nbformat.read(tmp_path / f"run/{name}.ipynb", as_version=4)
        assert f"<b>{state}.</b>" in book.cells[0].source and book.metadata.papermill.exception


class Stubs:
    """Notebooks that come to what the test says."""

    def __init__(self):
        self.ends, self.ran = {}, []

    def __call__(self, notebook, values, run_dir):
        self.ran.append((notebook, values))
        if notebook == "1_train":
            (job.Path(run_dir) / "checkpoint").mkdir()  # is never written over
        if notebook in self.ends:
            raise self.ends[notebook](f"{notebook} ended.")

    def names(self):
        names = [notebook[:1] for notebook, _ in self.ran]
        self.ran.clear()
        return "".join(names)


@pytest.fixture
def stubs(reports, monkeypatch):
    monkeypatch.setattr(job, "execute", Stubs())
    return job.execute


def test_a_failed_benchmark_stops_nothing_and_is_all_that_a_resumed_run_does_again(
    tmp_path, stubs, capsys
):
    stubs.ends = {"2_benchmark": job.StepFailed}
    assert cli.main(["report"]) == 1 and stubs.names() == "123"
    assert capsys.readouterr().err == "fluxttice: 2_benchmark ended.\n"
    [folder] = tmp_path.glob("reports/*/*/")
    found = status.read(folder)
    assert (found.state, found.reason) == ("failed", "2_benchmark ended.")
    assert found.steps == {"train": "complete", "benchmark": "failed", "certify": "complete"}
    recorded = (folder / "benchmark.params.yaml").read_text().replace("k: 1000000", "k: 400000")
    (folder / "benchmark.params.yaml").write_text(recorded)
    stubs.ends = {}
    assert cli.main(["report", "--resume", str(folder)]) == 0
    [(notebook, values)] = stubs.ran
    assert notebook == "2_benchmark" and values["k"] == 400_000
    assert status.read(folder).state == "complete"
    index, last = capsys.readouterr().out.splitlines()[-2:]
    assert index.endswith("reports/index.html") and last.endswith(folder.name)
    assert cli.main(["report", "--resume", str(folder)]) == 1
    assert "cannot be resumed: it is complete." in capsys.readouterr().err


@pytest.mark.parametrize("end, state", [(KeyboardInterrupt, "interrupted"), (OSError, "failed")])
def test_nothing_follows_a_training_that_ended_and_a_second_one_keeps_what_it_left(
    tmp_path, stubs, capsys, end, state
):
    stubs.ends = {"1_train": end}
    assert cli.main(["report"]) == 1 and stubs.names() == "1"
    assert capsys.readouterr().err.count("\n") == 1
    [folder] = tmp_path.glob("reports/*/*/")
    assert status.read(folder).steps == {"train": state}
    stubs.ends = {}
    assert cli.main(["report", "--resume", str(folder)]) == 0 and stubs.names() == "123"
    assert (folder / "interrupted" / "checkpoint").is_dir()


@pytest.mark.parametrize("path", ["nowhere", "empty", "a\0b"])
def test_what_is_no_run_is_not_resumed(tmp_path, stubs, capsys, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", "--resume", path]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("No run at" in said or "it has no status.json" in said)
    assert not stubs.ran
