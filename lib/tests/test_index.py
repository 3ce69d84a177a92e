"""The page of all runs: what it reads, what it leaves out, and what its script computes."""

import json
import re
import shutil

import pytest
from test_explore import script

import browser
from fluxttice_core import files, params
from fluxttice_core.metrics.measurement import MODEL, Results, Row
from fluxttice_core.metrics.results import Measured, exact
from fluxttice_core.report import document, index, tables

REFUSED = Measured(value=None, low=None, high=None, n=1, method="refused: constant")
BANDS = "document.querySelectorAll('#runs td:nth-last-child(%d) .band').length"


def planted(value=0.25):
    values = {"argmax_entropy": exact(value, 9), "mig": REFUSED}
    rows = [Row(network=MODEL, seed=None, vae=vae, k=100, values=values) for vae in "AB"]
    return document.Document(
        created_utc="2025-01-01T00:00:00+00:00", git={"commit": "abc", "clean": True},
        environment={}, checkpoint={"path": "x", "sha256": "0" * 64, "epoch": 3},
        params={"k": 100}, results=Results(rows=rows, controls_measured="now", comparison=[]),
    )  # fmt: skip


@pytest.fixture
def reports(published, tmp_path, monkeypatch):
    """The shipped run, and a later one of a benchmark alone."""
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path))
    shutil.copytree(published, tmp_path / published.parent.name / published.name)
    later = tmp_path / "2099-01-02" / "030405-mine"
    later.mkdir(parents=True)
    params.record(later, "benchmark", {"k": 100, "seed": 1})
    document.store(planted(), later / document.DOCUMENT)
    (later / "2_benchmark.html").touch()
    return tmp_path


def rows() -> list[dict]:
    index.write()
    return json.loads(index.DATA.search(index.path().read_text("utf-8"))[1])["rows"]


def test_a_row_says_what_the_files_of_its_run_say(reports):
    later, shipped = rows()
    assert later == later | {"date": "2099-01-02 03:04", "name": "mine", "state": "complete"}
    assert later["figures"]["B"] == {"argmax_entropy": [0.25], "mig": [None]}
    assert later["params"] == {"benchmark: k": 100, "benchmark: seed": 1} and not later["verdict"]
    assert shipped == shipped | {"state": "complete", "verdict": "PASS", "recipe": "turned"}
    assert shipped["pages"] == ["1_train.html", "2_benchmark.html", "3_certify.html"]
    [path] = reports.glob(f"{shipped['run']}/coverage_vs_entropy.json")
    row = files.parse_json(path.read_bytes())["results"]["rows"][0]["values"]["exact_match_sampled"]
    found = shipped["figures"]["A"]["exact_match_sampled"]
    assert found == [row[key] for key in ("value", "low", "high")]
    assert re.search(f'"{shipped["band"]}":{{"A":', index.path().read_text("utf-8"))


def test_a_run_without_all_its_pages_is_unfinished(reports):
    [page] = reports.glob("2099*/*/2_benchmark.html")
    page.rename(page.with_suffix(".unfinished.html"))
    assert rows()[0]["state"] == "unfinished" and len(rows()[0]["pages"]) == 1


@pytest.mark.parametrize("name", [document.DOCUMENT, "benchmark.params.yaml"])
@pytest.mark.parametrize("text", ["", "{", "[]", "[}</script>", "\0"])
def test_what_is_damaged_is_named_and_the_rest_stays(reports, capsys, name, text):
    [path] = reports.glob(f"2099*/*/{name}")
    path.write_text(text)
    later, shipped = rows()
    assert later["damaged"] == f"{name} is damaged or of another release: left out"
    assert not shipped["damaged"]
    assert f"030405-mine: {name} is damaged" in capsys.readouterr().out
    assert bool(later["figures"]) == (name != document.DOCUMENT)


def test_a_document_of_another_release_is_left_out(reports):
    [path] = reports.glob(f"2099*/*/{document.DOCUMENT}")
    path.write_text(path.read_text("utf-8").replace("vs_entropy/4", "vs_entropy/3"))
    assert rows()[0]["damaged"] and not rows()[0]["figures"]


def test_only_what_has_changed_is_read_again(reports, monkeypatch):
    first, read, row = rows(), [], index.row
    monkeypatch.setattr(index, "row", lambda run, bands: read.append(run.name) or row(run, bands))
    assert rows() == first and not read
    document.store(planted(0.5), next(reports.glob("2099*/*")) / document.DOCUMENT)
    assert rows()[0]["figures"]["A"]["argmax_entropy"] == [0.5] and read == ["030405-mine"]
    index.path().write_text("no page of ours")
    rows()
    assert len(read) == 3


def test_a_name_is_text_and_the_page_asks_nothing_of_the_network(reports):
    shutil.copytree(next(reports.glob("2099*/*")), reports / "2099-01-02" / "030406-<script>x")
    assert rows()[0]["name"] == "<script>x"
    text = index.path().read_text("utf-8")
    assert text.count("<script") == 2 and "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!data:)|@import|url\(|fetch\(|innerHTML', text)


# --- The script ---


@pytest.fixture(scope="module")
def page():
    return script((index.TEMPLATE / "page.js").read_text("utf-8"))


NUMBERS = [0, 1, 0.5, 0.12345, 0.999, 0.9991, 0.99996, 0.9999999, 1 - 1e-12, 1.5, 16.5106, -9.8875]


def test_a_number_is_printed_as_in_the_reports(page):
    by_unit = {"share": NUMBERS[:9], "nats": NUMBERS, "number": NUMBERS, "count": [9, 0]}
    for unit, values in by_unit.items():
        printed = page("values.map((value) => number(value, unit))", values=values, unit=unit)
        assert printed == [tables.number(value, unit) for value in values]
    figures = [[0.5, 0.25, 0.75], [0.5], [None], [1, 1, 1]]  # the last was drawn, and cut at 1
    printed = page("figures.map((figure) => interval(figure, 'share'))", figures=figures)
    assert printed == ["25.00% … 75.00%", "exact", "", "100.00% … 100.00%"]


def a_row(run, a=None, b=None, **values):
    """A run with these figures of its VAEs: [value, low, high], or [value] of an exact one."""
    return {"run": run, "date": run, "name": "n", "state": "complete", "verdict": "PASS",
            "checkpoint": "ab", "recipe": "turned", "seed": 1, "damaged": "", "params": {},
            "figures": {"A": a or {}, "B": b or {}}, **values}  # fmt: skip


@pytest.mark.parametrize(
    "one, other, differs",
    [
        ([0.5, 0.4, 0.6], [0.7, 0.61, 0.8], True),
        ([0.5, 0.4, 0.6], [0.7, 0.6, 0.8], False),  # they touch
        ([0.5, 0.1, 0.9], [0.7], False),
        ([0.5], [0.5000004], False),  # exact: what rounding does is no difference
        ([-0.5], [-0.500001], True),
        ([0.5], [0.5000004, 0.5000003, 0.5000005], True),
        ([None], [0.5], True),
        ([None], [None], False),
    ],
)
def test_two_runs_differ_where_their_intervals_are_disjoint(page, one, other, differs):
    a = a_row("a", {"x": one, "only": [1]}, params={"train: seed": 1, "train: lr": 0.1})
    b = a_row("b", {"x": other}, params={"train: seed": 2, "train: lr": 0.1, "certify: k": 5})
    for first, second in ((a, b), (b, a)):
        found = page("compare(a, b)", a=first, b=second)
        assert [row["metric"] for row in found["figures"]] == ["x"] * differs
        assert found["compared"] == 1
        assert {row["name"] for row in found["parameters"]} == {"train: seed", "certify: k"}


def test_rows_are_sorted_by_the_worse_vae_and_what_is_undefined_comes_last(page):
    found = [
        a_row("a", {"x": [0.2], "rate": [15]}, {"rate": [17]}),
        a_row("b"),
        a_row("c", {"x": [0.9], "rate": [16]}, {"x": [0.1]}),
        a_row("d", {"x": [None]}),
    ]
    sorts = ["rate", False, 0], ["x", False, 1], ["x", True, 1], ["date", True, 0]
    order = "sorts.map((by) => sorted(found, ...by).map((row) => row.run).join(''))"
    rate, worse, better, date = page(order, sorts=sorts, found=found)
    assert (rate[:2], worse[:2], better[:2], date) == ("ca", "ca", "ac", "dcba")


def test_the_filter_wants_every_word(page):
    texts = ["", "pass TURNED", "seed=1 2026-11", "fail", "pass v5"]
    found = page("texts.map((text) => matches(row, text))", texts=texts, row=a_row("2026-11-24"))
    assert found == [True, True, True, False, False]


def test_a_browser_sorts_filters_and_compares(reports, record_property):
    """Where no browser is, the summary says in a line of its own that nothing was checked."""
    if browser.chromium() is None:
        record_property("not checked", "no Chromium or Chrome here opens index.html")
        return
    index.write()
    shown = "[...document.querySelectorAll('#runs tbody tr')].map((row) => row.innerText)"
    with browser.opened(index.path()) as page:
        newest, oldest = page.value(shown)
        assert [page.value(BANDS % column) > 0 for column in (2, 1)] == [True, False]  # 1: rate
        assert "mine" in newest and "PASS" in oldest
        page.value("document.querySelector('#runs thead button').click()")
        assert page.value(shown) == [oldest, newest]
        page.value("document.querySelectorAll('#runs input').forEach((box) => box.click())")
        assert "argmax entropy" in page.value("document.getElementById('comparison').innerText")
        page.value("""(() => { const box = document.getElementById('filter');
                   box.value = 'PASS'; box.dispatchEvent(new Event('input')); })()""")
        assert page.value(shown) == [oldest]
    browser.assert_silent(page)
