"""Two checkpoints side by side: which one to keep, and which differences would have shown.

Both networks encode the same operations, decode the same prior latents and add the same posterior
noise, so every comparison is paired. (Two intervals that overlap say little, and two that do not
are no test.)

- Exact match from the mean, rate, MIG and disentanglement are exact: no test.
- Exact match from a sample and path consistency: McNemar's exact test.
- Metrics of the marginal: Student's t of the jackknife of the difference, over common groups.
- Distortion: Student's t over the posterior draws.

Holm's procedure, over the tests of all VAEs together, keeps the chance of any false difference at
5 % or less.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from . import parallel
from .metrics.coverage import ceiling, rarefied
from .metrics.evaluation import Evaluation
from .metrics.marginal import GROUPS, LIMIT_NATS, Functional, leave_one_out, shannon_nats
from .metrics.measurement import METRICS
from .metrics.paired_tests import Paired, holm, mcnemar, student
from .metrics.path_consistency import consistent_paths
from .model.network import VAES, Network
from .parallel import Job

EXACT = ("exact_match", "rate", "mig", "mi_disentanglement")


def _coverage(n: int) -> Functional:
    return lambda _p, counts, _nats: rarefied(counts, n) / float(ceiling(n))


MARGINAL: dict[str, Functional] = {
    "argmax_entropy": lambda _p, counts, _: shannon_nats(counts / counts.sum()) / LIMIT_NATS,
    "argmax_coverage_50000": _coverage(50_000),
    "argmax_coverage_195000": _coverage(195_000),
    "kl_to_uniform": lambda p, _counts, _nats: LIMIT_NATS - shannon_nats(p),
}


def compare_vae(first: Network, second: Network, vae: str, k: int, seed: int) -> list[Paired]:
    """Every paired metric of one VAE that both networks have."""
    both = [Evaluation(network, vae, k, seed, vae, 0) for network in (first, second)]
    found = []
    for name in EXACT:
        one, two = (METRICS[name].compute(e).value for e in both)
        found.append(Paired(vae, name, one or 0.0, two or 0.0))
    matches = [e.samples.exact_matches.numpy().ravel() for e in both]
    found.append(mcnemar(vae, "exact_match_sampled", *matches))
    paths = [consistent_paths(e.network, vae, e.rng("connection")).numpy() for e in both]
    found.append(mcnemar(vae, "path_consistency", *paths))
    nats, other = (e.samples.nats.numpy() for e in both)
    noise = float((other - nats).std(ddof=1)) / len(nats) ** 0.5
    means = float(nats.mean()), float(other.mean())
    found.append(student(vae, "distortion", *means, noise, len(nats) - 1))
    for name, function in MARGINAL.items():
        (whole1, out1), (whole2, out2) = (leave_one_out(e.marginal, function) for e in both)
        values = [GROUPS * w - (GROUPS - 1) * o.mean() for w, o in ((whole1, out1), (whole2, out2))]
        # The jackknife's standard error: (G - 1)/G times the squares' sum is its variance.
        noise = float((out2 - out1).std()) * (GROUPS - 1) ** 0.5
        found.append(student(vae, name, float(values[0]), float(values[1]), noise, GROUPS - 1))
    return found


def compare(
    first: Network,
    second: Network,
    k: int,
    seed: int,
    names: tuple[str, str] = ("the first", "the second"),
    report: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, list[str]]:
    """Compare every VAE that both networks have: a table, and the answers in words.

    The table has a row for each VAE and metric: first, second, difference (second minus first), p
    (None where nothing is drawn), better (the name of the better network, if a difference shows)
    and detectable, the smallest true difference that would show in 80 % of cases.

    Args:
        first, second: the networks; names: what to call them.
        k: latents of the prior; seed: of every random stream, the same for both.
        report: called as each VAE is finished.
    """
    vaes = [vae for vae in first.vaes if vae in second.vaes]
    jobs = [Job(f"VAE-{vae}", compare_vae, (first, second, vae, k, seed)) for vae in vaes[::-1]]
    found = [row for rows in parallel.each(jobs, report)[::-1] for row in rows]
    rows = pd.DataFrame(found).assign(difference=lambda x: x["second"] - x["first"])
    tests = rows.p.notna()
    # An exact difference needs no test.
    rows["shown"] = rows.p.isna() & (rows.difference != 0)
    rows.loc[tests, "shown"] = holm(rows.p[tests].tolist())
    gain = rows.difference * rows.metric.map(lambda name: METRICS[name].better)
    rows["better"] = np.where(gain > 0, names[1], names[0])
    rows.loc[~rows.shown | (gain == 0), "better"] = ""
    power = [row.detectable(tests.sum()) if row.p is not None else None for row in found]
    rows["detectable"] = power
    columns = ["vae", "metric", "first", "second", "difference", "p", "better", "detectable"]
    answers = [_answer(rows[rows.vae == vae], vae, names) for vae in vaes]
    return rows[columns], [*answers, *_in_common(first, second, names)]


def _answer(rows: pd.DataFrame, vae: str, names: tuple[str, str]) -> str:
    """Which one to keep, for one VAE."""
    won = [[METRICS[m].title for m in rows.metric[rows.better == name]] for name in names]
    one, two = (f"{len(titles)} metrics ({'; '.join(titles)})" for titles in won)
    if won[0] and won[1]:
        return f"VAE-{vae}: it depends. {names[0]} is better in {one}, {names[1]} in {two}."
    if won[0] or won[1]:
        kept, why = (names[0], one) if won[0] else (names[1], two)
        return f"VAE-{vae}: keep {kept}. It is better in {why}, and worse in none."
    return f"VAE-{vae}: keep either. No difference shows; the table says which would have shown."


def _in_common(first: Network, second: Network, names: tuple[str, str]) -> list[str]:
    """Which VAE only one side has, and which parts hold identical tensors."""
    found = []
    for vae in VAES:
        has = [vae in network.vaes for network in (first, second)]
        if has[0] != has[1]:
            found.append(
                f"VAE-{vae}: only {names[has[1]]} has a decoder {vae}: nothing to compare."
            )
    one, two = first.state_dict(), second.state_dict()
    different = {k.partition(".")[0] for k in one if k not in two or not one[k].equal(two[k])}
    parts = dict.fromkeys(
        k.partition(".")[0] for k in one if k.startswith(("encoder_", "decoder_"))
    )
    if same := [part for part in parts if part not in different]:
        found.append(f"Identical in both, to the bit: {', '.join(same)}.")
    return found
