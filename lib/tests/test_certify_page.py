"""3_certify on a network that deserves nothing: refused on its page, by the runner and by nbval."""

import base64
import json
import subprocess
import sys

import pytest
from test_certification import new_key

from fluxttice_core import files, params
from fluxttice_core.certification import attest, signing
from fluxttice_core.certification.certificate import Certificate
from fluxttice_core.errors import ThresholdMissed
from fluxttice_core.metrics.marginal import MIN_LATENTS
from fluxttice_core.report import run

NOTEBOOK = files.root() / "notebooks/3_certify.ipynb"


def test_a_fail_is_a_finished_page_without_a_certificate(saved, tmp_path, monkeypatch):
    """Where assertions are switched off, too; with a key, another tool's statement says FAILED."""
    new_key(tmp_path / "key.pem")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv(signing.KEY_VARIABLE, str(tmp_path / "key.pem"))
    bounds = params.read_yaml(files.root() / "params/certify.yaml") | {"k": MIN_LATENTS}
    (folder := tmp_path / "run").mkdir()
    params.record(folder, "certify", bounds)
    with pytest.raises(ThresholdMissed, match=r"is FAIL \(certify\): \d+ of 24 gates are not met"):
        run.execute("certify", {**bounds, "checkpoint": str(saved)}, folder)
    assert not (folder / signing.FOLDER).exists()
    data = (folder / "verdict.json").read_bytes()
    found = Certificate.model_validate_json(data, strict=True)
    assert (found.verdict, found.profile) == ("FAIL", "certify")
    assert {one.verdict for one in found.controls} == {"FAIL"}
    bundle = json.loads((folder / attest.TEST_RESULT_FILE).read_bytes())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["predicate"]["result"] == "FAILED"
    page = (folder / "3_certify.html").read_text("utf-8")
    assert "FAIL (certify)" in page and "It does not guarantee" in page
    assert "Traceback" not in page and "It guarantees:" not in page
    *_, last = json.loads((folder / "3_certify.ipynb").read_bytes())["cells"]
    [shown] = last["outputs"]
    assert len(shown["traceback"]) == 1 and len(shown["traceback"][0]) < 200


def test_nbval_shows_a_fail_in_red(saved, tmp_path, monkeypatch):
    book = NOTEBOOK.read_text("utf-8").replace("checkpoints/certified", str(saved))
    copy = tmp_path / "copy.ipynb"
    copy.write_text(book.replace("k = 1000000", f"k = {MIN_LATENTS}"))
    monkeypatch.setenv("FLUXTTICE_REPORTS", str(tmp_path / "reports"))
    command = ["-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q", str(copy)]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "\n1 failed, 7 passed" in done.stdout
    assert "ThresholdMissed: the verdict is FAIL" in done.stdout
