"""The certificate: what was measured on which files, by which gates, and what that promises.

A certified checkpoint is a folder of four files and their signature: model.safetensors,
manifest.json, certificate.json, signing_key.pub and certificate.sig. Unsigned, it lacks the last
two, and says so.
"""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import folder as checkpoint
from .. import files
from ..metrics import gates
from ..report import records
from ..certification import signing
from ..checkpoints.folder import MANIFEST, WEIGHTS, Checkpoint
from ..errors import InputError
from ..params import Certify

CERTIFICATE = "certificate.json"
SCHEMA = "fluxttice/certificate/2"
MEASURES = (
    "coverage", "gates", "generalization", "intervals", "latent", "marginal", "measure", "model",
    "operations", "reconstruction", "streams",
)  # fmt: skip
GUARANTEES = (
    "The weights with the sha256 below, measured by this code with the recorded seeds, give the "
    "recorded values and intervals.",
    "PASS: for both VAEs, each alone, the whole 95 % interval of every gate meets its bound; an "
    "interval that straddles a bound is ABSTAIN, which is never PASS.",
    "The controls below were measured by the same gates, and what encodes nothing fails them.",
    "Signed: every file of the folder is as the holder of the key left it.",
)
LIMITS = (
    "Not that the test split was unseen in training: the manifest says so, and a v5.5 .pt "
    "records no split at all.",
    "Not that the recipe gives these weights again on another machine.",
    "Nothing of other priors, of decoding other than argmax, or of other tasks.",
    "Not that this is the newest certificate: an older folder, whole, stays validly signed.",
    "Not who holds the key: only that it is the key with the trusted fingerprint.",
)


def document(
    loaded: Checkpoint, p: Certify, rows: list[dict], controls: list[dict]
) -> dict[str, Any]:
    """What a certificate states, apart from subject and signature, which `issue` adds.

    Args:
        loaded: the checkpoint that was measured.
        p: the parameters of the measurement.
        rows: `gates.every` of it.
        controls: `gates.control_rows`.

    Raises:
        InputError: the checkpoint records another split than the one of `p.split_seed`.
    """
    split = checkpoint.split_record(p.split_seed)
    recorded = loaded.manifest.get("split")
    if recorded not in (None, split):
        raise InputError(
            f"{loaded.path} was trained on another split than that of split_seed {p.split_seed}: "
            "what would be tested may have been trained on."
        )
    config, selection = (_section(loaded.manifest, name) for name in ("config", "selection"))
    return {
        "schema": SCHEMA,
        "created_utc": files.utc_now().isoformat(),
        "verdict": gates.verdict(rows),
        "epoch": loaded.epoch,
        "selection_rule": selection.get("rule"),
        "recipe": {"name": config.get("recipe"), "sha256": _hash(config)} if config else None,
        "split": {
            **split,
            "trained_on": "recorded, the same" if recorded else "not recorded",
        },
        "imported": loaded.manifest.get("imported"),
        "gates": rows,
        "controls": controls,
        "seeds": {"seed": p.seed, "split_seed": p.split_seed, "untrained_seed": p.untrained_seed},
        "params": {**p.model_dump(), "run_dir": "", "checkpoint": loaded.path},
        "environment": environment(),
        "git": files.git_commit(),
        "guarantees": list(GUARANTEES),
        "does_not_guarantee": list(LIMITS),
    }


def issue(folder: Path, loaded: Checkpoint, stated: dict[str, Any], key: str = "") -> dict:
    """Write the certified checkpoint as a new `folder`, signed if `key` is given.

    Args:
        folder: where to; it appears only when it is complete.
        loaded: the checkpoint; its files go in as they were read.
        stated: its `document`.
        key: path of the private key; empty: unsigned.

    Returns:
        The certificate.

    Raises:
        InputError: `folder` exists, or the key cannot sign.
    """
    contents = checkpoint.contents(loaded)
    signature = None
    if key:
        contents[signing.PUBLIC_KEY] = signing.public_key(key)
        print_ = signing.fingerprint(contents[signing.PUBLIC_KEY])
        signature = {"file": signing.SIGNATURE, "method": "EC P-256", "fingerprint": print_}
    certificate = {**stated, "subject": subject(contents), "signature": signature}
    records.check(certificate, "certificate")
    text = json.dumps(certificate, indent=2, ensure_ascii=False, allow_nan=False)
    with checkpoint.new_folder(folder) as draft:
        for name, data in {**contents, CERTIFICATE: (text + "\n").encode()}.items():
            files.write_bytes(draft / name, data)
        if key:
            signing.sign(draft, key)
    return certificate


def subject(contents: dict[str, bytes]) -> list[dict[str, Any]]:
    """`{name, sha256, bytes}` of the weights and the manifest: what a certificate is about."""
    return [
        {"name": name, "sha256": files.sha256(contents[name]), "bytes": len(contents[name])}
        for name in (WEIGHTS, MANIFEST)
    ]


def label(certificate: dict[str, Any]) -> str:
    """One line of HTML: the verdict and whose signature; red where there is none."""
    signature = certificate["signature"]
    if signature:
        signed = f"signed by the key {signature['fingerprint']}"
    else:
        signed = '<b style="color: #c1121f">unsigned: anyone can have written this</b>'
    return f"<p>Certificate: <b>{certificate['verdict']}</b>, {signed}.</p>"


def environment() -> dict[str, Any]:
    """What equal figures depend on: versions, platform, threads, processor, and our own code."""
    return {**files.environment(), "cpu": _cpu(), "code": _code()}


def _code() -> str:
    """sha256 of the source of what measures; another commit need not change it."""
    here = Path(__file__).parent
    return files.sha256("".join((here / f"{m}.py").read_text("utf-8") for m in MEASURES).encode())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    wanted = ("model name", "cpu family", "model", "stepping")
    lines = info.read_text().partition("\n\n")[0].splitlines() if info.is_file() else []
    pairs = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    named = ", ".join(f"{k} {pairs[k]}" for k in wanted if k in pairs) or platform.processor()
    return f"{named}, {torch.backends.cpu.get_cpu_capability()}"


def _section(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    value = manifest.get(name)
    return value if isinstance(value, dict) else {}


def _hash(config: dict[str, Any]) -> str:
    """sha256 of the parameters as JSON, sorted by name and without spaces."""
    return files.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
