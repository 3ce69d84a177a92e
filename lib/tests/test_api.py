import fluxttice_core
import pandas as pd
import pytest
import torch
from fluxttice_core import InputError
from fluxttice_core import all_operations
from fluxttice_core import api
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core import load
from fluxttice_core.metrics.coverage import ceiling, coverage
from fluxttice_core.model.network import HOW, VAES, D, DualVAE
from fluxttice_core.model.operations import M, T


@pytest.fixture
def vae(saved):
    return load(saved)


@pytest.fixture
def perfect(tmp_path, perfect_model):
    return load(checkpoint.save(tmp_path / "perfect", perfect_model, 1, {}))


def test_what_is_public_is_there():
    assert all(hasattr(fluxttice_core, name) for name in fluxttice_core.__all__)


def test_loading_gives_the_saved_model_and_says_which(vae, saved, untrained):
    weights = untrained.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in vae.model.state_dict().items())
    assert vae.checkpoint.sha256[:12] in repr(vae) and "epoch=7" in repr(vae)
    again = load(str(saved), vae.checkpoint.sha256)
    assert again.checkpoint.record() == vae.checkpoint.record()


def test_a_wrong_hash_is_refused(saved):
    with pytest.raises(InputError, match="sha256"):
        load(saved, "0" * 64)


@pytest.mark.parametrize("name", VAES)
def test_encode_gives_finite_means(vae, name):
    codes = vae.encode(all_operations()[:100], name)
    assert codes.shape == (100, D) and codes.dtype == torch.float32
    assert codes.isfinite().all() and not codes.requires_grad
    assert torch.equal(codes, vae.encode(all_operations()[:100].tolist(), name))


@pytest.mark.parametrize("name", VAES)
@pytest.mark.parametrize("how", HOW)
def test_decode_and_sample_give_operations(vae, name, how):
    for ops in (vae.decode(torch.zeros(5, D), how, name, seed=1), vae.sample(5, how, name, seed=1)):
        assert ops.shape == (5, T) and ops.dtype == torch.int64
        assert set(ops.unique().tolist()) <= {-1, 0, 1}


def test_b_is_meant_where_none_is_named(vae):
    ops, z = all_operations()[:50], 3 * torch.eye(D)
    for verb in (
        lambda *name: vae.encode(ops, *name),
        lambda *name: vae.decode(z, "argmax", *name),
        lambda *name: vae.sample(50, "categorical", *name, seed=1),
    ):
        assert torch.equal(verb(), verb("B"))
        assert not torch.equal(verb(), verb("A"))


@pytest.mark.parametrize("name", VAES)
def test_a_perfect_checkpoint_returns_what_it_is_given(perfect, name):
    ops = all_operations()[::7]
    assert torch.equal(perfect.decode(perfect.encode(ops, name), vae=name), ops)


@pytest.mark.parametrize("how", HOW)
def test_the_same_seed_gives_the_same_draw(perfect, how):
    one, same, other = (perfect.sample(50, how, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    z = torch.zeros(50, D)
    assert torch.equal(perfect.decode(z, how, seed=1), perfect.decode(z, how, seed=1))


def test_the_verbs_leave_the_global_stream_alone(vae):
    before = torch.get_rng_state()
    vae.sample(10, "categorical", seed=1)
    vae.encode(all_operations()[:3])
    vae.coverage_report([10], trials=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_report_has_a_row_for_each_vae_mode_and_number(vae):
    report = vae.coverage_report([100, 1_000], trials=3)
    assert list(report.columns) == [
        "vae", "decode", "n", "trials", "unique", "share", "of_ceiling", "ci95_low", "ci95_high",
        "untrained_unique", "discriminates",
    ]  # fmt: skip
    keys = report[["vae", "decode", "n"]].itertuples(index=False, name=None)
    assert list(keys) == [(v, h, n) for v in VAES for h in HOW for n in (100, 1_000)]
    assert (report["trials"] == 3).all()
    assert (report["ci95_low"] <= report["unique"]).all()
    assert (report["unique"] <= report["ci95_high"]).all()
    pd.testing.assert_series_equal(report["share"], report["unique"] / M, check_names=False)
    of_ceiling = report["unique"] / ceiling(report["n"])
    pd.testing.assert_series_equal(report["of_ceiling"], of_ceiling, check_names=False)
    assert report["discriminates"].dtype == bool


def test_the_report_is_the_coverage_of_the_model_beside_fresh_weights(vae):
    [row] = vae.coverage_report([500], ["argmax"], trials=4, seed=6).iloc[1:].to_dict("records")
    options = {"how": ["argmax"], "trials": 4, "seed": 6, "stream": "B"}
    [ours] = coverage(vae.model.decoder_B, [500], **options)
    [control] = coverage(DualVAE.fresh(6).decoder_B, [500], **options)
    assert (row["vae"], row["unique"]) == ("B", ours["unique"])
    assert [row["ci95_low"], row["ci95_high"]] == ours["ci95"]
    assert row["untrained_unique"] == control["unique"]
    assert row["discriminates"] == (ours["ci95"][0] > control["ci95"][1])


def test_a_perfect_model_is_above_the_untrained_by_argmax(perfect):
    report = perfect.coverage_report([10_000], ["argmax", "categorical"])
    above = report.set_index(["vae", "decode"])["discriminates"]
    assert above["A", "argmax"] and above["B", "argmax"]
    assert report["of_ceiling"].between(0.98, 1.02).all()


def test_noise_is_never_above_noise(vae):
    """Fresh weights nearly reach the ceiling categorically, and that must not count for them."""
    report = vae.coverage_report([20_000], ["categorical"], trials=3)
    assert (report["of_ceiling"] > 0.9).all()
    assert not report["discriminates"].any()


def test_sampling_categorically_never_discriminates(perfect):
    """A uniform generator is at the ceiling that way, so nothing is above every control."""
    report = perfect.coverage_report([10_000], ["categorical", "expectation"])
    assert (report["unique"] > 0.98 * ceiling(10_000)).all()
    assert not report["discriminates"].any()


def test_the_report_depends_on_its_seed_alone(vae):
    one, same, other = (vae.coverage_report([1_000], trials=2, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda v: v.encode([[2] * 9]), "outside"),
        (lambda v: v.encode([[0] * 8]), "shape (1, 8)"),
        (lambda v: v.encode([[0] * 9], "C"), "vae is 'C'"),
        (lambda v: v.decode([[0.0] * 15]), "shape (1, 15)"),
        (lambda v: v.decode([[float("nan")] * D]), "not finite"),
        (lambda v: v.decode([["a"] * D]), "z "),
        (lambda v: v.decode([[0.0] * D], "likely"), "how is 'likely'"),
        (lambda v: v.decode([[0.0] * D], "categorical"), "seed"),
        (lambda v: v.decode([[0.0] * D], vae="b"), "vae is 'b'"),
        (lambda v: v.sample(0, seed=1), "n is 0"),
        (lambda v: v.sample(1.5, seed=1), "n is 1.5"),
        (lambda v: v.sample(5, "likely", seed=1), "how is 'likely'"),
        (lambda v: v.sample(5, vae="C", seed=1), "vae is 'C'"),
        (lambda v: v.sample(5, seed="one"), "seed is 'one'"),
        (lambda v: v.coverage_report([0]), "ns is [0]"),
        (lambda v: v.coverage_report([]), "ns is []"),
        (lambda v: v.coverage_report([10], trials=1), "trials is 1"),
        (lambda v: v.coverage_report([10], ["likely"]), "likely"),
    ],
)
def test_bad_input_is_named_in_one_sentence(vae, call, words):
    with pytest.raises(InputError) as caught:
        call(vae)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_notebook_shows_the_sentence_and_no_traceback():
    assert InputError("n is 0.")._render_traceback_() == ["InputError: n is 0."]
    assert api.load is load


def test_a_report_takes_one_mode_by_name_and_no_single_number(vae):
    assert set(vae.coverage_report([50], "argmax", trials=2)["decode"]) == {"argmax"}
    with pytest.raises(InputError, match="ns is 50, but must be numbers of draws"):
        vae.coverage_report(50)
