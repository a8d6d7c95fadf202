"""Units that make artifacts: found by distance to real images, ablated, and the generator repaired.

After GAN Dissection (Bau et al. 2019, section 4.3), where 20 of 512 units were picked by hand and
ablated, and the distance to real images fell (FID 52.9 to 32.1; 20 random units: 52.3). Here:

1. For each unit the Frechet distance between real images and the tenth of samples in which the unit
   is most active. A unit that draws rare content ranks high as well, so
2. the first in that order are ablated one by one on other samples, and those whose ablation brings
   the samples nearest to real images are chosen, if it does.
3. All chosen units are ablated on samples not used before, against random sets of as many.

The distance is between means and covariances of features (Heusel et al. 2017). It is named after
its extractor; only with Inception features is it called FID. Images have the contrast of training
images before they are compared, so that contrast alone makes no distance.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.inspection.attributes import EXTRACTORS, Features, extractor_of
from gan_core.inspection.base import (
    Context,
    Inspection,
    Table,
    as_float,
    as_images,
    image_sheet,
    match_contrast,
)
from gan_core.inspection.units import Units, choose_layer, outgoing, random_sets
from gan_core.metrics.generation import frechet
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.snapshot import EMA, Snapshot
from gan_core.randomness import numpy_stream

ABOUT = "units that make artifacts are found by distance to real images, and ablated"
TITLE = "Artifact units"
VERSION = 1
ORDER = 100
DEFAULT = False  # it takes minutes
EXAMPLES = ({"units": 1, "samples": 100},)

REAL = 4000  # training images of the distance, at most
DIMENSIONS = 64  # principal components of real features that are compared
TENTH = 0.1
SETS = 20
CANDIDATES = 4  # times as many units as are ablated are tried one by one
SHOWN = 16
EXACT = 1e-3  # by how much a repaired generator may differ from ablation, of a range of 2
Floats = npt.NDArray[np.float64]


class Options(Section):
    """How many units, of which layer, and what measures the distance."""

    layer: str = Field("", description="layer of the generator; empty: the first after projection")
    units: int = Field(4, ge=1, description="units ablated, at most")
    samples: int = Field(1000, ge=100, description="samples for each of the three steps")
    extractor: Literal["random", "discriminator"] = Field(
        "random",
        description="features of the distance: the discriminator's layers with random weights, or "
        "as trained",
    )


@dataclass(frozen=True)
class Distance:
    """Frechet distance of images to the training images on an extractor's features."""

    features: Features
    mean: Floats
    covariance: Floats
    components: Floats

    @classmethod
    def to(cls, real: Tensor, features: Features) -> Distance:
        """Of real images float [n, 3, S, S]; the components are the principal ones of these."""
        x = features(real).astype(np.float64)
        _, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
        components = vectors[:, ::-1][:, :DIMENSIONS]
        projected = x @ components
        return cls(features, projected.mean(0), np.cov(projected, rowvar=False), components)

    def project(self, images: Tensor) -> Floats:
        """float64 [n, components]."""
        return np.asarray(self.features(images).astype(np.float64) @ self.components)

    def of(self, projected: Floats) -> float:
        """The distance of projected features [n, components], in units of their squares."""
        return frechet(
            self.mean, self.covariance, projected.mean(0), np.cov(projected, rowvar=False)
        )


def inspect(context: Context, options: Options) -> Inspection:
    """The distance before and after ablation, against random sets; the repaired generator."""
    real = as_float(context.training_images(REAL, "artifact units"))
    distance = Distance.to(real, extractor_of(context, options.extractor, real))
    generator = context.snapshot.best_generator()
    layer = choose_layer(generator, options.layer, 0)
    name = f"Frechet distance on {EXTRACTORS[options.extractor]}"

    def study(stream: str) -> Units:
        return Units(generator, layer, context.latents(options.samples, f"artifact units {stream}"))

    def measured(images: Tensor) -> float:
        return distance.of(distance.project(match_contrast(images, real)))

    ranks = rank(study("rank"), distance, real)
    order = np.argsort(-ranks, kind="stable")
    trial = study("trial")
    before_trial = measured(trial.images)
    tried = order[: CANDIDATES * options.units].tolist()
    gains = {unit: before_trial - measured(trial.without([unit])) for unit in tried}
    helpful = sorted((u for u in tried if gains[u] > 0), key=lambda u: -gains[u])
    chosen = helpful[: options.units]
    if not chosen:
        return Inspection(
            f"None of the {len(tried)} units of {layer} with the most distant samples makes "
            f"artifacts: ablating each alone brings samples no nearer to training images ({name}).",
            {"layer": layer, "tried": tried, "units": [], "distance": round(before_trial, 4)},
        )
    fresh = study("measured")
    before, after = measured(fresh.images), measured(fresh.without(chosen))
    random = numpy_stream(context.seed, "inspect", "artifact units")
    chance = [
        measured(fresh.without(units))
        for units in random_sets(len(ranks), chosen, len(chosen), SETS, random)
    ]
    falls = after < before and after < float(np.quantile(chance, 0.05))
    repaired = repair(context.snapshot, layer, chosen)
    exact = repaired is not None and _same(repaired, fresh, chosen)
    listed = ", ".join(str(unit) for unit in chosen)
    sentence = (
        f"Ablating units {listed} of {layer} changes the {name} from {before:.3f} to {after:.3f}; "
        f"{SETS} random sets of as many units bring it to {np.mean(chance):.3f} on average (lowest "
        f"{min(chance):.3f}). "
        + ("These units make artifacts." if falls else "That is no more than chance.")
        + (" The repaired generator is saved as a snapshot." if falls and exact else "")
    )
    rows: list[list[object]] = [
        ["as trained", f"{before:.3f}"],
        [f"without units {listed}", f"{after:.3f}"],
        [f"without random units, mean of {SETS} sets", f"{np.mean(chance):.3f}"],
        ["without random units, lowest", f"{min(chance):.3f}"],
    ]
    numbers = {
        "layer": layer,
        "units": chosen,
        "tried": tried,
        "extractor": options.extractor,
        "before": round(before, 4),
        "after": round(after, 4),
        "random_mean": round(float(np.mean(chance)), 4),
        "random_lowest": round(min(chance), 4),
        "falls": falls,
    }
    strongest = fresh.activations[:, chosen].mean((1, 2, 3)).argsort(descending=True)[:SHOWN]
    shown = torch.cat([fresh.images[strongest], fresh.without(chosen, strongest)])
    caption = "samples in which these units are most active, and the same without them"
    return Inspection(
        sentence,
        numbers,
        [image_sheet("artifact_units", as_images(shown), len(strongest), caption)],
        [Table(["generator", name], rows)],
        snapshot=repaired if falls and exact else None,
    )


def rank(study: Units, distance: Distance, real: Tensor) -> Floats:
    """For each unit the distance of the tenth of samples in which it is most active: [units]."""
    projected = distance.project(match_contrast(study.images, real))
    activity = study.activations.float().mean((2, 3))
    count = max(2, round(TENTH * len(projected)))
    strongest = activity.topk(count, dim=0).indices.numpy()
    return np.array(
        [distance.of(projected[strongest[:, unit]]) for unit in range(activity.shape[1])]
    )


def repair(snapshot: Snapshot, layer: str, units: list[int]) -> Snapshot | None:
    """A snapshot whose best generator does without some units: the weights that read them are 0.

    None where no convolution reads the layer.
    """
    role = "generator" if snapshot.average is None else "generator" + EMA
    network: LayeredNetwork = copy.deepcopy(snapshot.networks[role])
    weight = outgoing(network, layer)
    if weight is None:
        return None
    with torch.no_grad():
        weight[units] = 0
    meta = {**snapshot.meta, "without": {"layer": layer, "units": units}}
    return replace(snapshot, networks={**snapshot.networks, role: network}, meta=meta)


def _same(repaired: Snapshot, study: Units, units: list[int]) -> bool:
    """Whether the repaired generator gives the images of ablation (a norm between the layer and the
    weights that read it would not let it).
    """
    rows = torch.arange(min(8, len(study.latents)))
    own = Units(repaired.best_generator(), study.layer, study.latents[rows])
    return bool((own.images - study.without(units, rows)).abs().max() < EXACT)
