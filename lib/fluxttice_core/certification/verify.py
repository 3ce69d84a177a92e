"""Verification: signature, hashes, schema, then every gate measured twice from the weights.

With the certificate's own seed, every figure must be the certified one, so nobody lied. With fresh
draws, no gate may FAIL, so nothing was fitted to the seed.

Each file is read once. What is verified, measured and returned are those bytes.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pydantic import ValidationError

from .. import files
from ..checkpoints import folder as checkpoints
from ..checkpoints.folder import MANIFEST, WEIGHTS, Checkpoint
from ..errors import InputError
from ..metrics.gates import GATES, GateResult, seed_of
from ..metrics.marginal import GROUPS, MIN_LATENTS
from . import signing
from .certificate import (
    CERTIFICATE,
    SCHEMA,
    Certificate,
    measure_gates,
    profile,
    subject,
)

FILES = (WEIGHTS, MANIFEST, CERTIFICATE, signing.PUBLIC_KEY, signing.SIGNATURE)


class Verified(NamedTuple):
    """A certified checkpoint whose files are as signed.

    profile: the name of its bounds; repeated, fresh: its gates, measured again with the
    certificate's seed and with `fresh_seed`, both empty after a quick verification; agreement: of
    `repeated` with the certificate, gate by gate; problem: why it is refused all the same.
    """

    checkpoint: Checkpoint
    certificate: Certificate
    profile: str
    repeated: list[GateResult]
    fresh: list[GateResult]
    fresh_seed: int
    agreement: list[str]
    problem: str


def verify(
    path: str | Path,
    trusted: str = signing.FINGERPRINT,
    quick: bool = False,
    report: Callable[[str], None] = print,
) -> Verified:
    """Verify the certified checkpoint in the folder `path`; `quick` measures nothing.

    Measured again with the certificate's seed, a figure must equal the certified one where
    environment and processor are the same; elsewhere it must lie in the certified interval, with
    the same verdict. Measured with fresh draws, a gate that FAILs refuses the checkpoint, and one
    that ABSTAINs is reported.

    Args:
        path: the folder; its name does not matter.
        trusted: fingerprint of the one key whose signature counts.
        quick: stop before measuring.
        report: called with a line at each step.

    Raises:
        InputError: anything that was not signed so, in a sentence that names the step.
    """
    name, contents, step = str(path), _read(path), "signature"
    try:
        signing.check_signature(contents, trusted)
        report(f"signature: by the key {trusted}")
        step = "hashes"
        shown = files.display_path(files.resolve(path))
        loaded = checkpoints.from_bytes(contents[WEIGHTS], contents[MANIFEST], name, shown)
        report(f"hashes:    {len(contents) - 1} files as signed; weights {loaded.sha256}")
        step = "schema"
        found = _certificate(contents, loaded)
        named = profile({row.gate: row.bound for row in found.gates})
        report(f"schema:    {SCHEMA}, consistent, issued {found.created_utc}, bounds: {named}")
    except InputError as error:
        raise InputError(f"{name} is refused at its {step}: {error}") from None
    problem = ""
    if found.verdict != "PASS":
        problem = f"the certificate is genuine and says {found.verdict}"
    if quick:
        return Verified(loaded, found, named, [], [], 0, [], problem)
    same, fresh_seed = files.environment() == found.environment, secrets.randbits(48)
    k, bounds = found.params["k"], {row.gate: row.bound for row in found.gates}
    report(f"measuring with seed {found.seed}, {'the same' if same else 'another'} environment")
    repeated = measure_gates(loaded.model, k, found.seed, bounds, report)
    report(f"measuring with fresh draws, seed {fresh_seed}")
    fresh = measure_gates(loaded.model, k, fresh_seed, bounds, report)
    agreement = [_compare(*pair, same) for pair in zip(found.gates, repeated, strict=True)]
    for row, agrees, drawn in zip(found.gates, agreement, fresh, strict=True):
        about = f"{row.gate} of VAE-{row.vae}"
        if agrees == "DIFFERS":
            problem = problem or f"the weights do not give its figure for {about}"
        if drawn.verdict == "FAIL":
            problem = problem or f"with fresh draws, {about} misses its bound"
    return Verified(loaded, found, named, repeated, fresh, fresh_seed, agreement, problem)


def table(found: Verified) -> str:
    """The gates as text, a line each: certified, measured again, measured with fresh draws."""
    lines = []
    for number, row in enumerate(found.certificate.gates):
        line = {
            "gate": f"{row.gate} ({row.vae})",
            "bound": f"{row.bound:.6g}",
            "certified": _number(row.value),
            "95 %": f"{_number(row.low)} … {_number(row.high)}",
            "verdict": row.verdict,
        }
        if found.repeated:
            again, fresh = found.repeated[number], found.fresh[number]
            line["again"], line["agreement"] = _number(again.value), found.agreement[number]
            line["fresh draws"], line["fresh verdict"] = _number(fresh.value), fresh.verdict
        lines.append(line)
    return pd.DataFrame(lines).to_string(index=False, justify="left")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _read(path: str | Path) -> dict[str, bytes]:
    """Every file of the folder, read once; it must hold these five and nothing else."""
    place = files.resolve(path)
    if not place.is_dir():
        raise InputError(f"{path} is not a folder: give the folder of a certified checkpoint.")
    try:
        found = set(os.listdir(place))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    for name in FILES:
        if name not in found:
            unsigned = " (unsigned)" if CERTIFICATE in found else ""
            raise InputError(f"{path} has no {name}{unsigned}: refused.")
    for name in sorted(found - set(FILES)):
        raise InputError(f"{path} holds {name!r}, which is no part of a certified checkpoint.")
    return {name: files.read_file(place / name) for name in FILES}


def _certificate(contents: dict[str, bytes], loaded: Checkpoint) -> Certificate:
    """The certificate, if it fits the schema, these files and this code."""
    try:
        found = files.parse_json(contents[CERTIFICATE])
    except ValueError as error:
        raise InputError(f"{CERTIFICATE} is not valid JSON: {error}.") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{CERTIFICATE} has the schema {schema!r}, and this release reads {SCHEMA}: verify "
            "it with the release that issued it (CHANGELOG.md lists them)."
        )
    try:
        found = Certificate.model_validate_json(contents[CERTIFICATE], strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "/".join(str(part) for part in first["loc"]) or "its verdict"
        raise InputError(
            f"{CERTIFICATE} does not fit {SCHEMA} at {place}: {first['msg']}."
        ) from None
    if found.subject != subject(contents) or found.weights_sha256 != loaded.sha256:
        raise InputError(f"{CERTIFICATE} is about other files than these.")
    if found.seed != seed_of(loaded.sha256):
        raise InputError(f"{CERTIFICATE} has a seed that is not derived from its weights.")
    bounds = {row.gate: row.bound for row in found.gates}
    unknown = sorted(bounds.keys() - set(GATES))
    if unknown:
        raise InputError(f"{CERTIFICATE} has the gate {unknown[0]}, which this release lacks.")
    asked = [(vae, *gate) for vae in loaded.model.vaes for gate in bounds.items()]
    if asked != [(row.vae, row.gate, row.bound) for row in found.gates]:
        raise InputError(f"{CERTIFICATE} does not hold every VAE to the same gates, once each.")
    k = found.params.get("k")
    if type(k) is not int or k < MIN_LATENTS or k % GROUPS:
        raise InputError(f"{CERTIFICATE} has k {k!r}, which is no number of latents.")
    return found


def _compare(old: GateResult, new: GateResult, same: bool) -> str:
    """`compare_values` of two results of a gate; another verdict DIFFERS."""
    numbers = (old.value, old.low, old.high), (new.value, new.low, new.high)
    return compare_values(*numbers, same) if old.verdict == new.verdict else "DIFFERS"


Numbers = tuple[float | None, float | None, float | None]


def compare_values(old: Numbers, new: Numbers, same: bool) -> str:
    """How a number agrees with its repetition; each is (value, low, high).

    "equal"; on a machine that is not the `same` also "in interval", or "near" for a number without
    an interval; otherwise "DIFFERS". Float32 products are summed in another order on another
    machine, so a figure whose interval is a point may move by a millionth, and a number without an
    interval, which may be drawn, by a hundredth (of itself, or of 1 if it is less).
    """
    if old == new:
        return "equal"
    (was, low, high), now = old, new[0]
    if same or was is None or now is None:
        return "DIFFERS"
    if low is None or high is None:
        return "near" if abs(now - was) <= 0.01 * max(1, abs(was)) else "DIFFERS"
    room = 1e-6 * abs(low) if low == high else 0.0
    return "in interval" if low - room <= now <= high + room else "DIFFERS"
