"""Rows → Figure. Nothing here computes a metric."""

from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ..metrics.codes import ACTIVE
from ..metrics.coverage import ceiling
from ..metrics.measurement import MODEL, UNTRAINED, Results
from ..model.network import Network
from ..model.operations import M, T, all_operations

COLOUR = {"A": "#1f6fb4", "B": "#d1495b"}
GREY = "#8a8a8a"
TRITS = ListedColormap([COLOUR["A"], "#dddddd", COLOUR["B"]])  # -1, 0, +1
STYLE = Path(__file__).parent / "template" / "plots.mplstyle"


def save(figure: Figure, path: Path) -> Image:
    """Write the figure as a PNG file into the run folder, and return it for the page."""
    figure.savefig(path, metadata={"Software": None})
    return Image(filename=path)


def _axes(columns: int, height: float = 3.4, rows: int = 1, width: float = 4.6) -> Any:
    """A figure of its own, outside pyplot's global state, and its axes (rows, columns); inches."""
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(width * columns, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def _line(axes: Axes, vae: str, x: Any, y: Any) -> None:
    axes.plot(x, y, color=COLOUR[vae], marker="o", ms=3, label=f"VAE-{vae}")


def training(rows: list[dict]) -> Figure:
    """Honest measures by epoch, each VAE alone, as distances to the limit; the selected epoch."""
    figure, [panels] = _axes(3)
    found = pd.DataFrame(rows)
    [selected] = found.epoch[found.selected]
    for axes, key, title in (
        (panels[0], "val_exact_sampled", "Validation operations lost\nfrom a posterior sample"),
        (panels[1], "coverage", "Argmax coverage:\nwhat is missing of the ceiling"),
        (panels[2], "rate", "Rate, nats\n(least at 99.9 %: 15.96)"),
    ):
        for vae in COLOUR:
            y = found[f"{key}_{vae}"]
            _line(axes, vae, found.epoch, y if key == "rate" else (1 - y).clip(lower=1e-5))
        axes.axvline(selected, color="black", lw=0.8, ls=":", label=f"selected: {selected}")
        axes.set(title=title, xlabel="epoch", yscale="linear" if key == "rate" else "log")
        axes.legend(fontsize=8)
    return figure


def headline(results: Results) -> Figure:
    """Left: what N draws leave out, model and noise. Right: what is missing of argmax entropy."""
    figure, [[curve, bars]] = _axes(2, 4.4)
    _coverage_curve(curve, results)
    _entropy_bars(bars, results)
    return figure


def _coverage_curve(axes: Axes, results: Results) -> None:
    """Operations not reached, on a log scale: near the ceiling a share reached shows nothing."""
    ours, noise = (
        {vae: row.details for vae, row in results.of(name).items()} for name in (MODEL, UNTRAINED)
    )
    last = list(ours)[-1]
    n = [point.n for point in ours[last].curve]
    least = [1 - point.ceiling / M for point in ours[last].curve]
    axes.plot(n, least, "k:", lw=2.5, label="ceiling (uniform generator)", zorder=3)
    lines = [
        *((ours[vae].curve, "argmax", COLOUR[vae], "-", f"VAE-{vae}, argmax") for vae in ours),
        (noise[last].curve, "argmax", GREY, "-", f"untrained {last}, argmax"),
        (noise[last].curve, "categorical", GREY, "--", f"untrained {last}, categorical"),
    ]  # fmt: skip
    for points, column, colour, style, label in lines:
        y = [1 - getattr(p, column) / M for p in points if getattr(p, column) is not None]
        axes.plot(n[: len(y)], y, color=colour, ls=style, label=label)  # argmax ends at k
    maps = [
        (at, 1 - row.values[name].value * float(ceiling(at)) / M)
        for row in results.rows
        if row.network == "random linear"
        for name in row.values
        if name.startswith("argmax_coverage")
        for at in [int(name.rpartition("_")[2])]
    ]
    draws, shares = zip(*maps, strict=True)
    axes.scatter(draws, shares, s=14, color=GREY, label="random linear maps, argmax")
    axes.set(
        xscale="log", xlim=(1e3, 1e6), xlabel="N, latents drawn from the prior",
        yscale="log", ylim=(0.5 / M, 1.5), title="Operations not reached, share of 19,683",
    )  # fmt: skip
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8)


def _entropy_bars(axes: Axes, results: Results) -> None:
    """The distance to the limit on a log scale: near the limit a share shows nothing."""
    labels, values, colours = [], [], []
    for row in results.comparison:
        if row.metric == "argmax_entropy":
            labels += [f"VAE-{row.vae}", *(f"{control} {row.vae}" for control in row.controls)]
            values += [1 - row.ours.value, *(1 - high for _, high in row.controls.values())]
            colours += [COLOUR[row.vae], *[GREY] * len(row.controls)]
    axes.barh(labels, [max(v, 1e-7) for v in values], color=colours)
    for place, value in enumerate(values):
        text = f"{value:.2%}" if value > 1e-3 else f"{value:.4%}"
        axes.text(max(value, 1e-7) * 1.15, place, text, va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set(
        xscale="log", xlim=(1e-5, 6), xlabel="what is missing of 9·ln 3 (less is better)",
        title="Argmax entropy: distance to the limit",
    )  # fmt: skip
    axes.grid(axis="y", visible=False)


def reconstruction(results: Results) -> Figure:
    """Left: operations lost as posterior noise grows. Right: KL of each latent dimension."""
    figure, [[curve, bars]] = _axes(2)
    for vae, row in results.of(MODEL).items():
        points = row.drawings.robustness
        lost = [max(1 - p.exact_match, 0.5 / M) for p in points]
        _line(curve, vae, [p.scale for p in points], lost)
        kl = sorted(row.details.kl_nats_by_dimension, reverse=True)
        _line(bars, vae, range(1, len(kl) + 1), kl)
    curve.axvline(1, color="black", lw=0.8, ls=":", label="a posterior sample")
    curve.set(
        title="Operations lost, z = mu + s·sigma·eps", xlabel="s, scale of sigma", yscale="log",
        ylabel="share of all, lowest: none",
    )  # fmt: skip
    bars.set(title="KL(q(z|x) ‖ prior) by dimension, nats", xlabel="latent dimensions, sorted")
    curve.legend()
    bars.legend()
    return figure


def recipes(evidence: pd.DataFrame) -> Figure:
    """Every seed of every recipe, three metrics: a dot a seed and VAE."""
    figure, [panels] = _axes(3, 3.0)
    order = list(dict.fromkeys(evidence.recipe))
    for axes, name, title in (
        (panels[0], "rate", "rate, nats (least at 99.9 %: 15.96)"),
        (panels[1], "exact_match_sampled", "exact match, posterior sample"),
        (panels[2], "mig", "MIG (by hand: 1)"),
    ):
        for vae, aside in (("A", -0.12), ("B", 0.12)):
            rows = evidence[evidence.vae == vae]
            places = [order.index(recipe) + aside for recipe in rows.recipe]
            axes.scatter(rows[name], places, s=12, color=COLOUR[vae], label=f"VAE-{vae}")
        axes.set_yticks(range(len(order)), order if axes is panels[0] else [""] * len(order))
        axes.invert_yaxis()
        axes.set_title(title)
    panels[0].legend(fontsize=8)
    return figure


def learning_curve(curve: pd.DataFrame) -> Figure:
    """Exact match on test operations against the number of operations trained on."""
    figure, [[axes]] = _axes(1)
    for vae, rows in curve.groupby("vae"):
        _line(axes, vae, rows.operations, rows.trained)
    axes.plot(rows.operations, rows.read_out, color=GREY, marker="o", label="linear read-out")
    axes.set(xscale="log", xlabel="operations trained on", ylabel="exact match on test")
    axes.legend()
    return figure


def active_latents(model: Network, vae: str) -> list[int]:
    """Latents whose posterior mean varies, in the order of the trits they tell most of; [0] if none
    does."""
    mu, ops = model.encode(all_operations(), vae), all_operations().float()
    spread = (mu - mu.mean(0)).T @ (ops - ops.mean(0))  # (D, T)
    active = [j for j in range(mu.shape[1]) if float(mu[:, j].var()) > ACTIVE] or [0]
    return sorted(active, key=lambda j: int(spread[j].abs().argmax()))


def traversal(model: Network, vae: str, step: float = 1.5) -> Figure:
    """The table 0 … 0, with one active latent at a time moved by ∓`step`: a column a latent.
    Where a latent owns a trit, one entry changes."""
    active = active_latents(model, vae)
    start = model.encode([[0] * T], vae)
    figure, grid = _axes(len(active), rows=3, width=0.95 + 0.6 / len(active))
    for column, j in enumerate(active):
        for axes, move in zip(grid[:, column], (-step, 0.0, step), strict=True):
            moved = start.clone()
            moved[0, j] += move
            table = model.decode(moved, vae)[0].view(3, 3)
            axes.pcolormesh(table, cmap=TRITS, vmin=-1, vmax=1, edgecolors="white", lw=1.5)
            axes.set(xticks=[], yticks=[], aspect="equal")
            axes.invert_yaxis()
            if column == 0:
                axes.set_ylabel(f"{move:+.1f}" if move else "0")
        grid[0, column].set_title(f"latent {j}", fontsize=8)
    figure.suptitle(
        f"VAE-{vae}: one latent moved, the truth table it decodes to (blue −1, grey 0, red +1)",
        fontsize=9,
    )
    return figure
