"""Tables and figures show the rows as they are: nothing is computed, nothing is left out."""

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxttice_core.benchmark import NETWORKS
from fluxttice_core.certification.certificate import Certificate
from fluxttice_core.metrics.controls import CONTROLS
from fluxttice_core.metrics.gates import ControlResult, GateResult
from fluxttice_core.metrics.measurement import DRAWS, METRICS, MODEL
from fluxttice_core.metrics.results import EXHAUSTIVE, Row
from fluxttice_core.model.operations import M
from fluxttice_core.report import plots, tables

SEEDS = {name: control.seeds for name, control in CONTROLS.items()}
VALUES = {  # of A and of B
    "argmax_entropy": (0.798, 0.854), "argmax_coverage_50000": (0.9876, 0.99),
    "exact_match_sampled": (0.2565, 0.3707), "rate": (17.25, 18.5), "least_rate": (15.9, 16.1),
    "elbo": (-7.5, -8.25), "categorical_coverage_10000": (0.02, 0.96),
}  # fmt: skip


def one(network, vae, metric, value, half=0.0, seed=None, n=20):
    low, high = (None, None) if value is None else (value - half, value + half)
    return Row(
        network=network, seed=seed, vae=vae, metric=metric, value=value, low=low, high=high, n=n,
        method="jackknife" if half else EXHAUSTIVE,
    )  # fmt: skip


def planted():
    """Metrics of the model, whose controls all have 0.02, 0.04 … by their place; a curve, sampled
    coverage, subgroups, robustness and KL, with the model's scale 1 for A and 7/8 for B."""
    rows = []
    for i, vae in enumerate("AB"):
        for metric, values in VALUES.items():
            rows.append(one(MODEL, vae, metric, values[i], 0.001))
            for place, (name, seeds) in enumerate(SEEDS.items()):
                worst = 1e3 if METRICS[metric].unit == "nats" else 0.0
                value = 0.02 * place - worst
                rows += [one(name, vae, metric, value, 0.0, seed) for seed in range(seeds)]
            rows += [
                one(name, vae, metric, 0.5, 0.0, 1) for name in NETWORKS if name not in CONTROLS
            ]
        for network, scale in ((MODEL, 1 - i / 8), ("untrained", 0.5)):
            seed = None if network == MODEL else 0
            for power in range(8):
                n = 10**power
                if power < 7:
                    rows.append(one(network, vae, f"argmax_distinct_{n}", M * scale, 0, seed))
                rows.append(one(network, vae, f"categorical_distinct_{n}", 2.0, 0, seed))
            for mode in ("argmax", "categorical"):
                rows += [
                    one(network, vae, f"sampled_{mode}_coverage_{n}", scale, 0.01, seed)
                    for n in DRAWS
                ]
            for j in range(16):
                rows.append(one(network, vae, f"kl_dimension_{j}", scale * j, 0, seed))
            for sigma in range(4):
                match = scale / (1 + sigma)
                rows.append(one(network, vae, f"exact_match_at_sigma_{sigma}.0", match, 0, seed))
            rows.append(one(network, vae, "exact_match_on_unseen", scale, 0, seed, 3_937))
    return pd.DataFrame(row.model_dump() for row in rows)


ROWS = planted()


def cells(table):
    """The table's text, row by row."""
    return [" | ".join(map(str, line)) for line in table.data.itertuples(index=False)]


# --- Numbers ---


NEARLY = st.floats(0, 1, exclude_max=True) | st.floats(0, 1e-3).map(lambda x: (1 - x**3) % 1)


@given(NEARLY)
def test_less_than_all_is_never_printed_as_all(value):
    text = tables.format_value(value)
    shown = float(text.strip(">%"))
    assert shown < 100 and text.endswith("%") and len(text) <= 9
    assert shown / 100 == pytest.approx(value, abs=5.1e-5)
    assert float(tables.format_value(value, "number")) < 1


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (1.0, "share", "100.00%"), (0.99996, "share", "99.9960%"), (16.0, "count", "16"),
        (9.8875106, "nats", "9.888"), (2.5, "number", "2.5"), (0.0123456, "number", "0.01235"),
        (None, "share", "undefined"), (float("nan"), "nats", "undefined"),
        (1 - 2**-53, "share", ">99.9999%"), (0.99996, "number", "0.9999"),
        (5e-5, "share", "0.005%"), (0.79803, "share", "79.80%"), (1.0, "number", "1"),
    ],
)  # fmt: skip
def test_a_number_is_shown_by_its_unit(value, unit, text):
    assert tables.format_value(value, unit) == text


@pytest.mark.parametrize(
    "value, low, high, text",
    [
        (0.5, 0.4, 0.55, "50.00% ± 10"), (0.99996, 0.99995, 0.99997, "99.9960% ± 0.001"),
        (1.0, 0.998, 1.0, "100.00% − 0.2"), (0.0, 0.0, 0.001, "0.00% + 0.1"),
        (0.5, 0.5, 0.5, "50.00%"), (0.5, None, None, "50.00%"), (None, None, None, "undefined"),
    ],
)  # fmt: skip
def test_a_value_is_shown_with_its_longer_half_width(value, low, high, text):
    row = one("m", "A", "m", None).model_copy(update={"value": value, "low": low, "high": high})
    assert tables.format_measured(row) == text


def test_an_interval_shows_both_ends():
    assert tables.format_interval(0.50002, 0.60004) == "50.00% … 60.00%"
    assert tables.format_interval(0.500001, 0.500002) == "50.00%"
    assert tables.format_interval(None, None) == "–"


# --- Tables ---


def test_metrics_that_beat_every_control_come_first_and_the_others_are_folded():
    html = tables.comparison(ROWS, "of these draws").data
    shown, folded = html.split("<details>")
    titles = {name: METRICS[name].title for name in VALUES}
    behind = ["rate", "least_rate", "categorical_coverage_10000"]  # the last is won by one VAE
    for name, title in titles.items():
        assert (title in folded, title in shown) == (name in behind, name not in behind)
    assert "3 metrics that are not informative" in folded
    assert "79.80% ± 0.1" in shown and "85.40% ± 0.1" in shown and html.count("of these draws") == 2
    assert "4.00% … 6.00%" in shown  # collapsed and uniform, together


def gate(verdict, name="min_exact_match", vae="A"):
    value, low, high = {"PASS": (2, 1, 3), "ABSTAIN": (1, 0, 2), "FAIL": (0.5, 0, 0.75)}[verdict]
    if name.startswith("max_"):
        value, low, high = -value, -high, -low
    bound = -1 if name.startswith("max_") else 1
    return GateResult(
        gate=name, vae=vae, bound=bound, value=value, low=low, high=high, n=1,
        method="planted", verdict=verdict,
    )  # fmt: skip


def test_gates_show_each_verdict_its_bound_and_colour():
    rows = [gate("PASS"), gate("FAIL", "max_rate"), gate("ABSTAIN")]
    styler = tables.gates(rows, "of these draws")
    assert list(styler.data["verdict"]) == ["PASS", "FAIL", "ABSTAIN"]
    assert list(styler.data["bound"]) == ["≥ 100.00%", "≤ -1", "≥ 100.00%"]
    html = styler.to_html()
    colours = [tables.VERDICT["PASS"], tables.VERDICT["FAIL"], tables.ABSTAIN]
    assert all(colour.split(";")[0] in html for colour in colours) and "of these draws" in html
    exact = rows[0].model_copy(update={"method": EXHAUSTIVE})
    assert list(tables.gates([exact]).data["95 % interval"]) == ["exact"]
    control = ControlResult(control="untrained", k=400_000, verdict="FAIL", gates=rows)
    [line] = cells(tables.control_results([control]))
    assert line == f"untrained | 400,000 | FAIL | {METRICS['rate'].title}"


def test_other_tables_hold_their_rows():
    table = tables.coverage(ROWS, "of these draws")
    assert len(cells(table)) == 8 and "N = 50,000" in table.data.columns
    assert cells(table)[0] == "model | A | argmax" + " | 100.00% ± 1" * 3
    [line] = cells(tables.subgroups(ROWS, ""))
    assert line == "unseen | 3,937 | 100.00% | 87.50%"
    row = {"epoch": 0, "score": 0.5, "selected": False, "lr": 0.1, "coverage_A": 0.99998, "x_A": 2}
    epochs = tables.epochs([row | {"epoch": i, "selected": i == 3} for i in range(6)], every=4)
    assert list(epochs.data["epoch"]) == [0, 3, 4, 5]  # every fourth, the selected, the last
    assert cells(epochs)[1] == "3 | 0.5000 | 99.9980% | 2 | selected"
    assert "VAE-B" not in tables.subgroups(ROWS[ROWS.vae == "A"], "").data


def test_the_summary_and_the_sentences_quote_the_rows(monkeypatch):
    text = tables.summary(ROWS, "of these draws").to_html()
    for quoted in ("85.40%", "98.76%", "37.07%", "17.25", "-8.25", "15.9 ± 0.001", "-9.888"):
        assert quoted in text
    assert "best control: up to 6.00%" in text and "of these draws" in text
    monkeypatch.setattr(tables, "DECISIVE", ("argmax_entropy", "exact_match_sampled"))
    assert "beats every control on all 2 decisive" in tables.result(ROWS).data
    monkeypatch.setattr(tables, "DECISIVE", ("argmax_entropy", "categorical_coverage_10000"))
    title = METRICS["categorical_coverage_10000"].title
    said = tables.result(ROWS).data
    assert f"does not beat every control on all decisive metrics ({title})**, and on 4 of" in said


def test_a_label_says_whose_signature_and_is_red_without_one():
    stated = Certificate.model_construct(verdict="PASS")
    assert "unsigned" in tables.label(stated).data and "#c1121f" in tables.label(stated).data
    signed = tables.label(stated.model_copy(update={"signing_key": "f" * 64})).data
    assert "f" * 64 in signed and "unsigned" not in signed


# --- Figures ---


def lines(axes):
    """What each line is labelled, and its heights."""
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_figures_show_the_model_beside_every_control(tmp_path):
    figure = plots.headline(ROWS)
    curve, bars = figure.axes
    assert lines(curve)["VAE-A, argmax"] == [0.0] * 7  # none beyond k
    assert lines(curve)["untrained B, categorical"] == [1 - 2 / M] * 8
    assert lines(curve)["ceiling (uniform generator)"][0] == pytest.approx(1 - 1 / M)
    assert list(curve.lines[0].get_xdata()) == [10**i for i in range(7)]
    widths = [bar.get_width() for bar in bars.patches]
    assert widths[0] == pytest.approx(1 - 0.798) and len(widths) == 2 * (1 + len(CONTROLS))
    curve, bars = plots.reconstruction(ROWS).axes
    assert lines(curve)["VAE-A"][1] == 0.5
    assert lines(bars)["VAE-A"] == list(range(15, -1, -1))
    shown = plots.save(figure, tmp_path / "one.png").data
    assert shown == (tmp_path / "one.png").read_bytes() and shown[:4] == b"\x89PNG"
    assert b"Software" not in shown, "the release of Matplotlib would change the file"


def test_no_title_is_cut(tmp_path):
    figure = plots.headline(ROWS)
    figure.axes[1].set_title("long " * 50)
    width = int.from_bytes(plots.save(figure, tmp_path / "one.png").data[16:20])
    assert width >= figure.get_tightbbox().width * figure.dpi


def test_training_follows_the_epochs_as_distances_and_marks_the_selected_one():
    measures = [f"{key}_{vae}" for key in ("val_exact_sampled", "coverage", "rate") for vae in "AB"]
    rows = [{"epoch": i, "selected": i == 2} | dict.fromkeys(measures, i / 4) for i in range(5)]
    distances = [1, 0.75, 0.5, 0.25, 1e-5]  # the last one would have no logarithm
    *lost, rate = plots.training(rows).axes
    for axes, shown in (*((each, distances) for each in lost), (rate, [0, 0.25, 0.5, 0.75, 1])):
        assert lines(axes) == {"VAE-A": shown, "VAE-B": shown, "selected: 2": [0, 1]}
        assert axes.lines[-1].get_xdata() == [2, 2]


def test_the_evidence_shows_every_seed_of_every_recipe():
    frame = pd.DataFrame(
        {"recipe": recipe, "vae": vae, "rate": 16.0, "exact_match_sampled": 0.9, "mig": 0.5}
        for recipe in ("default", "default", "v5.5") for vae in "AB"
    )  # fmt: skip
    for axes in plots.recipes(frame).axes:
        places = [dots.get_offsets()[:, 1].tolist() for dots in axes.collections]
        assert places == [[-0.12, -0.12, 0.88], [0.12, 0.12, 1.12]]


def test_a_traversal_of_the_oracle_changes_one_entry_a_latent(perfect_model):
    axes = plots.traversal(perfect_model, "A").axes
    moved = [one.collections[0].get_array().flatten().tolist() for one in axes]
    own = torch.eye(9)  # nine latents own a trit each, and are in the order of the trits
    assert moved == torch.cat([-own, 0 * own, own]).tolist()
