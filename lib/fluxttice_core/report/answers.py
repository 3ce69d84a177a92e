"""What the evidence answers: does a part of a recipe help, hurt, do nothing, or is it undecided?"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ..metrics.intervals import CONFIDENCE, student_t
from ..metrics.observation import metric

MARGIN = 1.0  # points (nats for the rate): less than that is called no effect
# What is asked of; shares in percentage points, the rate in nats, where less is better.
ASKED_OF = {"argmax_coverage_50000": 100, "exact_match_sampled": 100, "mig": 100, "rate": -1}


class Answer(NamedTuple):
    """One paired difference over seeds, with minus without the part; + is better."""

    question: str
    vae: str
    metric: str
    seeds: int
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low > 0:
            return "helps"
        if self.high < 0:
            return "hurts"
        if self.low > -MARGIN and self.high < MARGIN:
            return "no effect"
        half = (self.high - self.low) / 2
        return f"undecided: an effect below {half:.2g} would not show" if self.seeds > 1 else "–"


def answers(frame: pd.DataFrame, questions: dict[str, tuple[str, str]]) -> list[Answer]:
    """Every question × metric × VAE that the evidence has data for.

    `questions`: question → (the whole recipe, the recipe without the part). Intervals are Student
    t at 1 - 5 %/n over all n differences together (Bonferroni): where there is no effect
    anywhere, one is claimed somewhere in at most 5 % of cases.
    """
    pairs = []
    for question, names in questions.items():
        for name, factor in ASKED_OF.items():
            for vae in sorted(set(frame.vae)):
                table = frame[frame.vae == vae].pivot(index="seed", columns="recipe", values=name)
                if set(names) <= set(table.columns):
                    whole, without = (table[n] for n in names)
                    points = (factor * (whole - without)).dropna().to_numpy()
                    if len(points):
                        pairs.append((question, vae, name, points))
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(pairs))
    found = []
    for question, vae, name, x in pairs:
        low, high = student_t(x, confidence) if len(x) > 1 else (-np.inf, np.inf)
        found.append(Answer(question, vae, name, len(x), float(x.mean()), low, high))
    return found


def table(found: list[Answer]) -> pd.DataFrame:
    """One row an answer, as a reader sees it."""
    return pd.DataFrame(
        {
            "question": a.question,
            "VAE": a.vae,
            "of": metric(a.metric).title,
            "seeds": a.seeds,
            "better by": f"{a.difference:+.2f} ({a.low:+.2f} … {a.high:+.2f})",
            "unit": "nats" if a.metric == "rate" else "points",
            "answer": a.verdict,
        }
        for a in found
    )
