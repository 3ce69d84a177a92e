import math

import pytest
import torch
from fluxttice_core.model.network import VAES, D, Posterior
from fluxttice_core.model.operations import M, T, all_operations, split
from fluxttice_core.metrics.reconstruction import (
    by_split,
    drawn,
    posterior,
    right_trits,
    robustness,
    share,
)
from fluxttice_core.model.streams import generator
from scipy import stats


def matches(model, vae):
    """(M,) bool: which operations their posterior mean gives back whole."""
    return right_trits(model, vae, posterior(model, vae).mu).all(1)


@pytest.mark.parametrize("vae", VAES)
def test_a_perfect_model_returns_every_operation(perfect_model, vae):
    assert matches(perfect_model, vae).all()
    right = right_trits(perfect_model, vae, posterior(perfect_model, vae).mu)
    rows = by_split(right, split())
    assert {name: row["n"] for name, row in rows.items()} == {
        "train": 15_746,
        "val": 1_968,
        "test": 1_969,
    }
    for row in rows.values():
        assert row["share"] == row["per_trit"] == row["ci95"][1] == 1
        assert row["ci95"][0] == pytest.approx(0.025 ** (1 / row["n"]))


@pytest.mark.parametrize("vae", VAES)
def test_an_untrained_model_returns_next_to_nothing(untrained, vae):
    assert matches(untrained, vae).double().mean() < 0.001


@pytest.mark.parametrize("vae", VAES)
def test_one_broken_trit_fails_two_thirds_of_the_operations(perfect_model, vae):
    """A code without trit 4 reads as 0 there: right for a third, and 8/9 + 1/27 of all trits."""
    perfect_model.encoder(vae).fc_mu.weight.data[4] = 0
    right = right_trits(perfect_model, vae, posterior(perfect_model, vae).mu)
    assert torch.equal(right.all(1), all_operations()[:, 4] == 0)
    assert torch.equal(right.double().sum(0) == M, torch.arange(T) != 4)
    whole = by_split(right, split())
    assert whole["val"]["share"] == pytest.approx(1 / 3, abs=0.04)
    assert whole["val"]["per_trit"] == pytest.approx(8 / 9 + 1 / 27, abs=0.005)


@pytest.mark.parametrize("vae, other", [("A", "B"), ("B", "A")])
def test_a_vae_reconstructs_without_the_other(perfect_model, vae, other):
    """v5.5 mixed the other encoder's code in while evaluating; whatever that one does, here."""
    for part in (perfect_model.encoder(other), perfect_model.decoder(other)):
        for parameter in part.parameters():
            parameter.data.fill_(torch.nan)
    assert matches(perfect_model, vae).all()
    assert not matches(perfect_model, other).all()


def test_only_the_parts_that_were_wrong_lose_their_share():
    """Planted: the first half of the validation operations is wrong in one trit."""
    right, parts = torch.ones(M, T, dtype=torch.bool), split()
    right[parts.val[:984], 2] = False
    rows = by_split(right, parts)
    assert rows["train"]["share"] == rows["test"]["share"] == 1
    assert rows["val"]["share"] == 0.5
    assert rows["val"]["per_trit"] == pytest.approx(1 - 0.5 / 9)


def test_share_counts():
    row = share(torch.tensor([True, False, True, True]))
    assert (row["share"], row["n"]) == (0.75, 4)
    exact = stats.binomtest(3, 4).proportion_ci(0.95, "exact")
    assert row["ci95"] == pytest.approx([exact.low, exact.high])


def test_drawn_codes_have_the_posterior_mean_and_deviation():
    logvar = torch.linspace(-4, 1, D).expand(M, D)
    q = Posterior(torch.full((M, D), 3.0), logvar)
    for scale in (0.0, 1.0, 2.5):
        z, sigma = drawn(q, scale, generator(1, "z")), scale * (logvar[0] / 2).exp()
        assert ((z.mean(0) - 3).abs() <= 5 * sigma / M**0.5 + 1e-5).all()
        assert ((z.std(0) - sigma).abs() <= 5 * sigma / (2 * M) ** 0.5 + 1e-5).all()


def test_robustness_is_what_the_normal_distribution_says(perfect_model):
    """Encoded at -1, 0, 1 with deviation σ and cut at ±0.4307: the chance of nine trits in closed
    form, as scale·σ grows; each share within 5 binomial standard deviations."""
    perfect_model.encoder_A.fc_logvar.bias.data[:T] = -3
    q = posterior(perfect_model, "A")
    for row in robustness(perfect_model, "A", q, seed=2):
        if row["scale"] == 0:
            assert row["exact_match"] == 1
            continue
        sd, cut = row["scale"] * math.exp(-1.5), 0.4307273
        end, middle = stats.norm.cdf((1 - cut) / sd), 1 - 2 * stats.norm.sf(cut / sd)
        chance = ((2 * end + middle) / 3) ** T
        assert abs(row["exact_match"] - chance) < 5 * (chance * (1 - chance) / M) ** 0.5 + 1e-9
