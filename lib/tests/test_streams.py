import pytest
import torch

from fluxttice_core.model.streams import generator


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
