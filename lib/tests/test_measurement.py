"""The whole measurement of the oracle, whose answers are known, beside planted controls."""

import math

import pandas as pd
import pytest
import torch
from planted import LN3, same

from fluxttice_core import benchmark, files, sweep
from fluxttice_core.benchmark import NETWORKS, ORACLE, UNTRAINED, Benchmark
from fluxttice_core.metrics.controls import CONTROLS
from fluxttice_core.metrics.evaluation import Evaluation
from fluxttice_core.metrics.intervals import prediction_interval
from fluxttice_core.metrics.marginal import MIN_LATENTS
from fluxttice_core.metrics.measurement import (
    DRAWS,
    METRICS,
    MODEL,
    compare,
    control_ranges,
    measure,
)  # fmt: skip
from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.metrics.results import Row
from fluxttice_core.model.network import DECODING_MODES, VAES, D, Network
from fluxttice_core.model.operations import M, T

P = Benchmark(
    seed=5, run_dir="", checkpoint="x", expected_sha256="", split_seed=42, k=MIN_LATENTS,
    untrained_seed=1_000, trials=5, against="",
)  # fmt: skip
RECORD = {"path": "x", "epoch": 1, "sha256": "0"}


def row(network, vae, interval, seed=0, metric="generator_information"):
    """A metric that has this (low, high), or None where it is undefined."""
    low, high = interval or (None, None)
    value = None if low is None else (low + high) / 2
    return Row(
        network=network, seed=seed, vae=vae, metric=metric,
        value=value, low=low, high=high, n=1, method="planted",
    )  # fmt: skip


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """Stores controls whose every metric is 0, by these parameters."""
    place = tmp_path_factory.mktemp("controls") / "controls.csv"

    def planted(**changes):
        points = benchmark.control_points(P.model_copy(update=changes))
        rows = [
            row(x["network"], x["vae"], (0, 0), x["seed"], m).model_dump() | {"key": sweep.key(x)}
            for x in points
            for m in METRICS
        ]
        pd.DataFrame(rows).assign(measured_utc="then").to_csv(place, index=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "path", lambda _name: place)
        yield planted


# --- The whole, of the oracle ---


@pytest.fixture(scope="module")
def whole(plant, tmp_path_factory):
    """By two workers, with stored controls of this code; and the steps it reported."""
    plant()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "measured_controls", None)
        found = benchmark.run(oracle(), RECORD, P, (steps := []).append)
    stored = benchmark.store(found, tmp_path_factory.mktemp("benchmark") / benchmark.DOCUMENT)
    assert stored == found
    return stored, steps


def test_every_metric_of_every_vae_is_a_row(whole):
    document, steps = whole
    frame = document.frame
    assert document.controls_measured == "then" and any("VAE-B" in step for step in steps)
    assert not frame.duplicated(["network", "seed", "vae", "metric"]).any()
    assert {*frame.network} == {MODEL, *NETWORKS}
    sampled = {f"sampled_{how}_coverage_{n}" for how in DECODING_MODES for n in DRAWS}
    groups = {f"exact_match_on_{name}" for name in ("unseen", "test", "sparse", "dense")}
    for vae in VAES:
        mine = frame[(frame.network == MODEL) & (frame.vae == vae)]
        assert list(mine.metric[mine.metric.isin(METRICS)]) == list(METRICS)
        assert mine.seed.isna().all()
        assert {*mine.metric} >= sampled | groups | {"exact_match_at_sigma_1.0", "kl_dimension_15"}
        assert mine.metric.str.startswith("categorical_distinct_").sum() == 55


BEST = {  # name: how near to 1 it is; or (the truth, how near to it)
    "exact_match": 0, "exact_match_test": 0, "exact_match_sampled": 1e-4, "mig": 2e-3,
    "mi_disentanglement": 2e-3, "argmax_entropy": 1e-4, "argmax_coverage_10000": 1e-3,
    "argmax_coverage_50000": 1e-3, "argmax_coverage_195000": 1e-4, "path_consistency": 0,
    "agreement_float64": 0, "agreement_small_batches": 0, "least_frequency": 0.9,
    "largest_frequency": 1.5, "categorical_coverage_10000": 1e-3,
    "categorical_coverage_50000": 1e-3, "categorical_coverage_195000": 1e-3,
    "inverse_simpson": 2e-3, "generator_information": 2e-3, "rate": (17.1403, 1e-4),
    "least_rate": (17.14, 0.5), "kl_to_uniform": (0, 1e-3), "nll": (math.log(M), 2e-3),
    "encoder_information": (math.log(M), 0.25), "aggregate_kl": (17.14 - math.log(M), 0.6),
    "active_units": (T, 0), "latent_entropy": (T * LN3 / 16, 1e-6),
}  # fmt: skip
TRUTHS = {name: x if isinstance(x, tuple) else (1, x) for name, x in BEST.items()}


@pytest.mark.parametrize("vae", VAES)
def test_the_oracle_has_the_values_that_its_weights_give(whole, vae):
    """By hand, but for distortion and ELBO, which weigh rare errors by their logits."""
    frame = whole[0].frame
    mine = frame[(frame.network == MODEL) & (frame.vae == vae)].set_index("metric")
    found = mine.value
    assert METRICS.keys() == TRUTHS.keys() | {"elbo", "distortion"}
    wrong = {k: found[k] for k, (x, within) in TRUTHS.items() if abs(found[k] - x) > within}
    assert wrong == {}
    kl = [found[f"kl_dimension_{j}"] for j in range(D)]
    assert kl == pytest.approx([17.14 / T] * T + [0] * (D - T), abs=1e-3)
    assert found["elbo"] == pytest.approx(-found["rate"] - found["distortion"])
    assert mine.n["exact_match_test"] == 1_969
    for how in ("argmax", "categorical"):
        for n in DRAWS:
            sampled = found[f"sampled_{how}_coverage_{n}"]
            assert sampled == pytest.approx(found[f"{how}_coverage_{n}"], abs=0.01)


def test_workers_and_order_change_no_figure_and_measuring_no_weight(whole):
    model, before = oracle(), oracle().state_dict()
    wanted = ["path_consistency", "encoder_information", "exact_match_sampled", "argmax_entropy"]

    def found(seed, names):
        return measure(Evaluation(model, "A", MIN_LATENTS, seed, "A", 42), MODEL, names=names)

    assert all(one in whole[0].rows for one in found(5, wanted))
    assert found(6, wanted[1:2])[0] not in whole[0].rows
    assert same(before, model.state_dict())


# --- The stored controls ---


@pytest.mark.parametrize("change", ["code", "seed", "trials"])
def test_controls_of_other_code_or_parameters_are_measured_anew(plant, monkeypatch, change):
    """Every control from every seed of each VAE."""
    said, jobs, one = [], [], [[{"network": UNTRAINED}]]
    plant(**({} if change == "code" else {change: 6}))
    if change == "code":
        monkeypatch.setattr(files, "code_hash", lambda *_: "another")
    monkeypatch.setattr(benchmark.parallel, "each", lambda all_of, _: jobs.extend(all_of) or one)
    found = benchmark.stored_controls(P, said.append)
    assert "measuring the controls now" in said[0] and len(found) == 1
    asked = sorted((x["network"], x["seed"], x["vae"]) for x, _ in (job.arguments for job in jobs))
    networks = [(name, 1_000 + i) for name, kind in NETWORKS.items() for i in range(kind.seeds)]
    assert asked == sorted((*one, vae) for one in networks for vae in VAES)


def test_an_untrained_network_has_the_models_own_layers(plant, monkeypatch):
    """The stored networks have neither LayerNorm nor SiLU."""
    plant()
    with torch.random.fork_rng():
        model, asked = Network(("A",), normed=True), []

    def each(jobs, _):
        if jobs[0].function is not benchmark.control_rows:
            return []
        asked.extend(job.arguments for job in jobs)
        theirs = [row(UNTRAINED, "A", (1, 2), 1_000 + i).model_dump() for i in range(len(jobs))]
        return [[one | {"measured_utc": "now"}] for one in theirs]

    monkeypatch.setattr(benchmark.parallel, "each", each)
    alike = benchmark.run(model, RECORD, P, str)
    assert [(x["network"], x["seed"], x["vae"]) for x, _ in asked] == [
        (UNTRAINED, 1_000 + i, "A") for i in range(5)
    ]
    assert all(network.encoder_A.clamped for _, network in asked)
    assert [one.high for one in alike.rows if one.network == UNTRAINED] == [2] * 5
    one = row(UNTRAINED, "A", (1, 2))
    monkeypatch.setattr(benchmark, "measure", lambda e, *_: [one] * e.network.encoder_A.clamped)
    assert len(benchmark.control_rows(asked[1][0], model)) == 1


# --- The comparison, on planted rows ---


@pytest.mark.parametrize(
    "name, ours, theirs, better",
    [
        ("kl_to_uniform", (1, 3), [(4, 6)], True), ("kl_to_uniform", (2, 4), [(4, 6)], False),
        ("elbo", (4, 6), [(2, 3.99)], True),
        ("elbo", (4, 6), [(2, 4)], False),  # they touch
        ("elbo", (4, 6), [(1, 3), (3, 5)], False),  # one control of two overlaps
        ("elbo", (4, 6), [(3, 5), (1, 3)], False),
        ("elbo", (4, 6), [(1, 3), None], True),  # one has no value
        ("elbo", (4, 6), [None], False),  # beside nothing, nothing is shown
        ("elbo", None, [(1, 3)], False),
        ("rate", (1, 3), [(4, 6)], False), ("rate", (7, 9), [(4, 6)], False),  # neither is better
    ],
)  # fmt: skip
def test_a_metric_beats_the_controls_where_the_whole_interval_is_better(name, ours, theirs, better):
    kinds = ("collapsed", "uniform")
    rows = [row(MODEL, "A", ours, metric=name), row(ORACLE, "A", (8, 8), metric=name)]
    rows += [row(kinds[i], "A", x, metric=name) for i, x in enumerate(theirs)]
    rows += [row("uniform", "B", (9, 9), metric=name)]  # another VAE's
    frame = pd.DataFrame(one.model_dump() for one in rows)
    [found] = compare(frame).beats_controls
    assert found == better
    ranges = control_ranges(frame).loc[name, "A"]
    assert (ranges["low"][ORACLE], ranges["high"][ORACLE]) == (8, 8)


def test_the_range_of_several_seeds_is_where_the_next_one_lies_and_covers_their_intervals():
    """Widened to Student's prediction interval, cut where the metric's truth lies."""
    assert CONTROLS["untrained"].seeds > 2
    values, half = [0.2, 0.3, 0.5], 0.01

    def ranges(half):
        rows = [row("untrained", "A", (x - half, x + half), i) for i, x in enumerate(values)]
        found = control_ranges(pd.DataFrame(one.model_dump() for one in rows)).iloc[0]
        return found["low"]["untrained"], found["high"]["untrained"]

    low, high = prediction_interval(values, 0.99, 0, 1)
    assert ranges(half) == pytest.approx((low, high)) == (0, 1)
    values = [0.2, 0.201, 0.202]
    assert ranges(half) == pytest.approx(prediction_interval(values))
    assert ranges(0.1) == pytest.approx((0.1, 0.302))
