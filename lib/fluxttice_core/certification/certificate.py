"""The certificate: what was measured on which files, by which gates, and what that promises.

A certified checkpoint is a folder of four files and their signature: model.safetensors,
manifest.json, certificate.json, signing_key.pub and certificate.sig. Unsigned, it lacks the last
two, and says so.
"""

import json
import platform
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import Field

from .. import files, parallel
from ..checkpoints import folder as checkpoints
from ..checkpoints.folder import MANIFEST, WEIGHTS, Checkpoint
from ..metrics import gates
from ..metrics.gates import Certify, Judged, Refusal
from ..metrics.marginal import FEWEST
from ..metrics.results import Record
from ..parallel import Job
from . import signing

CERTIFICATE = "certificate.json"
SCHEMA: Final = "fluxttice/certificate/3"
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
    "Not that the bounds are strict, nor that the seed was not one of many: whoever certifies sets "
    "both, and they stand here.",
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

    schema_: Literal["fluxttice/certificate/3"] = Field(SCHEMA, alias="schema")
    created_utc: str
    verdict: Literal["PASS", "FAIL", "ABSTAIN"]
    epoch: int | None
    selection_rule: str | None
    recipe: dict[str, str | None] | None
    split: dict[str, Any]
    imported: dict[str, Any] | None
    lineage: None = None  # stays empty until this form changes
    gates: list[Judged] = Field(min_length=1)
    controls: list[Refusal]
    params: dict[str, Any]
    environment: dict[str, str]
    git: dict[str, str | bool | None]
    guarantees: tuple[str, ...] = GUARANTEES
    does_not_guarantee: tuple[str, ...] = LIMITS
    subject: tuple[Subject, ...] = ()
    signature: Signature | None = None


def state(
    loaded: Checkpoint, p: Certify, rows: list[Judged], controls: list[Refusal]
) -> Certificate:
    """What a certificate states, apart from subject and signature, which `issue` adds.

    Args:
        loaded: the checkpoint that was measured.
        p: the parameters of the measurement.
        rows: `gates.gates` of it.
        controls: `gates.control_rows`.

    Raises:
        InputError: the checkpoint records another split than the one of `p.split_seed`.
    """
    split = checkpoints.check_split(loaded, p.split_seed)
    config, selection = loaded.section("config"), loaded.section("selection")
    spelled = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    return Certificate(
        created_utc=files.utc_now().isoformat(),
        verdict=gates.verdict(rows, controls),
        epoch=loaded.epoch,
        selection_rule=selection.get("rule"),
        recipe={"name": config.get("recipe"), "sha256": files.sha256(spelled)} if config else None,
        split=split,
        imported=loaded.section("imported") or None,
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


class KeptEpoch(Record):
    """An epoch that training kept, at the gates."""

    epoch: int | None
    k: int
    gates: list[Judged]


def by_epoch(path: str, loaded: Checkpoint, p: Certify) -> list[KeptEpoch]:
    """The epochs that training kept in `epochs/` beside the checkpoint at `path`, but for those
    whose weights are `loaded`'s.

    At FEWEST latents, so the intervals are wider than the certificate's. Empty where there is
    no such folder.
    """
    folders = sorted(files.existing(path).resolve().parent.glob("epochs/epoch-*"))
    kept = [each for each in map(checkpoints.load, folders) if each.sha256 != loaded.sha256]
    jobs = [Job(f"epoch {each.epoch}", gates.thrifty, (each.model, p)) for each in kept]
    return [
        KeptEpoch(epoch=each.epoch, k=FEWEST, gates=found)
        for each, found in zip(kept, parallel.each(jobs, print), strict=True)
    ]


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
