import os
import re
import subprocess

import pytest
from planted import sentence

from fluxttice_core import files


def test_the_hash_of_the_code_sees_syntax_and_no_words(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "files.py"))
    (tmp_path / "model").mkdir()
    hashes = []
    for text in ('"""a"""\nx = 1', '"""b"""\nx = 1  # c', "x = 1", "x = 2"):
        (tmp_path / "model" / "m.py").write_text(text)
        hashes.append(files.code_hash.__wrapped__("model"))
    assert len(set(hashes[:3])) == 1 and hashes[3] != hashes[0] != files.code_hash.__wrapped__(
        "metrics"
    )


def test_runs_of_the_same_second_get_folders_of_their_own_dated_in_utc(reports):
    before = files.utc_now()
    folders = [files.run_folder("", "train") for _ in range(20)]
    assert len(set(folders)) == 20 and all(folder.is_dir() for folder in folders)
    names = [folder.relative_to(reports.resolve()).as_posix() for folder in folders]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d/\d{6}-train(-\d+)?", name) for name in names)
    assert any(name.endswith("-train-2") for name in names)
    days = {moment.strftime("%Y-%m-%d") for moment in (before, files.utc_now())}
    assert {name[:10] for name in names} <= days and not before.utcoffset().total_seconds()


def test_a_named_folder_is_made_and_what_is_in_it_stays(tmp_path, reports):
    folder = tmp_path / "a" / "b"
    assert files.run_folder(str(folder), "x") == folder.resolve()
    (folder / "kept").write_text("old")
    assert files.run_folder(str(folder), "x") == folder.resolve()
    assert os.listdir(folder) == ["kept"] and not reports.exists()


@pytest.mark.parametrize("run_dir", ["file/below", "/proc/nowhere", "a\0b", ""])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, run_dir):
    """A file in its place, or a file system that takes nothing: not even root writes there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLUXTTICE_REPORTS", "/proc/nowhere")
    (tmp_path / "file").write_text("")
    text = sentence(files.run_folder, run_dir, "x")
    assert (run_dir or "/proc/nowhere") in text and "writable" in text


def test_json_is_ordered_and_readable_and_what_is_none_leaves_the_old_file(tmp_path):
    path, value = tmp_path / "a.json", {"z": 1, "a": [0.1, None, "Łukasiewicz"]}
    files.write_json(path, value)
    text = path.read_text("utf-8")
    assert text.index('"z"') < text.index('"a"') and "Łukasiewicz" in text and text[-2:] == "}\n"
    for bad in (float("nan"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            files.write_json(path, {"new": 1, "bad": bad})
    assert files.parse_json(path.read_bytes()) == value
    for lenient in (b'{"a": 1, "a": 1}', b'[{"a": NaN}]', b"[" * 100_000):
        with pytest.raises(ValueError):
            files.parse_json(lenient)


def test_bytes_replace_the_old_file_whole_and_a_reader_never_sees_a_part(tmp_path):
    """A file opened before the write keeps its content: the new one took its name."""
    path = tmp_path / "a"
    files.write_bytes(path, b"old" * 1000)
    with path.open("rb") as reader:
        files.write_bytes(path, b"new\r\n")
        assert reader.read() == b"old" * 1000
    assert path.read_bytes() == b"new\r\n" and path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "no space"), KeyboardInterrupt()])
def test_a_failed_or_interrupted_write_leaves_no_trace(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    files.write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        files.write_bytes(tmp_path / "a", b"new")
    with pytest.raises(type(error)), files.new_folder(tmp_path / "new") as draft:
        (draft / "x").write_text("")
        fail()
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_path_is_found_where_one_is_and_shown_without_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("")
    assert files.find("here").resolve() == (tmp_path / "here").resolve()
    assert files.find(tmp_path / "gone") == tmp_path / "gone"
    assert files.find("gone") == files.root() / "gone"
    assert (files.root() / "notebooks" / "1_train.ipynb").is_file()
    assert files.shown(files.root() / "reports" / "2025-01-01" / "x") == "reports/2025-01-01/x"
    assert files.shown(tmp_path / "home" / "someone" / "a" / "b.pt") == "a/b.pt"


def test_the_commit_is_gits_and_the_environment_names_what_a_rerun_needs(monkeypatch, tmp_path):
    asked = ["git", "-C", str(files.root()), "rev-parse", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True)
    expected = done.stdout.strip() if done.returncode == 0 else None
    assert files.git_commit()["commit"] == expected
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert files.git_commit() == {"commit": None, "clean": None}
    assert {"python", "torch", "numpy", "scipy", "platform"} <= files.environment().keys()
