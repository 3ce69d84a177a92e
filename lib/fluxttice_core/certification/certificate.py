"""The certificate: what was measured on which files, by which gates, and what that promises.

A certified checkpoint is a folder of four files and their signature: model.safetensors,
manifest.json, certificate.json, signing_key.pub and certificate.sig. Unsigned, it lacks the last
two, and says so.
"""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import Field

from .. import files, parallel
from ..checkpoints import folder as checkpoints
from ..checkpoints.folder import MANIFEST, WEIGHTS, Checkpoint
from ..metrics import gates
from ..metrics.gates import Certify, ControlResult, GateResult
from ..metrics.results import Record
from ..model.network import Measurable
from ..parallel import Job
from . import signing

CERTIFICATE = "certificate.json"
SCHEMA: Final = "fluxttice/certificate/4"
GUARANTEES = (
    "The weights with the sha256 below, measured by this code with the recorded seeds, give the "
    "recorded values and intervals.",
    "PASS: for every VAE that is named with its gates, each alone, the whole 95 % interval of "
    "every gate meets its bound; one that straddles its bound is ABSTAIN, which is never PASS.",
    "PASS also says: the controls below were measured by the same gates, and every one fails.",
    "Signed: every file of the folder is as the holder of the key left it.",
)
LIMITS = (
    "Not that the network learned: weights written by hand pass too. A certificate is about what "
    "a network does.",
    "Not that the test split was unseen in training: the manifest says so, and a .pt of the "
    "original records no split at all.",
    "Not that the recipe gives these weights again on another machine.",
    "Not that the bounds are strict: the certifier sets them, and they are recorded here.",
    "Nothing of other priors, of decoding other than argmax, or of other tasks.",
    "Not that this is the newest certificate: an older folder, whole, stays validly signed.",
    "Not who holds the key: only that it is the key with the trusted fingerprint.",
)


class Subject(Record):
    """A file that a certificate is about."""

    name: str
    sha256: str
    bytes: int


class Signature(Record):
    file: str
    method: str
    fingerprint: str


class Certificate(Record):
    """What a certificate states; certificate.json is this, and its schema comes from here."""

    schema_: Literal["fluxttice/certificate/4"] = Field(SCHEMA, alias="schema")
    created_utc: str
    verdict: Literal["PASS", "FAIL", "ABSTAIN"]
    epoch: int | None
    selection_rule: str | None
    recipe: dict[str, str | None] | None
    split: dict[str, Any]
    imported: dict[str, Any] | None
    seed: int
    gates: list[GateResult] = Field(min_length=1)
    controls: list[ControlResult]
    params: dict[str, Any]
    environment: dict[str, str]
    git: dict[str, str | bool | None]
    guarantees: tuple[str, ...] = GUARANTEES
    does_not_guarantee: tuple[str, ...] = LIMITS
    subject: tuple[Subject, ...] = ()
    signature: Signature | None = None


def state(
    loaded: Checkpoint,
    p: Certify,
    rows: list[GateResult],
    controls: list[ControlResult],
) -> Certificate:
    """What a certificate states, apart from subject and signature, which `issue` adds.

    Args:
        loaded: the checkpoint that was measured.
        p: the parameters of the measurement.
        rows: `measure_gates` of it, with `gates.seed_of` its weights.
        controls: `measure_controls`, with the same seed.

    Raises:
        InputError: the checkpoint records another split than the one of `p.split_seed`.
    """
    split = checkpoints.check_split(loaded, p.split_seed)
    config, selection = loaded.section("config"), loaded.section("selection")
    spelled = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    return Certificate(
        created_utc=files.utc_now().isoformat(),
        verdict=gates.overall_verdict(rows, controls),
        epoch=loaded.epoch,
        selection_rule=selection.get("rule"),
        recipe={"name": config.get("recipe"), "sha256": files.sha256(spelled)} if config else None,
        split=split,
        imported=loaded.section("imported") or None,
        seed=gates.seed_of(loaded.sha256),
        gates=rows,
        controls=controls,
        params={**p.model_dump(), "run_dir": "", "checkpoint": loaded.path},
        environment=environment(),
        git=files.git_commit(),
    )


def issue(folder: Path, loaded: Checkpoint, stated: Certificate, key: str = "") -> Certificate:
    """Write the certified checkpoint as a new `folder`, signed if `key` is given.

    Args:
        folder: where to; it appears only when it is complete.
        loaded: the checkpoint; its files go in as they were read.
        stated: what `state` made.
        key: path of the private key; empty: unsigned.

    Raises:
        InputError: `folder` exists, or the key cannot sign.
    """
    contents, signature = dict(checkpoints.contents(loaded)), None
    if key:
        contents[signing.PUBLIC_KEY] = signing.public_key(key)
        print_ = signing.fingerprint(contents[signing.PUBLIC_KEY])
        signature = Signature(file=signing.SIGNATURE, method="EC P-256", fingerprint=print_)
    whole = stated.model_copy(update={"subject": subject(contents), "signature": signature})
    with files.new_folder(folder, {**contents, CERTIFICATE: whole.to_json()}) as draft:
        if key:
            signing.sign(draft, key)
    return whole


def subject(contents: dict[str, bytes]) -> tuple[Subject, ...]:
    """The weights and the manifest: what a certificate is about."""
    return tuple(
        Subject(name=name, sha256=files.sha256(contents[name]), bytes=len(contents[name]))
        for name in (WEIGHTS, MANIFEST)
    )


def measure_gates(
    model: Measurable, seed: int, p: Certify, report: Callable[[str], None] = print
) -> list[GateResult]:
    """Every VAE at every gate, each in a worker process."""
    jobs = [
        Job(f"VAE-{vae}, gates", gates.vae_gates, (model, vae, seed, p))
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


def environment() -> dict[str, str]:
    """What equal figures depend on: versions, platform, processor, and the code that measures.

    The number of threads is not among them: every job has one (see `parallel`).
    """
    return {**files.environment(), "cpu": _cpu(), "code": files.code_hash("model", "metrics")}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    wanted = ("model name", "cpu family", "model", "stepping")
    lines = info.read_text().partition("\n\n")[0].splitlines() if info.is_file() else []
    pairs = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    named = ", ".join(f"{k} {pairs[k]}" for k in wanted if k in pairs) or platform.processor()
    return f"{named}, {torch.backends.cpu.get_cpu_capability()}"
