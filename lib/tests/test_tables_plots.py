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


def between(value, low, high):
    return Measured(value=value, low=low, high=high, n=20, method="jackknife")


def compared(metric, vae, value, low, high, discriminates=True):
    return Compared(
        metric=metric, vae=vae, ours=between(value, low, high), best=exact(1.0, 9),
        readout=exact(0.5, 9),
        controls={kind: (0.0, 0.01 * i) for i, kind in enumerate(KINDS)},
        discriminates=discriminates,
    )  # fmt: skip


COMPARISON = [
    compared("argmax_entropy", "A", 0.798, 0.797, 0.799),
    compared("argmax_entropy", "B", 0.854, 0.853, 0.855),
    compared("categorical_coverage_10", "A", 0.98, 0.97, 0.99, False),  # won by one VAE of two
    compared("categorical_coverage_10", "B", 0.96, 0.95, 0.97),
    *[
        compared(name, vae, value, value - 0.01, value + 0.001)
        for name, values in {
            "argmax_coverage_50000": (0.9876, 0.99),
            "exact_match_sampled": (0.2565, 0.3707), "rate": (17.25, 18.5),
            "least_rate": (15.9, 16.1), "elbo": (-7.5, -8.25),
        }.items()
        for vae, value in zip("AB", values, strict=True)
    ],
]  # fmt: skip


def row(network, vae, scale):
    """A VAE with every number a multiple of `scale`."""
    points = [
        coverage.Point(n=10**i, ceiling=M, argmax=M * scale if i < 7 else None, categorical=2.0)
        for i in range(8)
    ]
    drawn = [
        coverage.Drawn(decode=how, n=n, unique=between(7.0 * scale, 6.0 * scale, 8.0 * scale))
        for how in ("argmax", "categorical") for n in (10, 100)
    ]  # fmt: skip
    details = Details(
        curve=points,
        hardest={"AND (min)": between(0.125, 0.0, 0.25)} | {f"#{i}": exact(1, 9) for i in range(9)},
        kl_nats_by_dimension=[scale * i for i in range(16)],
    )  # fmt: skip
    robust = [
        reconstruction.Robustness(scale=0.5 * i, exact_match=scale / (1 + i)) for i in range(7)
    ]
    values = {"argmax_coverage_10": exact(0.6, 9)}
    return Row(
        network=network, seed=1, vae=vae, k=100, values=values, details=details,
        drawings=Drawings(coverage=drawn, robustness=robust),
    )  # fmt: skip


@pytest.fixture(scope="module")
def results():
    names = [(network, vae) for network in ("model", "untrained") for vae in "AB"]
    rows = [row(network, vae, 1 - i / 8) for i, (network, vae) in enumerate(names)]
    bare = {"details": None, "drawings": None, "network": "random linear"}
    return Results(
        rows=[*rows, rows[0].model_copy(update=bare)], controls_measured="now",
        comparison=COMPARISON,
    )  # fmt: skip


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
    assert tables.number(1.0) == "100.00%"


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_an_interval_shows_both_ends_and_a_point_is_exact(ends):
    low, high = ends
    text = tables.interval(between(low, low, high))
    if low == high:
        assert text == "exact"
    elif high - low > 1e-5:
        first, last = (float(end.rstrip("%")) for end in text.split(" … "))
        assert first < last


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (0.5, "share", "50.00%"), (0.99996, "share", "99.9960%"), (16.0, "count", "16"),
        (9.8875, "nats", "9.8875"), (2.5, "number", "2.500"), (0.0123, "number", "0.0123"),
        (None, "share", "not told"), (1 - 2**-53, "share", "99.99999999999999%"),
    ],
)  # fmt: skip
def test_a_number_is_shown_by_its_unit(value, unit, text):
    assert tables.number(value, unit) == text


def test_what_was_refused_and_what_is_exact_say_so():
    assert tables.with_interval(exact(0.5, 9)) == "50.00%"
    assert tables.with_interval(between(0.5, 0.4, 0.6)) == "50.00% (40.00% … 60.00%)"
    assert (
        tables.with_interval(REFUSED) == "not told" and tables.interval(REFUSED) == REFUSED.method
    )
    first, second = cells(tables.kinds({"A": {"all_of_it": exact(0.75, M), "shift": REFUSED}}))
    assert first == f"all of it | 75.00% | 19,683 | {CENSUS}"
    assert second == f"shift | not told | 12 | {REFUSED.method}"


# --- Tables ---


def test_what_noise_can_win_is_grey_and_says_so():
    styler = tables.comparison(COMPARISON)
    names = list(styler.data["metric"])
    assert len(names) == len({row.metric for row in COMPARISON})
    assert [name for name in names if name.endswith("(alone decides nothing)")] == [names[1]]
    html = styler.to_html()
    assert tables.GREY.split(";")[0].split(": ")[1] in html
    line = cells(styler)[0]
    assert "79.80% (79.70% … 79.90%) | 85.40%" in line and line.endswith("100.00%")
    assert "0.00% … 3.00%" in line  # collapsed and uniform, together
    bare = [compared("rate", "A", 1, 1, 1).model_copy(update={"controls": {}})]
    assert " | – | – | – | " in cells(tables.comparison(bare))[0]


def judged(verdict, gate="min_exact_match", value=0.95):
    measured = between(value, value - 0.01, value + 0.01)
    return Judged(gate=gate, vae="A", bound=0.9, measured=measured, verdict=verdict)


def test_gates_show_each_verdict_its_bound_and_colour():
    rows = [judged("PASS"), judged("FAIL", "max_rate"), judged("ABSTAIN")]
    styler = tables.gates(rows)
    assert list(styler.data["verdict"]) == ["PASS", "FAIL", "ABSTAIN"]
    assert list(styler.data["bound"]) == ["≥ 90.00%", "≤ 0.9000", "≥ 90.00%"]
    colours = [tables.VERDICT["PASS"], tables.VERDICT["FAIL"], tables.ABSTAIN]
    assert all(colour.split(";")[0] in styler.to_html() for colour in colours)
    refusal = Refusal(control="untrained", seed=1, k=400_000, verdict="FAIL", gates=rows)
    assert cells(tables.refusals([refusal])) == [
        "untrained | 400,000 | FAIL | max_rate, min_exact_match"
    ]
    worse = [row.model_copy(update={"vae": "B"}) for row in (judged("PASS", value=0.5), rows[1])]
    epochs = {3: rows[:2], 4: rows[:2] + worse, 5: rows[:2] + worse[:1], 6: worse[1:]}
    kept = [KeptEpoch(epoch=n, k=100, gates=gates) for n, gates in epochs.items()]
    assert cells(tables.by_epoch(kept)) == [
        "3 | 100 | 95.00% | 0.9500 | FAIL", "4 | 100 | 50.00% | 0.9500 | FAIL",
        "5 | 100 | 50.00% | – | FAIL", "6 | 100 | – | 0.9500 | FAIL",  # measured no further
    ]  # fmt: skip


def test_other_tables_hold_their_rows(results):
    table = tables.coverage(results)
    assert len(cells(table)) == 8 and {"N = 10", "N = 100"} <= set(table.data.columns)
    assert "A | argmax | 7 (6 … 8) · " in cells(table)[0]
    assert len(cells(tables.hardest(results, count=3))) == 6
    assert cells(tables.hardest(results))[0] == "A | AND (min) | 0.125 | 0.000 … 0.250"
    p = tables.distributions(torch.eye(9)[:, :3], list(range(9)))
    assert cells(p)[0].startswith("(-1, -1) | 0 | 1.0 | 0.0")


def test_epochs_show_every_so_many_the_selected_and_the_last():
    rows = [
        {"epoch": i, "score": 0.5, "selected": i == 3, "lr": 0.1, "coverage_A": 0.99999, "x_A": 2.5}
        for i in range(6)
    ]
    lines = cells(tables.epochs(rows, 4))
    assert [line.split(" | ")[0] for line in lines] == ["0", "3", "4", "5"]
    assert lines[1] == "3 | 0.5000 | 99.9990% | 2.500 | selected"


def test_the_sentences_quote_the_rows(results):
    text = tables.summary(results).data
    for quoted in ("85.40%", "98.76%", "37.07%", "17.2500", "-8.2500", "15.9000", "-9.8875"):
        assert quoted in text
    assert "nothing learnt: at most 3.00%" in text
    said = tables.why_not_categorical(results)
    share = results.of("untrained")["B"].drawings.coverage[-1].share.value
    assert "N = 100 " in said and f"VAE-B reaches {share:.2%}" in said


def test_a_label_says_whose_signature_and_is_red_without_one():
    stated = Certificate.model_construct(verdict="PASS", signature=None)
    assert "unsigned" in tables.label(stated).data and "#c1121f" in tables.label(stated).data
    signature = Signature(file="s", method="m", fingerprint="f" * 64)
    signed = tables.label(stated.model_copy(update={"signature": signature})).data
    assert "f" * 64 in signed and "unsigned" not in signed


# --- Figures ---


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_the_headline_shows_the_model_beside_every_control(results, tmp_path):
    curve, bars = plots.headline(results).axes
    shown = lines(curve)
    assert list(shown["VAE-A, argmax"].get_ydata()) == [0.0] * 7  # none beyond k
    assert list(shown["VAE-A, argmax"].get_xdata()) == [10**i for i in range(7)]
    assert list(shown["untrained B, categorical"].get_ydata()) == [1 - 2 / M] * 8
    assert "ceiling (uniform generator)" in shown
    [maps] = curve.collections
    assert maps.get_offsets().tolist() == [[10, 1 - 0.6 * coverage.ceiling(10) / M]]
    widths = [bar.get_width() for bar in bars.patches]
    assert widths[:2] == pytest.approx([1 - 0.798, 1.0]) and len(widths) == 2 * (1 + len(KINDS))
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    one, two = (plots.save(plots.headline(results), path).data for path in files)
    assert one == two == files[0].read_bytes() and one[:4] == b"\x89PNG"


KEYS = ("val_exact_sampled", "coverage", "rate")


def test_training_follows_the_epochs_as_distances_and_marks_the_selected_one():
    rows = [
        {"epoch": i, "selected": i == 2}
        | {f"{key}_{vae}": i / 4 for key in KEYS for vae in "AB"}
        for i in range(5)
    ]  # fmt: skip
    for axes in plots.training(rows).axes:
        *ours, marker = axes.lines
        logarithmic = axes.get_yscale() == "log"
        shown = [1, 0.75, 0.5, 0.25, 1e-5] if logarithmic else [0, 0.25, 0.5, 0.75, 1]
        assert [list(line.get_ydata()) for line in ours] == [shown, shown]
        assert list(marker.get_xdata()) == [2, 2] and marker.get_label() == "selected: 2"


def test_reconstruction_shows_its_rows(results):
    curve, bars = plots.reconstruction(results).axes
    assert lines(curve)["VAE-A"].get_ydata()[1] == 0.5
    assert list(lines(bars)["VAE-A"].get_ydata()) == [float(i) for i in range(15, -1, -1)]


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
    assert list(lines(axes)["VAE-B"].get_ydata()) == [0.3, 0.4]
    assert list(lines(axes)["linear read-out"].get_ydata()) == [1.0, 1.0]
    shown = tables.shares(curve, ["trained", "read_out"])
    assert list(shown["trained"])[:2] == ["10.00%", "20.00%"] and "read out" in shown


def test_a_traversal_of_the_optimum_changes_one_entry_a_latent(perfect_model):
    figure = plots.traversal(perfect_model, "A")
    tables_ = [axes.collections[0].get_array().ravel() for axes in figure.axes]
    assert len(tables_) == 27  # three moves of nine latents that own a trit each
    for latent in range(9):
        down, rest, up = (tables_[row * 9 + latent] for row in range(3))
        assert not rest.any() and [(x != 0).nonzero()[0].tolist() for x in (down, up)] == [
            [latent], [latent],
        ]  # fmt: skip
        assert (down[latent], up[latent]) == (-1, 1)
