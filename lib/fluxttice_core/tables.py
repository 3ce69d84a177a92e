"""Rows → pandas tables as a reader sees them. Nothing here computes a metric."""

import pandas as pd
from pandas.io.formats.style import Styler

GREY = "color: #999999; background-color: #f4f4f4"
VERDICT = {"PASS": "color: #1a7f37; font-weight: bold", "FAIL": "color: #c1121f; font-weight: bold"}


def comparison(rows: list[dict]) -> Styler:
    """Metric by metric, model beside controls; greyed where noise can win."""
    frame = pd.DataFrame(
        {
            "metric": row["metric"],
            "VAE": row["vae"],
            "value": number(row["value"]),
            "95 % interval": interval(row["ci95"]),
            **{c: interval(row[c]) for c in ("untrained", "collapsed", "uniform")},
            "discriminates": "yes" if row["discriminates"] else "no: noise can win it",
        }
        for row in rows
    )
    grey = [not row["discriminates"] for row in rows]
    return (
        frame.style.hide(axis="index")
        .apply(lambda column: [GREY if g else "" for g in grey])
        .set_properties(**{"text-align": "left"})
    )


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
    return (
        frame.style.hide(axis="index")
        .map(lambda v: VERDICT.get(v, "color: #b26a00; font-weight: bold"), subset=["verdict"])
        .set_properties(**{"text-align": "left"})
    )


def coverage(results: dict) -> pd.DataFrame:
    """Sampled coverage of every network, mode and N, as stored."""
    return pd.DataFrame(
        {
            "network": name,
            "decode": row["decode"],
            "N": f"{row['n']:,}",
            "unique": f"{row['unique']:,.1f}",
            "95 % interval (Student t)": " … ".join(f"{v:,.0f}" for v in row["ci95"]),
            "share of M": f"{row['share']:.2%}",
            "of ceiling": f"{row['of_ceiling']:.2%}",
        }
        for name in ("A", "B", "untrained_A", "untrained_B")
        for row in results[name]["coverage"]
    )


def number(value: float) -> str:
    """Up to 1 with five digits, larger ones with two."""
    return f"{value:.5f}" if abs(value) <= 1 else f"{value:,.2f}"


def interval(bounds: list[float]) -> str:
    low, high = (number(bound) for bound in bounds)
    return low if low == high else f"{low} … {high}"


def generalization(measured: dict[str, dict[str, dict]]) -> Styler:
    """One row a question and VAE: what was measured, its interval, over how many cases."""
    rows = []
    for vae, found in measured.items():
        for name, row in found.items():
            quantity = next(key for key in ("share", "ratio", "sigmas", "active") if key in row)
            value = row[quantity]
            rows.append(
                {
                    "question": name.replace("_", " "),
                    "VAE": vae,
                    "measure": quantity,
                    "value": "refused" if value is None else number(value),
                    "95 % interval": interval(row["ci95"]) if row["ci95"] else "exact",
                    "cases": f"{row['n']:,}",
                }
            )
    return pd.DataFrame(rows).style.hide(axis="index").set_properties(**{"text-align": "left"})
