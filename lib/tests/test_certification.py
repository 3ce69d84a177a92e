"""Certificates: what they state, who signed them, and that no change to a signed folder passes.

One measured certificate, of the optimum written by hand, is issued for the whole file. Attacks are
tried with `quick`: whatever that accepts is what was signed, byte for byte.
"""

import base64
import itertools
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from planted import in_process, sentence

from fluxttice_core import cli, files
from fluxttice_core.certification import certificate, rehearsal, signing, verify
from fluxttice_core.certification.certificate import CERTIFICATE
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.checkpoints.folder import MANIFEST, WEIGHTS
from fluxttice_core.errors import InputError
from fluxttice_core.metrics import gates, reconstruction
from fluxttice_core.metrics.marginal import MIN_LATENTS
from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.model.network import DualVAE
from fluxttice_core.model.operations import split_record

ROOT = files.root()
TRIES = {signing.PUBLIC_KEY: 150, signing.SIGNATURE: 150}  # in what has spellings; else 30


class World:
    """A certified checkpoint, its trusted key, and what was measured of it."""

    def __init__(self, place, strict):
        self.place = place
        self.key, self.other_key = str(place / "key.pem"), str(place / "other.pem")
        self.trusted, _ = signing.keygen(self.key), signing.keygen(self.other_key)
        # At so few latents these intervals are too wide for those bounds.
        few = {
            "k": MIN_LATENTS, "min_argmax_coverage_195000": 0.9999, "min_least_frequency": 0.0,
            "max_largest_frequency": 20.0,
        }  # fmt: skip
        self.p = strict.model_copy(update=few)
        facts = {"split": split_record(42), "config": {"recipe": "r"}, "selection": {"rule": "s"}}
        self.saved = checkpoints.save(place / "saved", oracle(), 7, facts)
        self.loaded = checkpoints.load(self.saved)
        model = self.loaded.model
        seed = gates.seed_of(self.loaded.sha256)
        self.rows = [row for vae in "AB" for row in gates.vae_gates(model, vae, seed, self.p)]
        one = measured(self.rows[0], "FAIL", value=0.5, low=0.5, high=0.5)
        self.refused = [
            gates.ControlResult(control=name, k=MIN_LATENTS, verdict="FAIL", gates=[one])
            for name in gates.negative_controls(model, self.p)
        ]
        self.stated = certificate.state(self.loaded, self.p, self.rows, self.refused)
        self.folder = self.issue("certified")
        self.original = contents(self.folder)

    def issue(self, name, key=None, loaded=None, **changes):
        """A new signed folder, `changes` in what its certificate states."""
        stated, key = self.stated.model_copy(update=changes), self.key if key is None else key
        certificate.issue(self.place / name, loaded or self.loaded, stated, key)
        return self.place / name

    def check(self, folder=None, quick=True):
        return verify.verify(folder or self.folder, self.trusted, quick, str)

    def refuses(self, folder):
        """Is it refused, and in one sentence?"""
        said = verify.refusal(folder, self.trusted)
        assert "\n" not in said and (not said or said.endswith("."))
        return bool(said)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def world(tmp_path_factory, strict):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "DRAWS", 2)  # enough for that bound
        world = World(tmp_path_factory.mktemp("world"), strict)
        assert not world.refuses(world.folder), "or nothing below counts"
        yield world


@pytest.fixture
def signed(world, tmp_path):
    """A copy of the signed folder, to be spoilt."""
    return shutil.copytree(world.folder, tmp_path / "copy")


# --- The certificate ---


def test_a_certificate_states_what_it_rests_on_and_signs_the_files_as_they_were_read(world):
    found = certificate.Certificate.model_validate_json(world.original[CERTIFICATE], strict=True)
    assert (found.verdict, found.epoch, found.selection_rule) == ("PASS", 7, "s"), found.gates
    assert found.split == {**split_record(42), "trained_on": "recorded, the same"}
    assert found.environment.keys() >= {"torch", "scipy", "cpu", "code"}
    assert found.params == {**world.p.model_dump(), "checkpoint": world.loaded.path}
    assert found.guarantees and found.does_not_guarantee and found.git.keys() == {"commit", "clean"}
    assert sorted(world.original) == sorted(verify.FILES)
    for entry in found.subject:
        data = (world.saved / entry.name).read_bytes()
        assert world.original[entry.name] == data
        assert (files.sha256(data), len(data)) == (entry.sha256, entry.bytes)
    assert found.signature.fingerprint == world.trusted
    assert world.trusted == files.sha256(world.original[signing.PUBLIC_KEY])


def test_the_recipe_hash_depends_on_every_parameter_and_the_split_must_be_ours(world):
    """Their order changes nothing."""

    def state(**manifest):
        return certificate.state(replace(world.loaded, manifest=manifest), world.p, world.rows, [])

    configs = {"recipe": "r", "a": 1}, {"a": 1, "recipe": "r"}, {"recipe": "r"}
    one, same, other = (state(config=config).recipe for config in configs)
    assert one == same and one["sha256"] != other["sha256"] and other["name"] == "r"
    assert state().split["trained_on"] == "not recorded"
    assert "another split" in sentence(state, split=split_record(43))


def test_a_certificate_appears_whole_or_not_at_all(world, tmp_path, monkeypatch):
    what = world.loaded, world.stated, world.key
    assert "never written over" in sentence(certificate.issue, world.folder, *what)
    assert contents(world.folder) == world.original
    for error in (InputError("no."), KeyboardInterrupt()):
        monkeypatch.setattr(signing, "sign", Mock(side_effect=error))
        with pytest.raises(type(error)):
            certificate.issue(tmp_path / "c", *what)
        assert os.listdir(tmp_path) == []


# --- Measuring again ---


def test_a_true_certificate_is_measured_again_and_found_equal(world, capsys, monkeypatch):
    monkeypatch.setattr(certificate.parallel, "each", in_process)
    public = str(world.folder / signing.PUBLIC_KEY)
    assert cli.main(["verify", str(world.folder), "--public-key", public]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" equal " in line for line in lines) == len(world.rows) == 24
    assert lines[-1].startswith("PASS") and "every gate measured again" in lines[-1]


def measuring_finds(rows, monkeypatch):
    """What it is asked from here on."""
    asked = []

    def measure(model, seed, p, report):
        asked.append((model, seed, p.k))
        return rows

    monkeypatch.setattr(certificate, "measure_gates", measure)
    return asked


def test_what_is_measured_are_the_bytes_that_were_verified(world, signed, monkeypatch):
    """The weights may change on disk meanwhile, and the recorded parameters are those used."""
    asked = measuring_finds(world.rows, monkeypatch)
    before = [path.stat().st_mtime_ns for path in sorted(signed.iterdir())]
    quick = world.check(signed)
    assert (quick.problem, {row.agreement for row in quick.rows}) == ("", {"not measured"})
    assert not asked and before == [path.stat().st_mtime_ns for path in sorted(signed.iterdir())]
    weights = signed / WEIGHTS
    found = verify.verify(signed, world.trusted, report=lambda _step: weights.write_bytes(b""))
    assert (found.problem, {row.agreement for row in found.rows}) == ("", {"equal"})
    assert asked == [(found.checkpoint.model, world.stated.seed, MIN_LATENTS)]
    assert found.checkpoint.sha256 == world.loaded.sha256


def measured(row, verdict=None, **changes):
    """A gate's row with another value or interval."""
    return row.model_copy(update={**changes, "verdict": verdict or row.verdict})


# The first and the last gate of VAE-B.
@pytest.mark.parametrize("at, other", [(12, {}), (23, {"torch": "0.1"})])
def test_one_figure_that_the_weights_do_not_give_is_enough(world, monkeypatch, capsys, at, other):
    again = [measured(row, value=9.0) if i == at else row for i, row in enumerate(world.rows)]
    measuring_finds(again, monkeypatch)
    folder = world.issue(f"{at} differs", environment=certificate.environment() | other)
    public = str(folder / signing.PUBLIC_KEY)
    assert cli.main(["verify", str(folder), "--public-key", public]) == 1
    out, err = capsys.readouterr()
    assert "DIFFERS" in out and "PASS:" not in out
    assert "at least 1 of its figures are not what the weights give" in err
    assert f"{again[at].gate} of VAE-B" in err and err.count("\n") == 1
    row = world.rows[at]
    assert verify.agreement(row, measured(row, "ABSTAIN"), not other) == "DIFFERS"


@pytest.mark.parametrize("verdict, low", [("FAIL", 21.0), ("ABSTAIN", 0.0)])
def test_a_genuine_certificate_that_does_not_pass_is_no_pass(world, verdict, low):
    rows = [*world.rows[:-1], measured(world.rows[-1], verdict, low=low, high=30.0)]
    found = world.check(world.issue(f"genuine {verdict}", gates=rows, verdict=verdict))
    assert found.problem == f"the certificate is genuine and says {verdict}"
    said = sentence(world.check, world.issue(f"a lie, {verdict}", gates=rows))
    assert f"says PASS, but its gates say {verdict}" in said


def test_a_certificate_whose_controls_pass_is_no_pass(world):
    control, *others = world.refused
    passed = control.model_copy(update={"verdict": "PASS", "gates": world.rows[:1]})
    found = world.check(world.issue("honest", controls=[passed, *others], verdict="ABSTAIN"))
    assert found.problem == "the certificate is genuine and says ABSTAIN"


def test_a_certificate_that_contradicts_itself_or_this_code_is_refused(world):
    first, *rest = world.rows
    control, *others = world.refused
    passed, empty, other = (control.model_copy(update=update) for update in (
        {"verdict": "PASS", "gates": world.rows[:1]}, {"gates": []}, {"verdict": "PASS"},
    ))  # fmt: skip
    lie = [measured(first, value=0.5, low=0.5, high=0.5), *rest]
    for number, (lies, words) in enumerate((
        ({"gates": lie}, "min_exact_match of VAE-A is called PASS, but its numbers say FAIL"),
        ({"controls": others}, "lacks the controls of this code"),
        ({"seed": 1}, "another seed than the one that follows from the weights"),
        ({"controls": [passed, *others]}, "says PASS, but its gates say ABSTAIN"),
        ({"controls": [empty, *others]}, f"the verdict of {control.control} contradicts its gates"),
        ({"controls": [other, *others]}, f"the verdict of {control.control} contradicts its gates"),
        *[({"gates": other}, "its gates are not those of this code") for other in (
            rest, [*world.rows, first], [*rest, first.model_copy(update={"bound": 0.5})],
        )],
    )):  # fmt: skip
        assert words in sentence(world.check, world.issue(f"lie {number}", **lies), quick=False)


# --- What a signed file must be ---


@pytest.mark.parametrize(
    "spoilt, words",
    [
        *[(text, "") for text in ("{}", "[]", "{", '{"a": NaN}', '{"a": 1, "a": 1}', "[" * 10**5)],
        ({"schema": "fluxttice/certificate/3"}, "/3', and this release reads fluxttice/cert"),
        ({"surprise": 1}, "does not fit fluxttice/certificate/4 at surprise"),
        ({"gates": []}, "at gates"), ({"verdict": "GOOD"}, "at verdict"),
        ({"epoch": "7"}, "at epoch"), ({"params": {}}, "parameter run_dir is missing"),
        ({"subject": []}, "is about other files"),
    ],
)  # fmt: skip
def test_a_signed_file_that_is_no_certificate_is_refused(world, signed, spoilt, words):
    if isinstance(spoilt, dict):
        spoilt = json.dumps(json.loads(world.original[CERTIFICATE]) | spoilt)
    (signed / CERTIFICATE).write_text(spoilt)
    signing.sign(signed, world.key)
    said = sentence(world.check, signed)
    assert "is refused at its schema" in said and words in said


# --- Attacks on a signed folder ---


def parts(world, other):
    """Every choice of some of the files of the folder `other` that are not ours; at last, all."""
    changed = contents(other).items() - world.original.items()
    for size in range(1, len(changed) + 1):
        yield from map(dict, itertools.combinations(changed, size))


def altered(world):
    """One bit; up to 40 bytes replaced by others, in number and kind; a tail; a cut."""
    for name, data in world.original.items():
        rng = random.Random(name)
        for _ in range(TRIES.get(name, 30)):
            at, gone = rng.randrange(len(data)), rng.randrange(40)
            bit = bytes([data[at] ^ 1 << rng.randrange(8)])
            yield {name: data[:at] + bit + data[at + 1 :]}
            changed = data[:at] + rng.randbytes(rng.randrange(40)) + data[at + gone :]
            yield {name: changed if changed != data else b""}
        yield from ({name: data + tail} for tail in (b"\0", b" ", b"\n", b"{}", data))
        yield from ({name: data[:cut]} for cut in (0, 1, len(data) - 1))


def swapped(world):
    for one, two in itertools.permutations(world.original, 2):
        yield {one: world.original[two]}
        yield {one: world.original[two], two: world.original[one]}


def of_another_certified(world):
    """Signed by the trusted key: another checkpoint, and ours when a bound was lower. Only all of
    the other's files together are its checkpoint."""
    fresh = checkpoints.save(world.place / "fresh", DualVAE.fresh(2), 2, {})
    lower = [row.model_copy(update={"bound": 0.0}) for row in world.rows]
    for other in (
        world.issue("another", loaded=checkpoints.load(fresh)), world.issue("old", gates=lower),
    ):  # fmt: skip
        yield from list(parts(world, other))[:-1]


def of_another_key(world):
    """Weights, certificate, signature and key, all consistent, all another's."""
    forged = world.issue("forged", world.other_key)
    own_key = (forged / signing.PUBLIC_KEY).read_bytes()
    assert verify.refusal(forged, signing.fingerprint(own_key)) == ""
    yield from parts(world, forged)


def respelled(world, envelope, **changes):
    bundle = json.loads(world.original[signing.SIGNATURE]) | changes
    bundle["dsseEnvelope"] |= envelope
    return {signing.SIGNATURE: json.dumps(bundle, separators=(",", ":")).encode()}


def spelled_another_way(world):
    """Each of these bundles is the same JSON, or the same signature, to a lenient reader."""
    bundle = json.loads(world.original[signing.SIGNATURE])
    payload, [signature] = bundle["dsseEnvelope"]["payload"], bundle["dsseEnvelope"]["signatures"]
    assert world.original | respelled(world, {}) == world.original
    yield from ({signing.SIGNATURE: json.dumps(bundle, indent=n).encode()} for n in (None, 1))
    yield respelled(world, {}, note=1)
    for hint in (None, "", "0" * 64):
        material = {"publicKey": {"hint": hint}, "tlogEntries": []}
        yield respelled(world, {}, verificationMaterial=material)
    for change in (
        {"signatures": [signature, signature]}, {"signatures": []},
        {"signatures": [{**signature, "keyid": "x"}]},
        {"signatures": [{**signature, "sig": signature["sig"] + "\n"}]},
        {"signatures": [{**signature, "sig": ""}]}, {"payloadType": "text/plain"},
        {"payload": ""}, {"payload": "e30="}, {"payload": payload + "===="},
    ):  # fmt: skip
        yield respelled(world, change)


@pytest.mark.parametrize(
    "attack", [altered, swapped, of_another_certified, of_another_key, spelled_another_way]
)
def test_a_changed_folder_is_refused(world, signed, attack):
    tried = list(attack(world))
    assert tried
    for changed in tried:
        for name, data in changed.items():
            (signed / name).write_bytes(data)
        assert world.refuses(signed), changed.keys()
        for name in changed:
            (signed / name).write_bytes(world.original[name])


@pytest.mark.parametrize(
    "name",
    (".gitignore", ".hidden", f"{WEIGHTS}.bak", "a\nb", "é", "Certificate.json", ".git/", "empty/"),
)
def test_an_added_file_or_folder_is_refused(world, signed, name):
    path = signed / name
    path.mkdir() if name.endswith("/") else path.write_bytes(world.original[WEIGHTS])
    assert world.refuses(signed)


@pytest.mark.parametrize("name", verify.FILES)
def test_a_file_that_is_missing_a_folder_or_a_link_is_refused(world, signed, name):
    path, moved = signed / name, signed.parent / "moved"
    path.rename(moved)
    assert world.refuses(signed)
    path.mkdir()
    assert world.refuses(signed)
    path.rmdir()
    path.symlink_to(moved)
    assert world.refuses(signed)


def test_what_is_not_as_signed_has_a_reason(world):
    """The standard tool skips git's files, and says nothing of a signature over another list."""
    envelope = json.loads(world.original[signing.SIGNATURE])["dsseEnvelope"]
    other = base64.b64decode(envelope["payload"]).replace(b"model.safet", b"Model.safet")
    changed = respelled(world, {"payload": base64.b64encode(other).decode()})
    signing.check_signature(world.original, f" {world.trusted.upper()}\n")
    for changes, words in (
        ({WEIGHTS: b"changed"}, f"{WEIGHTS} is not the file that was signed."),
        *[({name: b""}, f"{name} is not signed.") for name in ("c.txt", ".gitignore")],
        (changed, "the signature was not made by this key over this list."),
    ):
        assert sentence(signing.check_signature, world.original | changes, world.trusted) == words
    fewer = {name: data for name, data in world.original.items() if name != MANIFEST}
    said = sentence(signing.check_signature, fewer, world.trusted)
    assert said == f"{MANIFEST} was signed and is missing."


def test_the_standard_tool_accepts_what_we_sign_and_refuses_what_we_refuse(world, signed):
    (signed / MANIFEST).write_bytes(world.original[MANIFEST].replace(b"7", b"8", 1))
    for place, accepted in ((world.folder, True), (signed, False)):
        command = ["-m", "model_signing", "verify", "key", place, "--signature"]
        command += [place / signing.SIGNATURE, "--public_key", place / signing.PUBLIC_KEY]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert (done.returncode == 0) is accepted, done.stdout + done.stderr


# --- Trust ---


def test_the_folders_own_key_is_not_trusted_for_lying_there(world, capsys):
    assert cli.main(["verify", str(world.folder), "--quick"]) == 1
    assert f"but {signing.FINGERPRINT} is trusted" in capsys.readouterr().err


def test_no_certificate_an_unsigned_one_and_another_name(world, signed):
    assert "has no certificate" in sentence(world.check, world.saved)
    unsigned = world.issue("unsigned", key="")  # after signed ones: no key of theirs is in it
    assert contents(unsigned).keys() == {WEIGHTS, MANIFEST, CERTIFICATE}
    assert "(unsigned): refused" in sentence(world.check, unsigned)
    renamed = signed.rename(signed.parent / "another name")
    (signed.parent / "link").symlink_to("another name")
    assert not world.refuses(renamed) and not world.refuses(signed.parent / "link")


@pytest.mark.parametrize("path", ["", "missing", "a\0b", "x" * 400, __file__])
def test_what_is_no_folder_or_no_key_is_named(world, path, capsys):
    for words in ([path], [str(world.folder), "--public-key", path or "/"]):
        assert cli.main(["verify", *words, "--quick"]) == 1
        assert capsys.readouterr().err.count("\n") == 1


# --- Keys ---


def test_keygen_makes_a_private_p256_key_and_never_overwrites_one(tmp_path, capsys, monkeypatch):
    path = tmp_path / "new" / "key.pem"
    assert cli.main(["keygen", str(path)]) == 0
    assert signing.fingerprint(signing.public_key(path)) in capsys.readouterr().out
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and key.curve.name == "secp256r1"
    before = path.read_bytes()
    assert "never overwritten" in sentence(signing.keygen, path) and path.read_bytes() == before
    assert "cannot be written" in sentence(signing.keygen, path / "below")
    monkeypatch.setattr("pathlib.Path.exists", lambda _path: False)  # another came in between
    assert "cannot be written" in sentence(signing.keygen, path) and path.read_bytes() == before


def test_a_key_that_cannot_sign_or_lies_in_the_repository_is_refused(world, tmp_path):
    for use in (signing.keygen, signing.public_key):
        assert "outside" in sentence(use, ROOT / "checkpoints" / "key.pem")
    assert not (ROOT / "checkpoints" / "key.pem").exists()
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    others = ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)
    others = [key.private_bytes(serialization.Encoding.PEM, *form) for key in others]
    bad = tmp_path / "bad.pem"
    for none in (bad, tmp_path):
        assert "No signing key" in sentence(signing.public_key, none)
    for data in (b"not a key", world.original[signing.PUBLIC_KEY], *others):
        bad.write_bytes(data)
        assert "is not an unencrypted EC P-256" in sentence(signing.public_key, bad)


@pytest.mark.xfail(reason="the shipped certificate is issued anew with certificate/4", strict=True)
def test_the_shipped_checkpoint_is_what_the_project_signed_and_a_page_names_the_key():
    assert verify.refusal(ROOT / "checkpoints/certified", signing.FINGERPRINT) == ""
    assert signing.FINGERPRINT in (ROOT / "docs/certificate.md").read_text("utf-8")


# --- What the notebook shows ---


def test_the_rehearsal_refuses_every_attack_for_its_own_reason_and_leaves_nothing(
    world, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(certificate.parallel, "each", in_process)
    said = rehearsal.attacks(world.loaded, world.stated)
    assert os.listdir(tmp_path) == []
    reasons = {
        "as it is": "accepted",
        "a flipped bit": "not the file that was signed",
        "an edited verdict": "not the file that was signed",
        "an untrained network": "not what the weights give",
        "another's key": "is trusted",
    }
    assert said.keys() == reasons.keys()
    assert all(reasons[attack] in sentence for attack, sentence in said.items()), said
    failing = world.stated.model_copy(update={"verdict": "FAIL"})
    monkeypatch.setattr(rehearsal, "_untrained", lambda lab, loaded, stated: None)
    assert "its gates say PASS" in rehearsal.attacks(world.loaded, failing)["as it is"]
