"""The lineage's own metrics, what reaches them without a working network, and what files claim.

M operations (19,683); y (M, d) their points: P(z) in the ball, or z where there is no projection;
r (M,) the norms. Hierarchy, D1 to D3 and Q are the lineage's training target on all of the data,
so none of them says anything about reconstruction.
"""

import re
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor

from ..errors import InputError
from ..model.network import D, Network
from ..model.operations import M, T, all_operations
from ..model.streams import generator
from .measurement import better
from .reconstruction import drawn, posterior, right_trits
from .results import Measured, Record, exact

OPERATIONS, PAIRS, TRIPLETS = 1_000, 2_000, 100_000  # drawn for D2 and D3; for D1; for triplets
ELSEWHERE = ", claimed elsewhere"  # than in the file
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
        key = "hierarchy" if "hierarchy" in name else name
        floors = [at.get(key) for what, at in self.beside.items() if "ceiling" not in what]
        up = -1 if key == "hierarchy" else 1
        return better(self.measured[vae][name], [*filter(None, floors)], up)


@cache
def valuation() -> Tensor:
    """v (M,), int64 0 … 9: how often 3 divides the index (index 0: 9), which is the number of
    leading -1 in the table. Level sizes 13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1."""
    return (all_operations() == -1).cumprod(1).sum(1)


def correlation(a: object, b: object, ranks: bool = True) -> float:
    """Spearman's coefficient (average ranks), or Pearson's; 0 where one side is constant.

    Raises:
        InputError: a value that is not finite: it has no place among the others.
    """
    x, y = (np.asarray(side, dtype=np.float64) for side in (a, b))
    if not np.isfinite([x, y]).all():
        raise InputError("an encoder gives codes that are not finite: no metric of them exists.")
    x, y = (pd.Series(side).rank().to_numpy() for side in (x, y)) if ranks else (x, y)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale else 0.0


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
    i, j, k = torch.randint(M, (3, TRIPLETS), generator=rng)
    nearer = (y[i] - y[j]).norm(dim=1) < (y[i] - y[k]).norm(dim=1)
    closer = v[(i - j).abs()] > v[(i - k).abs()]
    some = torch.randperm(M, generator=rng)[:OPERATIONS]
    apart = torch.pdist(v[some, None].double())
    found = {
        "hierarchy": correlation(v, r),
        "D2": correlation(torch.pdist(y[some]), apart),
        "D3": correlation(torch.pdist(r[some, None]), apart),
        "triplets": (nearer == closer).double().mean(),
        "mean_radius": r.mean(),
        "std_radius": r.std(),
        "radius_min": r.min(),
        "radius_max": r.max(),
        "radius_range": r.max() - r.min(),
        "radius_v0": r[v == 0].mean(),
        "radius_v9": r[v == 9].mean(),
        "richness": np.mean([r[v == level].var(correction=0) for level in range(10)]),
    }
    if c and c**0.5 * r.max() < 1:
        far = 2 / c**0.5 * (c**0.5 * r).atanh()
        spread = [far[v == level].var(correction=0) for level in range(10)]
        i, j = i[:PAIRS], j[:PAIRS]
        room = (1 - c * r[i].square()) * (1 - c * r[j].square())
        distance = (1 + 2 * c * (y[i] - y[j]).square().sum(1) / room).acosh()
        poincare = correlation(distance, 3 * (-v[(i - j).abs()] / 3).exp(), ranks=False)
        found |= {"richness, hyperbolic": np.mean(spread), "D1": poincare}
    q = {f"Q ({d})": found[d] + 1.5 * abs(found["hierarchy"]) for d in found if d[0] == "D"}
    return {name: float(value) for name, value in (found | q).items()}


@torch.no_grad()
def measure(model: Network, vae: str, draws: int, seed: int) -> dict[str, Measured]:
    """`of_points` of posterior samples of all operations, and the hierarchy of mu; and exact match
    from both inputs that a decoder may mean, mu and its tangent path, where it has them.

    The interval is that of one draw more, which is what a file stores: mean ± t·s·√(1 + 1/draws),
    from 2 draws or more; at 99.9 %, so that of some thirty true claims none differs by chance.
    """
    q, rng = posterior(model, vae), generator(seed, "lineage", vae)
    ball = model.projections.get(vae)
    mu, c = (ball(q.mu), ball.stated["curvature"][0]) if ball else (q.mu, None)
    found = {"hierarchy of mu": exact(correlation(valuation(), mu.norm(dim=1).cpu()), M)}
    inputs = {"mu": q.mu} | ({"the tangent path": ball.tangent(mu)} if ball else {})
    for name, z in inputs.items():
        if vae in model.vaes and z.isfinite().all():
            share = right_trits(model, vae, z).all(1).double().mean()
            found[f"exact match from {name}"] = exact(float(share), M)
    samples = (drawn(q, 1.0, rng) for _ in range(draws))
    table = pd.DataFrame(of_points(ball(z) if ball else z, c, rng) for z in samples)
    wide, method = stdtrit(draws - 1, 0.9995), "99.9 %, Student t, of one draw more"
    for name, x in table.dropna(axis=1).items():
        ends = x.mean() + wide * (1 + 1 / draws) ** 0.5 * x.std() * np.array([0, -1, 1])
        value, low, high = ends.tolist()
        found[name] = Measured(value=value, low=low, high=high, n=draws, method=method)
    return found


def cheap_points(seed: int) -> list[tuple[str, Tensor]]:
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
    points = [(what, r[:, None]) for what, r in radii.items()]
    return points + [("random maps", 0.95 * y / y.norm(dim=1).max()) for y in maps]


def beside(model: Network, untrained_seed: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Least and largest of each metric over `cheap_points`, and over both encoders of five
    "untrained" networks of this layout."""
    rng = generator(seed, "cheap points")
    rows = [(what, of_points(y, 1.0, rng)) for what, y in cheap_points(seed)]
    for fresh in map(model.untrained, range(untrained_seed, untrained_seed + 5)):
        for vae in model.encoders:
            found = {name: row.value for name, row in measure(fresh, vae, 2, seed).items()}
            rows += [("untrained", found), ("untrained", {"hierarchy": found["hierarchy of mu"]})]
    table = pd.DataFrame([row for _, row in rows], index=[what for what, _ in rows])
    parts = table.drop(columns="hierarchy of mu").groupby(level=0, sort=False)
    ends = {what: part.dropna(axis=1, how="all").agg(["min", "max"]) for what, part in parts}
    return {what: part.to_dict("list") for what, part in ends.items()}


def compare(
    claims: dict[str, Any], measured: dict[str, dict[str, Measured]], layout: str
) -> list[Claim]:
    """Each number a file claims, or someone for it, beside ours under that name's own definition.

    Where the lineage has used a name for several things, `definition` says which one fits, or the
    likeliest. A claim agrees inside the interval, give or take 1e-6; one made elsewhere, which is
    rounded, give or take half of its last decimal (of a whole number: nothing).

    Args:
        claims: name → number, of a "_history" the last; so in its part "metrics". Those made
            ELSEWHERE say so in their names, and have the decimals that they were written with.
        measured: `measure` of each encoder.
    """
    rows, inner = [], claims.get("metrics")
    for told, stored in [*claims.items(), *(inner.items() if isinstance(inner, dict) else ())]:
        if told.endswith("_history") and isinstance(stored, list) and stored:
            stored = stored[-1]
        number = type(stored) in (int, float, Decimal) and abs(stored) < 1e300
        if not number or SETTINGS.fullmatch(told):
            continue
        last = f"1e{stored.as_tuple().exponent}" if isinstance(stored, Decimal) else 0
        name, near = told.removesuffix(ELSEWHERE), 1e-6 + float(last) / 2
        vae, base = (name[-1], name[:-2]) if name[-2:] in ("_A", "_B") else ("", name)
        keys = (f"{layout[:5]} {base}_", f"{base}_", base) if vae else (base,)
        metrics = next((MEANT[key] for key in keys if key in MEANT), (base,))
        found = {f"{m} of {x}": measured[x].get(m) for m in metrics for x in vae or "BA"}
        ours = {what: row for what, row in found.items() if row}
        fits = [d for d, m in ours.items() if m.low - near <= stored <= m.high + near]
        definition = next(
            iter([*fits, *ours]), "its rule, data, draws or weights are not in the file"
        )
        verdict = "agrees" if fits else "differs" if ours else "cannot be recomputed"
        row = {"measured": ours.get(definition), "verdict": verdict, "definition": definition}
        rows.append(Claim(name=told, stored=stored, **row))
    return sorted(rows, key=lambda row: row.name.endswith(ELSEWHERE))
