"""The straight recipe: its terms against closed forms, its schedules, its determinism."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from fluxttice_core import files
from fluxttice_core import params
from fluxttice_core.training import loop as selection
from fluxttice_core.training import recipes as train
from fluxttice_core.training import straight as train_straight
from fluxttice_core.model.initialisation import looks_linear
from fluxttice_core.model.network import VAES, DualVAE, prior
from fluxttice_core.model.streams import generator

VALUES = params.read_yaml(files.root() / "params/train.yaml")
QUICK = {"epochs": 1, "batch_size": 5_000, "prior_size": 64, "device": "cpu"}


def recipe(**changes) -> params.TrainStraight:
    return params.check("train", {**VALUES, **changes}, "test")


def test_unevenness_is_the_chi_square_of_the_marginal_by_brute_force():
    """Three latents, all pairs, all sets of one or two trits, with plain loops."""
    logits = torch.randn(3, 9, 3, generator=generator(0, "test"), dtype=torch.float64)
    g = logits.softmax(-1) - 1 / 3
    total = 0.0
    for k, m in itertools.permutations(range(3), 2):
        dots = [float(g[k, t] @ g[m, t]) for t in range(9)]
        total += 3 * sum(dots) + 9 * sum(a * b for a, b in itertools.combinations(dots, 2))
    assert float(train_straight.unevenness(logits)) == pytest.approx(total / 6)


def test_unevenness_is_zero_on_average_for_an_even_decoder_and_positive_for_a_skewed_one():
    """A decoder whose latents pick each class of each trit evenly, and one that never picks +1."""
    rng = generator(1, "test")
    even, skewed = [], []
    for _ in range(20):
        classes = torch.randint(0, 3, (512, 9), generator=rng)
        even.append(float(train_straight.unevenness(50.0 * F.one_hot(classes, 3))))
        skewed.append(float(train_straight.unevenness(50.0 * F.one_hot(classes.clamp(max=1), 3))))
    assert abs(sum(even) / 20) < 0.1
    assert sum(skewed) / 20 > 3  # P = 1/3, 2/3, 0: 3·Σ(p - 1/3)² = 2/3 a trit, 6 in order one


def test_crookedness_is_zero_exactly_for_affine_logits():
    weight = torch.randn(27, 16, generator=generator(2, "test"))
    z = prior(1_000, generator(3, "test"))
    middle = (z[:500] + z[:500].roll(1, 0)) / math.sqrt(2)

    def affine(x: torch.Tensor) -> torch.Tensor:
        return (x @ weight.T + 5).view(-1, 9, 3)

    assert train_straight.crookedness(affine(z), affine(middle)) < 1e-10
    assert train_straight.crookedness(affine(z).relu(), affine(middle).relu()) > 0.01


def test_decoders_that_look_linear_are_linear():
    model = DualVAE.fresh(0)
    looks_linear(model, 0)
    x, y = prior(64, generator(4, "test")), prior(64, generator(5, "test"))
    for vae in VAES:
        f = model.decoder(vae)
        assert torch.allclose(f(x + y), f(x) + f(y), atol=1e-4)
        assert f(x).std() > 0.1


def test_the_schedules():
    p = recipe()
    assert train_straight.learning_rate(p, 0.0) == 0
    assert train_straight.learning_rate(p, 1.0) == pytest.approx(0, abs=1e-12)
    assert [train_straight.beta(p, t) for t in (0, 0.2, 0.7, 1)] == pytest.approx(
        [0.5, 0.5, 5e-3, 5e-3]
    )


def test_the_scale_of_the_logits_is_of_the_network_that_is_kept_and_moves_no_training():
    (plain,) = train.fit(recipe(**QUICK, logit_scale=1))
    (scaled,) = train.fit(recipe(**QUICK, logit_scale=8))
    before, after = plain.model.state_dict(), scaled.model.state_dict()
    last = ("decoder_A.decoder.4.weight", "decoder_A.decoder.4.bias",
            "decoder_B.fc_out.weight", "decoder_B.fc_out.bias")  # fmt: skip
    assert all(torch.equal(after[key], (8 if key in last else 1) * before[key]) for key in before)


@pytest.mark.parametrize("name", ["straight", "v5_5"])
def test_the_same_parameters_give_the_same_bytes_and_another_seed_does_not(tmp_path, name):
    """Also: how much is measured (coverage_n) does not change what is trained (straight)."""
    hashes = []
    for run, changes in enumerate([{}, {}, {"seed": 7}]):
        file = "train" if name == "straight" else "train_v5_5"
        values = params.read_yaml(files.root() / f"params/{file}.yaml")
        quick = {k: v for k, v in QUICK.items() if k in values}
        p = params.check("train", {**values, **quick, **changes}, "test")
        (tmp_path / str(run)).mkdir()
        selection.follow(train.fit(p), p, tmp_path / str(run), lambda row: None)
        weights = tmp_path / str(run) / "checkpoint" / "model.safetensors"
        hashes.append(files.sha256(weights.read_bytes()))
    assert hashes[0] == hashes[1] != hashes[2]


def test_measuring_more_trains_the_same():
    states = []
    for n in (1_000, 50_000):
        (epoch,) = train.fit(recipe(**QUICK, coverage_n=n))
        states.append(epoch.model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_vae_a_is_trained_as_if_b_were_not_there(monkeypatch):
    (both,) = train.fit(recipe(**QUICK))
    monkeypatch.setattr(train_straight, "VAES", ("A",))
    (alone,) = train.fit(recipe(**QUICK))
    states = alone.model.state_dict(), both.model.state_dict()
    same = {key: torch.equal(states[0][key], states[1][key]) for key in states[0]}
    assert all(same[key] for key in same if "_A" in key)
    assert not same["decoder_B.fc_in.weight"]


def test_statenet_keeps_its_fresh_weights():
    (epoch,) = train.fit(recipe(**QUICK))
    fresh = DualVAE.fresh(VALUES["seed"]).state_net.state_dict()
    assert all(torch.equal(fresh[k], v) for k, v in epoch.model.state_net.state_dict().items())


def test_a_loss_that_is_not_finite_ends_training_and_keeps_the_last_good_epoch(tmp_path):
    """A learning rate that explodes in the second epoch, by way of a poisoned batch."""
    p = recipe(**{**QUICK, "epochs": 3})

    def poisoned():
        for epoch in train.fit(p):
            yield epoch
            if epoch.number == 0:
                raise selection.TrainingError("The loss is no longer finite in epoch 1: nan, nan.")

    with pytest.raises(selection.TrainingError, match="no longer finite"):
        selection.follow(poisoned(), p, tmp_path, lambda row: None)
    assert (tmp_path / "checkpoint" / "model.safetensors").is_file()
    with pytest.raises(selection.TrainingError, match=r"no longer finite in epoch 0"):
        list(
            train.fit(
                recipe(
                    **{**QUICK, "straightness_weight": 1e38, "uniformity_weight": 1e38, "lr": 1e30}
                )
            )
        )


def test_cuda_where_there_is_none_is_refused_in_one_sentence():
    if torch.cuda.is_available():
        assert selection.pick_device("cuda").type == "cuda"
    else:
        with pytest.raises(params.InputError, match="no GPU"):
            next(train.fit(recipe(device="cuda")))
    assert selection.pick_device("cpu").type == "cpu"
