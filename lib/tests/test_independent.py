"""The central metrics once more, slowly and otherwise: numpy, itertools and sets.

Nothing of the library's arithmetic is used: the weights are read from the file, the network is
written out row by row in float64, p(x|z) is a product over nine trits for each of all operations
in the order of itertools, and the jackknife is Tukey's pseudo-values. Library and slow version see
the same latents, and agree up to float32.
"""

import itertools
import math
from collections import Counter
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from planted import ends
from scipy import special, stats

from fluxttice_core import load
from fluxttice_core.metrics import coverage, marginal, path_consistency, reconstruction
from fluxttice_core.metrics.results import proportion
from fluxttice_core.model.network import VAES, prior
from fluxttice_core.model.operations import split
from fluxttice_core.model.streams import generator

CERTIFIED = Path(__file__).parents[2] / "checkpoints" / "certified"
TABLES = list(itertools.product((-1, 0, 1), repeat=9))  # the last entry changes fastest
CLASSES = np.array(TABLES) + 1  # (19683, 9)
K = 200
by_vae = pytest.mark.parametrize("vae", VAES)


@cache
def network():
    """The library's model, and its weights as float64 arrays by name: the certified one's with so
    much noise that a quarter comes back in VAE-A and three quarters in B."""
    model, rng = load(CERTIFIED).model, np.random.default_rng(1)
    state = safetensors.numpy.load_file(CERTIFIED / "model.safetensors")
    for key, value in state.items():
        value += np.float32(0.3 * value.std() * rng.standard_normal(value.shape))
        model.state_dict()[key].copy_(torch.tensor(value))
    return model, {key: value.astype(float) for key, value in state.items()}


# --- The network, one row at a time ---


def layer(name, row):
    state = network()[1]
    return state[f"{name}.weight"] @ row + state[f"{name}.bias"]


def relu(row):
    return np.where(row > 0, row, 0)


def encode(vae, table):
    row = np.array(table, dtype=float)
    for number in (0, 2, 4):
        row = relu(layer(f"encoder_{vae}.encoder.{number}", row))
    return layer(f"encoder_{vae}.fc_mu", row)


def decode(vae, z):
    """Latent (16,) → logits (9, 3)."""
    if vae == "A":
        row = relu(layer("decoder_A.decoder.2", relu(layer("decoder_A.decoder.0", z))))
        return layer("decoder_A.decoder.4", row).reshape(9, 3)
    row = relu(layer("decoder_B.fc_in", z))
    for block, after in (("residual1", relu), ("residual2", lambda x: x)):
        inner = relu(layer(f"decoder_B.{block}.block.0", row))
        row = after(row + layer(f"decoder_B.{block}.block.2", inner))
    return layer("decoder_B.fc_out", row).reshape(9, 3)


# --- What a decoder generates ---


@cache
def both(vae):
    """The library's marginal, and from the latents that its decoder was given p(x|z) (K, 19683) in
    the order of TABLES, the entropy of the trits (K,), and the tables that argmax decodes."""
    latents = []

    def watched(z):
        latents.append(z.double().numpy())
        return network()[0].decoder(vae)(z)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marginal, "CHUNK", 3)  # which cuts the groups
        fast = marginal.marginal(watched, K, seed=3, stream=vae)
    assert max(map(len, latents)) == 3
    logits = np.array([decode(vae, z) for z in np.concatenate(latents)])
    p = special.softmax(logits, axis=2)
    given = np.array([np.prod(one[range(9), CLASSES], axis=1) for one in p])
    tables = np.array([bytes(row + 1) for row in logits.argmax(2).astype("u1")])
    return fast, given, stats.entropy(p, axis=2).sum(1), tables


def jackknife(function, top):
    """Value, low, high from Tukey's pseudo-values over the 20 groups of latents, cut to 0 … top."""
    rest = [[i for i in range(K) if i * 20 // K != group] for group in range(20)]
    pseudo = [20 * function([*range(K)]) - 19 * function(rows) for rows in rest]
    mean, half = np.mean(pseudo), stats.t.ppf(0.975, 19) * stats.sem(pseudo)
    return np.clip([mean, mean - half, mean + half], 0, top)


@by_vae
def test_information(vae):
    (fast, given, nats, tables), top = both(vae), 9 * math.log(3)
    truth = jackknife(lambda rows: stats.entropy(given[rows].mean(0)) - nats[rows].mean(), top)
    assert (
        ends(marginal.generator_information(fast)) == pytest.approx(truth, rel=1e-3)
        and truth[1] > 1
    )
    truth = jackknife(lambda rows: stats.entropy([*Counter(tables[rows]).values()]), top)
    assert ends(marginal.argmax_entropy(fast)) == pytest.approx(truth, rel=1e-5)


@by_vae
@pytest.mark.parametrize("n", [50, 20_000])
def test_expected_coverage_from_the_exact_marginal(vae, n):
    fast, given, *_ = both(vae)

    def distinct(rows):
        return (1 - (1 - given[rows].mean(0)) ** n).sum()

    plug_in = distinct([*range(K)])
    assert coverage.expected_distinct(fast.P, n) == pytest.approx(plug_in, rel=2e-4)
    truth = jackknife(distinct, 19_683 - 19_683 * (19_682 / 19_683) ** n)
    truth[1] -= max(0, truth[0] - plug_in)  # it reaches as far from the plug-in
    assert ends(coverage.expected(fast, n, "categorical")) == pytest.approx(truth, rel=3e-3)


@by_vae
def test_exact_match_row_by_row(vae):
    """Every test operation, encoded and decoded alone. Where two logits differ by less than
    float32 can tell, either answer is right."""
    model, test = deepcopy(network()[0]), split(42).test
    model.scale_logits(vae, 0.01)  # moves no boundary, but only argmax finds them now
    right = reconstruction.correct_trits(model, vae, reconstruction.posterior(model, vae).mu).all(1)
    hits, doubtful = [], 0
    for place in test.tolist():
        table = TABLES[int(np.base_repr(place, 3).zfill(9)[::-1], 3)]  # its least trit comes first
        logits = decode(vae, encode(vae, table))
        top = np.sort(logits, axis=1)
        close = bool((top[:, 2] - top[:, 1] < 1e-5 * (1 + abs(top).max())).any())
        hits.append(tuple(np.argmax(logits, axis=1) - 1) == table)
        assert close or hits[-1] == bool(right[place])
        doubtful += close
    row = proportion(right[test])
    assert row.n == len(hits) == 1_969 and doubtful <= 20
    assert row.value == pytest.approx(sum(hits) / 1_969, abs=(doubtful + 0.1) / 1_969)
    assert 0.02 < row.value < 0.98  # neither all nor none, so that agreement says something


@by_vae
def test_path_consistency_line_by_line(vae, monkeypatch):
    """Some lines leave their cell at the very end alone, and some come back into it."""
    monkeypatch.setattr(path_consistency, "SLICE", 150)
    stay = []
    for z in prior(400, generator(8, "test")).double().numpy():
        classes = decode(vae, z).argmax(1)
        code = encode(vae, classes - 1)
        line = [(1 - t) * z + t * code for t in np.linspace(0.1, 1, 10)]
        stay.append(all((decode(vae, place).argmax(1) == classes).all() for place in line))
    model = network()[0]
    assert path_consistency.path_consistency(model, vae, generator(8, "test"), 400) == proportion(
        stay
    )
