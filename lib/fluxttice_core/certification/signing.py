"""Signatures over a folder: OpenSSF model signing, an EC P-256 key, one detached sigstore bundle.

The bundle lists the sha256 of every file of the folder except its own. The standard tool checks it:
`model_signing verify key FOLDER --signature FOLDER/certificate.sig --public_key
FOLDER/signing_key.pub`.

The fingerprint of a public key is the sha256 of its PEM file (`sha256sum signing_key.pub`). Anyone
who can change the folder can change the key in it, so trust comes from a fingerprint that is known
from elsewhere, never from the key in the folder.
"""

import tempfile
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .. import files
from ..errors import InputError

SIGNATURE, PUBLIC_KEY = "certificate.sig", "signing_key.pub"
FINGERPRINT = "ca4055791751324263fb1ff7ca580fd8aabb7ca6a9227c9aba3d9ef8029cd837"
KEY_VARIABLE = "FLUXTTICE_SIGNING_KEY"


def private_key(path: str | Path) -> ec.EllipticCurvePrivateKey:
    """The key that signs.

    Raises:
        InputError: no such file, inside the repository, or not an unencrypted EC P-256 key.
    """
    place = _outside(path)
    try:
        key = serialization.load_pem_private_key(place.read_bytes(), None)
    except OSError as error:
        raise InputError(f"No signing key at {path} ({error.strerror}).") from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise InputError(f"{path} is not an unencrypted EC P-256 private key in PEM.")
    return key


def public_key(path: str | Path) -> bytes:
    """The PEM of the public half of the private key at `path`. Raises as `private_key`."""
    return (
        private_key(path)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def fingerprint(public_pem: bytes) -> str:
    """sha256 of a public key's PEM file, hex."""
    return files.sha256(public_pem)


def trusted_fingerprint(path: str | Path) -> str:
    """The fingerprint of the public key in the PEM file at `path`.

    Raises:
        InputError: no such file, or no public key in it.
    """
    try:
        pem = Path(path).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError):
        raise InputError(f"No public key at {path}: give the path of a signing_key.pub.") from None
    if b"PRIVATE KEY" in pem:
        raise InputError(f"{path} is a private key: give the public one, a signing_key.pub.")
    try:
        serialization.load_pem_public_key(pem)
    except ValueError:
        raise InputError(f"{path} is not a public key in PEM: give a signing_key.pub.") from None
    return fingerprint(pem)


def sign(folder: Path, key: str | Path) -> None:
    """Sign every file of `folder` into `folder`/certificate.sig with the private key at `key`."""
    # model_signing takes a second to import.
    from model_signing import hashing, signing

    every_file = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    signer = signing.Config().use_elliptic_key_signer(private_key=_outside(key))
    signer.set_hashing_config(every_file).sign(folder, folder / SIGNATURE)


def check_signature(contents: dict[str, bytes], trusted: str) -> None:
    """Check that `contents` (file name → bytes) are exactly the files that `trusted` signed.

    The standard library verifies a private copy of these very bytes.

    Raises:
        InputError: another key than the one with the fingerprint `trusted`, a signature that is
            damaged or of other files, or a file that the signature does not list.
    """
    from model_signing import verifying

    own, trusted = fingerprint(contents[PUBLIC_KEY]), trusted.strip().lower()
    if own != trusted:
        raise InputError(
            f"the folder's key has the fingerprint {own}, but {trusted} is trusted "
            "(--public-key FILE trusts another key)."
        )
    reason = ""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in contents.items():
            Path(folder, name).write_bytes(data)
        verifier = verifying.Config()
        try:
            verifier.use_elliptic_key_verifier(public_key=Path(folder, PUBLIC_KEY))
            verifier.verify(Path(folder), Path(folder, SIGNATURE))
        except InvalidSignature:
            raise InputError("the signature was not made by this key over this list.") from None
        except Exception as error:  # the library raises many kinds
            reason = " ".join(str(error).split())[:80] or type(error).__name__
    # The library accepts a signed list that leaves files out, and names a changed file in bytes.
    found = {name: files.sha256(data) for name, data in contents.items() if name != SIGNATURE}
    resources = statement(contents[SIGNATURE])["predicate"]["resources"]
    listed = {resource["name"]: resource["digest"] for resource in resources}
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            raise InputError(f"{name} is not the file that was signed.")
    if reason:
        raise InputError(f"{SIGNATURE} is damaged ({reason}).")


def statement(bundle: bytes) -> dict[str, Any]:
    """The in-toto statement in a bundle of model signing; its signature is not checked here.

    Raises:
        InputError: not such a bundle.
    """
    from sigstore_models.bundle.v1 import Bundle

    try:
        envelope = Bundle.from_json(bundle).dsse_envelope
        found = files.parse_json(envelope.payload if envelope else b"")
        [*found["subject"], *found["predicate"]["resources"]]
        return found
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{SIGNATURE} is damaged: it is no bundle of model signing.") from None


def _outside(path: str | Path) -> Path:
    place = Path(path).expanduser().resolve()
    if place.is_relative_to(files.root().resolve()):
        raise InputError(f"{path} lies in the repository: a private key belongs outside it.")
    return place
