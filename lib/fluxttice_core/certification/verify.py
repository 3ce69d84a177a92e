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

from .. import files, parallel
from ..checkpoints import folder as checkpoints
from ..checkpoints.folder import MANIFEST, WEIGHTS, Checkpoint
from ..errors import InputError
from ..metrics.gates import GATES, GateResult, certificate_seed, measure_gates, verdict_of
from ..metrics.marginal import GROUPS, MIN_LATENTS
from ..parallel import Job
from . import signing
from .certificate import CERTIFICATE, SCHEMA, Certificate, environment, profile, subject

FILES = (WEIGHTS, MANIFEST, CERTIFICATE, signing.PUBLIC_KEY, signing.SIGNATURE)


class Verified(NamedTuple):
    """A certified checkpoint whose files are as signed.

    certificate: its certificate; gates: what was measured again, by the certificate's seed and by
    `fresh_seed`, both empty after a quick verification; problem: why it is refused all the same.
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
        bounds = profile({row.gate: row.bound for row in found.gates})
        report(f"schema:    {SCHEMA}, consistent, issued {found.created_utc}, bounds: {bounds}")
    except InputError as error:
        raise InputError(f"{name} is refused at its {step}: {error}") from None
    problem = "" if found.verdict == "PASS" else f"the certificate is genuine and says {found.verdict}"
    if quick:
        return Verified(loaded, found, bounds, [], [], 0, [], problem)
    same, fresh_seed = environment() == found.environment, secrets.randbits(62)
    report(f"measuring again with seed {found.seed}, {'the same' if same else 'another'} environment")
    report(f"measuring with fresh draws, seed {fresh_seed}")
    repeated, fresh = _measure(loaded, found, (found.seed, fresh_seed), report)
    agreement = [
        compare_gates(one, again, same) for one, again in zip(found.gates, repeated, strict=True)
    ]
    for row, agrees in zip(found.gates, agreement, strict=True):
        if agrees == "DIFFERS" and not problem:
            problem = f"the weights do not give its figure for {row.title} of VAE-{row.vae}"
    for row in fresh:
        if row.verdict == "FAIL" and not problem:
            problem = f"with fresh draws {row.title} of VAE-{row.vae} fails its bound"
    return Verified(loaded, found, bounds, repeated, fresh, fresh_seed, agreement, problem)


def table(found: Verified) -> str:
    """The gates as text, a line each: certified, measured again, measured with fresh draws."""
    lines = []
    for number, row in enumerate(found.certificate.gates):
        line = {
            "gate": f"{row.gate} ({row.vae})", "bound": f"{row.bound:.6g}",
            "certified": _number(row.value), "95 %": f"{_number(row.low)} … {_number(row.high)}",
            "verdict": row.verdict,
        }  # fmt: skip
        if found.repeated:
            fresh = found.fresh[number]
            line |= {
                "again": _number(found.repeated[number].value), "agreement": found.agreement[number],
                "fresh draws": _number(fresh.value), "fresh verdict": fresh.verdict,
            }  # fmt: skip
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
    if found.seed != certificate_seed(loaded.sha256):
        raise InputError(f"{CERTIFICATE} has a seed that is not derived from its weights.")
    asked = {vae: {row.gate for row in found.gates if row.vae == vae} for vae in loaded.model.vaes}
    unknown = sorted(set().union(*asked.values()) - set(GATES))
    if unknown:
        raise InputError(f"{CERTIFICATE} has the gate {unknown[0]}, which this release lacks.")
    rows = sum(map(len, asked.values()))
    if len(set(map(frozenset, asked.values()))) != 1 or rows != len(found.gates):
        raise InputError(f"{CERTIFICATE} does not ask every VAE the same gates once each.")
    k = found.params.get("k")
    if type(k) is not int or k < MIN_LATENTS or k % GROUPS:
        raise InputError(f"{CERTIFICATE} has k {k!r}, which is no number of latents.")
    return found


def _measure(
    loaded: Checkpoint, found: Certificate, seeds: tuple[int, ...], report: Callable[[str], None]
) -> list[list[GateResult]]:
    """The certificate's own gates, in its order, measured with each of `seeds`."""
    bounds = {row.gate: row.bound for row in found.gates}
    jobs = [
        Job(f"VAE-{vae}, seed {seed}", measure_gates, (loaded.model, vae, found.params["k"], seed, bounds))
        for seed in seeds
        for vae in loaded.model.vaes[::-1]
    ]
    rows = parallel.each(jobs, report)
    by_seed = [sum(rows[i :: 1][: len(loaded.model.vaes)], []) for i in range(0, len(rows), len(loaded.model.vaes))]
    order = {(row.vae, row.gate): place for place, row in enumerate(found.gates)}
    return [sorted(some, key=lambda row: order[row.vae, row.gate]) for some in by_seed]


def compare_gates(one: GateResult, again: GateResult, same: bool) -> str:
    """`compare_values` of their figures; another verdict DIFFERS."""
    agreement = compare_values(one, again, same)
    return agreement if one.verdict == again.verdict else "DIFFERS"
