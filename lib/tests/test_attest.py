"""Statements for other tools: valid by the libraries of their standards, and signed."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from planted import sentence
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
from test_certification import World, contents, result

from fluxttice_core import cli, files
from fluxttice_core.certification import attest, certificate, signing, verify

BOUNDS = files.root() / "params" / "certify.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory, strict):
    return World(tmp_path_factory.mktemp("world"), strict)


def statement_of(world, found=None):
    """The Test Result of the folder of `world`, by default of its certificate; as if its bounds
    were those of BOUNDS."""
    found = (found or world.certificate).model_copy(update={"profile": "certify"})
    (world.place / "verdict.json").write_bytes(found.to_json())
    return attest.test_result(found, world.place)


def read(path, public):
    """The statement in a bundle, if another library takes the signature of that key."""
    envelope = Envelope.from_dict(json.loads(path.read_bytes())["dsseEnvelope"])
    envelope.verify([SSlibKey.from_crypto(load_pem_public_key(public))], 1)
    return json.loads(envelope.payload)


def valid(statement):
    """Whether the standard's own classes take it; its predicate as the library reads it."""
    parsed = json_format.Parse(json.dumps(statement), statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    for subject in parsed.subject:
        ResourceDescriptor.copy_from_pb(subject).validate()
    return parsed.predicate


def test_a_test_result_is_valid_and_names_gates_controls_and_what_was_used(world):
    statement = statement_of(world)
    predicate = json_format.Parse(
        json_format.MessageToJson(valid(statement)), test_result_pb2.TestResult()
    )
    assert predicate.result == "PASSED" and not predicate.failed_tests
    assert len(predicate.passed_tests) == len(world.rows) + len(world.controls)
    assert "refused: memoriser" in predicate.passed_tests
    used = {one.name: one.digest["sha256"] for one in predicate.configuration}
    assert next(iter(used)) == "params/certify.yaml"  # the identity of the test comes first
    assert used["params/certify.yaml"] == files.sha256(BOUNDS.read_bytes())
    weights, folder = statement["subject"]
    assert weights["digest"]["sha256"] == world.loaded.sha256
    root, _ = signing.signed(world.original[signing.SIGNATURE])
    assert folder == {"name": "certified", "digest": {"sha256": root}}


def test_a_verdict_that_is_no_pass_has_a_statement_and_an_abstention_counts_as_failed(
    world, tmp_path
):
    wide = result(world.rows[-1], low=0.0, high=99.0, verdict="ABSTAIN")
    some = certificate.build_certificate(
        world.loaded, world.p, [*world.rows[:-1], wide], world.controls
    )
    (tmp_path / "verdict.json").write_bytes(some.to_json())
    (tmp_path / "certify.params.yaml").write_text("min_exact_match: 1.0")
    statement = attest.test_result(some, tmp_path)
    valid(statement)
    predicate = statement["predicate"]
    assert len(statement["subject"]) == 1  # the weights; nothing is certified
    assert predicate["result"] == "FAILED" and predicate["warnedTests"] == []
    assert predicate["failedTests"] == ["max_largest_frequency VAE-B"]


def test_another_library_alone_verifies_the_signature_and_refuses_a_flipped_verdict(
    world, tmp_path
):
    path, public = tmp_path / "t.json", world.original[signing.PUBLIC_KEY]
    attest.write(path, statement_of(world), world.key)
    assert read(path, public) == statement_of(world)
    bundle = json.loads(path.read_bytes())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"PASSED", b"FAILED")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    path.write_text(json.dumps(bundle))
    with pytest.raises(VerificationError):
        read(path, public)


def test_only_a_full_verification_that_passes_is_attested(world, tmp_path, refused):
    folder, public = str(world.folder), str(world.folder / signing.PUBLIC_KEY)
    words = "verify", folder, "--public-key", public, "--attest", str(world.other_key)
    said = refused(*words, "--quick").err
    assert "Only a full verification that ends in PASS can be attested" in said
    assert cli.main([*words]) == 0
    made = world.folder.with_name("certified.verification.sigstore.json")
    statement = read(made, signing.public_key(world.other_key))
    valid(statement)
    predicate = statement["predicate"]
    assert predicate["properties"] == ["SIGNATURE_VALID", "GATES_REPRODUCED", "FRESH_DRAWS_PASSED"]
    assert files.code_hash() in predicate["verifier"]["id"]
    assert contents(world.folder) == world.original  # nothing is added to the folder
    done = verify.verify(world.folder, world.trusted, True, str)
    assert "can be attested" in sentence(attest.verification_result, done)
