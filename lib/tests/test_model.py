import pytest
import torch
from torch.distributions import Categorical

from fluxttice_core.errors import InputError
from fluxttice_core.model.network import HOW, VAES, D, DualVAE, prior, read_out
from fluxttice_core.model.operations import C, T
from fluxttice_core.model.streams import generator

SHAPES = {  # name → shape of the weight; of a bias it is the first number (v5.5's own table)
    **{f"encoder_{vae}.{layer}": shape for vae in VAES for layer, shape in (
        ("encoder.0", (256, 9)), ("encoder.2", (128, 256)), ("encoder.4", (64, 128)),
        ("fc_mu", (16, 64)), ("fc_logvar", (16, 64)),
    )},
    "decoder_A.decoder.0": (32, 16), "decoder_A.decoder.2": (64, 32),
    "decoder_A.decoder.4": (27, 64), "decoder_B.fc_in": (128, 16), "decoder_B.fc_out": (27, 128),
    **{f"decoder_B.residual{i}.block.{j}": (128, 128) for i in (1, 2) for j in (0, 2)},
    "state_net.encoder.0": (32, 9), "state_net.encoder.1": (32,), "state_net.encoder.3": (8, 32),
    "state_net.decoder.0": (32, 8), "state_net.decoder.2": (4, 32),
}  # fmt: skip
TIES = torch.tensor([-1.0, 0.0, 2.0])
ALL_TIES = torch.cartesian_prod(TIES, TIES, TIES).view(-1, 1, C)  # every order and every tie
MANY = torch.randn(1000, 1, C, generator=generator(0, "logits"))


def test_names_shapes_and_types_are_those_of_v5_5(untrained):
    expected = {"grad_norm_A_ema": (), "grad_norm_B_ema": ()}
    for name, shape in SHAPES.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    state = untrained.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert list(state)[:2] == ["grad_norm_A_ema", "grad_norm_B_ema"]  # buffers come first
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert (len(list(untrained.parameters())), len(list(untrained.buffers()))) == (48, 2)
    assert sum(value.numel() for value in untrained.parameters()) == 168_770


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


@pytest.mark.parametrize("vae", VAES)
def test_scaled_logits_are_that_many_times_as_large_in_one_vae_alone(vae):
    model, fresh, z = DualVAE.fresh(0), DualVAE.fresh(0), prior(10, generator(6, "test"))
    model.scale_logits(vae, 7.0)
    for each in VAES:
        scale = 7 if each == vae else 1
        assert torch.allclose(model.decoder(each)(z), scale * fresh.decoder(each)(z), rtol=1e-4)


def test_categorical_draws_with_the_probabilities_of_torchs_categorical():
    """Each class's count is binomial: within 5 standard deviations of what torch says."""
    n = 40_000
    logits = torch.randn(T, C, generator=generator(0, "logits")) * 2
    p = Categorical(logits=logits.double()).probs
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


@pytest.mark.parametrize("certain", range(C))
def test_categorical_never_draws_what_has_no_probability(certain):
    logits = torch.full((20_000, T, C), -torch.inf)
    logits[..., certain] = -1e30
    assert (read_out(logits, "categorical", generator(3, "test")) == certain).all()
    logits = torch.zeros(20_000, T, C)
    logits[..., certain] = -torch.inf
    assert (read_out(logits, "categorical", generator(4, "test")) != certain).all()


def test_expectation_is_the_rounded_mean_value_and_not_argmax():
    """The broken reading: between the extremes it answers 0, which is the least likely."""
    logits = torch.cat([ALL_TIES, 3 * MANY]).expand(-1, T, C)
    mean = (logits.softmax(-1) * torch.tensor([-1.0, 0.0, 1.0])).sum(-1)
    assert torch.equal(read_out(logits, "expectation"), mean.round().long() + 1)
    logits = torch.tensor([0.5, 0.01, 0.49]).log().expand(1, T, C)
    assert (read_out(logits, "expectation") == 1).all() and (read_out(logits, "argmax") == 0).all()


@pytest.mark.parametrize("how", HOW)
def test_the_same_seed_gives_the_same_sample(perfect_model, how):
    one, same, other = (
        perfect_model.sample(200, "A", how, rng=generator(seed, "s")) for seed in (1, 1, 2)
    )
    assert one.dtype == torch.int64 and one.shape == (200, T) and one.abs().max() <= 1
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_vae_samples_through_its_own_decoder(untrained):
    z = prior(100, generator(1, "s"))
    for vae in VAES:
        expected = untrained.decoder(vae)(z).argmax(-1) - 1
        assert torch.equal(untrained.sample(100, vae, rng=generator(1, "s")), expected)
    a, b = (untrained.decode(z, vae) for vae in VAES)
    assert not torch.equal(a, b)


def test_the_verbs_leave_mode_gradients_and_global_stream_as_they_were(untrained):
    before, found = torch.get_rng_state(), []
    for training in (True, False):  # the mode changes no number
        untrained.train(training)
        ops = untrained.sample(50, "A", "categorical", rng=generator(1, "s"))
        found.append((ops, untrained.encode(ops, "B")))
        assert {m.training for m in untrained.modules()} == {training}
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert torch.equal(torch.get_rng_state(), before) and not found[0][1].requires_grad
    assert all(v.requires_grad and v.grad is None for v in untrained.parameters())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m: m.encode(torch.zeros(1, 9), "C"), "vae is 'C'"),
        (lambda m: m.encode(torch.zeros(1, 8), "A"), "shape (1, 8)"),
        (lambda m: m.decode(torch.zeros(D), "A"), "shape (16,)"),
        (lambda m: m.decode(torch.zeros(1, D), None), "vae is None"),
        (lambda m: m.decode(torch.zeros(1, 15), "A"), "shape (1, 15)"),
        (lambda m: m.decode(torch.full((1, D), torch.nan), "A"), "not finite"),
        (lambda m: m.decode([[1e39] * D], "A"), "not finite"),
        *[(lambda m, z=z: m.decode(z, "A"), "z must ") for z in (
            "zero", None, [[0.0] * D, [0.0]], torch.zeros(1, D, dtype=torch.complex64),
            torch.zeros(1, D).to_sparse(),
        )],
        (lambda m: m.decode(torch.zeros(1, D), "A", "best"), "how is 'best'"),
        (lambda m: m.decode(torch.zeros(1, D), "A", "categorical"), "seed"),
        *[(lambda m, n=n: m.sample(n, "A", rng=generator(1)), f"n is {n!r}") for n in (
            0, -5, 2.5, True, "9", None, 10**8 + 1,
        )],
    ],
)  # fmt: skip
def test_bad_input_is_named_in_one_sentence(untrained, call, words):
    with pytest.raises(InputError) as caught:
        call(untrained)
    assert words in str(caught.value) and "\n" not in str(caught.value)
