"""Tables and figures say what the rows say: nothing is computed, nothing is left out."""

import pytest
from fluxttice_core.report import plots
from fluxttice_core.report import tables
from fluxttice_core.model.operations import M

NETWORKS = ("A", "B", "untrained_A", "untrained_B")
CONTROLS = {control: [0.0, 0.01] for control in tables.CONTROLS}


def compared(metric, vae, value, low, high, discriminates):
    row = {"metric": metric, "vae": vae, "value": value, "ci95": [low, high], **CONTROLS}
    return {**row, "discriminates": discriminates}


def comparison():
    return [
        compared("information, share of 9·ln 3", "A", 0.798, 0.797, 0.799, True),
        compared("categorical coverage at N = 10, of ceiling", "A", 0.98, 0.97, 0.99, False),
        compared("information, share of 9·ln 3", "B", 0.854, 0.853, 0.855, True),
        compared("categorical coverage at N = 10, of ceiling", "B", 0.96, 0.95, 0.97, True),
        compared("argmax coverage at N = 10, of ceiling", "A", 0.94, 0.93, 0.95, True),
        compared("argmax coverage at N = 10, of ceiling", "B", 0.93, 0.92, 0.94, True),
        compared("exact match on test, posterior mean", "A", 0.9876, 0.98, 0.99, True),
        compared("exact match on test, posterior mean", "B", 1.0, 0.998, 1.0, True),
        compared("exact match on test, posterior sample", "A", 0.2565, 0.24, 0.28, True),
        compared("exact match on test, posterior sample", "B", 0.3707, 0.35, 0.39, True),
    ]


def network(scale):
    """What is measured of a network, with every number a multiple of `scale`."""
    sampled = [
        {"decode": how, "n": n, "trials": 5, "unique": 7.0 * n * scale, "share": 0.3 * scale,
         "of_ceiling": 0.25 * scale, "ci95": [6.0 * n * scale, 8.0 * n * scale]}
        for how in ("argmax", "categorical") for n in (10, 100)
    ]  # fmt: skip
    points = [{"n": 10**i, "ceiling": M, "argmax": M * scale, "categorical": 2.0} for i in range(8)]
    points[7]["argmax"] = None
    return {
        "coverage": sampled,
        "curve": points,
        "robustness": [{"scale": 0.5 * i, "exact_match": scale / (1 + i)} for i in range(7)],
        "kl_nats_by_dimension": [scale * i for i in range(16)],
        "plane": {"trit": 5, "points": [[1.0 * scale, 2.0, -1], [3.0, 4.0 * scale, 1]]},
        "hardest": {"argmax": [{"index": 5, "name": "AND (min)", "p_times_m": 0.125 * scale,
                                "ci95": [0.0, 0.25 * scale]}] * 10},
    }  # fmt: skip


@pytest.fixture
def results():
    networks = {name: network(1 - i / 8) for i, name in enumerate(NETWORKS)}
    perfect = {"only": 1.5, "both": 3.5, "union": 6.5}
    row = {"n": 10, "only_a": 1.25, "only_b": 2.0, "both": 3.0, "union": 6.25}
    diversity = [{**row, "perfect": perfect}]
    covered = [{"decode": how, "n": 10, "share": 0.6} for how in ("argmax", "categorical")]
    controls = [{"control": name, "expected_coverage": covered} for name in tables.CONTROLS]
    shown = {"comparison": comparison(), "diversity": diversity, "controls": controls}
    return {**networks, **shown}


def cells(table):
    """The table's text, row by row."""
    frame = getattr(table, "data", table)
    return [" | ".join(map(str, row)) for row in frame.itertuples(index=False)]


# --- Tables ---


def test_numbers_do_not_round_to_all_or_to_nothing_less():
    assert tables.number(1.0) != tables.number(0.99996)
    assert tables.number(0.99996).startswith("99.99")
    assert "2.5" in tables.number(2.5, "latent entropy, nats")
    assert "%" in tables.number(0.5) and "%" not in tables.number(0.5, "active units")


def test_an_interval_shows_both_ends_and_a_point_one():
    assert tables.interval([0.25, 0.5]).split(" … ") == [tables.number(0.25), tables.number(0.5)]
    assert tables.interval([1.0, 1.0]) == tables.number(1.0)


def test_what_noise_can_win_is_grey_and_says_so():
    styler = tables.comparison(comparison())
    rows = styler.data
    assert list(rows["metric"]) == list(dict.fromkeys(row["metric"] for row in comparison()))
    verdicts = dict(zip(rows["metric"], rows["discriminates"], strict=True))
    weak = "categorical coverage at N = 10, of ceiling"  # won by one VAE of two: not by both
    assert {metric for metric, text in verdicts.items() if text != "yes"} == {weak}
    html = styler.to_html()
    assert tables.GREY.split(";")[0].split(": ")[1] in html
    assert set(tables.CONTROLS) <= set(rows.columns)
    assert any("79.80%" in text and "85.40%" in text for text in cells(styler))


def test_gates_show_each_verdict_and_colour_it():
    rows = [
        {"gate": f"gate {i}", "vae": "A", "bound": 0.9, "value": 0.95, "ci95": [0.91, 0.99],
         "verdict": verdict}
        for i, verdict in enumerate(("PASS", "FAIL", "ABSTAIN"))
    ]  # fmt: skip
    styler = tables.gates(rows)
    assert list(styler.data["verdict"]) == ["PASS", "FAIL", "ABSTAIN"]
    html = styler.to_html()
    colours = {tables.VERDICT[verdict].split(";")[0] for verdict in ("PASS", "FAIL")}
    assert all(colour in html for colour in colours)
    assert len(colours) == 2 and "#b26a00" in html


def test_coverage_names_network_mode_and_n(results):
    table = tables.coverage(results)
    assert len(cells(table)) == len(NETWORKS) * 2
    assert {"N = 10", "N = 100"} <= set(table.data.columns)
    first = cells(table)[0]
    assert "A | argmax" in first and "70 (60 … 80)" in first and "25.00%" in first


def test_other_tables_hold_their_rows(results):
    assert len(cells(tables.hardest(results, count=3))) == 6
    assert "AND (min)" in cells(tables.hardest(results))[0]
    [line] = cells(tables.diversity(results))
    assert line == "10 | 1.25 | 2.0 | 1.5 | 3.0 | 3.5 | 6.25 | 6.5"


def test_generalization_says_what_was_refused_and_what_is_exact():
    measured = {
        "A": {
            "unseen": {"share": 0.75, "n": 3_937, "ci95": [0.7, 0.8]},
            "shift_1": {"ratio": None, "n": 12, "ci95": None},
            "active_units": {"active": 16, "n": M, "ci95": None},
        }
    }
    first, second, third = cells(tables.generalization(measured))
    assert "75.00%" in first and "3,937" in first
    assert "refused" in second
    assert "exact" in third and "16" in third


def test_the_summary_quotes_the_comparison(results):
    text = tables.summary(results, [10]).data
    for quoted in ("79.80%", "85.40%", "94.00%", "98.76%", "37.07%"):
        assert quoted in text


def test_why_not_categorical_quotes_the_largest_n(results):
    text = tables.why_not_categorical(results)
    assert "N = 100" in text
    assert f"{results['untrained_B']['coverage'][-1]['share']:.2%}" in text


# --- Figures ---


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_the_headline_shows_the_model_beside_every_control(results, tmp_path):
    figure = plots.headline(results)
    curve, bars = figure.axes
    shown = lines(curve)
    assert list(shown["VAE-A, argmax"].get_ydata()) == [1.0] * 7  # none beyond k
    assert list(shown["VAE-A, argmax"].get_xdata()) == [10**i for i in range(7)]
    assert list(shown["untrained B, categorical"].get_ydata()) == [2 / M] * 8
    assert "ceiling (uniform generator)" in shown
    [maps] = curve.collections
    assert maps.get_offsets().tolist() == [[10, 0.6]]
    widths = [bar.get_width() for bar in bars.patches]
    assert widths[0] == 0.798 and len(widths) == 2 * (1 + len(tables.CONTROLS))
    assert widths.count(0.01) == 2 * len(tables.CONTROLS)  # the upper ends of the controls
    image = plots.save(figure, tmp_path / "headline.png")
    assert image.data[:4] == b"\x89PNG"
    again = plots.save(plots.headline(results), tmp_path / "again.png")
    assert image.data == again.data


def test_training_marks_the_selected_epoch():
    rows = [
        {"epoch": i, "selected": i == 2, "val_exact_A": 0.1 * i, "val_exact_B": 0.2,
         "coverage_A": 0.3, "coverage_B": 0.1 * i}
        for i in range(5)
    ]  # fmt: skip
    exact, covered = plots.training(rows).axes
    assert lines(exact)["VAE-A"].get_ydata()[3] == pytest.approx(0.3)
    assert lines(covered)["VAE-B"].get_ydata()[4] == pytest.approx(0.4)
    [marker] = [line for label, line in lines(exact).items() if "selected" in label]
    assert list(marker.get_xdata()) == [2, 2]


def test_reconstruction_and_planes_show_their_rows(results):
    curve, bars = plots.reconstruction(results).axes
    assert lines(curve)["VAE-A"].get_ydata()[1] == 0.5
    kl = list(lines(bars)["VAE-A"].get_ydata())
    assert kl == sorted(results["A"]["kl_nats_by_dimension"], reverse=True)
    first = plots.planes(results).axes[0]
    shown = [dots.get_offsets().tolist() for dots in first.collections]
    assert shown == [[[1.0, 2.0]], [], [[3.0, 4.0]]]  # -1, 0 and +1
    assert "(0, 1)" in first.get_title()  # trit 5 is the output for a = 0, b = +1
