"""The lineage's own metrics, what reaches them without a working network, and what files claim.

M operations (19,683); y (M, d) their points: P(z) in the ball, or z where there is no projection;
r (M,) the norms. Formulas: lineage README, section 5. Hierarchy, D1 to D3 and Q are the lineage's
training target on all of the data, so none of them says anything about reconstruction.
"""

import re
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import rankdata
from scipy.stats import t as student
from torch import Tensor

from ..model.network import Network, Posterior, read_out
from ..model.operations import M, all_operations
from ..model.streams import generator
from .observation import Measurement
from .reconstruction import posterior
from .results import Measured, Record, exact

CEILINGS = ("one radius a level", "perfect order, no ties")
OPERATIONS, PAIRS, TRIPLETS = 1_000, 2_000, 100_000  # drawn for D2 and D3; for D1; for triplets


@cache
def valuation() -> Tensor:
    """v (M,), int64 0 … 9: how often 3 divides the index (index 0: 9), which is the number of
    leading -1 in the table. Level sizes 13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1."""
    return (all_operations() == -1).cumprod(1).sum(1)


def correlation(a: object, b: object, ranks: bool = True) -> float:
    """Spearman's coefficient (average ranks), or Pearson's; 0 where one side is constant."""
    x, y = (np.asarray(side, dtype=np.float64) for side in (a, b))
    x, y = (rankdata(x), rankdata(y)) if ranks else (x, y)
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
        "radius": float(r.mean()),
        "radius, deviation": float(r.std()),
        "radius, range": float(r.max() - r.min()),
        **{f"radius of v{level}": float(r[v == level].mean()) for level in (0, 9)},
    }
    radii = {"richness": r}
    if c and c**0.5 * float(r.max()) < 1:
        radii["richness, hyperbolic"] = 2 / c**0.5 * (c**0.5 * r).atanh()
        i, j = i[:PAIRS], j[:PAIRS]
        room = (1 - c * r[i].square()) * (1 - c * r[j].square())
        distance = (1 + 2 * c * (y[i] - y[j]).square().sum(1) / room).acosh()
        found["D1"] = correlation(distance, 3 * (-v[(i - j).abs()] / 3).exp(), ranks=False)
    for name, r in radii.items():
        found[name] = float(np.mean([r[v == level].var(correction=0) for level in range(10)]))
    q = {f"Q ({d})": found[d] + 1.5 * abs(found["hierarchy"]) for d in found if d[0] == "D"}
    return found | q


@torch.no_grad()
def measure(
    model: Network, vae: str, q: Posterior, draws: int = 10, seed: int = 0
) -> dict[str, Measured]:
    """`of_points` of posterior samples of all operations, and the hierarchy of mu.

    The interval is that of one draw more, which is what a file stores: mean ± t·s·√(1 + 1/draws),
    from 2 draws or more; at 99.9 %, so that of some thirty true claims none differs by chance.
    """
    rng, projection = generator(seed, "lineage", vae), model.projection(vae)
    rows = []
    for _ in range(draws):
        z = q.mu + (q.logvar / 2).exp() * torch.randn(q.mu.shape, generator=rng).to(q.mu.device)
        y, c = (projection(z), projection.curvature) if projection else (z, None)
        rows.append(of_points(y, c, rng))
    wide = student.ppf(0.9995, draws - 1) * (1 + 1 / draws) ** 0.5
    mu = projection(q.mu) if projection else q.mu
    found = {"hierarchy of mu": exact(correlation(valuation(), mu.norm(dim=1).cpu()), M)}
    for name in (name for name in rows[0] if all(name in row for row in rows)):
        x = np.array([row[name] for row in rows])
        ends = x.mean() + wide * x.std(ddof=1) * np.array([0, -1, 1])
        numbers = dict(zip(("value", "low", "high"), ends.tolist(), strict=True))
        found[name] = Measured(**numbers, n=draws, method="99.9 %, Student t, of one draw more")
    return found


@torch.no_grad()
def exact_match(model: Network, vae: str, mu: Tensor) -> dict[str, Measured]:
    """Share of all operations that argmax decoding returns, by each input of the decoder: "mu",
    and "tangent", log₀(P(mu)), where there is a projection and it is finite."""
    projection = model.projection(vae)
    inputs = {"mu": mu} | ({"tangent": projection.tangent(projection(mu))} if projection else {})
    found = {}
    for name, z in inputs.items():
        if z.isfinite().all():
            right = read_out(model.decoder(vae)(z), "argmax").cpu() - 1 == all_operations()
            found[name] = exact(float(right.all(1).double().mean()), M)
    return found


def cheap_radii(seed: int = 0) -> dict[str, Tensor]:
    """Radii (M,) in 0 … 1 that need no network: ceilings and floors of the metrics.

    Their hierarchies: 0, -1, -0.83205, -0.80, -0.31 and about 0.
    """
    rng, v, ops = generator(seed, "cheap radii"), valuation().double(), all_operations().double()
    noise = torch.rand(M, generator=rng, dtype=torch.float64)
    return {
        "all equal": torch.zeros(M, dtype=torch.float64),
        "one radius a level": (9 - v) / 10,
        "perfect order, no ties": (9 - v + noise / 1000) / 10,
        "the first trit alone, no ties": ((ops[:, 0] > -1) + noise / 1000) / 2,
        "mean of the trits": (ops.mean(1) + 1) / 2.1,
        "random": noise,
    }


class Claim(Record):
    """A number that a file stores of itself, and what became of it."""

    name: str
    stored: float
    measured: Measured | None
    verdict: Literal["agrees", "differs", "cannot be recomputed"]
    definition: str


SETTINGS = re.compile(r"epoch|lambda\d|rho|phase|tau|grad_.*")  # numbers, but measures of nothing
MEANT = {  # stored name: metric, by its likeliest definition first; A or B where the name has it
    r"(?:radial_corr|hierarchy)(?:_([AB]))?": ["hierarchy"],
    r"richness_([AB])": ["richness", "richness, hyperbolic"],
    r"dist_corr_([AB])": ["D2"],
    r"dist_corr": ["D3", "D2"],
    r"Q_([AB])": ["Q (D2)"],
    r"Q": ["Q (D3)", "Q (D2)"],
    r"mean_radius_([AB])": ["radius"],
    r"std_radius_([AB])": ["radius, deviation"],
    r"radius_range_([AB])": ["radius, range"],
    r"(?:radius|r)_v0(?:_([AB]))?": ["radius of v0"],
    r"(?:radius|r)_v9(?:_([AB]))?": ["radius of v9"],
}


def compare(
    claims: dict[str, Any],
    measured: dict[str, dict[str, Measured]],
    match: dict[str, Measured],
    layout: str,
) -> list[Claim]:
    """Each number a file claims, or someone for it, beside ours under that name's own definition.

    Where the lineage has used a name for several things, `definition` says which one fits, or the
    likeliest. A claim agrees inside the interval, give or take 1e-6.

    Args:
        claims: name → number; a part "metrics" counts as if it stood outside, and of a "_history"
            its last number counts.
        measured: `measure` of each encoder; match: `exact_match` of decoder A.
    """
    inner, rows = claims.get("metrics"), []
    distance = "D1" if layout.startswith("v5.11") else "D2"
    for name, stored in {**claims, **(inner if isinstance(inner, dict) else {})}.items():
        if name.endswith("_history") and isinstance(stored, list) and stored:
            stored = stored[-1]
        number = type(stored) in (int, float) and abs(stored) < 1e300
        if not number or SETTINGS.fullmatch(name):
            continue
        ours = {f"exact match from {z}": m for z, m in match.items()} if name == "coverage" else {}
        for pattern, metrics in {**MEANT, r"distance_corr_([AB])": [distance]}.items():
            if hit := re.fullmatch(pattern, name):
                vaes = (hit[1] if hit.lastindex else None) or "BA"
                pairs = [(vae, metric) for metric in metrics for vae in vaes]
                ours |= {f"{m} of {x}": measured[x][m] for x, m in pairs if m in measured[x]}
        fits = [d for d, m in ours.items() if m.low - 1e-6 <= stored <= m.high + 1e-6]
        best = name.startswith("best_")
        why = "the best so far: of other weights, perhaps" if best else "its data or draws are lost"
        definition = next(iter([*fits, *ours]), why)
        verdict = "agrees" if fits else "differs" if ours else "cannot be recomputed"
        found = {"measured": ours.get(definition), "verdict": verdict, "definition": definition}
        rows.append(Claim(name=name, stored=stored, **found))
    return rows


class Lineage(Record):
    """What a file of the original's is, and what it has by the lineage's own metrics.

    left_out: tensor → why nothing measured needs it; stated: max_radius and curvature of each
    projection, and where they come from; inherited: tensors bit-equal to those of a given file.
    match: by VAE and decoder input; measured: by encoder. cheap: each metric of `cheap_radii`;
    untrained: its hull over five networks of this layout, both encoders.
    """

    layout: str
    vaes: tuple[str, ...]
    left_out: dict[str, str]
    stated: dict[str, dict[str, float | str]]
    match: dict[str, dict[str, Measured]]
    measured: dict[str, dict[str, Measured]]
    cheap: dict[str, dict[str, float]]
    untrained: dict[str, tuple[float, float]]
    claims: list[Claim]
    inherited: list[str]

    def decides(self, name: str, vae: str) -> bool:
        """Is the whole interval beyond untrained networks, and all cheap radii but the ceilings?"""
        if name.startswith("radius"):
            return False
        key, sign = ("hierarchy", -1) if name.startswith("hierarchy") else (name, 1)
        floors = [row[key] for radii, row in self.cheap.items() if radii not in CEILINGS]
        row = self.measured[vae][name]
        least = min(sign * end for end in (row.low, row.high) if end is not None)
        return least > max(sign * floor for floor in (*floors, *self.untrained[key]))


def lineage(
    model: Network, claims: dict[str, Any], base: Network | None, p: Measurement
) -> Lineage:
    """All of `Lineage`, of a network of the original's; `base`: what it may have inherited from."""
    q = {vae: posterior(model, vae) for vae in model.encoders}
    projections = {vae: model.projection(vae) for vae in model.encoders}
    match = {vae: exact_match(model, vae, q[vae].mu) for vae in model.vaes}
    measured = {vae: measure(model, vae, q[vae], seed=p.seed) for vae in model.encoders}
    noise: dict[str, list[float]] = {}
    for seed in range(p.untrained_seed, p.untrained_seed + 5):
        fresh = model.untrained(seed)
        for vae in model.encoders:
            for name, row in measure(fresh, vae, posterior(fresh, vae), 2, p.seed).items():
                name = name.removesuffix(" of mu")
                noise.setdefault(name, []).append(row.value or 0.0)
    rng = generator(p.seed, "cheap points")
    theirs = base.tensors if base else {}
    return Lineage(
        layout=model.layout,
        vaes=model.vaes,
        left_out=model.left_out,
        stated={vae: made.stated for vae, made in projections.items() if made},
        match=match,
        measured=measured,
        cheap={name: of_points(r[:, None], 1.0, rng) for name, r in cheap_radii(p.seed).items()},
        untrained={name: (min(values), max(values)) for name, values in noise.items()},
        claims=compare(claims, measured, match["A"], model.layout),
        inherited=[k for k, v in model.tensors.items() if k in theirs and v.equal(theirs[k])],
    )
