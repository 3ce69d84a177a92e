"""Verification: signature, hashes, schema, then every gate measured twice from the weights.

Each file is read once, and those bytes are verified, measured and returned.
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
from ..metrics.gates import GATES, seed_of
from ..metrics.marginal import GROUPS, MIN_LATENTS
from . import signing
from .certificate import CERTIFICATE, SCHEMA, Certificate, measure_gates, profile, subject

FILES = (WEIGHTS, MANIFEST, CERTIFICATE, signing.PUBLIC_KEY, signing.SIGNATURE)


class Verified(NamedTuple):
    """A certified checkpoint whose files, `contents`, are as signed.

    gates: a line a gate, as certified; if measured again, also `again` and its `agreement`, `fresh`
    and its `fresh_verdict`. problem: why it is refused all the same, or empty.
    """

    contents: dict[str, bytes]
    checkpoint: Checkpoint
    certificate: Certificate
    profile: str
    gates: pd.DataFrame
    problem: str


def verify(
    path: str | Path,
    trusted: str = signing.FINGERPRINT,
    quick: bool = False,
    report: Callable[[str], None] = print,
) -> Verified:
    """Verify the certified checkpoint in the folder `path`; `quick` measures nothing.

    With the certificate's seed, a figure must equal the certified one in the same environment;
    elsewhere it must be in the certified interval, with the same verdict. So nobody lied. With
    fresh draws no gate may FAIL. So nothing was fitted to the seed.

    Args:
        trusted: fingerprint of the one key whose signature counts.
        report: called with a line at each step.

    Raises:
        InputError: anything that was not signed so, or that this release cannot read.
    """
    contents = _read(path)
    try:
        signing.check_signature(contents, trusted)
        report(f"signature: by the key {trusted}")
        shown = files.display_path(files.resolve(path))
        loaded = checkpoints.from_bytes(contents[WEIGHTS], contents[MANIFEST], str(path), shown)
        report(f"hashes:    {len(contents) - 1} files as signed; weights {loaded.sha256}")
        found = _certificate(contents, loaded)
        named = profile(found.gates)
        report(f"schema:    {SCHEMA}, consistent, issued {found.created_utc}, bounds: {named}")
    except InputError as error:
        raise InputError(f"{path} is refused: {error}") from None
    rows = pd.DataFrame(row.model_dump(exclude={"n", "method"}) for row in found.gates)
    problems = []
    if found.verdict != "PASS":
        problems.append(f"the certificate is genuine and says {found.verdict}")
    if not quick:
        rows = _measured(loaded, found, rows, report)
        about = rows.gate + " of VAE-" + rows.vae
        lies, fitted = about[rows.agreement == "DIFFERS"], about[rows.fresh_verdict == "FAIL"]
        problems += [f"the weights do not give its figure for {gate}" for gate in lies]
        problems += [f"with fresh draws, {gate} misses its bound" for gate in fitted]
    return Verified(contents, loaded, found, named, rows, "".join(problems[:1]))


def _measured(
    loaded: Checkpoint, found: Certificate, rows: pd.DataFrame, report: Callable[[str], None]
) -> pd.DataFrame:
    """`rows` with the columns of both measurements (see `Verified`)."""
    same, seed = files.environment() == found.environment, secrets.randbits(48)
    k, bounds = found.params["k"], dict(zip(rows.gate, rows.bound, strict=True))
    report(f"measuring with seed {found.seed}, {'the same' if same else 'another'} environment")
    again = measure_gates(loaded.model, k, found.seed, bounds, report)
    report(f"measuring with fresh draws, seed {seed}")
    fresh = measure_gates(loaded.model, k, seed, bounds, report)
    agreement = []
    for old, new in zip(found.gates, again, strict=True):
        numbers = (old.value, old.low, old.high), (new.value, new.low, new.high)
        alike = compare_values(*numbers, same)
        agreement.append(alike if old.verdict == new.verdict else "DIFFERS")
    return rows.assign(
        again=[row.value for row in again],
        agreement=agreement,
        fresh=[row.value for row in fresh],
        fresh_verdict=[row.verdict for row in fresh],
    )


def _read(path: str | Path) -> dict[str, bytes]:
    """Every file of the folder, read once."""
    place = files.resolve(path)
    found = set(os.listdir(place)) if place.is_dir() else set()
    for name in sorted(found ^ {*FILES}):
        raise InputError(
            f"{path} {'holds' if name in found else 'lacks'} {name!r}, but a folder that is "
            f"certified and signed has exactly these files: {', '.join(FILES)}."
        )
    return {name: files.read_file(place / name) for name in FILES}


def _certificate(contents: dict[str, bytes], loaded: Checkpoint) -> Certificate:
    """The certificate, if it fits the schema, these files and this code."""
    try:
        schema = files.parse_json(contents[CERTIFICATE])["schema"]
        found = Certificate.model_validate_json(contents[CERTIFICATE], strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "/".join(map(str, first["loc"])) or "its verdict"
        raise InputError(
            f"{CERTIFICATE} has the schema {schema!r}, and this release reads {SCHEMA}, which it "
            f"does not fit at {place}: {first['msg']} (CHANGELOG.md lists older releases)."
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{CERTIFICATE} is no certificate ({error}).") from None
    bounds, k = {row.gate: row.bound for row in found.gates}, found.params.get("k")
    asked = [(vae, *gate) for vae in loaded.model.vaes for gate in bounds.items()]
    gates = [(row.vae, row.gate, row.bound) for row in found.gates]
    unknown = ", ".join(sorted(bounds.keys() - {*GATES}))
    about, here = (found.subject, found.weights_sha256), (subject(contents), loaded.sha256)
    for sentence, wrong in {
        "is about other files than these": about != here,
        "has a seed that is not derived from its weights": found.seed != seed_of(loaded.sha256),
        f"has gates that this release lacks: {unknown}": unknown,
        "does not hold every VAE to the same gates, once each": gates != asked,
        f"has k {k!r}, which is no number of latents": (
            type(k) is not int or k < MIN_LATENTS or k % GROUPS
        ),
    }.items():
        if wrong:
            raise InputError(f"{CERTIFICATE} {sentence}.")
    return found


Numbers = tuple[float | None, float | None, float | None]


def compare_values(old: Numbers, new: Numbers, same: bool) -> str:
    """How a number agrees with its repetition; each is (value, low, high).

    "equal"; in another environment than the `same` also "in interval", or "near" for a number
    without one; otherwise "DIFFERS". Another machine sums float32 products in another order, so a
    figure whose interval is a point may move by a millionth, and a number without an interval by a
    hundredth (of itself, or of 1 if it is less).
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
