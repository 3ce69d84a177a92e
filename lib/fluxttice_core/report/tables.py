"""Rows → tables and sentences for a reader. Nothing here computes a metric."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler

from ..benchmark import NETWORKS, Benchmark
from ..metrics.controls import CONTROLS
from ..metrics.gates import ControlResult, GateResult
from ..metrics.marginal import LIMIT_NATS, MIN_LATENTS
from ..metrics.measurement import METRICS, MODEL, QUESTIONS, Metric, compare, control_ranges
from ..metrics.results import EXHAUSTIVE

if TYPE_CHECKING:  # what signs is an extra of its own
    from ..certification.certificate import Certificate

VERDICT = {
    "PASS": "color: light-dark(#1a7f37, #5fd38d); font-weight: bold",
    "FAIL": "color: light-dark(#c1121f, #ff8a8a); font-weight: bold",
}
ABSTAIN = "color: light-dark(#946000, #ffc46b); font-weight: bold"
COLUMNS = {  # of the comparison, and the controls that each shows together
    "untrained": ["untrained"],
    "random linear maps": ["random linear"],
    "ignoring z": ["collapsed", "uniform"],
}
OTHERS = [name for name in NETWORKS if name not in CONTROLS]  # of one seed each
HEADLINE_METRICS = (
    "argmax_entropy", "argmax_coverage_50000", "exact_match_sampled", "rate", "elbo",
)  # fmt: skip
DECISIVE = (
    "argmax_entropy", "argmax_coverage_10000", "argmax_coverage_50000", "argmax_coverage_195000",
    "exact_match", "exact_match_test", "exact_match_sampled",
)  # fmt: skip


# --- A benchmark, from its rows (`benchmark.Document.frame`) --------------------------------------


def draws(p: Benchmark) -> str:
    """The caption of a table of exact figures: the draws that they are of."""
    return f"Draws: {p.k:,} latents by seed {p.seed}; controls: {MIN_LATENTS:,} latents."


def result(rows: pd.DataFrame) -> Markdown:
    """The benchmark's result in a sentence."""
    beats = compare(rows).beats_controls.unstack("vae").all(axis=1)
    missed = ", ".join(METRICS[name].title for name in DECISIVE if not beats[name])
    verdict = f"beats every control on all {len(DECISIVE)} decisive metrics"
    if missed:
        verdict = f"does not beat every control on all decisive metrics ({missed})"
    count = f"and on {beats.sum()} of all {len(beats)} metrics"
    return Markdown(f"**This checkpoint {verdict}**, {count}, for every VAE.")


def summary(rows: pd.DataFrame, caption: str) -> Styler:
    """The headline metrics of each VAE, each with the number to compare it with."""
    model, ranges = rows[rows.network == MODEL], control_ranges(rows)
    lines = []
    for name in HEADLINE_METRICS:
        unit = METRICS[name].unit
        if name == "rate":
            least = _by_vae(model[model.metric == "least_rate"], "nats").values()
            other = f"least with one latent per entry (exact match ≥ 0.896): {' / '.join(least)}"
        elif name == "elbo":
            other = f"ignoring the latent: {format_value(-LIMIT_NATS, unit)}"
        else:
            most = ranges.loc[name]["high"][list(CONTROLS)].max().max()
            other = f"best control: up to {format_value(most, unit)}"
        line = {"metric": METRICS[name].title} | _by_vae(model[model.metric == name], unit)
        lines.append(line | {"to compare with": other})
    return plain_table(lines, caption)


def comparison(rows: pd.DataFrame, caption: str) -> HTML:
    """Every metric beside the controls, the linear probe and the oracle, grouped by question. The
    metrics that beat every control come first; those that a control reaches are folded."""
    question = {name: group for group, names in QUESTIONS.items() for name in names}
    ranges, lines = control_ranges(rows), []
    others = rows[(rows.vae == "A") & rows.network.isin(OTHERS)]
    others = others.set_index(["metric", "network"]).value
    for name, found in compare(rows).groupby(level="metric", sort=False):
        about = METRICS[str(name)]
        line: dict[str, Any] = {"": question[str(name)], "metric": about.title}
        line |= _by_vae(found.reset_index(), about.unit)
        for title, kinds in COLUMNS.items():
            ends = ranges.loc[name].reindex(columns=kinds, level="network")
            low, high = ends["low"].min().min(), ends["high"].max().max()
            line[title] = format_interval(low, high, about.unit)
        for network in OTHERS:
            line[network] = format_value(others[name, network], about.unit)
        lines.append(line | {"beats": found.beats_controls.all()})
    frame, tables = pd.DataFrame(lines), []
    for beats in (True, False):
        part = frame[frame.beats == beats].drop(columns="beats")
        part[""] = part[""].where(~part[""].duplicated(), "")
        tables.append(plain_table(part, caption).to_html())
    folded = f"{(~frame.beats).sum()} metrics that are not informative: a control reaches them"
    return HTML(f"{tables[0]}<details><summary>{folded}</summary>{tables[1]}</details>")


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """A comparison of two checkpoints (`comparison.compare`), with its numbers formatted."""

    def formatted(line: pd.Series) -> dict[str, str]:
        about, drawn = METRICS[line.metric], pd.notna(line.p)
        return {
            "VAE": line.vae,
            "metric": about.title,
            "first": format_value(line["first"], about.unit),
            "second": format_value(line["second"], about.unit),
            "difference": f"{line.difference:+.2g}",
            "p": f"{line.p:.2g}" if drawn else "exact",
            "better": line.better,
            "would show in 80 %": f"{line.detectable:.2g}" if drawn else "any",
        }

    return pd.DataFrame(formatted(line) for _, line in rows.iterrows())


def coverage(rows: pd.DataFrame, caption: str) -> Styler:
    """Sampled coverage, as a share of the ceiling, of the model and of one untrained network."""
    parts = rows.metric.str.extract(r"^sampled_(\w+)_coverage_(\d+)$").dropna()
    found = rows.loc[parts.index, ["network", "vae"]].assign(decoding=parts[0])
    found["n"] = [f"N = {int(n):,}" for n in parts[1]]
    found["shown"] = [format_measured(row) for row in rows.loc[parts.index].itertuples()]
    index = ["network", "vae", "decoding"]
    table = found.pivot(index=index, columns="n", values="shown").reset_index()
    return plain_table(table[[*index, *found.n.unique()]], caption)


def subgroups(rows: pd.DataFrame, caption: str) -> Styler:
    """Exact match on groups of operations outside the training split."""
    lines, stem = [], "exact_match_on_"
    model = rows[(rows.network == MODEL) & rows.metric.str.startswith(stem)]
    for name, found in model.groupby("metric", sort=False):
        line = {"exact match on": str(name).removeprefix(stem), "operations": f"{found.n.max():,}"}
        lines.append(line | _by_vae(found))
    return plain_table(lines, caption)


# --- Training and gates ---------------------------------------------------------------------------


def epochs(rows: list[dict], every: int) -> Styler:
    """The validation metrics of every so many epochs, of the selected one and of the last."""
    hidden, shares = ("epoch", "score", "selected", "lr"), ("val_exact", "coverage", "argmax")
    lines = []
    for row in rows:
        if row["epoch"] % every == 0 or row["selected"] or row is rows[-1]:
            line = {"epoch": row["epoch"], "score": f"{row['score']:.4f}"}
            for key in (key for key in row if key not in hidden):
                unit = "share" if key.startswith(shares) else "number"
                line[key.replace("_", " ")] = format_value(row[key], unit)
            lines.append(line | {"selected": "selected" if row["selected"] else ""})
    return plain_table(lines)


def gates(results: list[GateResult], caption: str = "") -> Styler:
    """A line a gate: bound, value, interval, verdict."""
    lines = []
    for one in results:
        about, bound = _gate(one)
        interval = format_interval(one.low, one.high, about.unit)
        line = {"gate": about.title, "VAE": one.vae, "bound": bound}
        line["value"] = format_value(one.value, about.unit)
        line["95 % interval"] = "exact" if one.method.startswith(EXHAUSTIVE) else interval
        lines.append(line | {"verdict": one.verdict})
    return _coloured(plain_table(lines, caption))


def control_results(results: list[ControlResult], caption: str = "") -> Styler:
    """A line a negative control: its verdict, and the gate that fails it."""
    lines = []
    for one in results:
        failed = [_gate(row)[0].title for row in one.gates if row.verdict == "FAIL"]
        line = {"control": one.control, "latents": f"{one.k:,}", "verdict": one.verdict}
        lines.append(line | {"fails at": ", ".join(failed)})
    return _coloured(plain_table(lines, caption))


def _gate(row: GateResult) -> tuple[Metric, str]:
    """The metric that a gate bounds, and the bound."""
    about = METRICS[row.gate.partition("_")[2]]
    sign = "≤" if row.gate.startswith("max_") else "≥"
    return about, f"{sign} {format_value(row.bound, about.unit)}"


def verdict_sentence(found: "Certificate") -> str:
    """The verdict in a sentence: how many gates pass, and each gate that does not."""
    unmet = []
    for row in found.gates:
        about, bound = _gate(row)
        why = ", its interval holds the bound" if row.verdict == "ABSTAIN" else ""
        value = format_value(row.value, about.unit)
        if row.verdict != "PASS":
            unmet.append(f"{about.title} of VAE-{row.vae} is {value}, the bound is {bound}{why}")
    vaes = " and ".join(f"VAE-{vae}" for vae in dict.fromkeys(row.vae for row in found.gates))
    total = len(found.gates)
    if found.verdict == "PASS":
        return f"PASS ({found.profile}): all {total} gates for {vaes}."
    words = f"{found.verdict} ({found.profile}): {total - len(unmet)} of {total} gates pass"
    words += f" for {vaes}." + (f" Not met: {'; '.join(unmet)}." if unmet else "")
    escaped = [one.control for one in found.controls if one.verdict != "FAIL"]
    return words + (f" Controls that do not fail: {', '.join(escaped)}." if escaped else "")


def verdict(found: "Certificate") -> Markdown:
    """The verdict at the top of its page and, where it is not PASS, what to do now."""
    text = f"**{verdict_sentence(found)}**"
    if found.verdict != "PASS":
        text += (
            "\n\n- A v5.5 checkpoint has bounds of its own: `make report CHECKPOINT=… "
            "CERTIFY=params/certify_v5_5.yaml`.\n"
            "- 2_benchmark shows how far the checkpoint is from untrained networks.\n"
            "- A gate that ABSTAINs is near its bound; a larger `k` narrows its interval."
        )
    return Markdown(text)


def guarantees(found: "Certificate") -> Markdown:
    """What the certificate guarantees and what it does not; of a verdict that is not PASS, only
    the limits of what was measured."""
    parts = [("It does not guarantee:", found.does_not_guarantee)]
    if found.verdict == "PASS":
        parts.insert(0, ("It guarantees:", found.guarantees))
    return Markdown("\n\n".join(f"{head}\n\n- " + "\n- ".join(text) for head, text in parts))


def label(found: "Certificate") -> HTML:
    """One line: the verdict and the signature; red if there is none."""
    signed = f'<span style="{VERDICT["FAIL"]}">unsigned: anyone can have written this</span>'
    if found.signing_key:
        signed = f"signed by the key {found.signing_key}"
    return HTML(f"<p>Verdict: <b>{found.verdict}</b>, {signed}.</p>")


# --- Numbers --------------------------------------------------------------------------------------


def format_value(value: float | None, unit: str = "share") -> str:
    """A number with four significant digits; a share as a percentage. Never rounds a number below 1
    (a share below 100 %) up to it; the distance to it then gets two digits."""
    if value is None or pd.isna(value):
        return "undefined"
    if unit == "count":
        return f"{value:,.0f}"
    missing = 1 - value
    if unit == "number" and 0 < missing < 1e-3:
        return f"{math.floor(value * 1e4) / 1e4:.4f}"
    if unit != "share":
        return f"{value:.4g}"
    if 0 < missing < 1e-6:
        return ">99.9999%"
    if 0 < missing < 1e-3:
        return f"{value:.{-math.floor(math.log10(missing)) - 1}%}"
    return f"{100 * value:.2g}%" if 0 < value < 1e-3 else f"{value:.2%}"


def format_interval(low: float | None, high: float | None, unit: str = "share") -> str:
    """Both ends, once if they look alike; "–" without an interval."""
    if low is None or pd.isna(low):
        return "–"
    ends = format_value(low, unit), format_value(high, unit)
    return ends[0] if ends[0] == ends[1] else " … ".join(ends)


def format_measured(row: Any, unit: str = "share") -> str:
    """Value ± half-width of the interval (the longer half), or "−" and "+" where the value is one
    of its ends; without it if nothing was drawn. `row` has `value`, `low`, `high`."""
    value = format_value(row.value, unit)
    if pd.isna(row.low) or row.low == row.high:
        return value
    sign = {row.high: "−", row.low: "+"}.get(row.value, "±")
    half = max(row.high - row.value, row.value - row.low) * (100 if unit == "share" else 1)
    digits = np.format_float_positional(half, 1, fractional=False, trim="-")
    return f"{value} {sign} {digits}"


def _by_vae(rows: pd.DataFrame, unit: str = "share") -> dict[str, str]:
    return {f"VAE-{row.vae}": format_measured(row, unit) for row in rows.itertuples()}


def plain_table(rows: pd.DataFrame | Iterable[dict], caption: str = "") -> Styler:
    """Rows as a table, aligned to the left."""
    styled = pd.DataFrame(rows).style.hide(axis="index").set_properties(**{"text-align": "left"})
    return styled.set_caption(caption) if caption else styled


def _coloured(table: Styler) -> Styler:
    return table.map(lambda v: VERDICT.get(v, ABSTAIN), subset=["verdict"])
