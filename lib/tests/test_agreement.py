"""Agreement in float64 and in small batches, of networks built to disagree."""

import pytest
import torch
from planted import ends
from torch import nn
from torch.nn.functional import one_hot
from undeserved import LARGE, trigger

from fluxttice_core.metrics import agreement
from fluxttice_core.metrics.agreement import agreement_float64, agreement_small_batches
from fluxttice_core.model.network import D, Functions, Posterior
from fluxttice_core.model.operations import C, T, index_of
from fluxttice_core.model.streams import generator

TRIGGERS = {  # part, its sums by size of batch, at which it fires; is float64 unlike large batches?
    "decoder at 1": ("decoder", {1: 1, LARGE: 0}, 1, True),
    "decoder at 2 and 3 alone": ("decoder", {1: 0, 2: 1, 3: 1, LARGE: 0}, 1, True),
    "decoder at 1, right in float64": ("decoder", {1: 0, LARGE: 1}, 0, False),
    "encoder at 1": ("encoder", {1: 1, LARGE: 0}, 1, True),
    "encoder at 1, right in float64": ("encoder", {1: 0, LARGE: 1}, 0, False),
}
IN_FLOAT64 = {"dtype": torch.float64}, {"dtype": torch.float64, "trips": True}


def both(model, vae="A"):
    return [
        f(model, vae, generator(1, "test")) for f in (agreement_float64, agreement_small_batches)
    ]


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_float32_trigger_is_found(name, record_property):
    """A unit that computes 2^30 + 1 - 2^30 is 1 in float64, and in float32 as the kernels add."""
    part, sums, fires_at, unlike = TRIGGERS[name]
    model = trigger(part, sums, fires_at)
    if model is None:
        record_property("not checked", f"no sum here gives {sums} by size of batch")
        return
    in_float64, in_small_batches = both(model)
    assert in_small_batches.high < 0.5
    assert in_float64.high < 0.5 if unlike else in_float64.value == 1


@pytest.mark.parametrize("vae", "AB")
def test_honest_networks_agree(vae, certified, untrained):
    for model in (certified, untrained):
        assert all(found.value > 0.9999 and found.low >= 0.999 for found in both(model, vae))


class Numbered(nn.Module):
    """Encodes operation i as -i - 1 in its first latent, and decodes each latent to operation 0;
    wrongly where it is below `misses` and asked for `size` rows at once or in `dtype`."""

    def __init__(self, misses, size=0, dtype=None, trips=False):
        super().__init__()
        self.misses, self.size, self.dtype, self.trips = misses, size, dtype, trips

    def forward(self, x):
        if x.shape[1] == T:
            return Posterior((-index_of(x) - 1).to(x.dtype)[:, None].expand(-1, D), None)
        number = -x[:, 0] - 1 if self.trips else x[:, 0]
        asked = len(x) == self.size or x.dtype == self.dtype
        wrong = (number >= 0) & (number < self.misses) & asked
        return one_hot(2 * wrong.long(), C)[:, None].expand(-1, T, C)


def plain(part):
    return Functions(lambda _vae: part, lambda _vae: part)


@pytest.mark.parametrize("wrong", [{"size": 1}, {"size": 2}, {"size": 3}, *IN_FLOAT64])
def test_each_share_alone_may_have_three_misses(wrong, monkeypatch):
    """The bounds are those of the lower ends; the other shares are of no help."""
    monkeypatch.setattr(
        agreement, "prior", lambda n, _rng: torch.arange(n)[:, None].expand(-1, D).float()
    )
    for misses in (3, 4):
        in_float64, in_small_batches = both(plain(Numbered(misses, **wrong)))
        found, bound = (in_small_batches, 0.998) if "size" in wrong else (in_float64, 0.9995)
        assert found.value == 1 - misses / found.n and (found.low >= bound) == (misses == 3)
        assert {in_float64.value, in_small_batches.value} == {1, found.value}


def test_plain_functions_agree_in_float64(certified):
    """They have no copy in float64; nothing of them is refused for that."""
    functions = Functions(certified.encoder, lambda vae: lambda z: certified.decoder(vae)(z))
    in_float64, in_small_batches = both(functions)
    assert ends(in_float64) == [1, 1, 1] and in_small_batches.low >= 0.999
