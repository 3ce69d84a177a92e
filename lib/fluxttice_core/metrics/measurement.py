"""The whole measurement of a model, its controls beside it, as JSON-ready rows.

Nothing is drawn or printed here; tables and figures come from the file these rows are stored in.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from ..metrics import controls
from ..metrics import codes as latent
from ..metrics import marginal
from ..metrics import reconstruction
from ..metrics.coverage import ceiling, coverage
from ..metrics.marginal import MARGINALS, Marginal
from ..model.network import HOW, VAES, DualVAE, Posterior
from ..model.operations import Split, split
from ..params import Benchmark
from ..model.streams import generator

CURVE = [int(n) for n in np.unique(np.logspace(0, 7, 57).round())]
UNTRAINED_SEEDS = 5
KL_UNIFORM, KL_PRIOR = "KL(P ‖ uniform), nats", "KL(aggregate posterior ‖ prior), nats"
SMALLER_IS_BETTER = (KL_UNIFORM, KL_PRIOR)


def measure(model: DualVAE, p: Benchmark, report: Callable[[str], None] = print) -> dict:
    """Measure both VAEs, an untrained network beside them, and all controls.

    Returns:
        `{A, B, untrained_A, untrained_B}` (see `vae_results`), `controls` (see `control_rows`),
        `comparison` (see `compare`), `diversity` and `perfect`. `report` is told of each step.
    """
    parts, results, marginals = split(p.split_seed), {}, {}
    fresh = controls.untrained(p.untrained_seed)
    for prefix, network in (("", model), ("untrained_", fresh)):
        for vae in VAES:
            report(f"measuring {prefix}{vae}: {p.k:,} latents, {p.trials} × {max(p.ns):,} draws")
            m, results[prefix + vae] = vae_results(network, vae, parts, p)
            marginals[prefix + vae] = m
    report("measuring the controls")
    rows = control_rows(parts, p)
    return {
        **results,
        "controls": rows,
        "comparison": compare({vae: results[vae] for vae in VAES}, rows),
        "diversity": diversity(marginals["A"], marginals["B"], p.ns),
        "perfect": {"min_p_times_m": marginal.noise_floor(p.k, p.seed)},
    }


def vae_results(model: DualVAE, vae: str, parts: Split, p: Benchmark) -> tuple[Marginal, dict]:
    """One VAE's marginal, and everything measured of it: `essentials` and `details`."""
    m = marginal.marginal(model.decoder(vae), p.k, p.seed, vae, model.device)
    q = reconstruction.posterior(model, vae)
    return m, {
        **essentials(model, vae, m, q, parts, p.seed, p.ns),
        **details(model, vae, m, q, p),
    }


def essentials(
    model: DualVAE, vae: str, m: Marginal, q: Posterior, parts: Split, seed: int, ns: list[int]
) -> dict:
    """The rows that every control has too: from its marginal and its encoded operations."""
    rng = generator(seed, "posterior sample", vae, device=model.device)
    mean = reconstruction.by_split(reconstruction.right_trits(model, vae, q.mu), parts)
    codes = reconstruction.drawn(q, 1.0, rng)
    sampled = reconstruction.by_split(reconstruction.right_trits(model, vae, codes), parts)
    return {
        "k": m.k,
        "information_nats": marginal.information(m),
        "argmax_entropy_nats": marginal.argmax_entropy(m),
        "kl_uniform_nats": marginal.kl_uniform(m),
        "expected_coverage": [marginal.coverage_at(m, n, how) for how in MARGINALS for n in ns],
        "exact_match": {part: row["share"] for part, row in mean.items()},
        "reconstruction": {"mean": mean, "sample": sampled},
        "latent_entropy_nats": latent.entropy_nats(q.mu),
        "active_units": latent.active_units(q.mu),
        "aggregate_kl_nats": latent.aggregate_kl(q, seed, vae),
        "hamming_correlation": latent.hamming_correlation(q.mu, seed, vae),
    }


def details(model: DualVAE, vae: str, m: Marginal, q: Posterior, p: Benchmark) -> dict:
    """The remaining rows: sampled coverage, the shape of the marginal, the latent space."""
    options = {"trials": p.trials, "seed": p.seed, "stream": vae, "device": model.device}
    return {
        "coverage": coverage(model.decoder(vae), p.ns, how=HOW, **options),
        "min_p_times_m": {how: marginal.min_p_times_m(m, how) for how in MARGINALS},
        "hardest": {how: marginal.hardest(m, how) for how in MARGINALS},
        "curve": curve(m),
        "robustness": reconstruction.robustness(model, vae, q, p.seed),
        "latent_share_outside": latent.share_outside(q.mu),
        "kl_nats_by_dimension": latent.kl_nats(*q).mean(0).tolist(),
        "plane": latent.plane(q.mu, p.seed),
    }


def control_rows(parts: Split, p: Benchmark) -> list[dict]:
    """`{control, seed, vae, …essentials}`: five untrained networks, five of random linear maps, a
    collapsed one, the uniform generator.

    Their marginals use `marginal.FEWEST` latents, so their intervals are wider than the model's.
    """
    seeds = range(p.untrained_seed, p.untrained_seed + UNTRAINED_SEEDS)
    networks = [("untrained", seed, controls.untrained(seed)) for seed in seeds]
    networks += [("random linear", seed, controls.random_linear(seed)) for seed in seeds]
    networks += [("collapsed", p.seed, controls.collapsed(p.seed))]
    networks += [("uniform", p.seed, controls.uniform(p.seed))]
    rows = []
    for control, seed, network in networks:
        for vae in VAES:
            stream = f"{control} {seed} {vae}"
            m = marginal.marginal(network.decoder(vae), marginal.FEWEST, p.seed, stream)
            q = reconstruction.posterior(network, vae)
            row = essentials(network, vae, m, q, parts, p.seed, p.ns)
            rows.append({"control": control, "seed": seed, "vae": vae, **row})
    return rows


def compare(ours: dict[str, dict], rows: list[dict]) -> list[dict]:
    """One row a metric and VAE: `{metric, vae, value, ci95, <control>…, discriminates}`.

    A control's entry is the `[low, high]` hull of its intervals over seeds. A metric
    discriminates when the model's whole interval lies above every control's (below, for one of
    SMALLER_IS_BETTER); one that does not is a number that noise can win, and decides nothing.
    """
    table = []
    for vae, result in ours.items():
        values = headline(result)
        beside = [(row["control"], headline(row)) for row in rows if row["vae"] == vae]
        for metric, (value, low, high) in values.items():
            hulls: dict[str, list[float]] = {}
            for control, theirs in beside:
                _, c_low, c_high = theirs[metric]
                hull = hulls.setdefault(control, [c_low, c_high])
                hulls[control] = [min(hull[0], c_low), max(hull[1], c_high)]
            if metric in SMALLER_IS_BETTER:
                better = all(high < hull[0] for hull in hulls.values())
            else:
                better = all(low > hull[1] for hull in hulls.values())
            row = {"metric": metric, "vae": vae, "value": value, "ci95": [low, high]}
            table.append({**row, **hulls, "discriminates": bool(hulls) and better})
    return table


def headline(result: dict) -> dict[str, tuple[float, float, float]]:
    """Metric name → (value, low, high) of a result's `essentials`; shares where there is a limit.

    Latent entropy and active units are properties of the weights: their intervals are points.
    """
    values = {
        f"{name}, share of 9·ln 3": _of(result[key], marginal.LIMIT_NATS)
        for name, key in (
            ("information", "information_nats"),
            ("argmax entropy", "argmax_entropy_nats"),
        )
    }
    for row in result["expected_coverage"]:
        name = f"{row['decode']} coverage at N = {row['n']:,}, of ceiling"
        values[name] = _of(row, float(ceiling(row["n"])))
    for code in ("mean", "sample"):
        test = result["reconstruction"][code]["test"]
        values[f"exact match on test, posterior {code}"] = (test["share"], *test["ci95"])
    entropy, active = result["latent_entropy_nats"], float(result["active_units"])
    values["latent entropy, nats"] = (entropy, entropy, entropy)
    values["active units"] = (active, active, active)
    values["Hamming correlation of codes"] = _of(result["hamming_correlation"], 1.0)
    values[KL_UNIFORM] = _of(result["kl_uniform_nats"], 1.0)
    values[KL_PRIOR] = _of(result["aggregate_kl_nats"], 1.0)
    return values


def _of(estimate: dict, limit: float) -> tuple[float, float, float]:
    low, high = estimate["ci95"]
    return estimate["value"] / limit, low / limit, high / limit


def curve(m: Marginal) -> list[dict]:
    """Expected distinct operations for N = 1 … 10^7: rows `{n, ceiling, argmax, categorical}`.

    Point values. Categorical is the plug-in of P, biased low by order 1/k; argmax is rarefaction,
    and None beyond k, where counting k latents says nothing.
    """
    return [
        {
            "n": n,
            "ceiling": float(ceiling(n)),
            "argmax": marginal.rarefied(m.counts, n) if n <= m.k else None,
            "categorical": marginal.expected_distinct(m.P, n),
        }
        for n in CURVE
    ]


def diversity(a: Marginal, b: Marginal, ns: list[int]) -> list[dict]:
    """What A and B reach by argmax: `{n, only_a, only_b, both, union, perfect}`, expected counts.

    n draws of each, independent, so the product of the two reach probabilities is unbiased.
    `perfect` is the same of two uniform generators, `{only, both, union}`: drawing twice reaches
    more than drawing once whoever draws, so only what differs from it is about A and B.
    """
    rows = []
    for n in ns:
        reach_a, reach_b = (marginal.reach(m.counts, n) for m in (a, b))
        both = float((reach_a * reach_b).sum())
        only_a, only_b = float(reach_a.sum()) - both, float(reach_b.sum()) - both
        union = only_a + only_b + both
        once, twice = float(ceiling(n)), float(ceiling(2 * n))
        perfect = {"only": twice - once, "both": 2 * once - twice, "union": twice}
        row = {"n": n, "only_a": only_a, "only_b": only_b, "both": both, "union": union}
        rows.append({**row, "perfect": perfect})
    return rows


def speed(model: DualVAE, vae: str, repeats: int, seed: int, n: int = 195_000) -> dict:
    """Operations a second of argmax sampling, memory bounded: `{n, repeats, median, low, high}`."""
    rng, rates = generator(seed, "speed", vae), []
    for _ in range(repeats):
        start = time.perf_counter()
        for size in [n // 13] * 13:
            model.sample(size, vae, "argmax", rng=rng)
        rates.append(n / (time.perf_counter() - start))
    median = statistics.median(rates)
    return {"n": n, "repeats": repeats, "median": median, "low": min(rates), "high": max(rates)}
