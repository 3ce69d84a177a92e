"""Fixtures that several test files share."""

import re
from pathlib import Path

import pytest
import torch
from forked import answer

from fluxttice_core import cli, files, params
from fluxttice_core.checkpoints import convert
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.metrics import reconstruction
from fluxttice_core.metrics.gates import Certify
from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.model.network import DualVAE
from fluxttice_core.training import selection

pytest.register_assert_rewrite("planted")


ROOT = Path(__file__).parents[2]
LONGEST = ("1_train.ipynb", "test_runs.py", "test_batch.py", "test_packaging.py")


def pytest_collection_modifyitems(items):
    """The longest files first, or one worker still has them when the other has nothing left."""
    items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))


@pytest.fixture(autouse=True)
def global_stream():
    """Nothing that is tested draws from torch's global stream."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def reports(tmp_path, monkeypatch) -> Path:
    """Where runs of this test go; not there yet."""
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"


@pytest.fixture
def project(tmp_path, reports, monkeypatch) -> Path:
    """An empty folder that is this test's repository, and where it is; it has our parameters."""
    monkeypatch.setattr(files, "root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").symlink_to(ROOT / "params")
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Runs the command, which must refuse these words in one sentence: what it then has said."""

    def said(*words: str):
        assert cli.main([*words]) == 1
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1, captured.err
        return captured

    return said


@pytest.fixture(scope="session")
def certified() -> DualVAE:
    """The shipped model, which no test may change."""
    return checkpoint.load(ROOT / "checkpoints" / "certified").model


@pytest.fixture(scope="session")
def strict() -> Certify:
    """The strict bounds of certification, as their YAML file has them."""
    stated = params.read_yaml(ROOT / "params" / "certify.yaml")
    return params.check(Certify, {**stated, "checkpoint": "x", "run_dir": ""}, "test")


@pytest.fixture
def forked(monkeypatch):
    """A `.pt` is read by a fork of this process."""
    monkeypatch.setattr(convert, "answer", answer)


@pytest.fixture
def perfect_model() -> DualVAE:
    """A model that cannot be better, with weights written by hand."""
    return oracle()


@pytest.fixture
def untrained() -> DualVAE:
    return DualVAE.fresh(1)


@pytest.fixture
def saved(tmp_path, untrained) -> Path:
    """The folder of a checkpoint that holds `untrained`."""
    return checkpoint.save(tmp_path / "saved", untrained, 7, {})


@pytest.fixture(scope="session")
def recipe() -> dict:
    """The v5.5 recipe's parameters, as its YAML file has them."""
    return params.read_yaml(ROOT / "params" / "train_v5_5.yaml")


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of the one run that the README shows."""
    text = (ROOT / "README.md").read_text("utf-8")
    [run] = {*re.findall(r"reports/\d{4}-\d\d-\d\d/[\w-]+", text)}
    return ROOT / run


@pytest.fixture
def thrifty(monkeypatch):
    """The validation metrics of training come from few draws."""
    monkeypatch.setattr(reconstruction, "DRAWS", 2)
    monkeypatch.setattr(selection, "LATENTS", 2_000)
