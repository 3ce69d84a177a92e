"""Training by recipe: parameters in, one `Epoch` after another out."""

from collections.abc import Callable, Iterator
from typing import Any

from ..errors import InputError
from ..params import brief
from . import turned, v5_5
from .loop import Epoch, Train

RECIPES: dict[str, tuple[type[Train], Callable[[Any], Iterator[Epoch]]]] = {
    "turned": (turned.TrainTurned, turned.fit),
    "v5_5": (v5_5.TrainV55, v5_5.fit),
}


def parameters(values: dict[str, Any], where: str) -> type[Train]:
    """The class of the parameters that `values["recipe"]` names.

    Raises:
        InputError: none, or another name.
    """
    name = values.get("recipe")
    if not isinstance(name, str) or name not in RECIPES:
        raise InputError(
            f"{where}: recipe is {brief(name)}, but must be one of {', '.join(RECIPES)}."
        )
    return RECIPES[name][0]


def fit(p: Train) -> Iterator[Epoch]:
    """Run the recipe that `p.recipe` names; see its module."""
    return RECIPES[p.recipe][1](p)
