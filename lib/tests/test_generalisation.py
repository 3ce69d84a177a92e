"""Generalisation: hits and posteriors whose answer is known, and what has learnt nothing."""

import itertools

import pytest
import torch
from planted import ends

from fluxttice_core.metrics.generalisation import FLIPS, compositions, kinds, worst_kind
from fluxttice_core.metrics.intervals import clopper_pearson
from fluxttice_core.model.operations import M, T, all_operations, index_of, names, noisy, split

PARTS = split(42)
UNSEEN = torch.cat([PARTS.val, PARTS.test])
OPS = all_operations()
KINDS = {
    "unseen", "test", "sparse", "dense", "noisy_1", "noisy_2", "compositions",
    "outputs_relabelled", "inputs_relabelled",
}  # fmt: skip


def hits_at(index):
    """A hit vector (M,) that is true at `index` and nowhere else."""
    return torch.zeros(M, dtype=torch.bool).index_fill(0, torch.as_tensor(index), True)


def test_only_new_operations_count_and_the_worst_kind_is_named():
    for index, share in ((PARTS.train, 0), (UNSEEN, 1)):
        assert {row.value for row in kinds(hits_at(index), PARTS, 0).values()} == {share}
    found = kinds(hits_at(PARTS.val), PARTS, 0)
    assert found.keys() == KINDS
    assert (found["unseen"].n, found["test"].n) == (3_937, 1_969)
    assert (found["test"].value, found["unseen"].value) == (0, 1_968 / 3_937)
    worst = worst_kind(found)
    assert ends(worst) == [0, 0, 0] and worst.method.endswith("; test") and worst.n == 1_969


def test_sparse_and_dense_are_counted_one_by_one():
    found = kinds(hits_at(UNSEEN[::3]), PARTS, seed=0)
    known, hit = set(PARTS.train.tolist()), set(UNSEEN[::3].tolist())
    tables = {i: table for i, table in enumerate(OPS.tolist()) if i not in known}
    for name, zeros in (("sparse", range(6, T + 1)), ("dense", [0])):
        members = {i for i, table in tables.items() if table.count(0) in zeros}
        share = len(members & hit) / len(members)
        assert (found[name].n, ends(found[name])) == (len(members), [share] * 3)


def pairs_that_compose_to(h):
    """#{(f, g): f(g(x, y), y) = h(x, y)} with every g tried: f is free where g does not lead."""
    places = 3 * (OPS + 1) + torch.arange(T) % 3  # (M, T): the entry of f that g's entry reads
    f = torch.zeros_like(OPS).scatter(1, places, h.expand(M, T))
    possible = (f.gather(1, places) == h).all(1)
    read = torch.zeros_like(OPS).scatter(1, places, 1).sum(1)
    return int((possible * 3 ** (T - read)).sum())


def test_composition_counts_agree_with_trying_every_g_and_add_up_to_all_pairs():
    some = torch.randperm(M, generator=torch.Generator().manual_seed(1))[:20].tolist()
    for index in [*some, *names()]:
        assert int(compositions()[index]) == pairs_that_compose_to(OPS[index])
    assert int(compositions().sum()) == M**2


def test_the_share_of_compositions_weighs_each_by_its_pairs():
    row = kinds(hits_at(UNSEEN[:7]), PARTS, seed=0)["compositions"]
    total = M**2 - int(compositions()[PARTS.train].sum())
    assert row.value == sum(compositions()[UNSEEN[:7]].tolist()) / total
    assert row.n == total and row.method.endswith("; 3,937 operations")


@pytest.mark.parametrize(
    "name, relabel",
    [
        ("outputs_relabelled", lambda f, p: {k: p[v] for k, v in f.items()}),
        ("inputs_relabelled", lambda f, p: {(a, b): f[p[a], p[b]] for a, b in f}),
    ],
)
def test_relabelled_shares_are_counted_one_by_one(name, relabel):
    inputs = list(itertools.product((-1, 0, 1), repeat=2))
    symbols = [dict(zip((-1, 0, 1), p, strict=True)) for p in itertools.permutations((-1, 0, 1))]
    parts = PARTS._replace(train=PARTS.train[:2_000])
    unseen, hit = set(UNSEEN.tolist()), set(UNSEEN[::5].tolist())
    powers, new = [3**t for t in range(T)], []
    for table in OPS[parts.train].tolist():
        f = dict(zip(inputs, table, strict=True))
        for p in symbols[1:]:
            g = relabel(f, p)
            new.append(sum((g[k] + 1) * q for k, q in zip(inputs, powers, strict=True)))
    new = [i for i in new if i in unseen]
    row = kinds(hits_at(UNSEEN[::5]), parts, seed=0)[name]
    assert row.n == len(new) and row.method.endswith(f"; {len(set(new)):,} operations")
    assert row.value == sum(i in hit for i in new) / len(new)


@pytest.mark.parametrize("flips", FLIPS)
def test_noise_leads_from_known_operations_to_new_ones(flips):
    changed = index_of(noisy(OPS[PARTS.train], flips, seed=0))
    changed = changed[torch.isin(changed, UNSEEN)]
    low, high = clopper_pearson(len(changed), len(PARTS.train))
    assert low < len(UNSEEN) / (M - 1) < high
    row = kinds(hits_at(changed[:9]), PARTS, seed=0)[f"noisy_{flips}"]
    assert row.n == len(changed)
    assert row.value == float(torch.isin(changed, changed[:9]).double().mean())


def test_the_seed_decides_what_is_drawn():
    first, again, other = (kinds(hits_at(UNSEEN[::2]), PARTS, seed) for seed in (0, 0, 1))
    assert first == again
    assert {kind for kind in KINDS if first[kind] != other[kind]} == {"noisy_1", "noisy_2"}
