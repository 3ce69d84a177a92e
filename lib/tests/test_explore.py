"""explore.html: what the page computes is what the library computes, and a browser shows it."""

import json

import numpy as np
import pytest
import torch
from planted import ceiling
from py_mini_racer import MiniRacer
from test_layouts import STATES

import browser
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.checkpoints.layouts import network_of
from fluxttice_core.metrics.coverage import distinct, indices
from fluxttice_core.model.network import DECODING_MODES, DualVAE, prior
from fluxttice_core.model.operations import M, all_operations
from fluxttice_core.model.streams import generator
from fluxttice_core.report import explore

ATOB = """const atob = (text) => // which an engine without a browser lacks
  Array.from(Uint8Array.fromBase64(text), (byte) => String.fromCharCode(byte)).join("");"""
SEEDS = {"seed": 20251029, "untrained_seed": 1000}
WEIGHTS = """(function each(layers) {
  return layers.flatMap((layer) => layer.layers ? each(layer.layers) : [...(layer.values ?? [])]);
})"""
SHIPPED = checkpoints.load("checkpoints/certified")
IMPROVED = network_of(STATES["v5.12.4 improved"][0], "improved")  # LayerNorm, SiLU, and only A
ENGINE = (explore.TEMPLATE / "engine.js").read_text("utf-8")
UNTRAINED = DualVAE.fresh(SEEDS["untrained_seed"])
MODELS = [(SHIPPED.model, "A"), (SHIPPED.model, "B"), (UNTRAINED, "B"), (IMPROVED, "A")]


def script(text):
    """Runs `text`; then tells what an expression is in it, of names that mean these values."""
    racer = MiniRacer()
    racer.eval(text)

    def evaluate(expression, **names):
        values = ", ".join(map(json.dumps, names.values()))
        function = f"({', '.join(names)}) => JSON.stringify({expression})"
        return json.loads(racer.eval(f"({function})({values})"))

    return evaluate


@pytest.fixture(scope="module")
def engine():
    return script(ATOB + ENGINE)


def read(page: str) -> dict:
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


@torch.no_grad()
@pytest.mark.parametrize(("model", "vae"), MODELS, ids=["A", "B", "untrained", "improved"])
def test_every_argmax_is_that_of_the_library(engine, model, vae):
    rng = generator(0, "explore")
    operations = torch.randperm(M, generator=rng)[:2_000]
    tables, z = all_operations()[operations], prior(2_000, rng)
    codes = model.encode(tables, vae)
    given = engine(
        """[encode({ encoder: network(encoder) }, tables, 2000),
            ...[codes, z].map((latents) => decode(network(decoder), latents, 2000))]
           .map((found) => Array.from(found))""",
        encoder=explore.layers(model.encoder(vae)),
        decoder=explore.layers(model.decoder(vae)),
        tables=(tables + 1).flatten().tolist(),
        codes=codes.flatten().tolist(),
        z=z.flatten().tolist(),
    )
    assert np.allclose(given[0], codes.flatten(), rtol=1e-4, atol=1e-5)
    for found, latents in zip(given[1:], (codes, z), strict=True):
        assert found == indices(model.decoder(vae)(latents), "argmax").tolist()
    assert len(set(given[2])) > 20, "a decoder that ignores its latents would pass"


def test_an_operation_has_the_same_number_and_equal_logits_mean_the_first(engine):
    assert engine("tableOf(12345)") == (all_operations()[12_345] + 1).tolist()
    assert engine("indexOf(tableOf(12345))") == 12_345
    assert engine("ceiling(50000)") == pytest.approx(ceiling(50_000), rel=1e-9)
    logits = [*(0, 0, 0), *(1, 1, 0), *(0, 1, 1), *(1, 0, 1)]
    assert engine("Array.from(classes(logits))", logits=logits) == [0, 0, 1, 0]


def test_only_a_hundred_is_printed_as_a_hundred(engine):
    values = [100, 99.5, 99.96, 99.996, 100 - 2**-46, 100.004]
    printed = engine("values.map((value) => percent(value, 2))", values=values)
    assert printed == ["100.00", "99.50", "99.96", "99.996", "99.99999999999999", "100.00"]


def test_random_numbers_are_those_of_torch(engine):
    """Past the 624 numbers of the twister's state."""
    rng = generator(7, "explore")
    drawn = "[twister(seed)].map((next) => [[...normals(next, 960)], [...uniforms(next, 99)]])[0]"
    normal, uniform = engine(drawn, seed=explore._seed(rng))
    assert np.allclose(normal, torch.randn(60, 16, generator=rng).flatten(), atol=1e-5)
    assert uniform == torch.rand(99, generator=rng).tolist()


@pytest.mark.parametrize(("model", "vae"), [(UNTRAINED, "A"), (UNTRAINED, "B"), (IMPROVED, "A")])
def test_the_untrained_decoder_is_the_benchmarks(engine, model, vae):
    loaded = checkpoints.Checkpoint(model, "any weights", "0" * 64, {}, {})
    held = read(explore.page(loaded, **SEEDS))["vaes"][vae]
    expected = explore.layers(model.untrained(SEEDS["untrained_seed"]).decoder(vae))
    values = f"[untrained(held), network(expected)].map({WEIGHTS})"
    found, truth = engine(values, held=held, expected=expected)
    assert len(found) == len(truth) and np.allclose(found, truth, rtol=0, atol=1e-7)


def test_the_interval_is_that_of_a_perfect_generator(engine):
    rng = np.random.default_rng(0)
    counts = [np.bincount(rng.integers(M, size=50_000)).astype(bool).sum() for _ in range(400)]
    assert engine("spread(50000)") == pytest.approx(np.std(counts), rel=0.15)


@pytest.mark.parametrize("mode", ["argmax", "categorical"])
def test_its_counts_are_those_of_the_benchmarks_trial(engine, mode):
    """Float32 decides otherwise only for latents at a boundary: at most 3 of 20,000 counts."""
    data, n = read(explore.page(SHIPPED, **SEEDS)), 50_000
    settings = {"seed": data["vaes"]["A"]["trials"][1], "categorical": mode == "categorical"}
    settings |= {"n": n, "ns": data["ns"], "chunk": data["chunk"]}
    last = """[...coverage([network(held.decoder), untrained(held)], settings)].at(-1)
      .map((run) => [run.drawn, run.count, run.seen.reduce((sum, s) => sum + s)])"""
    found = engine(last, held=data["vaes"]["A"], settings=settings)
    for (drawn, count, lit), model in zip(found, (SHIPPED.model, UNTRAINED), strict=True):
        rng = generator(SEEDS["seed"], "coverage", "A", 1)
        expected = distinct(model.decoder("A"), explore.DRAWS[:2], DECODING_MODES, rng)[mode, n]
        assert drawn == n and count == lit and abs(count - expected) <= 3


def test_the_page_is_small_and_the_same_for_the_same_checkpoint():
    page = explore.page(SHIPPED, **SEEDS)
    assert page == explore.page(SHIPPED, **SEEDS) and len(page.encode()) < 1_000_000
    assert "recipe axis_aligned" in page and "unsafe" not in page
    assert SHIPPED.sha256 in page and "http://" not in page and "https://" not in page
    assert [len(vae["active"]) for vae in read(page)["vaes"].values()] == [9, 9]


def test_any_checkpoint_has_the_page_and_its_path_is_only_text():
    manifest = {"imported": {"file": "mine.pt"}}
    loaded = checkpoints.Checkpoint(IMPROVED, "<b>mine", "0" * 64, manifest, {})
    page = explore.page(loaded, **SEEDS)
    assert set(read(page)["vaes"]) == {"A"} and 'value="B"' not in page
    assert "<b>mine" not in page and "&lt;b&gt;mine" in page and "epoch not recorded" in page
    assert "v5.x checkpoint, layout v5.12.4 improved" in page
    with pytest.raises(TypeError, match="cannot run Tanh"):
        explore.layers(torch.nn.Tanh())


def test_a_browser_shows_it_asks_nobody_and_says_nothing(tmp_path, record_property):
    """A slider moved by key, and 50,000 draws. Where no browser is, there is nothing to be red of:
    the test passes, and the summary says in a line of its own that it checked nothing."""
    if browser.chromium() is None:
        record_property("not checked", "no Chromium or Chrome here opens explore.html")
        return
    with browser.opened(explore.write(SHIPPED, tmp_path / "explore.html", **SEEDS)) as page:
        assert page.value("$('name').textContent") == "AND (min)"
        assert "−1, over 99.9 % likely" in page.value("$('entry0').ariaLabel")
        page.value("document.querySelector('#active input').focus()")
        page.key("End", 35)
        assert page.value("document.querySelectorAll('.changed').length") == 1
        latent = page.value("document.activeElement.id")[1:]
        assert page.value("$('said').textContent").startswith(f"Latent {latent} moved: entry a")
        page.value("$('entry0').click()")
        assert "all nine entries are reconstructed" in page.value("$('said').textContent")
        page.value("$('draw').click()")
        assert 0 < page.value("$('progress').value") < 1, "the page answers while it draws"
        ours, untrained = page.value(browser.DRAWN)
        assert page.value("$('progress').value") == 1 and untrained < ceiling(50_000) / 2
        said = f"reached {ours:,} operations, within the range of a perfect generator (18,131 ± 66)"
        assert said in page.value("$('verdict').textContent")
    browser.assert_silent(page)
