"""Image features from GANs. The public API; a name is imported when it is first used.

run               a recipe from images to features, scores and a report
load_recipe       a checked recipe
load_snapshot     the networks of a trained GAN
sample            generated images
extract_features  features of images from any convolutional network
FeatureExtractor  the same as a scikit-learn transformer
read_features     features with their lineage, as NumPy or torch
find_duplicates   near-duplicates in a folder
evaluate          test accuracy of a probe on features, with its interval
inspect           figures and numbers about a trained GAN
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_core.api import (
        evaluate,
        extract_features,
        find_duplicates,
        inspect,
        load_recipe,
        load_snapshot,
        read_features,
        run,
        sample,
    )
    from gan_core.features.transformer import FeatureExtractor

__all__ = [
    "FeatureExtractor",
    "evaluate",
    "extract_features",
    "find_duplicates",
    "inspect",
    "load_recipe",
    "load_snapshot",
    "read_features",
    "run",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "features.transformer" if name == "FeatureExtractor" else "api"
    return getattr(import_module(f"gan_core.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
