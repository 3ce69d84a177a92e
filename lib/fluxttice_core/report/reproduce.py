"""A recorded run, run again: every number old and new.

What a run recorded is enough: its parameter files, and what its documents say of commit, libraries
and machine. On the same ones every number is equal. Elsewhere arithmetic differs in last digits,
which training turns into other weights; so the recorded weights are measured, and every number
that has an interval must lie within it. Dates and times are never compared.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import files, params
from ..certification import certificate
from ..certification.verify import told
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from .run import NOTEBOOKS, execute

DOCUMENTS = {
    "train": "epochs.json", "benchmark": "coverage_vs_entropy.json", "certify": "verdict.json",
}  # fmt: skip
# Dates, and where a run lies.
APART = ("created_utc", "controls_measured", "path", "checkpoint", "run_dir")
TOLD = ("environment", "git")  # what is told apart before
LABELS = ("network", "control", "seed", "vae", "metric", "gate", "decode", "n")
NOTHING = "nothing"


def run(folder: str) -> Path:
    """Run what `folder` recorded into a new run folder, and print the comparison.

    Raises:
        InputError: no such run; a notebook that stopped; numbers that are not what they were.
    """
    old = files.existing(folder, "run")
    paths = {step: old / f"{step}.params.yaml" for step in NOTEBOOKS}
    given = {step: params.read_yaml(path) for step, path in paths.items() if path.is_file()}
    recorded = {step: _read(old / DOCUMENTS[step]) for step in given}
    if not any(recorded.values()):
        raise InputError(f"{folder} records no run: it has no *.params.yaml with its numbers.")
    same = _told_apart([d for d in recorded.values() if isinstance(d, dict)])
    wanted = ((recorded.get("benchmark") or {}).get("checkpoint") or {}).get("sha256")
    new = files.run_folder("", "reproduce")
    trained = new / "checkpoint"
    found: dict[str, tuple[Any, Any]] = {}
    with contextlib.chdir(files.root()):
        for step, values in given.items():
            if step != "train":
                places = trained, old / "checkpoint", files.find(values["checkpoint"] or trained)
                values["checkpoint"] = _weights(wanted, *places)
            execute(step, values, new)
            if step == "train":
                made = checkpoints.load(trained).sha256
                if wanted and same:
                    found["train weights sha256"] = wanted, made
                else:
                    print(f"weights trained again: {made}; recorded: {wanted}")
            if recorded[step]:
                found |= compared(step, recorded[step], _read(new / DOCUMENTS[step]))
            else:
                print(f"{DOCUMENTS[step]} is not recorded: run again, and not compared")
    said = {name: judged(name, *pair, same) for name, pair in found.items()}
    for name, (before, after) in found.items():
        print(f"{name}: {_shown(before, True)} → {_shown(after)}, {said[name]}")
    words = list(said.values())
    print(", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)))
    differ = [name for name in said if said[name] == "DIFFERS"]
    if differ:
        raise InputError(
            f"{len(differ)} of {len(said)} numbers are not reproduced: first {differ[0]}."
        )
    return new


def judged(name: str, old: Any, new: Any, same: bool) -> str:
    """`told` of them, but of what training says only where it must be the `same`: elsewhere a last
    digit has become other weights."""
    return told(old, new, same) if same or not name.startswith("train ") else "not judged"


def compared(step: str, old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Everything that one of two documents holds, old and new, by where it stands."""
    then, now = dict(_leaves(step, old)), dict(_leaves(step, new))
    return {name: (then.get(name, NOTHING), now.get(name, NOTHING)) for name in {**then, **now}}


def _shown(leaf: Any, interval: bool = False) -> str:
    if not isinstance(leaf, dict):
        return str(leaf)
    ends = [f"{leaf[end]:.9g}" for end in ("low", "high") if interval and leaf[end] is not None]
    return f"{leaf['value']}" + (f" ({' … '.join(ends)})" if ends else "")


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Numbers, words and `Measured` rows by where they stand."""
    if isinstance(value, dict) and not {"value", "low", "high"} <= value.keys():
        for key, item in value.items():
            if key not in TOLD and (key not in APART or isinstance(item, dict)):
                yield from _leaves(f"{name} {key}", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            about = [item[key] for key in LABELS if key in item] if isinstance(item, dict) else []
            about = [str(label) for label in about if isinstance(label, str | int)]
            yield from _leaves(f"{name} {number} {' '.join(about)}".rstrip(), item)
    else:
        yield name, value


def _told_apart(documents: list[dict[str, Any]]) -> bool:
    """Whether libraries, machine and measuring code are those recorded; prints what is not."""
    now = {"commit": files.git_commit()["commit"], **certificate.environment()}
    then: dict[str, Any] = {}
    for document in documents:
        then |= {"commit": document["git"]["commit"], **document["environment"]}
    other = [name for name in then if then[name] != now.get(name)]
    for name in other:
        print(f"{name}: {then[name]} then, {now.get(name)} now")
    same = not set(other) - {"commit"}
    print("every number must be equal" if same else "every number must lie within its interval")
    return same


def _weights(wanted: str | None, trained: Path, *elsewhere: Path) -> str:
    """A checkpoint that has the recorded weights: trained anew, left by the run, named by it, or
    the shipped one; else the one trained anew."""
    for place in (trained, *elsewhere, files.root() / "checkpoints/certified"):
        if place.exists() and wanted in (None, checkpoints.load(place).sha256):
            return files.local(place.resolve())
    if not trained.exists():
        raise InputError(f"The weights with sha256 {wanted}, which were measured, are not here.")
    return files.local(trained)


def _read(path: Path) -> Any:
    try:
        return files.parse_json(path.read_bytes()) if path.is_file() else None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from None
