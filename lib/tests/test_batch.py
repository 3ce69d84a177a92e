"""A grid of notebooks: every combination once, failures at the end, nothing done twice."""

import pytest

from fluxttice_core import files, params
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.report import batch

SMALL = {"epochs": 1, "batch_size": 4096, "prior_size": 512, "finetune_steps": 10}


@pytest.fixture
def plan(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "plan.yaml").write_text(text)
        return str(tmp_path / "plan.yaml")

    return write


def test_a_failure_stops_no_other_job_and_what_has_its_page_is_not_run_again(
    tmp_path, reports, plan, refused
):
    """Real trainings on this machine's cores: one reaches its score, one misses it, one crashes."""
    values = params.read_yaml(files.root() / "params/train.yaml") | SMALL
    params.record(tmp_path, "small", values)
    (tmp_path / "junk.pt").write_text("junk")
    path = plan(
        f"a: {{file: {tmp_path}/small.params.yaml, min_score: [0, 1]}}\n"
        f"b.c: {{notebook: 3_certify, checkpoint: {tmp_path}/junk.pt}}\n"
    )
    out, said = refused("batch", path)
    assert said.startswith("fluxttice: 2 of 3 jobs failed: ") and "missed a bound: score" in said
    assert "3_certify stopped: InputError: " in said and out.startswith("3 of 3 jobs to do")
    assert len([*reports.glob("batch-plan/a-*/1_train.html")]) == 2
    assert len([*reports.glob("batch-plan/b.c-*/3_certify.unfinished.html")]) == 1
    assert refused("batch", path).out.startswith("1 of 3 jobs to do")


def test_a_grid_is_every_combination_once_and_opens_paths_as_they_are(tmp_path, untrained, plan):
    """The two checkpoints end in the same names."""
    places = [
        checkpoints.save(tmp_path / run / "checkpoints/best", untrained, 7, {}) for run in "ab"
    ]
    text = f"[{places[0]}, {places[1]}], k: [400000, 800000, 800000]"
    found = batch.jobs(plan(f"m: {{notebook: 2_benchmark, checkpoint: {text}}}")).values()
    points = [(p["checkpoint"], p["k"]) for _, p in found]
    assert points == [(str(place), k) for place in places for k in (400_000, 800_000)]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "must be a plan"), ("[1]", "must be a plan"), ("a: 1", "a must be a flat mapping"),
        ("a: {seed: {b: 1}}", "a must be a flat mapping"), ("1: {}", "must be a plan"),
        ("a: {seeds: [1]}", "a: unknown parameter seeds; did you mean seed?"),
        ("a/b: {}", "name is 'a/b', but must be"), ("a: {seed: [1, x]}", "a: seed "),
        ("a: {seed: []}", "empty lists make no job"),
        ("a: {notebook: 6_more}", "notebook is '6_more', but must be one of 1_train, 2_"),
        ("a: {notebook: [1_train]}", "notebook is ['1_train']"),
        ("a: {file: [1]}", "No parameter file at"), ("a: {run_dir: x}", "run_dir and empty"),
        ("a: {notebook: 2_benchmark, checkpoint: [x, y]}", "No checkpoint at "),
        ("a: {notebook: 2_benchmark, checkpoint: }", "checkpoint is empty"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_one_sentence_and_nothing_starts(reports, plan, refused, text, words):
    assert words in refused("batch", plan("good: {}\n" * (text[:1] == "a") + text)).err
    assert not reports.exists()
