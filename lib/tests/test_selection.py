import itertools

import pytest
import torch
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.training import loop as selection
from fluxttice_core.metrics.coverage import coverage
from fluxttice_core.errors import InputError
from fluxttice_core.model.network import VAES, DualVAE
from fluxttice_core.model.operations import all_operations, split
from fluxttice_core.params import check
from fluxttice_core.training.loop import (
    RULE,
    Epoch,
    TrainingError,
    follow,
    honest_measures,
    pick_device,
    score,
)


def measures(worse, better=1.0):
    """Of an epoch whose worse VAE, here B, has the score `worse`."""
    return {
        **{"val_exact_A": better, "coverage_A": 1.0, "information_A": 1.0},
        **{"val_exact_B": worse, "coverage_B": 1.0, "information_B": 1.0},
        "loss": 1.0,
    }


def epochs(scores, error=None):
    """One model, changed in place as training does: its mark is the epoch's number."""
    model = DualVAE.fresh(0)
    for number, value in enumerate(scores):
        model.grad_norm_A_ema.fill_(number)
        yield Epoch(number, measures(value), model)
    model.grad_norm_A_ema.fill_(torch.nan)  # the epoch that is under way when it ends
    if error:
        raise error


@pytest.fixture
def run(recipe, tmp_path):
    """Follows planted scores; returns the rows."""

    def go(scores, error=None, progress=lambda row: None, **changes):
        given = {"keep_every": 100, "patience": 100, **changes}
        p = check("train", {**recipe, **given}, "recipe")
        return follow(epochs(scores, error), p, tmp_path, progress)

    return go


@pytest.fixture
def selected(tmp_path):
    """Epoch that the written checkpoint claims, and the one that its weights are of."""

    def read():
        loaded = checkpoint.load(tmp_path / "checkpoint")
        return loaded.epoch, int(loaded.model.grad_norm_A_ema)

    return read


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ((1, 1, 1), (1, 1, 1), 1),
        ((1, 0.9, 1), (0.5, 1, 1), 0.5),
        ((1, 1, 0.2), (1, 0.3, 1), 0.2),
        ((0.5, 0.5, 0.5), (1, 1, 0.2), 0.125),
        ((0, 1, 1), (1, 1, 1), 0),
    ],
)
def test_the_score_is_that_of_the_worse_vae(a, b, expected):
    """Each factor counts, and what one VAE does well makes up for nothing in the other."""
    names = [f"{factor}_{v}" for v in VAES for factor in ("val_exact", "coverage", "information")]
    assert score(dict(zip(names, [*a, *b], strict=True))) == pytest.approx(expected)


@pytest.mark.parametrize(
    "scores, best",
    [
        ([0.1, 0.5, 0.3], 1),
        ([0.1, 0.5, 0.5, 0.5], 1),
        ([0.0, 0.0], 0),
        ([0.9], 0),
        ([0.1, 0.2, 0.3], 2),
        ([0.3, 0.1, 0.4, 0.4, 0.2], 2),
    ],
)
def test_the_first_of_the_best_epochs_is_selected_and_written(run, selected, scores, best):
    rows = run(scores)
    assert [row["selected"] for row in rows] == [number == best for number in range(len(scores))]
    assert [row["score"] for row in rows] == scores
    assert selected() == (best, best)


def test_the_loss_decides_nothing(run, selected):
    """v5.5 selected by a loss whose weights change by the epoch."""
    rows = run([0.2, 0.4, 0.3])
    assert {row["loss"] for row in rows} == {1.0} and selected() == (1, 1)


@pytest.mark.parametrize(
    "patience, scores, seen",
    [
        (1, [0.5, 0.4, 0.6], 2),
        (2, [0.5, 0.4, 0.4, 0.9], 3),
        (2, [0.1, 0.2, 0.2, 0.2, 0.9], 4),
        (2, [0.1, 0.2, 0.1, 0.3, 0.1, 0.1, 0.9], 6),
        (9, [0.5, 0.4, 0.3], 3),
    ],
)
def test_patience_ends_training(run, patience, scores, seen):
    """An equal score is no improvement; what comes after the end is never drawn."""
    assert len(run(scores, patience=patience)) == seen


def test_endless_training_is_ended_by_patience(recipe, tmp_path):
    p = check("train", {**recipe, "patience": 3, "keep_every": 100}, "recipe")
    scores = itertools.chain([0.5], itertools.repeat(0.1))
    assert len(follow(epochs(scores), p, tmp_path, lambda row: None)) == 4


@pytest.mark.parametrize(
    "every, kept", [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3]), (9, [0])]
)
def test_every_so_many_epochs_the_weights_are_kept(run, tmp_path, every, kept):
    run([0.1] * 5, keep_every=every)
    folders = sorted((tmp_path / "epochs").iterdir())
    assert [folder.name for folder in folders] == [f"epoch-{number:03d}" for number in kept]
    loaded = [checkpoint.load(folder) for folder in folders]
    assert [(c.epoch, int(c.model.grad_norm_A_ema)) for c in loaded] == [(n, n) for n in kept]


@pytest.mark.parametrize("end", [{"epochs": 6}, {"patience": 5}])
def test_the_last_epochs_weights_are_kept_whatever_made_it_the_last(run, tmp_path, end):
    run([0.5] + [0.1] * 5, keep_every=4, **end)
    assert sorted(path.name[-1] for path in (tmp_path / "epochs").iterdir()) == ["0", "4", "5"]


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), KeyboardInterrupt(), TrainingError("not finite.")], ids=repr
)
def test_whatever_ends_training_the_best_so_far_is_written(run, selected, error):
    with pytest.raises(type(error)):
        run([0.1, 0.7, 0.3], error)
    assert selected() == (1, 1)


@pytest.mark.parametrize("interrupted", range(4))
def test_weights_and_manifest_are_of_one_epoch_when_interrupted_while_reporting(
    run, selected, tmp_path, interrupted
):
    """Ctrl-C may come between an epoch's row and the copy of its weights, also of a better one."""

    def progress(row):
        if row["epoch"] == interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([0.1, 0.5, 0.4, 0.9, 0.2], progress=progress)
    if (tmp_path / "checkpoint").exists():
        claimed, real = selected()
        assert claimed == real
    else:
        assert interrupted == 0


def test_without_an_epoch_nothing_is_written(run, tmp_path):
    with pytest.raises(RuntimeError):
        run([], RuntimeError("at once"))
    assert run([]) == [] and list(tmp_path.iterdir()) == []


def test_an_earlier_checkpoint_is_not_written_over(run, selected):
    run([0.1, 0.5])
    with pytest.raises(InputError, match="never written over"):
        run([0.9, 0.2])
    assert selected() == (1, 1)


def test_the_manifest_says_how_it_was_selected(run, recipe, tmp_path):
    seen = []
    rows = run([0.1, 0.5, 0.2], progress=seen.append, seed=5)
    manifest = checkpoint.load(tmp_path / "checkpoint").manifest
    assert manifest["selection"]["rule"] == RULE
    assert manifest["selection"]["epochs_run"] == 3
    assert manifest["selection"]["measures"]["score"] == 0.5
    assert manifest["config"]["lr_values"] == recipe["lr_values"]
    assert manifest["seeds"] == {"seed": 5, "split_seed": 42}
    assert manifest["split"] == checkpoint.split_record(42)
    assert [{**row, "selected": None} for row in seen] == [
        {**row, "selected": None} for row in rows
    ]


@pytest.fixture
def few_latents(monkeypatch):
    """Measures come faster, and noisier: enough where their exact value is not the point."""
    monkeypatch.setattr(selection, "LATENTS", 4_000)


def test_honest_measures_of_a_perfect_and_of_an_untrained_model(perfect_model, untrained):
    good, bad = (honest_measures(m, 42, 5_000, seed=1, epoch=0) for m in (perfect_model, untrained))
    for vae in VAES:
        assert good[f"val_exact_{vae}"] == 1
        assert good[f"coverage_{vae}"] == pytest.approx(1, abs=0.01)
        assert good[f"information_{vae}"] == pytest.approx(1, abs=0.01)
        assert bad[f"val_exact_{vae}"] < 0.005
        assert bad[f"coverage_{vae}"] < 0.5
        assert bad[f"information_{vae}"] < 0.02
    assert score(good) > 0.97 and score(bad) < 0.0001


@pytest.mark.parametrize("split_seed", [42, 7])
def test_exact_match_is_that_of_the_validation_split_alone(perfect_model, split_seed, few_latents):
    """Encoder A loses trit 0, so it is right exactly where that trit is 0; B is left whole."""
    perfect_model.encoder_A.fc_mu.weight.data[0] = 0
    found = honest_measures(perfect_model, split_seed, 100, seed=1, epoch=0)
    truth = (all_operations()[split(split_seed).val][:, 0] == 0).double().mean()
    assert found["val_exact_A"] == pytest.approx(float(truth))
    assert found["val_exact_B"] == 1


@pytest.mark.parametrize("vae", VAES)
def test_coverage_is_the_share_of_the_ceiling_that_drawing_finds(untrained, vae, few_latents):
    """Computed once over a few thousand latents, and drawn forty times over a thousand."""
    found = honest_measures(untrained, 42, 1_000, seed=3, epoch=4)[f"coverage_{vae}"]
    [row] = coverage(untrained.decoder(vae), [1_000], how=["argmax"], trials=40, seed=1)
    assert found == pytest.approx(row["of_ceiling"], rel=0.05)


def test_each_epoch_draws_anew(untrained, few_latents):
    draws = [honest_measures(untrained, 42, 2_000, 1, n)["coverage_A"] for n in (0, 1, 2, 0)]
    assert len(set(draws)) == 3 and draws[0] == draws[3]


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda"])
def test_the_device_is_the_one_asked_for_or_refused(name):
    gpu = torch.cuda.is_available()
    if name == "cuda" and not gpu:
        with pytest.raises(InputError, match="no GPU"):
            pick_device(name)
    else:
        assert pick_device(name).type == ("cuda" if gpu and name != "cpu" else "cpu")
