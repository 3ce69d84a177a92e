"""The operations, the random streams and the network, which is judged through the api as well."""

import itertools

import numpy as np
import pytest
import torch
from planted import sentence
from torch.utils.data import random_split

from fluxttice_core import files
from fluxttice_core.model import operations
from fluxttice_core.model.network import decode_logits
from fluxttice_core.model.operations import C, M, T, all_operations, check_operations, index_of
from fluxttice_core.model.streams import generator

# --- Operations ---


def test_the_enumeration_counts_in_base_3_with_the_least_trit_first():
    by_counting = [row[::-1] for row in itertools.product((-1, 0, 1), repeat=T)]
    assert all_operations().tolist() == [list(row) for row in by_counting]
    assert len(by_counting) == M == 19_683 and all_operations().dtype == torch.int64
    shaped = all_operations().float().view(3, -1, T)
    assert torch.equal(index_of(shaped), torch.arange(M).view(3, -1))


def test_split_is_the_one_random_split_makes_from_its_seed_alone():
    rng, sizes = torch.Generator().manual_seed(7), operations.SPLIT_SIZES
    theirs = [list(part.indices) for part in random_split(range(M), [*sizes.values()], rng)]
    assert [part.tolist() for part in operations.split(7)] == theirs
    packed = b"".join(index.to_bytes(8, "little") for part in theirs for index in part)
    record = {"seed": 7, "sizes": sizes, "sha256": files.sha256(packed)}
    assert operations.split_record(7) == record


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
    ],
)
def test_tables_written_by_hand_get_their_name(table, name):
    """Entry 3·(a + 1) + (b + 1) is the output for the inputs (a, b)."""
    names = operations.names()
    assert names[int(index_of(torch.tensor(table)))] == name
    assert len(names) == len(set(names.values())) == 23  # none hides another


# --- Random streams ---


@pytest.mark.parametrize(
    "one, other",
    [
        ((3, "noise"), (4, "noise")), ((3, "noise"), (3, "order")), ((-3,), (3,)), ((3,), (3, "")),
        ((3, "noise", 1), (3, "noise", "1")), ((3, "ab", "c"), (3, "a", "bc")), ((12, 3), (1, 23)),
    ],
)  # fmt: skip
def test_another_seed_or_name_gives_an_unrelated_stream(one, other):
    """And the same ones the same."""
    a, again, b = (torch.randn(10_000, generator=generator(*name)) for name in (one, one, other))
    assert torch.equal(a, again)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 4 / 10_000**0.5  # four errors


def test_any_integer_is_a_seed_and_streams_do_not_depend_on_the_process():
    """Python's own `hash` of a string would: it is salted anew in each process."""
    assert generator(42, "order").initial_seed() == 4545430080924090934
    assert len({generator(seed).initial_seed() for seed in (0, -1, 2**63 - 1, 2**80)}) == 4


# --- The network ---


def layer(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def test_state_net_is_that_of_v5_5(untrained):
    """Recomputed from the bare weights: where the norm, the ReLU and the Tanh are. The encoders and
    both decoders are written out elsewhere."""
    w, s = untrained.state_dict(), torch.randn(9, generator=generator(0, "inputs"))
    h = layer(w, "state_net.encoder.0", s)
    h = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt()
    h = layer(w, "state_net.encoder.3", h.tanh())
    h = layer(w, "state_net.decoder.2", layer(w, "state_net.decoder.0", h).relu()).tanh()
    torch.testing.assert_close(untrained.state_net(s), h)


def test_categorical_draws_with_the_probabilities_of_the_softmax():
    """Each class's count is binomial: within 5 standard deviations."""
    n, logits = 40_000, torch.randn(T, C, generator=generator(0, "logits")) * 2
    p = logits.double().softmax(-1)
    classes = decode_logits(logits.expand(n, T, C), "categorical", generator(1, "test"))
    counts = torch.stack([(classes == c).sum(0) for c in range(C)], -1)
    assert classes.dtype == torch.int64
    assert ((counts - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt()).all()


@pytest.mark.parametrize("missing", range(C))
@pytest.mark.parametrize("low, rest", [(-torch.inf, -1e30), (-90, 0)])
def test_categorical_never_draws_what_has_no_probability(missing, low, rest):
    """Nor what is below float32's resolution. Stream 146 of torch's generator has an exact 0 among
    its first draws, which all of them would take for the lowest class."""
    n, rng = 10_000, torch.Generator().manual_seed(146)
    assert (torch.rand(n, T, generator=rng.clone_state()) == 0).any()
    logits = torch.full((n, T, C), float(rest))
    logits[..., missing] = low
    classes = decode_logits(logits, "categorical", rng).unique()
    assert classes.tolist() == [c for c in range(C) if c != missing]


def test_expectation_is_the_rounded_mean_value_and_not_argmax():
    """The broken reading: between the extremes it answers 0, which is the least likely."""
    logits = 3 * torch.randn(1_000, T, C, generator=generator(0, "logits"))
    mean = (logits.softmax(-1) * torch.tensor([-1.0, 0.0, 1.0])).sum(-1)
    assert torch.equal(decode_logits(logits, "expectation"), mean.round().long() + 1)
    logits = torch.tensor([0.5, 0.01, 0.49]).log().expand(1, T, C)
    assert (decode_logits(logits, "expectation") == 1).all() and (
        decode_logits(logits, "argmax") == 0
    ).all()
