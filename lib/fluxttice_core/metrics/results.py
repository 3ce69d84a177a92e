"""Measured numbers: a value with its interval, and the flat row that files and tables read."""

from collections.abc import Callable
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from .intervals import clopper_pearson, student_t

EXHAUSTIVE = "exact (all operations evaluated)"


class Record(BaseModel):
    """A frozen row that refuses unknown names and numbers that are not finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True
    )

    def to_json(self) -> bytes:
        """Indented JSON with the names of the schema and a newline at the end."""
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()


class Measured(Record):
    """A number and its 95 % interval.

    value: None where the metric is undefined.
    low, high: the interval. Both equal `value` where nothing was drawn; both are None where the
        value is None, or where no interval is known.
    n: number of draws or cases.
    method: how the interval was made, or EXHAUSTIVE.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str

    def map(self, function: Callable[[float], float]) -> Self:
        """A monotone function of the value and of both ends; None stays None."""
        if self.value is None:
            return self
        value, *ends = (function(x) for x in (self.value, self.low, self.high))
        return self.model_copy(update={"value": value, "low": min(ends), "high": max(ends)})

    def divided_by(self, limit: float) -> Self:
        """The number as a share of `limit` > 0."""
        return self.map(lambda x: x / limit)


class Row(Record):
    """One measured number of one VAE of one network; the fields of `Measured`, flat.

    network: "model", or the name of a control; seed: the control's seed, None for the model.
    vae: "A" or "B"; metric: a name of `measurement.METRICS` or `measurement.details`.
    """

    network: str
    seed: int | None
    vae: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str


def exact_value(value: float, n: int, method: str = EXHAUSTIVE) -> Measured:
    """A number over all cases, so its interval is a point."""
    return Measured(value=value, low=value, high=value, n=n, method=method)


def mean_of_trials(values: object, low: float = -np.inf, high: float = np.inf) -> Measured:
    """The mean of independent trials (n,), at least 2, with Student's t interval.

    Value and interval are cut to `low` … `high`, where the truth is known to lie.
    """
    x = np.asarray(values, dtype=float)
    value, *ends = np.clip([x.mean(), *student_t(x)], low, high).tolist()
    return Measured(value=value, low=ends[0], high=ends[1], n=len(x), method="Student t")


def proportion(hits: object) -> Measured:
    """Share of the true among independent cases, `hits` (…) bool, by Clopper and Pearson."""
    x = np.asarray(hits, dtype=bool)
    return binomial(int(x.sum()), x.size)


def binomial(successes: int, n: int) -> Measured:
    """As `proportion`, from the number of successes among `n` cases."""
    low, high = clopper_pearson(successes, n)
    return Measured(value=successes / n, low=low, high=high, n=n, method="Clopper-Pearson")
