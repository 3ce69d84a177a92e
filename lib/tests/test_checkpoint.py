"""Checkpoints and foreign `.pt` files: what is written is read again, all else is refused.

Files made to do harm are in test_attacks.py.
"""

import io
import json
import math
import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from forked import answer
from planted import same, sentence

from fluxttice_core import cli, files
from fluxttice_core.checkpoints import convert, sandbox
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.errors import InputError
from fluxttice_core.model.network import DualVAE
from fluxttice_core.model.streams import generator


def refused(path, **kwargs):
    """The one sentence with which loading `path` is refused."""
    text = sentence(checkpoint.load, path, **kwargs)
    assert not text.endswith("..")
    return text


def pt(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def v5_5(model, /, **changes) -> dict:
    """Everything the original wrote, after one real optimiser step of what gets a gradient."""
    trained = [v for k, v in model.named_parameters() if not k.startswith("state_net")]
    optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=1e-4)
    sum(v.square().sum() for v in trained).backward()
    optimiser.step()
    corrections = {"delta_lr": [np.float64(0.5)], "delta_lambda1": [0.5]}
    return {
        "epoch": 103, "model": model.state_dict(), "optimizer": optimiser.state_dict(),
        "best_val_loss": np.float64(1.25),
        "H_A_history": [np.float64(1.5), 2.5], "H_B_history": [np.float32(0.5)],
        "coverage_A_history": [np.int64(16_976)], "coverage_B_history": [16_921],
        "lambda1": 0.7, "lambda2": 0.7, "lambda3": np.float64(0.25), "rho": 0.1, "phase": 2,
        "grad_balance_achieved": np.bool_(True), "grad_norm_A_ema": np.float32(1.5),
        "grad_norm_B_ema": 0.5, "grad_ema_momentum": 0.95, "statenet_enabled": True,
        "statenet_corrections":
            corrections | {"delta_lambda2": [], "delta_lambda3": [float("nan")]},
        **changes,
    }  # fmt: skip


@pytest.fixture
def old(tmp_path, untrained):
    """A v5.5 file, with every key that v5.5 wrote."""
    (tmp_path / "old.pt").write_bytes(pt(v5_5(untrained, config={"a": 1}, note="x")))
    return tmp_path / "old.pt"


# --- Ours ---


@pytest.mark.parametrize("inside", ["", checkpoint.WEIGHTS])
def test_what_was_saved_is_what_is_loaded(saved, untrained, inside, tmp_path):
    digest = files.sha256((saved / checkpoint.WEIGHTS).read_bytes())
    loaded = checkpoint.load(saved / inside, f" {digest.upper()} ")
    assert same(loaded.model.state_dict(), untrained.state_dict())
    assert not loaded.model.training and loaded.epoch == 7
    assert loaded.sha256 == loaded.manifest["weights"]["sha256"] == digest
    assert loaded.record() == {"path": loaded.path, "sha256": digest, "epoch": 7}
    again = checkpoint.save(tmp_path / "again", loaded.model, 7, {})
    assert checkpoint.load(again).sha256 == digest
    assert "abc was expected" in refused(saved / inside, expected_sha256="abc")


def test_the_manifest_says_what_when_and_from_what(tmp_path, untrained):
    """Even after a save that was cut off, whose draft must not block the next."""
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "a", untrained, 1, {"not json": object()})
    assert not (tmp_path / "a").exists()
    folder = checkpoint.save(tmp_path / "a", untrained, None, {"config": {"seed": 42}})
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    assert manifest["config"] == {"seed": 42} and manifest["epoch"] is None
    assert manifest["weights"]["bytes"] == (folder / checkpoint.WEIGHTS).stat().st_size
    assert {"schema", "created_utc", "environment", "git"} <= manifest.keys()
    assert {*os.listdir(folder)} == {checkpoint.MANIFEST, checkpoint.WEIGHTS}
    with pytest.raises(InputError, match="never written over"):
        checkpoint.save(folder, DualVAE.fresh(9), 8, {})
    assert os.listdir(tmp_path) == ["a"]
    assert same(checkpoint.load(folder).model.state_dict(), untrained.state_dict())


TAMPERED = {
    "hash": {"weights": {"sha256": "0" * 64}}, "null": {"weights": {"sha256": None}},
    "none": {"weights": {}}, "text": {"weights": "none"}, "epoch": {"epoch": "last"},
    "cut": '{"weights": {', "list": "[]", "binary": "\0\1",
}  # fmt: skip


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_manifest_is_refused_and_so_is_none(saved, change):
    path = saved / checkpoint.MANIFEST
    if isinstance(change, dict):
        change = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(change)
    assert "manifest" in refused(saved)
    path.unlink()
    assert "has no manifest.json" in refused(saved)


# --- Paths and foreign files ---


def test_a_path_to_nothing_is_refused(tmp_path):
    assert "checkpoint is empty" in refused("   ")
    assert "has no model.safetensors" in refused(tmp_path)
    (file := tmp_path / "file.pt").touch()
    assert "empty (0 bytes)" in refused(file)
    os.truncate(file, 2**40)  # sparse: it takes no room on the disk
    assert "64 MiB" in refused(file)


HTML = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
FOREIGN = {
    "bare pickle": pickle.dumps({"model": {}}),
    "safetensors": safetensors.torch.save({}),
    "(model, model_state, model_state_dict, base_model_state_dict), and has 0": pt([1, 2]),
    "must have one state dict": pt({"model": [1]}),
    "no encoder": pt({"model": {}}),
    "is not one dense tensor": pt({"model": {1: torch.ones(1), None: 2}}),
    "torch before 1.6":
        pt({"model": {"x": torch.ones(3)}}, _use_new_zipfile_serialization=False),
    "not write it": pt({"model": {"x": torch.ones(3)}}, pickle_protocol=4),
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 975000\n",
    "a web page": HTML,
    "checksums": pt({"model": {"x": torch.ones(99)}}).replace(b"\0\0\x80?", b"\0\0\x81?"),
    "not a .pt of torch": b"no archive",
}  # fmt: skip


@pytest.mark.parametrize("words", FOREIGN)
def test_a_foreign_file_is_refused_as_what_it_is(tmp_path, words, forked):
    path = tmp_path / "file.pt"
    path.write_bytes(FOREIGN[words])
    assert str(path) in refused(path)
    assert words in refused(path) or words == "safetensors"


# --- Reading a .pt as data ---


def claims(content):
    """The facts of a `.pt` that holds `content` beside an empty state dict."""
    return sandbox.read(pt({"model": {}, **content}))[0]


def test_scalars_of_an_older_numpy_load():
    """Its scalars name `numpy.core`, which newer versions call `numpy._core`."""
    with zipfile.ZipFile(io.BytesIO(pt({"model": {}, "x": np.float64(0.25)}))) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(older := io.BytesIO(), "w") as target:
        for name, data in records.items():
            target.writestr(name, data.replace(b"cnumpy._core.", b"cnumpy.core."))
    assert any(b"cnumpy._core." in data for data in records.values())
    assert sandbox.read(older.getvalue())[0]["claims"] == {"x": 0.25}


SHARED = {"version": "5.12"}
PLAIN = [
    None, True, False, 0, -1, 255, 65_535, 2**31, -(2**63), 2**63 - 1, 0.1, -0.0, "", "Größe", [],
    [[1], [2]], {}, {"a": {"b": [1.5]}}, list(range(3_000)), [SHARED, SHARED],
]  # fmt: skip
SCALARS = [
    np.float64(0.1), np.float32(0.5), np.float16(0.5), np.int64(-7), np.int32(7), np.int8(-1),
    np.uint8(255), np.uint64(2**63), np.bool_(True), np.bool_(False), torch.tensor(1.5),
]  # fmt: skip


def test_plain_values_come_as_they_were_and_numpys_as_their_numbers():
    facts = claims({"x": PLAIN + SCALARS})
    assert repr(facts["claims"]["x"]) == repr(PLAIN + [value.item() for value in SCALARS])
    assert facts["cut"] == 0


def test_claims_are_cut_to_plain_data_and_counted():
    deep = []
    for _ in range(99):
        deep = [deep]
    facts = claims({
        "bytes": b"x", "pair": (1, -math.inf), "nan": [math.nan], "huge": 2**64, 7: {1: 2},
        "long": [0] * 2**20, "text": "x" * 2**20, "deep": deep, "ema": {"shadow": [torch.ones(2)]},
        "surrogate": "\ud800", "radii": torch.ones(10), "optimizer": {}, "epoch": "last",
    })  # fmt: skip
    assert facts["parts"] == ["ema", "radii"] and facts["cut"] == 5
    assert "(list)" in repr(facts["claims"].pop("deep"))
    assert facts["claims"] == {
        "bytes": "(bytes)", "pair": [1, "-inf"], "nan": ["nan"], "huge": "(int)", "7": {"1": 2},
        "long": "(list)", "text": "(str)", "surrogate": "?", "optimizer": {}, "epoch": "last",
    }  # fmt: skip


DTYPES = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()  # noqa: SIM905


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_views_and_parameters_come_as_they_were(dtype):
    base = (3 * torch.randn(4, 6, generator=generator(0, "test"))).to(getattr(torch, dtype))
    tensors = [base, base.T, base[2], base[::2, 1::3], base, base[0, 0], base[:0], base[None, :1]]
    tensors.append(torch.nn.Parameter(base, requires_grad=dtype.startswith("float")))
    state = {str(number): tensor for number, tensor in enumerate(tensors)}
    found = safetensors.torch.load(sandbox.read(pt({"model": state}))[1])
    assert same(found, state) and all(found[k].dtype == state[k].dtype for k in state)


def test_the_child_reads_a_file_and_is_ended_in_time(monkeypatch, old):
    """In a Python of its own. The slow pickle hashes a pair of pairs of pairs …, 60 deep."""
    data = old.read_bytes()
    assert convert.answer(data) == answer(data) != b""
    pairs = b"".join(b"q%ch%c\x86" % (number, number) for number in range(60))
    with zipfile.ZipFile(slow := io.BytesIO(), "w") as target:
        target.writestr("archive/data.pkl", b"\x80\2})" + pairs + b"Ns.")
        target.writestr("archive/version", b"3\n")
    monkeypatch.setattr(convert, "SECONDS", 1)
    assert convert.answer(slow.getvalue()) == b""


# --- Importing ---


def test_a_pt_of_another_sha256_is_refused_before_it_is_read(old, monkeypatch, forked):
    digest = files.sha256(old.read_bytes())
    loaded = checkpoint.load(old, f" {digest.upper()}")
    assert loaded.manifest["imported"]["sha256"] == digest
    assert loaded.sha256 == files.sha256(loaded.contents[checkpoint.WEIGHTS])
    monkeypatch.setattr(convert, "answer", None)
    assert "abc was expected" in refused(old, expected_sha256="abc")


def test_an_epoch_is_a_whole_number_or_none(old, untrained, forked):
    old.write_bytes(pt(v5_5(untrained, epoch="last")))
    assert checkpoint.load(old).epoch is None


def test_an_answer_that_is_cut_or_missing_is_a_sentence(old, monkeypatch):
    for found in (b"", b"{", b"\n", b"torch: warning\n{}"):
        monkeypatch.setattr(convert, "answer", lambda data, found=found: found)
        assert "takes too long" in refused(old)


def test_an_imported_checkpoint_is_one_of_ours(tmp_path, old, untrained, capsys, forked):
    assert cli.main(["import", str(old), str(tmp_path / "new" / "ours")]) == 0
    loaded, data = checkpoint.load(tmp_path / "new" / "ours"), old.read_bytes()
    assert same(loaded.model.state_dict(), untrained.state_dict()) and loaded.epoch == 103
    assert loaded.manifest["schema"] == checkpoint.SCHEMA
    assert loaded.sha256 in capsys.readouterr().out
    assert loaded.manifest["imported"] == {
        "file": "old.pt", "sha256": files.sha256(data), "bytes": len(data), "layout": "v5.5",
        "state": "model", "ignored": {"optimizer": "state of an optimiser"}, "cut": 0,
    }  # fmt: skip
    wrote = v5_5(untrained, config={"a": 1}, note="x")
    wrote["statenet_corrections"]["delta_lambda3"] = ["nan"]
    assert loaded.manifest["claims"] == {k: wrote[k] for k in wrote.keys() - {"model", "optimizer"}}
