"""Rows → tables and sentences for a reader. Nothing here computes a metric."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler
from torch import Tensor

from ..benchmark import ORACLE, PROBE, UNTRAINED, Benchmark
from ..metrics.controls import CONTROLS
from ..metrics.gates import ControlResult, GateResult, metric_of
from ..metrics.marginal import LIMIT_NATS, MIN_LATENTS
from ..metrics.measurement import METRICS, MODEL, QUESTIONS, compare, control_ranges
from ..metrics.results import EXHAUSTIVE
from ..model.network import VAES

if TYPE_CHECKING:  # what signs is an extra of its own
    from ..certification.certificate import Certificate

GREY = "color: #767676; background-color: #f4f4f4"
VERDICT = {"PASS": "color: #1a7f37; font-weight: bold", "FAIL": "color: #c1121f; font-weight: bold"}
ABSTAIN = "color: #b26a00; font-weight: bold"
COLUMNS = {  # of the comparison, and the controls that each shows together
    "untrained": ["untrained"],
    "random linear maps": ["random linear"],
    "ignoring z": ["collapsed", "uniform"],
}
HEADLINE_METRICS = (
    "argmax_entropy", "argmax_coverage_50000", "exact_match_sampled", "rate", "elbo",
)  # fmt: skip
DECISIVE = (
    "argmax_entropy", "argmax_coverage_10000", "argmax_coverage_50000", "argmax_coverage_195000",
    "exact_match", "exact_match_test", "exact_match_sampled",
)  # fmt: skip


# --- A benchmark, from its rows (`benchmark.Document.frame`) --------------------------------------


def draws(p: Benchmark) -> str:
    """The caption of every table of a benchmark: the draws it is of."""
    return f"Draws: {p.k:,} latents by seed {p.seed}; controls: {MIN_LATENTS:,} latents."


def result(rows: pd.DataFrame) -> Markdown:
    """The benchmark's result in a sentence."""
    beats = compare(rows).beats_controls.unstack("vae").all(axis=1)
    missed = [name for name in DECISIVE if not beats[name]]
    verdict = (
        f"**This checkpoint beats every control on all {len(DECISIVE)} decisive metrics**"
        if not missed
        else f"**{len(missed)} of {len(DECISIVE)} decisive metrics do not beat every control** "
        f"({', '.join(METRICS[name].title for name in missed)})"
    )
    return Markdown(f"{verdict}, and on {beats.sum()} of all {len(beats)} metrics, for every VAE.")


def summary(rows: pd.DataFrame, caption: str) -> Styler:
    """The headline metrics of each VAE, each with the number to compare it with."""
    model, ranges = rows[rows.network == MODEL], control_ranges(rows)
    lines = []
    for name in HEADLINE_METRICS:
        about, mine = METRICS[name], model[model.metric == name]
        line = {"metric": about.title} | _by_vae(mine, about.unit)
        if name == "rate":
            least = _by_vae(model[model.metric == "least_rate"], "nats").values()
            other = f"least with one latent per entry (exact match ≥ 0.896): {' / '.join(least)}"
        elif name == "elbo":
            other = f"ignoring the latent: {format_value(-LIMIT_NATS, 'nats')}"
        else:
            most = ranges.loc[name]["high"][list(CONTROLS)].max().max()
            other = f"best control: up to {format_value(most, about.unit)}"
        lines.append(line | {"to compare with": other})
    return plain_table(lines, caption, model.vae)


def comparison(rows: pd.DataFrame, caption: str) -> HTML:
    """Every metric beside the controls, the linear probe and the oracle, grouped by question. The
    metrics that beat every control come first; those that a control reaches are folded."""
    compared, ranges = compare(rows), control_ranges(rows)
    others = rows[rows.vae == "A"].drop_duplicates(["network", "metric"])
    others = others.pivot(index="metric", columns="network", values="value")
    lines = []
    for name, both in compared.groupby(level="metric", sort=False):
        about = METRICS[str(name)]
        question = next(q for q, group in QUESTIONS.items() if name in group)
        line: dict[str, Any] = {"": question, "metric": about.title}
        line |= _by_vae(both.reset_index(), about.unit)
        for title, kinds in COLUMNS.items():
            ends = ranges.loc[name].reindex(columns=kinds, level="network")
            line[title] = format_interval(
                ends["low"].min().min(), ends["high"].max().max(), about.unit
            )
        for network in (PROBE, ORACLE):
            line[network] = format_value(others.at[name, network], about.unit)
        lines.append(line | {"beats": both.beats_controls.all()})
    frame = pd.DataFrame(lines)
    tables = []
    for beats in (True, False):
        part = frame[frame.beats == beats].drop(columns="beats")
        part[""] = part[""].where(~part[""].duplicated(), "")
        tables.append(plain_table(part, caption, rows[rows.network == MODEL].vae).to_html())
    folded = f"{(~frame.beats).sum()} metrics that are not informative: a control reaches them"
    return HTML(f"{tables[0]}<details><summary>{folded}</summary>{tables[1]}</details>")


def why_not_categorical(rows: pd.DataFrame) -> str:
    """Why sampling categorically is no evidence of learning, in this checkpoint's numbers."""
    vae, n = rows[rows.network == MODEL].vae.max(), 195_000
    found = rows[rows.vae == vae].drop_duplicates(["network", "metric"])
    share = found.set_index(["network", "metric"]).value.map(format_value)
    text = [
        share[network, f"sampled_{mode}_coverage_{n}"]
        for mode in ("categorical", "argmax")
        for network in (UNTRAINED, MODEL)
    ]
    return (
        f"Sampling categorically is no evidence of learning: at N = {n:,} an untrained VAE-{vae} "
        f"reaches {text[0]} of the ceiling that way and this checkpoint {text[1]}; by argmax it is "
        f"{text[2]} against {text[3]}."
    )


def coverage(rows: pd.DataFrame, caption: str) -> Styler:
    """Sampled coverage, as a share of the ceiling, of the model and of one untrained network."""
    found = rows[rows.network.isin([MODEL, UNTRAINED])]
    parts = found.metric.str.extract(r"^sampled_(?P<decoding>\w+)_coverage_(?P<n>\d+)$")
    found = found.assign(decoding=parts.decoding, n=parts.n.astype(float)).dropna(subset="decoding")
    lines: dict[tuple, dict[str, str]] = {}
    for row in found.itertuples():
        key = {"network": row.network, "VAE": row.vae, "decoding": row.decoding}
        line = lines.setdefault(tuple(key.values()), key)
        line[f"N = {row.n:,.0f}"] = format_measured(row)
    return plain_table(lines.values(), caption, found[found.network == MODEL].vae)


def subgroups(rows: pd.DataFrame, caption: str) -> Styler:
    """Exact match on groups of operations outside the training split."""
    model = rows[(rows.network == MODEL) & rows.metric.str.startswith("exact_match_on_")]
    lines = [
        {
            "exact match on": name.removeprefix("exact_match_on_"),
            "operations": f"{found.n.iloc[0]:,}",
            **_by_vae(found),
        }
        for name, found in model.groupby("metric", sort=False)
    ]
    return plain_table(lines, caption, model.vae)


# --- Training, gates, and the rest ----------------------------------------------------------------


def epochs(rows: list[dict], every: int) -> Styler:
    """The validation metrics of every so many epochs, of the selected one and of the last."""
    shown = [key for key in rows[0] if key not in ("epoch", "score", "selected", "lr")]
    shares = ("val_exact", "coverage", "argmax_entropy")
    return plain_table(
        {
            "epoch": row["epoch"],
            "score": f"{row['score']:.4f}",
            **{
                key.replace("_", " "): format_value(
                    row[key], "share" if key.startswith(shares) else "number"
                )
                for key in shown
            },
            "selected": "selected" if row["selected"] else "",
        }
        for row in rows
        if row["epoch"] % every == 0 or row["selected"] or row is rows[-1]
    )


def gates(results: list[GateResult], caption: str = "") -> Styler:
    """A line a gate: bound, value, interval, verdict."""
    lines = []
    for one in results:
        about = METRICS[metric_of(one.gate)]
        sign = "≤" if one.gate.startswith("max_") else "≥"
        exact = one.method.startswith(EXHAUSTIVE)
        lines.append(
            {
                "gate": about.title,
                "VAE": one.vae,
                "bound": f"{sign} {format_value(one.bound, about.unit)}",
                "value": format_value(one.value, about.unit),
                "95 % interval": "exact"
                if exact
                else format_interval(one.low, one.high, about.unit),
                "verdict": one.verdict,
            }
        )
    return _coloured(plain_table(lines, caption, [one.vae for one in results]))


def control_results(results: list[ControlResult], caption: str = "") -> Styler:
    """A line a negative control: its verdict, and the gate that fails it."""
    lines = []
    for one in results:
        failed = [METRICS[metric_of(g.gate)].title for g in one.gates if g.verdict == "FAIL"]
        line = {"control": one.control, "latents": f"{one.k:,}", "verdict": one.verdict}
        lines.append(line | {"fails at": ", ".join(failed)})
    return _coloured(plain_table(lines, caption))


def distributions(p: Tensor, table: list[int]) -> Styler:
    """One operation's nine distributions, p (T, C): the probability of each output by input."""
    frame = pd.DataFrame(p.tolist(), columns=["−1", "0", "+1"])
    frame.insert(0, "inputs (a, b)", [f"({t // 3 - 1}, {t % 3 - 1})" for t in range(len(table))])
    frame.insert(1, "output", table)
    return plain_table(frame).format(precision=4)


def shares(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """`frame` with its `columns` as percentages and underscores as spaces."""
    shown = frame.assign(**{column: frame[column].map(format_value) for column in columns})
    return shown.rename(columns=lambda name: name.replace("_", " "))


def verdict_sentence(found: "Certificate") -> str:
    """The verdict in a sentence: how many gates pass, and each gate that does not."""
    passed = [row for row in found.gates if row.verdict == "PASS"]
    vaes = " and ".join(f"VAE-{vae}" for vae in dict.fromkeys(row.vae for row in found.gates))
    if found.verdict == "PASS":
        return f"PASS ({found.profile}): all {len(passed)} gates for {vaes}."
    words = [f"{len(passed)} of {len(found.gates)} gates pass for {vaes}."]
    unmet = [_unmet(row) for row in found.gates if row.verdict != "PASS"]
    if unmet:
        words.append(f"Not met: {'; '.join(unmet)}.")
    escaped = [one.control for one in found.controls if one.verdict != "FAIL"]
    if escaped:
        words.append(f"Negative controls that do not fail: {', '.join(escaped)}.")
    return f"{found.verdict} ({found.profile}): {' '.join(words)}"


def _unmet(row: GateResult) -> str:
    """One gate that does not pass, and the distance from its bound."""
    about = METRICS[metric_of(row.gate)]
    sign = "≤" if row.gate.startswith("max_") else "≥"
    value, bound = (format_value(x, about.unit) for x in (row.value, row.bound))
    why = ", its interval holds the bound" if row.verdict == "ABSTAIN" else ""
    return f"{about.title} of VAE-{row.vae} is {value}, the bound is {sign} {bound}{why}"


def verdict(found: "Certificate") -> Markdown:
    """The verdict at the top of its page and, where it is not PASS, what to do now."""
    text = f"**{verdict_sentence(found)}**"
    if found.verdict != "PASS":
        text += (
            "\n\n- If this is a v5.5 checkpoint, certify it by its own bounds: "
            "`make report CHECKPOINT=… CERTIFY=params/certify_v5_5.yaml`.\n"
            "- 2_benchmark shows every metric beside the controls, so it says how far the "
            "checkpoint is from untrained networks.\n"
            "- A gate that ABSTAINs is near its bound: a larger `k` narrows the intervals of "
            "entropy, coverage and frequencies."
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
    signed = '<b style="color: #c1121f">unsigned: anyone can have written this</b>'
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
    """A column a VAE."""
    return {f"VAE-{row.vae}": format_measured(row, unit) for row in rows.itertuples()}


def missing_decoder_note(vaes: Iterable[str]) -> str:
    """Said instead of VAE-B's numbers, in a layout that has none."""
    return "" if "B" in {*vaes} else "VAE-B: encoder B has no decoder in this layout."


def plain_table(
    rows: pd.DataFrame | Iterable[dict], caption: str = "", vaes: Iterable[str] = VAES
) -> Styler:
    """Rows as a table, aligned to the left; `vaes`: those that it has numbers of."""
    styled = pd.DataFrame(rows).style.hide(axis="index").set_properties(**{"text-align": "left"})
    text = " ".join(part for part in (caption, missing_decoder_note(vaes)) if part)
    return styled.set_caption(text) if text else styled


def _coloured(table: Styler) -> Styler:
    return table.map(lambda v: VERDICT.get(v, ABSTAIN), subset=["verdict"])
