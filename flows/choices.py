"""What the forms of the UI offer: the recipes that come with Discern and their scales, read from the recipes room."""

from __future__ import annotations

from gan_core.recipes import read_recipe_file, recipe_names

RECIPES = tuple(recipe_names())
_SIZES = ("debug", "small", "full")
_OTHERS = {str(scale) for name in RECIPES for scale in read_recipe_file(name).get("scales") or {}} - set(_SIZES)
SCALES = (*_SIZES, *sorted(_OTHERS))
