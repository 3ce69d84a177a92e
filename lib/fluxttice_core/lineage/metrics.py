"""The structure metrics of the v5.x versions, and the numbers that their files store."""

import math
import re
from typing import Any

import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from ..errors import InputError, printable
from ..metrics.reconstruction import correct_trits, posterior, sample_posterior
from ..model.network import Network
from ..model.operations import M, all_operations
from ..model.streams import generator
from .projection import Projection

BOUNDS = {"e": (0, 1), "h": (-1, 1), "D": (-1, 1), "Q": (-1, 2.5)}  # of exact match, hierarchy …
SETTINGS = r"epoch|lambda\d|rho|phase|tau|grad_.*"  # of training: no measured numbers
CLAIM_DEFINITIONS = {  # layout, claim → the metrics it may mean, the likeliest first
    r"epsilon-coupled, .*": [],  # its script measured another input
    r"(v5\.([5-9]|10)\b|app|enc).*, coverage": [],  # of draws, by another rule in each version
    r".*, coverage": [f"exact match from {z}" for z in ("mu", "the tangent path", "a sample")],
    r".*, radial_corr(_.)?": ["hierarchy"],
    r"v5\.11.*, distance_corr_.": ["D1"],
    r".*, dist(ance)?_corr_.": ["D2"],
    r".*, dist_corr": ["D3", "D2"],
    r"v5\.11.*, Q(_.)?": ["Q (D1)", "Q (D2)", "Q (D3)"],
    r".*, Q_.": ["Q (D2)"],
    r".*, Q": ["Q (D3)", "Q (D2)"],
}  # any other: the metric of that very name, by either radius


def valuation() -> Tensor:
    """v (M,), 0 … 9: how often 3 divides an operation's index, the number of its leading -1."""
    return (all_operations() == -1).cumprod(1).sum(1)


def correlations(method: str, **columns: Tensor) -> dict[str, Any]:
    """Of the first column with each other, by its name; 0 if one of them is constant."""
    table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    return table.corr(method).fillna(0.0).iloc[0, 1:].to_dict()


def structure_metrics(y: Tensor, c: float | None, rng: torch.Generator) -> dict[str, float]:
    """Every metric of points y (M, d) with norms r, by name.

    - hierarchy: Spearman(v, r); -1 with one radius a level, never below -0.83205 without ties.
    - D1 (v5.11): Pearson(Poincaré distance, 3·exp(-v(|i-j|)/3)), 2,000 random pairs.
    - D2 (v5.12): Spearman(‖y_i-y_j‖, |v(i)-v(j)|), all pairs of 1,000 random operations.
    - D3 (v5.12's best_Q): Spearman(|r_i-r_j|, |v(i)-v(j)|), the same pairs.
    - Q: D + 1.5·|hierarchy|, with each D. No D is a p-adic distance.
    - richness: mean over the levels of v of the population variance of r.
    - radii: of all operations, and the means of the levels 0 and 9.

    Richness and radii are also given of the hyperbolic radius 2/√c·artanh(√c·r), if the ball has a
    curvature `c`. It and D1 exist only if all points lie in the ball.

    Raises:
        InputError: a point is not finite.
    """
    if not y.isfinite().all():
        raise InputError("a code is projected to a point that is not finite.")
    v, y = valuation(), y.double().cpu()
    r = y.norm(dim=1)
    # D1 needs 2,000 of these pairs. Drawing fewer would change every figure that follows.
    i, j = torch.randint(M, (3, 100_000), generator=rng)[:2, :2_000]
    some = torch.randperm(M, generator=rng)[:1_000]
    radii, found = {"": r}, correlations("spearman", v=v, hierarchy=r)
    if c and c**0.5 * r.max() < 1:
        radii[", hyperbolic"] = 2 / c**0.5 * (c**0.5 * r).atanh()
        room = (1 - c * r[i].square()) * (1 - c * r[j].square())
        distance = (1 + 2 * c * (y[i] - y[j]).square().sum(1) / room).acosh()
        found |= correlations("pearson", near=3 * (-v[(i - j).abs()] / 3).exp(), D1=distance)
    pairs = {"D2": torch.pdist(y[some]), "D3": torch.pdist(r[some, None])}
    found |= correlations("spearman", apart=torch.pdist(v[some, None].double()), **pairs)
    found |= {f"Q ({d})": found[d] + 1.5 * abs(found["hierarchy"]) for d in [*found] if d[0] == "D"}
    for kind, x in radii.items():
        levels = [x[v == level] for level in range(10)]
        variances = [level.var(correction=0) for level in levels]
        found |= {f"richness{kind}": sum(variances) / 10, f"radius_range{kind}": x.max() - x.min()}
        found |= {f"{name}_radius{kind}": getattr(x, name)() for name in ("mean", "std")}
        found |= {f"radius_{name}{kind}": getattr(x, name)() for name in ("min", "max")}
        found |= {f"radius_v{level}{kind}": levels[level].mean() for level in (0, 9)}
    return {name: float(value) for name, value in found.items()}


@torch.no_grad()
def measure(model: Network, vae: str, ball: Projection | None, n: int, seed: int) -> pd.DataFrame:
    """value, low and high by metric: exact match from each decoder input, hierarchy of mu, and
    structure metrics of n ≥ 2 posterior samples of all operations.

    low and high are the 99.9 % interval of one sample more, because a file stores figures of one;
    they equal the value if nothing is drawn.
    """

    def exact_match(name: str, z: Tensor) -> dict[str, float]:
        if vae not in model.vaes or not z.isfinite().all():
            return {}
        share = correct_trits(model, vae, z).all(1).double().mean()
        return {f"exact match from {name}": float(share)}

    q, rng = posterior(model, vae), generator(seed, "lineage", vae)
    place, c = (ball, ball.hyperparameters["curvature"][0]) if ball else (nn.Identity(), None)
    samples = []
    for _ in range(n):
        z = sample_posterior(q, 1.0, rng)
        samples.append(exact_match("a sample", z) | structure_metrics(place(z), c, rng))
    points = exact_match("mu", q.mu)
    if ball:
        points |= exact_match("the tangent path", ball.tangent(ball(q.mu)))
    r = place(q.mu).double().cpu().norm(dim=1)
    points |= correlations("spearman", v=valuation(), **{"hierarchy of mu": r})
    x = pd.DataFrame(samples).dropna(axis=1)
    half = stdtrit(n - 1, 0.9995) * (1 + 1 / n) ** 0.5 * x.std()
    found = pd.DataFrame({"value": x.mean(), "low": x.mean() - half, "high": x.mean() + half})
    ends = pd.DataFrame([BOUNDS.get(name[0], (0, math.inf)) for name in x], x.columns)
    return pd.concat([pd.DataFrame(points, found.columns).T, found.clip(ends[0], ends[1], axis=0)])


def compare(claims: dict[str, Any], measured: pd.DataFrame, layout: str) -> pd.DataFrame:
    """Each number that a file stores about itself, beside ours under that name's own definition.

    Of a list the last number counts. `measured` has `measure` of both encoders, by encoder and
    metric. A claim agrees if an interval holds it, give or take 1e-6. If that interval is wider
    than the value itself (than 0.5, of a share, correlation or Q), almost any claim would agree.
    """
    rows, inner = [], claims.get("metrics")
    for claim, stored in [*claims.items(), *(inner.items() if isinstance(inner, dict) else ())]:
        stored = stored[-1] if isinstance(stored, list) and stored else stored
        number = type(stored) in (int, float) and abs(stored) < 1e300
        if not number or re.fullmatch(SETTINGS, claim):
            continue
        vaes, base = (claim[-1], claim[:-2]) if claim[-2:] in ("_A", "_B") else ("BA", claim)
        base = re.sub("^r_v", "radius_v", base)
        known = (k for k in CLAIM_DEFINITIONS if re.fullmatch(k, f"{layout}, {claim}"))
        metrics = CLAIM_DEFINITIONS.get(next(known, ""), [base, f"{base}, hyperbolic"])
        wanted = ((vae, metric) for metric in metrics for vae in vaes)
        ours = measured.loc[[key for key in wanted if key in measured.index]]
        fits = (ours.low - 1e-6 <= stored) & (stored <= ours.high + 1e-6)
        bounded = ours.index.get_level_values(1).str[0].isin([*BOUNDS])
        narrow = ours.high - ours.low <= ours.value.mask(bounded, 0.5)
        cases = {"agrees": ours[fits & narrow], "not told": ours[fits], "differs": ours[:1]}
        verdict = next((name for name in cases if len(cases[name])), "cannot be recomputed")
        found = cases.get(verdict, ours)
        definition = " or ".join(f"{metric} of {vae}" for vae, metric in found.index)
        first = [*found.to_numpy(), [math.nan] * 3][0]
        rows.append([printable(claim), stored, *first, verdict, definition])
    return pd.DataFrame(rows, columns=["claim", "stored", *measured, "verdict", "definition"])
