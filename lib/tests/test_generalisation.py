"""Generalisation: the shipped checkpoint passes, every control fails, every measure is true."""

import copy
import itertools
import json
import math

import pytest
import torch
from fluxttice_core.metrics import controls
from fluxttice_core import load
from fluxttice_core.checkpoints.folder import split_record
from fluxttice_core.metrics.coverage import coverage
from fluxttice_core.metrics.generalisation import (
    BOUNDS,
    FLIPS,
    code_shift,
    codes,
    compositions,
    failures,
    inputs_relabelled,
    measure,
    noisy_pairs,
    outputs_relabelled,
    separation,
    shares,
)
from fluxttice_core.metrics.intervals import clopper_pearson
from fluxttice_core.metrics.codes import active_units
from fluxttice_core.model.network import VAES, D, Posterior
from fluxttice_core.model.operations import M, T, all_operations, index_of, names, split

PARTS = split(42)
UNSEEN = torch.cat([PARTS.val, PARTS.test])
OPS = all_operations()
ONE_HOT = torch.nn.functional.one_hot(OPS + 1).flatten(1).float()  # two codes: √(2·Hamming)
SHARES = {
    "unseen", "test", "sparse", "dense", "noisy_1", "noisy_2", "compositions",
    "outputs_relabelled", "inputs_relabelled",
}  # fmt: skip
CODES = {"shift_1", "separation_1", "shift_2", "separation_2", "active_units"}


def hits_at(index):
    """A hit vector (M,) that is true at `index` and nowhere else."""
    return torch.zeros(M, dtype=torch.bool).index_fill(0, torch.as_tensor(index), True)


# The shipped checkpoint, and what must fail beside it


@pytest.fixture(scope="module")
def shipped():
    return load("checkpoints/certified")


@pytest.fixture(scope="module")
def constant_encoder(shipped):
    """The shipped weights with one encoding for all: mu is the bias of its last layer."""
    model = copy.deepcopy(shipped.model)
    for vae in VAES:
        torch.nn.init.zeros_(model.encoder(vae).fc_mu.weight)
    return model


def test_measured_split_is_the_one_it_was_trained_with(shipped):
    assert shipped.checkpoint.manifest["split"] == split_record(42)


@pytest.mark.parametrize("vae", VAES)
def test_shipped_checkpoint_generalises(shipped, vae):
    rows = measure(shipped.model, vae, PARTS, seed=0)
    assert failures(rows) == {}
    assert rows.keys() == SHARES | CODES
    assert (rows["unseen"]["n"], rows["test"]["n"]) == (3_937, 1_969)
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("vae", VAES)
@pytest.mark.parametrize("control", ["untrained 0", "untrained 1", "collapsed", "constant"])
def test_controls_fail_every_row(constant_encoder, control, vae):
    model = {
        "untrained 0": lambda: controls.untrained(0),
        "untrained 1": lambda: controls.untrained(1),
        "collapsed": lambda: controls.collapsed(0),
        "constant": lambda: constant_encoder,
    }[control]()
    rows = measure(model, vae, PARTS, seed=0)
    assert failures(rows).keys() == SHARES | CODES
    json.dumps(rows, allow_nan=False)  # also where a value is refused


@pytest.mark.parametrize("vae", VAES)
def test_checkpoint_reaches_four_fifths_of_all_operations_and_controls_do_not(shipped, vae):
    def interval(model):
        [row] = coverage(model.decoder(vae), [50_000], how=["argmax"], trials=3, seed=0)
        return row["ci95"]

    assert interval(shipped.model)[0] >= 0.8 * M
    for control in (controls.untrained(0), controls.collapsed(0)):
        assert interval(control)[1] < 0.8 * M


@pytest.mark.parametrize(("vae", "other"), [("A", "B"), ("B", "A")])
def test_each_vae_is_measured_alone(shipped, vae, other):
    model = copy.deepcopy(shipped.model)
    for part in (model.encoder(other), model.decoder(other)):
        for weights in part.parameters():
            torch.nn.init.zeros_(weights)
    assert measure(model, vae, PARTS, 0) == measure(shipped.model, vae, PARTS, 0)


def test_random_projection_passes_codes_and_fails_shares():
    """The limit of the code rows, as their docstring states it."""
    model = controls.untrained(0)
    with torch.no_grad():
        model.encoder_A.fc_mu.weight.mul_(100)
    assert failures(measure(model, "A", PARTS, 0)).keys() == SHARES


# Shares: hit vectors whose answer is known


def test_only_new_operations_count():
    memoriser = shares(hits_at(PARTS.train), PARTS, seed=0)
    perfect = shares(hits_at(UNSEEN), PARTS, seed=0)
    assert memoriser.keys() == perfect.keys() == SHARES
    assert {row["share"] for row in memoriser.values()} == {0.0}
    assert {row["share"] for row in perfect.values()} == {1.0}
    assert failures(memoriser).keys() == SHARES and failures(perfect) == {}


def test_test_row_reads_the_test_split_alone():
    rows = shares(hits_at(PARTS.val), PARTS, seed=0)
    assert rows["test"]["share"] == 0 and rows["unseen"]["share"] == 1_968 / 3_937


def test_sparse_and_dense_are_counted_one_by_one():
    rows = shares(hits_at(UNSEEN[::3]), PARTS, seed=0)
    known, hit = set(PARTS.train.tolist()), set(UNSEEN[::3].tolist())
    kinds = {"sparse": lambda zeros: zeros >= 6, "dense": lambda zeros: zeros == 0}
    tables = {i: table for i, table in enumerate(OPS.tolist()) if i not in known}
    for name, of_kind in kinds.items():
        members = {i for i, table in tables.items() if of_kind(table.count(0))}
        expected = len(members & hit) / len(members)
        assert (rows[name]["n"], rows[name]["share"]) == (len(members), expected)


def test_composition_counts_add_up_to_all_pairs():
    assert int(compositions().sum()) == M**2 == 387_420_489


def pairs_that_compose_to(h):
    """#{(f, g): f(g(x, y), y) = h(x, y)} with every g tried: f is free where g does not lead."""
    places = 3 * (OPS + 1) + torch.arange(T) % 3  # (M, T): the entry of f that g's entry reads
    f = torch.zeros_like(OPS).scatter(1, places, h.expand(M, T))
    possible = (f.gather(1, places) == h).all(1)
    read = torch.zeros_like(OPS).scatter(1, places, 1).sum(1)
    return int((possible * 3 ** (T - read)).sum())


def test_composition_counts_agree_with_trying_every_g():
    some = torch.randperm(M, generator=torch.Generator().manual_seed(1))[:40].tolist()
    for index in [*some, *names()]:
        assert int(compositions()[index]) == pairs_that_compose_to(OPS[index])


def test_composition_share_is_that_of_pairs_drawn_at_random():
    planted = (OPS.view(M, 3, 3) == OPS.view(M, 3, 3)[:, :1]).all(1).any(1)  # x without effect
    row = shares(planted, PARTS, seed=0)["compositions"]
    rng = torch.Generator().manual_seed(2)
    f, g = OPS[torch.randint(M, (2, 200_000), generator=rng)]
    h = index_of(f.gather(1, 3 * (g + 1) + torch.arange(T) % 3))
    h = h[torch.isin(h, UNSEEN)]
    low, high = clopper_pearson(int(planted[h].sum()), len(h))
    assert low < row["share"] < high
    assert abs(row["share"] - float(planted[UNSEEN].double().mean())) > 0.05  # so weights matter


def test_weighted_share_is_exact():
    row = shares(hits_at(UNSEEN[:7]), PARTS, seed=0)["compositions"]
    total = M**2 - int(compositions()[PARTS.train].sum())
    assert row["share"] == sum(compositions()[UNSEEN[:7]].tolist()) / total
    assert (row["n"], row["ci95"], row["distinct"]) == (total, None, 3_937)
    assert "exact" in row["interval"]


def test_relabelling_of_named_operations():
    index = {name: i for i, name in names().items()}
    negation = list(itertools.permutations((-1, 0, 1)))[1:].index((1, 0, -1))
    conjunction = OPS[[index["AND (min)"]]]
    assert int(index_of(outputs_relabelled(conjunction)[negation])) == index["NAND (-min)"]
    assert int(index_of(inputs_relabelled(conjunction)[negation])) == index["NOR (-max)"]


@pytest.mark.parametrize(
    ("name", "relabel"),
    [
        ("outputs_relabelled", lambda f, p: {k: p[v] for k, v in f.items()}),
        ("inputs_relabelled", lambda f, p: {(a, b): f[p[a], p[b]] for a, b in f}),
    ],
    ids=["outputs", "inputs"],
)
def test_relabelled_shares_are_counted_one_by_one(name, relabel):
    inputs = list(itertools.product((-1, 0, 1), repeat=2))
    symbols = [dict(zip((-1, 0, 1), p, strict=True)) for p in itertools.permutations((-1, 0, 1))]
    known = set(PARTS.train.tolist())
    powers, results = [3**t for t in range(T)], []
    for table in OPS[PARTS.train].tolist():
        f = dict(zip(inputs, table, strict=True))
        for p in symbols[1:]:
            new = relabel(f, p)
            results.append(sum((new[k] + 1) * q for k, q in zip(inputs, powers, strict=True)))
    results = [i for i in results if i not in known]
    row = shares(hits_at(UNSEEN[::5]), PARTS, seed=0)[name]
    hit = set(UNSEEN[::5].tolist())
    assert row["n"] == len(results) and row["distinct"] == len(set(results))
    assert row["share"] == sum(i in hit for i in results) / len(results)


@pytest.mark.parametrize("flips", FLIPS)
def test_noisy_pairs_lead_from_known_operations_to_new_ones(flips):
    clean, changed = noisy_pairs(PARTS, flips, seed=0)
    assert torch.isin(clean, PARTS.train).all() and len(clean.unique()) == len(clean)
    assert torch.isin(changed, UNSEEN).all()
    assert ((OPS[clean] != OPS[changed]).sum(1) == flips).all()
    low, high = clopper_pearson(len(clean), len(PARTS.train))
    assert low < len(UNSEEN) / (M - 1) < high
    row = shares(hits_at(changed[:9]), PARTS, seed=0)[f"noisy_{flips}"]
    assert row["share"] == float(torch.isin(changed, changed[:9]).double().mean())


def test_the_seed_decides_what_is_drawn_and_nothing_else():
    hits = hits_at(UNSEEN[::2])
    state = torch.get_rng_state()
    first, again, other = (shares(hits, PARTS, seed) for seed in (0, 0, 1))
    assert first == again and torch.equal(torch.get_rng_state(), state)
    assert {k for k in SHARES if first[k] != other[k]} == {"noisy_1", "noisy_2"}


# Codes: posteriors whose answer is known


@pytest.mark.parametrize("flips", FLIPS)
def test_code_shift_of_one_hot_codes_is_known(flips):
    """√flips / E√K, K ~ Binomial(9, 2/3): the intervals hold it."""
    weights = [math.comb(T, k) * 2**k / M for k in range(T + 1)]
    truth = math.sqrt(flips) / sum(w * math.sqrt(k) for k, w in enumerate(weights))
    inside = 0
    for seed in range(8):
        row = code_shift(ONE_HOT, *noisy_pairs(PARTS, flips, seed), seed)
        inside += row["ci95"][0] < truth < row["ci95"][1]
        assert abs(row["ratio"] - truth) < 0.01
    assert inside >= 6  # of 8 intervals at 95 %: fewer have a chance of 0.6 %


def test_code_shift_draws_its_random_pairs_from_the_seed():
    pairs = noisy_pairs(PARTS, 1, seed=0)
    first, again, other = (code_shift(ONE_HOT, *pairs, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_codes_that_scatter_neighbours_fail():
    codebook = torch.randn(M, D, generator=torch.Generator().manual_seed(0))
    row = code_shift(codebook, *noisy_pairs(PARTS, 1, 0), seed=0)
    assert row["ci95"][0] < 1 < row["ci95"][1]
    assert failures({"shift_1": row})


@pytest.mark.parametrize("mu", [torch.zeros(M, D), torch.full((M, D), 0.3), 1e-3 * ONE_HOT])
def test_code_shift_of_constant_codes_is_refused(mu):
    row = code_shift(mu, *noisy_pairs(PARTS, 1, 0), seed=0)
    assert row["ratio"] is None and row["ci95"] is None
    assert failures({"shift_1": row})


@pytest.mark.parametrize("flips", FLIPS)
def test_separation_of_one_hot_codes_is_known(flips):
    """√(2·flips) / σ, with the σ of the clean operation: 0.5, where the noisy one has 50."""
    logvar = torch.full((M, 1), 2 * math.log(50))
    logvar[PARTS.train] = 2 * math.log(0.5)
    q = Posterior(ONE_HOT, logvar)
    pairs = noisy_pairs(PARTS, flips, seed=3)
    row = separation(q, *pairs)
    rows = codes(q, PARTS, seed=3)
    assert rows[f"separation_{flips}"] == row
    assert rows[f"shift_{flips}"] == code_shift(q.mu, *pairs, seed=3)
    assert row["sigmas"] == pytest.approx(math.sqrt(2 * flips) / 0.5, rel=1e-6)
    assert row["ci95"] == pytest.approx([row["sigmas"]] * 2)


def test_eight_active_dimensions_are_too_few():
    for active in (8, 9, D):
        mu = torch.zeros(M, D)
        mu[:, :active] = torch.randn(M, active, generator=torch.Generator().manual_seed(0))
        assert active_units(mu) == active
        rows = codes(Posterior(mu, torch.zeros(M, D)), PARTS, seed=0)
        assert rows["active_units"]["active"] == active
        assert ("active_units" in failures(rows)) is (active < 9)


# The verdict


@pytest.mark.parametrize(
    ("row", "passes"),
    [
        ({"share": 0.95, "ci95": [0.9, 0.97]}, True),
        ({"share": 0.95, "ci95": [0.89, 0.97]}, False),  # straddles: undecided is no pass
        ({"share": 0.5, "ci95": [0.4, 0.6]}, False),
        ({"share": 0.9, "ci95": None}, True),
        ({"share": 0.8999, "ci95": None}, False),
        ({"ratio": 0.5, "ci95": [0.4, 0.6]}, True),
        ({"ratio": 0.15, "ci95": [0.05, 0.2]}, False),
        ({"ratio": 0.95, "ci95": [0.9, 1.01]}, False),
        ({"ratio": None, "ci95": None}, False),
        ({"ratio": math.nan, "ci95": [math.nan, math.nan]}, False),
        ({"sigmas": 900.0, "ci95": [800.0, 1000.0]}, True),
        ({"sigmas": 1.0, "ci95": [0.9, 1.1]}, False),
        ({"active": 9, "ci95": None}, True),
        ({"active": 8, "ci95": None}, False),
    ],
)
def test_failures_reads_the_whole_interval(row, passes):
    assert (failures({"name": row}) == {}) is passes


def test_a_row_without_a_bound_is_an_error():
    with pytest.raises(ValueError):
        failures({"name": {"value": 1.0, "ci95": None}})


def test_bounds_are_those_published():
    assert BOUNDS == {
        "share": (0.9, 1.0),
        "ratio": (0.1, 1.0),
        "sigmas": (1.0, None),
        "active": (9, 16),
    }
