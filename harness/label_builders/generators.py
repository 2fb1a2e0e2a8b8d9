"""The sources of recipes for label builders."""

from __future__ import annotations

from ..cases.generators import Generators
from . import cases
from .cases import BuilderRecipe

BUILDER_RECIPES: Generators[BuilderRecipe] = Generators(
    cases.hand_made,
    cases.recipes,
    cases.placed,
    cases.random_recipes,
    cases.simplifications,
    lambda recipe, space: True,
    lambda recipe, space: iter(()),  # an exact comparison always proves something
    ("ids",),
)
