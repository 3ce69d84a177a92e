"""Verification: signature, hashes, schema, then every gate measured again from the weights.

Each file is read once. What is verified are those bytes, and what is measured, and returned, is
the model they hold.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pydantic import ValidationError

from .. import files, params
from ..checkpoints import folder as checkpoints
from ..checkpoints.folder import MANIFEST, WEIGHTS, Checkpoint
from ..errors import InputError
from ..metrics import gates
from ..metrics.gates import Certify, Judged
from . import certificate, signing
from .certificate import CERTIFICATE, SCHEMA, Certificate

FILES = (WEIGHTS, MANIFEST, CERTIFICATE, signing.PUBLIC_KEY, signing.SIGNATURE)


class Checked(NamedTuple):
    """A gate as certified, and as measured again: None where nothing was."""

    stated: Judged
    again: Judged | None = None
    agreement: str = "not measured"


class Verified(NamedTuple):
    """A certified checkpoint whose files, and perhaps figures, are what was signed.

    problem: why it is refused all the same, empty if it is not.
    """

    checkpoint: Checkpoint
    rows: list[Checked]
    problem: str


def verify(
    path: str | Path,
    trusted: str = signing.FINGERPRINT,
    quick: bool = False,
    report: Callable[[str], None] = print,
) -> Verified:
    """Verify the certified checkpoint in the folder `path`; `quick` measures nothing again.

    A figure measured again must equal the certificate's where environment and processor are
    the same, and lie in the stated interval, with the same verdict, elsewhere.

    Args:
        path: the folder. Its name does not matter; what is in it does.
        trusted: fingerprint of the one key whose signature counts.
        quick: stop before measuring.
        report: told of each step.

    Raises:
        InputError: anything that was not signed so: a sentence that names the step.
    """
    name, contents, step = str(path), _read(path), "signature"
    try:
        signing.check_signature(contents, trusted)
        report(f"signature: by the key {trusted}")
        step = "hashes"
        weights, manifest = contents[WEIGHTS], contents[MANIFEST]
        shown = files.display_path(files.resolve(path))
        loaded = checkpoints.from_bytes(weights, manifest, name, shown)
        report(f"hashes:    {len(contents) - 1} files as signed; weights {loaded.sha256}")
        step = "schema"
        stated, p = _stated(contents, loaded)
        report(f"schema:    {SCHEMA}, consistent, issued {stated.created_utc}")
    except InputError as error:
        raise InputError(f"{name} is refused at its {step}: {error}") from None
    rows = [Checked(row) for row in stated.gates]
    said = stated.verdict
    problem = "" if said == "PASS" else f"the certificate is genuine and says {said}"
    if not quick:
        rows = _again(loaded, stated, p, report)
        different = [row.stated for row in rows if row.agreement == "DIFFERS"]
        if different:
            problem = (
                f"at least {len(different)} of its figures are not what the weights give: first "
                f"{different[0].title} of VAE-{different[0].vae}"
            )
    return Verified(loaded, rows, problem)


def refusal(path: str | Path, trusted: str, quick: bool = True) -> str:
    """The sentence with which `path` is refused; empty if it is accepted. For demonstrations."""
    try:
        problem = verify(path, trusted, quick, lambda _step: None).problem
        return f"{Path(path).name} is refused: {problem}." if problem else ""
    except InputError as error:
        return str(error).replace(str(path), Path(path).name)


def table(rows: list[Checked]) -> str:
    """Rows of `Verified` as text, a gate a line."""
    lines = []
    for row in rows:
        m, found = row.stated.measured, row.again.measured.value if row.again else None
        values = [row.stated.bound, m.value, m.low, m.high, found]
        bound, value, low, high, again = ("–" if v is None else f"{v:.6g}" for v in values)
        lines.append(
            {
                "gate": f"{row.stated.gate} ({row.stated.vae})", "bound": bound,
                "certified": value, "95 %": f"{low} … {high}", "measured": again,
                "agreement": row.agreement, "verdict": row.stated.verdict,
            }
        )  # fmt: skip
    return pd.DataFrame(lines).to_string(index=False, justify="left")


def _read(path: str | Path) -> dict[str, bytes]:
    """Every file of the folder, read once; there must be these five and nothing else."""
    place = files.resolve(path)
    if not place.is_dir():
        raise InputError(f"{path} is not a folder: give that of a certified checkpoint.")
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


def _stated(contents: dict[str, bytes], loaded: Checkpoint) -> tuple[Certificate, Certify]:
    """The certificate and its parameters, if they fit the schema, the files and one another."""
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
        stated = Certificate.model_validate_json(contents[CERTIFICATE], strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "/".join(str(part) for part in first["loc"])
        raise InputError(
            f"{CERTIFICATE} does not fit {SCHEMA} at {place}: {first['msg']}."
        ) from None
    p = params.check(Certify, stated.params, CERTIFICATE)
    if stated.subject != certificate.subject(contents):
        raise InputError(f"{CERTIFICATE} is about other files than these.")
    for row in [*stated.gates, *(row for control in stated.controls for row in control.gates)]:
        said = gates.judge(row.measured, row.bound, row.gate.startswith("max_"))
        if row.verdict != said:
            raise InputError(
                f"{CERTIFICATE} calls {row.gate} of VAE-{row.vae} {row.verdict}, but its numbers "
                f"say {said}."
            )
    if [row.control for row in stated.controls] != [*gates.adversaries(loaded.model, p)]:
        raise InputError(f"{CERTIFICATE} has not the controls of this code.")
    for control in stated.controls:
        if control.verdict != gates.verdict(control.gates):
            raise InputError(f"{CERTIFICATE} contradicts itself about {control.control}.")
    judged = gates.verdict(stated.gates, stated.controls)
    if stated.verdict != judged:
        raise InputError(f"{CERTIFICATE} says {stated.verdict}, but its gates say {judged}.")
    return stated, p


def _again(
    loaded: Checkpoint, stated: Certificate, p: Certify, report: Callable[[str], None]
) -> list[Checked]:
    same = certificate.environment() == stated.environment
    report(f"measuring again, {'the same' if same else 'another'} environment")
    ours = [(vae, gate, getattr(p, gate)) for vae in loaded.model.vaes for gate in gates.BOUNDS]
    if ours != [(row.vae, row.gate, row.bound) for row in stated.gates]:
        raise InputError(f"{loaded.path} is refused: its gates are not those of this code.")
    rows = {(row.vae, row.gate): Checked(row) for row in stated.gates}
    for part in gates.PARTS:  # what is not what was signed needs no million latents to show it
        for again in gates.gates(loaded.model, p, report, [part]):
            row = rows[again.vae, again.gate].stated
            rows[again.vae, again.gate] = Checked(row, again, agreement(row, again, same))
        if any(row.agreement == "DIFFERS" for row in rows.values()):
            break
    return list(rows.values())


def agreement(row: Judged, again: Judged, same: bool) -> str:
    """`compare_values` of their figures; another verdict DIFFERS."""
    then, now = ((m.value, m.low, m.high) for m in (row.measured, again.measured))
    return compare_values(then, now, same) if row.verdict == again.verdict else "DIFFERS"


Number = tuple[float | None, float | None, float | None]


def compare_values(old: Number, new: Number, same: bool) -> str:
    """How two measured numbers agree, each with value, low and high (None where there is none).

    "equal"; on a machine that is not the `same` also "in interval", or "near" for a number without
    an interval; else "DIFFERS".

    Float32 products are summed in another order there. So a number whose interval is a point may
    move by a millionth, and a number without an interval, which may be drawn, by a hundredth (of
    itself, or of 1 if it is less).
    """
    (was, low, high), now = old, new[0]
    if old == new:
        return "equal"
    if same or was is None or now is None:
        return "DIFFERS"
    if low is None or high is None:
        return "near" if abs(now - was) <= 0.01 * max(1, abs(was)) else "DIFFERS"
    room = 1e-6 * abs(low) if low == high else 0.0
    return "in interval" if low - room <= now <= high + room else "DIFFERS"
