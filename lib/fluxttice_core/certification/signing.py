"""Signatures over a folder: OpenSSF model signing, an EC P-256 key, one detached sigstore bundle.

The bundle lists the sha256 of every file of the folder except its own, so the standard tool
(`model_signing verify key`) checks it too.

The fingerprint of a public key is the sha256 of its PEM file. Anyone who can change the folder can
change the key in it, so trust comes from a fingerprint that is known from elsewhere.
"""

import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .. import files
from ..errors import InputError

SIGNATURE, PUBLIC_KEY = "certificate.sig", "signing_key.pub"
FOLDER = "certified"  # the name that the signed statement has for the folder
FINGERPRINT = "93cee5a59aa6c8d7e9c83f6c9f15f2298817073064099683dafcdb45a76b3e8b"
KEY_VARIABLE = "FLUXTTICE_SIGNING_KEY"


def private_key(path: str | Path) -> ec.EllipticCurvePrivateKey:
    """The key that signs.

    Raises:
        InputError: no such file, inside the repository, or not an unencrypted EC P-256 key.
    """
    place = files.resolve(path, "signing key").resolve()
    if place.is_relative_to(files.root().resolve()):
        raise InputError(f"{path} is in the repository: a private key belongs outside it.")
    try:
        key = serialization.load_pem_private_key(place.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise InputError(f"{path} is not an unencrypted EC P-256 private key in PEM.")
    return key


def public_key(path: str | Path) -> bytes:
    """The PEM of the public half of the private key at `path`. Raises as `private_key`."""
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return private_key(path).public_key().public_bytes(*form)


def trusted_fingerprint(path: str | Path) -> str:
    """The fingerprint of the public key in the PEM file at `path`.

    Raises:
        InputError: no such file, or no public key in it.
    """
    pem = files.resolve(path, "public key").read_bytes()
    try:
        serialization.load_pem_public_key(pem)
    except ValueError:
        kind = "a private key" if b"PRIVATE KEY" in pem else "not a public key in PEM"
        raise InputError(f"{path} is {kind}: give the public one, a signing_key.pub.") from None
    return files.sha256(pem)


def sign(contents: dict[str, bytes], key: str | Path) -> bytes:
    """The signature over the files `contents` (name → bytes) with the private key at `key`."""
    # model_signing takes a second to import.
    from model_signing import hashing, signing

    signer = signing.Config().use_elliptic_key_signer(private_key=files.resolve(key))
    every_file = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, FOLDER)
        files.new_folder(folder, contents)
        signer.set_hashing_config(every_file).sign(folder, folder / SIGNATURE)
        return (folder / SIGNATURE).read_bytes()


def check_signature(contents: dict[str, bytes], trusted: str) -> None:
    """Check that `contents` (file name → bytes) are exactly the files that `trusted` signed.

    Raises:
        InputError: another key than the one with the fingerprint `trusted`, a signature that is
            damaged or of other files, or a file that the signature does not list.
    """
    from model_signing import verifying

    own, trusted = files.sha256(contents[PUBLIC_KEY]), trusted.strip().lower()
    if own != trusted:
        raise InputError(
            f"the folder's key has the fingerprint {own}, but {trusted} is trusted "
            "(--public-key FILE trusts another key)."
        )
    # The standard library accepts a signed list that leaves files out.
    found = {name: files.sha256(data) for name, data in contents.items() if name != SIGNATURE}
    _, listed = signed(contents[SIGNATURE])
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            raise InputError(f"{name} is not the file that was signed.")
    with tempfile.TemporaryDirectory() as place:
        folder, verifier = files.new_folder(Path(place, FOLDER), contents), verifying.Config()
        try:
            verifier.use_elliptic_key_verifier(public_key=folder / PUBLIC_KEY)
            verifier.verify(folder, folder / SIGNATURE)
        except Exception:  # the library raises many kinds, and most without a message
            raise InputError("this key did not sign this list of files.") from None


def signed(bundle: bytes) -> tuple[str, dict[str, str]]:
    """The folder's digest, and name → sha256 of each file, in a bundle whose signature is not
    checked here."""
    from sigstore_models.bundle.v1 import Bundle

    try:
        found = files.parse_json(Bundle.from_json(bundle).dsse_envelope.payload)
        listed = {str(one["name"]): one["digest"] for one in found["predicate"]["resources"]}
        return found["subject"][0]["digest"]["sha256"], listed
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{SIGNATURE} is damaged: it is no bundle of model signing.") from None
