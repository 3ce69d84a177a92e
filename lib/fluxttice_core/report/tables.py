"""Rows → tables and sentences as a reader sees them. Nothing here computes a metric."""

import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

CONTROLS = ("untrained", "random linear", "collapsed", "uniform")
GREY = "color: #999999; background-color: #f4f4f4"
VERDICT = {"PASS": "color: #1a7f37; font-weight: bold", "FAIL": "color: #c1121f; font-weight: bold"}
PLAIN_UNITS = (
    "latent entropy, nats", "active units", "Hamming correlation of codes",
    "KL(P ‖ uniform), nats", "KL(aggregate posterior ‖ prior), nats",
)  # fmt: skip


def summary(results: dict, ns: list[int]) -> Markdown:
    """The page in one minute: what the model does, how sure that is, what noise would score."""
    rows = {(row["metric"], row["vae"]): row for row in results["comparison"]}
    n = sorted(ns)[len(ns) // 2]
    lines = []
    for label, metric in (
        ("of the information limit 9·ln 3", "information, share of 9·ln 3"),
        (
            f"of the ceiling of argmax coverage at N = {n:,}",
            f"argmax coverage at N = {n:,}, of ceiling",
        ),
        ("of the test operations come back exactly", "exact match on test, posterior mean"),
        ("of them from a posterior sample", "exact match on test, posterior sample"),
    ):
        a, b = rows[metric, "A"], rows[metric, "B"]
        noise = max(row[control][1] for row in (a, b) for control in CONTROLS[:2])
        lines.append(
            f"| {label} | **{a['value']:.2%}** ({interval(a['ci95'])}) "
            f"| **{b['value']:.2%}** ({interval(b['ci95'])}) | {noise:.2%} |"
        )
    head = "| share | VAE-A (95 %) | VAE-B (95 %) | nothing learnt, at most |\n|---|---|---|---|\n"
    return Markdown("### In one minute\n\n" + head + "\n".join(lines))


def why_not_categorical(results: dict) -> str:
    """Why the repair of the original, sampling categorically, repairs nothing: in its numbers."""
    rows = {
        (name, row["decode"]): row
        for name in ("B", "untrained_B")
        for row in sorted(results[name]["coverage"], key=lambda row: row["n"])
    }  # the largest N of each wins
    share = {key: number(row["share"]) for key, row in rows.items()}
    return (
        f"Sampling categorically is no evidence of learning: at N = {rows['B', 'argmax']['n']:,} "
        f"an untrained VAE-B reaches {share['untrained_B', 'categorical']} of the operations that "
        f"way and this checkpoint {share['B', 'categorical']}; by argmax it is "
        f"{share['untrained_B', 'argmax']} against {share['B', 'argmax']}."
    )


def comparison(rows: list[dict]) -> Styler:
    """Metric by metric, both VAEs beside the controls; greyed where noise can win."""
    lines, grey = [], []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        both = [row for row in rows if row["metric"] == metric]
        line = {"metric": metric}
        for row in both:
            value, bounds = number(row["value"], metric), interval(row["ci95"], metric)
            line[f"VAE-{row['vae']} (95 %)"] = value if value == bounds else f"{value} ({bounds})"
        for control in CONTROLS:
            hull = [f(row[control][i] for row in both) for i, f in ((0, min), (1, max))]
            line[control] = interval(hull, metric)
        good = all(row["discriminates"] for row in both)
        lines.append({**line, "discriminates": "yes" if good else "no: noise can win it"})
        grey.append(not good)
    return _left(pd.DataFrame(lines)).apply(lambda column: [GREY if g else "" for g in grey])


def coverage(results: dict) -> Styler:
    """Sampled coverage by network and mode: mean count, its interval, share of the ceiling."""
    lines = []
    for network in ("A", "B", "untrained_A", "untrained_B"):
        for decode in dict.fromkeys(row["decode"] for row in results[network]["coverage"]):
            line = {"network": network.replace("_", " "), "decode": decode}
            for row in results[network]["coverage"]:
                if row["decode"] == decode:
                    low, high = row["ci95"]
                    count = f"{row['unique']:,.0f} ({low:,.0f} … {high:,.0f})"
                    line[f"N = {row['n']:,}"] = f"{count} · {row['of_ceiling']:.2%}"
            lines.append(line)
    return _left(pd.DataFrame(lines))


def hardest(results: dict, count: int = 5) -> Styler:
    """The operations that argmax decoding seems to reach least, P·M being 1 for a perfect
    generator: chosen by half of the latents, measured by the other half."""
    return _left(
        pd.DataFrame(
            {
                "VAE": vae,
                "operation": row["name"],
                "P·M, argmax": f"{row['p_times_m']:.3f}",
                "95 % interval": " … ".join(f"{bound:.3f}" for bound in row["ci95"]),
            }
            for vae in "AB"
            for row in results[vae]["hardest"]["argmax"][:count]
        )
    )


def diversity(results: dict) -> Styler:
    """Expected operations that N argmax draws of A and N of B reach, beside perfect generators."""
    frame = pd.DataFrame(
        {
            "N of each": row["n"],
            "only A": row["only_a"],
            "only B": row["only_b"],
            "only one, perfect": row["perfect"]["only"],
            "both": row["both"],
            "both, perfect": row["perfect"]["both"],
            "together": row["union"],
            "together, perfect": row["perfect"]["union"],
        }
        for row in results["diversity"]
    )
    return _left(frame).format(precision=1, thousands=",")


def epochs(rows: list[dict], every: int) -> Styler:
    """The honest measures of every so many epochs, of the selected one and of the last."""
    keys = [f"{key}_{vae}" for key in ("val_exact", "coverage", "information") for vae in "AB"]
    frame = pd.DataFrame(
        {
            "epoch": row["epoch"],
            "score": f"{row['score']:.4f}",
            **{key.replace("_", " "): number(row[key]) for key in keys},
            "latent entropy A": f"{row['latent_entropy_A']:.3f}",
            "latent entropy B": f"{row['latent_entropy_B']:.3f}",
            "selected": "selected" if row["selected"] else "",
        }
        for row in rows
        if row["epoch"] % every == 0 or row["selected"] or row is rows[-1]
    )
    return _left(frame)


def gates(rows: list[dict]) -> Styler:
    """One gate a row: bound, value, interval, verdict."""
    frame = pd.DataFrame(
        {
            "gate": row["gate"],
            "VAE": row["vae"],
            "bound": number(row["bound"]),
            "value": number(row["value"]),
            "95 % interval": interval(row["ci95"]),
            "verdict": row["verdict"],
        }
        for row in rows
    )
    return _left(frame).map(
        lambda v: VERDICT.get(v, "color: #b26a00; font-weight: bold"), subset=["verdict"]
    )


def generalization(measured: dict[str, dict[str, dict]]) -> Styler:
    """One row a question and VAE: what was measured, its interval, over how many cases."""
    lines = []
    for vae, found in measured.items():
        for name, row in found.items():
            measure = next(key for key in ("share", "ratio", "sigmas", "active") if key in row)
            unit = "" if measure == "share" else PLAIN_UNITS[0]
            lines.append(
                {
                    "question": name.replace("_", " "),
                    "VAE": vae,
                    "measure": measure,
                    "value": "refused" if row[measure] is None else number(row[measure], unit),
                    "95 % interval": interval(row["ci95"], unit) if row["ci95"] else "exact",
                    "cases": f"{row['n']:,}",
                    "operations": f"{row['distinct']:,}" if "distinct" in row else "",
                }
            )
    return _left(pd.DataFrame(lines))


def number(value: float, metric: str = "", near_all: bool | None = None) -> str:
    """A share as a percentage, with four decimals where two would round it up to all or near it;
    a metric in plain units as a number."""
    if metric in PLAIN_UNITS:
        return f"{value:.4f}" if 0 < value < 0.1 else f"{value:.3f}"
    near_all = 0.999 < value < 1 if near_all is None else near_all
    return f"{value:.4%}" if near_all else f"{value:.2%}"


def interval(bounds: list[float], metric: str = "") -> str:
    """Both ends with the same decimals, four where they would look alike with two."""
    low, high = bounds
    alike = low < high and f"{low:.2%}" == f"{high:.2%}"
    near_all = alike or any(0.999 < bound < 1 for bound in bounds)
    low, high = (number(bound, metric, near_all) for bound in bounds)
    return low if low == high else f"{low} … {high}"


def _left(frame: pd.DataFrame) -> Styler:
    return frame.style.hide(axis="index").set_properties(**{"text-align": "left"})
