"""What has learnt nothing: each control is what it says, and loses where it must."""

import pytest
import torch
from planted import ends, same

from fluxttice_core import files, params
from fluxttice_core.metrics import controls
from fluxttice_core.metrics.codes import active, kl_nats
from fluxttice_core.metrics.controls import CONTROLS
from fluxttice_core.metrics.observation import observe, values
from fluxttice_core.metrics.rate import aggregate_kl
from fluxttice_core.metrics.reconstruction import posterior
from fluxttice_core.model.initialisation import looks_linear
from fluxttice_core.model.network import VAES, DualVAE, prior
from fluxttice_core.model.operations import all_operations, split
from fluxttice_core.model.streams import generator


@pytest.mark.parametrize("name", CONTROLS)
def test_a_seed_makes_a_control(name):
    make = CONTROLS[name].make
    first, again, other = (make(seed).state_dict() for seed in (3, 3, 4))
    assert same(first, again) and not same(first, other) and not make(3).training
    assert same(first, DualVAE.fresh(3).state_dict()) == (name == "untrained")


@pytest.mark.parametrize("vae", VAES)
def test_a_collapsed_network_ignores_latent_and_operation(vae):
    model, z = controls.collapsed(4), 9 * prior(300, generator(1, "z"))
    logits = model.decoder(vae)(z)
    assert torch.equal(logits, logits[:1].expand_as(logits)) and logits[0].abs().max() > 0
    q = posterior(model, vae)
    assert float(kl_nats(*q).abs().max()) == 0 and not active(q.mu).any()
    assert aggregate_kl(q, generator(1, "x"), n=20).value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("vae", VAES)
def test_random_linear_maps_are_linear_sharp_and_use_every_unit(vae):
    model, linear = controls.random_linear(4), DualVAE.fresh(4)
    looks_linear(linear, 4)
    z, y = prior(300, generator(1, "z")), prior(300, generator(2, "z"))
    decoder, scale = model.decoder(vae), controls.LOGIT_SCALE
    assert torch.allclose(decoder(z + y), decoder(z) + decoder(y), atol=3e-3)
    assert torch.allclose(decoder(z), scale * linear.decoder(vae)(z), rtol=1e-4, atol=2e-3)
    mu, table = posterior(model, vae).mu, all_operations().double()
    assert float(mu.std()) == pytest.approx(1, abs=1e-3) and active(mu).all()
    fitted = table @ torch.linalg.lstsq(table, mu.double()).solution
    assert torch.allclose(fitted, mu.double(), atol=1e-4)
    assert scale >= params.read_yaml(files.root() / "params/train.yaml")["logit_scale"]


@pytest.mark.parametrize("name, vae", list(zip(CONTROLS, "ABAA", strict=True)))
def test_what_has_learnt_nothing_loses(thrifty, name, vae):
    """Reconstruction is beyond all of them; what each has of the rest is what makes it a control:
    sampling covers without training, and sharpness alone has information."""
    o = observe(CONTROLS[name].make(1_000), vae, 2_000, seed=1)
    coverage = ("argmax_coverage_1000", "categorical_coverage_1000")
    wanted = ("exact_match", "exact_match_sampled", "information", "argmax_entropy", *coverage)
    found = values(o, split(), wanted)
    share = {key: x.value for key, x in found.items()}
    assert max(share["exact_match"], share["exact_match_sampled"]) < 0.01
    if name in ("collapsed", "uniform"):  # the latent decides nothing
        assert ends(found["information"]) == pytest.approx([0, 0, 0], abs=1e-5)
        assert share["argmax_coverage_1000"] * 1_000 < 1.03  # one operation, whatever N
    if name == "uniform":
        assert not o.decoder(9 * prior(300, generator(1, "z"))).any()
        assert share["categorical_coverage_1000"] == pytest.approx(1, abs=1e-5)
    if name == "untrained":
        assert share["categorical_coverage_1000"] > 0.97 > 0.8 > share["argmax_coverage_1000"]
        assert share["information"] < 0.03
    if name == "random linear":
        assert share["information"] > 0.7 and share["argmax_entropy"] < 0.95
