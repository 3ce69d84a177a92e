import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fluxttice_core.certification import certificate
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core import cli
from fluxttice_core import files
from fluxttice_core.metrics import gates
from fluxttice_core.metrics import marginal
from fluxttice_core import params
from fluxttice_core.report import records
from fluxttice_core.certification import signing
from fluxttice_core.errors import InputError

PASSED = {"gate": "g", "vae": "A", "bound": 0.5, "value": 0.9, "ci95": [0.8, 0.95]}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def p():
    values = params.read_yaml(ROOT / "params" / "certify.yaml")
    return params.check("certify", {**values, "run_dir": "", "checkpoint": "x"}, "test")


@pytest.fixture
def stated(saved, p):
    def stated(verdict="PASS", **changes):
        rows = [{**PASSED, "verdict": verdict}]
        return {**certificate.document(checkpoint.load(saved), p, rows, []), **changes}

    return stated


@pytest.fixture
def key(tmp_path):
    signing.keygen(tmp_path / "keys" / "key.pem")
    return tmp_path / "keys" / "key.pem"


# --- The certificate ---


def test_a_signed_certificate_names_its_files_and_its_key(tmp_path, saved, stated, key):
    issued = certificate.issue(tmp_path / "c", checkpoint.load(saved), stated(), key)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    assert sorted(contents) == sorted(
        [*os.listdir(saved), "certificate.json", "certificate.sig", "signing_key.pub"]
    )
    assert json.loads(contents["certificate.json"]) == issued
    for entry in issued["subject"]:
        data = contents[entry["name"]]
        assert (files.sha256(data), len(data)) == (entry["sha256"], entry["bytes"])
        assert data == (saved / entry["name"]).read_bytes()
    assert issued["signature"]["fingerprint"] == files.sha256(contents["signing_key.pub"])
    signing.check_signature(contents, issued["signature"]["fingerprint"])


def test_an_unsigned_certificate_says_so_in_red(tmp_path, saved, stated, key):
    unsigned = certificate.issue(tmp_path / "u", checkpoint.load(saved), stated())
    signed = certificate.issue(tmp_path / "s", checkpoint.load(saved), stated(), key)
    assert unsigned["signature"] is None and not (tmp_path / "u" / "certificate.sig").exists()
    assert "unsigned" in certificate.label(unsigned) and "#c1121f" in certificate.label(unsigned)
    assert "unsigned" not in certificate.label(signed)
    assert signed["signature"]["fingerprint"] in certificate.label(signed)


def test_the_certificate_states_what_it_rests_on(saved, p, stated):
    document = stated()
    assert document["split"].items() >= checkpoint.split_record(p.split_seed).items()
    assert document["seeds"] == {"seed": p.seed, "split_seed": 42, "untrained_seed": 1000}
    assert document["guarantees"] and document["does_not_guarantee"]
    assert document["environment"].keys() >= {"torch", "threads", "cpu", "code"}
    assert document["git"].keys() == {"commit", "clean"}
    assert document["epoch"] == 7 and document["recipe"] is None


def test_the_code_that_measures_is_what_the_gates_import(tmp_path):
    """All that `gates` imports but what only reads, checks or initialises."""
    script = "import sys, fluxttice_core.gates; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    prefix = "fluxttice_core."
    imported = {m.removeprefix(prefix) for m in done.stdout.split() if m.startswith(prefix)}
    assert imported >= set(certificate.MEASURES)
    apart = {
        "api",
        "archive",
        "checkpoint",
        "controls",
        "errors",
        "files",
        "initialisation",
        "params",
    }
    assert imported - set(certificate.MEASURES) <= apart


def test_the_recipe_hash_depends_on_every_parameter_and_not_on_their_order(tmp_path, untrained, p):
    configs = [{"recipe": "r", "a": 1, "b": 2}, {"b": 2, "a": 1, "recipe": "r"}, {"recipe": "r"}]
    rows, hashes = [{**PASSED, "verdict": "PASS"}], []
    for number, config in enumerate(configs):
        folder = tmp_path / str(number)
        checkpoint.save(folder, untrained, 0, {"config": config, "selection": {"rule": "best"}})
        document = certificate.document(checkpoint.load(folder), p, rows, [])
        assert document["recipe"]["name"] == "r" and document["selection_rule"] == "best"
        hashes.append(document["recipe"]["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_weights_trained_on_another_split_are_not_certified(tmp_path, untrained, p):
    for seed, words in ((42, None), (43, "another split")):
        facts = {"split": checkpoint.split_record(seed)}
        loaded = checkpoint.load(checkpoint.save(tmp_path / str(seed), untrained, 0, facts))
        if words:
            with pytest.raises(InputError, match=words):
                certificate.document(loaded, p, [PASSED | {"verdict": "PASS"}], [])
        else:
            document = certificate.document(loaded, p, [PASSED | {"verdict": "PASS"}], [])
            assert document["split"]["trained_on"] == "recorded, the same"


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "GOOD"}, {"verdict": None}, {"gates": []}, {"gates": [{**PASSED}]},
        {"gates": [{**PASSED, "verdict": "PASS", "vae": "C"}]}, {"epoch": "7"}, {"extra": 1},
        {"created_utc": "yesterday"}, {"guarantees": []}, {"params": {}}, {"split": {}},
        {"environment": {}},
    ],
)  # fmt: skip
def test_what_does_not_fit_the_schema_is_not_issued(tmp_path, saved, stated, change):
    with pytest.raises(InputError, match="does not fit the schema"):
        certificate.issue(tmp_path / "c", checkpoint.load(saved), stated(**change))
    assert not (tmp_path / "c").exists()


def test_every_property_of_the_schema_is_required_or_known():
    schema = json.loads(
        (ROOT / "lib/fluxttice_core/schemas/certificate.schema.json").read_text("utf-8")
    )
    assert set(schema["required"]) == set(schema["properties"])
    with pytest.raises(InputError, match="required"):
        records.check({}, "certificate")


def test_a_certificate_is_never_written_over(tmp_path, saved, stated):
    loaded = checkpoint.load(saved)
    certificate.issue(tmp_path / "c", loaded, stated())
    before = (tmp_path / "c" / "certificate.json").read_bytes()
    with pytest.raises(InputError, match="never written over"):
        certificate.issue(tmp_path / "c", loaded, stated("FAIL"))
    assert (tmp_path / "c" / "certificate.json").read_bytes() == before


def test_a_signing_that_fails_leaves_nothing(tmp_path, saved, stated, key, monkeypatch):
    def fail(folder, private_key):
        raise InputError("no.")

    monkeypatch.setattr(signing, "sign", fail)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError):
        certificate.issue(tmp_path / "c", checkpoint.load(saved), stated(), key)
    assert sorted(os.listdir(tmp_path)) == before


# --- The rows a verdict rests on ---


@pytest.mark.parametrize(
    "ci95, verdict",
    [
        ([0.6, 0.8], "ABSTAIN"), ([0.9, 1.0], "PASS"), ([0.2, 0.3], "FAIL"), ([0.89, 1], "ABSTAIN"),
        (None, "FAIL"),
    ],
)  # fmt: skip
def test_generalisation_rows_are_judged_by_their_whole_interval(ci95, verdict):
    ci95 = [0.6, 0.95] if verdict == "ABSTAIN" and ci95[1] < 0.9 else ci95
    measured = {"A": {"unseen": {"share": 0.7, "n": 9, "ci95": ci95}}}
    [row] = gates.generalisation(measured)
    assert row["verdict"] == verdict
    assert (row["bound"], row["upper"], row["vae"]) == (0.9, 1.0, "A")


@pytest.mark.parametrize(
    "ratio, ci95, verdict",
    [
        (0.4, [0.3, 0.5], "PASS"), (0.05, [0.01, 0.09], "FAIL"), (0.1, [0.05, 0.2], "ABSTAIN"),
        (1.5, [1.4, 1.6], "FAIL"), (1.0, [0.9, 1.1], "ABSTAIN"), (None, None, "FAIL"),
    ],
)  # fmt: skip
def test_an_upper_bound_counts_too(ratio, ci95, verdict):
    [row] = gates.generalisation({"B": {"shift_1": {"ratio": ratio, "n": 9, "ci95": ci95}}})
    assert row["verdict"] == verdict and row["value"] == ratio


def test_cheap_latents_are_enough_for_the_largest_n(p):
    assert p.model_copy(update={"k": marginal.FEWEST}).k == marginal.FEWEST
    assert marginal.FEWEST - marginal.FEWEST // 20 >= 195_000 and marginal.FEWEST % 20 == 0
    params.check("certify", {**p.model_dump(), "k": marginal.FEWEST}, "test")


def test_epochs_beside_a_checkpoint_are_measured(tmp_path, untrained, p, monkeypatch):
    seen = []
    monkeypatch.setattr(gates, "gates", lambda model, p, report: seen.append(p.k) or [PASSED])
    checkpoint.save(tmp_path / "run" / "checkpoint", untrained, 12, {})
    assert gates.by_epoch(tmp_path / "run" / "checkpoint", p, str) == []
    for epoch in (10, 0):
        checkpoint.save(tmp_path / "run" / "epochs" / f"epoch-{epoch:03d}", untrained, epoch, {})
    rows = gates.by_epoch(tmp_path / "run" / "checkpoint", p, str)
    assert [row["epoch"] for row in rows] == [0, 10] and seen == [marginal.FEWEST] * 2
    assert all(row["gates"] == [PASSED] and row["k"] == marginal.FEWEST for row in rows)


# --- Keys ---


def test_keygen_makes_a_private_p256_key(tmp_path):
    print_ = signing.keygen(tmp_path / "new" / "key.pem")
    path = tmp_path / "new" / "key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and key.curve.name == "secp256r1"
    assert print_ == signing.fingerprint(signing.public_key(path))
    assert print_ != signing.keygen(tmp_path / "another.pem")


def test_keygen_never_overwrites(tmp_path, capsys):
    path = tmp_path / "key.pem"
    path.write_text("precious")
    assert cli.main(["keygen", str(path)]) == 1
    assert "never overwritten" in capsys.readouterr().err and path.read_text() == "precious"


def test_a_private_key_has_no_place_in_the_repository():
    inside = ROOT / "checkpoints" / "key.pem"
    for use in (signing.keygen, signing.public_key):
        with pytest.raises(InputError, match="outside"):
            use(inside)
    assert not inside.exists()


def test_keygen_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        signing.keygen(tmp_path / "file" / "key.pem")


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder", "public", "p384", "rsa"])
def test_a_key_that_cannot_sign_is_refused(tmp_path, key, kind):
    path, private = tmp_path / "bad.pem", None
    if kind == "text":
        path.write_text("not a key")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "public":
        path.write_bytes(signing.public_key(key))
    elif kind == "p384":
        private = ec.generate_private_key(ec.SECP384R1())
    elif kind == "rsa":
        private = rsa.generate_private_key(65537, 2048)
    if private:
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_bytes(private.private_bytes(serialization.Encoding.PEM, *form))
    with pytest.raises(InputError):
        signing.public_key(path)


# --- Signatures ---


@pytest.fixture
def signed(tmp_path, key):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(name)
    (folder / signing.PUBLIC_KEY).write_bytes(signing.public_key(key))
    signing.sign(folder, key)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"b.txt": b"changed"}, "b.txt is not the file that was signed."),
        ({"b.txt": None}, "b.txt was signed and is missing."),
        ({"c.txt": b""}, "c.txt is not signed."),
        ({".gitignore": b""}, ".gitignore is not signed."),  # the standard tool skips git's files
        ({".gitattributes": b""}, ".gitattributes is not signed."),
    ],
)
def test_a_folder_that_differs_is_refused_by_the_name_of_the_file(signed, changes, words):
    trusted = signing.fingerprint(signed[signing.PUBLIC_KEY])
    signing.check_signature(signed, trusted)
    signing.check_signature(signed, f" {trusted.upper()}\n")
    changed = {name: data for name, data in {**signed, **changes}.items() if data is not None}
    with pytest.raises(InputError) as caught:
        signing.check_signature(changed, trusted)
    assert str(caught.value) == words


def test_a_signature_over_another_list_has_a_reason(signed):
    """The standard library gives none."""
    trusted = signing.fingerprint(signed[signing.PUBLIC_KEY])
    bundle = json.loads(signed[signing.SIGNATURE])
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"folder", b"Folder")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    spelled = json.dumps(bundle, separators=(",", ":")).encode()
    with pytest.raises(InputError, match="was not made by this key"):
        signing.check_signature({**signed, signing.SIGNATURE: spelled}, trusted)
