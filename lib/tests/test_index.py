"""The page of all runs: its rows from the files of the runs, and its sort and filter."""

import itertools
import re
import shutil

import pytest

import browser
from fluxttice_core import files, params
from fluxttice_core.report import index
from fluxttice_core.report.run import NOTEBOOKS

SHOWN = (
    "[...document.querySelectorAll('tbody tr:not([hidden])')].map((row) => row.cells[1].innerText)"
)
IMPORTED = {"file": "r_v9.pt", "layout": "v5.12.4 improved"}


def gate(name, vae, value, half=0.0):
    numbers = {"value": value, "low": value - half, "high": value + half}
    return {"gate": name, "vae": vae, "bound": 0, "n": 1, "method": "planted", **numbers}


@pytest.fixture
def run(reports):
    """A finished run, the only one in its reports folder."""
    folder = reports / "2026-11-28/204336-report"
    folder.mkdir(parents=True)
    for step, notebook in list(NOTEBOOKS.items())[:3]:
        params.record(folder, step, params.read_yaml(files.root() / f"params/{step}.yaml"))
        (folder / f"{notebook}.html").touch()
    (folder / "explore.html").touch()
    gates = [gate("max_rate", "A", 16.5), gate("min_argmax_entropy", "B", 0.9994, 0.0001)]
    checkpoint = {"file": "checkpoint", "layout": "fluxttice"}
    document = {"verdict": "PASS", "checkpoint": checkpoint, "gates": gates}
    files.write_bytes(folder / "verdict.json", files.json_bytes(document))
    return folder


def change(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_a_row_has_the_words_of_its_files(run):
    row = index.row(run)
    assert row == row | {
        "date (UTC)": "2026-11-28 20:43", "run": "report", "checkpoint": "trained here",
        "recipe": "axis_aligned, seed 42", "layout": "fluxttice", "bounds": "certify",
        "verdict": "PASS", "state": "complete", "rate": "A\xa016.5\n",
        "argmax entropy": "B\xa099.940%\xa0±\xa00.01\n",
    }  # fmt: skip
    pages = [page.rpartition("/")[2] for page in row["pages"]]
    assert pages == ["1_train.html", "2_benchmark.html", "3_certify.html", "explore.html"]


def test_an_imported_checkpoint_has_its_file_and_layout(run):
    (run / "train.params.yaml").unlink()
    change(run / "verdict.json", '"checkpoint",', '"r_v9.pt",')
    change(run / "verdict.json", '"fluxttice"', f'"{IMPORTED["layout"]}"')
    row = index.row(run)
    assert (row["checkpoint"], row["layout"], row["recipe"]) == (*IMPORTED.values(), "")
    with (run / "certify.params.yaml").open("a") as file:
        file.write("checkpoint: /somewhere/certified\n")
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
        ("verdict.json", '{"gates": [], "verdict": "PASS", "checkpoint": 1}'),
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
        change(other / "verdict.json", '"value": 16.5', f'"value": {rate}')
    change(other / "verdict.json", '"PASS"', '"FAIL"')
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
