"""Power: which defects the gates find, and how often they refuse a network without defects.

Generators are simulated: counts of K prior latents are drawn from a known P, as a saturated decoder
would give them, and are judged by the gates' own code. The power of gates on binomial counts
(posterior samples, cell connection) is computed. Exhaustive gates find every defect.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import bdtr, betaincinv

from .. import parallel
from ..metrics import connection, reconstruction
from ..metrics.gates import PARTS, Certify, judged
from ..metrics.intervals import CONFIDENCE
from ..metrics.marginal import GROUPS, Marginal
from ..model.operations import M
from ..model.streams import generator
from ..report import sweep
from ..report.sweep import Point

TRIALS = 400  # 0 refusals of so many show that fewer than 1 % are refused
GENERATION = PARTS["generation"]
DEFECTS = {  # defect → the share of their probability that the affected operations keep
    "never generated": 0.0,
    "at half their probability": 0.5,
}
COUNTS = (0, 1, 2, 5, 20, 100, 200, 1_000)
SAMPLED = reconstruction.DRAWS * M
BINOMIAL = {
    "min_exact_match_sampled": ("operations lost from a posterior sample", SAMPLED),
    "min_cell_connection": ("prior latents not joined to their code", connection.N),
}


def simulated_marginal(count: int, kept: float, k: int, seed: int) -> Marginal:
    """Argmax counts of `k` latents of a saturated decoder with a defect.

    Its first `count` operations keep the share `kept` of a uniform probability, and the others
    share the rest equally.
    """
    p = np.full(M, 1.0)
    p[:count] = kept
    rng = np.random.default_rng(generator(seed, "power", count, kept).initial_seed())
    counts = rng.multinomial(k // GROUPS, p / p.sum(), size=GROUPS)
    return Marginal(counts.astype(float), counts, np.zeros(GROUPS), k)


def points(p: Certify) -> list[Point]:
    """Each defect with each number of operations in COUNTS; 0 is a perfect generator."""
    parameters = {name: getattr(p, name) for name in (*GENERATION, "k", "split_seed")}
    return [
        {"operations": count, "defect": defect, "trials": TRIALS, "parameters": parameters}
        for defect in DEFECTS
        for count in COUNTS
        if count or defect == "never generated"
    ]


def not_passed(point: Point) -> list[dict]:
    """One row: the share of trials in which each gate, and any of them, does not pass."""
    count, kept = point["operations"], DEFECTS[point["defect"]]
    p: Any = SimpleNamespace(**point["parameters"])
    trials = []
    for seed in range(point["trials"]):
        marginal = simulated_marginal(count, kept, p.k, seed)
        evaluated: Any = SimpleNamespace(vae="", marginal=marginal)
        trials.append({row.gate: row.verdict for row in judged(evaluated, p, GENERATION)})
    found = pd.DataFrame(trials) != "PASS"
    return [
        {
            "operations": count,
            "defect": point["defect"] if count else "none",
            "trials": point["trials"],
            **{gate: found[gate].mean() for gate in GENERATION},
            "any": found.any(axis=1).mean(),
        }
    ]


def run(p: Certify) -> pd.DataFrame:
    """The rows of `points`, stored as reports/power.csv."""
    with parallel.executor() as workers:
        return sweep.sweep("power", not_passed, points(p), workers)


def stored(p: Certify) -> pd.DataFrame | None:
    """reports/power.csv, or None if it is of other bounds or code than now."""
    return sweep.stored("power", points(p))


def minimum_detectable_defect(
    power: pd.DataFrame, p: Certify, share: float = CONFIDENCE
) -> pd.DataFrame:
    """The smallest defect of each kind that a gate fails to pass in `share` of certificates."""
    rows = []
    for gate in (*GENERATION, "any"):
        line: dict[str, object] = {"gate": gate}
        for defect in DEFECTS:
            hit = power[(power.defect == defect) & (power[gate] >= share)]
            line[f"operations {defect}"] = f"{hit.operations.min():,}" if len(hit) else "none tried"
        rows.append(line)
    for gate, (title, n) in BINOMIAL.items():
        rows.append({"gate": gate, title: f"{_binomial(getattr(p, gate), n, share):.4%}"})
    for gate in ("min_exact_match", "min_exact_match_worst_kind"):  # both exhaustive
        bound, of = getattr(p, gate), "all" if gate == "min_exact_match" else "its kind"
        lost = "1" if bound == 1 else f"more than {1 - bound:.4%} of {of}"
        rows.append({"gate": gate, "operations lost": lost})
    rows.append({"gate": "max_rate", "nats above the bound": "any: it is exact"})
    return pd.DataFrame(rows).fillna("–")


def _binomial(bound: float, n: int, share: float) -> float:
    """The least share of misses that a gate with `n` draws does not pass in `share` of cases."""
    misses = np.arange(0, int(n * (1 - bound)) + 2)
    high = betaincinv(misses + 1, n - misses, (1 + CONFIDENCE) / 2)  # Clopper-Pearson
    most = int(misses[high <= 1 - bound].max(initial=-1))  # the most misses that still pass
    grid = np.linspace(0, 5 * (1 - bound), 5_001)
    return float(grid[np.argmax(bdtr(most, n, grid) <= 1 - share)])
