"""Two checkpoints compared in pairs: with planted differences, with none, and with chance alone."""

import numpy as np
import pandas as pd
import pytest
import torch

from fluxttice_core import cli, comparison, files, params
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.metrics.marginal import MIN_LATENTS
from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.metrics.paired_tests import ALPHA, Paired, holm, mcnemar, student
from fluxttice_core.model.network import Functions, decode_logits
from fluxttice_core.model.operations import M, all_operations, index_of

PAIRS, DF = 20_000, 19


def paired_shares(gained, lost):
    """McNemar's test of PAIRS pairs, of which these are discordant."""
    first, second = np.zeros((2, PAIRS), bool)
    second[:gained] = first[gained : gained + lost] = True
    return mcnemar("A", "m", first, second)


def paired_means(x):
    """Student's test of DF + 1 differences."""
    return student("A", "m", 0.0, float(x.mean()), float(x.std(ddof=1)) / len(x) ** 0.5, DF)


def test_chance_alone_shows_a_difference_in_5_of_100_comparisons_at_most():
    rng, false = np.random.default_rng(1), 0
    for _ in range(400):
        tests = [paired_shares(*rng.poisson(50, 2)) for _ in range(4)]
        tests += [paired_means(rng.normal(size=DF + 1)) for _ in range(10)]
        false += any(holm([test.p for test in tests]))
    assert 0.01 * 400 < false <= 0.05 * 400 + 9  # two standard deviations


@pytest.mark.parametrize("tests", [1, 14])
@pytest.mark.parametrize("chance", [0, 100])
def test_the_power_that_is_stated_is_the_power_found(tests, chance):
    """k of PAIRS are lost on average, beside `chance` discordant pairs; or a mean moves."""
    rng = np.random.default_rng(1)
    k = Paired("A", "m", 0, 0, 1.0, pairs=PAIRS, discordant=chance).detectable(tests) * PAIRS
    lost = [paired_shares(x, y) for x, y in rng.poisson([chance / 2, chance / 2 + k], (400, 2))]
    move = Paired("A", "m", 0, 0, 1.0, noise=(DF + 1) ** -0.5, df=DF).detectable(tests)
    moved = [paired_means(move + rng.normal(size=DF + 1)) for _ in range(400)]
    for found in (lost, moved):
        assert 0.74 < np.mean([one.p <= ALPHA / tests for one in found]) < 0.93


def test_holm_stops_at_the_first_test_that_shows_nothing():
    assert holm([0.04, 0.001, 0.03, 0.012]) == [False, True, False, True]
    assert holm([]) == [] and holm([0.05]) == [True]


def opposite(model, changed):
    """`model`, but the operations `changed` (n,), by index, decode to their opposites."""

    def decoder(vae):
        def decode(z):
            logits = model.decoder(vae)(z)
            wrong = torch.isin(index_of(decode_logits(logits, "argmax") - 1), changed)
            return torch.where(wrong[:, None, None], logits.flip(-1), logits)

        return decode

    return Functions(model.encoder, decoder)


def test_operations_that_are_decoded_wrongly_are_found_in_every_metric_that_they_touch():
    changed = torch.arange(100, 120)
    assert (all_operations()[changed] != 0).any(1).all()
    pair = oracle(), opposite(oracle(), changed)
    found = {one.metric: one for one in comparison.compare_vae(*pair, "A", MIN_LATENTS, 1)}
    difference = {name: one.second - one.first for name, one in found.items()}
    assert difference["exact_match"] == pytest.approx(-len(changed) / M, rel=1e-9)
    assert difference["rate"] == difference["mig"] == 0 and found["rate"].p is None
    for name, n in (("exact_match_sampled", 20 * M), ("path_consistency", PAIRS)):
        deviation = (len(changed) / M / n) ** 0.5
        assert abs(difference[name] + len(changed) / M) < 4 * deviation and found[name].p < 1e-3
    for name in ("argmax_entropy", "argmax_coverage_195000", "kl_to_uniform", "distortion"):
        worse = 1 if name in ("kl_to_uniform", "distortion") else -1
        assert worse * difference[name] > 0 and found[name].p < 1e-6, name


def test_the_command_says_which_to_keep_and_what_is_identical(tmp_path, capsys):
    """VAE-B of the second, given as a run, does not encode trit 6; VAE-A is the same."""
    spoilt, run = oracle(), tmp_path / "run"
    spoilt.encoder_B.fc_mu.weight.data[6] = 0
    first = checkpoints.save(tmp_path / "first", oracle(), 1, {})
    checkpoints.save(run / "checkpoint", spoilt, 1, {})
    values = params.read_yaml(files.root() / "params/benchmark.yaml") | {"k": MIN_LATENTS}
    params.record(tmp_path, "benchmark", values)
    words = [str(first), str(run), "--benchmark", str(tmp_path / "benchmark.params.yaml")]
    assert cli.main(["compare", *words]) == 0
    said = capsys.readouterr().out
    assert "VAE-A: keep either. No difference shows" in said
    assert f"VAE-B: keep {first}, which is better in exact match" in said
    assert "Identical in both, to the bit: encoder_A, decoder_A, decoder_B." in said
    assert "100.00%" in said and "33.33%" in said


def test_it_depends_if_each_is_better_in_something():
    rows = pd.DataFrame({"metric": ["nll", "mig", "distortion"], "better": ["x", "x", "y"]})
    rows["p"] = [0.0, None, 0.0]
    said = comparison._answer(rows, "A", ("x", "y"))
    assert said.startswith(
        "VAE-A: it depends. x is better in NLL, nats (least: ln M = 9.888). y is better in dist"
    )
