"""The whole measurement of the optimum, whose answers are known, beside planted controls."""

import math
from types import SimpleNamespace

import pytest
import torch
from planted import LN3, same

from fluxttice_core import files
from fluxttice_core.metrics import measurement
from fluxttice_core.metrics.adversaries import optimum
from fluxttice_core.metrics.controls import CONTROLS, OPTIMUM, READOUT
from fluxttice_core.metrics.marginal import FEWEST
from fluxttice_core.metrics.measurement import MODEL, UNTRAINED, Benchmark, Beside, Results, Row
from fluxttice_core.metrics.observation import names, observe, values
from fluxttice_core.metrics.results import Measured
from fluxttice_core.model.network import HOW, VAES, D, Network
from fluxttice_core.model.operations import M, T, split

NS, CODE = [1_000, 5_000], files.code_hash("model", "metrics")
P = Benchmark(
    seed=5, run_dir="", checkpoint="x", expected_sha256="", split_seed=42, k=FEWEST,
    untrained_seed=1_000, ns=NS, trials=5,
)  # fmt: skip


def row(network, vae, interval, seed=0, of=("information",)):
    """One VAE whose metrics `of` have this (low, high), or None where they were refused."""
    low, high = interval or (None, None)
    value = None if low is None else (low + high) / 2
    found = Measured(value=value, low=low, high=high, n=1, method="planted")
    return Row(network=network, seed=seed, vae=vae, k=1, values=dict.fromkeys(of, found))


def planted_beside(code=CODE, **key):
    """Every control and the optimum, all of whose values are 0."""
    networks = (OPTIMUM, READOUT, *CONTROLS)
    rows = [row(name, vae, (0, 0), 1_000, names(NS)) for name in networks for vae in VAES]
    key = {"seed": 5, "split_seed": 42, "untrained_seed": 1_000, "ns": NS, "trials": 5, **key}
    return Beside(code=code, key=key, created_utc="then", environment={}, rows=rows)


# --- The whole, of the optimum ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By two workers, with stored controls of this code; and the steps it reported."""
    path, steps = tmp_path_factory.mktemp("beside") / "controls.json", []
    path.write_bytes(planted_beside().to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "beside_path", lambda: path)
        patch.setattr(measurement, "measured_beside", None)
        return measurement.measure(optimum(), P, steps.append), steps


def test_every_metric_of_every_vae_is_there_by_name_and_comes_back_from_json(whole):
    results, steps = whole
    assert list(results.of(UNTRAINED)) == list(results.of(MODEL)) == list(VAES)
    for found in results.of(MODEL).values():
        assert list(found.values) == names(NS) and (found.k, found.seed) == (FEWEST, None)
        drawn = [(x.decode, x.n) for x in found.drawings.coverage]
        assert drawn == [(how, n) for how in HOW for n in NS]
        assert len(found.details.hardest) == 10 and len(found.details.kl_nats_by_dimension) == 16
    assert results.controls_measured == "then" and len(results.rows) == 2 + 2 * 6
    assert len(results.comparison) == 2 * len(names(NS)) and len(steps) == 5
    stored = results.to_json()
    assert Results.model_validate_json(stored) == results and stored.endswith(b"}\n")


BEST = {  # of a share, what it may lack of 1; else the value, and within what
    "exact_match": 0, "exact_match_worst_kind": 0, "exact_match_test": 0, "cell_connection": 0,
    "exact_match_sampled": 3e-4, "exact_match_test_sampled": 3e-4, "dci": 1e-9, "mig": 1e-9,
    "argmax_entropy": 1e-4, "argmax_coverage_1000": 1e-5, "argmax_coverage_5000": 1e-3,
    "categorical_coverage_1000": 1e-4, "categorical_coverage_5000": 1e-3,
    "effective_support": 2e-3, "inverse_simpson": 2e-3, "information": 2e-3,
    "information_common_scale": (0.991, 2e-3), "prior_norm_share": 1e-3,  # there it is softer
    "rate": (17.1403, 1e-4), "least_rate": (17.14, 0.5), "kl_uniform": (0, 1e-3),
    "nll": (math.log(M), 2e-3), "kl_uniform_p": (0, 2e-3), "bits_per_trit": (math.log2(3), 1e-3),
    "mutual_information": (math.log(M), 0.25), "aggregate_kl": (17.14 - math.log(M), 0.6),
    "active_units": (T, 0), "latent_entropy": (T * LN3 / 16, 1e-6),
}  # fmt: skip
TRUTHS = {name: x if isinstance(x, tuple) else (1, x) for name, x in BEST.items()}


@pytest.mark.parametrize("vae", VAES)
def test_the_optimum_has_the_best_of_every_metric(whole, vae):
    """By hand, but for the ELBO, whose distortion weighs rare errors by their logits."""
    row = whole[0].of(MODEL)[vae]
    found, kl = row.values, row.details.kl_nats_by_dimension
    assert found.keys() == TRUTHS.keys() | {"elbo", "posterior_gap"}
    assert kl == pytest.approx([17.14 / T] * T + [0] * (D - T), abs=1e-3)
    wrong = {k: found[k] for k, (x, within) in TRUTHS.items() if abs(found[k].value - x) > within}
    assert wrong == {}
    assert (found["exact_match_test"].n, found["exact_match_test_sampled"].n) == (1_969, 20 * 1_969)
    for drawn in row.drawings.coverage:
        if drawn.decode != "expectation":
            expected = found[f"{drawn.decode}_coverage_{drawn.n}"].value
            assert drawn.of_ceiling.value == pytest.approx(expected, abs=0.01)
    elbo, gap = found["elbo"].value, found["posterior_gap"].value
    assert elbo < -found["rate"].value and gap == pytest.approx(-found["nll"].value - elbo)


def test_workers_and_order_change_no_figure_and_measuring_no_weight(whole):
    model, before = optimum(), optimum().state_dict()
    wanted = ["cell_connection", "mutual_information", "exact_match_sampled", "argmax_entropy"]
    again = values(observe(model, "A", FEWEST, 5), split(42), wanted)
    assert again == {name: whole[0].of(MODEL)["A"].values[name] for name in wanted}
    assert same(before, model.state_dict())
    other = values(observe(model, "A", FEWEST, 6), split(42), wanted[1:2])
    assert other != {"mutual_information": again["mutual_information"]}


# --- The stored controls ---


@pytest.mark.parametrize("change", [{"code": "old"}, {"seed": 6}, {"ns": [1_000]}, {"trials": 6}])
def test_controls_of_other_code_or_parameters_are_measured_anew(monkeypatch, tmp_path, change):
    """Every control from every seed, and the optimum, of each VAE."""
    path, said, jobs = tmp_path / "controls.json", [], []
    monkeypatch.setattr(measurement, "beside_path", lambda: path)
    monkeypatch.setattr(measurement.parallel, "each", lambda all_of, _: jobs.extend(all_of) or [])
    path.write_bytes(planted_beside(**change).to_json())
    found = measurement.beside(P, said.append)
    assert "measuring the controls now" in said[0] and found.rows == []
    networks = [(OPTIMUM, 1_000), (READOUT, 1_000)]
    networks += [(name, 1_000 + i) for name, kind in CONTROLS.items() for i in range(kind.seeds)]
    asked = sorted(job.arguments[:3] for job in jobs)
    assert asked == sorted((*one, vae) for one in networks for vae in VAES)
    assert found.key == planted_beside().key


def test_what_is_untrained_has_the_models_own_layers(monkeypatch, tmp_path):
    """The stored networks have neither LayerNorm nor SiLU."""
    with torch.random.fork_rng():
        model, asked = Network(("A",), normed=True), []
    (path := tmp_path / "controls.json").write_bytes(planted_beside().to_json())
    monkeypatch.setattr(measurement, "beside_path", lambda: path)

    def each(jobs, _):
        asked.append([job.arguments[:3] for job in jobs])
        return [row(UNTRAINED, "A", (1, 2), 1_000 + i, names(NS)) for i, _ in enumerate(jobs)]

    monkeypatch.setattr(measurement.parallel, "each", each)
    _, *others = measurement.measure(model, P, str).rows
    assert asked[1] == [(UNTRAINED, 1_000 + i, "A") for i in range(5)]
    highs = [one.values["information"].high for one in others if one.network == UNTRAINED]
    assert highs == [2] * 5 and len(others) == 2 * 5 + 5
    monkeypatch.setattr(measurement, "values", lambda o, *_: {"q": o.network.encoder_A.clamped})
    monkeypatch.setattr(measurement, "Row", SimpleNamespace)
    assert measurement.control_row(UNTRAINED, 7, "A", P, model).values == {"q": True}


# --- The comparison, on planted rows ---


@pytest.mark.parametrize(
    "name, ours, theirs, better",
    [
        ("information", (4, 6), [(2, 3.99)], True),
        ("information", (4, 6), [(2, 4)], False),  # they touch
        ("information", (4, 6), [(1, 3), (3, 5)], False),  # one seed of two overlaps
        ("information", (4, 6), [(3, 5), (1, 3)], False),
        ("information", (4, 6), [(1, 3), (1, 3), (3, 5)], False),  # and one kind of two
        ("information", (4, 6), [(1, 3), None], True),  # one has no value
        ("information", (4, 6), [None], False),  # beside nothing, nothing is shown
        ("information", None, [(1, 3)], False),
        ("nll", (1, 3), [(4, 6)], True), ("nll", (2, 4), [(4, 6)], False),  # less is better
        ("rate", (1, 3), [(4, 6)], False), ("rate", (7, 9), [(4, 6)], False),  # neither is
    ],
)  # fmt: skip
def test_a_metric_discriminates_where_the_whole_interval_is_better(name, ours, theirs, better):
    kinds = ("untrained", "untrained", "collapsed")
    others = [row(kinds[i], "A", x, seed=i, of=[name]) for i, x in enumerate(theirs)]
    others += [row(OPTIMUM, "A", (8, 8), of=[name]), row("uniform", "B", (9, 9), of=[name])]
    others += [row(READOUT, "A", (7, 7), of=[name])]  # it knows something: no control
    [found] = measurement.compare([row(MODEL, "A", ours, of=[name])], others)
    assert found.discriminates is better and (found.best.value, found.readout.value) == (8, 7)
    there = [x for x in theirs[:2] if x]
    hull = (min(low for low, _ in there), max(high for _, high in there)) if there else None
    assert found.controls.get("untrained") == hull
