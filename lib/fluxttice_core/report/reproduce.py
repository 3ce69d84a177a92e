"""Repeat a recorded run, and compare every number that was measured again.

A run records all that this needs: its parameters, and in its documents the commit, libraries and
machine. On the same ones every number must be equal. On others training ends in other weights,
because arithmetic differs in the last digits, so the recorded weights are measured and every
number must lie within its recorded interval.
"""

import contextlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import pandas as pd

from .. import files, params
from ..certification import certificate
from ..certification.verify import compare_values
from ..checkpoints import folder as checkpoints
from ..errors import InputError
from ..metrics import measurement
from .job import NOTEBOOKS, execute

DOCUMENTS = {
    "train": "epochs.json", "benchmark": "coverage_vs_entropy.json", "certify": "verdict.json",
}  # fmt: skip
KEY, NUMBER = ["document", "network", "seed", "vae", "metric"], ["value", "low", "high"]
LABELS = {name: name for name in KEY[1:]} | {"control": "network", "gate": "metric"}
# Parameters, sizes and limits are given and not measured; the comparison repeats its rows.
GIVEN = ("params", "environment", "git", "checkpoint", "split", "epoch", "k", "n", "bound", "scale",
         "ceiling", "comparison")  # fmt: skip
CONTAINERS = ("results", "rows", "values", "gates", "controls", "measured")  # no part of a name
SHOWN = 20  # differences that are printed


def run(folder: str, quick: bool = False) -> Path:
    """Repeat the run that `folder` records in a new run folder, which is returned.

    reproduced.csv in it has every number, old and new; the differences are printed. The stored
    controls are measured again too, unless `quick`: then their numbers count as not checked.

    Raises:
        InputError: no such run, a notebook that crashed, or numbers that are not reproduced.
    """
    old = files.resolve(folder, "run")
    given = {s: old / f"{s}.params.yaml" for s in NOTEBOOKS if (old / f"{s}.params.yaml").is_file()}
    recorded = {step: _read(old / DOCUMENTS[step]) for step in given}
    if not any(recorded.values()):
        raise InputError(f"{folder} records no run: it has no *.params.yaml with its numbers.")
    same = _same_environment([d for d in recorded.values() if isinstance(d, dict)])
    wanted = ((recorded.get("benchmark") or {}).get("checkpoint") or {}).get("sha256")
    new, tables, problems = files.run_folder("", "reproduce"), [], []
    for step, path in given.items():
        values = params.read_yaml(path) | {"run_dir": files.relative_to_root(new)}
        if step != "train":
            places = new / "checkpoint", old / "checkpoint", files.root() / values["checkpoint"]
            values["checkpoint"] = files.relative_to_root(_weights(wanted, *places))
        found, then = _execute(step, values, new), recorded[step]
        if step == "train" and same and wanted not in (None, _sha256(new / "checkpoint")):
            problems.append("training ends in other weights than the recorded ones")
        if then is None:
            print(f"{DOCUMENTS[step]} is not recorded, so it is not compared")
            continue
        if isinstance(then, dict) and then.get("verdict") != found.get("verdict"):
            problems.append(f"the verdict is {found['verdict']} and was {then.get('verdict')}")
        now, skipped = table(step, found), {""} if step == "train" and not same else set()
        if step == "benchmark":
            now, skipped = _measure_controls(now, values, quick)
        tables.append(compare(table(step, then), now, same, skipped))
    _report(pd.concat(tables), new / "reproduced.csv", problems)
    return new


def table(document: str, value: Any) -> pd.DataFrame:
    """The measured numbers that a document holds, a row each: KEY (text) and NUMBER (float)."""
    rows = pd.DataFrame(list(_rows(value, {}, ())), columns=[*KEY, *NUMBER], dtype=object)
    rows[KEY] = rows[KEY].assign(document=document).fillna("").astype(str)
    return rows.astype(dict.fromkeys(NUMBER, float))


def _rows(value: Any, labels: dict[str, Any], name: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        labels = labels | {LABELS[key]: item for key, item in value.items() if key in LABELS}
    row = labels | {"metric": " ".join([labels.get("metric", ""), *name]).strip()}
    if isinstance(value, dict) and value.keys() >= set(NUMBER):
        yield row | {end: value[end] for end in NUMBER}
    elif isinstance(value, dict):
        for key in value.keys() - {*GIVEN, *LABELS}:
            yield from _rows(value[key], labels, name if key in CONTAINERS else (*name, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            named = isinstance(item, dict) and not LABELS.keys().isdisjoint(item)
            yield from _rows(item, labels, name if named else (*name, str(i)))
    elif type(value) in (int, float):
        yield row | {"value": value}


def compare(
    old: pd.DataFrame, new: pd.DataFrame, same: bool, skipped: Set[str] = frozenset()
) -> pd.DataFrame:
    """Two `table`s beside each other, with an `agreement`: `compare_values`, or "not checked" for
    the networks in `skipped`. A number that only one of them has DIFFERS."""
    both = old.merge(new, "outer", KEY, suffixes=(" then", " now"), indicator="found")
    plain = both.astype(object).where(both.notna(), None)
    then, now = (plain[[f"{end} {when}" for end in NUMBER]].to_numpy() for when in ("then", "now"))
    both["agreement"] = [
        compare_values(tuple(was), tuple(is_), same) if found == "both" else "DIFFERS"
        for found, was, is_ in zip(both.found, then, now, strict=True)
    ]
    both.loc[both.network.isin(skipped), "agreement"] = "not checked"
    return both


def _measure_controls(
    now: pd.DataFrame, values: dict[str, Any], quick: bool
) -> tuple[pd.DataFrame, set[str]]:
    """`now` with the controls measured again that the notebook read from their store, or the names
    of these if `quick`. It measures untrained networks of another layout itself."""
    own = {"", measurement.MODEL}
    if checkpoints.load(values["checkpoint"]).model.normed:
        own.add(measurement.UNTRAINED)
    if quick:
        return now, set(now.network) - own
    p = params.check(measurement.Benchmark, values, "benchmark.params.yaml")
    print("measuring the controls again")
    again = table("benchmark", [row.model_dump() for row in measurement.measured_beside(p).rows])
    return pd.concat([now.query("network in @own"), again.query("network not in @own")]), set()


def _report(result: pd.DataFrame, path: Path, problems: list[str]) -> None:
    files.write_bytes(path, result.drop(columns="found").to_csv(index=False).encode())
    differ, words = result.query("agreement == 'DIFFERS'"), result.agreement.tolist()
    names = [" ".join(filter(None, row)) for row in differ[KEY].to_numpy()]
    pairs = zip(names[:SHOWN], differ["value then"], differ["value now"], strict=False)
    for name, then, now in pairs:
        print(f"{name}: {then:.9g} then, {now:.9g} now")
    counts = {word: words.count(word) for word in ("equal", "in interval", "near", "DIFFERS")}
    said = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    print(f"{sum(counts.values()):,} numbers measured again: {said or 'none'}")
    print(
        f"{words.count('not checked'):,} numbers not checked; all are in {files.display_path(path)}"
    )
    if names:
        problems.append(f"{len(names):,} numbers are not reproduced, the first is {names[0]}")
    if problems:
        raise InputError("; ".join(problems) + ".")


def _execute(step: str, values: dict[str, Any], folder: Path) -> Any:
    """Run one notebook into `folder`; its document. A missed bound is a result like another."""
    with contextlib.chdir(files.root()):
        try:
            execute(NOTEBOOKS[step], values, values["run_dir"])
        except InputError as error:
            if not (folder / DOCUMENTS[step]).is_file():
                raise
            print(error)
    return _read(folder / DOCUMENTS[step])


def _same_environment(documents: list[dict[str, Any]]) -> bool:
    """Are libraries, machine and measuring code those recorded? Prints those that are not."""
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


def _weights(wanted: str | None, trained: Path, *elsewhere: Path) -> Path:
    """The first place with the recorded weights, or the trained ones where none are recorded."""
    for place in (trained, *elsewhere, files.root() / "checkpoints/certified"):
        if place.exists() and wanted in (None, _sha256(place)):
            return place.resolve()
    raise InputError(f"The weights with sha256 {wanted}, which were measured, are not here.")


def _sha256(place: Path) -> str:
    return checkpoints.load(place).sha256


def _read(path: Path) -> Any:
    try:
        return files.parse_json(path.read_bytes()) if path.is_file() else None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from None
