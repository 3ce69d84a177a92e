"""The certificate: what was measured of which files, by which bounds, and what that guarantees.

A certified checkpoint is a folder of four files and their signature: model.safetensors,
manifest.json, certificate.json, signing_key.pub and certificate.sig. An unsigned one lacks the
last two, and its certificate says so.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from .. import files, parallel, params
from ..checkpoints.folder import MANIFEST, WEIGHTS, Checkpoint
from ..errors import InputError
from ..metrics import gates
from ..metrics.gates import Certify, ControlResult, GateResult, Verdict, overall_verdict
from ..metrics.results import Record
from ..model.network import Measurable
from ..parallel import Job
from . import signing

CERTIFICATE = "certificate.json"
FOLDER = "certified"  # the name that the signed statement has for the folder
SCHEMA: Final = "fluxttice/certificate/4"
OWN_BOUNDS = "own bounds"
GUARANTEES = (
    "The weights with the sha256 below, measured by this code with the recorded seed, give the "
    "recorded values and intervals.",
    "Nobody chose the seed: it is derived from the sha256 of the weights.",
    "PASS: for every VAE that is named with its gates, each alone, the whole 95 % interval of "
    "every gate meets its bound. An interval that holds its bound is ABSTAIN, which is never PASS.",
    "PASS also says that the negative controls below were measured by the same gates, and that "
    "every one of them fails.",
    "Signed: every file of the folder is as the holder of the key left it.",
)
LIMITS = (
    "Not that the network learned: weights set by hand pass too. A certificate is about what a "
    "network does.",
    "Not that the test split was unseen in training: the manifest says how these weights were "
    "made, and a v5.x file records no split.",
    "Not that the recipe gives these weights again on another machine.",
    "Not that the bounds are strict: the certifier sets them, and they are recorded here.",
    "Nothing about other priors, about decoding other than argmax, or about other tasks.",
    "Not that this is the newest certificate: an older folder, whole, stays validly signed.",
    "Not who holds the key: only that it is the key with the trusted fingerprint.",
)


class Certificate(Record):
    """The contents of certificate.json, and of verdict.json, which has no subject and no key.

    A verdict that contradicts the gates or the controls can be neither made nor read.
    """

    schema_: Literal["fluxttice/certificate/4"] = Field(SCHEMA, alias="schema")
    created_utc: str
    verdict: Verdict
    profile: str
    checkpoint: dict[str, str]
    weights_sha256: str
    seed: int
    gates: tuple[GateResult, ...] = Field(min_length=1)
    controls: tuple[ControlResult, ...] = Field(min_length=1)
    params: dict[str, Any]
    environment: dict[str, str]
    git: dict[str, str | bool | None]
    guarantees: tuple[str, ...] = GUARANTEES
    does_not_guarantee: tuple[str, ...] = LIMITS
    subject: dict[str, str] = Field({})  # file name → sha256
    signing_key: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        judged = overall_verdict(self.gates, self.controls)
        if self.verdict != judged:
            raise ValueError(f"it says {self.verdict}, but its gates say {judged}")
        return self


def measure_gates(
    model: Measurable,
    k: int,
    seed: int,
    bounds: dict[str, float],
    report: Callable[[str], None] = print,
) -> list[GateResult]:
    """Every VAE at every gate of `bounds`, each in a worker process, with `k` latents."""
    jobs = [
        Job(f"VAE-{vae}, gates", gates.vae_gates, (model, vae, k, seed, bounds))
        for vae in model.vaes[::-1]  # B's decoder is the larger one, so its job starts first
    ]
    return [result for found in parallel.each(jobs, report)[::-1] for result in found]


def measure_controls(
    model: Measurable, seed: int, p: Certify, report: Callable[[str], None] = print
) -> list[ControlResult]:
    """Every negative control at the gates, each in a worker process."""
    jobs = [
        Job(name, gates.evaluate_control, (name, make, seed, p))
        for name, make in gates.negative_controls(model, p).items()
    ]
    return parallel.each(jobs, report)


def build_certificate(
    loaded: Checkpoint, p: Certify, rows: list[GateResult], controls: list[ControlResult]
) -> Certificate:
    """The certificate of a measurement, whatever its verdict; `write_certificate` adds the files.

    Args:
        loaded: the checkpoint that was measured.
        p: the parameters of the measurement.
        rows: its gates, measured with `gates.seed_of` its weights.
        controls: the negative controls at the same gates.
    """
    return Certificate(
        created_utc=files.utc_now().isoformat(),
        verdict=overall_verdict(rows, controls),
        profile=profile({row.gate: row.bound for row in rows}),
        checkpoint=description(loaded),
        weights_sha256=loaded.sha256,
        seed=gates.seed_of(loaded.sha256),
        gates=tuple(rows),
        controls=tuple(controls),
        params={**p.model_dump(), "run_dir": "", "checkpoint": loaded.path},
        environment=files.environment(),
        git=files.git_commit(),
    )


def profile(bounds: dict[str, float]) -> str:
    """The name of the parameter file params/certify*.yaml with these bounds, else OWN_BOUNDS."""
    return params.profile_of(bounds) or OWN_BOUNDS


def description(loaded: Checkpoint) -> dict[str, str]:
    """What tells a checkpoint from others in a list: its file and its layout."""
    imported = loaded.section("imported")
    return {
        "file": imported.get("file") or Path(loaded.path).name,
        "layout": imported.get("layout") or "fluxttice",
    }


def write_certificate(
    folder: Path, loaded: Checkpoint, certificate: Certificate, key: str = ""
) -> Certificate:
    """Write the certified checkpoint as a new `folder`, signed if `key` is given.

    Args:
        folder: where to; it appears only when it is complete.
        loaded: the checkpoint; its files go in as they were read.
        certificate: from `build_certificate`.
        key: path of the private key; empty: unsigned.

    Raises:
        InputError: the verdict is not PASS, `folder` exists, or the key cannot sign.
    """
    if certificate.verdict != "PASS" or certificate.weights_sha256 != loaded.sha256:
        raise InputError(
            f"The verdict of {loaded.path} is {certificate.verdict}: only a checkpoint whose own "
            "verdict is PASS gets a certificate."
        )
    contents = dict(loaded.contents)
    if key:
        contents[signing.PUBLIC_KEY] = signing.public_key(key)
    changes = {
        "subject": subject(contents),
        "signing_key": signing.fingerprint(contents[signing.PUBLIC_KEY]) if key else None,
    }
    whole = certificate.model_copy(update=changes)
    # The statement's subject is the folder's name when it is signed, so a draft has the final name.
    with tempfile.TemporaryDirectory(prefix=".certify-", dir=folder.parent) as place:
        draft = Path(place, FOLDER)
        files.new_folder(draft, {**contents, CERTIFICATE: whole.to_json()})
        if key:
            signing.sign(draft, key)
        signed = {path.name: path.read_bytes() for path in draft.iterdir()}
    files.new_folder(folder, signed)
    return whole


def subject(contents: dict[str, bytes]) -> dict[str, str]:
    """The files that a certificate is about: name → sha256."""
    return {name: files.sha256(contents[name]) for name in (WEIGHTS, MANIFEST)}
