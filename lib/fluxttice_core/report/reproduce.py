"""A recorded run, run again: every number old and new.

What a run recorded is enough: its parameter files, and what its documents say of commit, libraries
and machine. On the same ones every number is equal. Elsewhere arithmetic differs in last digits,
which training turns into other weights; so the recorded weights are measured, and every number
that has an interval must lie within it. Dates and times are never compared.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .. import files, params
from ..certification import certificate
from ..certification.verify import inside
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from .job import NOTEBOOKS, execute

DOCUMENTS = {
    "train": "epochs.json", "benchmark": "coverage_vs_entropy.json", "certify": "verdict.json",
}  # fmt: skip
# Dates, and where a run lies.
APART = ("created_utc", "controls_measured", "path", "checkpoint", "run_dir")
TOLD = ("environment", "git")  # what is told apart before
LABELS = ("network", "control", "seed", "vae", "metric", "gate", "decode", "n")


class Number(NamedTuple):
    """What a document holds under a name, old and new; the interval is None where none is stated.

    same: equal, its interval too.
    """

    name: str
    old: Any
    low: float | None
    high: float | None
    new: Any
    same: bool

    def said(self, same_machine: bool) -> str:
        """ "equal", "in interval" or "no interval" (enough on another machine), or "DIFFERS"."""
        if self.same:
            return "equal"
        numbers = all(type(value) in (int, float) for value in (self.old, self.new))
        if same_machine or not numbers:
            return "DIFFERS"
        if self.low is None:
            return "no interval"
        return "in interval" if inside(self.new, self.low, self.high) else "DIFFERS"


def run(folder: str) -> Path:
    """Run what `folder` recorded into a new run folder, and print the comparison.

    Raises:
        InputError: no such run; a notebook that stopped; numbers that are not what they were.
    """
    old = files.find(folder)
    steps = [step for step in NOTEBOOKS if (old / f"{step}.params.yaml").is_file()]
    recorded = {step: _read(old / name) for step, name in DOCUMENTS.items()}
    if not steps or not any(recorded[step] for step in steps):
        raise InputError(f"{folder} records no run: it has no *.params.yaml with its numbers.")
    given = {step: params.read_yaml(old / f"{step}.params.yaml") for step in steps}
    same = _told_apart([d for d in recorded.values() if isinstance(d, dict)])
    new, found = files.run_folder("", "reproduce"), []
    with contextlib.chdir(files.root()):
        for step in steps:
            values = {**given[step], "run_dir": files.local(new)}
            if step != "train":
                values["checkpoint"] = _weights(old, new, values["checkpoint"], recorded)
            execute(NOTEBOOKS[step], values, files.local(new))
            if step == "train":
                found += _retrained(new, recorded, same)
            if recorded[step]:
                found += compared(step, recorded[step], _read(new / DOCUMENTS[step]))
            else:
                print(f"{DOCUMENTS[step]} is not recorded: run again, and not compared")
    for number in found:
        interval = "" if number.low is None else f" ({number.low:.9g} … {number.high:.9g})"
        print(f"{number.name}: {number.old}{interval} → {number.new}, {number.said(same)}")
    said = [number.said(same) for number in found]
    print(", ".join(f"{said.count(each)} {each}" for each in dict.fromkeys(said)))
    if "DIFFERS" in said:
        first = found[said.index("DIFFERS")].name
        raise InputError(
            f"{said.count('DIFFERS')} of {len(said)} numbers are not reproduced: first {first}."
        )
    return new


def compared(step: str, old: Any, new: Any) -> list[Number]:
    """Everything that one of two documents holds, by name."""
    then, now, nothing = dict(_leaves(step, old)), dict(_leaves(step, new)), object()
    found = []
    for name in {**then, **now}:
        before, after = then.get(name, nothing), now.get(name, nothing)
        ends = (before["low"], before["high"]) if isinstance(before, dict) else (None, None)
        values = [
            "nothing" if leaf is nothing else leaf["value"] if isinstance(leaf, dict) else leaf
            for leaf in (before, after)
        ]
        found.append(Number(name, values[0], *ends, values[1], before == after))
    return found


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


def _wanted(recorded: dict[str, Any]) -> str | None:
    """sha256 of the weights that the run measured."""
    return ((recorded["benchmark"] or {}).get("checkpoint") or {}).get("sha256")


def _retrained(new: Path, recorded: dict[str, Any], same: bool) -> list[Number]:
    """The weights that training ended with this time: on the same machine they must be the same."""
    wanted, made = _wanted(recorded), checkpoints.load(new / "checkpoint").sha256
    if wanted is None or not same:
        print(f"weights trained again: {made}; recorded: {wanted}")
        return []
    return [Number("train weights sha256", wanted, None, None, made, wanted == made)]


def _weights(old: Path, new: Path, named: str, recorded: dict[str, Any]) -> str:
    """A checkpoint that has the recorded weights: trained anew, left by the run, named by it, or
    the shipped one; else the one trained anew."""
    wanted = _wanted(recorded)
    trained = new / "checkpoint"
    places = [
        trained,
        old / "checkpoint",
        files.find(named),
        files.root() / "checkpoints/certified",
    ]
    places = [place for place in places if place.exists()]
    for place in places:
        if wanted in (None, checkpoints.load(place).sha256):
            return files.local(place.resolve())
    if trained not in places:
        raise InputError(f"The weights with sha256 {wanted}, which were measured, are not here.")
    return files.local(trained)


def _read(path: Path) -> Any:
    try:
        return files.parse_json(path.read_bytes()) if path.is_file() else None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from None
