"""Repeat a recorded run, and compare every number that was measured again.

A run records all that this needs: its parameters, and in its documents the commit, libraries and
machine. On the same ones every number must be equal. On others training ends in other weights,
because arithmetic differs in the last digits, so the recorded weights are measured and every
number must lie within its recorded interval.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from .. import benchmark, files, params
from ..certification.verify import compare_values
from ..checkpoints import folder as checkpoints
from ..errors import InputError, ThresholdMissed
from ..metrics.measurement import MODEL
from .run import execute

DOCUMENTS = {
    "train": "epochs.json", "benchmark": "coverage_vs_entropy.json", "certify": "verdict.json",
}  # fmt: skip
KEY, NUMBER = ["document", "network", "seed", "vae", "metric"], ["value", "low", "high"]
SHOWN = 20  # differences that are printed


def run(folder: str, quick: bool = False) -> Path:
    """Repeat the run that `folder` records in a new run folder, which is returned.

    reproduced.csv in it has every number, old and new; the differences are printed. The stored
    controls are measured again too, unless `quick`: then their numbers count as not checked.

    Raises:
        InputError: no such run, a notebook that crashed, or numbers that are not reproduced.
    """
    old = files.resolve(folder, "run")
    given = {s: old / f"{s}.params.yaml" for s in DOCUMENTS if (old / f"{s}.params.yaml").is_file()}
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


def table(step: str, document: Any) -> pd.DataFrame:
    """The measured numbers that a step's document holds, a row each: KEY (text), NUMBER (float)."""
    if step == "train":
        epochs = pd.DataFrame(document).drop(columns="selected").melt("epoch", var_name="metric")
        rows = epochs.assign(metric="epoch " + epochs.epoch.astype(str) + " " + epochs.metric)
    elif step == "benchmark":
        rows = pd.DataFrame(document["rows"])
    else:
        gates = [{"network": MODEL, **gate} for gate in document["gates"]]
        for control in document["controls"]:
            gates += [{"network": control["control"], **gate} for gate in control["gates"]]
        rows = pd.DataFrame(gates).rename(columns={"gate": "metric"})
    rows = rows.reindex(columns=[*KEY, *NUMBER]).assign(document=step)
    rows[KEY] = rows[KEY].fillna("").astype(str)
    return rows.astype(dict.fromkeys(NUMBER, float))


def compare(
    old: pd.DataFrame, new: pd.DataFrame, same: bool, skipped: Collection[str] = ()
) -> pd.DataFrame:
    """Two `table`s beside each other, with an `agreement`: `compare_values`, or "not checked" for
    the networks in `skipped`. A number that only one of them has DIFFERS."""
    both = old.merge(new, "outer", KEY, suffixes=("_then", "_now"), indicator="found")

    def agreement(row: Any) -> str:
        if row.network in skipped or row.found != "both":
            return "not checked" if row.network in skipped else "DIFFERS"
        then, now = (
            tuple(None if pd.isna(x) else x for x in numbers)
            for numbers in (
                (row.value_then, row.low_then, row.high_then),
                (row.value_now, row.low_now, row.high_now),
            )
        )
        return compare_values(then, now, same)

    return both.assign(agreement=[agreement(row) for row in both.itertuples()])


def _measure_controls(
    now: pd.DataFrame, values: dict[str, Any], quick: bool
) -> tuple[pd.DataFrame, set[str]]:
    """`now` with the controls measured again that the notebook read from their store, or the names
    of these if `quick`. It measures untrained networks of another layout itself."""
    own = {MODEL}
    if checkpoints.load(values["checkpoint"]).model.normed:
        own.add(benchmark.UNTRAINED)
    if quick:
        return now, set(now.network) - own
    p = params.check(benchmark.Benchmark, values, "benchmark.params.yaml")
    print("measuring the controls again")
    again = table("benchmark", {"rows": benchmark.measured_controls(p).to_dict("records")})
    return pd.concat([now.query("network in @own"), again.query("network not in @own")]), set()


def _report(result: pd.DataFrame, path: Path, problems: list[str]) -> None:
    files.write_bytes(path, result.drop(columns="found").to_csv(index=False).encode())
    differ, words = result.query("agreement == 'DIFFERS'"), result.agreement.tolist()
    names = [" ".join(filter(None, row)) for row in differ[KEY].itertuples(index=False)]
    for name, row in zip(names[:SHOWN], differ.itertuples(), strict=False):
        print(f"{name}: {row.value_then:.9g} then, {row.value_now:.9g} now")
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
    try:
        execute(step, values, folder)
    except ThresholdMissed as error:
        print(error)
    return _read(folder / DOCUMENTS[step])


def _same_environment(documents: list[dict[str, Any]]) -> bool:
    """Are libraries, machine and measuring code those recorded? Prints those that are not."""
    now = {"commit": files.git_commit()["commit"], **files.environment()}
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
