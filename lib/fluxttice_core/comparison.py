"""Two checkpoints side by side: which one to keep, and which differences would have shown.

Both networks encode the same operations, decode the same prior latents and add the same posterior
noise, so every comparison is paired. Holm's procedure, over the tests of all VAEs together, keeps
the chance of any false difference at 5 % or less.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from . import files, parallel
from .checkpoints import folder as checkpoints
from .metrics.coverage import ceiling, rarefied
from .metrics.evaluation import Evaluation
from .metrics.marginal import GROUPS, LIMIT_NATS, Functional, leave_one_out, shannon_nats
from .metrics.measurement import METRICS
from .metrics.paired_tests import Paired, holm, mcnemar, student
from .metrics.path_consistency import consistent_paths
from .model.network import VAES, Measurable, Network
from .parallel import Job

# Nothing is drawn for these, so they need no test.
EXACT = ("exact_match", "rate", "mig", "mi_disentanglement")


def _coverage(n: int) -> Functional:
    return lambda _p, counts, _nats: rarefied(counts, n) / float(ceiling(n))


# Metric → the function of the marginal that it is the jackknife of.
MARGINAL: dict[str, Functional] = {
    "argmax_entropy": lambda _p, counts, _: shannon_nats(counts / counts.sum()) / LIMIT_NATS,
    "argmax_coverage_50000": _coverage(50_000),
    "argmax_coverage_195000": _coverage(195_000),
    "kl_to_uniform": lambda p, _counts, _nats: LIMIT_NATS - shannon_nats(p),
}


def load(path: str) -> checkpoints.Checkpoint:
    """The checkpoint at `path`: a folder, a `.pt`, or a run, whose own checkpoint is meant."""
    own = files.resolve(path) / "checkpoint"
    return checkpoints.load(own if own.is_dir() else path)


def compare_vae(first: Measurable, second: Measurable, vae: str, k: int, seed: int) -> list[Paired]:
    """Every paired metric of one VAE that both networks have.

    McNemar's test of posterior samples and paths; Student's t of the distortion, over its draws,
    and of metrics of the marginal, by the jackknife of the difference over common groups.
    """
    both = [Evaluation(network, vae, k, seed, vae, 0) for network in (first, second)]

    def values(name: str) -> tuple[float, float]:
        one, two = (METRICS[name].compute(e).value for e in both)
        return np.nan if one is None else one, np.nan if two is None else two

    found = [Paired(vae, name, *values(name)) for name in EXACT]
    matches = [e.samples.exact_matches.numpy().ravel() for e in both]
    found.append(mcnemar(vae, "exact_match_sampled", *matches))
    paths = [consistent_paths(e.network, vae, e.rng("connection")).numpy() for e in both]
    found.append(mcnemar(vae, "path_consistency", *paths))
    nats, other = (e.samples.nats.numpy() for e in both)
    noise = float((other - nats).std(ddof=1)) / len(nats) ** 0.5
    found.append(student(vae, "distortion", *values("distortion"), noise, len(nats) - 1))
    for name, function in MARGINAL.items():
        one, two = (leave_one_out(e.marginal, function)[1] for e in both)
        # The jackknife's variance is (G - 1)/G times the sum of squares.
        noise = float((two - one).std()) * (GROUPS - 1) ** 0.5
        found.append(student(vae, name, *values(name), noise, GROUPS - 1))
    return found


def compare(
    first: Network,
    second: Network,
    k: int,
    seed: int,
    names: tuple[str, str],
    report: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, list[str]]:
    """Compare every VAE that both networks have: a table, and the answers in words.

    A row for each VAE and metric: first, second, difference (second minus first), p (None where
    nothing is drawn), better (which of `names`, if a difference shows) and detectable, the smallest
    true difference that would show in 80 % of cases.
    """
    vaes = [vae for vae in first.vaes if vae in second.vaes]
    jobs = [Job(f"VAE-{vae}", compare_vae, (first, second, vae, k, seed)) for vae in vaes[::-1]]
    found = [row for rows in parallel.each(jobs, report)[::-1] for row in rows]
    rows = pd.DataFrame(found).assign(difference=lambda x: x["second"] - x["first"])
    tests = rows.p.notna()
    shown = rows.difference != 0  # an exact difference needs no test
    shown[tests] = holm(rows.p[tests].tolist())
    gain = rows.difference * rows.metric.map(lambda name: METRICS[name].better)
    rows["better"] = np.select([shown & (gain < 0), shown & (gain > 0)], names, "")
    rows["detectable"] = [row.detectable(tests.sum()) for row in found]
    columns = ["vae", "metric", "first", "second", "difference", "p", "better", "detectable"]
    answers = [_answer(rows[rows.vae == vae], vae, names) for vae in vaes]
    return rows[columns], [*answers, *_notes(first, second, names)]


def _answer(rows: pd.DataFrame, vae: str, names: tuple[str, str]) -> str:
    """Which one to keep, for one VAE.

    Rate, MIG and disentanglement are exact, so they always differ a little: they decide nothing.
    """
    rows = rows[rows.p.notna() | (rows.metric == "exact_match")]
    won = {name: [METRICS[m].title for m in rows.metric[rows.better == name]] for name in names}
    words = [f"{name} is better in {'; '.join(titles)}" for name, titles in won.items() if titles]
    if not words:
        return f"VAE-{vae}: keep either. No difference shows; the table says which would have."
    if len(words) == 2:
        return f"VAE-{vae}: it depends. {words[0]}. {words[1]}."
    return f"VAE-{vae}: keep {words[0].replace(' is', ', which is', 1)}, and worse in nothing."


def _notes(first: Network, second: Network, names: tuple[str, str]) -> list[str]:
    """Which VAE only one side has, and which parts hold identical tensors."""
    notes = []
    for vae in VAES:
        has = [name for name, x in zip(names, (first, second), strict=True) if vae in x.vaes]
        if len(has) == 1:
            notes.append(f"VAE-{vae}: only {has[0]} has a decoder {vae}: nothing to compare.")
    one, two = first.state_dict(), second.state_dict()
    other = {k.partition(".")[0] for k in one if k not in two or not one[k].equal(two[k])}
    parts = [f"{part}_{vae}" for part in ("encoder", "decoder") for vae in first.vaes]
    same = ", ".join(part for part in parts if part not in other)
    return [*notes, f"Identical in both, to the bit: {same}."] if same else notes
