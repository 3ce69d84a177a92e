"""The page of all runs: its rows from the files of the runs, and its sort and filter."""

import itertools
import json
import re
import shutil

import pytest

import browser
from fluxttice_core import params
from fluxttice_core.report import index

SHOWN = (
    "[...document.querySelectorAll('tbody tr:not([hidden])')].map((row) => row.cells[1].innerText)"
)
IMPORTED = {"file": "r_v9.pt", "layout": "v5.12.4 improved"}


@pytest.fixture
def run(published, tmp_path, monkeypatch):
    """A copy of the published run, the only one in its reports folder."""
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path))
    return shutil.copytree(published, tmp_path / published.parent.name / published.name)


def change(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_a_row_has_the_words_of_its_files(run):
    row = index.row(run)
    assert row == row | {
        "date (UTC)": "2026-11-28 20:43", "run": "report", "checkpoint": "trained here",
        "recipe": "turned, seed 42", "layout": "fluxttice", "bounds": "certify",
        "verdict": "PASS", "state": "complete",
    }  # fmt: skip
    gates = json.loads((run / "verdict.json").read_bytes())["gates"]
    found = {(gate["gate"], gate["vae"]): gate["measured"] for gate in gates}
    entropy = found["min_argmax_entropy", "A"]
    half = (entropy["high"] - entropy["low"]) / 2
    first = row["argmax entropy"].splitlines()[0].replace("\xa0", " ")
    assert first == f"A {entropy['value']:.4%} ± {half:.4%}"
    rates = "".join(f"{vae}\xa0{found['max_rate', vae]['value']:.4f}\n" for vae in "AB")
    assert row["rate"] == rates, "an exact figure has no ±"
    pages = [page.rpartition("/")[2] for page in row["pages"]]
    assert pages == ["1_train.html", "2_benchmark.html", "3_certify.html", "explore.html"]


def test_an_imported_checkpoint_has_its_file_and_layout(run):
    (run / "train.params.yaml").unlink()
    given = "reports/2026-11-28/204336-report/checkpoint"
    for step, checkpoint in (("benchmark", "''"), ("certify", "''")):
        change(run / f"{step}.params.yaml", given, checkpoint)
    change(run / "verdict.json", '"imported": null', f'"imported": {json.dumps(IMPORTED)}')
    row = index.row(run)
    assert (row["checkpoint"], row["layout"], row["recipe"]) == (*IMPORTED.values(), "")
    change(run / "certify.params.yaml", "checkpoint: ''", "checkpoint: /somewhere/certified")
    assert index.row(run)["checkpoint"] == "certified"


def test_bounds_of_no_parameter_file_are_the_runs_own(run, strict):
    assert params.profile_of(strict.model_dump()) == "certify" and not params.profile_of({})
    change(run / "certify.params.yaml", "max_rate: 18.5", "max_rate: 18.6")
    row = index.row(run)
    assert row["verdict"] == "PASS (own bounds)" and not row["bounds"]


def test_a_notebook_without_its_page_is_unfinished(run):
    (run / "2_benchmark.html").rename(run / "2_benchmark.unfinished.html")
    (run / "3_certify.html").unlink()
    row = index.row(run)
    assert row["state"].splitlines() == ["unfinished: benchmark", "unfinished: certify"]
    assert row["pages"][1].endswith("/2_benchmark.unfinished.html")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *itertools.product(
            ["verdict.json", "certify.params.yaml", "train.params.yaml"],
            ["", "{", "[]", "[}</script>", "\0", "\udcff"],
        ),
        ("verdict.json", '{"gates": [1]}'),
        ("verdict.json", '{"gates": [], "verdict": "PASS", "imported": 1}'),
    ],
)
def test_a_damaged_file_is_named_in_its_row(run, name, text):
    (run / name).write_text(text, "utf-8", errors="surrogateescape")
    assert f"damaged: {name}" in index.row(run)["state"]
    index.write()
    assert f"damaged: {name}" in index.path().read_text("utf-8")
    assert "own bounds" not in index.row(run)["verdict"]


def test_names_are_text_and_the_page_asks_nothing_of_the_network(run):
    run.rename(run.with_name("204336-<script>#x"))
    index.write()
    page = index.path().read_text("utf-8")
    assert "&lt;script&gt;#x" in page and "/204336-%3Cscript%3E%23x/1_train.html" in page
    assert page.count("<script") == 1 and "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:|2026)|@import|url\(|fetch\(|innerHTML', page)


def test_a_reports_folder_without_runs_has_a_page(reports):
    reports.mkdir()
    index.write()
    assert "There is no run yet" in index.path().read_text("utf-8")


def test_a_browser_sorts_and_filters(run, record_property):
    """Where no browser is, the summary says in a line of its own that nothing was checked."""
    if browser.chromium() is None:
        record_property("not checked", "no Chromium or Chrome here opens index.html")
        return
    for name, rate in (("030405-low", "9.5"), ("030406-high", "101.5")):
        other = shutil.copytree(run, run.parent / name)
        change(other / "verdict.json", '"value": 16.510593981883854', f'"value": {rate}')
    change(other / "verdict.json", '"verdict": "PASS",\n  "epoch"', '"verdict": "FAIL",\n  "epoch"')
    index.write()
    with browser.opened(index.path()) as page:
        assert page.value(SHOWN) == ["report", "high", "low"], "the newest is first"
        rate = "[...document.querySelectorAll('th')].find((th) => th.innerText === 'rate')"
        page.value(f"{rate}.querySelector('button').click()")
        assert page.value(SHOWN) == ["high", "report", "low"]
        page.value(f"{rate}.querySelector('button').click()")
        assert page.value(SHOWN) == ["low", "report", "high"]
        assert page.value(f"{rate}.ariaSort") == "ascending"
        page.value("""(() => { const box = document.querySelector('input');
                   box.value = 'fail 2026-11'; box.dispatchEvent(new Event('input')); })()""")
        assert page.value(SHOWN) == ["high"]
        width = page.value("document.documentElement.scrollWidth - innerWidth")
        assert width <= 0, "the table fits"
    browser.assert_silent(page)
