"""The stored documents: the schema accepts what is published, and the history only grows."""

import json

import pytest
from fluxttice_core import files
from fluxttice_core.report import records
from fluxttice_core.errors import InputError

PUBLISHED = sorted((files.root() / "reports").glob("*/*/coverage_vs_entropy.json"))


def published() -> dict:
    assert PUBLISHED, "no report is committed"
    return json.loads(PUBLISHED[-1].read_text(encoding="utf-8"))


def test_the_published_report_fits_the_schema():
    records.check(published(), "coverage_vs_entropy")


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (lambda d: d.pop("seed"), "the document"),
        (lambda d: d["checkpoint"].update(sha256="abc"), "checkpoint/sha256"),
        (lambda d: d["results"]["A"]["coverage"][0].pop("decode"), "results/A/coverage/0"),
        (lambda d: d["results"]["B"]["exact_match"].update(test=1.2), "results/B/exact_match/test"),
        (lambda d: d["results"].pop("untrained_A"), "results"),
        (lambda d: d.update(surprise=1), "the document"),
    ],
)
def test_a_spoilt_document_is_refused_by_the_place_that_differs(spoil, place):
    document = published()
    spoil(document)
    with pytest.raises(InputError, match=f"^{place} does not fit the schema"):
        records.check(document, "coverage_vs_entropy")


def test_nothing_is_written_that_does_not_fit(tmp_path):
    with pytest.raises(InputError):
        records.write({"schema": "other"}, tmp_path / "coverage_vs_entropy.json")
    assert not list(tmp_path.iterdir())


def test_the_history_keeps_every_earlier_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path))
    assert records.history() == []
    document, before = published(), ""
    for run in range(3):
        path = records.append_history(document, tmp_path / f"run{run}")
        text = path.read_text(encoding="utf-8")
        assert text.startswith(before) and text.endswith("\n")
        before = text
    lines = records.history()
    assert [line["vae"] for line in lines] == ["A", "B"] * 3
    assert set(lines[0]) == set(records.COLUMNS)
    assert float(lines[0]["information_share"]) == pytest.approx(
        document["results"]["A"]["information_nats"]["share"]
    )


def test_the_recorded_parameters_are_a_file_that_can_be_run_again(tmp_path):
    record = files.record_params(tmp_path, "benchmark", {"seed": 1, "lr": 1e-5, "run_dir": "x"})
    data = (tmp_path / "benchmark.params.yaml").read_bytes()
    assert record["sha256"] == files.sha256(data) and "run_dir" not in record["values"]
    from fluxttice_core.params import read_yaml

    assert read_yaml(tmp_path / "benchmark.params.yaml") == {"seed": 1, "lr": 1e-5}
