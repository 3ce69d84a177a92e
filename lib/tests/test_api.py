import doctest
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import same, sentence

import fluxttice_core
from fluxttice_core import InputError, TernaryVAE, all_operations, api, load
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.metrics.controls import random_linear
from fluxttice_core.metrics.coverage import ceiling, coverage
from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.model import network
from fluxttice_core.model.network import DECODING_MODES, VAES, D, DualVAE, prior
from fluxttice_core.model.operations import M, T
from fluxttice_core.model.streams import generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.save(tmp_path_factory.mktemp("api") / "saved", DualVAE.fresh(1), 7, {})


@pytest.fixture(scope="module")
def vae(folder):
    return load(folder)


@pytest.fixture(scope="module")
def perfect(folder):
    return load(checkpoints.save(folder.parent / "perfect", oracle(), 1, {}))


def test_loading_gives_the_saved_model_and_says_which(vae, folder, untrained):
    assert same(vae.model.state_dict(), untrained.state_dict())
    assert vae.checkpoint.sha256[:12] in repr(vae) and "epoch=7" in repr(vae)
    assert "sha256" in sentence(load, folder, "0" * 64)


@pytest.mark.parametrize("name", VAES)
def test_the_verbs_give_what_they_promise_of_either_vae(vae, perfect, name):
    codes = vae.encode(all_operations()[:100].tolist(), name)
    assert codes.shape == (100, D) and codes.dtype == torch.float32
    assert codes.isfinite().all() and not codes.requires_grad
    for mode in DECODING_MODES:
        for ops in (
            vae.decode(torch.zeros(5, D), mode, name, seed=1),
            vae.sample(5, mode, name, seed=1),
        ):
            assert ops.shape == (5, T) and ops.dtype == torch.int64
            assert set(ops.unique().tolist()) <= {-1, 0, 1}
    ops = all_operations()[::7]
    assert torch.equal(perfect.decode(perfect.encode(ops, name), vae=name), ops)


def test_a_vae_must_be_named_where_there_are_two_and_only_there(vae):
    """Latents of A mean nothing to B, so neither is chosen in silence."""
    ops, z = all_operations()[:50], torch.zeros(1, D)
    verbs = (
        lambda v, *name: v.encode(ops, *name),
        lambda v, *name: v.decode(z, "argmax", *name),
        lambda v, *name: v.sample(50, "categorical", *name, seed=1),
    )
    alone = DualVAE.fresh(1)
    alone.vaes = ("A",)
    single = TernaryVAE(replace(vae.checkpoint, model=alone))
    for verb in verbs:
        assert "must be 'A' or 'B', because" in sentence(verb, vae)
        assert torch.equal(verb(single), verb(single, "A"))
    assert single.coverage_report([50], "argmax", trials=2)["vae"].tolist() == ["A"]


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(api, raise_on_error=True).attempted >= 6


def test_a_seed_decides_what_decoding_draws(vae):
    z = torch.zeros(50, D)
    one, again, other = (vae.decode(z, "categorical", "A", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("mode", DECODING_MODES)
def test_a_seeds_sample_is_the_same_whatever_torch_is_set_to(perfect, folder, monkeypatch, mode):
    """And in parts: its latents are the prior's, drawn before all else. Training mode, too, changes
    nothing."""
    expected = perfect.sample(1_000, mode, "B", seed=3)
    rng = generator(3, "sample", "B")
    assert torch.equal(perfect.model.decode(prior(1_000, rng), "B", mode, rng), expected)
    assert not torch.equal(perfect.sample(1_000, mode, "B", seed=4), expected)
    monkeypatch.setattr(network, "CHUNK", 300)
    assert torch.equal(perfect.sample(1_000, mode, "B", seed=3), expected)
    threads = torch.get_num_threads()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        with torch.autocast("cpu", torch.bfloat16):
            loaded = load(folder.parent / "perfect")
            loaded.model.train()
            assert torch.equal(loaded.sample(1_000, mode, "B", seed=3), expected)
            codes = loaded.encode(expected, "B")
            assert codes.dtype == torch.float32 and torch.equal(
                codes, perfect.encode(expected, "B")
            )
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


LARGE = """
import resource, sys
from fluxttice_core import load
load(sys.argv[1]).sample(1_000_000, vae="A", seed=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_help_waits_for_no_torch():
    asked = "import sys, fluxttice_core.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", asked], check=True)


def test_the_package_names_what_it_has():
    assert set(dir(fluxttice_core)) == set(fluxttice_core.__all__)


def test_ten_million_operations_need_less_than_a_gigabyte_and_a_half(folder):
    done = subprocess.run([sys.executable, "-c", LARGE, folder], capture_output=True, check=True)
    rest = 9_000_000 * T * 8  # only the result grows with n
    assert int(done.stdout) * 1_024 + rest < 1.5e9


NOISE = DualVAE.fresh, random_linear


@pytest.mark.parametrize("seed", [50, 51, 52])
@pytest.mark.parametrize("make", NOISE)
def test_what_has_learnt_nothing_does_not_discriminate(vae, make, seed):
    noise = TernaryVAE(replace(vae.checkpoint, model=make(seed)))
    report = noise.coverage_report([10_000], "argmax", trials=3, seed=np.uint8(50))
    assert not report["discriminates"].any()


def test_the_report_is_the_coverage_of_each_vae_beside_noise(vae):
    report = vae.coverage_report([100, 500], trials=3, seed=6)
    keys = report[["vae", "decode", "n"]].itertuples(index=False, name=None)
    assert list(keys) == [(v, h, n) for v in VAES for h in DECODING_MODES for n in (100, 500)]
    pd.testing.assert_series_equal(report["share"], report["unique"] / M, check_names=False)
    of_ceiling = report["unique"] / ceiling(report["n"])
    pd.testing.assert_series_equal(report["of_ceiling"], of_ceiling, check_names=False)
    for name in VAES:
        [row] = report.query("vae == @name and decode == 'argmax' and n == 500").to_dict("records")
        ours, *noise = (
            coverage(
                m.decoder(name), [100, 500], modes=DECODING_MODES, trials=3, seed=6, stream=name
            )[1].unique
            for m in (vae.model, *(make(s) for make in NOISE for s in range(6, 11)))
        )
        found = [row[key] for key in ("trials", "unique", "ci95_low", "ci95_high")]
        assert found == [3, ours.value, ours.low, ours.high]
        assert row["noise_unique"] == pytest.approx(max(one.value for one in noise), abs=15)
        assert row["discriminates"] == (ours.low > row["noise_unique"])


def test_a_vae_alone_has_the_rows_it_has_in_the_whole_report(vae):
    whole, b = vae.coverage_report([300], trials=2), vae.coverage_report([300], vae="B", trials=2)
    pd.testing.assert_frame_equal(whole.query("vae == 'B'").reset_index(drop=True), b)
    torch.set_default_dtype(torch.float64)
    try:
        pd.testing.assert_frame_equal(vae.coverage_report([300], vae="B", trials=2), b)
    finally:
        torch.set_default_dtype(torch.float32)


FORKED = """
import os, signal, sys, torch
torch.set_num_threads(2)
from fluxttice_core import load
model = load(sys.argv[1])

def use():
    model.decode(model.encode(model.sample(20_000, vae="A", seed=1), vae="A"), vae="A")
    model.coverage_report([20_000], "argmax", "A", trials=2)

use()
assert torch.get_num_threads() == 2
child = os.fork()
signal.alarm(40)  # ends either if it waits for ever
use()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_worker_computes_on_because_the_verbs_start_no_threads(folder):
    """With two threads in the parent the child waits for ever."""
    done = subprocess.run([sys.executable, "-c", FORKED, folder], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_report_that_takes_long_shows_how_far_it_is(vae, monkeypatch, capsys):
    vae.coverage_report([10], trials=2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(api, "QUIET_S", 0)
    vae.coverage_report([10], trials=2)
    captured = capsys.readouterr()
    assert "coverage" in captured.err and "/22" in captured.err and not captured.out


def test_only_argmax_can_tell_a_perfect_model_from_noise(perfect, vae):
    """A uniform generator is at the categorical ceiling, so nothing is above every control."""
    report = perfect.coverage_report([10_000])
    assert report["of_ceiling"].between(0.98, 1.02).all()
    assert report["discriminates"].tolist() == [
        mode == "argmax" for _ in VAES for mode in DECODING_MODES
    ]
    noise = vae.coverage_report([20_000], "categorical", trials=3)
    assert (noise["of_ceiling"] > 0.9).all() and not noise["discriminates"].any()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda v: v.encode([[0] * 9], torch.zeros(2)), "vae is tensor"),
        (lambda v: v.encode([[0] * 8], "A"), "shape (1, 8)"),
        (lambda v: v.decode([[0.0] * D], vae="b"), "vae is 'b'"),
        (lambda v: v.decode(torch.zeros(D), vae="A"), "wrap a single row in a list"),
        (lambda v: v.decode([[1e39] * D], vae="A"), "not finite"),
        (lambda v: v.decode([[0.0] * D, [0.0]], vae="A"), "z must be an array of numbers"),
        (lambda v: v.decode(torch.zeros(1, D), "best", "A"), "mode is 'best'"),
        (lambda v: v.decode(torch.zeros(1, D), "categorical", "A"), "seed"),
        (lambda v: v.sample(5, torch.zeros(3), "A", seed=1), "mode is tensor"),
        (lambda v: v.sample(5, vae="A", seed="one"), "seed is 'one'"),
        (lambda v: v.sample(5, vae="A", seed=True), "seed is True"),
        *[(lambda v, n=n: v.sample(n, vae="A", seed=1), f"n is {n!r}") for n in (
            0, 2.5, True, "9", 10**8 + 1,
        )],
        (lambda v: v.coverage_report([10], None), "mode holds None"),
        (lambda v: v.coverage_report([10], ["likely"]), "mode holds 'likely'"),
        (lambda v: v.coverage_report([10], vae="C"), "vae is 'C'"),
        (lambda v: v.coverage_report([10], trials=None), "trials is None"),
        (lambda v: v.coverage_report([10], trials=1), "trials is 1"),
        (lambda v: v.coverage_report([10], seed=None), "seed is None"),
        *[(lambda v, ns=ns: v.coverage_report(ns), f"ns is {ns}") for ns in (
            None, 50, [], [0], [10, -1], [1.5], [True], [None],
        )],
    ],
)  # fmt: skip
def test_bad_input_is_named_in_one_sentence(vae, call, words):
    text = sentence(call, vae)
    assert words in text
    assert InputError(text)._render_traceback_() == [f"InputError: {text}"]  # as in a notebook
