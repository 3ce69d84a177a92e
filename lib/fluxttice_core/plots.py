"""Rows → Figure. Nothing here computes a metric."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .operations import M

COLOUR = {"A": "#1f6fb4", "B": "#d1495b"}
GREY = "#8a8a8a"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.dpi": 110,
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.frameon": False,
}


def _axes(columns: int, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, columns, figsize=(4.6 * columns, height), squeeze=False, layout="constrained"
        )
    return figure, list(axes[0])


def training(rows: list[dict]) -> Figure:
    """Honest measures by epoch, each VAE alone; the selected epoch as a line."""
    figure, (exact, covered) = _axes(2)
    epochs = [row["epoch"] for row in rows]
    selected = next(row["epoch"] for row in rows if row["selected"])
    for axes, key, title in (
        (exact, "val_exact", "Exact match on validation, posterior mean"),
        (covered, "coverage", "Argmax coverage per epoch, share of the ceiling"),
    ):
        for vae, colour in COLOUR.items():
            axes.plot(
                epochs, [row[f"{key}_{vae}"] for row in rows], color=colour, label=f"VAE-{vae}"
            )
        axes.axvline(selected, color="black", lw=0.8, ls=":", label=f"selected: epoch {selected}")
        axes.set(title=title, xlabel="epoch", ylim=(-0.02, 1.02))
        axes.legend(loc="lower right")
    return figure


def headline(results: dict) -> Figure:
    """Left: coverage against N, model and noise. Right: information, which noise cannot win."""
    figure, (curve, bars) = _axes(2, 3.8)
    _coverage_curve(curve, results)
    _information_bars(bars, results)
    return figure


def _coverage_curve(axes: Axes, results: dict) -> None:
    n = [point["n"] for point in results["A"]["curve"]]
    lines = [
        ("A", "ceiling", "black", ":", "ceiling (uniform generator)"),
        ("A", "argmax", COLOUR["A"], "-", "VAE-A, argmax"),
        ("B", "argmax", COLOUR["B"], "-", "VAE-B, argmax"),
        ("untrained_B", "argmax", GREY, "-", "untrained B, argmax"),
        ("untrained_B", "categorical", GREY, "--", "untrained B, categorical"),
    ]
    for key, column, colour, style, label in lines:
        share = [point[column] / M for point in results[key]["curve"]]
        axes.plot(n, share, color=colour, ls=style, label=label)
    axes.set(
        xscale="log", xlim=(1e3, 1e7), xlabel="N, latents drawn from the prior",
        title="Operations reached, share of 19,683",
    )  # fmt: skip
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.68), fontsize=8)


def _information_bars(axes: Axes, results: dict) -> None:
    labels, values, colours = [], [], []
    for row in results["comparison"]:
        if not row["metric"].startswith("information"):
            continue
        vae = row["vae"]
        labels += [f"VAE-{vae}", f"untrained {vae}", f"collapsed {vae}", f"uniform {vae}"]
        values += [row["value"], *(row[c][1] for c in ("untrained", "collapsed", "uniform"))]
        colours += [COLOUR[vae], GREY, GREY, GREY]
    axes.barh(labels, values, color=colours)
    for place, value in enumerate(values):
        axes.text(max(0, value) + 0.01, place, f"{value:.1%}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.15), title="Generative information, share of 9·ln 3")
    axes.grid(axis="y", visible=False)


def reconstruction(results: dict) -> Figure:
    """Left: exact match as posterior noise grows. Right: KL of each latent dimension."""
    figure, (curve, bars) = _axes(2)
    for vae, colour in COLOUR.items():
        points = results[vae]["robustness"]
        curve.plot(
            [p["scale"] for p in points], [p["exact_match"] for p in points],
            color=colour, marker="o", ms=3, label=f"VAE-{vae}",
        )  # fmt: skip
        kl = sorted(results[vae]["kl_nats_by_dimension"], reverse=True)
        bars.plot(range(1, len(kl) + 1), kl, color=colour, marker="o", ms=3, label=f"VAE-{vae}")
    curve.set(
        title="Exact match, all operations, z = mu + s·sigma·eps", xlabel="s, scale of sigma",
        ylim=(-0.02, 1.02),
    )  # fmt: skip
    bars.set(title="KL(q(z|x) ‖ prior) by dimension, nats", xlabel="latent dimensions, sorted")
    curve.legend()
    bars.legend()
    return figure


def planes(results: dict) -> Figure:
    """Codes of 1,500 operations on their first two principal axes, coloured by Σ of outputs."""
    figure, axes = _axes(2, 3.8)
    for vae, ax in zip(COLOUR, axes, strict=True):
        x, y, total = zip(*results[vae]["plane"], strict=True)
        dots = ax.scatter(x, y, c=total, s=5, cmap="coolwarm", vmin=-9, vmax=9)
        ax.set(
            title=f"VAE-{vae}: codes, first two principal axes", xlabel="axis 1", ylabel="axis 2"
        )
    figure.colorbar(dots, ax=axes, label="sum of the nine outputs")
    return figure
