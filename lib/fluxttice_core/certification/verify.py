"""Verification: signature, hashes, schema, then every gate measured again from the weights.

Each file is read once. What is verified are those bytes, and what is measured, and returned, is
the model they hold.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..certification import certificate
from ..checkpoints import folder as checkpoint
from .. import files
from ..metrics import gates
from .. import params
from ..report import records
from ..certification import signing
from ..certification.certificate import CERTIFICATE
from ..checkpoints.folder import MANIFEST, WEIGHTS, Checkpoint
from ..errors import InputError

FILES = (WEIGHTS, MANIFEST, CERTIFICATE, signing.PUBLIC_KEY, signing.SIGNATURE)


@dataclass(frozen=True)
class Verified:
    """A certified checkpoint whose files, and perhaps figures, are what was signed.

    rows: one a gate, `{gate, vae, bound, certified, ci95, measured, agreement, verdict}`;
    problem: why it is refused all the same, empty if it is not.
    """

    checkpoint: Checkpoint
    certificate: dict[str, Any]
    rows: list[dict[str, Any]]
    problem: str


def verify(
    path: str | Path,
    trusted: str = signing.FINGERPRINT,
    quick: bool = False,
    report: Callable[[str], None] = print,
) -> Verified:
    """Verify the certified checkpoint in the folder `path`; `quick` measures nothing again.

    A figure measured again must equal the certificate's where environment, threads and processor
    are the same, and lie in the stated interval, with the same verdict, elsewhere.

    Args:
        path: the folder. Its name does not matter; what is in it does.
        trusted: fingerprint of the one key whose signature counts.
        quick: stop before measuring.
        report: told of each step.

    Raises:
        InputError: anything that was not signed so: a sentence that names the step.
    """
    name, contents = str(path), _read(path)
    with _step(name, "signature"):
        signing.check_signature(contents, trusted)
    report(f"signature: by the key {trusted}")
    with _step(name, "hashes"):
        weights, manifest = contents[WEIGHTS], contents[MANIFEST]
        loaded = checkpoint.from_bytes(weights, manifest, name, files.shown(checkpoint.find(path)))
    report(f"hashes:    {len(contents) - 1} files as signed; weights {loaded.sha256}")
    with _step(name, "schema"):
        stated, p = _stated(contents)
    report(f"schema:    {stated['schema']}, consistent, issued {stated['created_utc']}")
    rows = [_row(row) for row in stated["gates"]]
    problem = _problem(stated["verdict"])
    if not quick:
        rows = _again(loaded, stated, p, report)
        different = [row for row in rows if row["agreement"] == "DIFFERS"]
        if different:
            worst = different[0]
            problem = (
                f"{len(different)} of {len(rows)} figures are not what the weights give, the first "
                f"being {worst['gate']} of VAE-{worst['vae']}"
            )
    return Verified(loaded, stated, rows, problem)


def refusal(path: str | Path, trusted: str, quick: bool = True) -> str:
    """The sentence with which `path` is refused; empty if it is accepted. For demonstrations."""
    try:
        problem = verify(path, trusted, quick, lambda _step: None).problem
        return f"{Path(path).name} is refused: {problem}." if problem else ""
    except InputError as error:
        return str(error).replace(str(path), Path(path).name)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of `Verified` as text, a gate a line."""
    shown = [
        {
            **row,
            "ci95": " … ".join("–" if v is None else f"{v:.5f}" for v in row["ci95"]),
            "measured": "–" if row["measured"] is None else f"{row['measured']:.5f}",
            "certified": "refused" if row["certified"] is None else f"{row['certified']:.5f}",
        }
        for row in rows
    ]
    lines = [list(shown[0]), *([str(value) for value in row.values()] for row in shown)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _read(path: str | Path) -> dict[str, bytes]:
    """Every file of the folder, read once; there must be these five and nothing else."""
    place = checkpoint.find(path)
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
    return {name: checkpoint.read_file(place / name) for name in FILES}


@contextlib.contextmanager
def _step(name: str, step: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{name} is refused at its {step}: {error}") from None


def _stated(contents: dict[str, bytes]) -> tuple[dict[str, Any], params.Certify]:
    """The certificate and its parameters, if they fit the schema, the files and one another."""
    try:
        stated = checkpoint.parse_json(contents[CERTIFICATE])
    except ValueError as error:
        raise InputError(f"{CERTIFICATE} is not valid JSON: {error}.") from None
    records.check(stated, "certificate")
    p = params.check("certify", stated["params"], CERTIFICATE)
    if stated["subject"] != certificate.subject(contents):
        raise InputError(f"{CERTIFICATE} is about other files than these.")
    judged = gates.verdict(stated["gates"])
    if stated["verdict"] != judged:
        raise InputError(f"{CERTIFICATE} says {stated['verdict']}, but its gates say {judged}.")
    return stated, p


def _again(
    loaded: Checkpoint, stated: dict[str, Any], p: params.Certify, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    with _threads(stated["environment"]["threads"]):
        same = certificate.environment() == stated["environment"]
        report(f"measuring again, {'the same' if same else 'another'} environment")
        again = gates.every(loaded.model, p, report)
    if [_key(row) for row in again] != [_key(row) for row in stated["gates"]]:
        raise InputError(f"{loaded.path} is refused: its gates are not those of this code.")
    pairs = zip(stated["gates"], again, strict=True)
    return [_row(row, other, agreement(row, other, same)) for row, other in pairs]


def agreement(row: dict[str, Any], again: dict[str, Any], same: bool) -> str:
    """ "equal"; "in interval" where that suffices (another environment); else "DIFFERS"."""
    if row == again:
        return "equal"
    low, high = row["ci95"]
    numbers = None not in (low, high, again["value"])
    inside = numbers and low <= again["value"] <= high and again["verdict"] == row["verdict"]
    return "in interval" if inside and not same else "DIFFERS"


def _row(row: dict, again: dict | None = None, agrees: str = "not measured") -> dict:
    return {
        "gate": row["gate"],
        "vae": row["vae"],
        "bound": row["bound"],
        "certified": row["value"],
        "ci95": row["ci95"],
        "measured": again["value"] if again else None,
        "agreement": agrees,
        "verdict": row["verdict"],
    }


def _key(row: dict[str, Any]) -> tuple:
    return row["gate"], row["vae"], row["bound"], row.get("upper")


def _problem(verdict: str) -> str:
    return "" if verdict == "PASS" else f"the certificate is genuine and says {verdict}"


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch with as many threads as the certificate's; sums may depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
