"""Signatures over a folder: OpenSSF model signing, EC P-256, one detached sigstore bundle.

The bundle lists the sha256 of every file of the folder except its own. It also notes the folder's
name, which is no part of what is verified: a folder may be renamed, its files may not. The
standard tool accepts it: `model_signing verify key FOLDER --signature FOLDER/certificate.sig
--public_key FOLDER/signing_key.pub`.

A public key's fingerprint is the sha256 of its PEM file (`sha256sum signing_key.pub`), which the
bundle also carries. Who can change the folder can change the key in it, so trust comes from a
fingerprint known from elsewhere, never from the key that lies there.
"""

import os
import tempfile
from functools import partial
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .. import files
from ..errors import InputError

SIGNATURE, PUBLIC_KEY = "certificate.sig", "signing_key.pub"
FINGERPRINT = "ca4055791751324263fb1ff7ca580fd8aabb7ca6a9227c9aba3d9ef8029cd837"
KEY_VARIABLE = "FLUXTTICE_SIGNING_KEY"
DEFAULT_KEY = Path("~/.config/fluxttice/signing_key.pem")


def keygen(path: str | Path = DEFAULT_KEY) -> str:
    """Make a private key at `path`, readable by its owner alone, and return its fingerprint.

    Raises:
        InputError: `path` exists (a key is never overwritten), lies in the repository, or cannot
            be written.
    """
    place = _outside(path)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if place.exists():
        raise InputError(f"{path} exists already: a key is never overwritten.")
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(place, "xb", opener=partial(os.open, mode=0o600)) as file:
            file.write(pem)
    except OSError as error:
        if not isinstance(error, FileExistsError):  # of two at once, one: the key is another's
            files.delete(place)
        raise InputError(f"{path} cannot be written ({error.strerror}).") from None
    return fingerprint(public_key(path))


def public_key(private_key: str | Path) -> bytes:
    """The PEM of the public half of the private key at `private_key`.

    Raises:
        InputError: no such file, inside the repository, or not an unencrypted EC P-256 key.
    """
    place = _outside(private_key)
    try:
        key = serialization.load_pem_private_key(place.read_bytes(), None)
    except OSError as error:
        raise InputError(f"No signing key at {private_key} ({error.strerror}).") from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise InputError(f"{private_key} is not an unencrypted EC P-256 private key in PEM.")
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(public_pem: bytes) -> str:
    """sha256 of a public key's PEM file, hex."""
    return files.sha256(public_pem)


def sign(folder: Path, private_key: str | Path) -> None:
    """Sign every file of `folder`, none ignored, into `folder`/certificate.sig."""
    from model_signing import hashing, signing  # takes a second

    every = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    signer = signing.Config().use_elliptic_key_signer(private_key=_outside(private_key))
    signer.set_hashing_config(every).sign(folder, folder / SIGNATURE)


def check_signature(contents: dict[str, bytes], trusted: str) -> None:
    """Raise InputError unless `contents`, file name → bytes, are exactly what `trusted` signed.

    The standard library verifies a private copy of these very bytes. Beyond it: the key must have
    the `trusted` fingerprint, every file must be listed (git's too, which it skips), and the
    bundle must be spelled as it is written, so that no second spelling passes.
    """
    from model_signing import verifying

    own, trusted, reason = fingerprint(contents[PUBLIC_KEY]), trusted.strip().lower(), ""
    if own != trusted:
        raise InputError(f"the folder's key has fingerprint {own}, but {trusted} is trusted.")
    listed = _listed(contents[SIGNATURE], trusted)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in contents.items():
            Path(folder, name).write_bytes(data)
        config = verifying.Config()
        try:
            config.use_elliptic_key_verifier(public_key=Path(folder, PUBLIC_KEY))
            config.verify(Path(folder), Path(folder, SIGNATURE))
        except InvalidSignature:
            raise InputError("the signature was not made by this key over this list.") from None
        except Exception as error:  # it raises many kinds; the file that differs is named first
            reason = " ".join(str(error).split())[:200] or type(error).__name__
    found = {name: files.sha256(data) for name, data in contents.items() if name != SIGNATURE}
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise InputError(f"{name} was signed and is missing.")
        if listed.get(name) != found[name]:
            problem = "not the file that was signed" if name in listed else "not signed"
            raise InputError(f"{name} is {problem}.")
    if reason:
        raise InputError(f"{reason}.")


def _listed(data: bytes, trusted: str) -> dict[str, str]:
    """File name → sha256 that a bundle lists, before its signature is verified."""
    from sigstore_models.bundle.v1 import Bundle

    try:
        bundle = Bundle.from_json(data)
        about, envelope = bundle.verification_material.to_dict(), bundle.dsse_envelope
        resources = files.parse_json(envelope.payload)["predicate"]["resources"]
        listed = {r["name"]: r["digest"] for r in resources if r["algorithm"] == "sha256"}
        if (
            len(listed) == len(resources)
            and about == {"publicKey": {"hint": trusted}, "tlogEntries": []}
            and [signature.keyid for signature in envelope.signatures] == [""]
            and bundle.message_signature is None
            and bundle.to_json().encode() == data
        ):
            return listed
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{SIGNATURE} is damaged: not a bundle as model signing writes it.")


def _outside(path: str | Path) -> Path:
    place = Path(path).expanduser().resolve()
    if place.is_relative_to(files.root().resolve()):
        raise InputError(f"{path} lies in the repository: a private key belongs outside it.")
    return place
