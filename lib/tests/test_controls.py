from pathlib import Path

import pytest
import torch
from fluxttice_core.metrics import controls
from fluxttice_core import files
from fluxttice_core import load
from fluxttice_core.metrics import marginal
from fluxttice_core import params
from fluxttice_core.model.initialisation import looks_linear
from fluxttice_core.metrics.codes import active_units, aggregate_kl, kl_nats
from fluxttice_core.metrics.measurement import compare, essentials, headline
from fluxttice_core.model.network import VAES, DualVAE, prior
from fluxttice_core.model.operations import M, all_operations, split
from fluxttice_core.metrics.reconstruction import posterior
from fluxttice_core.model.streams import generator

CERTIFIED = Path(__file__).parents[2] / "checkpoints" / "certified"
NS, K = [1_000], 2_000


@pytest.fixture(scope="module")
def rows():
    """The essentials of every kind of control, and the comparison of the certified model."""
    kinds = {"untrained": controls.untrained, "random linear": controls.random_linear}
    kinds |= {"collapsed": controls.collapsed, "uniform": controls.uniform}
    networks = [(kind, make(1_000)) for kind, make in kinds.items()]
    networks.append(("untrained", controls.untrained(1_001)))
    beside = []
    for control, network in networks:
        for vae in VAES:
            m = marginal.marginal(network.decoder(vae), K, 1, f"{control} {vae}")
            row = essentials(network, vae, m, posterior(network, vae), split(), 1, NS)
            beside.append({"control": control, "vae": vae, **row})
    model = load(CERTIFIED).model
    ours = {}
    for vae in VAES:
        m = marginal.marginal(model.decoder(vae), 20_000, 1, vae)
        ours[vae] = essentials(model, vae, m, posterior(model, vae), split(), 1, NS)
    table = compare(ours, beside)
    return beside, {(row["metric"], row["vae"]): row for row in table}


def of(beside, control, vae):
    return [row for row in beside if (row["control"], row["vae"]) == (control, vae)]


def test_an_untrained_network_is_a_fresh_one():
    for seed in (1, 2):
        fresh, state = DualVAE.fresh(seed).state_dict(), controls.untrained(seed).state_dict()
        assert state.keys() == fresh.keys()
        assert all(torch.equal(state[key], fresh[key]) for key in fresh)
    first, second = controls.untrained(1), controls.untrained(2)
    assert not torch.equal(first.decoder_A.decoder[4].weight, second.decoder_A.decoder[4].weight)


@pytest.mark.parametrize(
    "make",
    [controls.untrained, controls.random_linear, controls.collapsed, controls.uniform],
)
def test_controls_keep_to_their_seed_and_leave_the_global_stream(make):
    state = torch.get_rng_state()
    first, again = make(3).state_dict(), make(3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not make(3).training


@pytest.mark.parametrize("vae", VAES)
def test_a_collapsed_network_ignores_latent_and_operation(vae):
    model, z = controls.collapsed(4), 9 * prior(300, generator(1, "z"))
    logits = model.decoder(vae)(z)
    assert torch.equal(logits, logits[:1].expand_as(logits))
    assert not torch.equal(logits[0], torch.zeros_like(logits[0]))
    q = posterior(model, vae)
    assert q.mu.shape == q.logvar.shape == (M, 16)
    assert float(kl_nats(*q).abs().max()) == 0  # the posterior is the prior
    assert active_units(q.mu) == 0
    assert aggregate_kl(q, 1, "x", n=20)["value"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("vae", VAES)
def test_random_linear_maps_are_linear_sharp_and_use_every_unit(vae):
    model, linear = controls.random_linear(4), DualVAE.fresh(4)
    looks_linear(linear, 4)
    z, y = prior(300, generator(1, "z")), prior(300, generator(2, "z"))
    decoder = model.decoder(vae)
    assert torch.allclose(decoder(z + y), decoder(z) + decoder(y), atol=3e-3)
    assert torch.allclose(decoder(z), 200 * linear.decoder(vae)(z), rtol=1e-4, atol=2e-3)
    mu = posterior(model, vae).mu
    assert float(mu.std()) == pytest.approx(1, abs=1e-3) and active_units(mu) == 16
    table = all_operations().double()
    fitted = table @ torch.linalg.lstsq(table, mu.double()).solution
    assert torch.allclose(fitted, mu.double(), atol=1e-4)


def test_random_linear_maps_are_as_sharp_as_the_default_recipe():
    recipe = params.read_yaml(files.root() / "params/train.yaml")
    assert recipe["logit_scale"] == controls.LOGIT_SCALE


@pytest.mark.parametrize("vae", VAES)
def test_sharpness_alone_is_most_of_the_information_and_none_of_the_reconstruction(rows, vae):
    for row in of(rows[0], "random linear", vae):
        assert row["information_nats"]["share"] > 0.7
        assert row["exact_match"]["test"] < 0.01


@pytest.mark.parametrize("vae", VAES)
def test_a_uniform_network_gives_every_class_a_third(vae):
    model, z = controls.uniform(4), 9 * prior(300, generator(1, "z"))
    assert torch.equal(model.decoder(vae)(z), torch.zeros(300, 9, 3))
    assert active_units(posterior(model, vae).mu) == active_units(
        posterior(controls.untrained(4), vae).mu
    )


@pytest.mark.parametrize("vae", VAES)
@pytest.mark.parametrize("control", ["collapsed", "uniform"])
def test_what_ignores_the_latent_has_no_information(rows, control, vae):
    for row in of(rows[0], control, vae):
        estimate = row["information_nats"]
        assert [estimate["value"], *estimate["ci95"]] == pytest.approx([0, 0, 0], abs=1e-4)
        argmax = next(r for r in row["expected_coverage"] if r["decode"] == "argmax")
        assert argmax["value"] == pytest.approx(1, abs=1e-3)  # one operation, whatever N


@pytest.mark.parametrize("vae", VAES)
def test_the_uniform_sampler_is_at_the_ceiling(rows, vae):
    for row in of(rows[0], "uniform", vae):
        [categorical] = [r for r in row["expected_coverage"] if r["decode"] == "categorical"]
        assert categorical["of_ceiling"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("vae", VAES)
def test_an_untrained_network_covers_by_sampling_and_says_nothing(rows, vae):
    """What made the original's repair look like one: 97 % of the ceiling without training."""
    for row in of(rows[0], "untrained", vae):
        by_mode = {r["decode"]: r["of_ceiling"] for r in row["expected_coverage"]}
        assert by_mode["categorical"] > 0.97 > 0.8 > by_mode["argmax"]
        assert row["information_nats"]["share"] < 0.03
        assert row["exact_match"]["test"] < 0.01


@pytest.mark.parametrize("vae", VAES)
def test_categorical_coverage_does_not_discriminate(rows, vae):
    row = rows[1]["categorical coverage at N = 1,000, of ceiling", vae]
    assert row["discriminates"] is False
    assert row["uniform"][1] >= row["ci95"][0]


@pytest.mark.parametrize("vae", VAES)
@pytest.mark.parametrize(
    "metric",
    [
        "information, share of 9·ln 3",
        "argmax coverage at N = 1,000, of ceiling",
        "exact match on test, posterior mean",
        "exact match on test, posterior sample",
    ],
)
def test_what_only_learning_gives_discriminates(rows, metric, vae):
    row = rows[1][metric, vae]
    assert row["discriminates"] is True
    for control in ("untrained", "random linear", "collapsed", "uniform"):
        assert row["ci95"][0] > row[control][1]


@pytest.mark.parametrize("control", ["untrained", "random linear", "collapsed", "uniform"])
def test_a_control_in_the_models_place_discriminates_nowhere(rows, control):
    for vae in VAES:
        ours = {vae: of(rows[0], control, vae)[0]}
        assert set(headline(ours[vae])) == {metric for metric, v in rows[1] if v == vae}
        assert not any(row["discriminates"] for row in compare(ours, rows[0]))
