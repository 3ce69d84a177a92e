"""Training by recipe: parameters in, one `Epoch` after another out."""

from collections.abc import Iterator

from . import train_straight, train_v5_5
from .params import Train
from .selection import Epoch

RECIPES = {"straight": train_straight.fit, "v5_5": train_v5_5.fit}


def fit(p: Train) -> Iterator[Epoch]:
    """Run the recipe that `p.recipe` names; see its module."""
    return RECIPES[p.recipe](p)
