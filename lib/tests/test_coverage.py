import numpy as np
import pytest
import torch
from fluxttice_core.metrics.coverage import CHUNK, ceiling, chunks, coverage, distinct, indices
from fluxttice_core.errors import InputError
from fluxttice_core.model.network import HOW, VAES, D, prior, read_out
from fluxttice_core.model.operations import C, M, T, all_operations, index_of
from fluxttice_core.model.streams import generator

TERCILE = 0.4307273  # a third of N(0, 1) lies above it


def table_decoder(choose):
    """A decoder that turns nine latents into an operation i, each equally likely, and is certain
    of operation `choose(i, z)`."""

    def decode(z):
        trits = (z[:, :T] > TERCILE).long() - (z[:, :T] < -TERCILE).long()
        ops = all_operations()[choose(index_of(trits), z)]
        return 1e3 * torch.nn.functional.one_hot(ops + 1, C).float()

    return decode


def few_first(k):
    """The first k operations are never made: the next one is made in their place."""
    p = np.full(M, 1 / M)
    p[:k], p[k] = 0, (k + 1) / M
    return table_decoder(lambda i, z: i.clamp(min=k)), p


def skewed():
    """Two levels: half the time trit 8 is made 0, so a third of all is 4 times likelier."""
    zero = (all_operations()[:, 8] == 0).numpy()
    choose = lambda i, z: torch.where(z[:, T] > 0, i % C**8 + C**8, i)  # noqa: E731
    return table_decoder(choose), np.where(zero, 2 / M, 0.5 / M)


def half_fixed():
    """Four of the nine trits never change: 243 operations are left."""
    p = np.zeros(M)
    p[: C**5] = C**-5
    return table_decoder(lambda i, z: i % C**5), p


def constant():
    p = np.zeros(M)
    p[77] = 1
    return table_decoder(lambda i, z: torch.full_like(i, 77)), p


PLANTED = {
    "bijection": few_first(0),
    "1 missing": few_first(1),
    "2,000 missing": few_first(2_000),
    "two levels": skewed(),
    "half the trits fixed": half_fixed(),
    "constant": constant(),
}


def expected(p, n):
    return float((1 - (1 - p) ** n).sum())


def spread(p, n):
    """An upper bound of the standard deviation of the number of distinct draws: occupancies are
    negatively correlated, so the sum of their variances is not exceeded."""
    missed = (1 - p) ** n
    return float((missed * (1 - missed)).sum()) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 10_000, 50_000, 195_000, 10**7])
def test_ceiling_is_the_closed_form(n):
    assert float(ceiling(n)) == pytest.approx(M * (1 - (1 - 1 / M) ** n), rel=1e-9)


def test_ceiling_by_hand():
    assert float(ceiling(1)) == pytest.approx(1, rel=1e-12)
    assert float(ceiling(2)) == pytest.approx(2 - 1 / M, rel=1e-12)
    share = 100 * ceiling([10_000, 50_000, 195_000]) / M
    assert share == pytest.approx([39.83, 92.12, 99.995], abs=5e-3)


def test_ceiling_is_what_uniform_draws_reach():
    rng, n = np.random.default_rng(0), 30_000
    counts = [len(np.unique(rng.integers(M, size=n))) for _ in range(100)]
    assert abs(np.mean(counts) - ceiling(n)) < 4 * np.std(counts, ddof=1) / 10


@pytest.mark.parametrize("n", [0, 1, CHUNK, CHUNK + 1, 195_000])
def test_chunks_add_up(n):
    sizes = list(chunks(n))
    assert sum(sizes) == n and all(0 < size <= CHUNK for size in sizes)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", PLANTED)
def test_planted_decoders_reach_what_their_distribution_says(name, how):
    """Over 5 trials the mean count is within 4 of its own standard deviations of the truth, and
    no trial makes an operation that cannot be made."""
    (decoder, p), n = PLANTED[name], 20_000
    [row] = coverage(decoder, [n], how=[how], trials=5, seed=1)
    assert abs(row["unique"] - expected(p, n)) <= 4 * spread(p, n) / 5**0.5 + 1e-9
    assert row["unique"] <= (p > 0).sum()


@pytest.mark.parametrize("name", [name for name in PLANTED if name != "two levels"])
def test_planted_decoders_make_all_they_can_given_time(name):
    """At this n an operation of probability 1/M is still missing with odds of 1 to 200."""
    (decoder, p), n = PLANTED[name], 300_000
    counts = distinct(decoder, [n], ["argmax"], generator(1, name))
    assert counts["argmax", n] == (p > 0).sum()


def test_a_uniform_categorical_decoder_reaches_the_ceiling():
    """Twenty trials: the interval holds C(N), and the mean is within 4 standard errors of it."""
    ns, p = [1_000, 20_000], np.full(M, 1 / M)
    uniform = lambda z: torch.zeros(len(z), T, C)  # noqa: E731
    for row in coverage(uniform, ns, how=["categorical"], trials=20, seed=0):
        truth = float(ceiling(row["n"]))
        assert row["ci95"][0] <= truth <= row["ci95"][1]
        assert abs(row["unique"] - truth) < 4 * spread(p, row["n"]) / 20**0.5
        assert row["of_ceiling"] == pytest.approx(1, abs=0.01)


def test_a_uniform_decoder_by_argmax_makes_one_operation():
    rows = coverage(lambda z: torch.zeros(len(z), T, C), [5_000], how=["argmax"], seed=0)
    assert rows[0]["unique"] == 1 and rows[0]["ci95"] == [1, 1]


@pytest.mark.parametrize("vae", VAES)
def test_a_perfect_model_reaches_the_ceiling_in_every_mode(perfect_model, vae):
    n, p = 20_000, np.full(M, 1 / M)
    for row in coverage(perfect_model.decoder(vae), [n], trials=5, seed=3):
        assert abs(row["unique"] - float(ceiling(n))) < 4 * spread(p, n) / 5**0.5


@pytest.mark.parametrize("vae", VAES)
def test_counts_are_those_of_a_set_filled_row_by_row(untrained, vae):
    """The same stream, the modes in the same order, and a Python set of tuples."""
    n, decoder, rng = CHUNK + 700, untrained.decoder(vae), generator(9, "same")
    seen = {how: set() for how in HOW}
    for size in (CHUNK, 700):
        logits = decoder(prior(size, rng)).detach()
        for how in HOW:
            for row in read_out(logits, how, rng).tolist():
                seen[how].add(tuple(row))
    counts = distinct(decoder, [n], HOW, generator(9, "same"))
    assert counts == {(how, n): len(seen[how]) for how in HOW}
    assert counts["argmax", n] < counts["categorical", n]


def test_indices_are_those_of_the_decoded_tables(untrained):
    logits = untrained.decoder_B(5 * prior(500, generator(1, "z")))
    assert torch.equal(indices(logits, "argmax"), index_of(logits.argmax(-1) - 1))
    every = 9.0 * torch.nn.functional.one_hot(all_operations() + 1, C)
    assert torch.equal(indices(every, "argmax"), torch.arange(M))


def test_a_larger_n_continues_a_smaller_one(untrained):
    alone = distinct(untrained.decoder_A, [500], ["argmax"], generator(1, "z"))
    both = distinct(untrained.decoder_A, [3_000, 500, 3_000], ["argmax"], generator(1, "z"))
    assert both["argmax", 500] == alone["argmax", 500] < both["argmax", 3_000]


def test_rows_hold_mean_shares_and_interval_of_the_trials(untrained):
    rows = coverage(untrained.decoder_B, [100, 900], how=["categorical"], trials=3, seed=5)
    for row, n in zip(rows, [100, 900], strict=True):
        rngs = [generator(5, "coverage", "", trial) for trial in range(3)]
        runs = [distinct(untrained.decoder_B, [100, 900], ["categorical"], rng) for rng in rngs]
        counts = [run["categorical", n] for run in runs]
        half = 4.302653 * np.std(counts, ddof=1) / 3**0.5  # t(0.975, 2) = 4.302653
        assert row["unique"] == pytest.approx(np.mean(counts))
        assert row["share"] == pytest.approx(np.mean(counts) / M)
        assert row["of_ceiling"] == pytest.approx(np.mean(counts) / float(ceiling(n)))
        assert row["ci95"] == pytest.approx([np.mean(counts) - half, np.mean(counts) + half])
        assert (row["decode"], row["n"], row["trials"]) == ("categorical", n, 3)


def test_seed_and_stream_choose_the_draws(untrained):
    def counts(**names):
        return coverage(untrained.decoder_B, [2_000], how=["categorical"], **names)

    assert counts(seed=1) == counts(seed=1)
    assert counts(seed=1) != counts(seed=2)
    assert counts(seed=1, stream="A") != counts(seed=1, stream="B")


def test_modes_and_numbers_may_come_from_iterators(untrained):
    rows = coverage(untrained.decoder_A, iter([10, 20]), how=iter(HOW), trials=2, seed=1)
    assert [(row["decode"], row["n"]) for row in rows] == [(h, n) for h in HOW for n in (10, 20)]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"ns": []}, "ns is []"),
        ({"ns": [0]}, "ns is [0]"),
        ({"ns": [10, -1]}, "ns is [10, -1]"),
        ({"ns": [1.5]}, "ns is [1.5]"),
        ({"ns": ["10"]}, "ns is ['10']"),
        ({"trials": 1}, "trials is 1"),
        ({"how": ["best"]}, "how is 'best'"),
    ],
)
def test_bad_input_is_named(untrained, change, words):
    given = {"ns": [10], "how": ["argmax"], "trials": 2, "seed": 0, **change}
    with pytest.raises(InputError) as caught:
        coverage(untrained.decoder_A, **given)
    assert words in str(caught.value)


def test_nothing_asks_for_gradients(untrained):
    seen = []

    def decoder(z):
        logits = untrained.decoder_A(z)
        seen.append(logits.requires_grad or z.shape[1] != D)
        return logits

    coverage(decoder, [10], how=["argmax"], trials=2, seed=0)
    assert seen == [False, False]
