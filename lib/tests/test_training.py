"""The rule that selects, and what it is judged by."""

import itertools

import pytest
import torch
from planted import no_number

from fluxttice_core import files, params
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.errors import InputError
from fluxttice_core.metrics.rate import rate
from fluxttice_core.metrics.reconstruction import posterior, samples
from fluxttice_core.model.network import VAES, DualVAE
from fluxttice_core.model.operations import all_operations, split, split_record
from fluxttice_core.training import learning_curve, loop, recipes
from fluxttice_core.training.loop import FACTORS, RULE, Epoch, follow, honest_measures, score

VALUES = {
    name: params.read_yaml(files.root() / "params" / f"{file}.yaml")
    for name, file in (("turned", "train"), ("v5_5", "train_v5_5"))
}


def parameters(recipe="turned", **changes):
    values = {**VALUES[recipe], **changes}
    return params.check(recipes.parameters(values, "test"), values, "test")


# --- The rule ---


def epochs(scores):
    """One model, changed in place as training does: its mark is the epoch's number. A score that is
    an error is raised."""
    model = DualVAE.fresh(0)
    for number, value in enumerate(scores):
        if isinstance(value, BaseException):
            raise value
        model.grad_norm_A_ema.fill_(number)
        found = {f"{factor}_{vae}": 1.0 for factor in FACTORS for vae in VAES}
        yield Epoch(number, {**found, "coverage_B": value, "loss": -number}, model)
        model.grad_norm_A_ema.fill_(torch.nan)  # the next is under way


def marks(folder):
    """The epoch that a written checkpoint claims, and the one that its weights are of."""
    loaded = checkpoint.load(folder)
    return loaded.epoch, int(loaded.model.grad_norm_A_ema)


@pytest.fixture
def run(tmp_path):
    """Follows planted scores; returns the rows."""

    def go(scores, **changes):
        p = parameters(**{"keep_every": 100, "patience": 100, "epochs": 100, **changes})
        return follow(epochs(scores), p, tmp_path, lambda row: None)

    return go


@pytest.mark.parametrize("a, b", [((1, 0.9, 1), (0.5, 1, 1)), ((1, 1, 0.5), (1, 0.6, 1))])
def test_the_score_is_that_of_the_worse_vae(a, b):
    """Each factor counts, and what one VAE does well makes up for nothing in the other."""
    names = [f"{factor}_{vae}" for vae in VAES for factor in FACTORS]
    assert score(dict(zip(names, [*a, *b], strict=True))) == pytest.approx(0.5)


STARTS = [0.5] + [0.1] * 5


@pytest.mark.parametrize(
    "scores, changes, seen, best, kept",
    [
        ([0.0, 0.0], {}, 2, 1, [0]), ([0.3, 0.1, 0.4, 0.4, 0.2], {}, 5, 3, [0]),
        ([0.5, 0.4, 0.6], {"patience": 1}, 2, 0, [0, 1]),
        ([0.1, 0.2, 0.1, 0.3, 0.1, 0.1, 0.9], {"patience": 2}, 6, 3, [0, 5]),
        ([0.5, 0.5, 0.4, 0.4, 0.9], {"patience": 2}, 4, 1, [0, 3]),
        (itertools.chain([0.5], itertools.repeat(0.1)), {"patience": 3}, 4, 0, [0, 3]),
        (STARTS, {"keep_every": 2}, 6, 0, [0, 2, 4]),
        (STARTS, {"keep_every": 4, "epochs": 6}, 6, 0, [0, 4, 5]),
        (STARTS, {"keep_every": 4, "epochs": 5}, 6, 0, [0, 4, 5]),  # 5 is the finished network
    ],
)  # fmt: skip
def test_the_last_of_the_best_is_selected_patience_ends_and_weights_are_kept(
    run, tmp_path, scores, changes, seen, best, kept
):
    """What comes after the end is never drawn; the last epoch is kept, whatever made it the last.
    Weights are of the epoch that is claimed."""
    rows = run(scores, **changes)
    assert [row["selected"] for row in rows] == [number == best for number in range(seen)]
    assert not isinstance(scores, list) or [row["score"] for row in rows] == scores[:seen]
    assert marks(tmp_path / "checkpoint") == (best, best)
    found = {folder.name: marks(folder) for folder in (tmp_path / "epochs").iterdir()}
    assert found == {f"epoch-{number:03d}": (number, number) for number in kept}


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("scores, best", [([0.1], 0), ([0.1, 0.5, 0.4], 1)])
def test_whatever_ends_training_the_best_so_far_is_written(run, tmp_path, error, scores, best):
    """Also between an epoch's row and the next: weights and claim are of one epoch."""
    with pytest.raises(type(error)):
        run([*scores, error])
    assert marks(tmp_path / "checkpoint") == (best, best)


def test_without_an_epoch_nothing_is_written_and_nothing_is_written_over(run, tmp_path):
    with pytest.raises(RuntimeError):
        run([RuntimeError("at once")])
    assert list(tmp_path.iterdir()) == []
    rows = run([0.1, 0.5, 0.2], seed=5)
    with pytest.raises(InputError, match="never written over"):
        run([0.9, 0.2])
    assert marks(tmp_path / "checkpoint") == (1, 1)
    manifest = checkpoint.load(tmp_path / "checkpoint").manifest
    assert rows[1].pop("selected")
    assert manifest["selection"] == {"rule": RULE, "epochs_run": 3, "measures": rows[1]}
    assert manifest["config"]["prior_size"] == VALUES["turned"]["prior_size"]
    assert manifest["seeds"] == {"seed": 5, "split_seed": 42}
    assert manifest["split"] == split_record(42)


# --- The measures ---


def test_it_measures_one_vae_alone_and_exact_match_of_validation(
    perfect_model, thrifty, monkeypatch
):
    """Encoder A loses trit 0, so it is right where that trit is 0 and generates as before.
    B is no number."""
    monkeypatch.setattr(loop, "LATENTS", 40_000)
    perfect_model.encoder_A.fc_mu.weight.data[0] = 0
    no_number(perfect_model.encoder_B, perfect_model.decoder_B)
    p = parameters(split_seed=7, coverage_n=5_000)
    truth = float((all_operations()[split(7).val][:, 0] == 0).double().mean())
    found, other, again = (honest_measures(perfect_model, "A", p, n) for n in (0, 1, 0))
    assert found["val_exact_A"] == pytest.approx(truth)
    q = posterior(perfect_model, "A")
    sampled = samples(perfect_model, "A", q, p.seed).hits[:, split(7).val]
    assert found["val_exact_sampled_A"] == pytest.approx(float(sampled.double().mean()))
    assert (found["coverage_A"], found["argmax_entropy_A"]) == pytest.approx((1, 1), abs=0.01)
    assert found["rate_A"] == rate(q).value
    assert found == again and found["coverage_A"] != other["coverage_A"]


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loop.pick_device("auto").type == loop.pick_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="no GPU"):
        loop.pick_device("cuda")


def test_a_point_of_the_learning_curve_trains_on_few_and_is_judged_on_test(
    perfect_model, monkeypatch
):
    """Ten operations fit a linear read-out of the nine trits, three do not."""
    seen = []

    def planted(vae, p, data):
        seen.append((len(data), len(data.unique(dim=0))))
        yield DualVAE.fresh(0), 9.0
        yield perfect_model, 1.0

    monkeypatch.setattr(learning_curve, "train", planted)
    ten, three = (learning_curve.point(n, "A", seed=1) for n in (10, 3))
    assert (ten["trained"], ten["read_out"], three["read_out"] < 0.1) == (1, 1, True)
    assert seen == [(15_746, 10), (15_746, 3)]
