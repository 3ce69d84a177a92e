"""Tables and figures say what the rows say: nothing is computed, nothing is left out."""

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxttice_core.certification.certificate import Certificate, KeptEpoch, Signature
from fluxttice_core.metrics import coverage, reconstruction
from fluxttice_core.metrics.gates import Judged, Refusal
from fluxttice_core.metrics.measurement import Compared, Details, Drawings, Results, Row
from fluxttice_core.metrics.results import CENSUS, Measured, exact
from fluxttice_core.model.operations import M
from fluxttice_core.report import plots, tables

KINDS = ("untrained", "random linear", "collapsed", "uniform")
REFUSED = Measured(value=None, low=None, high=None, n=12, method="refused: constant")
VALUES = {  # of A and of B
    "argmax_entropy": (0.798, 0.854), "categorical_coverage_10": (0.98, 0.96),
    "argmax_coverage_50000": (0.9876, 0.99), "exact_match_sampled": (0.2565, 0.3707),
    "rate": (17.25, 18.5), "least_rate": (15.9, 16.1), "elbo": (-7.5, -8.25),
}  # fmt: skip


def around(value, half):
    return Measured(value=value, low=value - half, high=value + half, n=20, method="jackknife")


COMPARISON = [
    Compared(
        metric=metric, vae=vae, ours=around(value, 0.001), best=exact(1, 9), readout=exact(0.5, 9),
        controls={kind: (0.0, 0.01 * i) for i, kind in enumerate(KINDS)},
        discriminates=(metric, vae) != ("categorical_coverage_10", "A"),  # won by one VAE of two
    )
    for metric, values in VALUES.items() for vae, value in zip("AB", values, strict=True)
]  # fmt: skip


def row(network, vae, scale):
    """A VAE with every number a multiple of `scale`."""
    curve = [
        coverage.Point(n=10**i, ceiling=M, argmax=M * scale if i < 7 else None, categorical=2)
        for i in range(8)
    ]
    hardest = {"AND (min)": around(0.125, 0.125)} | {f"#{i}": exact(1, 9) for i in range(9)}
    kl = [scale * i for i in range(16)]
    drawn = [
        coverage.Drawn(decode=how, n=n, unique=around(70 * n * scale, 10 * n * scale))
        for how in ("argmax", "categorical") for n in (10, 100)
    ]  # fmt: skip
    robust = [reconstruction.Robustness(scale=i, exact_match=scale / (1 + i)) for i in range(7)]
    return Row(
        network=network, seed=1, vae=vae, k=100, values={"argmax_coverage_10": exact(0.6, 9)},
        details=Details(curve=curve, hardest=hardest, kl_nats_by_dimension=kl),
        drawings=Drawings(coverage=drawn, robustness=robust),
    )  # fmt: skip


NAMES = [(name, vae) for name in ("model", "untrained", "random linear") for vae in "AB"]
ROWS = [row(network, vae, 1 - i / 8) for i, (network, vae) in enumerate(NAMES)]
RESULTS = Results(rows=ROWS, controls_measured="now", comparison=COMPARISON)


def cells(table):
    """The table's text, row by row."""
    return [" | ".join(map(str, line)) for line in table.data.itertuples(index=False)]


# --- Numbers ---


NEARLY = st.floats(0, 1, exclude_max=True) | st.floats(0, 1e-3).map(lambda x: (1 - x**3) % 1)


@given(NEARLY, st.integers(2, 4))
def test_less_than_all_is_never_printed_as_all(value, decimals):
    text = tables.number(value, decimals=decimals)
    assert float(text.rstrip("%")) < 100 and text.endswith("%")
    assert float(text.rstrip("%")) / 100 == pytest.approx(value, abs=10 ** -(decimals + 2))


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (1.0, "share", "100.00%"), (0.99996, "share", "99.9960%"), (16.0, "count", "16"),
        (9.8875, "nats", "9.8875"), (2.5, "number", "2.500"), (0.0123, "number", "0.0123"),
        (None, "share", "not told"), (1 - 2**-53, "share", "99.99999999999999%"),
        (1 - 2**-53, "number", "1.000"), (5e-5, "share", "0.0050%"),
    ],
)  # fmt: skip
def test_a_number_is_shown_by_its_unit(value, unit, text):
    assert tables.number(value, unit) == text


def test_an_interval_shows_both_ends_and_what_was_refused_and_what_is_exact_say_so():
    assert tables.interval(around(0.50003, 0.00001)) == "50.0020% … 50.0040%"
    assert tables.interval(exact(0.5, 9)) == "exact"
    assert tables.with_interval(exact(0.5, 9)) == "50.00%"
    assert tables.with_interval(around(0.5, 0.1)) == "50.00% (40.00% … 60.00%)"
    first, second = cells(tables.kinds({"A": {"all_of_it": exact(0.75, M), "shift": REFUSED}}))
    assert first == f"all of it | 75.00% | 19,683 | {CENSUS}"
    assert second == f"shift | not told | 12 | {REFUSED.method}"


# --- Tables ---


def test_what_noise_can_win_is_grey_and_says_so():
    styler = tables.comparison(COMPARISON)
    names = list(styler.data["metric"])
    assert len(names) == len(VALUES)
    assert [name for name in names if name.endswith("(alone decides nothing)")] == [names[1]]
    assert tables.GREY.split(";")[0].split(": ")[1] in styler.to_html()
    line = cells(styler)[0]
    assert "79.80% (79.70% … 79.90%) | 85.40%" in line and line.endswith("100.00%")
    assert "0.00% … 3.00%" in line  # collapsed and uniform, together
    bare = COMPARISON[0].model_copy(update={"controls": {}})
    assert " | – | – | – | " in cells(tables.comparison([bare]))[0]


def judged(verdict, gate="min_exact_match", value=0.95, vae="A"):
    measured = around(value, 0.01)
    return Judged(gate=gate, vae=vae, bound=0.9, measured=measured, verdict=verdict)


def test_gates_show_each_verdict_its_bound_and_colour():
    rows = [judged("PASS"), judged("FAIL", "max_rate"), judged("ABSTAIN")]
    styler = tables.gates(rows)
    assert list(styler.data["verdict"]) == ["PASS", "FAIL", "ABSTAIN"]
    assert list(styler.data["bound"]) == ["≥ 90.00%", "≤ 0.9000", "≥ 90.00%"]
    colours = [tables.VERDICT["PASS"], tables.VERDICT["FAIL"], tables.ABSTAIN]
    assert all(colour.split(";")[0] in styler.to_html() for colour in colours)
    refusal = Refusal(control="untrained", seed=1, k=400_000, verdict="FAIL", gates=rows)
    [line] = cells(tables.refusals([refusal]))
    assert line == "untrained | 400,000 | FAIL | max_rate, min_exact_match"
    worse = [judged("PASS", value=0.5, vae="B"), judged("FAIL", "max_rate", 0.99, "B")]
    asked = rows[:2], rows[:2] + worse, rows[:2] + worse[:1]  # the last VAE-B measured no further
    kept = [KeptEpoch(epoch=i, k=100, gates=gates) for i, gates in enumerate(asked)]
    values = "95.00% | 0.9500", "50.00% | 0.9900", "50.00% | –"
    found = [f"{i} | 100 | {shown} | FAIL" for i, shown in enumerate(values)]
    assert cells(tables.by_epoch(kept)) == found


def test_other_tables_hold_their_rows():
    table = tables.coverage(RESULTS)
    assert len(cells(table)) == 8 and {"N = 10", "N = 100"} <= set(table.data.columns)
    assert "A | argmax | 700 (600 … 800) · " in cells(table)[0]
    assert len(cells(tables.hardest(RESULTS, count=3))) == 6
    assert cells(tables.hardest(RESULTS))[0] == "A | AND (min) | 0.125 | 0.000 … 0.250"
    p = tables.distributions(torch.eye(9)[:, :3], list(range(9)))
    assert cells(p)[0].startswith("(-1, -1) | 0 | 1.0 | 0.0")
    row = {"epoch": 0, "score": 0.5, "selected": False, "lr": 0.1, "coverage_A": 0.99999, "x_A": 2}
    epochs = tables.epochs([row | {"epoch": i, "selected": i == 3} for i in range(6)], every=4)
    assert list(epochs.data["epoch"]) == [0, 3, 4, 5]  # every fourth, the selected, the last
    assert cells(epochs)[1] == "3 | 0.5000 | 99.9990% | 2.000 | selected"


def test_the_sentences_quote_the_rows():
    text = tables.summary(RESULTS).data
    for quoted in ("85.40%", "98.76%", "37.07%", "17.2500", "-8.2500", "15.9000", "-9.8875"):
        assert quoted in text
    assert "nothing learnt, five seeds: up to 3.00%" in text
    others = [row for row in RESULTS.comparison if row.metric != "argmax_coverage_50000"]
    fewer = tables.summary(RESULTS.model_copy(update={"comparison": others})).data
    assert "50,000" in text and "50,000" not in fewer
    said = tables.why_not_categorical(RESULTS)
    assert "N = 100 an untrained VAE-B reaches 22.23% of" in said and "checkpoint 31.12%" in said


def test_a_label_says_whose_signature_and_is_red_without_one():
    stated = Certificate.model_construct(verdict="PASS", signature=None)
    assert "unsigned" in tables.label(stated).data and "#c1121f" in tables.label(stated).data
    signature = Signature(file="s", method="m", fingerprint="f" * 64)
    signed = tables.label(stated.model_copy(update={"signature": signature})).data
    assert "f" * 64 in signed and "unsigned" not in signed


# --- Figures ---


def lines(axes):
    """What each line is labelled, and its heights."""
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_figures_show_the_model_beside_every_control(tmp_path):
    figure = plots.headline(RESULTS)
    curve, bars = figure.axes
    assert lines(curve)["VAE-A, argmax"] == [0.0] * 7  # none beyond k
    assert lines(curve)["untrained B, categorical"] == [1 - 2 / M] * 8
    assert lines(curve)["ceiling (uniform generator)"] == [0.0] * 8
    assert list(curve.lines[1].get_xdata()) == [10**i for i in range(7)]
    [maps] = curve.collections
    assert maps.get_offsets().tolist() == [[10, 1 - 0.6 * coverage.ceiling(10) / M]] * 2
    widths = [bar.get_width() for bar in bars.patches]
    assert widths[:2] == pytest.approx([1 - 0.798, 1.0]) and len(widths) == 2 * (1 + len(KINDS))
    curve, bars = plots.reconstruction(RESULTS).axes
    assert lines(curve)["VAE-A"][1] == 0.5
    assert lines(bars)["VAE-A"] == list(range(15, -1, -1))
    shown = plots.save(figure, tmp_path / "one.png").data
    assert shown == (tmp_path / "one.png").read_bytes() and shown[:4] == b"\x89PNG"
    assert b"Software" not in shown, "the release of Matplotlib would change the file"


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
    curve = pd.DataFrame({"vae": ["A", "A", "B", "B"], "operations": [10, 100] * 2,
                          "trained": [0.1, 0.2, 0.3, 0.4], "read_out": [1.0] * 4})  # fmt: skip
    [axes] = plots.learning_curve(curve).axes
    shown = {"VAE-A": [0.1, 0.2], "VAE-B": [0.3, 0.4], "linear read-out": [1.0, 1.0]}
    assert lines(axes) == shown
    shown = tables.shares(curve, ["trained", "read_out"])
    assert list(shown["trained"])[:2] == ["10.00%", "20.00%"] and "read out" in shown


def test_a_traversal_of_the_optimum_changes_one_entry_a_latent(perfect_model):
    axes = plots.traversal(perfect_model, "A").axes
    moved = [one.collections[0].get_array().flatten().tolist() for one in axes]
    own = torch.eye(9)  # nine latents own a trit each, and are in the order of the trits
    assert moved == torch.cat([-own, 0 * own, own]).tolist()
