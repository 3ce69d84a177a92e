"""What is installed: the pins hold on every Python promised, and the wheel works on its own."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import nbformat
import pytest

from fluxttice_core import cli, files

ROOT = files.root()
PINS = ROOT / "requirements.lock"
UNREACHABLE = re.compile(r"error sending request|failed to fetch|dns error|timed out", re.I)
OPTIONAL = ("matplotlib", "jupyter_client", "papermill", "nbconvert", "IPython", "model_signing")
LIGHT = f"""
import importlib.resources, importlib.util
assert importlib.resources.files("fluxttice_core").joinpath("py.typed").is_file()
found = [name for name in {OPTIONAL} if importlib.util.find_spec(name)]
assert not found, f"the core brings {{found}}"
"""
EXTRAS = {
    "verify checkpoints/certified": ("cryptography", "sign"), "report": ("IPython", "report"),
}  # fmt: skip
REFUSED = f"""
import contextlib, sys
from fluxttice_core import cli
with contextlib.suppress(SystemExit):
    cli.main(["--help"])
sys.stderr = sys.stdout
assert not any(cli.main(words.split()) != 1 for words in {list(EXTRAS)})
"""
EXPORT = """
from pathlib import Path
from fluxttice_core.report import plots, tables  # the pages need no key
from fluxttice_core.report.run import export_html
print(export_html(Path("small.ipynb")))
"""


def uv(*words: object) -> None:
    command = [Path(sys.executable).with_name("uv"), *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.fail("The package index cannot be reached, and this test needs it.", pytrace=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose path has a blank and a `#`, with a .venv that was made for it; and `make
    .venv/ready` there, by a Python that is too old to make another."""
    place = tmp_path / "a #b"
    place.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    pins = subprocess.run("cat requirements.lock pyproject.toml | cksum", shell=True, cwd=place,
                          capture_output=True, text=True, check=True)  # fmt: skip
    (place / ".venv").mkdir()
    (place / ".venv/ready").write_text(f"{place.resolve()} {pins.stdout}")

    def make(folder):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", ".venv/ready", "PYTHON=false"]
        return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)

    return place, make


def test_an_environment_is_made_again_only_for_another_place_or_other_pins(checkout, tmp_path):
    place, make = checkout
    ahead = time.time() + 10**8
    os.utime(place / "requirements.lock", (ahead, ahead))
    done = make(place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    shutil.copytree(place, tmp_path / "copied")
    with (place / "requirements.lock").open("a") as pins:
        pins.write("another==1\n")
    for folder in (place, tmp_path / "copied"):
        done = make(folder)
        first, *rest = done.stderr.splitlines()
        assert first.startswith("fluxttice needs Python 3.11 or newer, and false is not")
        assert done.returncode and all(line.startswith("make") for line in rest)


@pytest.mark.parametrize("python", ["3.11.0", "3.12", "3.13", "3.14"])
def test_the_pins_resolve_on_every_python_promised(python, tmp_path):
    uv("pip", "install", "--dry-run", "--python-version", python, "--only-binary", ":all:",
       "--target", tmp_path, "--requirement", PINS)  # fmt: skip


class Elsewhere:
    """An empty environment in an empty folder, far from the repository, with the wheel in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, source = folder / "work", folder / "source"
        self.folder.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE", "lib/fluxttice_core"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, source / name)
        uv("build", "--quiet", "--wheel", "--out-dir", folder, source)
        (self.wheel,) = folder.glob("*.whl")
        self.bin = folder / "env" / "bin"
        uv("venv", "--quiet", "--python", sys.executable, folder / "env")

    def install(self, extra: str = "") -> None:
        uv("pip", "install", "--quiet", "--python", self.bin / "python", "--constraint", PINS,
           f"fluxttice{extra} @ {self.wheel.as_uri()}")  # fmt: skip
        for ours in Path(sysconfig.get_path("purelib")).glob("**/__pycache__"):
            compiled = self.bin.parent / ours.relative_to(sys.prefix)  # of the same sources
            if compiled.parent.is_dir() and not compiled.exists():
                shutil.copytree(ours, compiled)

    def run(self, program: str, *words: str) -> str:
        command = [self.bin / program, *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """One environment for the tests of this file, which add to it in their order."""
    place = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    place.install()
    shutil.copytree(ROOT / "checkpoints/certified", place.folder / "checkpoints/certified")
    return place


def test_the_light_core_runs_what_the_readme_shows(elsewhere):
    """The verbs and the report on coverage, in the README's own words; for the rest, one sentence
    that names what to install."""
    readme = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"^```python\n(.*?)^```", readme, re.S | re.M)
    assert block
    for verb in ("load", "encode", "decode", "sample", "coverage_report"):
        assert f"{verb}(" in block[1]
    words = block[1].replace("coverage_report(", "coverage_report([1_000], ")
    said = elsewhere.run("python", "-c", LIGHT + words + REFUSED).splitlines()
    assert said[0].startswith("usage: ") and "verify" in " ".join(said)
    assert said[-len(EXTRAS) :] == [
        f"fluxttice: {missing} is not installed: pip install 'fluxttice[{extra}]'."
        for missing, extra in EXTRAS.values()
    ]


def test_a_module_of_our_own_that_is_missing_is_no_extra(monkeypatch):
    def lost(*arguments):
        raise ModuleNotFoundError(name="fluxttice_core.lost")

    monkeypatch.setattr("fluxttice_core.certification.verify.verify", lost)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["verify", "x"])


def test_with_its_extras_the_wheel_verifies_and_exports_a_page(elsewhere):
    elsewhere.install("[report]")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.write(notebook, elsewhere.folder / "small.ipynb")
    elsewhere.run("python", "-c", EXPORT)
    page = (elsewhere.folder / "small.html").read_text("utf-8")
    assert "</html>" in page and "<script src" not in page
    elsewhere.install("[sign]")
    said = elsewhere.run("fluxttice", "verify", "checkpoints/certified")
    assert said.splitlines()[-1].startswith("PASS")
