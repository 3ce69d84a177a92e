"""Certificates: their contents, their signer, and that no change to a signed folder passes.

One measured certificate, of the oracle, is issued for the whole file. Attacks are tried with
`quick`: a folder that it accepts has every file as signed.
"""

import base64
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from planted import sentence
from pydantic import ValidationError

from fluxttice_core import cli, files
from fluxttice_core.certification import attest, certificate, signing, verify
from fluxttice_core.certification.certificate import CERTIFICATE, Certificate
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.checkpoints.folder import MANIFEST, WEIGHTS
from fluxttice_core.errors import InputError
from fluxttice_core.metrics import gates
from fluxttice_core.metrics.controls import oracle
from fluxttice_core.metrics.gates import ControlResult, GateResult
from fluxttice_core.metrics.marginal import MIN_LATENTS
from fluxttice_core.model.network import DualVAE
from fluxttice_core.model.operations import split_record

ROOT = files.root()
FORM = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()


def new_key(path, key=None):
    """A private key at `path`; its fingerprint."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, *FORM))
    return files.sha256(signing.public_key(path))


class World:
    """A certified checkpoint, its trusted key, and the measurement behind it."""

    def __init__(self, place, strict):
        self.place, self.key, self.other_key = place, place / "key.pem", place / "other.pem"
        self.trusted, _ = new_key(self.key), new_key(self.other_key)
        # With so few latents these intervals are too wide for the project's own bounds.
        few = {"min_argmax_coverage_195000": 0.999, "min_least_frequency": 0.0}
        self.p = strict.model_copy(update={**few, "k": MIN_LATENTS, "max_largest_frequency": 9.0})
        self.saved = checkpoints.save(place / "saved", oracle(), 7, {"split": split_record(42)})
        self.loaded = checkpoints.load(self.saved)
        seed, bounds = gates.seed_of(self.loaded.sha256), gates.bounds_of(self.p)
        self.rows = certificate.measure_gates(self.loaded.model, MIN_LATENTS, seed, bounds, str)
        failed = result(self.rows[0], value=0.5, low=0.5, high=0.5, verdict="FAIL")
        self.controls = [
            ControlResult(control=name, k=MIN_LATENTS, verdict="FAIL", gates=[failed])
            for name in gates.negative_controls(self.loaded.model, self.p)
        ]
        self.certificate = certificate.build_certificate(
            self.loaded, self.p, self.rows, self.controls
        )
        self.folder = self.issue("certified")
        self.original = contents(self.folder)

    def issue(self, name, key=None, loaded=None, **changes):
        """A new signed folder, with `changes` in its certificate."""
        changed = self.certificate.model_copy(update=changes)
        if loaded:
            changed = changed.model_copy(update={"weights_sha256": loaded.sha256})
        key = self.key if key is None else key
        certificate.write_certificate(self.place / name, loaded or self.loaded, changed, str(key))
        return self.place / name

    def edited(self, folder, change):
        """`folder` with its certificate's JSON changed by `change`, and signed again."""
        found = json.loads(self.original[CERTIFICATE])
        change(found)
        return self.signed_again(folder, json.dumps(found))

    def signed_again(self, folder, text):
        """`folder` with another certificate.json, and a signature of the trusted key over it."""
        (folder / CERTIFICATE).write_text(text)
        listed = {k: v for k, v in contents(folder).items() if k != signing.SIGNATURE}
        (folder / signing.SIGNATURE).write_bytes(signing.sign(listed, self.key))
        return folder

    def check(self, folder=None, quick=True):
        return verify.verify(folder or self.folder, self.trusted, quick, str)

    def refuses(self, folder):
        try:
            return bool(self.check(folder).problem)
        except InputError as error:
            assert "\n" not in str(error)
            return True


def result(row, **changes):
    """A gate's result with other numbers."""
    return GateResult(**{**row.model_dump(), **changes})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def world(tmp_path_factory, strict):
    world = World(tmp_path_factory.mktemp("world"), strict)
    assert not world.refuses(world.folder), "or nothing below counts"
    return world


@pytest.fixture
def signed(world, tmp_path):
    """A copy of the signed folder, to be spoilt."""
    return shutil.copytree(world.folder, tmp_path / "copy")


# --- The certificate ---


def test_a_certificate_names_its_files_its_key_its_bounds_and_the_seed_of_its_weights(world):
    found = Certificate.model_validate_json(world.original[CERTIFICATE], strict=True)
    assert (found.verdict, found.profile) == ("PASS", "own bounds"), found.gates
    assert found.seed == gates.seed_of(world.loaded.sha256) != gates.seed_of("0" * 64)
    assert found.environment.keys() >= {"torch", "scipy", "cpu", "code"}
    assert found.guarantees and found.does_not_guarantee and found.git.keys() == {"commit", "clean"}
    assert sorted(world.original) == sorted(verify.FILES)
    for name, sha256 in found.subject.items():
        assert world.original[name] == (world.saved / name).read_bytes()
        assert sha256 == files.sha256(world.original[name])
    assert found.signing_key == world.trusted == files.sha256(world.original[signing.PUBLIC_KEY])
    envelope = json.loads(world.original[signing.SIGNATURE])["dsseEnvelope"]
    [subject] = json.loads(base64.b64decode(envelope["payload"]))["subject"]
    assert subject["name"] == "certified"  # section 6.5 of the signing standard


def test_the_bounds_of_a_parameter_file_have_its_name(strict):
    own = [SimpleNamespace(gate=gate, bound=getattr(strict, gate)) for gate in gates.GATES]
    assert certificate.profile(own) == "certify"
    own[2].bound += 0.1
    assert certificate.profile(own) == "own bounds"


def test_a_certificate_appears_whole_or_not_at_all(world, tmp_path, monkeypatch):
    what = world.loaded, world.certificate, str(world.key)
    assert "never written over" in sentence(certificate.write_certificate, world.folder, *what)
    assert contents(world.folder) == world.original

    def fails(*_arguments):
        raise InputError("no.")

    monkeypatch.setattr(signing, "sign", fails)
    assert sentence(certificate.write_certificate, tmp_path / "c", *what) == "no."
    assert os.listdir(tmp_path) == []


def test_only_a_pass_of_these_weights_is_certified(world, tmp_path):
    wide = result(world.rows[-1], low=0.0, high=99.0, verdict="ABSTAIN")
    some = certificate.build_certificate(
        world.loaded, world.p, [*world.rows[:-1], wide], world.controls
    )
    for found in (some, world.certificate.model_copy(update={"weights_sha256": "0" * 64})):
        said = sentence(certificate.write_certificate, tmp_path / "c", world.loaded, found)
        assert "only a checkpoint whose own verdict is PASS" in said


def test_a_verdict_that_contradicts_its_gates_can_be_neither_made_nor_read(world):
    """Of single gates and controls, `test_gates` shows it."""
    passed = world.controls[0].model_copy(update={"verdict": "PASS", "gates": world.rows[:1]})
    built = certificate.build_certificate(world.loaded, world.p, world.rows, [passed])
    assert built.verdict == "ABSTAIN"  # because a control passes
    with pytest.raises(ValidationError, match="says PASS, but its gates say ABSTAIN"):
        Certificate.model_validate({**built.model_dump(by_alias=True), "verdict": "PASS"})


# --- Measuring again ---


def test_a_true_certificate_is_measured_twice_and_found_equal(world, capsys):
    public = str(world.folder / signing.PUBLIC_KEY)
    assert cli.main(["verify", str(world.folder), "--public-key", public]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" equal " in line for line in lines) == len(world.rows) == 2 * len(gates.GATES)
    assert lines[-1].startswith("PASS (own bounds)") and lines[-1].endswith("twice")


@pytest.fixture
def measured(monkeypatch):
    """Replaces the two measurements by the rows in this list, and records their seeds."""
    found, seeds = [], []

    def measure(_model, _k, seed, _bounds, _report):
        seeds.append(seed)
        return found[len(seeds) - 1]

    monkeypatch.setattr(verify, "measure_gates", measure)
    return found, seeds


def test_the_measured_bytes_are_the_verified_ones_and_the_second_seed_is_fresh(
    world, signed, measured
):
    """The weights may change on disk meanwhile."""
    found, seeds = measured
    found += [world.rows, world.rows] * 2
    weights = signed / WEIGHTS
    for _ in range(2):
        done = verify.verify(signed, world.trusted, report=lambda _step: weights.write_bytes(b""))
        assert (done.problem, {*done.gates.agreement}) == ("", {"equal"})
        assert done.checkpoint.sha256 == world.loaded.sha256
        weights.write_bytes(world.original[WEIGHTS])
    assert seeds[0] == seeds[2] == world.certificate.seed and len({*seeds}) == 3


@pytest.mark.parametrize("at", [0, -1])
def test_a_figure_that_the_weights_do_not_give_refuses(world, measured, at):
    """A lie passes its bound like the truth."""
    again = list(world.rows)
    again[at] = result(again[at], value=again[at].value + 1e-9)
    measured[0].extend([again, world.rows])
    gate = again[at]
    problem = world.check(quick=False).problem
    assert problem == f"the weights do not give its figure for {gate.gate} of VAE-{gate.vae}"


def test_with_fresh_draws_a_fail_refuses_and_an_abstention_is_told(world, measured, capsys):
    last = world.rows[-1]
    abstains = result(last, low=0.0, high=99.0, verdict="ABSTAIN")
    fails = result(last, value=98.0, low=98.0, high=99.0, verdict="FAIL")
    measured[0].extend([world.rows, [*world.rows[:-1], abstains]])
    public = str(world.folder / signing.PUBLIC_KEY)
    assert cli.main(["verify", str(world.folder), "--public-key", public]) == 0
    out = capsys.readouterr().out
    assert "with fresh draws, max_largest_frequency of VAE-B ABSTAINs" in out
    measured[0].extend([world.rows, [*world.rows[:-1], fails]])
    assert "max_largest_frequency of VAE-B misses" in world.check(quick=False).problem


@pytest.mark.parametrize(
    "old, new, here, elsewhere",
    [
        ((0.3, 0.2, 0.4), (0.3, 0.2, 0.4), "equal", "equal"),
        ((0.3, 0.2, 0.4), (0.4, 0.3, 0.5), "DIFFERS", "in interval"),
        ((0.3, 0.2, 0.4), (0.41, 0.2, 0.4), "DIFFERS", "DIFFERS"),
        ((0.3, 0.2, 0.4), (0.3, 0.1, 0.4), "DIFFERS", "in interval"),
        ((3, 3, 3), (3 + 2e-6, 3, 3), "DIFFERS", "in interval"),  # rounding of float32
        ((3, 3, 3), (3 + 4e-6, 3, 3), "DIFFERS", "DIFFERS"),
        ((0.3, 0.2, 0.4), (None, None, None), "DIFFERS", "DIFFERS"),
        ((1.5, None, None), (1.51, None, None), "DIFFERS", "near"),
        ((1.5, None, None), (1.52, None, None), "DIFFERS", "DIFFERS"),
    ],
)
def test_a_number_is_equal_in_its_interval_or_differs(old, new, here, elsewhere):
    assert verify.compare_values(old, new, True) == here
    assert verify.compare_values(old, new, False) == elsewhere


# --- A certificate that is signed and wrong ---


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.update(schema="fluxttice/certificate/3"), "/3', and this release reads"),
        (lambda c: c.update(surprise=1), "does not fit at surprise"),
        (lambda c: c.update(gates=[]), "at gates"),
        (lambda c: c.update(controls=[]), "at controls"),
        (lambda c: c.update(verdict="FAIL"), "it says FAIL, but its gates say PASS"),
        (lambda c: c["gates"][0].update(low=0.1), "its numbers say ABSTAIN"),
        (lambda c: c.update(seed=1), "a seed that is not derived from its weights"),
        (lambda c: c.update(subject={}), "is about other files"),
        (lambda c: c["params"].update(k=20), "k 20, which is no number of latents"),
        (lambda c: c["gates"].pop(), "does not hold every VAE to the same gates"),
        (lambda c: c["gates"].reverse(), "does not hold every VAE to the same gates"),
        (
            lambda c: [row.update(gate="min_mig", bound=0) for row in c["gates"][::12]],
            "has gates that this release lacks: min_mig",
        ),
    ],
)
def test_a_signed_certificate_that_contradicts_itself_is_refused(world, signed, change, words):
    said = sentence(world.check, world.edited(signed, change))
    assert "is refused: certificate.json" in said and words in said


def test_fewer_gates_for_every_vae_are_judged_by_their_own_bounds(world, signed):
    """A gate that this release adds makes no older certificate unreadable."""

    def change(found):
        found["gates"] = [row for row in found["gates"] if row["gate"] != "max_largest_frequency"]
        del found["params"]["max_largest_frequency"]

    assert not world.check(world.edited(signed, change)).problem


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"a": NaN}', '{"a": 1, "a": 1}', "[" * 10**5])
def test_a_signed_file_that_is_no_certificate_is_refused(world, signed, text):
    said = sentence(world.check, world.signed_again(signed, text))
    assert "is refused: certificate.json is no certificate" in said


def test_a_folder_of_release_0_2_0_is_refused_by_the_name_of_its_schema(refused):
    old = ROOT / "lib/tests/data/certified-0.2.0"
    said = refused("verify", str(old), "--public-key", str(old / signing.PUBLIC_KEY)).err
    assert "has the schema 'fluxttice/certificate/3', and this release reads" in said


def test_a_folder_of_this_release_is_read_for_ever(capsys):
    kept = ROOT / "lib/tests/data/certified-0.3.0"
    words = "verify", str(kept), "--quick", "--public-key", str(kept / signing.PUBLIC_KEY)
    assert cli.main([*words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("PASS (certify)")


# --- Attacks on a signed folder ---


def altered(world):
    """One bit; up to 40 bytes replaced by others, in number and kind; a tail; a cut."""
    for name, data in world.original.items():
        rng = random.Random(name)
        for _ in range(15):
            at, gone = rng.randrange(len(data)), rng.randrange(40)
            bit = bytes([data[at] ^ 1 << rng.randrange(8)])
            yield {name: data[:at] + bit + data[at + 1 :]}
            changed = data[:at] + rng.randbytes(rng.randrange(40)) + data[at + gone :]
            yield {name: changed if changed != data else b""}
        yield from ({name: data[:cut]} for cut in (0, 1, len(data) - 2))


def swapped(world):
    for one, two in itertools.permutations(world.original, 2):
        yield {one: world.original[two], two: world.original[one]}


def parts(world, other):
    """Every choice of some files of the folder `other` that are not ours; at last, all of them."""
    changed = contents(other).items() - world.original.items()
    for size in range(1, len(changed) + 1):
        yield from map(dict, itertools.combinations(changed, size))


def of_another_certified(world):
    """Signed by the trusted key: another checkpoint, and ours when a bound was lower. Only all of
    the other's files together are its checkpoint."""
    fresh = checkpoints.load(checkpoints.save(world.place / "fresh", DualVAE.fresh(2), 2, {}))
    lower = tuple(result(row, bound=0.0) if row.gate[:3] == "min" else row for row in world.rows)
    for other in (world.issue("another", loaded=fresh), world.issue("old", gates=lower)):
        yield from list(parts(world, other))[:-1]


def of_another_key(world):
    """Weights, certificate, signature and key, all consistent, all another's."""
    yield from parts(world, world.issue("forged", world.other_key))


def other_statements(world):
    bundle = json.loads(world.original[signing.SIGNATURE])
    envelope = bundle["dsseEnvelope"]
    payload, [signature] = envelope["payload"], envelope["signatures"]
    renamed = base64.b64decode(payload).replace(b"model.safet", b"Model.safet")
    for change in (
        {"signatures": []}, {"signatures": [{**signature, "sig": ""}]}, {"payload": ""},
        {"payload": "e30="}, {"payload": base64.b64encode(renamed).decode()},
    ):  # fmt: skip
        yield {
            signing.SIGNATURE: json.dumps({**bundle, "dsseEnvelope": envelope | change}).encode()
        }


@pytest.mark.parametrize(
    "attack", [altered, swapped, of_another_certified, of_another_key, other_statements]
)
def test_a_changed_folder_is_refused(world, signed, attack):
    tried = list(attack(world))
    assert tried
    for changed in tried:
        for name, data in changed.items():
            (signed / name).write_bytes(data)
        assert world.refuses(signed) or same_statement(world, changed), changed.keys()
        for name in changed:
            (signed / name).write_bytes(world.original[name])


def same_statement(world, changed):
    """A bundle may be spelled in two ways; what it says and who signed it are then the same."""
    if changed.keys() != {signing.SIGNATURE}:
        return False
    one, two = (signing.signed(x[signing.SIGNATURE]) for x in (world.original, changed))
    return one == two


@pytest.mark.parametrize("name", (".gitignore", f"{WEIGHTS}.bak", "a\nb", "é", ".git/"))
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


def test_a_signed_list_that_leaves_a_file_out_is_refused(world, signed):
    """The standard library accepts it."""
    from model_signing import hashing
    from model_signing import signing as standard

    (signed / WEIGHTS).unlink()
    (signed / signing.SIGNATURE).unlink()
    config = standard.Config().use_elliptic_key_signer(private_key=world.key)
    ignored = [signing.SIGNATURE, WEIGHTS]
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=ignored))
    config.sign(signed, signed / signing.SIGNATURE)
    (signed / WEIGHTS).write_bytes(world.original[WEIGHTS])
    said = sentence(world.check, signed)
    assert f"{WEIGHTS} is not the file that was signed" in said


def test_every_refusal_names_its_file(world):
    signing.check_signature(world.original, f" {world.trusted.upper()}\n")
    for name in (WEIGHTS, MANIFEST, CERTIFICATE, "new"):
        said = sentence(signing.check_signature, world.original | {name: b"changed"}, world.trusted)
        assert said == f"{name} is not the file that was signed."


def test_the_standard_tool_accepts_and_refuses_the_same_folders(world, signed):
    (signed / MANIFEST).write_bytes(world.original[MANIFEST].replace(b"7", b"8", 1))
    for place, accepted in ((world.folder, True), (signed, False)):
        command = ["-m", "model_signing", "verify", "key", place, "--signature"]
        command += [place / signing.SIGNATURE, "--public_key", place / signing.PUBLIC_KEY]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert (done.returncode == 0) is accepted, done.stdout + done.stderr


# --- Trust ---


def test_no_certificate_an_unsigned_one_and_another_name(world, signed):
    assert "lacks 'certificate.json', but a folder that is certified" in sentence(
        world.check, world.saved
    )
    unsigned = world.issue("unsigned", key="")
    assert contents(unsigned).keys() == {WEIGHTS, MANIFEST, CERTIFICATE}
    assert "lacks 'certificate.sig', but" in sentence(world.check, unsigned)
    renamed = signed.rename(signed.parent / "another name")
    (signed.parent / "link").symlink_to("another name")
    assert not world.refuses(renamed) and not world.refuses(signed.parent / "link")


@pytest.mark.parametrize("path", ["", "missing", "a\0b", "x" * 400, __file__])
def test_a_path_that_is_no_folder_or_no_key_is_named(world, path, refused):
    for words in ([path], [str(world.folder), "--public-key", path or "/"]):
        refused("verify", *words, "--quick")


def test_another_key_and_a_private_one_given_as_public_are_told(world, refused):
    """The key in the folder is not trusted for being there."""
    said = refused("verify", str(world.folder), "--quick").err
    assert f"but {signing.FINGERPRINT} is trusted" in said and "--public-key" in said
    said = refused("verify", str(world.folder), "--quick", "--public-key", str(world.key)).err
    assert "is a private key: give the public one" in said


def test_a_key_that_cannot_sign_or_lies_in_the_repository_is_refused(world, tmp_path):
    assert "outside" in sentence(signing.public_key, ROOT / "README.md")
    bad = tmp_path / "bad.pem"
    assert "No signing key" in sentence(signing.public_key, bad)
    assert "is not an unencrypted EC P-256" in sentence(signing.public_key, tmp_path)
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        bad.write_bytes(key.private_bytes(serialization.Encoding.PEM, *FORM))
        assert "is not an unencrypted EC P-256" in sentence(signing.public_key, bad)
    for data in (b"not a key", world.original[signing.PUBLIC_KEY]):
        bad.write_bytes(data)
        assert "is not an unencrypted EC P-256" in sentence(signing.public_key, bad)


# --- docs/certificate.md ---


def block(words, **environment):
    """Run the block of shell lines that has these words; its result."""
    text = (ROOT / "docs" / "certificate.md").read_text("utf-8")
    [lines] = [x for x in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) if words in x]
    lines = lines.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    return subprocess.run(
        ["bash", "-ec", lines], cwd=ROOT, env=variables, capture_output=True, text=True
    )


def test_the_standard_tool_takes_the_shipped_folder_and_a_flipped_bit_is_refused(tmp_path):
    assert block("model_signing verify").returncode == 0
    done = block("cp -r", TMPDIR=tmp_path)
    assert done.returncode == 1
    assert "model.safetensors is not the file that was signed" in done.stderr


def test_the_key_that_openssl_makes_signs_and_its_public_half_is_the_one_to_trust(tmp_path):
    assert block("openssl", HOME=tmp_path).returncode == 0
    public = signing.trusted_fingerprint(tmp_path / "signing_key.pub")
    assert public == files.sha256(signing.public_key(tmp_path / "key.pem"))


def test_other_tools_read_a_test_result_and_refuse_another_key(world):
    place = world.folder.parent
    (place / "verdict.json").write_bytes(world.certificate.to_json())
    (place / "certify.params.yaml").write_text("k: 1")
    statement = attest.test_result(world.certificate, place)
    attest.write(place / attest.TEST_RESULT_FILE, statement, world.key)
    assert json.loads(block("b64decode", RUN=place).stdout) == statement
    assert block("SSlibKey", RUN=place).returncode == 0
    attest.write(place / attest.TEST_RESULT_FILE, statement, world.other_key)
    assert block("SSlibKey", RUN=place).returncode == 1


def test_another_split_than_the_recorded_one_is_refused(world):
    other = replace(world.loaded, manifest={**world.loaded.manifest, "split": split_record(43)})
    assert "another split" in sentence(checkpoints.check_split, other, 42)
