"""Rows → Figure. Nothing here computes a metric."""

from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ..benchmark import UNTRAINED
from ..metrics.controls import CONTROLS
from ..metrics.coverage import ceiling
from ..metrics.latent_space import ACTIVE
from ..metrics.measurement import MODEL
from ..model.network import Network
from ..model.operations import M, T, all_operations

COLOUR = {"A": "#1f6fb4", "B": "#d1495b"}
GREY = "#8a8a8a"
TRITS = ListedColormap([COLOUR["A"], "#dddddd", COLOUR["B"]])  # -1, 0, +1
STYLE = Path(__file__).parent / "template" / "plots.mplstyle"


def save(figure: Figure, path: Path) -> Image:
    """Write the figure as a PNG file, and return it for the page."""
    # "tight" makes room for a title that is wider than its axes.
    figure.savefig(path, metadata={"Software": None}, bbox_inches="tight")
    return Image(filename=path)


def _axes(columns: int, height: float = 3.4, rows: int = 1, width: float = 4.6) -> Any:
    """A figure of its own, outside pyplot's global state, and its axes (rows, columns); inches."""
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(width * columns, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def _line(axes: Axes, vae: str, x: Any, y: Any) -> None:
    axes.plot(x, y, color=COLOUR[vae], marker="o", ms=3, label=f"VAE-{vae}")


def training(rows: list[dict]) -> Figure:
    """Validation metrics by epoch, each VAE alone, as distances to the limit."""
    figure, [panels] = _axes(3)
    found = pd.DataFrame(rows)
    [selected] = found.epoch[found.selected]
    for axes, key, title in (
        (panels[0], "val_exact_sampled", "Validation operations lost\nfrom a posterior sample"),
        (panels[1], "coverage", "Argmax coverage:\nwhat is missing of the ceiling"),
        (panels[2], "rate", "Rate, nats (least at 99.9 %,\none latent per entry: 15.96)"),
    ):
        for vae in COLOUR:
            y = found[f"{key}_{vae}"]
            _line(axes, vae, found.epoch, y if key == "rate" else (1 - y).clip(lower=1e-5))
        axes.axvline(selected, color="black", lw=0.8, ls=":", label=f"selected: {selected}")
        axes.set(title=title, xlabel="epoch", yscale="linear" if key == "rate" else "log")
        axes.legend(fontsize=8)
    return figure


def _series(rows: pd.DataFrame, network: str, vae: str, stem: str) -> pd.Series:
    """The values of the metrics `stem`_NUMBER of one VAE, by that number in ascending order."""
    found = rows[(rows.network == network) & (rows.vae == vae)]
    at = found.metric.str.extract(rf"^{stem}_([\d.]+)$")[0].astype(float)
    return found.assign(at=at).dropna(subset="at").set_index("at").value.sort_index()


def headline(rows: pd.DataFrame) -> Figure:
    """Left: operations that N draws do not reach. Right: distance of the argmax entropy to its
    limit. Both on a log scale: near the limit a share shows nothing.

    `rows`: `benchmark.Document.frame`.
    """
    figure, [[curve, bars]] = _axes(2, 4.4)
    vaes = sorted({*rows[rows.network == MODEL].vae})
    lines = [(MODEL, vae, "argmax", COLOUR[vae], "-", f"VAE-{vae}, argmax") for vae in vaes]
    lines += [
        (UNTRAINED, vaes[-1], mode, GREY, style, f"untrained {vaes[-1]}, {mode}")
        for mode, style in (("argmax", "-"), ("categorical", "--"))
    ]
    for network, vae, mode, colour, style, label in lines:
        y = 1 - _series(rows, network, vae, f"{mode}_distinct") / M
        curve.plot(y.index, y, color=colour, ls=style, label=label)
    curve.plot(y.index, 1 - ceiling(y.index) / M, "k:", lw=2.5, label="ceiling (uniform generator)")
    curve.set(
        xscale="log", xlim=(1e3, 1e6), xlabel="N, latents drawn from the prior",
        yscale="log", ylim=(0.5 / M, 1.5), title="Operations not reached, share of 19,683",
    )  # fmt: skip
    curve.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8)

    found = rows[(rows.metric == "argmax_entropy") & rows.network.isin([MODEL, *CONTROLS])]
    best = found.groupby(["vae", "network"], sort=False).value.max()
    missing = (1 - best).clip(lower=1e-7)
    names = [f"VAE-{vae}" if name == MODEL else f"{name} {vae}" for vae, name in best.index]
    colours = [COLOUR[vae] if name == MODEL else GREY for vae, name in best.index]
    shown = bars.barh(names, missing, color=colours)
    bars.bar_label(shown, [f"{x:.2g}" for x in missing], padding=3, fontsize=8)
    bars.invert_yaxis()
    bars.set(
        xscale="log", xlim=(1e-5, 6), xlabel="missing share of 9·ln 3 (less is better)",
        title="Argmax entropy: distance to the limit (best seed)",
    )  # fmt: skip
    bars.grid(axis="y", visible=False)
    return figure


def reconstruction(rows: pd.DataFrame) -> Figure:
    """Left: operations lost as posterior noise grows. Right: KL of each latent dimension."""
    figure, [[curve, bars]] = _axes(2)
    for vae in sorted({*rows[rows.network == MODEL].vae}):
        found = _series(rows, MODEL, vae, "exact_match_at_sigma")
        _line(curve, vae, found.index, (1 - found).clip(lower=0.5 / M))
        kl = _series(rows, MODEL, vae, "kl_dimension").sort_values(ascending=False)
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
        (panels[0], "rate", "rate, nats (one latent per entry: ≥ 15.96)"),
        (panels[1], "exact_match_sampled", "exact match, posterior sample"),
        (panels[2], "mig", "MIG (oracle: 1)"),
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


def active_latents(model: Network, vae: str) -> list[int]:
    """Latents whose posterior mean varies, ordered by the trit that each varies with most; [0] if
    none does."""
    mu, ops = model.encode(all_operations(), vae), all_operations().float()
    spread = (mu - mu.mean(0)).T @ (ops - ops.mean(0))  # (D, T)
    active = [j for j in range(mu.shape[1]) if float(mu[:, j].var()) > ACTIVE] or [0]
    return sorted(active, key=lambda j: int(spread[j].abs().argmax()))


def traversal(model: Network, vae: str, step: float = 1.5) -> Figure:
    """The table 0 … 0, with one active latent at a time moved by ∓`step`: a column a latent."""
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
    title = f"VAE-{vae}: one latent moved, the truth table it decodes to (blue −1, grey 0, red +1)"
    figure.suptitle(title, fontsize=9)
    return figure
