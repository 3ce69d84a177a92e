"""Rows → Figure. Nothing here computes a metric."""

from pathlib import Path

import matplotlib
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..model.operations import M
from ..report.tables import CONTROLS

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


def save(figure: Figure, path: Path) -> Image:
    """Write the figure as a PNG file into the run folder, and return it for the page."""
    figure.savefig(path, metadata={"Software": None})
    return Image(filename=path)


def _axes(columns: int, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of its own, outside pyplot's global state."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns, height), layout="constrained")
        return figure, list(figure.subplots(1, columns, squeeze=False)[0])


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


def trajectory(rows: list[dict], history: list[dict] = (), n: int = 50_000) -> Figure:
    """Coverage at `n` against latent entropy (left) and information (right).

    Lines: the epochs of one training, lighter to darker. Diamonds: lines of reports/history.csv.
    """
    figure, both = _axes(2)
    for axes, key, column, label in (
        (both[0], "latent_entropy", "latent_entropy_nats", "latent entropy, nats"),
        (both[1], "information", "information_share", "information, share of 9·ln 3"),
    ):
        for vae, colour in COLOUR.items():
            if rows:
                x, y = [r[f"{key}_{vae}"] for r in rows], [r[f"coverage_{vae}"] for r in rows]
                axes.plot(x, y, color=colour, lw=0.6, alpha=0.5)
                shade = [0.2 + 0.8 * i / len(rows) for i in range(len(rows))]
                axes.scatter(x, y, s=9, color=colour, alpha=shade, label=f"VAE-{vae}, by epoch")
            runs = [r for r in history if r["vae"] == vae and r["argmax_50000_of_ceiling"]]
            x = [float(line[column]) for line in runs]
            y = [float(line["argmax_50000_of_ceiling"]) for line in runs]
            if runs:
                axes.scatter(
                    x, y, s=36, color=colour, marker="D", ec="white", label=f"VAE-{vae}, runs"
                )
        axes.set(xlabel=label, ylabel=f"argmax coverage at {n:,}, of ceiling")
        axes.locator_params(axis="x", nbins=5)
        axes.legend(loc="lower right", fontsize=8)
    return figure


def headline(results: dict) -> Figure:
    """Left: coverage against N, model and noise. Right: information, which noise cannot win."""
    figure, (curve, bars) = _axes(2, 4.4)
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
        share = [point[column] for point in results[key]["curve"] if point[column] is not None]
        y = [count / M for count in share]  # argmax ends at k
        axes.plot(n[: len(y)], y, color=colour, ls=style, label=label)
    maps = [
        (row["n"], row["share"])
        for control in results["controls"]
        if control["control"] == "random linear"
        for row in control["expected_coverage"]
        if row["decode"] == "argmax"
    ]
    axes.scatter(*zip(*maps, strict=True), s=14, color=GREY, label="random linear maps, argmax")
    axes.set(
        xscale="log", xlim=(1e3, 1e7), xlabel="N, latents drawn from the prior",
        title="Operations reached, share of 19,683",
    )  # fmt: skip
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8)


def _information_bars(axes: Axes, results: dict) -> None:
    labels, values, colours = [], [], []
    for row in results["comparison"]:
        if not row["metric"].startswith("information"):
            continue
        vae = row["vae"]
        labels += [f"VAE-{vae}", *(f"{control} {vae}" for control in CONTROLS)]
        values += [row["value"], *(row[control][1] for control in CONTROLS)]
        colours += [COLOUR[vae], *[GREY] * len(CONTROLS)]
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
    """Codes of 1,500 operations on their first two principal axes, coloured by one trit."""
    figure, axes = _axes(2, 3.8)
    for vae, ax in zip(COLOUR, axes, strict=True):
        plane = results[vae]["plane"]
        for value, colour in ((-1, "#1f6fb4"), (0, "#999999"), (1, "#d1495b")):
            points = [(x, y) for x, y, v in plane["points"] if v == value]
            x, y = zip(*points, strict=True) if points else ((), ())
            ax.scatter(x, y, s=5, color=colour, label=f"{value:+d}" if value else "0")
        t = plane["trit"]
        output = f"output for ({t // 3 - 1}, {t % 3 - 1})"
        ax.set(
            title=f"VAE-{vae}: codes, coloured by the {output}", xlabel="axis 1", ylabel="axis 2"
        )
        ax.legend(markerscale=2, loc="upper right")
    return figure
