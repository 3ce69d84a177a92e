"""The three central metrics once more, slowly and otherwise: numpy, itertools and sets.

Nothing of the library's arithmetic is used: the weights are read from the file, the network is
written out row by row in float64, p(x|z) is a product over nine trits for each of all operations
in the order of itertools, the jackknife is Tukey's pseudo-values, and what is distinct is counted
with sets. Library and slow version see the same latents, and agree up to float32.
"""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from planted import ends
from scipy import stats

from fluxttice_core import load
from fluxttice_core.metrics import coverage, marginal, reconstruction
from fluxttice_core.metrics.results import share
from fluxttice_core.model.network import VAES
from fluxttice_core.model.operations import split

CERTIFIED = Path(__file__).parents[2] / "checkpoints" / "certified"
TABLES = list(itertools.product((-1, 0, 1), repeat=9))  # the last entry changes fastest
CLASSES = np.array(TABLES) + 1  # (19683, 9)
PLACES = [sum((value + 1) * 3**t for t, value in enumerate(table)) for table in TABLES]
K = 200
GROUPS = [range(start, start + K // 20) for start in range(0, K, K // 20)]


@cache
def network(name):
    """The library's model, and its weights as float64 arrays by name. The shaken one is the
    certified one with so much noise that a quarter comes back in VAE-A, three quarters in B."""
    model, rng = load(CERTIFIED).model, np.random.default_rng(1)
    state = safetensors.numpy.load_file(CERTIFIED / "model.safetensors")
    for key, value in state.items() if name == "shaken" else ():
        value += np.float32(0.3 * value.std() * rng.standard_normal(value.shape))
        model.state_dict()[key].copy_(torch.tensor(value))
    return model, {key: value.astype(float) for key, value in state.items()}


# --- The network, one row at a time ---


def layer(state, name, row):
    return state[f"{name}.weight"] @ row + state[f"{name}.bias"]


def relu(row):
    return np.where(row > 0, row, 0)


def encode(state, vae, table):
    row = np.array(table, dtype=float)
    for number in (0, 2, 4):
        row = relu(layer(state, f"encoder_{vae}.encoder.{number}", row))
    return layer(state, f"encoder_{vae}.fc_mu", row)


def decode(state, vae, z):
    """Latent (16,) → logits (9, 3)."""
    if vae == "A":
        row = relu(layer(state, "decoder_A.decoder.0", z))
        row = relu(layer(state, "decoder_A.decoder.2", row))
        return layer(state, "decoder_A.decoder.4", row).reshape(9, 3)
    row = relu(layer(state, "decoder_B.fc_in", z))
    for block, after in (("residual1", relu), ("residual2", lambda x: x)):
        inner = relu(layer(state, f"decoder_B.{block}.block.0", row))
        row = after(row + layer(state, f"decoder_B.{block}.block.2", inner))
    return layer(state, "decoder_B.fc_out", row).reshape(9, 3)


# --- What a decoder generates ---


@dataclass
class Slow:
    """p(x|z) (K, 19683) in the order of TABLES, the entropy of the trits (K,), decoded tables."""

    given: np.ndarray
    entropy: list[float]
    tables: list[tuple[int, ...]]

    def information(self, rows):
        p = sum(self.given[i] for i in rows) / len(rows)
        whole = -math.fsum(value * math.log(value) for value in p if value > 0)
        return whole - sum(self.entropy[i] for i in rows) / len(rows)

    def argmax_entropy(self, rows):
        counts = Counter(self.tables[i] for i in rows).values()
        return -math.fsum(c / len(rows) * math.log(c / len(rows)) for c in counts)

    def expected(self, n):
        def distinct(rows):
            p = sum(self.given[i] for i in rows) / len(rows)
            return math.fsum(1 - (1 - value) ** n for value in p)

        return distinct


@cache
def both(name, vae):
    """The library's marginal, and the slow one from the latents that its decoder was given."""
    model, state = network(name)
    latents = []

    def watched(z):
        latents.append(z.double().numpy())
        return model.decoder(vae)(z)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marginal, "CHUNK", 3)  # which cuts the groups
        fast = marginal.marginal(watched, K, seed=3, stream=vae)
    assert max(map(len, latents)) == 3
    given, entropy, tables = [], [], []
    for z in np.concatenate(latents):
        logits = decode(state, vae, z)
        powers = [[math.exp(value - max(row)) for value in row] for row in logits.tolist()]
        p = np.array([[value / sum(row) for value in row] for row in powers])
        chance = np.ones(len(TABLES))
        for t in range(9):
            chance = chance * p[t, CLASSES[:, t]]
        given.append(chance)
        entropy.append(-sum(v * math.log(v) for row in p.tolist() for v in row if v > 0))
        tables.append(tuple(int(np.argmax(row)) - 1 for row in logits))
    return fast, Slow(np.array(given), entropy, tables)


def jackknife(function):
    """Value, low, high from Tukey's pseudo-values over the 20 groups of latents."""
    whole, rest = function(range(K)), [[i for i in range(K) if i not in group] for group in GROUPS]
    pseudo = [20 * whole - 19 * function(rows) for rows in rest]
    mean, half = np.mean(pseudo), stats.t.ppf(0.975, 19) * stats.sem(pseudo)
    return [mean, mean - half, mean + half]


def cut(values, top):
    return [min(max(value, 0), top) for value in values]


NETWORKS = pytest.mark.parametrize(
    "name, vae", [(name, vae) for name in ("certified", "shaken") for vae in VAES]
)


@NETWORKS
def test_information(name, vae):
    fast, slow = both(name, vae)
    truth = cut(jackknife(slow.information), 9 * math.log(3))
    assert ends(marginal.information(fast)) == pytest.approx(truth, rel=1e-3) and truth[1] > 1
    truth = cut(jackknife(slow.argmax_entropy), 9 * math.log(3))
    assert ends(marginal.argmax_entropy(fast)) == pytest.approx(truth, rel=1e-5)


@NETWORKS
@pytest.mark.parametrize("n", [50, 20_000])
def test_expected_coverage_from_the_exact_marginal(name, vae, n):
    fast, slow = both(name, vae)
    plug_in = slow.expected(n)(range(K))
    assert coverage.expected_distinct(fast.P, n) == pytest.approx(plug_in, rel=2e-4)
    value, low, high = jackknife(slow.expected(n))
    low -= max(0, value - plug_in)  # it reaches as far from the plug-in
    truth = cut([value, low, high], 19_683 - 19_683 * (19_682 / 19_683) ** n)
    assert ends(coverage.expected(fast, n, "categorical")) == pytest.approx(truth, rel=3e-3)


@pytest.mark.parametrize("vae", VAES)
def test_exact_match_row_by_row(vae):
    """Every test operation, encoded and decoded alone. Where two logits differ by less than
    float32 can tell, either answer is right."""
    model, state = network("shaken")
    test = set(split(42).test.tolist())
    right = reconstruction.right_trits(model, vae, reconstruction.posterior(model, vae).mu).all(1)
    hits, doubtful = [], 0
    for table, place in zip(TABLES, PLACES, strict=True):
        if place not in test:
            continue
        logits = decode(state, vae, encode(state, vae, table))
        top = np.sort(logits, axis=1)
        close = bool((top[:, 2] - top[:, 1] < 1e-5 * (1 + abs(top).max())).any())
        hits.append(tuple(np.argmax(logits, axis=1) - 1) == table)
        assert close or hits[-1] == bool(right[place])
        doubtful += close
    row = share(right[split(42).test])
    assert row.n == len(hits) == 1_969 and doubtful <= 20
    assert row.value == pytest.approx(sum(hits) / 1_969, abs=(doubtful + 0.1) / 1_969)
    assert 0.02 < row.value < 0.98  # neither all nor none, so that agreement says something
