"""Repeat a recorded run, and compare every number that is measured again.

With the libraries and machine of the record, training must end in the recorded weights and every
number must be equal. Elsewhere it ends in other weights, because arithmetic differs in the last
digits. So nothing is trained, and each number must lie within its recorded interval.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from .. import benchmark, files, params
from ..certification.verify import compare_values
from ..checkpoints import folder as checkpoints
from ..errors import InputError, ThresholdMissed
from ..metrics.measurement import MODEL
from .run import execute

DOCUMENTS = {"benchmark": benchmark.DOCUMENT, "certify": "verdict.json"}
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
    recorded = {step: _read(old / name) for step, name in DOCUMENTS.items()}
    recorded = {step: document for step, document in recorded.items() if document}
    if not recorded:
        raise InputError(f"{folder} records no run: it has no {' or '.join(DOCUMENTS.values())}.")
    new, tables, problems = files.run_folder("", "reproduce"), [], []
    documents = recorded.values()
    same, trained = _same_environment(documents), old / "train.params.yaml"
    sha256 = next(d.get("weights_sha256") or d["checkpoint"]["sha256"] for d in documents)
    if same and trained.is_file():
        _execute("train", params.read_yaml(trained), new)
        if _sha256(new / "checkpoint") != sha256:
            problems.append("training ends in other weights than the recorded ones")
    for step, then in recorded.items():
        values = params.read_yaml(old / f"{step}.params.yaml")
        places = new / "checkpoint", old / "checkpoint", values["checkpoint"]
        values["checkpoint"] = _weights(sha256, *places)
        _execute(step, values, new)
        found = _read(new / DOCUMENTS[step])
        if then.get("verdict") != found.get("verdict"):
            problems.append(f"the verdict is {found['verdict']} and was {then['verdict']}")
        now, skipped = table(step, found), set[str]()
        if step == "benchmark":
            now, skipped = _measure_controls(now, values, quick)
        tables.append(compare(table(step, then), now, same, skipped))
    _report(pd.concat(tables), new / "reproduced.csv", problems)
    return new


def table(step: str, document: dict[str, Any]) -> pd.DataFrame:
    """The measured numbers of a step's document, a row each: KEY (text), NUMBER (float)."""
    if step == "benchmark":
        rows = pd.DataFrame(document["rows"], dtype=object)  # so that a seed stays whole
    else:
        networks = {MODEL: document["gates"]}
        networks |= {control["control"]: control["gates"] for control in document["controls"]}
        gates = [{"network": name, **gate} for name, found in networks.items() for gate in found]
        rows = pd.DataFrame(gates, dtype=object).rename(columns={"gate": "metric"})
    rows = rows.reindex(columns=[*KEY, *NUMBER]).assign(document=step)
    rows[KEY] = rows[KEY].astype(object).fillna("").astype(str)
    return rows.astype(dict.fromkeys(NUMBER, float))


def compare(
    old: pd.DataFrame, new: pd.DataFrame, same: bool, skipped: Collection[str] = ()
) -> pd.DataFrame:
    """Two `table`s beside each other, with an `agreement`: `compare_values`, or "not checked" for
    the networks in `skipped`. A number that only one of them has DIFFERS."""
    both = old.merge(new, "outer", KEY, suffixes=("_then", "_now"), indicator="found")
    words = []
    for row in both.astype(object).where(both.notna(), None).itertuples():
        then = row.value_then, row.low_then, row.high_then
        now = row.value_now, row.low_now, row.high_now
        word = compare_values(then, now, same) if row.found == "both" else "DIFFERS"
        words.append("not checked" if row.network in skipped else word)
    return both.drop(columns="found").assign(agreement=words)


def _measure_controls(
    now: pd.DataFrame, values: dict[str, Any], quick: bool
) -> tuple[pd.DataFrame, set[str]]:
    """`now` with controls that are measured and not read from their store, or, if `quick`, their
    names. The notebook itself measures untrained networks of another layout."""
    own = {MODEL}
    if checkpoints.load(values["checkpoint"]).model.normed:
        own.add(benchmark.UNTRAINED)
    if quick:
        return now, set(now.network) - own
    print("measuring the controls again")
    given = {**values, "run_dir": ""}
    p = params.check(benchmark.Benchmark, given, "benchmark.params.yaml")
    again = table("benchmark", {"rows": benchmark.measured_controls(p).to_dict("records")})
    return pd.concat([now.query("network in @own"), again.query("network not in @own")]), set()


def _report(result: pd.DataFrame, path: Path, problems: list[str]) -> None:
    files.write_bytes(path, result.to_csv(index=False).encode())
    differ = result[result.agreement == "DIFFERS"]
    names = [" ".join(filter(None, row)) for row in differ[KEY].itertuples(index=False)]
    for name, row in zip(names[:SHOWN], differ.itertuples(), strict=False):
        print(f"{name}: {row.value_then:.9g} then, {row.value_now:.9g} now")
    counts = result.agreement.value_counts()
    skipped = counts.pop("not checked") if "not checked" in counts else 0
    said = ", ".join(f"{count:,} {word}" for word, count in counts.items())
    print(f"{counts.sum():,} numbers measured again: {said or 'none'}")
    print(f"{skipped:,} numbers not checked; all are in {files.display_path(path)}")
    if names:
        problems.append(f"{len(names):,} numbers are not reproduced, the first is {names[0]}")
    if problems:
        raise InputError("; ".join(problems) + ".")


def _execute(step: str, values: dict[str, Any], folder: Path) -> None:
    try:
        execute(step, values, folder)
    except ThresholdMissed as error:  # a result like another
        print(error)


def _same_environment(documents: Iterable[dict[str, Any]]) -> bool:
    """Are libraries and machine the recorded ones? Prints those that are not."""
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


def _weights(sha256: str, *places: Path | str) -> str:
    for place in (*places, "checkpoints/certified"):
        found = files.root() / place
        if place and found.exists() and _sha256(found) == sha256:
            return files.relative_to_root(found.resolve())
    raise InputError(f"The weights with sha256 {sha256}, which were measured, are not here.")


def _sha256(place: Path) -> str:
    return checkpoints.load(place).sha256


def _read(path: Path) -> dict[str, Any]:
    try:
        return files.parse_json(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from None
