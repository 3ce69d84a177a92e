import pytest
import torch
from planted import SEEDS, held

from fluxttice_core.metrics import connection, controls
from fluxttice_core.metrics.adversaries import permuted
from fluxttice_core.metrics.connection import cell_connection
from fluxttice_core.model.network import D, DualVAE, Functions, Posterior, prior
from fluxttice_core.model.operations import C, T
from fluxttice_core.model.streams import generator


def connected(model, vae, n=2_000, seed=1):
    return cell_connection(model, vae, generator(seed, "test"), n)


@pytest.mark.parametrize("vae", "AB")
def test_one_for_what_is_tied_and_none_for_what_is_not(vae, certified):
    assert connected(certified, vae).value == 1
    assert connected(permuted(certified, 1), vae).high < 0.01
    assert connected(controls.random_linear(1_000), vae).high < 0.01


@pytest.mark.parametrize("code", [1.0, 1e-3, -3.0])
def test_the_share_is_that_of_a_line_that_leaves(code):
    """Trit 0 is the sign of latent 0 and every code is at `code`, so what starts on the other
    side, half of all, leaves its cell at some t ≤ 1; 20 seeds."""

    def decoder(z):
        logits = torch.zeros(len(z), T, C)
        logits[:, 0, 0], logits[:, 0, 2] = -z[:, 0], z[:, 0]
        return logits

    def encoder(x):
        return Posterior(torch.full((len(x), D), code), torch.zeros(len(x), D))

    model = Functions(lambda _vae: encoder, lambda _vae: decoder)
    assert held([connected(model, "A", 1_000, seed) for seed in range(SEEDS)], 0.5)


def test_by_loops_with_the_models_own_decoding(monkeypatch):
    model, n = DualVAE.fresh(4), 200
    slow = 0
    for z in prior(n, generator(7, "test")):
        operation = model.decode(z[None], "A")
        code = model.encode(operation, "A")[0]
        line = torch.stack([(1 - t / 10) * z + t / 10 * code for t in range(1, 11)])
        slow += int((model.decode(line, "A") == operation).all())
    monkeypatch.setattr(connection, "SLICE", 64)
    found = connected(model, "A", n, seed=7)
    assert (found.value, found.n) == (pytest.approx(slow / n), n) and slow < n
