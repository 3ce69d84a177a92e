"""The certificate: what was measured of which files, by which bounds, and what that guarantees.

A certified checkpoint is a folder of five files: model.safetensors, manifest.json,
certificate.json, signing_key.pub and certificate.sig. An unsigned one lacks the last two.
"""

from collections.abc import Callable, Iterable
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
SCHEMA: Final = "fluxttice/certificate/4"
GUARANTEES = (
    "These weights, measured by this code with this seed, give these values and intervals.",
    "Nobody chose the seed: it is derived from the sha256 of the weights.",
    "PASS: for each VAE alone, the whole 95 % interval of every gate meets its bound. An interval "
    "that holds its bound is ABSTAIN, which is never PASS.",
    "PASS: every negative control fails at the same gates.",
    "Signed: every file of the folder is as the holder of the key left it.",
)
LIMITS = (
    "Not that the network learned: weights set by hand pass too.",
    "Not that the test split was unseen in training: the manifest says how the weights were made, "
    "and a v5.x file records no split.",
    "Not that the recipe gives these weights again on another machine.",
    "Not that the bounds are strict: the certifier sets them.",
    "Nothing about other priors, about decoding other than argmax, or about other tasks.",
    "Not that this is the newest certificate: an older folder stays validly signed.",
    "Not who holds the key: only that it has the trusted fingerprint.",
)


class Certificate(Record):
    """The contents of certificate.json, and of verdict.json, which has no subject and no key.

    Raises:
        ValidationError: a verdict that the gates or the controls contradict.
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
    """Every VAE at every gate of `bounds`, in worker processes, with `k` latents."""
    jobs = [
        Job(f"VAE-{vae}, gates", gates.vae_gates, (model, vae, k, seed, bounds))
        for vae in model.vaes[::-1]  # B's decoder is the larger one, so its job starts first
    ]
    return [result for found in parallel.each(jobs, report)[::-1] for result in found]


def measure_controls(
    model: Measurable, seed: int, p: Certify, report: Callable[[str], None] = print
) -> list[ControlResult]:
    """Every negative control at the gates, in worker processes."""
    jobs = [
        Job(name, gates.evaluate_control, (name, make, seed, p))
        for name, make in gates.negative_controls(model, p).items()
    ]
    return parallel.each(jobs, report)


def build_certificate(
    loaded: Checkpoint, p: Certify, rows: list[GateResult], controls: list[ControlResult]
) -> Certificate:
    """The certificate of a measurement with `gates.seed_of` the weights, whatever its verdict."""
    imported = loaded.section("imported")
    return Certificate(
        created_utc=files.utc_now().isoformat(),
        verdict=overall_verdict(rows, controls),
        profile=profile(rows),
        checkpoint={
            "file": imported.get("file") or Path(loaded.path).name,
            "layout": imported.get("layout") or "fluxttice",
        },
        weights_sha256=loaded.sha256,
        seed=gates.seed_of(loaded.sha256),
        gates=tuple(rows),
        controls=tuple(controls),
        params={**p.model_dump(), "run_dir": "", "checkpoint": loaded.path},
        environment=files.environment(),
        git=files.git_commit(),
    )


def profile(rows: Iterable[GateResult]) -> str:
    """The name of the params/certify*.yaml with the bounds of these gates, or "own bounds"."""
    return params.profile_of({row.gate: row.bound for row in rows}) or "own bounds"


def write_certificate(
    folder: Path, loaded: Checkpoint, certificate: Certificate, key: str = ""
) -> Certificate:
    """Write the certified checkpoint as a new `folder`, signed if `key`, a path, is given.

    The checkpoint's files go in as they were read. Returns the certificate with its files and key.

    Raises:
        InputError: the verdict is not PASS, `folder` exists, or the key cannot sign.
    """
    if certificate.verdict != "PASS" or certificate.weights_sha256 != loaded.sha256:
        raise InputError(
            f"The verdict of {loaded.path} is {certificate.verdict}: only a checkpoint whose own "
            "verdict is PASS gets a certificate."
        )
    contents = dict(loaded.contents)
    changes: dict[str, Any] = {"subject": subject(contents)}
    if key:
        contents[signing.PUBLIC_KEY] = signing.public_key(key)
        changes["signing_key"] = files.sha256(contents[signing.PUBLIC_KEY])
    whole = certificate.model_copy(update=changes)
    contents[CERTIFICATE] = whole.to_json()
    if key:
        contents[signing.SIGNATURE] = signing.sign(contents, key)
    files.new_folder(folder, contents)
    return whole


def subject(contents: dict[str, bytes]) -> dict[str, str]:
    """The files that a certificate is about: name → sha256."""
    return {name: files.sha256(contents[name]) for name in (WEIGHTS, MANIFEST)}
