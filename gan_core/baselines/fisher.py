"""Adversarial Fisher vectors: another read-out of the trained discriminator, by its gradients.

With p(x) proportional to exp(D(x)), of which the generator draws samples, an image's Fisher vector
is U(x) = grad D(x) - E_z grad D(G(z)), each weight's value divided by its standard deviation over
generated images: the diagonal of the Fisher information (apple/ml-afv, commit 200618f).

Here D is the logit (the authors take the sigmoid), and the gradient is read at a fixed random
subset of the weights. Products of two vectors, divided by their length, estimate those of all
weights without bias; `gram_error` in the lineage is the relative standard error that the subset
leaves, from its two halves. Generated images have the contrast of training images by default: the
DCGAN authors' discriminators cannot see contrast, and their samples have too little of it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gan_core.config import Section
from gan_core.contract import ExtractRequest
from gan_core.errors import RequestError
from gan_core.features.extract import full_float32
from gan_core.features.extractor import Extractor, Half, Images, set_statistics, snapshot_entry
from gan_core.features.modes import LayerSize, Selection, to_half
from gan_core.inspection.base import match_contrast
from gan_core.networks.snapshot import (
    chosen_snapshot,
    generate,
    load_snapshot,
    sample_latents,
)
from gan_core.progress import Progress, silent
from gan_core.randomness import numpy_stream, torch_stream
from gan_core.shards import PixelShards
from gan_core.vision.tensors import to_float

if TYPE_CHECKING:
    from gan_core.networks.snapshot import Snapshot

log = logging.getLogger(__name__)

ABOUT = "gradients of the trained discriminator's score by a random subset of its weights"
TITLE = "Fisher vectors"
VERSION = 1
NEEDS = ("pack", "snapshot")
EXAMPLES = ({"weights": 64, "images": 32},)
REAL = 2048  # training images whose contrast generated ones get
BLOCK = 2**28  # bytes of gradients of all weights that are held at once
# Of the median standard deviation: weights whose gradient hardly varies over generated images (dead
# units) are divided by this much. The authors add 1e-6 to each, whatever the scale of the score.
FLOOR = 0.01


class Options(Section):
    """How many weights, and what the Fisher information is measured over."""

    weights: int = Field(8192, ge=16, description="weights whose gradient is read")
    subset: int = Field(0, ge=0, description="number of the random subset of weights")
    images: int = Field(1024, ge=32, description="generated images of the mean and the variance")
    contrast: bool = Field(
        True, description="give generated images the contrast of training images first"
    )


def dims(options: Options, size: int, network: int) -> int:
    """How many features an image has, at most."""
    return options.weights


class Gradients:
    """Gradients of the score of each image by a random subset of the weights that it depends on.

    Args:
        snapshot: its networks are in evaluation mode, so that an image's score is its own.
        random: draws the subset.

    Attributes:
        rows: parameter to int64 positions in it, ascending; the columns are in this order.
        total: weights that the score depends on.
    """

    def __init__(self, snapshot: Snapshot, weights: int, random: np.random.Generator) -> None:
        score = _Score(snapshot.method)
        shape = snapshot.discriminator.input_shape
        weighted = {name: w.detach().requires_grad_() for name, w in score.named_parameters()}
        probe = torch.zeros(1, *shape, device=next(iter(weighted.values())).device)
        found = functional_call(score, weighted, (probe,))
        used = torch.autograd.grad(found.sum(), list(weighted.values()), allow_unused=True)
        self.parameters = {
            name: weight.detach()
            for (name, weight), gradient in zip(weighted.items(), used, strict=True)
            if gradient is not None
        }
        sizes = [value.numel() for value in self.parameters.values()]
        self.total = sum(sizes)
        chosen = np.sort(random.choice(self.total, min(weights, self.total), replace=False))
        starts = np.cumsum([0, *sizes])
        parts = np.split(chosen, np.searchsorted(chosen, starts[1:-1]))
        self.rows = {
            name: torch.from_numpy(part - start).to(probe.device)
            for name, part, start in zip(self.parameters, parts, starts[:-1], strict=True)
        }
        self.batch = max(1, min(32, BLOCK // (4 * self.total)))

        def one(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
            scores: Tensor = functional_call(score, parameters, (image[None],))
            return scores[0]

        self._each = vmap(grad(one), (None, 0))

    def __call__(self, images: Tensor) -> Tensor:
        """float32 [n, weights] on the networks' device. Args: images: float [n, C, S, S]."""
        device = next(iter(self.parameters.values())).device
        out = []
        with full_float32():
            for some in torch.split(images, self.batch):
                found = self._each(self.parameters, some.to(device))
                parts = [found[name].flatten(1)[:, rows] for name, rows in self.rows.items()]
                out.append(torch.cat(parts, 1))
        return torch.cat(out)


class _Score(nn.Module):
    """How real images look to the method, [n]: a module, so that its weights can be replaced."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method, self.nets = method, nn.ModuleDict(method.nets)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.method.realness(images)
        return found


class FisherVectors:
    """Fisher vectors of images, normalised over generated ones.

    Attributes:
        mean, scale: float32 [weights], of the gradients of generated images.
        gram_error: relative standard error of products of two vectors that the subset leaves.
        seconds: for one image, measured.
    """

    def __init__(self, gradients: Gradients, generated: Tensor, progress: Progress) -> None:
        self.gradients = gradients
        started, found = time.perf_counter(), []
        for start in range(0, len(generated), gradients.batch):
            found.append(gradients(generated[start : start + gradients.batch]))
            progress(start + len(found[-1]), len(generated), "generated images")
        self.seconds = (time.perf_counter() - started) / len(generated)
        values = torch.cat(found)
        self.mean, scale = values.mean(0), values.std(0, correction=0)
        self.scale = scale.clamp(min=max(FLOOR * float(scale.median()), 1e-12))
        self.gram_error = gram_error((values - self.mean) / self.scale)

    def __call__(self, images: Tensor) -> Tensor:
        """float32 [n, weights]. Args: images: float [n, C, S, S] in [-1, 1]."""
        return (self.gradients(images) - self.mean) / self.scale


def gram_error(vectors: Tensor) -> float:
    """Relative standard error of the products of different rows of [n, weights], from the
    difference between every second column and the others.
    """
    halves = [vectors[:, first::2].double() for first in (0, 1)]
    first, second = (half @ half.T / half.shape[1] for half in halves)
    different = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    noise = ((first - second)[different] / 2).square().mean()
    signal = (first * second)[different].mean()  # halves are independent: without the noise
    return float((noise / signal.clamp(min=1e-12)).sqrt())


def _has_score(snapshot: Snapshot) -> bool:
    if "discriminator" not in snapshot.networks:
        return False
    device = next(snapshot.discriminator.parameters()).device
    with torch.no_grad():
        images = torch.zeros(1, *snapshot.discriminator.input_shape, device=device)
        return snapshot.realness(images) is not None


def make(job: ExtractRequest, images: PixelShards, progress: Progress = silent) -> Extractor:
    """One column 'fisher', [weights, 1, 1].

    Raises: RequestError: the snapshot's method gives images no score.
    """
    assert job.snapshot is not None
    options, device = Options.model_validate(job.options), job.execution.device
    path = chosen_snapshot(job.snapshot)
    snapshot = load_snapshot(path, device, allow=job.allow)
    for network in snapshot.networks.values():
        network.without_labels = True
    if not _has_score(snapshot):
        raise RequestError(
            f"Fisher vectors are gradients of a score of realness, and the method of {path.name}, "
            f"{snapshot.meta.get('method')}, gives images none.",
            remedy="leave fisher out of evaluate.baselines",
        )
    network = snapshot.feature_network("discriminator")
    statistics = set_statistics(job, network, images, Selection([]), None)
    latents = sample_latents(
        snapshot.prior, options.images, torch_stream(job.seed, "fisher", "latents")
    )
    generated = generate(snapshot, latents)
    if options.contrast:
        pack = PixelShards(job.packs)
        order = numpy_stream(job.seed, "fisher", "contrast").permutation(len(pack))
        real = to_float(torch.from_numpy(pack.pixels(np.sort(order[:REAL]))))
        generated = match_contrast(generated, real)
    random = numpy_stream(job.seed, "fisher", "weights", str(options.subset))
    vectors = FisherVectors(Gradients(snapshot, options.weights, random), generated, progress)
    count = len(vectors.mean)
    log.info(
        "Fisher vectors: %s of %s weights, %.1f ms an image; products of two vectors have a "
        "relative standard error of %.1f %%",
        f"{count:,}",
        f"{vectors.gradients.total:,}",
        1000 * vectors.seconds,
        100 * vectors.gram_error,
    )
    size = LayerSize("fisher", (count, 1, 1), (count, 1, 1))
    lineage = {
        "network": snapshot_entry(snapshot, path, "discriminator"),
        "layers": [size.as_json()],
        "statistics": statistics,
        "fisher": {
            "weights": count,
            "of": vectors.gradients.total,
            "images": options.images,
            "contrast": options.contrast,
            "gram_error": float(f"{vectors.gram_error:.3g}"),
        },
    }

    def extract(some: Images, _: list[str]) -> tuple[dict[str, Half], int]:
        inputs = to_float(torch.from_numpy(np.ascontiguousarray(some)))
        half, clipped = to_half(vectors(inputs))
        return {"fisher": half.numpy()[:, :, None, None]}, clipped

    return Extractor([size], extract, lineage)
