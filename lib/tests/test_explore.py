"""explore.html: what the page computes is what the library computes, and a browser shows it."""

import json

import numpy as np
import pytest
import torch
from planted import ceiling
from py_mini_racer import MiniRacer
from scipy import stats
from test_layouts import STATES

import browser
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.checkpoints.layouts import network_of
from fluxttice_core.metrics.coverage import indices
from fluxttice_core.model.network import DualVAE, prior
from fluxttice_core.model.operations import C, M, T, all_operations
from fluxttice_core.model.streams import generator
from fluxttice_core.report import explore

ATOB = """const atob = (text) => // which an engine without a browser lacks
  Array.from(Uint8Array.fromBase64(text), (byte) => String.fromCharCode(byte)).join("");"""
TYPED = "$('typed').value = '%s', $('typed').dispatchEvent(new Event('input'))"
FAST = """new Promise((done) => {
  const script = [$("engine").textContent, "postMessage(fast !== null)"];
  new Worker(URL.createObjectURL(new Blob(script))).onmessage = ({ data }) => done(data);
})"""  # whether the page's policy lets its workers use WebAssembly
SHIPPED = checkpoints.load("checkpoints/certified")
IMPROVED = network_of(STATES["v5.12.4 improved"][0], "improved")  # LayerNorm, SiLU, and only A
ENGINE = (explore.TEMPLATE / "engine.js").read_text("utf-8")
MODELS = [(SHIPPED.model, "A"), (SHIPPED.model, "B"), (DualVAE.fresh(1), "B"), (IMPROVED, "A")]


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


def test_where_there_is_no_webassembly_the_numbers_are_the_same_to_the_last_bit(engine):
    asked = """[fast !== null, ...[1, 100].map((n) =>
      Array.from(run(network(layers), normals(generator(1, 2), 16 * n), n)))]"""
    layers = explore.layers(SHIPPED.model.decoder("B"))
    without = script(f"{ATOB}; delete globalThis.WebAssembly; {ENGINE}")
    [no, *plain], [yes, *fast] = (each(asked, layers=layers) for each in (without, engine))
    assert (no, yes) == (False, True) and plain == fast and len(fast[1]) == 100 * T * C


def test_an_operation_has_the_same_number_and_equal_logits_mean_the_first(engine):
    assert engine("tableOf(12345)") == (all_operations()[12_345] + 1).tolist()
    assert engine("indexOf(tableOf(12345))") == 12_345
    logits = [*(0, 0, 0), *(1, 1, 0), *(0, 1, 1), *(1, 0, 1)]
    assert engine("Array.from(classes(logits))", logits=logits) == [0, 0, 1, 0]


def test_only_a_hundred_is_printed_as_a_hundred(engine):
    values = [100, 99.5, 99.96, 99.996, 100 - 2**-46, 100.004]
    printed = engine("values.map((value) => percent(value, 2))", values=values)
    assert printed == ["100.00", "99.50", "99.96", "99.996", "99.99999999999999", "100.00"]


def test_the_page_draws_from_the_distributions_that_it_names(engine):
    z = np.array(engine("Array.from(normals(generator(7, 0), 200000))"))
    assert stats.kstest(z, "norm").pvalue > 0.01
    pairs = np.corrcoef(z[:-1], z[1:])[0, 1], np.corrcoef(abs(z[::2]), abs(z[1::2]))[0, 1]
    assert max(map(abs, pairs)) < 4 / len(z[::2]) ** 0.5
    others = engine("[generator(7, 1)(), generator(8, 0)(), generator(7 + 2 ** 32, 0)()]")
    assert len({*others, engine("generator(7, 0)()")}) == 4
    p = np.array([0.2, 0.3, 0.5])
    logits = np.log(p).tolist() * 60_000
    drawn = engine("Array.from(classes(logits, generator(7, 3)))", logits=logits)
    assert stats.chisquare(np.bincount(drawn, minlength=C), p * 60_000).pvalue > 0.01


def test_its_untrained_network_begins_as_pytorch_begins_one(engine):
    fresh = "Array.from(fresh(layer, generator(3, 1)))"
    linear, norm = explore.layers(IMPROVED.decoder("A"))[:2]
    untrained = DualVAE.fresh(3).decoder_B.residual1.block[0]
    page = np.array(engine(fresh, layer=explore.layers(untrained)[0]))
    torchs = torch.cat([p.detach().flatten() for p in untrained.parameters()]).numpy()
    assert len(page) == len(torchs) and abs(page).max() <= 128**-0.5
    assert stats.ks_2samp(page, torchs).pvalue > 0.01
    assert len(engine(fresh, layer=linear)) == 17 * 32
    assert engine(fresh, layer=norm) == [1] * 32 + [0] * 32
    numbers = "decode(network(decoder, generator(1, 1)), normals(generator(1, 2), 16 * 9), 9)"
    decoders = (explore.layers(model.decoder("B")) for model in (SHIPPED.model, DualVAE.fresh(3)))
    ours, another = (engine(numbers, decoder=decoder) for decoder in decoders)
    assert ours == another, "a weight that was learnt is still there"


def test_the_interval_is_that_of_a_perfect_generator(engine):
    rng = np.random.default_rng(0)
    counts = [np.bincount(rng.integers(M, size=50_000)).astype(bool).sum() for _ in range(400)]
    assert engine("ceiling(50000)") == pytest.approx(ceiling(50_000), rel=1e-9)
    assert engine("spread(50000)") == pytest.approx(np.std(counts), rel=0.15)


@pytest.mark.parametrize(("vae", "n"), [("A", 50_000), ("B", 5_000)])
def test_the_shipped_network_reaches_the_ceiling_and_the_untrained_one_does_not(engine, vae, n):
    """B is five times as slow. All but its layers is the same for both."""
    asked = """[network(decoder), network(decoder, generator(1, 1))].map((each) => {
      const run = new Coverage(each, 1, false);
      while (run.drawn < n) run.draw(100);
      return [run.count, run.seen.reduce((sum, s) => sum + s)];
    })"""
    ours, untrained = engine(asked, decoder=explore.layers(SHIPPED.model.decoder(vae)), n=n)
    assert ours[0] == ours[1] and untrained[0] == untrained[1]
    assert abs(ours[0] - ceiling(n)) < 1.96 * engine("spread(n)", n=n)
    assert untrained[0] < ceiling(n) / 2


def test_the_page_is_small_and_the_same_for_the_same_checkpoint():
    page = explore.page(SHIPPED)
    assert page == explore.page(SHIPPED) and len(page.encode()) < 1_000_000
    assert SHIPPED.sha256 in page and "http://" not in page and "https://" not in page
    assert [len(vae["active"]) for vae in read(page)["vaes"].values()] == [9, 9]


def test_any_checkpoint_has_the_page_and_its_path_is_only_text():
    page = explore.page(checkpoints.Checkpoint(IMPROVED, "<b>mine", "0" * 64, {}))
    assert set(read(page)["vaes"]) == {"A"} and 'value="B"' not in page
    assert "<b>mine" not in page and "&lt;b&gt;mine" in page and "epoch not recorded" in page
    with pytest.raises(TypeError, match="cannot run Tanh"):
        explore.layers(torch.nn.Tanh())


def test_a_browser_shows_it_asks_nobody_and_says_nothing(tmp_path, record_property):
    """A slider moved by key, and 50,000 draws. Where no browser is, there is nothing to be red of:
    the test passes, and the summary says in a line of its own that it checked nothing."""
    if browser.chromium() is None:
        record_property("not checked", "no Chromium or Chrome here opens explore.html")
        return
    with browser.opened(explore.write(SHIPPED, tmp_path / "explore.html")) as page:
        assert page.value("$('name').textContent") == "AND (min)"
        assert "−1, over 99.9 % likely" in page.value("$('entry0').ariaLabel")
        page.value("document.querySelector('#active input').focus()")
        page.key("End", 35)
        assert page.value("document.querySelectorAll('.changed').length") == 1
        latent = page.value("document.activeElement.id")[1:]
        assert page.value("$('said').textContent").startswith(f"Latent {latent} moved: entry a")
        page.value(TYPED % "+-0 000 0-1")
        assert page.value("$('typed').ariaInvalid") == "true"
        page.value(TYPED % "−1 0 1 000 +-0")
        assert page.value("table.join('')") == "012111201"
        assert page.value(FAST)
        page.value("$('draw').click()")
        ours, untrained = page.value(browser.DRAWN)
        margin = 1.96 * page.value("spread(50000)")
        assert abs(ours - ceiling(50_000)) < margin and untrained < ceiling(50_000) / 2
        said = f"reached {ours:,} operations, within what chance allows a perfect generator (18,131"
        assert f"{said} ± 66)" in page.value("$('verdict').textContent")
    browser.assert_silent(page)
