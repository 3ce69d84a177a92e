"""Statements that other tools can read: in-toto attestations, signed as DSSE in a sigstore bundle.

A certification issues a Test Result (predicate v0.1) whatever its verdict is. A verification
issues a Summary Verification Result (predicate v0.2) only after a full PASS. Readers of Test
Results let warnings through, so a gate that ABSTAINs counts as failed and never as warned.
Sources: in-toto Statement v1 and the two predicates; DSSE v1; sigstore bundle v0.3.
"""

import json
from pathlib import Path
from typing import Any

from .. import files
from ..errors import InputError
from . import signing
from .certificate import CERTIFICATE, Certificate
from .verify import Verified

TEST_RESULT_FILE = "test_result.sigstore.json"


def test_result(certificate: Certificate, run: Path) -> dict[str, Any]:
    """The Test Result of the certification in `run`; the bounds' name, the first, identifies it."""
    tests = {f"{row.gate} VAE-{row.vae}": row.verdict == "PASS" for row in certificate.gates}
    tests |= {f"refused: {one.control}": one.verdict == "FAIL" for one in certificate.controls}
    folder, bounds = run / signing.FOLDER, files.root() / f"params/{certificate.profile}.yaml"
    used = [bounds if bounds.is_file() else run / "certify.params.yaml"]
    used += [folder / CERTIFICATE if folder.is_dir() else run / "verdict.json"]
    used += filter(Path.is_file, [files.root() / "reports" / "power.csv"])
    resources = [_resource(files.display_path(x), files.sha256(x.read_bytes())) for x in used]
    code = "code of model, metrics, benchmark and parallel"
    signature = folder / signing.SIGNATURE
    return _statement(
        certificate,
        signature.read_bytes() if signature.is_file() else b"",
        "test-result/v0.1",
        result="PASSED" if certificate.verdict == "PASS" else "FAILED",
        configuration=[*resources, _resource(code, certificate.environment["code"])],
        passedTests=[name for name, passed in tests.items() if passed],
        warnedTests=[],
        failedTests=[name for name, passed in tests.items() if not passed],
    )


def verification_result(found: Verified) -> dict[str, Any]:
    """The Summary Verification Result of a full verification.

    Raises:
        InputError: it was quick, or it refused the checkpoint, so there is nothing to state.
    """
    if found.problem or "again" not in found.gates:
        raise InputError("Only a full verification that ends in PASS can be attested.")
    fresh = ["FRESH_DRAWS_PASSED"] if (found.gates.fresh_verdict == "PASS").all() else []
    # The certifier's own bounds are in the certificate alone.
    bounds = files.root() / f"params/{found.profile}.yaml"
    policy = bounds.read_bytes() if bounds.is_file() else found.contents[CERTIFICATE]
    return _statement(
        found.certificate,
        found.contents[signing.SIGNATURE],
        "svr/v0.2",
        verifier={"id": f"fluxttice verify, code sha256:{files.code_hash()}"},
        timeVerified=files.utc_now().isoformat().replace("+00:00", "Z"),
        policy=_resource(found.profile, files.sha256(policy)),
        properties=["SIGNATURE_VALID", "GATES_REPRODUCED", *fresh],
    )


def write(path: Path, statement: dict[str, Any], key: str | Path) -> None:
    """Sign `statement` with the private key at `key` as the bundle `path`, or raise InputError."""
    # These libraries take a second to import.
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
    from sigstore_models.bundle.v1 import Bundle

    envelope = Envelope(json.dumps(statement).encode(), "application/vnd.in-toto+json", {})
    envelope.sign(CryptoSigner(signing.private_key(key)))
    hint = files.sha256(signing.public_key(key))
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": envelope.to_dict(),
    }
    files.write_bytes(path, Bundle.from_dict(bundle).to_json().encode())


def _statement(
    certificate: Certificate, signature: bytes, kind: str, **predicate: Any
) -> dict[str, Any]:
    """About the weights and, if there is a `signature`, about the folder by its root digest."""
    subject = [_resource("model.safetensors", certificate.weights_sha256)]
    if signature:
        subject.append(_resource(signing.FOLDER, signing.signed(signature)[0]))
    about: dict[str, Any] = {"_type": "https://in-toto.io/Statement/v1", "subject": subject}
    about["predicateType"] = f"https://in-toto.io/attestation/{kind}"
    return {**about, "predicate": predicate}


def _resource(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}
