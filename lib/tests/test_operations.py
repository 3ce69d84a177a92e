import itertools

import numpy as np
import pytest
import torch
from fluxttice_core.errors import InputError
from fluxttice_core.model.operations import (
    SPLIT_SIZES,
    C,
    M,
    T,
    all_operations,
    check_operations,
    describe,
    index_of,
    names,
    noisy,
    split,
)
from torch.utils.data import random_split


def test_the_enumeration_counts_in_base_3_with_the_least_trit_first():
    by_counting = [row[::-1] for row in itertools.product((-1, 0, 1), repeat=T)]
    assert all_operations().dtype == torch.int64
    assert all_operations().tolist() == [list(row) for row in by_counting]


@pytest.mark.parametrize(
    "index, table",
    [
        (0, [-1] * 9),
        (1, [0] + [-1] * 8),
        (3, [-1, 0] + [-1] * 7),
        (9_841, [0] * 9),
        (19_682, [1] * 9),
    ],
)
def test_rows_known_by_hand(index, table):
    assert all_operations()[index].tolist() == table


def test_index_of_inverts_the_enumeration():
    assert torch.equal(index_of(all_operations()), torch.arange(M))
    assert torch.equal(index_of(all_operations().float()), torch.arange(M))
    assert index_of(all_operations()[:6].view(2, 3, T)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("seed", [42, 7])
def test_split_is_the_one_random_split_makes(seed):
    rng = torch.Generator().manual_seed(seed)
    theirs = random_split(range(M), list(SPLIT_SIZES.values()), generator=rng)
    for (_, ours), part in zip(split(seed), theirs, strict=True):
        assert ours.tolist() == list(part.indices)


def test_split_is_disjoint_and_complete():
    parts = dict(split())
    assert {name: len(part) for name, part in parts.items()} == SPLIT_SIZES
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(M))


def test_split_depends_on_its_seed_alone():
    torch.manual_seed(1)
    one = split(42).test
    torch.manual_seed(2)
    assert torch.equal(one, split(42).test)
    assert not torch.equal(one, split(43).test)


@pytest.mark.parametrize(
    "ops",
    [
        [[-1, 0, 1] * 3],
        [[-1.0, 0.0, 1.0] * 3],
        np.array([[-1, 0, 1] * 3], dtype=np.int8),
        torch.tensor([[-1, 0, 1] * 3], dtype=torch.float64),
    ],
    ids=["list", "floats", "int8 array", "float64 tensor"],
)
def test_check_operations_takes_any_array_of_tables(ops):
    checked = check_operations(ops)
    assert checked.dtype == torch.float32
    assert checked.tolist() == [[-1, 0, 1] * 3]


def test_check_operations_takes_an_array_that_cannot_be_written_to():
    """As pandas hands them out; a warning would fail this test."""
    read_only = np.zeros((2, T))
    read_only.flags.writeable = False
    assert check_operations(read_only).shape == (2, T)


@pytest.mark.parametrize(
    "ops, words",
    [
        (torch.zeros(9), "shape (9,)"),
        (torch.zeros(2, 8), "shape (2, 8)"),
        (torch.zeros(1, 2, 9), "shape (1, 2, 9)"),
        (torch.full((1, 9), 2), "outside"),
        (torch.full((1, 9), 0.5), "outside"),
        (torch.full((1, 9), float("nan")), "outside"),
        (torch.full((1, 9), float("inf")), "outside"),
        (torch.zeros(1, 9, dtype=torch.complex64), "ops "),
        (torch.full((1, 9), 255, dtype=torch.uint8), "outside"),
        ("AND", "array of numbers"),
        (None, "array of numbers"),
        ([["-"] * 9], "array of numbers"),
        ([[1] * 9, [1] * 8], "array of numbers"),
        (np.array([["x"] * 9], dtype=object), "array of numbers"),
    ],
)
def test_check_operations_says_what_is_wrong(ops, words):
    with pytest.raises(InputError) as caught:
        check_operations(ops)
    sentence = str(caught.value)
    assert words in sentence and sentence.startswith("ops ") and "\n" not in sentence


def test_no_name_hides_another():
    """The number of names. Two functions with one table would make it one less."""
    assert len(names()) == len(set(names().values())) == 23


@pytest.mark.parametrize(
    "table, name",
    [
        ([-1, -1, -1, -1, 0, 0, -1, 0, 1], "AND (min)"),
        ([-1, -1, -1, 0, 0, 0, 1, 1, 1], "first input"),
        ([-1, 0, 1, -1, 0, 1, -1, 0, 1], "second input"),
        ([1, -1, 0, -1, 0, 1, 0, 1, -1], "sum mod 3"),
        ([0, -1, 1, 1, 0, -1, -1, 1, 0], "difference mod 3"),
        ([-1, 0, 0, 0, 0, 0, 0, 0, 1], "consensus"),
        ([0, -1, -1, 1, 0, -1, 1, 1, 0], "comparison (sign a-b)"),
        ([1, 1, 1, 0, 1, 1, -1, 0, 1], "Łukasiewicz implication"),
        ([0] * 9, "constant 0"),
    ],
)
def test_tables_written_by_hand_get_their_name(table, name):
    """Entry 3·(a + 1) + (b + 1) is the output for the inputs (a, b)."""
    assert describe(int(index_of(torch.tensor(table)))) == name


def test_a_nameless_operation_is_described_by_index_and_table():
    assert describe(1) == "#1 [0-- --- ---]"
    assert len({describe(i) for i in range(200)}) == 200


@pytest.mark.parametrize("flips", range(T + 1))
def test_noisy_changes_exactly_that_many_trits(flips):
    ops = all_operations()[::40]
    changed = noisy(ops, flips, seed=5)
    assert ((changed != ops).sum(1) == flips).all()
    assert changed.abs().max() <= 1


def test_noisy_chooses_places_and_values_evenly():
    ops = torch.zeros(30_000, T, dtype=torch.int64)
    changed = noisy(ops, 3, seed=1)
    for value in (-1, 1):  # a trit goes to either other value with probability 1/3 · 1/2
        share = (changed == value).double().mean(0)
        assert ((share - 1 / 6).abs() < 5 * (1 / 6 * 5 / 6 / 30_000) ** 0.5).all()


def test_noisy_depends_on_its_seed_alone():
    ops = all_operations()[:500]
    assert torch.equal(noisy(ops, 2, 1), noisy(ops, 2, 1))
    assert not torch.equal(noisy(ops, 2, 1), noisy(ops, 2, 2))
    assert C == 3 and M == 19_683
