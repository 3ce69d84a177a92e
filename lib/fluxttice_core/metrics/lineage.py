"""The lineage's own metrics, what reaches them without a working network, and what files claim.

M operations (19,683); y (M, d) their points: P(z) in the ball, or z where there is no projection;
r (M,) the norms. Formulas: lineage README, section 5. Hierarchy, D1 to D3 and Q are the lineage's
training target on all of the data, so none of them says anything about reconstruction.
"""

import re
from functools import cache
from itertools import chain
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor

from ..model.network import D, Network
from ..model.operations import M, T, all_operations
from ..model.streams import generator
from .observation import Measurement
from .reconstruction import drawn, posterior, right_trits
from .results import Measured, Record, exact

OPERATIONS, PAIRS, TRIPLETS = 1_000, 2_000, 100_000  # drawn for D2 and D3; for D1; for triplets
GIVEN = "claimed elsewhere"
SETTINGS = re.compile(r"epoch|lambda\d|rho|phase|tau|grad_.*")  # numbers, but measures of nothing
MEANT = {  # a claim's name, "_" where A or B follows: its metrics, the likeliest first
    "coverage": ("exact match from mu", "exact match from the tangent path"),
    "coverage_": (),  # of draws by another rule in each version
    "radial_corr": ("hierarchy",),
    "richness": ("richness", "richness, hyperbolic"),
    "dist_corr": ("D3", "D2"),
    "dist_corr_": ("D2",),
    "distance_corr_": ("D2",),
    "v5.11 distance_corr_": ("D1",),
    "Q": ("Q (D3)", "Q (D2)"),
    "Q_": ("Q (D2)",),
    "r_v0": ("radius_v0",),
    "r_v9": ("radius_v9",),
}  # any other: the metric of that very name


class Claim(Record):
    """A number that a file stores of itself, and what became of it."""

    name: str
    stored: float
    measured: Measured | None
    verdict: Literal["agrees", "differs", "cannot be recomputed"]
    definition: str


class Lineage(Record):
    """What a file of the original's is, and what it has by the lineage's own metrics.

    left_out: tensor → why nothing measured needs it; stated: max_radius and curvature of each
    projection, and where each comes from; inherited: tensors bit-equal to those of a given file.
    measured: by encoder; beside: each metric's hull over `cheap_points`, and over both encoders of
    five "untrained" networks of this layout.
    """

    layout: str
    vaes: tuple[str, ...]
    left_out: dict[str, str]
    stated: dict[str, dict[str, tuple[float, str]]]
    measured: dict[str, dict[str, Measured]]
    beside: dict[str, dict[str, tuple[float, float]]]
    claims: list[Claim]
    inherited: list[str]

    def decides(self, name: str, vae: str) -> bool:
        """Is the whole interval beyond all that stands beside it, but the ceilings? (Some must.)"""
        key, sign = ("hierarchy", -1) if name.startswith("hierarchy") else (name, 1)
        floors = [at.get(key, ()) for what, at in self.beside.items() if "ceiling" not in what]
        row = self.measured[vae][name]
        reached = max((sign * end for end in chain(*floors)), default=np.inf)
        return min(sign * row.low, sign * row.high) > reached


def lineage(
    model: Network, claims: dict[str, Any], base: Network | None, p: Measurement
) -> Lineage:
    """All of `Lineage`, of a network of the original's; `base`: what it may have inherited from."""
    measured = {vae: measure(model, vae, 10, p.seed) for vae in model.encoders}
    rng, theirs = generator(p.seed, "cheap points"), base.tensors if base else {}
    beside = {k: [of_points(y, 1.0, rng) for y in ys] for k, ys in cheap_points(p.seed).items()}
    beside["untrained"] = []
    for fresh in map(model.untrained, range(p.untrained_seed, p.untrained_seed + 5)):
        for vae in model.encoders:
            found = {name: row.value for name, row in measure(fresh, vae, 2, p.seed).items()}
            beside["untrained"] += [found, {"hierarchy": found.pop("hierarchy of mu")}]
    tables = {what: pd.DataFrame(rows) for what, rows in beside.items()}
    return Lineage(
        layout=model.layout,
        vaes=model.vaes,
        left_out=model.left_out,
        stated={vae: ball.stated for vae, ball in model.projections.items()},
        measured=measured,
        beside={k: {name: (t[name].min(), t[name].max()) for name in t} for k, t in tables.items()},
        claims=compare(claims, measured, model.layout),
        inherited=[k for k, v in model.tensors.items() if k in theirs and v.equal(theirs[k])],
    )


@cache
def valuation() -> Tensor:
    """v (M,), int64 0 … 9: how often 3 divides the index (index 0: 9), which is the number of
    leading -1 in the table. Level sizes 13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1."""
    return (all_operations() == -1).cumprod(1).sum(1)


def correlation(a: object, b: object, ranks: bool = True) -> float:
    """Spearman's coefficient (average ranks), or Pearson's; 0 where one side is constant."""
    x, y = (np.asarray(side, dtype=np.float64) for side in (a, b))
    x, y = (pd.Series(side).rank().to_numpy() for side in (x, y)) if ranks else (x, y)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def of_points(y: Tensor, c: float | None, rng: torch.Generator) -> dict[str, float]:
    """Every metric of one set of points y (M, d), by name; random pairs come from `rng`.

    - hierarchy: Spearman(v, r); -1 with one radius a level, never below -0.83205 without ties.
    - D1 (v5.11): Pearson(Poincaré distance, 3·exp(-v(|i-j|)/3)), 2,000 pairs.
    - D2 (v5.12): Spearman(‖y_i-y_j‖, |v(i)-v(j)|), all pairs of 1,000 operations.
    - D3 (v5.12's best_Q): Spearman(|r_i-r_j|, |v(i)-v(j)|), the same pairs.
    - Q: D + 1.5·|hierarchy|, with each D. No D is a p-adic distance.
    - triplets (v5.7): share where "v(i-j) > v(i-k)" equals "‖y_i-y_j‖ < ‖y_i-y_k‖", ties of v
      counting as no: a coin has 0.50, points all equal 0.75.
    - richness: mean over the levels of the population variance of r, and of the hyperbolic radius
      2/√c·artanh(√c·r); level 9, of one, counts 0.

    `c` is the ball's curvature, None where there is no ball. Where a point lies outside the ball,
    D1 and the hyperbolic radius do not exist, and have no row.
    """
    v, y = valuation(), y.double().cpu()
    r = y.norm(dim=1)
    levels = [v == level for level in range(10)]
    i, j, k = torch.randint(M, (3, TRIPLETS), generator=rng)
    nearer = (y[i] - y[j]).norm(dim=1) < (y[i] - y[k]).norm(dim=1)
    closer = v[(i - j).abs()] > v[(i - k).abs()]
    some = torch.randperm(M, generator=rng)[:OPERATIONS]
    apart = torch.pdist(v[some, None].double())
    found = {
        "hierarchy": correlation(v, r),
        "D2": correlation(torch.pdist(y[some]), apart),
        "D3": correlation(torch.pdist(r[some, None]), apart),
        "triplets": float((nearer == closer).double().mean()),
        "mean_radius": float(r.mean()),
        "std_radius": float(r.std()),
        "radius_min": float(r.min()),
        "radius_max": float(r.max()),
        "radius_range": float(r.max() - r.min()),
        "radius_v0": float(r[levels[0]].mean()),
        "radius_v9": float(r[levels[9]].mean()),
        "richness": float(np.mean([r[level].var(correction=0) for level in levels])),
    }
    if c and c**0.5 * float(r.max()) < 1:
        far = 2 / c**0.5 * (c**0.5 * r).atanh()
        found["richness, hyperbolic"] = float(np.mean([far[x].var(correction=0) for x in levels]))
        i, j = i[:PAIRS], j[:PAIRS]
        room = (1 - c * r[i].square()) * (1 - c * r[j].square())
        distance = (1 + 2 * c * (y[i] - y[j]).square().sum(1) / room).acosh()
        found["D1"] = correlation(distance, 3 * (-v[(i - j).abs()] / 3).exp(), ranks=False)
    q = {f"Q ({d})": found[d] + 1.5 * abs(found["hierarchy"]) for d in found if d[0] == "D"}
    return found | q


@torch.no_grad()
def measure(model: Network, vae: str, draws: int, seed: int) -> dict[str, Measured]:
    """`of_points` of posterior samples of all operations, and the hierarchy of mu; and exact match
    from both inputs that a decoder may mean, mu and its tangent path, where it has them.

    The interval is that of one draw more, which is what a file stores: mean ± t·s·√(1 + 1/draws),
    from 2 draws or more; at 99.9 %, so that of some thirty true claims none differs by chance.
    """
    q, rng = posterior(model, vae), generator(seed, "lineage", vae)
    ball = model.projections.get(vae)
    mu = ball(q.mu) if ball else q.mu
    found = {"hierarchy of mu": exact(correlation(valuation(), mu.norm(dim=1).cpu()), M)}
    for name, z in {"mu": q.mu, **({"the tangent path": ball.tangent(mu)} if ball else {})}.items():
        if vae in model.vaes and z.isfinite().all():
            share = right_trits(model, vae, z).all(1).double().mean()
            found[f"exact match from {name}"] = exact(float(share), M)
    c = ball.stated["curvature"][0] if ball else None
    z = (drawn(q, 1.0, rng) for _ in range(draws))
    table = pd.DataFrame(of_points(ball(x) if ball else x, c, rng) for x in z).dropna(axis=1)
    wide = stdtrit(draws - 1, 0.9995) * (1 + 1 / draws) ** 0.5
    for name, x in table.items():
        ends = x.mean() + wide * x.std() * np.array([0, -1, 1])
        numbers = dict(zip(("value", "low", "high"), ends.tolist(), strict=True))
        found[name] = Measured(**numbers, n=draws, method="99.9 %, Student t, of one draw more")
    return found


def cheap_points(seed: int) -> dict[str, list[Tensor]]:
    """Points (M, d) of the unit ball that need no network: ceilings and floors of the metrics.

    The ceilings have one radius a level, and their order without ties. Hierarchies: 0, -1,
    -0.83205, -0.80, -0.31, about 0, and of five random affine maps of the trits -0.2 to 0.4.
    """
    rng, v, ops = generator(seed, "cheap radii"), valuation().double(), all_operations().double()
    noise = torch.rand(M, generator=rng, dtype=torch.float64)
    radii = {
        "all equal": torch.zeros(M, dtype=torch.float64),
        "ceiling": (9 - v) / 10,
        "ceiling, no ties": (9 - v + noise / 1000) / 10,
        "first trit": ((ops[:, 0] > -1) + noise / 1000) / 2,
        "mean trit": (ops.mean(1) + 1) / 2.1,
        "random": noise,
    }
    affine = torch.randn(5, T + 1, D, generator=rng, dtype=torch.float64)
    maps = torch.nn.functional.pad(ops, (0, 1), value=1) @ affine
    random_maps = [0.95 * y / y.norm(dim=1).max() for y in maps]
    return {what: [r[:, None]] for what, r in radii.items()} | {"random maps": random_maps}


def compare(
    claims: dict[str, Any], measured: dict[str, dict[str, Measured]], layout: str
) -> list[Claim]:
    """Each number a file claims, or someone for it, beside ours under that name's own definition.

    Where the lineage has used a name for several things, `definition` says which one fits, or the
    likeliest. A claim agrees inside the interval, give or take 1e-6.

    Args:
        claims: name → number, of a "_history" the last; so in its part "metrics", and in GIVEN.
        measured: `measure` of each encoder.
    """
    rows, parts = [], [(claims, ""), (claims.get("metrics"), ""), (claims.get(GIVEN), f", {GIVEN}")]
    found = [(part.items(), told) for part, told in parts if isinstance(part, dict)]
    for name, stored, told in [
        (name, value, told) for items, told in found for name, value in items
    ]:
        if name.endswith("_history") and isinstance(stored, list) and stored:
            stored = stored[-1]
        if type(stored) not in (int, float) or abs(stored) >= 1e300 or SETTINGS.fullmatch(name):
            continue
        vae, base = (name[-1], name[:-2]) if name[-2:] in ("_A", "_B") else ("", name)
        keys = (f"{layout[:5]} {base}_", f"{base}_", base) if vae else (base,)
        metrics = next((MEANT[key] for key in keys if key in MEANT), (base,))
        pairs = [(x, metric) for metric in metrics for x in vae or "BA"]
        ours = {f"{m} of {x}": measured[x][m] for x, m in pairs if m in measured[x]}
        fits = [d for d, m in ours.items() if m.low - 1e-6 <= stored <= m.high + 1e-6]
        best = name.startswith("best_")
        lost = "its rule, data or draws are not in the file"
        why = "the best so far: of other weights, perhaps" if best else lost
        definition = next(iter([*fits, *ours]), why)
        verdict = "agrees" if fits else "differs" if ours else "cannot be recomputed"
        row = {"measured": ours.get(definition), "verdict": verdict, "definition": definition}
        rows.append(Claim(name=f"{name}{told}", stored=stored, **row))
    return rows
