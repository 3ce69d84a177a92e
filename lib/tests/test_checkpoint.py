"""Checkpoints of ours and the original's: what is written comes back, all else is refused.

Files made to do harm are in test_attacks.py.
"""

import io
import json
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from fluxttice_core import cli, files, params
from fluxttice_core.certification import certificate
from fluxttice_core.checkpoints import archive
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.checkpoints.lineage import read_original
from fluxttice_core.errors import InputError
from fluxttice_core.metrics.gates import Certify, Judged
from fluxttice_core.metrics.results import exact
from fluxttice_core.model.network import DualVAE
from fluxttice_core.model.operations import SPLIT_SIZES, split, split_record
from fluxttice_core.report import lineage


def refused(path, **kwargs):
    """The one sentence with which loading `path` is refused."""
    with pytest.raises(InputError) as caught:
        checkpoint.load(path, **kwargs)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and not sentence.endswith("..")
    return sentence


def same(model, other):
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def left(folder):
    return sorted(os.listdir(folder))


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
def write(tmp_path):
    def write(data: bytes, name: str = "file.pt"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def old(write, untrained):
    """A v5.5 file, with every key that v5.5 wrote."""
    return write(pt(v5_5(untrained)), "old.pt")


# --- Ours ---


@pytest.mark.parametrize("inside", ["", checkpoint.WEIGHTS])
def test_what_was_saved_is_what_is_loaded(saved, untrained, inside, tmp_path):
    loaded = checkpoint.load(saved / inside)
    assert same(loaded.model, untrained)
    assert not loaded.model.training and loaded.epoch == 7
    digest = files.sha256((saved / checkpoint.WEIGHTS).read_bytes())
    assert loaded.sha256 == loaded.manifest["weights"]["sha256"] == digest
    assert loaded.record() == {"path": loaded.path, "sha256": digest, "epoch": 7}
    again = checkpoint.save(tmp_path / "again", loaded.model, 7, {})
    assert checkpoint.load(again).sha256 == digest


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
    assert left(folder) == [checkpoint.MANIFEST, checkpoint.WEIGHTS]
    with pytest.raises(InputError, match="never written over"):
        checkpoint.save(folder, DualVAE.fresh(9), 8, {})
    assert left(tmp_path) == ["a"] and same(checkpoint.load(folder).model, untrained)


def test_the_expected_sha256_decides(saved):
    digest = checkpoint.load(saved).sha256
    for spelled in (digest, digest.upper(), f" {digest} "):
        assert checkpoint.load(saved, spelled).sha256 == digest
    for other in ("0" * 64, "abc", "not a hash"):
        sentence = refused(saved, expected_sha256=other)
        assert other in sentence and "sha256" in sentence


TAMPERED = {
    "hash": {"weights": {"sha256": "0" * 64}}, "null": {"weights": {"sha256": None}},
    "none": {"weights": {}}, "text": {"weights": "none"}, "epoch": {"epoch": "last"},
    "cut": '{"weights": {', "empty": "", "list": "[]", "string": '"weights"', "binary": "\0\1",
    "deep": "[" * 200_000,
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_manifest_is_refused(saved, name):
    path, change = saved / checkpoint.MANIFEST, TAMPERED[name]
    whole = isinstance(change, str)
    path.write_text(change if whole else json.dumps(json.loads(path.read_text()) | change))
    assert "manifest" in refused(saved)


def test_weights_without_a_manifest_are_refused(saved):
    (saved / checkpoint.MANIFEST).unlink()
    assert "unknown origin" in refused(saved)


# --- Paths and foreign files ---


@pytest.mark.parametrize(
    "path",
    ["missing.pt", "missing/folder", "a\0b", "x" * 300, "~no-such-user/a.pt"],
    ids=["file", "folder", "null byte", "too long", "no user"],
)
def test_a_missing_file_is_named(path):
    assert path in refused(path)


def test_a_path_to_nothing_is_refused(tmp_path, write):
    assert "checkpoint is empty" in refused("") and "checkpoint is empty" in refused("   ")
    assert "without a model.safetensors" in refused(tmp_path)
    assert "empty (0 bytes)" in refused(write(b""))
    with (tmp_path / "huge.pt").open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no room on the disk
    assert "64 MiB" in refused(tmp_path / "huge.pt")


FOREIGN = {
    "text": b"epoch,loss\n1,2\n",
    "one byte": b"x",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(500),
    "pickle": pickle.dumps({"model": {}}),
    "huge header": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "bad header": (9).to_bytes(8, "little") + b"{" * 9,
    "safetensors of nothing": safetensors.torch.save({}),
    "safetensors of another model": safetensors.torch.save({"w": torch.ones(3)}),
    "torch list": pt([1, 2]),
    "torch tensor": pt(torch.ones(3)),
    "no state dict": pt({"epoch": 1}),
    "model is a list": pt({"model": [1]}),
    "model is empty": pt({"model": {}}),
    "odd keys": pt({"model": {1: torch.ones(1), None: 2}}),
    "legacy torch": pt({"model": {"x": torch.ones(3)}}, _use_new_zipfile_serialization=False),
    "protocol 4": pt({"model": {"x": torch.ones(3)}}, pickle_protocol=4),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_refused(write, name):
    path = write(FOREIGN[name])
    assert str(path) in refused(path)


@pytest.mark.parametrize(
    "keep", [slice(3), slice(1000), slice(-1), slice(-500, None), slice(100, None)]
)
def test_cut_weights_are_refused(saved, write, keep):
    refused(write((saved / checkpoint.WEIGHTS).read_bytes()[keep]))


def test_a_pt_file_cut_or_changed_anywhere_gives_one_sentence_or_a_model(untrained):
    """The archive's directory has many ways to be wrong, and each its own exception."""
    good, rng = pt(v5_5(untrained)), random.Random(0)
    kept = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(3):
            data[-rng.randrange(1, 8_000)] = rng.randrange(256)
        try:
            read_original(bytes(data), "some.pt")
            kept += 1
        except InputError as error:
            assert "\n" not in str(error)
    assert kept < 150


# --- Another network, of which test_lineage.py has more ---

BROKEN = {
    "decoder_B.fc_in.bias is missing": ("decoder_B.fc_in.bias", None),
    "grad_norm_A_ema is missing": ("grad_norm_A_ema", None),
    "decoder_C.bias is not part of it": ("decoder_C.bias", torch.ones(1)),
    "fc_in.weight has shape (256, 16) instead of (128, 16)":
        ("decoder_B.fc_in.weight", torch.zeros(256, 16)),
    "torch.float16": ("encoder_A.fc_mu.bias", torch.ones(16).half()),
    "not finite": ("decoder_A.decoder.4.bias", torch.ones(27) / 0),
    "is not part of it": ("state_net.encoder.0.weight", torch.zeros(32, 10)),
    "grad_norm_A_ema is not a tensor": ("grad_norm_A_ema", 1.0),
    "_meta_tensor": ("encoder_A.fc_mu.weight", torch.ones(16, 64, device="meta")),
}  # fmt: skip


@pytest.mark.parametrize("words", BROKEN)
def test_another_network_is_refused(tmp_path, write, saved, untrained, words, capsys):
    """A v5.5 file, by loading and by importing, which leaves nothing behind; and a folder."""
    key, tensor = BROKEN[words]
    state = {k: v for k, v in {**untrained.state_dict(), key: tensor}.items() if v is not None}
    path = write(pt(v5_5(untrained, model=state)))
    assert words in refused(path)
    assert cli.main(["import", str(path), str(tmp_path / "ours")]) == 1
    assert words in capsys.readouterr().err and left(tmp_path) == ["file.pt", "saved"]
    if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
        data = safetensors.torch.save(state)
        (saved / checkpoint.WEIGHTS).write_bytes(data)
        manifest = {"weights": {"sha256": files.sha256(data)}}
        (saved / checkpoint.MANIFEST).write_text(json.dumps(manifest))
        assert words in refused(saved)


# --- Reading a .pt as data ---


def test_scalars_of_an_older_numpy_load():
    """Its scalars name `numpy.core`, which newer versions call `numpy._core`."""
    renamed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(pt([np.float64(0.25)]))) as source,
        zipfile.ZipFile(renamed, "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(b"cnumpy._core.", b"cnumpy.core."))
            assert not name.endswith("data.pkl") or b"cnumpy._core." in data
    assert archive.read(renamed.getvalue()) == [0.25]


SCALARS = [
    np.float64(0.1), np.float32(0.5), np.float16(0.5), np.int64(-7), np.int32(7), np.int8(-1),
    np.uint8(255), np.uint64(2**63), np.bool_(True), np.bool_(False),
]  # fmt: skip


def test_every_numpy_scalar_comes_as_its_number():
    read = archive.read(pt(SCALARS))
    assert read == [value.item() for value in SCALARS]
    assert [*map(type, read)] == [type(value.item()) for value in SCALARS]


@pytest.mark.parametrize(
    "value", [np.complex64(1), np.str_("a"), np.datetime64(0, "s"), np.void(9)]
)
def test_a_numpy_value_that_is_no_number_is_refused(value):
    with pytest.raises(archive.Refused, match="numpy value that is no plain number"):
        archive.read(pt({"x": value}))


SHARED = {"version": "5.12"}
PLAIN = [
    None, True, False, 0, -1, 255, 65_535, 2**31, -(2**63), 2**63 - 1, 0.1, -0.0, float("inf"), "",
    "Größe", [], [[1], [2]], {}, {"a": {"b": [1.5]}}, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4),
    {7: "number"}, list(range(3_000)), b"bytes", [SHARED, SHARED],
]  # fmt: skip


def test_plain_values_come_as_they_were():
    assert archive.read(pt(PLAIN)) == PLAIN


DTYPES = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()  # noqa: SIM905


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_as_they_were(dtype):
    shapes = [(), (0,), (3,), (2, 3), (4, 0, 2), (2, 1, 3, 1)]
    tensors = [(torch.randn(shape) * 3).to(getattr(torch, dtype)) for shape in shapes]
    for read, tensor in zip(archive.read(pt(tensors)), tensors, strict=True):
        assert read.dtype == tensor.dtype and torch.equal(read, tensor)


def test_views_and_parameters_come_as_they_were():
    base = torch.arange(24.0).view(4, 6)
    views = {"base": base, "t": base.T, "row": base[2], "steps": base[::2, 1::3], "again": base}
    read = archive.read(pt(views))
    assert all(torch.equal(read[name], view) for name, view in views.items())
    assert torch.equal(archive.read(pt(torch.nn.Parameter(base))), base)


# --- Importing ---


def test_an_imported_checkpoint_is_one_of_ours(tmp_path, old, untrained, capsys):
    old.write_bytes(pt(v5_5(untrained, config={"a": 1}, note="x")))
    assert cli.main(["import", str(old), str(tmp_path / "new" / "ours")]) == 0
    loaded = checkpoint.load(tmp_path / "new" / "ours")
    data = old.read_bytes()
    assert same(loaded.model, untrained) and loaded.epoch == 103
    assert loaded.manifest["schema"] == checkpoint.SCHEMA
    assert left(tmp_path / "new" / "ours") == [checkpoint.MANIFEST, checkpoint.WEIGHTS]
    assert loaded.sha256 in capsys.readouterr().out
    assert loaded.manifest["imported"] == {
        "file": "old.pt", "sha256": files.sha256(data), "bytes": len(data), "layout": "v5.5",
        "state": "model", "left_out": {"optimizer": "state of an optimiser"},
    }  # fmt: skip
    claims = loaded.manifest["claims"]
    assert claims.keys() == v5_5(untrained, config=0, note=0).keys() - {"model", "optimizer"}
    assert claims["config"] == {"a": 1} and claims["note"] == "x" and claims["epoch"] == 103
    assert claims["H_A_history"] == [1.5, 2.5] and claims["best_val_loss"] == 1.25
    assert claims["coverage_A_history"] == [16_976] and claims["grad_balance_achieved"] is True
    assert claims["statenet_corrections"]["delta_lambda3"] == ["nan"]


def test_what_is_ours_already_is_not_imported(tmp_path, saved, old):
    for path in (
        saved,
        saved / checkpoint.WEIGHTS,
        checkpoint.import_original(old, tmp_path / "a"),
    ):
        with pytest.raises(InputError, match="ours already"):
            checkpoint.import_original(path, tmp_path / "ours")


@pytest.mark.parametrize("where", ["exists", "file/ours", "link"])
def test_a_place_that_cannot_be_written_is_named_and_left(tmp_path, old, where, capsys):
    (tmp_path / "exists").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("nowhere")
    before = left(tmp_path)
    assert cli.main(["import", str(old), str(tmp_path / where)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert left(tmp_path) == before and left(tmp_path / "exists") == []
    assert (tmp_path / "file").read_text() == "precious"


def test_a_pt_is_certified_as_what_it_was_imported_to(tmp_path, old, untrained):
    """The certification page takes the .pt itself; its certificate names the original, and says
    what it has by the lineage's own metrics."""
    values = params.read_yaml(files.root() / "params" / "certify.yaml")
    p = params.check(Certify, {**values, "run_dir": "", "checkpoint": str(old)}, "test")
    loaded = checkpoint.load(old, files.sha256(old.read_bytes()))
    row = Judged(gate="max_rate", vae="A", bound=1, measured=exact(1, 1), verdict="PASS")
    stated = certificate.state(loaded, p, [row], [], lineage.of(loaded, p))
    issued = certificate.issue(tmp_path / "c", loaded, stated)
    assert issued.imported["sha256"] == files.sha256(old.read_bytes())
    assert issued.split["trained_on"] == "not recorded" and issued.recipe is None
    assert issued.lineage.layout == "v5.5" and "H_A_history" in [
        row.name for row in issued.lineage.claims
    ]
    written = (tmp_path / "c" / certificate.CERTIFICATE).read_bytes()
    assert certificate.Certificate.model_validate_json(written, strict=True) == issued
    again = checkpoint.load(tmp_path / "c")
    assert same(again.model, untrained) and again.manifest["claims"]["epoch"] == 103


# --- The split's record ---


def test_the_split_record_pins_the_indices():
    record = split_record(42)
    order = torch.cat(split(42))
    assert record["sizes"] == SPLIT_SIZES and record["seed"] == 42
    packed = b"".join(index.to_bytes(8, "little") for index in order.tolist())
    assert record["sha256"] == files.sha256(packed)
    assert record["sha256"] != split_record(43)["sha256"]
