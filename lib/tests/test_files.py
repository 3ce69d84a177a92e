import os
import re
import subprocess

import pytest
from planted import sentence

from fluxttice_core import files
from fluxttice_core.errors import InputError

SOURCE = '''"""Docs — über."""  # first
import os


class A:
    """A."""

    def f(self):  # é
        "doc—"; x = "# no comment"
        "".join(x)
        if x:
            return  f"{x!r} # é"
        return 2
'''
REWORDED = '''import os
class A:
    def f(self):
        """More
        words."""; x = "# no comment"
        # Why.
        "".join(x)
        if x:
            return f"{x!r} # é"   # é
        return 2'''


# Nothing in it is a parser's rendering, so it is the same on every Python.
HASHED = """model/m.py
import os
class A:
    def f(self):
        ; x = "# no comment"
        "".join(x)
        if x:
            return f"{x!r} # é"
        return 2"""


def hash_of(tmp_path, monkeypatch, text):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "files.py"))
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "m.py").write_text(text, "utf-8")
    return files.code_hash.__wrapped__()


def test_the_hash_of_the_code_sees_code_and_no_words(tmp_path, monkeypatch):
    expected = files.sha256(HASHED.encode())
    assert hash_of(tmp_path, monkeypatch, SOURCE) == expected
    assert hash_of(tmp_path, monkeypatch, REWORDED) == expected
    for old, new in (
        ("return 2", "return 3"), ("# no", "no"), ('"".', '"-".'), ("def f", "async def f"),
        ("        return 2", "            return 2"), ("!r} #", "!r}#"),
    ):  # fmt: skip
        assert hash_of(tmp_path, monkeypatch, REWORDED.replace(old, new)) != expected
    one = hash_of(tmp_path, monkeypatch, "x = 1")
    (tmp_path / "parallel.py").write_text("x = 1")
    two = files.code_hash.__wrapped__()
    assert one != two != files.code_hash.__wrapped__("model") == one


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


def test_json_is_ordered_readable_and_strict():
    value = {"z": 1, "a": [0.1, None, "Łukasiewicz"]}
    text = files.json_bytes(value).decode()
    assert text.index('"z"') < text.index('"a"') and "Łukasiewicz" in text and text[-2:] == "}\n"
    with pytest.raises(ValueError):
        files.json_bytes({"new": 1, "bad": float("nan")})
    assert files.parse_json(text.encode()) == value
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
    with pytest.raises((type(error), InputError)):
        files.new_folder(tmp_path / "new", {"b/c": b"new"})
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_path_is_found_where_one_is_and_shown_without_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("")
    assert files.resolve("here").resolve() == (tmp_path / "here").resolve()
    assert files.resolve("params/train.yaml") == files.root() / "params/train.yaml"
    for gone in ("gone", "a\0b", "x" * 999, "~nobody/x", tmp_path / "gone"):
        assert "No run at " in sentence(files.resolve, gone, "run")
    assert sentence(files.resolve, " ", "run") == "run is empty: give the path of a run."
    assert (files.root() / "notebooks" / "1_train.ipynb").is_file()
    assert (
        files.display_path(files.root() / "reports" / "2025-01-01" / "x") == "reports/2025-01-01/x"
    )
    assert files.display_path(tmp_path / "home" / "someone" / "a" / "b.pt") == "a/b.pt"


def test_the_commit_is_that_of_this_project_and_of_no_other_repository(monkeypatch, tmp_path):
    asked = ["git", "-C", str(files.root()), "rev-parse", "HEAD"]
    own = (files.root() / ".git").exists()
    expected = subprocess.check_output(asked, text=True).strip() if own else None
    assert files.git_commit()["commit"] == expected

    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *author, "-C", tmp_path, *words], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "--message", "another")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / ".git" / "index"))
    assert files.git_commit()["commit"] == expected
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(files, "root", lambda: tmp_path / "unpacked")
    assert files.git_commit() == {"commit": None, "clean": None}
    monkeypatch.setattr(files, "root", lambda: tmp_path)
    assert len(files.git_commit()["commit"]) == 40 and files.git_commit()["clean"]
    (tmp_path / "new").write_text("")
    assert not files.git_commit()["clean"]
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert files.git_commit() == {"commit": None, "clean": None}


def test_the_environment_names_what_a_rerun_needs():
    expected = {"python", "torch", "numpy", "scipy", "platform", "cpu", "code"}
    assert expected <= files.environment().keys()


def test_a_folder_appears_whole_and_never_over_another(tmp_path):
    files.new_folder(tmp_path / "a" / "b", {"c/d": b"1"})
    assert (tmp_path / "a/b/c/d").read_bytes() == b"1" and os.listdir(tmp_path / "a") == ["b"]
    assert "exists already" in sentence(files.new_folder, tmp_path / "a" / "b", {})
    assert "cannot be written" in sentence(files.new_folder, tmp_path / "a/b/c/d/e", {"x": b""})


def test_reports_go_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.delenv("FLUXTTICE_REPORTS", raising=False)
    assert files.reports_folder() == files.root() / "reports"
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, place in (
        ("~/x", tmp_path / "x"), ("a/b", files.root() / "a/b"), (str(tmp_path), tmp_path),
    ):  # fmt: skip
        monkeypatch.setenv("FLUXTTICE_REPORTS", given)
        assert files.reports_folder() == place
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("FLUXTTICE_REPORTS", "~/x")
    assert files.reports_folder().is_absolute()
