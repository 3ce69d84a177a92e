import pytest
import torch
from planted import sentence

from fluxttice_core.model.network import VAES, D, prior, read_out
from fluxttice_core.model.operations import C, T
from fluxttice_core.model.streams import generator


def layer(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def test_the_forward_passes_are_those_of_v5_5(untrained):
    """Recomputed from the bare weights: where the ReLUs, the norm and the Tanh are. The means and
    both decoders are written out row by row elsewhere."""
    w = untrained.state_dict()
    x, s = (torch.randn(*shape, generator=generator(0, "inputs")) for shape in ((5, T), (9,)))
    for vae in VAES:
        h = x
        for i in (0, 2, 4):
            h = layer(w, f"encoder_{vae}.encoder.{i}", h).relu()
        logvar = layer(w, f"encoder_{vae}.fc_logvar", h)
        torch.testing.assert_close(untrained.encoder(vae)(x).logvar, logvar)
    h = layer(w, "state_net.encoder.0", s)
    h = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt()
    h = layer(w, "state_net.encoder.3", h.tanh())
    h = layer(w, "state_net.decoder.2", layer(w, "state_net.decoder.0", h).relu()).tanh()
    torch.testing.assert_close(untrained.state_net(s), h)


def test_categorical_draws_with_the_probabilities_of_the_softmax():
    """Each class's count is binomial: within 5 standard deviations."""
    n, logits = 40_000, torch.randn(T, C, generator=generator(0, "logits")) * 2
    p = logits.double().softmax(-1)
    classes = read_out(logits.expand(n, T, C), "categorical", generator(1, "test"))
    counts = torch.stack([(classes == c).sum(0) for c in range(C)], -1)
    assert classes.dtype == torch.int64
    assert ((counts - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt()).all()


def test_categorical_never_draws_below_float32s_resolution():
    """Stream 146 of torch's generator has an exact 0 among its first draws, which all of them
    would take for the lowest class."""
    n, logits = 10_000, torch.tensor([-90.0, 0.0, 0.0])
    assert (torch.rand(n, T, generator=torch.Generator().manual_seed(146)) == 0).any()
    classes = read_out(logits.expand(n, T, C), "categorical", torch.Generator().manual_seed(146))
    assert classes.unique().tolist() == [1, 2]


@pytest.mark.parametrize("missing", range(C))
def test_categorical_never_draws_what_has_no_probability(missing):
    logits = torch.full((20_000, T, C), -1e30)
    logits[..., missing] = -torch.inf
    classes = read_out(logits, "categorical", generator(4, "test")).unique()
    assert classes.tolist() == [c for c in range(C) if c != missing]


def test_expectation_is_the_rounded_mean_value_and_not_argmax():
    """The broken reading: between the extremes it answers 0, which is the least likely."""
    logits = 3 * torch.randn(1_000, T, C, generator=generator(0, "logits"))
    mean = (logits.softmax(-1) * torch.tensor([-1.0, 0.0, 1.0])).sum(-1)
    assert torch.equal(read_out(logits, "expectation"), mean.round().long() + 1)
    logits = torch.tensor([0.5, 0.01, 0.49]).log().expand(1, T, C)
    assert (read_out(logits, "expectation") == 1).all() and (read_out(logits, "argmax") == 0).all()


def test_a_vae_samples_through_its_own_decoder(untrained):
    z = prior(100, generator(1, "s"))
    expected = [untrained.decoder(vae)(z).argmax(-1) - 1 for vae in VAES]
    for vae, ops in zip(VAES, expected, strict=True):
        assert torch.equal(untrained.sample(100, vae, rng=generator(1, "s")), ops)
    assert not torch.equal(*expected)


def test_the_verbs_leave_mode_and_gradients_as_they_were(untrained):
    found = []
    for training in (True, False):  # the mode changes no number
        untrained.train(training)
        ops = untrained.sample(50, "A", "categorical", rng=generator(1, "s"))
        found.append((ops, untrained.encode(ops, "B")))
        assert {m.training for m in untrained.modules()} == {training}
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert not found[0][1].requires_grad
    assert all(v.requires_grad and v.grad is None for v in untrained.parameters())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m: m.encode(torch.zeros(1, 9), "C"), "vae is 'C'"),
        (lambda m: m.encode(torch.zeros(1, 8), "A"), "shape (1, 8)"),
        (lambda m: m.decode(torch.zeros(D), "A"), "shape (16,)"),
        (lambda m: m.decode(torch.zeros(1, D), None), "vae is None"),
        (lambda m: m.decode([[1e39] * D], "A"), "not finite"),
        *[(lambda m, z=z: m.decode(z, "A"), "z must ") for z in (
            "zero", [[0.0] * D, [0.0]], torch.zeros(1, D).to_sparse(),
        )],
        (lambda m: m.decode(torch.zeros(1, D), "A", "best"), "how is 'best'"),
        (lambda m: m.decode(torch.zeros(1, D), "A", "categorical"), "seed"),
        *[(lambda m, n=n: m.sample(n, "A", rng=generator(1)), f"n is {n!r}") for n in (
            0, 2.5, True, "9", 10**8 + 1,
        )],
    ],
)  # fmt: skip
def test_bad_input_is_named_in_one_sentence(untrained, call, words):
    assert words in sentence(call, untrained)
