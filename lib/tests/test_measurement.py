import functools
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from fluxttice_core.metrics import codes as latent
from fluxttice_core.metrics import marginal
from fluxttice_core.metrics import measurement as measure
from fluxttice_core.metrics import reconstruction
from fluxttice_core.metrics.measurement import (
    compare,
    curve,
    diversity,
    essentials,
    headline,
    speed,
)
from fluxttice_core.model.network import VAES, DualVAE
from fluxttice_core.model.operations import C, M, T, split
from fluxttice_core.params import Benchmark
from scipy import stats

NS = [100, 1_000]
SMALL = Benchmark.model_construct(
    seed=5, split_seed=42, k=2_000, ns=NS, trials=3, untrained_seed=1_000, speed_repeats=3
)


@pytest.fixture(scope="module")
def whole():
    """Everything that is measured of fresh weights, and the steps it reported; small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent, "aggregate_kl", functools.partial(latent.aggregate_kl, n=20))
        patch.setattr(reconstruction, "SCALES", (0.0, 2.0))
        patch.setattr(measure, "UNTRAINED_SEEDS", 2)
        patch.setattr(marginal, "FEWEST", 2_000)
        steps = []
        return measure.measure(DualVAE.fresh(8), SMALL, steps.append), steps


def certain(counts):
    """The marginal of a decoder that is certain of its operations: `counts` (GROUPS, M)."""
    return marginal.Marginal(counts.astype(float), counts, np.zeros(20), int(counts.sum()))


def drawn(operations, k, seed):
    p = np.bincount(operations, minlength=M) / len(operations)
    return certain(np.random.default_rng(seed).multinomial(k // 20, p, size=20))


# --- The whole ---


def test_the_measurement_has_every_part(whole):
    results, steps = whole
    parts = {"A", "B", "untrained_A", "untrained_B"}
    assert parts | {"controls", "comparison", "diversity", "perfect"} <= results.keys()
    for name in parts:
        row = results[name]
        assert row["k"] == 2_000
        assert [(r["decode"], r["n"]) for r in row["expected_coverage"]] == [
            (how, n) for how in ("argmax", "categorical") for n in NS
        ]
        assert {(r["decode"], r["n"], r["trials"]) for r in row["coverage"]} == {
            (how, n, 3) for how in ("argmax", "categorical", "expectation") for n in NS
        }
        assert row["exact_match"].keys() == {"train", "val", "test"}
        for code in ("mean", "sample"):
            sizes = {part: r["n"] for part, r in row["reconstruction"][code].items()}
            assert sizes == {"train": 15_746, "val": 1_968, "test": 1_969}
        assert len(row["kl_nats_by_dimension"]) == 16
        assert {how: len(rows) for how, rows in row["hardest"].items()} == {
            "argmax": 10,
            "categorical": 10,
        }
    assert len(steps) == 5 and all(isinstance(step, str) for step in steps)


def test_the_measurement_is_json_without_nan(whole):
    text = json.dumps(whole[0], allow_nan=False)
    assert json.loads(text) == whole[0]


def test_sampled_and_expected_coverage_agree(whole):
    """Two ways to one number: drawing, and the exact marginal."""
    for name in ("A", "B", "untrained_A", "untrained_B"):
        expected = {(r["decode"], r["n"]): r for r in whole[0][name]["expected_coverage"]}
        for row in whole[0][name]["coverage"]:
            if row["decode"] == "expectation":
                continue
            other = expected[row["decode"], row["n"]]
            wide = other["ci95"][1] - other["ci95"][0]
            assert abs(row["unique"] - other["value"]) < wide + 2.5 * row["unique"] ** 0.5


def test_controls_stand_beside_each_vae(whole):
    rows, seeds = whole[0]["controls"], [1_000, 1_001]
    expected = [(start, seed) for start in ("untrained", "random linear") for seed in seeds]
    expected += [("collapsed", 5), ("uniform", 5)]
    found = [(row["control"], row["seed"], row["vae"]) for row in rows]
    assert found == [(*one, vae) for one in expected for vae in VAES]
    assert measure.UNTRAINED_SEEDS == 5
    for row in rows:
        assert row["k"] == 2_000
    values = {row["information_nats"]["value"] for row in rows[:8]}
    assert len(values) == 8  # each seed and VAE has a stream and weights of its own


def test_the_same_parameters_give_the_same_numbers(whole):
    """Both VAEs of the model and the comparison, to the last digit."""
    parts, model = split(42), DualVAE.fresh(8)
    for vae in VAES:
        m = marginal.marginal(model.decoder(vae), 2_000, 5, vae)
        q = reconstruction.posterior(model, vae)
        again = essentials(model, vae, m, q, parts, 5, NS)
        del again["aggregate_kl_nats"]  # from fewer codes in `whole`
        assert again == {key: whole[0][vae][key] for key in again}
        other = essentials(model, vae, m, q, parts, 6, NS)
        assert other["reconstruction"]["mean"] == again["reconstruction"]["mean"]
        assert other["reconstruction"]["sample"] != again["reconstruction"]["sample"]
        assert other["hamming_correlation"] != again["hamming_correlation"]
    rows = compare({vae: whole[0][vae] for vae in VAES}, whole[0]["controls"])
    assert rows == whole[0]["comparison"]


def test_fresh_weights_do_not_beat_fresh_weights(whole):
    assert not any(row["discriminates"] for row in whole[0]["comparison"])
    assert {row["vae"] for row in whole[0]["comparison"]} == set(VAES)


def test_the_perfect_generators_noise_stands_beside_the_hardest(whole):
    assert whole[0]["perfect"]["min_p_times_m"] == marginal.noise_floor(2_000, 5) == [0, 0]
    for name in ("A", "B", "untrained_A", "untrained_B"):
        assert whole[0][name]["min_p_times_m"]["argmax"] == 0 < M
        assert 0 < whole[0][name]["min_p_times_m"]["categorical"] < 1


def test_essentials_of_a_perfect_model(perfect_model):
    """Its codes are ±1 and 0, here with deviation 0.3, and it cuts them at ±0.4307."""
    survive = (2 * stats.norm.cdf(0.5693 / 0.3) + 1 - 2 * stats.norm.cdf(-0.4307 / 0.3)) / 3
    for vae in VAES:
        perfect_model.encoder(vae).fc_logvar.bias.data[:T] = 2 * math.log(0.3)
        m = marginal.marginal(perfect_model.decoder(vae), marginal.FEWEST, 1, vae)
        q = reconstruction.posterior(perfect_model, vae)
        row = essentials(perfect_model, vae, m, q, split(), 1, [50_000])
        assert row["exact_match"] == {"train": 1, "val": 1, "test": 1}
        assert row["reconstruction"]["mean"]["test"]["share"] == 1
        sampled = row["reconstruction"]["sample"]["test"]["share"]
        assert sampled == pytest.approx(survive**T, abs=5 * 0.5 / 1_969**0.5)
        assert row["information_nats"]["share"] > 0.998
        assert row["active_units"] == T
        assert row["latent_entropy_nats"] == pytest.approx(T * math.log(3) / 16)
        [argmax, categorical] = row["expected_coverage"]
        assert argmax["of_ceiling"] > 0.999 and categorical["of_ceiling"] > 0.999
        assert row["hamming_correlation"]["value"] > 0.5


# --- The curve ---


def test_the_curve_runs_from_one_to_ten_million():
    m = drawn(np.arange(0, M, 3), 2_000, 1)
    rows = curve(m)
    assert rows[0]["n"] == 1 and rows[-1]["n"] == 10**7
    assert all(a["n"] < b["n"] for a, b in itertools.pairwise(rows))
    for row in rows:
        n = row["n"]
        assert row["ceiling"] == pytest.approx(M - M * (1 - 1 / M) ** n)
        assert row["categorical"] == pytest.approx((1 - (1 - m.counts / 2_000) ** n).sum())
        if n > 2_000:
            assert row["argmax"] is None
            continue
        every, counts = math.comb(2_000, n), Counter(m.counts.tolist())
        missed = sum(f * (math.comb(2_000 - c, n) / every) for c, f in counts.items())
        assert row["argmax"] == pytest.approx(M - missed, abs=1e-3)


# --- The comparison, on planted rows ---


def planted(value, low, high):
    """A result in which every metric has this value and this interval."""
    estimate = {"value": value, "ci95": [low, high]}
    share = {"share": value, "ci95": [low, high]}
    return {
        "information_nats": {**estimate},
        "expected_coverage": [{"decode": "argmax", "n": 10, **estimate}],
        "reconstruction": {"mean": {"test": share}, "sample": {"test": share}},
        "latent_entropy_nats": value,
        "active_units": value,
        "hamming_correlation": estimate,
        "argmax_entropy_nats": estimate,
        "kl_uniform_nats": estimate,
        "aggregate_kl_nats": estimate,
    }


def control(name, vae, *bounds):
    return {"control": name, "vae": vae, **planted(*bounds)}


@pytest.mark.parametrize(
    "ours, theirs, better",
    [
        ((5, 4, 6), [(2, 1, 3)], True),
        ((5, 4, 6), [(3, 2, 3.99)], True),
        ((5, 4, 6), [(3, 2, 4)], False),  # they touch
        ((5, 4, 6), [(3, 2, 4.5)], False),  # they overlap
        ((5, 4, 6), [(4.9, 4.8, 5.1)], False),  # one inside the other
        ((5, 4, 6), [(8, 7, 9)], False),  # noise wins
        ((5, 4, 6), [(2, 1, 3), (4, 3, 5)], False),  # one seed of two overlaps
        ((5, 4, 6), [(2, 1, 3), (1, 0, 2)], True),
        ((math.nan, math.nan, math.nan), [(2, 1, 3)], False),
    ],
)
def test_a_metric_discriminates_when_the_whole_interval_is_above(ours, theirs, better):
    rows = [control("untrained", "A", *bounds) for bounds in theirs]
    table = compare({"A": planted(*ours)}, [*rows, control("uniform", "A", 0, 0, 0)])
    row = next(row for row in table if row["metric"].startswith("information"))
    assert row["discriminates"] is better
    lows, highs = [b[1] for b in theirs], [b[2] for b in theirs]
    limit = 9 * math.log(3)
    assert row["untrained"] == pytest.approx([min(lows) / limit, max(highs) / limit])
    assert row["uniform"] == [0, 0]


def test_of_a_divergence_less_is_better():
    rows = [control("untrained", "A", 5, 4, 6), control("uniform", "A", 9, 9, 9)]
    for bounds, better in (((2, 1, 3), True), ((3, 2, 4), False), ((7, 7, 7), False)):
        table = {row["metric"]: row for row in compare({"A": planted(*bounds)}, rows)}
        for metric in ("KL(P ‖ uniform), nats", "KL(aggregate posterior ‖ prior), nats"):
            assert table[metric]["discriminates"] is better
        assert not table["active units"]["discriminates"]


def test_every_control_must_be_beaten():
    """Above the untrained and the collapsed one, but not above the uniform sampler."""
    rows = [control("untrained", "A", 1, 1, 1), control("collapsed", "A", 0, 0, 0)]
    ours = {"A": planted(5, 4, 6)}
    assert won(compare(ours, rows)) == {True}
    rows.append(control("uniform", "A", 5, 5, 5))
    assert won(compare(ours, rows)[:-5]) == {False}


def won(table):
    """The verdicts of the metrics of which more is better."""
    return {r["discriminates"] for r in table if r["metric"] not in measure.SMALLER_IS_BETTER}


def test_without_a_control_nothing_discriminates():
    rows = [control("untrained", "A", 1, 1, 1)]
    assert not any(row["discriminates"] for row in compare({"B": planted(5, 4, 6)}, rows))


def test_a_vae_is_compared_with_controls_of_its_own_kind():
    rows = [control("untrained", "A", 1, 1, 1), control("untrained", "B", 9, 9, 9)]
    table = compare({"A": planted(5, 4, 6), "B": planted(5, 4, 6)}, rows)
    for vae, better in (("A", {True}), ("B", {False})):
        assert won([row for row in table if row["vae"] == vae]) == better


def test_headline_is_in_shares_where_there_is_a_limit():
    values = headline(planted(3.0, 2.0, 4.0))
    limit, ceiling = 9 * math.log(3), M - M * (1 - 1 / M) ** 10
    assert values["information, share of 9·ln 3"] == pytest.approx([x / limit for x in (3, 2, 4)])
    assert values["argmax coverage at N = 10, of ceiling"] == pytest.approx(
        [x / ceiling for x in (3, 2, 4)]
    )
    for name in ("exact match on test, posterior mean", "Hamming correlation of codes"):
        assert values[name] == pytest.approx([3, 2, 4])
    for name in ("latent entropy, nats", "active units"):
        assert values[name] == (3, 3, 3)


# --- Diversity ---


def test_diversity_of_disjoint_halves():
    """A makes trit 8 = -1, B the other two: nothing is shared, whatever n."""
    a, b = drawn(np.arange(C**8), 200_000, 1), drawn(np.arange(C**8, M), 200_000, 2)
    for row in diversity(a, b, [1_000, 190_000]):
        n = row["n"]
        first, second = C**8 * (1 - (1 - 1 / C**8) ** n), 2 * C**8 * (1 - (1 - 0.5 / C**8) ** n)
        assert row["both"] == pytest.approx(0, abs=1e-2)
        assert row["only_a"] == pytest.approx(first, rel=0.005)
        assert row["only_b"] == pytest.approx(second, rel=0.005)
        assert row["union"] == pytest.approx(first + second, rel=0.005)


def test_diversity_of_two_that_are_alike():
    """Two independent uniform generators: the union is what twice as many draws reach."""
    a, b = drawn(np.arange(M), 60_000, 1), drawn(np.arange(M), 60_000, 2)
    [row] = diversity(a, b, [10_000])
    reach = 1 - (1 - 1 / M) ** 10_000
    assert row["both"] == pytest.approx(M * reach**2, rel=0.02)
    assert row["union"] == pytest.approx(M - M * (1 - 1 / M) ** 20_000, rel=0.01)
    assert row["only_a"] == pytest.approx(row["only_b"], rel=0.02)
    for mine, key in (("only_a", "only"), ("both", "both"), ("union", "union")):
        assert row[mine] == pytest.approx(row["perfect"][key], rel=0.02)


def test_diversity_adds_up():
    a, b = drawn(np.arange(9_000), 20_000, 1), drawn(np.arange(6_000, M), 20_000, 2)
    for row in diversity(a, b, [100, 19_000]):
        union = row["only_a"] + row["only_b"] + row["both"]
        assert row["union"] == pytest.approx(union)
        assert row["only_a"] + row["both"] == pytest.approx(marginal.rarefied(a.counts, row["n"]))
        assert row["only_b"] + row["both"] == pytest.approx(marginal.rarefied(b.counts, row["n"]))


# --- Speed ---


def test_speed_counts_operations_a_second(untrained):
    row = speed(untrained, "A", repeats=3, seed=1, n=13_000)
    assert (row["n"], row["repeats"]) == (13_000, 3)
    assert 1e3 < row["low"] <= row["median"] <= row["high"] < 1e10


def test_speed_is_measured_over_all_it_says(untrained, monkeypatch):
    sizes = []
    monkeypatch.setattr(DualVAE, "sample", lambda _self, n, *_args, **_kwargs: sizes.append(n))
    speed(untrained, "A", repeats=2, seed=1)
    assert sum(sizes) == 2 * 195_000 and max(sizes) <= 20_000


def test_measuring_leaves_the_weights_and_the_global_stream(perfect_model):
    before = {key: value.clone() for key, value in perfect_model.state_dict().items()}
    state = torch.get_rng_state()
    m = marginal.marginal(perfect_model.decoder_A, 200, 1)
    q = reconstruction.posterior(perfect_model, "A")
    essentials(perfect_model, "A", m, q, split(), 1, [100])
    assert torch.equal(torch.get_rng_state(), state)
    after = perfect_model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
