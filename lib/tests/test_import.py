import json
import os

import numpy as np
import pytest
import torch
from fluxttice_core.checkpoints import archive
from fluxttice_core.certification import certificate
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core import cli
from fluxttice_core import files
from fluxttice_core import params
from fluxttice_core.errors import InputError
from test_checkpoint import pt, same, v5_5


@pytest.fixture
def old(tmp_path, untrained):
    """A v5.5 file, with every key that v5.5 wrote."""
    path = tmp_path / "old.pt"
    path.write_bytes(pt(v5_5(untrained)))
    return path


def left(folder):
    return sorted(os.listdir(folder))


def test_an_imported_checkpoint_is_one_of_ours(tmp_path, old, untrained, capsys):
    assert cli.main(["import", str(old), str(tmp_path / "new" / "ours")]) == 0
    loaded = checkpoint.load(tmp_path / "new" / "ours")
    assert same(loaded.model, untrained) and loaded.epoch == 103
    assert loaded.manifest["schema"] == checkpoint.SCHEMA
    assert left(tmp_path / "new" / "ours") == [checkpoint.MANIFEST, checkpoint.WEIGHTS]
    assert loaded.sha256 in capsys.readouterr().out


def test_the_manifest_keeps_the_history_and_the_originals_hash(tmp_path, old, untrained):
    loaded = checkpoint.load(checkpoint.import_v5_5(old, tmp_path / "ours"))
    data = old.read_bytes()
    assert loaded.manifest["imported"] == {
        "format": "v5.5 .pt",
        "file": "old.pt",
        "sha256": files.sha256(data),
        "bytes": len(data),
        "left_out": ["optimizer"],
    }
    history = loaded.manifest["history"]
    assert history.keys() == v5_5(untrained).keys() - {"model", "optimizer"}
    assert history["H_A_history"] == [1.5, 2.5] and history["grad_norm_A_ema"] == 1.5
    assert history["statenet_corrections"]["delta_lambda3"] == ["nan"]


def test_keys_that_v5_5_did_not_write_are_named(tmp_path, old, untrained):
    old.write_bytes(pt(v5_5(untrained, config={"a": 1}, note="x")))
    loaded = checkpoint.load(checkpoint.import_v5_5(old, tmp_path / "ours"))
    assert loaded.manifest["imported"]["left_out"] == ["optimizer", "config", "note"]


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_compiled_modules_prefix_is_taken_off(tmp_path, old, untrained, prefix):
    content = v5_5(untrained)
    content["model"] = {f"{prefix}{key}": value for key, value in content["model"].items()}
    old.write_bytes(pt(content))
    assert same(checkpoint.load(checkpoint.import_v5_5(old, tmp_path / "o")).model, untrained)


def test_a_name_with_and_without_the_prefix_is_refused(tmp_path, old, untrained):
    content = v5_5(untrained)
    content["model"]["_orig_mod.encoder_A.fc_mu.bias"] = torch.zeros(16)
    old.write_bytes(pt(content))
    with pytest.raises(InputError, match="two of its tensors have the same name"):
        checkpoint.import_v5_5(old, tmp_path / "ours")


SCALARS = [
    np.float64(0.1), np.float32(0.5), np.float16(0.5), np.int64(-7), np.int32(7), np.int8(-1),
    np.uint8(255), np.uint64(2**63), np.bool_(True), np.bool_(False),
]  # fmt: skip


@pytest.mark.parametrize("value", SCALARS, ids=lambda value: f"{type(value).__name__}-{value}")
def test_every_numpy_scalar_comes_as_its_number(value):
    read = archive.read(pt({"x": value}))["x"]
    assert read == value.item() and type(read) is type(value.item())


PLAIN = [
    None, True, False, 0, -1, 255, 65_535, 2**31, -(2**63), 2**63 - 1, 0.1, -0.0, float("inf"), "",
    "Größe", [], [[1], [2]], {}, {"a": {"b": [1.5]}}, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4),
    {7: "number"}, list(range(3_000)), b"bytes",
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20])
def test_plain_values_come_as_they_were(tmp_path, value, protocol):
    torch.save({"x": value}, tmp_path / "x.pt", pickle_protocol=protocol)
    assert archive.read((tmp_path / "x.pt").read_bytes()) == {"x": value}


DTYPES = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()  # noqa: SIM905


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (4, 0, 2), (2, 1, 3, 1)])
def test_tensors_come_as_torch_reads_them(dtype, shape):
    tensor = (torch.randn(shape) * 3).to(getattr(torch, dtype))
    read = archive.read(pt({"x": tensor}))["x"]
    assert read.dtype == tensor.dtype and torch.equal(read, tensor)


def test_views_come_as_torch_reads_them():
    base = torch.arange(24.0).view(4, 6)
    views = {"base": base, "t": base.T, "row": base[2], "steps": base[::2, 1::3], "again": base}
    read = archive.read(pt(views))
    assert all(torch.equal(read[name], view) for name, view in views.items())


def test_a_parameter_is_its_tensor():
    assert torch.equal(archive.read(pt(torch.nn.Parameter(torch.ones(3)))), torch.ones(3))


def test_what_is_ours_already_is_not_imported(tmp_path, saved):
    for path in (saved, saved / checkpoint.WEIGHTS, checkpoint_of_imported(tmp_path, saved)):
        with pytest.raises(InputError, match="ours already"):
            checkpoint.import_v5_5(path, tmp_path / "ours")


def checkpoint_of_imported(tmp_path, saved):
    model = checkpoint.load(saved).model
    (tmp_path / "x.pt").write_bytes(pt(v5_5(model)))
    return checkpoint.import_v5_5(tmp_path / "x.pt", tmp_path / "imported")


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


def v5_6(state):
    state["state_net.encoder.0.weight"] = torch.zeros(32, 12)


def renamed(state):
    state["encoder_A.mean.bias"] = state.pop("encoder_A.fc_mu.bias")


def wider(state):
    state["decoder_B.fc_in.weight"] = torch.zeros(256, 16)


@pytest.mark.parametrize(
    "change, words",
    [
        (v5_6, "v5.6 checkpoint: its state_net.encoder.0.weight has shape (32, 12)"),
        (renamed, "encoder_A.fc_mu.bias is missing"),
        (wider, "decoder_B.fc_in.weight has shape (256, 16) instead of (128, 16)"),
    ],
)
def test_another_layout_is_refused_by_the_first_name_that_differs(
    tmp_path, old, untrained, change, words, capsys
):
    content = v5_5(untrained)
    change(content["model"])
    old.write_bytes(pt(content))
    before = left(tmp_path)
    assert cli.main(["import", str(old), str(tmp_path / "ours")]) == 1
    assert words in capsys.readouterr().err and left(tmp_path) == before


def test_a_pt_is_certified_as_what_it_was_imported_to(tmp_path, old, untrained):
    """The certification page takes the .pt itself; its certificate names the original."""
    values = params.read_yaml(files.root() / "params" / "certify.yaml")
    p = params.check("certify", {**values, "run_dir": "", "checkpoint": str(old)}, "test")
    loaded = checkpoint.load(old, files.sha256(old.read_bytes()))
    row = {"gate": "g", "vae": "A", "bound": 0, "value": 0, "ci95": [0, 0], "verdict": "PASS"}
    issued = certificate.issue(tmp_path / "c", loaded, certificate.document(loaded, p, [row], []))
    assert issued["imported"]["sha256"] == files.sha256(old.read_bytes())
    assert issued["split"]["trained_on"] == "not recorded" and issued["recipe"] is None
    assert same(checkpoint.load(tmp_path / "c").model, untrained)
    assert json.loads((tmp_path / "c" / "manifest.json").read_text())["history"]["epoch"] == 103


@pytest.mark.parametrize("inside", ["", checkpoint.WEIGHTS])
def test_a_pt_in_the_place_of_our_weights_does_not_get_around_the_manifest(saved, old, inside):
    (saved / checkpoint.WEIGHTS).write_bytes(old.read_bytes())
    with pytest.raises(InputError, match="neither a safetensors file nor"):
        checkpoint.load(saved / inside)
