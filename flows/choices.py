"""What the forms of the UI offer: the recipes that come with Discern and their scales, read from
the recipes room.
"""

from __future__ import annotations

from gan_core.config import Recipe
from gan_core.recipes import read_recipe_file, recipe_names

RECIPES = tuple(recipe_names())
_SIZES = ("debug", "small", "full")
_HAVE = {name: {"full", *map(str, read_recipe_file(name).get("scales") or {})} for name in RECIPES}
SCALES = (*_SIZES, *sorted({scale for scales in _HAVE.values() for scale in scales} - set(_SIZES)))
LACKING = "; ".join(
    f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} no {scale}"
    for scale in SCALES
    if (without := [name for name in RECIPES if scale not in _HAVE[name]])
)
"""Which recipe lacks which scale, for the sentence beside the field: a form cannot make one choice
depend on another.
"""

SETTING = rf"^({'|'.join(sorted(Recipe.model_fields))})(\.[^=\s]+)?\s*="
"""What an override looks like. Which keys a section has is checked when the run begins, where the
nearest one can be named.
"""
