import pytest
import torch

from fluxttice_core.model.streams import generator


def draw(rng: torch.Generator, n: int = 1000) -> torch.Tensor:
    return torch.randn(n, generator=rng)


def test_the_same_seed_and_name_give_the_same_stream():
    assert torch.equal(draw(generator(3, "noise", 1)), draw(generator(3, "noise", 1)))


@pytest.mark.parametrize(
    "one, other",
    [
        ((3, "noise"), (4, "noise")),
        ((3, "noise"), (3, "order")),
        ((3, "noise", 1), (3, "noise", 2)),
        ((3, "noise", 1), (3, "noise", "1")),
        ((3, "ab", "c"), (3, "a", "bc")),
        ((3,), (3, "")),
        ((12, 3), (1, 23)),
        ((-3,), (3,)),
    ],
)
def test_another_seed_or_name_gives_an_unrelated_stream(one, other):
    a, b = draw(generator(*one), 10_000), draw(generator(*other), 10_000)
    correlation = float(torch.corrcoef(torch.stack([a, b]))[0, 1])
    assert abs(correlation) < 4 / 10_000**0.5  # four standard errors


def test_streams_do_not_depend_on_the_process():
    """Python's own `hash` of a string would: it is salted anew in each process."""
    assert generator(42, "order").initial_seed() == 4545430080924090934


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**80])
def test_any_integer_is_a_seed(seed):
    assert 0 <= generator(seed).initial_seed() < 2**63


def test_the_global_stream_is_left_alone():
    before = torch.get_rng_state()
    draw(generator(1, "x"))
    assert torch.equal(torch.get_rng_state(), before)
