"""What a measured number is: the typed rows that files, tables, figures and gates read by name.

The JSON schemas come from these classes (`model_json_schema`), so a file cannot say what a row
does not.
"""

from collections.abc import Callable
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from .intervals import clopper_pearson, student_t

CENSUS = "exact: counted or computed, nothing drawn"


class Record(BaseModel):
    """A row: no surplus name, no number that is not finite, never changed once made."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True
    )

    def to_json(self) -> bytes:
        """Indented JSON with the names of the schema and a newline at the end."""
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()


class Measured(Record):
    """A number and its 95 % interval.

    value: None where the metric is undefined (a constant code has no direction), else finite.
    low, high: the interval; both equal `value` where nothing was drawn, None where it is.
    n: how many draws or cases stand behind it.
    method: how the interval was made, or CENSUS.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str

    def mapped(self, function: Callable[[float], float]) -> Self:
        """A monotone function of it, and of both ends; None stays None."""
        if self.value is None:
            return self
        value, *ends = (function(x) for x in (self.value, self.low, self.high))
        return self.model_copy(update={"value": value, "low": min(ends), "high": max(ends)})

    def of(self, limit: float) -> Self:
        """The same as a share of `limit` > 0."""
        return self.mapped(lambda x: x / limit)


def exact(value: float, n: int, method: str = CENSUS) -> Measured:
    """What was counted or computed over all there is: its interval is a point."""
    return Measured(value=value, low=value, high=value, n=n, method=method)


def mean(values: object, low: float = -np.inf, high: float = np.inf) -> Measured:
    """The mean of independent trials (n,), at least 2, with Student's t interval.

    Value and interval are cut to `low` … `high`, where the truth is known to lie.
    """
    x = np.asarray(values, dtype=float)
    value, *ends = np.clip([x.mean(), *student_t(x)], low, high).tolist()
    return Measured(value=value, low=ends[0], high=ends[1], n=len(x), method="Student t")


def share(hits: object) -> Measured:
    """Share of the true among independent cases, `hits` (…) bool, by Clopper and Pearson."""
    x = np.asarray(hits, dtype=bool)
    return counted(int(x.sum()), x.size)


def counted(successes: int, n: int) -> Measured:
    """As `share`, from the count of the true among `n`."""
    low, high = clopper_pearson(successes, n)
    return Measured(value=successes / n, low=low, high=high, n=n, method="Clopper-Pearson")
