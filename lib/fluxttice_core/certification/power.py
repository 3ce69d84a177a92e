"""Power: which defects the gates find, and how often they pass a network that has none.

Generators are planted: counts of K prior latents are drawn from a known P, as a decoder that is
certain of every operation would give them, and go through the gates' own code. What is drawn from
binomials (posterior samples, path consistency) is computed. Exact match of all operations finds
everything.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import bdtr, betaincinv

from .. import files, parallel
from ..metrics import path_consistency, reconstruction
from ..metrics.gates import GATES, Certify, metric_of, verdict_of
from ..metrics.intervals import CONFIDENCE
from ..metrics.marginal import GROUPS, Marginal
from ..metrics.measurement import GENERATES, METRICS
from ..model.operations import M
from ..model.streams import generator
from ..parallel import Job

TRIALS = 400  # 0 refusals of so many show that fewer than 1 % are refused
GENERATION = tuple(gate for gate in GATES if metric_of(gate) in GENERATES)
LESS = {  # defect → what the operations it strikes have left of their probability
    "never generated": 0.0,
    "at half their probability": 0.5,
}
COUNTS = (0, 1, 2, 5, 20, 100, 200, 1_000)
SAMPLED = reconstruction.DRAWS * M
BINOMIAL = {
    "min_exact_match_sampled": ("operations lost from a posterior sample", SAMPLED),
    "min_path_consistency": ("prior latents not joined to their code", path_consistency.N),
}


def path() -> Path:
    return files.root() / "reports" / "power.csv"


def planted(count: int, left: float, k: int, seed: int) -> Marginal:
    """Counts of `k` latents of a certain decoder whose first `count` operations have `left` of a
    uniform probability, the others sharing the rest."""
    p = np.full(M, 1.0)
    p[:count] = left
    rng = np.random.default_rng(generator(seed, "power", count, left).initial_seed())
    counts = rng.multinomial(k // GROUPS, p / p.sum(), size=GROUPS)
    return Marginal(counts.astype(float), counts, np.zeros(GROUPS), k)


def verdicts(count: int, left: float, p: Certify, seed: int) -> dict[str, str]:
    """Each gate of GENERATION over one planted generator."""
    seen: Any = SimpleNamespace(marginal=planted(count, left, p.k, seed))
    found = {gate: METRICS[metric_of(gate)].compute(seen) for gate in GENERATION}
    return {g: verdict_of(m.low, m.high, getattr(p, g), g) for g, m in found.items()}


def table(p: Certify, trials: int = TRIALS) -> pd.DataFrame:
    """One row a defect and size: how often each gate, and any of them, does not pass it.

    The sizes are COUNTS; the row of none says how often a perfect generator is refused.
    """
    jobs = [
        Job(f"{count} operations {defect}", _refused, (count, defect, p, trials))
        for defect, left in LESS.items()
        for count in COUNTS
        if count or left == 0
    ]
    return pd.DataFrame(parallel.each(jobs, print))


def _refused(count: int, defect: str, p: Certify, trials: int) -> dict[str, object]:
    found = pd.DataFrame(verdicts(count, LESS[defect], p, seed) for seed in range(trials)) != "PASS"
    return {
        "operations": count,
        "defect": defect if count else "none",
        "trials": trials,
        **{gate: found[gate].mean() for gate in GENERATION},
        "any": found.any(axis=1).mean(),
    }


def detected(power: pd.DataFrame, p: Certify, share: float = CONFIDENCE) -> pd.DataFrame:
    """The smallest defect of each kind that each gate fails to pass in `share` of certificates."""
    rows = []
    for gate in (*GENERATION, "any"):
        line: dict[str, object] = {"gate": gate}
        for defect in LESS:
            hit = power[(power.defect == defect) & (power[gate] >= share)]
            line[f"operations {defect}"] = f"{hit.operations.min():,}" if len(hit) else "none tried"
        rows.append(line)
    for gate, (what, n) in BINOMIAL.items():
        rows.append({"gate": gate, what: f"{_binomial(getattr(p, gate), n, share):.4%}"})
    lost = "1" if p.min_exact_match == 1 else f"more than {1 - p.min_exact_match:.4%} of all"
    rows.append({"gate": "min_exact_match", "operations lost": lost})
    rows.append({"gate": "max_rate", "nats above the bound": "any: it is exact"})
    return pd.DataFrame(rows).fillna("–")


def _binomial(bound: float, n: int, share: float) -> float:
    """The least share of misses that a gate with `n` draws does not pass in `share` of cases."""
    misses = np.arange(0, int(n * (1 - bound)) + 2)
    high = betaincinv(misses + 1, n - misses, (1 + CONFIDENCE) / 2)  # Clopper-Pearson
    most = int(misses[high <= 1 - bound].max(initial=-1))  # the most misses that still pass
    grid = np.linspace(0, 5 * (1 - bound), 5_001)
    return float(grid[np.argmax(bdtr(most, n, grid) <= 1 - share)])


def write(p: Certify) -> pd.DataFrame:
    """`table` of these bounds, stored as reports/power.csv with bounds and code beside it."""
    found = table(p).assign(**_bounds(p))
    files.write_bytes(path(), found.to_csv(index=False).encode())
    return found


def stored(p: Certify) -> pd.DataFrame | None:
    """reports/power.csv, or None where it is of other bounds, latents or code than now."""
    if not path().is_file():
        return None
    found = pd.read_csv(path())
    mine = _bounds(p)
    told = found.reindex(columns=list(mine))  # NaN where it had none
    return found if (told == list(mine.values())).all(axis=None) else None


def _bounds(p: Certify) -> dict[str, float | str]:
    code = files.code_hash("model", "metrics")
    return {f"bound {name}": getattr(p, name) for name in (*GENERATION, "k")} | {"code": code}
