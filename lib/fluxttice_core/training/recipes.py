"""Training by recipe: parameters in, one `Epoch` after another out."""

from collections.abc import Iterator

from ..training import straight as train_straight
from ..training import v5_5 as train_v5_5
from ..params import Train
from ..training.loop import Epoch

RECIPES = {"straight": train_straight.fit, "v5_5": train_v5_5.fit}


def fit(p: Train) -> Iterator[Epoch]:
    """Run the recipe that `p.recipe` names; see its module."""
    return RECIPES[p.recipe](p)
