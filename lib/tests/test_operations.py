import itertools
import warnings

import numpy as np
import pytest
import torch
from planted import sentence
from torch.utils.data import random_split

from fluxttice_core import files
from fluxttice_core.model.operations import (
    SPLIT_SIZES,
    M,
    T,
    all_operations,
    check_operations,
    describe,
    index_of,
    names,
    noisy,
    split,
    split_record,
)

with warnings.catch_warnings(action="ignore"):  # both are on their way in or out of torch
    QUANTISED = torch.quantize_per_tensor(torch.zeros(1, 9), 1, 0, torch.qint8)
    NESTED = torch.nested.nested_tensor([torch.zeros(9)])


def test_the_enumeration_counts_in_base_3_with_the_least_trit_first():
    by_counting = [row[::-1] for row in itertools.product((-1, 0, 1), repeat=T)]
    assert all_operations().tolist() == [list(row) for row in by_counting]
    assert len(by_counting) == M == 19_683 and all_operations().dtype == torch.int64
    shaped = all_operations().float().view(3, -1, T)
    assert torch.equal(index_of(shaped), torch.arange(M).view(3, -1))


@pytest.mark.parametrize("seed", [42, 7])
def test_split_is_the_one_random_split_makes_from_its_seed_alone(seed):
    rng = torch.Generator().manual_seed(seed)
    theirs = random_split(range(M), list(SPLIT_SIZES.values()), generator=rng)
    assert [part.tolist() for part in split(seed)] == [list(part.indices) for part in theirs]
    packed = b"".join(index.to_bytes(8, "little") for part in theirs for index in part.indices)
    record = {"seed": seed, "sizes": SPLIT_SIZES, "sha256": files.sha256(packed)}
    assert split_record(seed) == record


def test_check_operations_takes_any_array_of_tables():
    """Also one that may not be written, as pandas hands them out: a warning would fail this."""
    tables = [[-1.0, 0.0, 1.0] * 3]
    read_only = np.array(tables)
    read_only.flags.writeable = False
    for ops in (tables, read_only, np.int8(tables), torch.tensor(tables).double()):
        checked = check_operations(ops)
        assert checked.dtype == torch.float32 and checked.tolist() == tables


@pytest.mark.parametrize(
    "ops, words",
    [
        *[(torch.zeros(*shape), f"shape {shape}") for shape in ((9,), (2, 8), (1, 2, 9))],
        *[(torch.full((1, 9), bad), "outside") for bad in (0.5, torch.nan)],
        (torch.full((1, 9), 255, dtype=torch.uint8), "outside"),
        *[(x, "dense array") for x in (torch.zeros(1, 9).to_sparse(), torch.zeros(1, 9) * 1j)],
        *[(x, "dense array") for x in (torch.zeros(1, 9, device="meta"), QUANTISED, NESTED)],
        (np.ma.masked_array(np.zeros((1, 9)), np.ones((1, 9))), "without a mask"),
        *[(bad, "array of numbers") for bad in ("AND", None, [["-"] * 9], [[1] * 9, [1] * 8])],
        (np.array([["x"] * 9], dtype=object), "array of numbers"),
    ],
)
def test_check_operations_says_what_is_wrong(ops, words):
    text = sentence(check_operations, ops)
    assert words in text and text.startswith("ops ")


@pytest.mark.parametrize(
    "table, name",
    [
        ([-1, -1, -1, -1, 0, 0, -1, 0, 1], "AND (min)"),
        ([-1, 0, 1, -1, 0, 1, -1, 0, 1], "second input"),
        ([0, -1, 1, 1, 0, -1, -1, 1, 0], "difference mod 3"),
        ([0, -1, -1, 1, 0, -1, 1, 1, 0], "comparison (sign a-b)"),
        ([1, 1, 1, 0, 1, 1, -1, 0, 1], "Łukasiewicz implication"),
        ([0] + [-1] * 8, "#1 [0-- --- ---]"),
    ],
)
def test_tables_written_by_hand_get_their_name(table, name):
    """Entry 3·(a + 1) + (b + 1) is the output for the inputs (a, b)."""
    assert describe(int(index_of(torch.tensor(table)))) == name
    assert len(names()) == len(set(names().values())) == 23  # none hides another


@pytest.mark.parametrize("flips", [0, 1, 4, T])
def test_noisy_changes_exactly_that_many_trits_by_its_seed_alone(flips):
    ops = all_operations()[::40]
    changed = noisy(ops, flips, seed=5)
    assert ((changed != ops).sum(1) == flips).all() and changed.abs().max() <= 1
    assert torch.equal(changed, noisy(ops, flips, 5))
    assert (not flips) or not torch.equal(changed, noisy(ops, flips, 6))


def test_noisy_chooses_places_and_values_evenly_and_refuses_what_a_table_has_not():
    for flips in (-1, 10):
        assert f"flips is {flips}, but" in sentence(noisy, all_operations()[:1], flips, 1)
    changed = noisy(torch.zeros(30_000, T, dtype=torch.int64), 3, seed=1)
    for value in (-1, 1):  # a trit goes to either other value with probability 1/3 · 1/2
        share = (changed == value).double().mean(0)
        assert ((share - 1 / 6).abs() < 5 * (1 / 6 * 5 / 6 / 30_000) ** 0.5).all()
