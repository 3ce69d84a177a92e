"""What a run leaves for others: one file of everything, and lines that only ever grow in number."""

import errno
import fcntl
import io
import multiprocessing

import pytest
from pydantic import ValidationError

from fluxttice_core import files
from fluxttice_core.errors import InputError
from fluxttice_core.metrics.measurement import MODEL, Results, Row
from fluxttice_core.metrics.results import Measured, exact
from fluxttice_core.report import history
from fluxttice_core.report.history import COLUMNS, Document

REFUSED = Measured(value=None, low=None, high=None, n=1, method="refused: constant")


def document(value=0.25, vaes="AB"):
    values = {"argmax_entropy": exact(value, 9), "exact_match": exact(1.0, 9), "mig": REFUSED}
    rows = [Row(network=MODEL, seed=None, vae=vae, k=100, values=values) for vae in vaes]
    results = Results(rows=rows, controls_measured="now", comparison=[])
    return Document(
        created_utc="2025-01-01T00:00:00+00:00", git={"commit": "abc", "clean": True},
        environment={}, checkpoint={"path": "x", "sha256": "0" * 64, "epoch": 3}, params={"k": 100},
        results=results,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports" / "history.csv"


def test_what_is_stored_is_what_was_measured_and_nothing_else_fits(tmp_path):
    stored = history.store(document(), tmp_path / "all.json")
    assert stored == document() and stored.results.of(MODEL)["B"].values["mig"].value is None
    raw = files.parse_json((tmp_path / "all.json").read_bytes())
    assert raw["schema"] == "fluxttice/coverage_vs_entropy/3"
    for spoilt in ({**raw, "surprise": 1}, {**raw, "schema": "other"}, {**raw, "results": {}}):
        with pytest.raises(ValidationError):
            Document.model_validate(spoilt)
    with pytest.raises(ValueError):
        document(float("nan"))


def test_the_history_keeps_every_earlier_line(path, tmp_path):
    assert history.history() == []
    before = ""
    for run in range(3):
        assert history.append(document(), tmp_path / f"run{run}") == path
        text = path.read_text("utf-8")
        assert text.startswith(before) and text.endswith("\n") and text.count("created_utc") == 1
        before = text
    lines = history.history()
    assert [line["vae"] for line in lines] == ["A", "B"] * 3 and tuple(lines[0]) == COLUMNS
    assert lines[0]["argmax_entropy"] == 0.25 and lines[0]["run"].endswith("run0")
    assert lines[0]["information"] != lines[0]["information"]  # not measured: not a number


def test_of_two_first_writers_the_second_waits_and_writes_no_header(path, tmp_path):
    path.parent.mkdir()
    with path.open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        context = multiprocessing.get_context("fork")
        second = context.Process(target=history.append, args=(document(), tmp_path))
        second.start()
        second.join(0.3)
        assert second.is_alive() and not path.read_bytes()
        first.write((",".join(COLUMNS) + "\n").encode())
        first.flush()
        fcntl.flock(first, fcntl.LOCK_UN)  # by hand: the fork holds the open file, too
    second.join()
    assert path.read_text("utf-8").count("created_utc") == 1 and len(history.history()) == 2


@pytest.mark.parametrize("there", [0, 1])
@pytest.mark.parametrize("failure", ["short", "full"])
def test_a_full_disk_leaves_the_history_as_it_was(path, tmp_path, monkeypatch, there, failure):
    class Full(io.FileIO):
        def write(self, data):
            written = super().write(data[: len(data) // 2])
            if failure == "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            return written

    for _ in range(there):
        history.append(document(), tmp_path)
    before = path.read_bytes() if there else b""
    monkeypatch.setattr(type(path), "open", lambda self, mode, buffering: Full(self, "a+"))
    with pytest.raises(InputError, match=r"cannot be written .*: kept as it was"):
        history.append(document(), tmp_path)
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_folder_that_takes_nothing_is_named(monkeypatch):
    monkeypatch.setenv("FLUXTTICE_REPORTS", "/proc/nowhere")
    with pytest.raises(InputError, match=r"/proc/nowhere/history\.csv cannot be written"):
        history.append(document(), files.root())


def test_a_damaged_line_is_named_and_left_out(path, tmp_path, capsys):
    history.append(document(), tmp_path)
    header, first, second = path.read_text().splitlines()
    good = [header, first]
    for number, damaged in enumerate(
        (first[:40], first + ",1,2", first.replace("0.25", "0.2x"), "\0" * 9)
    ):
        path.write_text("\n".join([*good, damaged]) + "\n")
        assert [line["vae"] for line in history.history()] == ["A"], number
        assert "line 3 is damaged and left out" in capsys.readouterr().out
    path.write_text("\n".join([header, first[:9], "", second]) + "\n")
    assert [line["vae"] for line in history.history()] == ["B"]
    assert "line 2 is damaged" in capsys.readouterr().out


def test_a_history_with_other_columns_is_not_added_to(path, tmp_path):
    path.parent.mkdir()
    path.write_text("created_utc,vae\n1,A\n")
    with pytest.raises(InputError, match="other columns than this release's: move it away"):
        history.append(document(), tmp_path)
    assert path.read_text() == "created_utc,vae\n1,A\n"
