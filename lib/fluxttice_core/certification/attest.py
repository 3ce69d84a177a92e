"""Statements that other tools can read: in-toto attestations, signed as DSSE in a sigstore bundle.

A certification issues a Test Result (predicate v0.1) whatever its verdict is. A verification
issues a Summary Verification Result (predicate v0.2) only after a full PASS. Readers of Test
Results let warnings through, so a gate that ABSTAINs counts as failed and never as warned.

Sources: in-toto attestation framework, Statement v1 and the two predicates; DSSE v1; sigstore
bundle v0.3.
"""

import json
from pathlib import Path
from typing import Any

from .. import files
from ..errors import InputError
from . import signing
from .certificate import CERTIFICATE, FOLDER, Certificate
from .verify import Verified

PAYLOAD_TYPE = "application/vnd.in-toto+json"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
VERIFICATION_RESULT = "https://in-toto.io/attestation/svr/v0.2"
PROPERTIES = ("SIGNATURE_VALID", "GATES_REPRODUCED", "FRESH_DRAWS_PASSED")
TEST_RESULT_FILE = "test_result.sigstore.json"


def test_result(
    certificate: Certificate, bounds: Path, document: bytes, certified: dict[str, bytes]
) -> dict[str, Any]:
    """The Test Result statement of a certification.

    Args:
        certificate: what was measured.
        bounds: the parameter file that holds the bounds; its name is the test's identity.
        document: the bytes of certificate.json, or of verdict.json where there is none.
        certified: the files of the certified folder; empty where there is none.
    """
    passed = [f"{row.gate} VAE-{row.vae}" for row in certificate.gates if row.verdict == "PASS"]
    failed = [f"{row.gate} VAE-{row.vae}" for row in certificate.gates if row.verdict != "PASS"]
    for control in certificate.controls:
        refused = passed if control.verdict == "FAIL" else failed
        refused.append(f"refused: {control.control}")
    power = files.root() / "reports" / "power.csv"
    used = {
        files.display_path(bounds): files.sha256(bounds.read_bytes()),
        CERTIFICATE if certified else "verdict.json": files.sha256(document),
        "code of model, metrics, benchmark and parallel": certificate.environment["code"],
    }
    if power.is_file():
        used["reports/power.csv"] = files.sha256(power.read_bytes())
    return _statement(
        _subjects(certificate.weights_sha256, certified),
        TEST_RESULT,
        {
            "result": "PASSED" if certificate.verdict == "PASS" else "FAILED",
            "configuration": [_resource(name, digest) for name, digest in used.items()],
            "passedTests": passed,
            "warnedTests": [],
            "failedTests": failed,
        },
    )


def write_verification_result(found: Verified, folder: Path, key: str) -> Path:
    """Sign and write the Summary Verification Result beside `folder`; return its path."""
    certified = {file.name: file.read_bytes() for file in folder.iterdir()}
    path = folder.resolve().with_name(f"{folder.resolve().name}.verification.sigstore.json")
    write(path, verification_result(found, certified), key)
    return path


def verification_result(found: Verified, certified: dict[str, bytes]) -> dict[str, Any]:
    """The Summary Verification Result of a full verification.

    Raises:
        InputError: it was quick, or it refused the checkpoint: there is nothing to state.
    """
    if not found.repeated or found.problem:
        raise InputError("Only a full verification that ends in PASS can be attested.")
    code = files.code_hash("model", "metrics")
    # The certifier's own bounds are in the certificate alone.
    bounds = files.root() / "params" / f"{found.profile}.yaml"
    policy = bounds.read_bytes() if bounds.is_file() else certified[CERTIFICATE]
    return _statement(
        _subjects(found.certificate.weights_sha256, certified),
        VERIFICATION_RESULT,
        {
            "verifier": {"id": f"fluxttice verify, code sha256:{code}"},
            "timeVerified": files.utc_now().isoformat().replace("+00:00", "Z"),
            "policy": _resource(found.profile, files.sha256(policy)),
            "properties": list(PROPERTIES),
        },
    )


def write_test_result(
    path: Path, certificate: Certificate, certified: dict[str, bytes], key: str
) -> None:
    """Sign and write the Test Result of a run: `path` lies in its folder.

    The bounds are in the profile's file or, if they are the certifier's own, in the run's.
    """
    bounds = files.root() / "params" / f"{certificate.profile}.yaml"
    if not bounds.is_file():
        bounds = path.parent / "certify.params.yaml"
    document = certified.get(CERTIFICATE) or (path.parent / "verdict.json").read_bytes()
    write(path, test_result(certificate, bounds, document, certified), key)


def write(path: Path, statement: dict[str, Any], key: str | Path) -> None:
    """Sign `statement` with the private key at `key`, and write the bundle as `path`.

    Raises:
        InputError: the key cannot sign.
    """
    # These libraries take a second to import.
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
    from sigstore_models.bundle.v1 import Bundle

    signer = CryptoSigner(signing.private_key(key))
    payload = json.dumps(statement, indent=2).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": signing.fingerprint(signing.public_key(key))},
            "tlogEntries": [],
        },
        "dsseEnvelope": envelope.to_dict(),
    }
    files.write_bytes(path, Bundle.from_dict(bundle).to_json().encode())


def read(path: Path, public_pem: bytes) -> dict[str, Any]:
    """The statement in the bundle at `path`, if the key `public_pem` signed it.

    Raises:
        InputError: not such a bundle, or not signed by that key.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

    try:
        bundle = files.parse_json(path.read_bytes())
        envelope = Envelope.from_dict(bundle["dsseEnvelope"])
        envelope.verify([SSlibKey.from_crypto(load_pem_public_key(public_pem))], 1)
        return files.parse_json(envelope.payload)
    except VerificationError:
        raise InputError(f"{path} is not signed by this key.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no bundle with a statement: {error}.") from None


def _statement(subject: list[dict], predicate_type: str, predicate: dict) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def _subjects(weights_sha256: str, certified: dict[str, bytes]) -> list[dict[str, Any]]:
    """The weights and, where there is a signed folder, the root digest of its model signature."""
    found = [_resource("model.safetensors", weights_sha256)]
    if signing.SIGNATURE in certified:
        root = signing.statement(certified[signing.SIGNATURE])["subject"][0]
        found.append(_resource(FOLDER, root["digest"]["sha256"]))
    return found


def _resource(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}
