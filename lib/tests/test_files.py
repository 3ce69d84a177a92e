import hashlib
import json
import os
import re
import subprocess

import pytest
from fluxttice_core import files
from fluxttice_core.errors import InputError


@pytest.fixture
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"


def test_sha256_is_over_the_bytes():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert files.sha256(b"") == empty
    data = bytes(range(256)) + b"\r\n"
    assert files.sha256(data) == hashlib.sha256(data).hexdigest()
    assert files.sha256(b"a\r\n") != files.sha256(b"a\n")


def test_runs_of_the_same_second_get_folders_of_their_own(reports):
    """Twenty runs take far less than the second that their names can tell apart."""
    folders = [files.run_folder("", "train") for _ in range(20)]
    assert len(set(folders)) == 20 and all(folder.is_dir() for folder in folders)
    pattern = re.compile(r"\d{4}-\d\d-\d\d/\d{6}-train(-\d+)?")
    names = [folder.relative_to(reports.resolve()).as_posix() for folder in folders]
    assert all(pattern.fullmatch(name) for name in names)
    assert any(name.endswith("-train-2") for name in names)


def test_a_new_folder_is_dated_in_utc(reports):
    before = files.utc_now()
    folder = files.run_folder("", "x")
    days = {moment.strftime("%Y-%m-%d") for moment in (before, files.utc_now())}
    assert folder.parent.name in days
    assert before.utcoffset().total_seconds() == 0


def test_a_named_folder_is_made_and_what_is_in_it_stays(tmp_path, reports):
    folder = tmp_path / "a" / "b"
    assert files.run_folder(str(folder), "x") == folder.resolve()
    (folder / "kept").write_text("old")
    assert files.run_folder(str(folder), "x") == folder.resolve()
    assert os.listdir(folder) == ["kept"] and not reports.exists()


@pytest.mark.parametrize("run_dir", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, run_dir):
    """A file in its place, or a file system that takes nothing: not even root writes there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        files.run_folder(run_dir, "x")
    sentence = str(caught.value)
    assert run_dir in sentence and "\n" not in sentence and sentence.endswith(".")
    assert "writable" in sentence


def test_a_reports_folder_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setenv("FLUXTTICE_REPORTS", "/proc/nowhere")
    with pytest.raises(InputError, match="/proc/nowhere"):
        files.run_folder("", "x")


def test_json_is_strict_ordered_and_readable(tmp_path):
    path, value = tmp_path / "a.json", {"z": 1, "a": [0.1, None, "Łukasiewicz"]}
    files.write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.index('"z"') < text.index('"a"') and "Łukasiewicz" in text
    assert text.endswith("}\n") and "\r" not in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_is_no_json_leaves_the_old_file(tmp_path, bad):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        files.write_json(path, {"new": 1, "bad": bad})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_bytes_replace_the_old_file_whole(tmp_path):
    path = tmp_path / "a"
    files.write_bytes(path, b"old" * 1000)
    files.write_bytes(path, b"new\r\n")
    assert path.read_bytes() == b"new\r\n"
    assert os.listdir(tmp_path) == ["a"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_reader_never_sees_a_part(tmp_path):
    """A file opened before the write keeps the old content: the new one took its name, not its
    bytes."""
    path = tmp_path / "a"
    files.write_bytes(path, b"old")
    with path.open("rb") as reader:
        files.write_bytes(path, b"newer")
        assert reader.read() == b"old"


def test_a_failed_write_leaves_no_trace(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        files.write_bytes(tmp_path / "folder", b"a file cannot take a folder's name")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_path_is_found_from_the_working_directory_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("")
    assert files.find("here").resolve() == (tmp_path / "here").resolve()
    assert files.find(tmp_path / "gone") == tmp_path / "gone"
    assert files.find("gone") == files.root() / "gone"


def test_the_repository_holds_the_notebooks():
    assert (files.root() / "notebooks" / "1_train.ipynb").is_file()


def test_shown_paths_tell_nothing_of_the_machine(tmp_path):
    inside = files.root() / "reports" / "2025-01-01" / "x"
    assert files.shown(inside) == "reports/2025-01-01/x"
    outside = tmp_path / "home" / "someone" / "a" / "b.pt"
    assert files.shown(outside) == "a/b.pt"


def test_the_commit_is_gits(monkeypatch, tmp_path):
    asked = ["git", "-C", str(files.root()), "rev-parse", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True)
    expected = done.stdout.strip() if done.returncode == 0 else None
    assert files.git_commit()["commit"] == expected
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert files.git_commit() == {"commit": None, "clean": None}


def test_the_environment_names_what_a_rerun_needs():
    record = files.environment()
    assert {"python", "torch", "numpy", "platform", "threads"} <= record.keys()
    assert json.dumps(record)
