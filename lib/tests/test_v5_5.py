"""The v5.5 recipe's own way: trained, measured and judged by its own bounds, in one command."""

import json

from fluxttice_core import files, params
from fluxttice_core.report.run import NOTEBOOKS


def test_two_epochs_go_through_all_three_notebooks_and_are_judged_by_their_profile(
    reports, tmp_path, refused
):
    """With as few latents as there may be, so the bounds' file is one of its own."""
    words = ["report", "--name", "v5_5"]
    for step, file, changes in (
        ("train", "train_v5_5", {"epochs": 2, "batch_size": 2_000, "min_score": 0}),
        ("benchmark", "benchmark", {"k": 400_000}),
        ("certify", "certify_v5_5", {"k": 400_000}),
    ):
        values = params.read_yaml(files.root() / f"params/{file}.yaml")
        (place := tmp_path / f"{step}.yaml").write_text(json.dumps({**values, **changes}))
        words += [f"--{step}", str(place)]
    out, said = refused(*words)
    [run] = reports.glob("*/*-v5_5")
    assert "3_certify missed a bound: the verdict is FAIL (certify_v5_5): " in said
    assert all((run / f"{NOTEBOOKS[step]}.html").is_file() for step in ("train", "certify"))
    assert "argmax coverage, worse VAE: best at epoch" in out
    epochs = json.loads((run / "epochs.json").read_bytes())
    assert [row["selected"] for row in epochs] == [False, True]
    verdict = json.loads((run / "verdict.json").read_bytes())
    assert (verdict["verdict"], verdict["profile"]) == ("FAIL", "certify_v5_5")
    assert {row["verdict"] for row in verdict["controls"]} == {"FAIL"}
