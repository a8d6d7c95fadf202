"""A recipe: every choice of a run, as models that refuse what they do not know.

A section of the recipe belongs to one stage, and its values other than the defaults are part of
that stage's key (`key_part`): a field at its default is left out, so that a new field invalidates
no cache. What must never enter a key (device, workers, paths, logging) is not here: it travels as
the context of a request.
"""

from gan_core.config.evaluation import EvaluateConfig, ProbeConfig
from gan_core.config.features import ExtractConfig
from gan_core.config.images import CropConfig, DedupConfig, HashConfig
from gan_core.config.recipe import Recipe, SegmenterConfig
from gan_core.config.sources import SourceConfig
from gan_core.config.training import NetworkConfig, TrainConfig
from gan_core.validation import Section

__all__ = [
    "CropConfig",
    "DedupConfig",
    "EvaluateConfig",
    "ExtractConfig",
    "HashConfig",
    "NetworkConfig",
    "ProbeConfig",
    "Recipe",
    "Section",
    "SegmenterConfig",
    "SourceConfig",
    "TrainConfig",
]
