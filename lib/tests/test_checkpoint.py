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
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core import files
from fluxttice_core.errors import InputError
from fluxttice_core.model.network import DualVAE
from fluxttice_core.model.operations import SPLIT_SIZES, split


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


def pt(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def v5_5(model, /, **changes) -> dict:
    """Everything the original wrote, after one real optimiser step of what gets a gradient."""
    trained = [v for k, v in model.named_parameters() if not k.startswith("state_net")]
    optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=1e-4)
    sum(v.square().sum() for v in trained).backward()
    optimiser.step()
    return {
        "epoch": 103,
        "model": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "best_val_loss": np.float64(1.25),
        "H_A_history": [np.float64(1.5), 2.5],
        "H_B_history": [np.float32(0.5)],
        "coverage_A_history": [np.int64(16_976)],
        "coverage_B_history": [16_921],
        "lambda1": 0.7,
        "lambda2": 0.7,
        "lambda3": np.float64(0.25),
        "rho": 0.1,
        "phase": 2,
        "grad_balance_achieved": np.bool_(True),
        "grad_norm_A_ema": np.float32(1.5),
        "grad_norm_B_ema": 0.5,
        "grad_ema_momentum": 0.95,
        "statenet_enabled": True,
        "statenet_corrections": {
            "delta_lr": [np.float64(0.5)],
            "delta_lambda1": [0.5],
            "delta_lambda2": [],
            "delta_lambda3": [float("nan")],
        },
        **changes,
    }


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "file.pt"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


# --- Ours ---


@pytest.mark.parametrize("inside", ["", checkpoint.WEIGHTS])
def test_what_was_saved_is_what_is_loaded(saved, untrained, inside):
    loaded = checkpoint.load(saved / inside)
    assert same(loaded.model, untrained)
    assert not loaded.model.training and loaded.epoch == 7
    digest = files.sha256((saved / checkpoint.WEIGHTS).read_bytes())
    assert loaded.sha256 == loaded.manifest["weights"]["sha256"] == digest
    assert loaded.record() == {"path": loaded.path, "sha256": digest, "epoch": 7}


def test_saving_what_was_loaded_gives_the_same_bytes(saved, tmp_path):
    again = checkpoint.save(tmp_path / "again", checkpoint.load(saved).model, 7, {})
    assert checkpoint.load(again).sha256 == checkpoint.load(saved).sha256


def test_the_manifest_says_what_when_and_from_what(tmp_path, untrained):
    folder = checkpoint.save(tmp_path / "a", untrained, None, {"config": {"seed": 42}})
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    assert manifest["config"] == {"seed": 42} and manifest["epoch"] is None
    assert manifest["weights"]["bytes"] == (folder / checkpoint.WEIGHTS).stat().st_size
    assert {"schema", "created_utc", "environment", "git"} <= manifest.keys()
    assert sorted(os.listdir(folder)) == [checkpoint.MANIFEST, checkpoint.WEIGHTS]
    assert os.listdir(tmp_path) == ["a"]


def test_a_checkpoint_is_never_written_over(saved):
    before = checkpoint.load(saved).sha256
    with pytest.raises(InputError, match="never written over"):
        checkpoint.save(saved, DualVAE.fresh(9), 8, {})
    assert checkpoint.load(saved).sha256 == before and checkpoint.load(saved).epoch == 7


def test_a_save_that_was_cut_off_does_not_block_the_next(tmp_path, untrained):
    """A killed run leaves its draft; the same folder must still be writable."""
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "a", untrained, 1, {"not json": object()})
    assert not (tmp_path / "a").exists()
    checkpoint.save(tmp_path / "a", untrained, 1, {})
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("change", [str, str.upper, " {} ".format])
def test_the_expected_sha256_is_accepted(saved, change):
    digest = checkpoint.load(saved).sha256
    assert checkpoint.load(saved, change(digest)).sha256 == digest


@pytest.mark.parametrize("expected", ["0" * 64, "abc", "not a hash"])
def test_another_sha256_than_the_expected_is_refused(saved, expected):
    sentence = refused(saved, expected_sha256=expected)
    assert expected in sentence and "sha256" in sentence


def test_changed_weights_are_refused(saved):
    """One bit of one weight; the file is still good safetensors."""
    path = saved / checkpoint.WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "its manifest says" in refused(saved)


def tampered(**change):
    def tamper(manifest):
        return json.dumps({**manifest, **change})

    return tamper


@pytest.mark.parametrize(
    "tamper",
    [
        tampered(weights={"sha256": "0" * 64}),
        tampered(weights={"sha256": None}),
        tampered(weights={}),
        tampered(weights="none"),
        lambda manifest: json.dumps(manifest)[:-20],
        lambda manifest: "",
        lambda manifest: "[]",
        lambda manifest: '"weights"',
        lambda manifest: "\0\1",
        lambda manifest: "[" * 200_000,
    ],
    ids=["hash", "null", "none", "text", "cut", "empty", "list", "string", "binary", "deep"],
)
def test_a_tampered_manifest_is_refused(saved, tamper):
    path = saved / checkpoint.MANIFEST
    path.write_text(tamper(json.loads(path.read_text())))
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


@pytest.mark.parametrize("path", ["", "   "])
def test_an_empty_path_is_refused(path):
    assert "checkpoint is empty" in refused(path)


def test_a_folder_without_weights_is_refused(tmp_path):
    assert "without a model.safetensors" in refused(tmp_path)


def test_an_empty_file_is_refused(write):
    assert "empty (0 bytes)" in refused(write(b""))


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.pt"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no room on the disk
    assert "64 MiB" in refused(path)


def archive(compression=zipfile.ZIP_STORED, **entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        for name, text in entries.items():
            target.writestr(name, text)
    return buffer.getvalue()


FOREIGN = {
    "text": b"epoch,loss\n1,2\n",
    "one byte": b"x",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(500),
    "pickle": pickle.dumps({"model": {}}),
    "zip": archive(a="hello"),
    "zip of a pickle": archive(**{"archive/data.pkl": "junk", "archive/version": "3"}),
    "empty zip": archive(),
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
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_refused(write, name):
    path = write(FOREIGN[name])
    assert str(path) in refused(path)


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(write):
    """A thousandfold here: torch itself never compresses."""
    path = write(archive(zipfile.ZIP_DEFLATED, a="0" * 10**6))
    assert "unpacks to more" in refused(path)


def test_a_legacy_torch_file_is_refused(write, untrained):
    buffer = io.BytesIO()
    torch.save(v5_5(untrained), buffer, _use_new_zipfile_serialization=False)
    refused(write(buffer.getvalue()))


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize(
    "keep", [slice(3), slice(1000), slice(-1), slice(-500, None), slice(100, None)]
)
def test_a_cut_file_is_refused(saved, write, untrained, kind, keep):
    data = (saved / checkpoint.WEIGHTS).read_bytes() if kind != "pt" else pt(v5_5(untrained))
    refused(write(data[keep]))


def test_a_pt_file_cut_or_changed_anywhere_gives_one_sentence_or_a_model(untrained):
    """The archive's directory has many ways to be wrong, and each its own exception."""
    good, rng = pt(v5_5(untrained)), random.Random(0)
    kept = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(3):
            data[-rng.randrange(1, 8_000)] = rng.randrange(256)
        try:
            checkpoint.read_v5_5(bytes(data), "some.pt")
            kept += 1
        except InputError as error:
            assert "\n" not in str(error)
    assert kept < 150


# --- Another network ---


def without(key):
    return lambda state: state.pop(key)


def replace(key, change):
    return lambda state: state.update({key: change(state[key])})


BROKEN = {
    "missing key": (without("decoder_B.fc_in.bias"), "decoder_B.fc_in.bias is missing"),
    "missing buffer": (without("grad_norm_A_ema"), "grad_norm_A_ema is missing"),
    "extra key": (
        lambda state: state.update({"decoder_C.bias": torch.ones(1)}),
        "decoder_C.bias is not part of it",
    ),
    "wrong shape": (replace("encoder_A.fc_mu.weight", lambda v: v.T), "shape (64, 16)"),
    "wrong dtype": (replace("encoder_A.fc_mu.bias", torch.Tensor.double), "torch.float64"),
    "half precision": (replace("encoder_A.fc_mu.bias", torch.Tensor.half), "torch.float16"),
    "nan": (replace("encoder_B.fc_mu.bias", lambda v: v * torch.nan), "not finite"),
    "infinite": (replace("decoder_A.decoder.4.bias", lambda v: v / 0), "not finite"),
    "v5.6": (replace("state_net.encoder.0.weight", lambda v: torch.zeros(32, 12)), "v5.6"),
}
NOT_IN_SAFETENSORS = {
    "number": (replace("grad_norm_A_ema", float), "grad_norm_A_ema is not a tensor"),
    "list": (replace("encoder_A.fc_mu.bias", torch.Tensor.tolist), "is not a tensor"),
    "sparse": (
        replace("encoder_A.fc_mu.weight", torch.Tensor.to_sparse),
        "encoder_A.fc_mu.weight",
    ),
}


@pytest.mark.parametrize("name", [*BROKEN, *NOT_IN_SAFETENSORS])
def test_a_v5_5_file_of_another_network_is_refused(write, untrained, name):
    change, words = {**BROKEN, **NOT_IN_SAFETENSORS}[name]
    state = dict(untrained.state_dict())
    change(state)
    assert words in refused(write(pt(v5_5(untrained, model=state))))


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_of_another_network_is_refused(saved, name):
    change, words = BROKEN[name]
    state = safetensors.torch.load_file(saved / checkpoint.WEIGHTS)
    change(state)
    data = safetensors.torch.save({k: v.contiguous() for k, v in state.items()})
    (saved / checkpoint.WEIGHTS).write_bytes(data)
    (saved / checkpoint.MANIFEST).write_text(
        json.dumps({"weights": {"sha256": files.sha256(data)}})
    )
    assert words in refused(saved)


# --- The original's v5.5 .pt ---


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_v5_5_file_loads_strictly(write, untrained, prefix):
    content = v5_5(untrained)
    content["model"] = {f"{prefix}{k}": v for k, v in content["model"].items()}
    data = pt(content)
    loaded = checkpoint.load(write(data))
    assert len(content["optimizer"]["state"]) == 38
    assert same(loaded.model, untrained) and not loaded.model.training
    assert (loaded.epoch, loaded.sha256) == (103, files.sha256(data))


def test_the_history_of_a_v5_5_file_is_plain_json(write, untrained):
    history = checkpoint.load(write(pt(v5_5(untrained)))).manifest["history"]
    assert json.loads(json.dumps(history, allow_nan=False)) == history
    assert history["H_A_history"] == [1.5, 2.5] and history["best_val_loss"] == 1.25
    assert history["coverage_A_history"] == [16_976]
    assert history["grad_balance_achieved"] is True
    assert history["statenet_corrections"]["delta_lambda3"] == ["nan"]
    assert history.keys() == v5_5(untrained).keys() - {"model", "optimizer"}


def test_a_v5_5_file_without_statenet_loads(write, untrained):
    content = v5_5(untrained, statenet_enabled=False)
    del content["statenet_corrections"]
    assert same(checkpoint.load(write(pt(content))).model, untrained)


def test_scalars_of_an_older_numpy_load(write, untrained):
    """Its scalars name `numpy.core`, which newer versions call `numpy._core`."""
    buffer = io.BytesIO(pt(v5_5(untrained)))
    renamed = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(renamed, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(b"cnumpy._core.", b"cnumpy.core."))
            assert not name.endswith("data.pkl") or b"cnumpy._core." in data
    assert checkpoint.load(write(renamed.getvalue())).manifest["history"]["lambda3"] == 0.25


class Attack:
    """What unpickling would call: `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "function, name", [(os.system, "system"), (eval, "eval"), (exec, "exec"), (open, "open")]
)
@pytest.mark.parametrize("place", ["phase", "model", "optimizer"])
def test_a_pickle_that_would_run_code_is_refused_by_name(
    write, tmp_path, untrained, function, name, place
):
    mark = tmp_path / "it-ran"
    arguments = {
        "system": (f"touch {mark}",),
        "eval": (f"open({str(mark)!r}, 'w')",),
        "exec": (f"open({str(mark)!r}, 'w')",),
        "open": (str(mark), "w"),
    }[name]
    content = v5_5(untrained, **{place: Attack(function, *arguments)})
    sentence = refused(write(pt(content)))
    assert name in sentence and "no code in a checkpoint is ever run" in sentence
    assert not mark.exists()


def test_the_attack_would_have_worked(tmp_path):
    """Or the test above proves nothing."""
    mark = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(Attack(os.system, f"touch {mark}")))
    assert mark.exists()


# --- The split's record ---


def test_the_split_record_pins_the_indices():
    record = checkpoint.split_record(42)
    order = torch.cat([part for _, part in split(42)])
    assert record["sizes"] == SPLIT_SIZES and record["seed"] == 42
    packed = b"".join(index.to_bytes(8, "little") for index in order.tolist())
    assert record["sha256"] == files.sha256(packed)
    assert record["sha256"] != checkpoint.split_record(43)["sha256"]
