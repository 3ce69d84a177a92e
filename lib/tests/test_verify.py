import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fluxttice_core.certification import certificate
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core import cli
from fluxttice_core.metrics import gates
from fluxttice_core.metrics import marginal
from fluxttice_core import params
from fluxttice_core.certification import signing
from fluxttice_core.certification import verify
from fluxttice_core.errors import InputError
from fluxttice_core.model.network import DualVAE

ROOT = Path(__file__).parents[2]


def certify_params():
    values = params.read_yaml(ROOT / "params" / "certify.yaml")
    values.update(run_dir="", checkpoint="x", k=marginal.FEWEST)
    return params.check("certify", values, "test")


def rows(verdict="PASS", value=0.9, n=2):
    row = {"bound": 0.5, "value": value, "ci95": [0.8, 0.95], "verdict": verdict}
    return [{"gate": f"gate {i}", "vae": "A", **row} for i in range(n)]


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    signing.keygen(path)
    return path


@pytest.fixture
def trusted(key):
    return signing.fingerprint(signing.public_key(key))


@pytest.fixture
def issue(tmp_path, saved, key):
    """A signed folder whose certificate states the given rows, with further changes."""

    def issue(found, name="certified", **changes):
        loaded = checkpoint.load(saved)
        stated = certificate.document(loaded, certify_params(), found, [])
        certificate.issue(tmp_path / name, loaded, {**stated, **changes}, key)
        return tmp_path / name

    return issue


@pytest.fixture
def weights_give(monkeypatch):
    """Measuring again finds these rows, without the minute it takes."""

    def weights_give(found):
        monkeypatch.setattr(gates, "every", lambda model, p, report: found)

    return weights_give


def check(folder, trusted, quick=False):
    return verify.verify(folder, trusted, quick, lambda step: None)


# --- The whole way ---


def test_a_true_certificate_is_measured_again_and_found_equal(
    tmp_path, perfect_model, key, trusted, capsys
):
    """The one test that measures: about 25 s. A lie about one figure in forty is found."""
    few = {"min_coverage_195000_of_ceiling": 0.999}  # few latents give a wide interval
    p = certify_params().model_copy(update=few)
    loaded = checkpoint.load(checkpoint.save(tmp_path / "perfect", perfect_model, 3, {}))
    found = gates.every(loaded.model, p)
    stated = certificate.document(loaded, p, found, [])
    assert stated["verdict"] == "PASS", [row for row in found if row["verdict"] != "PASS"]
    certificate.issue(tmp_path / "certified", loaded, stated, key)
    public = str(tmp_path / "certified" / signing.PUBLIC_KEY)
    assert cli.main(["verify", str(tmp_path / "certified"), "--public-key", public]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("PASS") and sum("  equal  " in line for line in lines) == len(found)


def test_what_is_verified_is_what_is_returned(issue, weights_give, trusted, saved):
    weights_give(rows())
    found = check(issue(rows()), trusted)
    assert found.problem == "" and found.checkpoint.sha256 == checkpoint.load(saved).sha256
    assert [row["agreement"] for row in found.rows] == ["equal", "equal"]


def test_quick_measures_nothing(issue, monkeypatch, trusted):
    monkeypatch.setattr(gates, "every", None)
    found = check(issue(rows()), trusted, quick=True)
    assert found.problem == "" and {row["agreement"] for row in found.rows} == {"not measured"}


def test_the_weights_may_change_on_disk_after_they_were_read(issue, trusted, monkeypatch):
    """What is measured are the bytes that were verified, whatever lies there by then."""
    folder, measured = issue(rows()), []

    def every(model, p, report):
        (folder / checkpoint.WEIGHTS).write_bytes(b"something else")
        measured.append(model)
        return rows()

    monkeypatch.setattr(gates, "every", every)
    found = check(folder, trusted)
    assert found.problem == "" and measured == [found.checkpoint.model]


def test_measuring_uses_the_recorded_seeds_and_threads(issue, trusted, monkeypatch):
    import torch

    here, seen = certificate.environment(), []

    def every(model, p, report):
        seen.append((p.seed, p.k, torch.get_num_threads()))
        return rows()

    monkeypatch.setattr(gates, "every", every)
    before = torch.get_num_threads()
    check(issue(rows(), environment={**here, "threads": before + 1}), trusted)
    assert seen == [(certify_params().seed, marginal.FEWEST, before + 1)]
    assert torch.get_num_threads() == before


# --- Figures that differ ---


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    "value, ci95, elsewhere",
    [
        (0.9, [0.8, 0.95], "equal"),
        (0.9 + 1e-15, [0.8, 0.95], "in interval"),
        (0.9, [0.8, 0.95 + 1e-15], "in interval"),
        (0.81, [0.7, 0.9], "in interval"),
        (0.79, [0.7, 0.9], "DIFFERS"),
        (0.96, [0.9, 0.99], "DIFFERS"),
        (None, [None, None], "DIFFERS"),
    ],
)
def test_equal_here_and_within_the_interval_elsewhere(value, ci95, elsewhere, same):
    [row] = rows(n=1)
    again = {**row, "value": value, "ci95": ci95}
    expected = elsewhere if elsewhere == "equal" or not same else "DIFFERS"
    assert verify.agreement(row, again, same) == expected


def test_another_verdict_within_the_interval_differs():
    [row], [again] = rows(n=1), rows("ABSTAIN", n=1)
    assert verify.agreement(row, again, same=False) == "DIFFERS"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_one_figure_that_the_weights_do_not_give_is_enough(
    issue, weights_give, trusted, capsys, elsewhere
):
    weights_give([*rows(n=3), {**rows(n=4)[3], "value": 0.7}])
    here = certificate.environment()
    folder = issue(rows(n=4), environment={**here, "torch": "0.1"} if elsewhere else here)
    problem = check(folder, trusted).problem
    assert "1 of 4 figures" in problem and "gate 3 of VAE-A" in problem
    public = str(folder / signing.PUBLIC_KEY)
    assert cli.main(["verify", str(folder), "--public-key", public]) == 1
    out, err = capsys.readouterr()
    assert "DIFFERS" in out and "PASS:" not in out and "is refused" in err


def test_other_gates_than_this_code_measures_are_refused(issue, weights_give, trusted):
    for other in (rows(n=1), rows(n=3), [{**row, "bound": 0.4} for row in rows()]):
        weights_give(other)
        with pytest.raises(InputError, match="its gates are not those of this code"):
            check(issue(rows(), f"c{len(other)}{other[0]['bound']}"), trusted)


# --- What a certificate must be ---


@pytest.mark.parametrize("verdict", ["FAIL", "ABSTAIN"])
def test_a_genuine_certificate_that_does_not_pass_is_no_pass(
    issue, weights_give, trusted, capsys, verdict
):
    weights_give(rows(verdict))
    folder = issue(rows(verdict))
    assert verdict in check(folder, trusted).problem
    public = str(folder / signing.PUBLIC_KEY)
    assert cli.main(["verify", str(folder), "--public-key", public, "--quick"]) == 1
    assert f"genuine and says {verdict}" in capsys.readouterr().err


def test_a_verdict_that_its_gates_do_not_give_is_refused(issue, trusted):
    mixed = [*rows(n=1), *rows("ABSTAIN", n=2)[1:]]
    with pytest.raises(InputError, match="its gates say ABSTAIN"):
        check(issue(mixed, verdict="PASS"), trusted)


def test_a_certificate_about_other_files_is_refused(tmp_path, issue, trusted, key):
    """Signed with the right key, so that only its subject tells."""
    folder = issue(rows())
    path = folder / "certificate.json"
    stated = json.loads(path.read_text())
    stated["subject"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(stated))
    signing.sign(folder, key)
    with pytest.raises(InputError, match="about other files"):
        check(folder, trusted)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "{", '{"verdict": NaN}', '{"a": 1, "a": 1}', "[" * 100_000]
)
def test_a_signed_file_that_is_no_certificate_is_refused(issue, trusted, key, text):
    folder = issue(rows())
    (folder / "certificate.json").write_text(text)
    signing.sign(folder, key)
    with pytest.raises(InputError) as caught:
        check(folder, trusted)
    assert "\n" not in str(caught.value)


# --- Trust ---


def test_the_folders_own_key_is_not_trusted_for_lying_there(issue, capsys):
    assert cli.main(["verify", str(issue(rows())), "--quick"]) == 1
    assert f"but {signing.FINGERPRINT} is trusted" in capsys.readouterr().err


def test_an_unsigned_certificate_is_refused(tmp_path, saved, trusted):
    loaded = checkpoint.load(saved)
    stated = certificate.document(loaded, certify_params(), rows(), [])
    certificate.issue(tmp_path / "unsigned", loaded, stated)
    with pytest.raises(InputError, match="unsigned"):
        check(tmp_path / "unsigned", trusted)


def test_the_name_of_the_folder_is_no_part_of_what_is_signed(issue, tmp_path, trusted):
    folder = issue(rows())
    folder.rename(tmp_path / "another name")
    assert check(tmp_path / "another name", trusted, quick=True).problem == ""
    (tmp_path / "link").symlink_to("another name")
    assert check(tmp_path / "link", trusted, quick=True).problem == ""


def test_the_standard_tool_accepts_what_we_sign_and_refuses_what_we_refuse(issue, tmp_path):
    folder = issue(rows())
    flipped = shutil.copytree(folder, tmp_path / "flipped")
    data = bytearray((flipped / "manifest.json").read_bytes())
    data[100] ^= 1
    (flipped / "manifest.json").write_bytes(data)
    for place, accepted in ((folder, True), (flipped, False)):
        command = ["-m", "model_signing", "verify", "key", place, "--signature"]
        command += [place / signing.SIGNATURE, "--public_key", place / signing.PUBLIC_KEY]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert (done.returncode == 0) is accepted, done.stdout + done.stderr


@pytest.mark.parametrize("path", ["", "missing", "a\0b", "x" * 400, __file__])
def test_what_is_no_folder_is_named(path, trusted, capsys):
    assert cli.main(["verify", path]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_checkpoint_without_a_certificate_is_refused(saved, trusted):
    with pytest.raises(InputError, match="has no certificate"):
        check(saved, trusted)


def test_a_key_file_that_is_none_is_refused(issue, tmp_path, capsys):
    folder = issue(rows())
    for path in (tmp_path / "missing", tmp_path):
        assert cli.main(["verify", str(folder), "--public-key", str(path)]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_verifying_writes_nothing_into_the_folder(issue, trusted):
    folder = issue(rows())
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    check(folder, trusted, quick=True)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(os.listdir(folder)) == 5


def test_the_table_shows_what_was_refused():
    [row] = rows(n=1)
    lines = verify.table([verify._row({**row, "value": None, "ci95": [None, None]})]).splitlines()
    assert len(lines) == 2 and "refused" in lines[1]


# --- What this project ships ---


def test_the_shipped_checkpoint_verifies():
    assert check(ROOT / "checkpoints" / "certified", signing.FINGERPRINT, quick=True).problem == ""


def test_the_fingerprint_stands_in_the_readme():
    assert signing.FINGERPRINT in (ROOT / "README.md").read_text(encoding="utf-8")


def test_an_untrained_network_fails_every_gate():
    """What a certificate rests on: these gates tell noise. (The controls say so for each run.)"""
    measured = gates.every(DualVAE.fresh(5), certify_params(), str)
    assert {row["verdict"] for row in measured} == {"FAIL"}


def test_a_public_key_that_is_not_there_is_called_so(tmp_path, capsys):
    missing = str(tmp_path / "nope.pub")
    assert cli.main(["verify", str(tmp_path), "--public-key", missing]) == 1
    assert capsys.readouterr().err == f"fluxttice: No public key at {missing}.\n"
