"""Rows → tables and sentences as a reader sees them. Nothing here computes a metric."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler
from torch import Tensor

from ..metrics import gates as judging
from ..metrics.gates import Judged, Refusal
from ..metrics.marginal import LIMIT_NATS
from ..metrics.measurement import MODEL, UNTRAINED, Compared, Results
from ..metrics.observation import metric
from ..metrics.results import CENSUS, Measured
from ..model.network import VAES

if TYPE_CHECKING:  # what signs is an extra of its own
    from ..certification.certificate import Certificate, KeptEpoch

GREY = "color: #767676; background-color: #f4f4f4"
VERDICT = {"PASS": "color: #1a7f37; font-weight: bold", "FAIL": "color: #c1121f; font-weight: bold"}
ABSTAIN = "color: #b26a00; font-weight: bold"
COLUMNS = {  # of the comparison: what they show together
    "untrained": ("untrained",),
    "random linear maps": ("random linear",),
    "ignoring z": ("collapsed", "uniform"),
}
IN_ONE_MINUTE = {
    "argmax_entropy": "of the entropy there can be is generated, by argmax",
    "argmax_coverage_50000": "of the ceiling of argmax coverage at N = 50,000",
    "exact_match_sampled": "of all operations come back from a posterior sample",
}


def summary(results: Results) -> Markdown:
    """The page in one minute: what the model does, how sure that is, what noise would score."""
    rows = {(row.metric, row.vae): row for row in results.comparison}
    vaes = list(dict.fromkeys(row.vae for row in results.comparison))
    head = ["", *(f"VAE-{vae} (95 %)" for vae in vaes), "to compare with"]
    lines = [head, ["---"] * len(head)]
    for name, label in IN_ONE_MINUTE.items():
        both = [rows[name, vae] for vae in vaes if (name, vae) in rows]
        noise = max((high for row in both for _, high in row.controls.values()), default=None)
        cells = [f"**{number(row.ours.value)}** ({interval(row.ours)})" for row in both]
        if both:  # `ns` need not hold this N
            lines.append([label, *cells, f"nothing learnt, five seeds: up to {number(noise)}"])
    for name, label, beside in (
        ("rate", "nats a code costs", "the least at that exact match"),
        ("elbo", "nats of ELBO", "ignoring the latent"),
    ):
        ours = [rows[name, vae].ours for vae in vaes]
        least = [with_interval(rows["least_rate", vae].ours, "nats") for vae in vaes]
        limit = " / ".join(least) if name == "rate" else f"{-LIMIT_NATS:.4f}"
        cells = [f"**{with_interval(value, 'nats')}**" for value in ours]
        lines.append([label, *cells, f"{beside}: {limit}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return Markdown(f"### In one minute\n\n{table}\n\n{without(vaes)}")


def why_not_categorical(results: Results) -> str:
    """Why the repair of the original, sampling categorically, repairs nothing: in its numbers."""
    vae = list(results.of(MODEL))[-1]
    found = {
        (network, row.decode): row
        for network in (MODEL, UNTRAINED)
        for row in sorted(results.of(network)[vae].drawings.coverage, key=lambda row: row.n)
    }  # the largest N of each wins
    share = {key: number(row.share.value) for key, row in found.items()}
    return (
        f"Sampling categorically is no evidence of learning: at N = {found[MODEL, 'argmax'].n:,} "
        f"an untrained VAE-{vae} reaches {share[UNTRAINED, 'categorical']} of the operations "
        f"that way and this checkpoint {share[MODEL, 'categorical']}; by argmax it is "
        f"{share[UNTRAINED, 'argmax']} against {share[MODEL, 'argmax']}."
    )


def comparison(rows: list[Compared]) -> Styler:
    """Metric by metric, each VAE beside the controls, a read-out that knows ten operations, and the
    optimum written by hand; greyed where noise can win."""
    lines, grey = [], []
    for name in dict.fromkeys(row.metric for row in rows):
        both, about = [row for row in rows if row.metric == name], metric(name)
        good = all(row.discriminates for row in both)
        line = {"metric": about.title if good else f"{about.title} (alone decides nothing)"}
        for row in both:
            line[f"VAE-{row.vae} (95 %)"] = with_interval(row.ours, about.unit)
        for title, kinds in COLUMNS.items():
            hulls = [row.controls[kind] for row in both for kind in kinds if kind in row.controls]
            lows, highs = zip(*hulls, strict=True) if hulls else ((), ())
            line[title] = ends(min(lows), max(highs), about.unit) if hulls else "–"
        line["ten operations"] = number(both[0].readout.value, about.unit)
        line["by hand"] = number(both[0].best.value, about.unit)
        lines.append(line)
        grey.append(not good)
    styled = left(lines, [row.vae for row in rows])
    return styled.apply(lambda column: [GREY if g else "" for g in grey])


def coverage(results: Results) -> Styler:
    """Sampled coverage by network and mode: mean count, its interval, share of the ceiling."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for network in (MODEL, UNTRAINED):
        for vae, row in results.of(network).items():
            name = vae if network == MODEL else f"{network} {vae}"
            for drawn in row.drawings.coverage:
                u, key = drawn.unique, (name, drawn.decode)
                line = lines.setdefault(key, {"network": name, "decode": drawn.decode})
                count = f"{u.value:,.0f} ({u.low:,.0f} … {u.high:,.0f})"
                line[f"N = {drawn.n:,}"] = f"{count} · {number(drawn.of_ceiling.value)}"
    return left(lines.values(), results.of(MODEL))


def hardest(results: Results, count: int = 5) -> Styler:
    """The operations that argmax decoding seems to reach least, P·M being 1 for a perfect
    generator: chosen by half of the latents, measured by the other half."""
    lines = [
        {
            "VAE": vae,
            "operation": name,
            "P·M, argmax": f"{row.value:.3f}",
            "95 % interval": f"{row.low:.3f} … {row.high:.3f}",
        }
        for vae, found in results.of(MODEL).items()
        for name, row in list(found.details.hardest.items())[:count]
    ]
    return left(lines, results.of(MODEL))


def epochs(rows: list[dict], every: int) -> Styler:
    """The honest measures of every so many epochs, of the selected one and of the last."""
    shown = [key for key in rows[0] if key not in ("epoch", "score", "selected", "lr")]
    shares = ("val_exact", "coverage", "argmax_entropy")
    return left(
        {
            "epoch": row["epoch"],
            "score": f"{row['score']:.4f}",
            **{
                key.replace("_", " "): number(row[key]) if key.startswith(shares)
                else f"{row[key]:.3f}"
                for key in shown
            },
            "selected": "selected" if row["selected"] else "",
        }
        for row in rows
        if row["epoch"] % every == 0 or row["selected"] or row is rows[-1]
    )  # fmt: skip


def gates(rows: list[Judged]) -> Styler:
    """One gate a row: bound, value, interval, verdict."""
    lines = [
        {
            "gate": row.title,
            "VAE": row.vae,
            "bound": f"{'≤' if row.gate.startswith('max_') else '≥'} {number(row.bound, row.unit)}",
            "value": number(row.measured.value, row.unit),
            "95 % interval": interval(row.measured, row.unit),
            "verdict": row.verdict,
        }
        for row in rows
    ]
    return _coloured(lines, [row.vae for row in rows])


def refusals(rows: list[Refusal]) -> Styler:
    """Each control at the gates: its verdict, and the gates that it does not pass."""
    failed = [dict.fromkeys(g.gate for g in row.gates if g.verdict != "PASS") for row in rows]
    return _coloured(
        {
            "control": row.control,
            "latents": f"{row.k:,}",
            "verdict": row.verdict,
            "not passed": ", ".join(gates),
        }
        for row, gates in zip(rows, failed, strict=True)
    )


def by_epoch(kept: "list[KeptEpoch]") -> Styler:
    """The worse VAE's value at each gate, epoch by epoch, and the verdict. A VAE that has failed is
    measured no further: no worse one can be named then."""
    lines = []
    asked = {row.gate: row for epoch in kept for row in epoch.gates}
    for epoch in kept:
        line = {"epoch": epoch.epoch, "latents": f"{epoch.k:,}"}
        vaes = {row.vae for row in epoch.gates}
        for gate, about in asked.items():
            found = {row.vae: row.measured.value for row in epoch.gates if row.gate == gate}
            pick = max if gate.startswith("max_") else min
            worse = None if None in found.values() else pick(found.values(), default=None)
            line[about.title] = number(worse, about.unit) if found.keys() == vaes else "–"
        lines.append({**line, "verdict": judging.verdict(epoch.gates)})
    return _coloured(lines)


def kinds(found: dict[str, dict[str, Measured]]) -> Styler:
    """`generalisation.kinds` by VAE: a row a kind, with how many cases and operations it counts."""
    lines = [
        {
            "exact match of": name.replace("_", " "),
            **{f"VAE-{vae}": with_interval(rows[name]) for vae, rows in found.items()},
            "cases": f"{row.n:,}",
            "operations": row.method.rpartition("; ")[2].removesuffix(" operations"),
        }
        for name, row in next(iter(found.values())).items()
    ]
    return left(lines, found)


def distributions(p: Tensor, table: list[int]) -> Styler:
    """One operation's nine distributions, p (T, C): how likely each output is for each input."""
    frame = pd.DataFrame(p.tolist(), columns=["−1", "0", "+1"])
    frame.insert(0, "inputs (a, b)", [f"({t // 3 - 1}, {t % 3 - 1})" for t in range(len(table))])
    frame.insert(1, "output", table)
    return left(frame).format(precision=4)


def shares(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """`frame` with its `columns` as percentages and underscores as spaces."""
    shown = frame.assign(**{column: frame[column].map(number) for column in columns})
    return shown.rename(columns=lambda name: name.replace("_", " "))


def label(certificate: "Certificate") -> HTML:
    """One line: the verdict and whose signature; red where there is none."""
    signed = '<b style="color: #c1121f">unsigned: anyone can have written this</b>'
    if certificate.signature:
        signed = f"signed by the key {certificate.signature.fingerprint}"
    return HTML(f"<p>Certificate: <b>{certificate.verdict}</b>, {signed}.</p>")


def number(value: float | None, unit: str = "share", decimals: int = 2) -> str:
    """A share as a percentage, with as many decimals as keep what is below 100 % below it, and
    four where it is small."""
    if value is None:
        return "not told"
    if unit == "count":
        return f"{value:.0f}"
    if unit == "number" and 0.999 < value < 1 - 1e-12:  # above that it is of rounding
        return f"{value:.{next(d for d in range(4, 17) if round(value, d) < 1)}f}"
    if unit != "share":
        return f"{value:.4f}" if unit == "nats" or 0 < abs(value) < 0.1 else f"{value:.3f}"
    if 0.999 < value < 1:
        decimals = next(d for d in range(4, 15) if round(100 * value, d) < 100)
    elif 0 < value < 0.001:
        decimals = 4
    return f"{value:.{decimals}%}"


def interval(row: Measured, unit: str = "share") -> str:
    """Both ends, or "exact" where nothing was drawn."""
    if row.value is None:
        return row.method
    return "exact" if row.method.startswith(CENSUS) else ends(row.low, row.high, unit)


def ends(low: float, high: float, unit: str = "share") -> str:
    """Two ends with the same decimals, more where they would look alike."""
    first, last = number(low, unit), number(high, unit)
    if first == last and low < high and unit == "share":
        first, last = number(low, unit, 4), number(high, unit, 4)
    return first if first == last else f"{first} … {last}"


def with_interval(row: Measured, unit: str = "share") -> str:
    exact = row.value is None or row.method.startswith(CENSUS)
    return number(row.value, unit) + ("" if exact else f" ({interval(row, unit)})")


def without(vaes: Iterable[str]) -> str:
    """What stands where rows of B would, in a layout that has none."""
    return "" if "B" in vaes else "VAE-B: encoder B has no decoder in this layout."


def left(rows: pd.DataFrame | Iterable[dict], vaes: Iterable[str] = VAES) -> Styler:
    """Rows as a table, aligned to the left; `vaes`: those it has rows of."""
    styled = pd.DataFrame(rows).style.hide(axis="index").set_properties(**{"text-align": "left"})
    return styled.set_caption(without(vaes)) if without(vaes) else styled


def _coloured(rows: Iterable[dict], vaes: Iterable[str] = VAES) -> Styler:
    return left(rows, vaes).map(lambda v: VERDICT.get(v, ABSTAIN), subset=["verdict"])
