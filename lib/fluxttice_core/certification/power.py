"""Power: which defects the gates find, and how often they refuse a network without defects.

Generators are simulated: counts of K prior latents are drawn from a known P, as a saturated decoder
gives them, and are judged by the gates' own code. The power of gates on binomial counts is
computed. Exact gates find every defect.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from .. import files, parallel
from ..metrics import agreement, path_consistency, reconstruction
from ..metrics.gates import GATES, Certify, evaluate_gates, verdict_of
from ..metrics.intervals import CONFIDENCE
from ..metrics.marginal import GROUPS, Marginal
from ..metrics.measurement import GENERATES, METRICS
from ..metrics.results import binomial
from ..model.operations import M
from ..model.streams import generator
from ..sweep import Point, stored_rows, sweep

CODE = (*files.MEASURING, "certification/power.py")
TRIALS = 400  # 0 refusals of so many show that fewer than 1 % are refused
GENERATION = [gate for gate in GATES if gate[4:] in GENERATES]
MANY = (1, 2, 5, 20, 100, 200, 1_000)
# Defect → the affected operations' share of a uniform frequency, and how many are affected.
DEFECTS = {
    "none": (1.0, (0,)),
    "never generated": (0.0, MANY),
    "at half their frequency": (0.5, MANY),
    "at a fifth of its frequency": (0.2, (1,)),
    "3 times too frequent": (3.0, (1,)),
    "8 times too frequent": (8.0, (1,)),
}
BINOMIAL = {  # gate → its number of draws, and what a miss is
    "min_exact_match_sampled": (reconstruction.DRAWS * M, "posterior samples decoded wrongly"),
    "min_path_consistency": (path_consistency.N, "prior latents not joined to their code"),
    "min_agreement_float64": (agreement.LATENTS, "decisions that float64 changes"),
    "min_agreement_small_batches": (agreement.ROWS, "decisions that small batches change"),
}


def simulated_marginal(count: int, frequency: float, k: int, seed: int) -> Marginal:
    """Counts of `k` latents; the first `count` operations have `frequency` times the probability
    of the others."""
    p = np.ones(M)
    p[:count] = frequency
    rng = np.random.default_rng(generator(seed, "power", count, frequency).initial_seed())
    counts = rng.multinomial(k // GROUPS, p / p.sum(), size=GROUPS)
    return Marginal(counts.astype(float), counts, np.zeros(GROUPS), k)


def points(p: Certify) -> list[Point]:
    """Each defect with each number of operations; "none" is a perfect generator."""
    bounds = {gate: getattr(p, gate) for gate in GENERATION}
    return [
        {"defect": defect, "operations": count, "trials": TRIALS, "k": p.k, "bounds": bounds}
        for defect, (_, counts) in DEFECTS.items()
        for count in counts
    ]


def not_passed(point: Point) -> list[dict]:
    """The share of trials in which each gate, and any of them, does not pass: a row a gate."""
    frequency, trials = DEFECTS[point["defect"]][0], []
    for seed in range(point["trials"]):
        marginal = simulated_marginal(point["operations"], frequency, point["k"], seed)
        evaluation: Any = SimpleNamespace(vae="", marginal=marginal)
        trials.append({g.gate: g.verdict for g in evaluate_gates(evaluation, point["bounds"])})
    missed = pd.DataFrame(trials) != "PASS"
    missed["any"] = missed.any(axis=1)
    about = {name: point[name] for name in ("defect", "operations", "trials")}
    return [{**about, "gate": gate, "not_passed": share} for gate, share in missed.mean().items()]


def run(p: Certify) -> pd.DataFrame:
    """The rows of `points`, stored as reports/power.csv."""
    with parallel.executor() as workers:
        return sweep("power", not_passed, points(p), workers, CODE)


def stored(p: Certify) -> pd.DataFrame | None:
    """reports/power.csv, or None if it is of other bounds or code than now."""
    return stored_rows("power", points(p), CODE)


def false_refusals(power: pd.DataFrame) -> str:
    """How often a perfect generator is refused, in a sentence."""
    [row] = power[(power.defect == "none") & (power.gate == "any")].itertuples()
    share = binomial(round(row.not_passed * row.trials), row.trials)
    return (
        f"A VAE that generates perfectly did not pass in {share.value:.2%} of {row.trials} trials "
        f"(95 %: {share.low:.2%} … {share.high:.2%})."
    )


def minimum_detectable_defects(power: pd.DataFrame, p: Certify) -> pd.DataFrame:
    """The smallest defects that each gate does not pass in 95 % of certificates."""
    found = power[power.not_passed >= CONFIDENCE].groupby(["gate", "defect"], sort=False)
    least, finds = found.operations.min().reset_index(), {}
    for gate in GATES:
        bound, kinds = getattr(p, gate), least[least.gate == gate]
        if gate in BINOMIAL:
            n, miss = BINOMIAL[gate]
            text = f"{detectable_share(gate, bound, n):.2g} of {miss}"
        elif gate in GENERATION:  # defect: how many operations
            text = "; ".join(f"{x.defect}: {x.operations:,}" for x in kinds.itertuples())
        elif gate == "min_exact_match":
            text = "1 operation" if bound == 1 else f"{1 - bound:.2%} of the operations"
        else:
            text = "any value beyond the bound and its interval"
        finds[METRICS[gate[4:]].title] = text or "none that was tried"
    return pd.DataFrame(finds.items(), columns=["gate", "finds"])


def detectable_share(gate: str, bound: float, n: int) -> float:
    """The least share of misses that a gate with `n` draws does not pass in 95 % of cases."""
    for misses in range(int(n * (1 - bound)) + 2):
        counted = binomial(n - misses, n)
        if verdict_of(counted.low, counted.high, bound, gate) != "PASS":
            break
    # At this share, fewer than `misses` of n occur in 5 % of cases.
    return float(betaincinv(misses, n - misses + 1, CONFIDENCE))
