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

from .. import parallel
from ..errors import InputError
from ..model.network import D, Network
from ..model.operations import M, T, all_operations
from ..model.streams import generator
from ..parallel import Job
from .reconstruction import correct_trits, posterior, sample_posterior
from .results import Measured, Record, exact_value

OPERATIONS, PAIRS, TRIPLETS = 1_000, 2_000, 100_000  # drawn for D2 and D3; for D1; for triplets
ELSEWHERE = ", claimed elsewhere"  # than in the file
SETTINGS = re.compile(r"(epoch|lambda\d|rho|phase|tau|grad_.*)(, .*)?")  # measures of nothing
UNKNOWN = "its rule, data, draws or weights are not in the file"
MEANT = {  # a claim's name, "_" where A or B follows: its metrics, the likeliest first
    "coverage": tuple(f"exact match from {z}" for z in ("mu", "the tangent path", "a sample")),
    "coverage_": (),  # of draws by another rule in each version
    "radial_corr": ("hierarchy",),
    "dist_corr": ("D3", "D2"),
    "dist_corr_": ("D2",),
    "distance_corr_": ("D2",),
    "v5.11 distance_corr_": ("D1",),
    "Q": ("Q (D3)", "Q (D2)"),
    "Q_": ("Q (D2)",),
    "v5.11 Q": ("Q (D1)", "Q (D2)", "Q (D3)"),
    "v5.11 Q_": ("Q (D1)", "Q (D2)", "Q (D3)"),
    "r_v0": ("radius_v0", "radius_v0, hyperbolic"),
    "r_v9": ("radius_v9", "radius_v9, hyperbolic"),
}  # any other: the metric of that very name, by either radius


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
        floors = [at.get(name) for what, at in self.beside.items() if "ceiling" not in what]
        up = -1 if "hierarchy" in name else 1
        mine, found = self.measured[vae][name], [*filter(None, floors)]
        above = all(mine.low > high for _, high in found)
        below = all(mine.high < low for low, _ in found)
        return bool(found) and (above if up > 0 else below)


@cache
def valuation() -> Tensor:
    """v (M,), int64 0 … 9: how often 3 divides the index (index 0: 9), which is the number of
    leading -1 in the table. Level sizes 13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1."""
    return (all_operations() == -1).cumprod(1).sum(1)


def correlations(method: str, **columns: Tensor) -> dict[str, float]:
    """ "pearson" or "spearman" (average ranks) of the first column with each other, by its name;
    0 where one of them is constant."""
    table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    return table.corr(method).fillna(0.0).iloc[0, 1:].to_dict()


def of_points(y: Tensor, c: float | None, rng: torch.Generator) -> dict[str, float]:
    """Every metric of one set of points y (M, d), by name; random pairs come from `rng`.

    - hierarchy: Spearman(v, r); -1 with one radius a level, never below -0.83205 without ties.
    - D1 (v5.11): Pearson(Poincaré distance, 3·exp(-v(|i-j|)/3)), 2,000 pairs.
    - D2 (v5.12): Spearman(‖y_i-y_j‖, |v(i)-v(j)|), all pairs of 1,000 operations.
    - D3 (v5.12's best_Q): Spearman(|r_i-r_j|, |v(i)-v(j)|), the same pairs.
    - Q: D + 1.5·|hierarchy|, with each D. No D is a p-adic distance.
    - triplets (v5.7): share where "v(i-j) > v(i-k)" equals "‖y_i-y_j‖ < ‖y_i-y_k‖", ties of v
      counting as no: a coin has 0.50, points all equal 0.75.
    - richness: mean over the levels of the population variance of r; level 9, of one, counts 0.

    What is of r stands there once more of the hyperbolic radius 2/√c·artanh(√c·r). `c` is the
    ball's curvature, None where there is no ball. Where a point lies outside the ball, D1 and that
    radius do not exist, and have no row.

    Raises:
        InputError: a point that is not finite: it has no place among the others.
    """
    if not y.isfinite().all():
        raise InputError("a code is projected to what is not finite: no metric of it exists.")
    v, y = valuation(), y.double().cpu()
    r = y.norm(dim=1)
    i, j, k = torch.randint(M, (3, TRIPLETS), generator=rng)
    nearer = (y[i] - y[j]).norm(dim=1) < (y[i] - y[k]).norm(dim=1)
    closer = v[(i - j).abs()] > v[(i - k).abs()]
    some = torch.randperm(M, generator=rng)[:OPERATIONS]
    apart = torch.pdist(v[some, None].double())
    pairs = {"D2": torch.pdist(y[some]), "D3": torch.pdist(r[some, None])}
    radii = {"": r}
    found = {
        **correlations("spearman", v=v, hierarchy=r),
        **correlations("spearman", apart=apart, **pairs),
        "triplets": (nearer == closer).double().mean(),
    }
    if c and c**0.5 * r.max() < 1:
        radii[", hyperbolic"] = 2 / c**0.5 * (c**0.5 * r).atanh()
        i, j = i[:PAIRS], j[:PAIRS]
        room = (1 - c * r[i].square()) * (1 - c * r[j].square())
        distance = (1 + 2 * c * (y[i] - y[j]).square().sum(1) / room).acosh()
        found |= correlations("pearson", near=3 * (-v[(i - j).abs()] / 3).exp(), D1=distance)
    for of, x in radii.items():
        levels = [x[v == level] for level in range(10)]
        found |= {
            f"richness{of}": torch.stack([one.var(correction=0) for one in levels]).mean(),
            f"mean_radius{of}": x.mean(),
            f"std_radius{of}": x.std(),
            f"radius_min{of}": x.min(),
            f"radius_max{of}": x.max(),
            f"radius_range{of}": x.max() - x.min(),
            f"radius_v0{of}": levels[0].mean(),
            f"radius_v9{of}": levels[9].mean(),
        }
    found |= {f"Q ({d})": found[d] + 1.5 * abs(found["hierarchy"]) for d in [*found] if d[0] == "D"}
    return {name: float(value) for name, value in found.items()}


@torch.no_grad()
def measure(model: Network, vae: str, draws: int, seed: int) -> dict[str, Measured]:
    """`of_points` of posterior samples of all operations, and the hierarchy of mu; and exact match
    from what a decoder may mean by its input: a sample, mu, and its tangent path.

    The interval is that of one draw more, which is what a file stores: mean ± t·s·√(1 + 1/draws),
    from 2 draws or more; at 99.9 %, so that of some thirty true claims none differs by chance.
    """
    q, rng = posterior(model, vae), generator(seed, "lineage", vae)
    ball = getattr(model, "projections", {}).get(vae)
    c = ball.stated["curvature"][0] if ball else None
    samples = []
    for scale in [1.0] * draws + [0.0]:  # at last mu
        z = sample_posterior(q, scale, rng)
        row = of_points(ball(z) if ball else z, c, rng)
        samples.append(_exact_match(model, vae, {"a sample": z}) | row)
    found = {"hierarchy of mu": exact_value(samples.pop()["hierarchy"], M)}
    inputs = {"mu": q.mu} | ({"the tangent path": ball.tangent(ball(q.mu))} if ball else {})
    found |= {k: exact_value(share, M) for k, share in _exact_match(model, vae, inputs).items()}
    wide, method = stdtrit(draws - 1, 0.9995), "99.9 %, Student t, of one draw more"
    for name, x in pd.DataFrame(samples).dropna(axis=1).items():
        ends = x.mean() + wide * (1 + 1 / draws) ** 0.5 * x.std() * np.array([0, -1, 1])
        within = -np.inf if name[0] in "hDQ" else 0.0, 1.0 if "exact" in name else np.inf
        value, low, high = ends.clip(*within).tolist()
        found[name] = Measured(value=value, low=low, high=high, n=draws, method=method)
    return found


def _exact_match(model: Network, vae: str, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Of each of these inputs (M, D) of the VAE's decoder, if it has one and they are finite."""
    return {
        f"exact match from {name}": float(correct_trits(model, vae, z).all(1).double().mean())
        for name, z in inputs.items()
        if vae in model.vaes and z.isfinite().all()
    }


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
    rows = [{"": what, **of_points(y, 1.0, rng)} for what, y in cheap_points(seed)]
    for row in rows:
        row["hierarchy of mu"] = row["hierarchy"]
    jobs = [
        Job(f"untrained {fresh}, encoder {vae}", measure, (model.untrained(fresh), vae, 2, seed))
        for fresh in range(untrained_seed, untrained_seed + 5)
        for vae in model.encoders
    ]
    for found in parallel.each(jobs, print):
        rows.append({"": "untrained", **{name: row.value for name, row in found.items()}})
    parts = pd.DataFrame(rows).set_index("").groupby(level=0, sort=False)
    ends = {what: part.dropna(axis=1, how="all").agg(["min", "max"]) for what, part in parts}
    return {what: part.to_dict("list") for what, part in ends.items()}


def compare(
    claims: dict[str, Any], measured: dict[str, dict[str, Measured]], layout: str
) -> list[Claim]:
    """Each number a file claims, or someone for it, beside ours under that name's own definition.

    Where the lineage has used a name for several things, or does not say of which encoder it is,
    `definition` names all that fit, or the likeliest. A claim agrees inside the interval, give or
    take 1e-6; one made elsewhere, which is rounded, give or take half of its last decimal
    (of a whole number: nothing).

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
        vaes, base = (name[-1], name[:-2]) if name[-2:] in ("_A", "_B") else ("BA", name)
        family, own = re.match(r"v5\.\d+|\w*", layout)[0], base + "_" * (len(vaes) == 1)
        keys = (f"{family} {own}", own, base)
        metrics = next((MEANT[key] for key in keys if key in MEANT), (base, f"{base}, hyperbolic"))
        if base == "coverage" and "exact match from mu" in measured["B"]:
            metrics = ()  # where B has a decoder, it is of draws
        if family == "epsilon":
            metrics = ()  # its script measured another input
        ours = {f"{m} of {x}": measured[x][m] for m in metrics for x in vaes if m in measured[x]}
        fits = [d for d, m in ours.items() if m.low - near <= stored <= m.high + near]
        first = [*fits, *ours, UNKNOWN][0]
        verdict = "agrees" if fits else "differs" if ours else "cannot be recomputed"
        row = {"measured": ours.get(first), "definition": " or ".join(fits) or first}
        rows.append(Claim(name=told, stored=stored, verdict=verdict, **row))
    return sorted(rows, key=lambda row: row.name.endswith(ELSEWHERE))
