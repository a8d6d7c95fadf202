"""Single-layer K-means features (Coates, Ng, Lee, AISTATS 2011), the baseline that needs no
network.

As in the authors' demo (ports of Coates' kmeans_demo): random 6 x 6 patches, contrast normalisation
(p - mean) / sqrt(var + 10) on values 0..255, ZCA whitening with 0.1, K-means; every window of an
image at stride 1 is coded by the triangle f_k = max(0, mean_j d_j - d_k) of its distances to the
centres, and the codes are summed over the four quadrants: 4 K features, standardised by mean and
sqrt(var + 0.01) of training images (at most `statistics_images` of them).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gan_core.config import Section
from gan_core.contract import ExtractRequest
from gan_core.errors import DataError
from gan_core.features.extractor import Extractor, training_images
from gan_core.files import sha256_file
from gan_core.progress import Progress, silent
from gan_core.randomness import numpy_stream, torch_stream
from gan_core.shards import PixelShards

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

ABOUT = (
    "single-layer K-means of Coates and Ng: whitened 6x6 patches, triangle coding, quadrant pooling"
)
TITLE = "K-means"
VERSION = 1
NEEDS = ("pack",)
EXAMPLES = ({"centres": 20, "patches": 500},)
# Other values of a probe's setting where a recipe gives none: these features have another scale.
GRIDS = {"linear_svm": [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]}
SIDE = 6
CONTRAST, WHITEN, SCALE = 10.0, 0.1, 0.01
ITERATIONS = 50
START = 0.1  # spread of the first centres
BLOCK = 16_384  # patches at a time in K-means
Images = npt.NDArray[np.uint8]


class Options(Section):
    """Settings of the codebook; four times as many features as centres."""

    centres: int = Field(1600, ge=2)
    patches: int = Field(400_000, ge=100, description="behind the whitening and the centres")
    statistics_images: int = Field(
        10_000, ge=1, description="at most so many training images standardise the codes"
    )


def dims(options: Options, size: int, network: int) -> int:
    """How many features an image has."""
    return 4 * options.centres


def make(job: ExtractRequest, images: PixelShards, progress: Progress) -> Extractor:
    """One column of triangle codes. `codebook.safetensors` lies next to the features, so that all
    shards are of one codebook.
    """
    from gan_core.features.modes import LayerSize

    options = Options.model_validate(job.options)
    coder, digest = _codebook(job, options, images, progress)
    size = LayerSize("kmeans", (options.centres, 2, 2), (options.centres, 2, 2))
    settings = {
        "centres": options.centres,
        "patches": options.patches,
        "side": SIDE,
        "iterations": ITERATIONS,
    }
    lineage = {
        "layers": [size.as_json()],
        "network": {"name": "kmeans", **settings, "sha256": digest},
    }
    return Extractor([size], lambda some, _: (coder.extract(some), 0), lineage)


def _codebook(
    job: ExtractRequest, options: Options, images: PixelShards, progress: Progress
) -> tuple[Coder, str]:
    """(coder, SHA-256 of `codebook.safetensors`): the file of another share or of a killed attempt,
    else learned and written.

    Of several shares that learn at once the first to end is used by all.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    path, device = job.work / "codebook.safetensors", job.execution.device
    if path.exists():
        try:
            return Coder(**load_file(path, device=device)), sha256_file(path)
        except (SafetensorError, TypeError):  # cut short by a machine that died
            path.unlink(missing_ok=True)
    read, rows = training_images(job, images)
    coder = learn(
        read,
        rows,
        centres=options.centres,
        patches=options.patches,
        measured=options.statistics_images,
        seed=job.seed,
        device=device,
        progress=progress,
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: value.cpu().contiguous() for name, value in vars(coder).items()}, temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        log.info("the codebook of another share is used")
    except OSError:  # a file system without hard links
        os.replace(temporary, path)
    temporary.unlink(missing_ok=True)
    return Coder(**load_file(path, device=device)), sha256_file(path)


@dataclass
class Coder:
    """What has been learned of the patches. Everything float32 on one device.

    Attributes:
        mean, whiten: [108] and [108, 108]; a patch p becomes (p - mean) @ whiten.
        centres: [K, 108].
        shift, scale: [4 K], of the pooled codes; None before they are measured.
    """

    mean: Tensor
    whiten: Tensor
    centres: Tensor
    shift: Tensor | None = None
    scale: Tensor | None = None

    def pooled(self, images: Images) -> Tensor:
        """Triangle codes summed over quadrants, [n, K, 2, 2]; the first quadrant of an odd side is
        the larger one.
        """
        import torch

        order, counts = _by_quadrant(images.shape[1] - SIDE + 1, images.shape[2] - SIDE + 1)
        order = order.to(self.mean.device)
        # [-2 c; 1; |c|^2]: with [p, |p|^2, 1] one product gives the squared distances.
        right = torch.cat(
            [
                -2 * self.centres.T,
                self.centres.new_ones(1, len(self.centres)),
                self.centres.square().sum(1)[None],
            ]
        )
        out = self.centres.new_empty(len(images), 4, len(self.centres))
        # a quadrant's codes stay in the processor's cache
        room = self.centres.new_empty(max(counts), len(self.centres))
        for number, image in enumerate(
            torch.from_numpy(np.ascontiguousarray(images)).to(self.mean.device)
        ):
            white = (windows(image[None])[order] - self.mean) @ self.whiten
            left = torch.cat(
                [white, white.square().sum(1, keepdim=True), white.new_ones(len(white), 1)], 1
            )
            for quadrant, piece in enumerate(torch.split(left, counts)):
                codes = torch.mm(piece, right, out=room[: len(piece)]).clamp_(min=0).sqrt_()
                torch.sub(codes.mean(1, keepdim=True), codes, out=codes).clamp_(min=0)
                torch.sum(codes, 0, out=out[number, quadrant])
        return out.transpose(1, 2).reshape(len(images), -1, 2, 2)

    def extract(self, images: Images) -> dict[str, npt.NDArray[np.float16]]:
        """{'kmeans': float16 [n, K, 2, 2]}, standardised. Args: images: uint8 [n, side,
        side, 3].
        """
        found = self.pooled(images)
        assert self.shift is not None and self.scale is not None
        found = (found.flatten(1) - self.shift) / self.scale
        return {"kmeans": found.half().cpu().numpy().reshape(-1, len(self.centres), 2, 2)}


def _by_quadrant(rows: int, columns: int) -> tuple[Tensor, list[int]]:
    """Places of a map [rows, columns], quadrant after quadrant (as the demo, round(side / 2) in the
    first), and how many in each.
    """
    import torch

    places = torch.arange(rows * columns).view(rows, columns)
    down, across = (rows + 1) // 2, (columns + 1) // 2
    parts = [
        part.reshape(-1)
        for half in (places[:down], places[down:])
        for part in (half[:, :across], half[:, across:])
    ]
    return torch.cat(parts), [len(part) for part in parts]


def windows(images: Tensor) -> Tensor:
    """All 6 x 6 windows of uint8 [n, h, w, 3] at stride 1, contrast-normalised: float32 [n (h - 5)
    (w - 5), 108].
    """
    cut = images.float().unfold(1, SIDE, 1).unfold(2, SIDE, 1)  # [n, h - 5, w - 5, 3, 6, 6]
    return normalise(cut.reshape(-1, 3 * SIDE * SIDE))


def normalise(patches: Tensor) -> Tensor:
    """(p - mean) / sqrt(var + 10), each patch by itself (the demo's var divides by n - 1)."""
    mean = patches.mean(1, keepdim=True)
    return (patches - mean) / (patches.var(1, keepdim=True) + CONTRAST).sqrt()


def learn(
    read: Callable[[npt.NDArray[np.int64]], Images],
    rows: int,
    *,
    centres: int,
    patches: int,
    measured: int,
    seed: int,
    device: str,
    progress: Progress = silent,
) -> Coder:
    """Whitening, centres and the scale of the codes, from training images.

    Args:
        read: row numbers to uint8 images [n, side, side, 3].
        rows: how many images there are.
        measured: at most so many of them give the mean and variance of the codes.

    Raises: DataError: fewer patches than centres, or images smaller than a patch.
    """
    import torch

    sample = _sample(read, rows, patches, seed).to(device)
    if len(sample) < centres:
        raise DataError(
            f"{len(sample)} patches cannot make {centres} centres.",
            remedy="set the option centres of the baseline kmeans lower",
        )
    sample = normalise(sample)
    mean = sample.mean(0)
    covariance = (sample - mean).double().T @ (sample - mean).double() / (len(sample) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    whiten = (vectors * (1 / (values + WHITEN)).sqrt() @ vectors.T).float()
    coder = Coder(mean, whiten, lloyd((sample - mean) @ whiten, centres, seed, progress))
    chosen = np.sort(numpy_stream(seed, "kmeans", "scale").permutation(rows)[:measured])
    total = square = torch.zeros(4 * centres, dtype=torch.float64, device=device)
    for start in range(0, len(chosen), 256):
        found = coder.pooled(read(chosen[start : start + 256])).flatten(1).double()
        total, square = total + found.sum(0), square + found.square().sum(0)
    average = total / len(chosen)
    coder.shift = average.float()
    coder.scale = (square / len(chosen) - average.square()).clamp(min=0).add(SCALE).sqrt().float()
    return coder


def _sample(
    read: Callable[[npt.NDArray[np.int64]], Images], rows: int, patches: int, seed: int
) -> Tensor:
    """Random patches, float32 [patches, 108], from random places of random images."""
    import torch

    random = numpy_stream(seed, "kmeans", "patches")
    where = np.sort(random.integers(0, rows, patches))
    out = np.empty((patches, 3 * SIDE * SIDE), np.float32)
    at = 0
    for image in np.array_split(np.unique(where), max(1, rows // 1024)):
        pixels = read(image)
        if len(pixels) and min(pixels.shape[1:3]) < SIDE:
            raise DataError(
                f"Images of {pixels.shape[1]} x {pixels.shape[2]} are smaller than a patch of "
                f"{SIDE} x {SIDE}."
            )
        for one, number in enumerate(image):
            for _ in range(
                int(
                    np.searchsorted(where, number, "right") - np.searchsorted(where, number, "left")
                )
            ):
                top = int(random.integers(0, pixels.shape[1] - SIDE + 1))
                left = int(random.integers(0, pixels.shape[2] - SIDE + 1))
                out[at] = (
                    pixels[one, top : top + SIDE, left : left + SIDE].transpose(2, 0, 1).reshape(-1)
                )
                at += 1
    return torch.from_numpy(out)


def lloyd(points: Tensor, centres: int, seed: int, progress: Progress = silent) -> Tensor:
    """K-means as the demo's run_kmeans: centres start as N(0, 0.1^2), and one that loses all its
    points becomes 0.

    Centres near the origin of whitened patches first share all points out among themselves; centres
    that start at points leave a fifth of them with one or two outliers each (measured:
    docs/experiments.md).

    Args: points: float32 [m, d], whitened.
    Returns: float32 [centres, d].
    """
    import torch

    random: Any = torch_stream(seed, "kmeans", "centres")
    found = (torch.randn(centres, points.shape[1], generator=random) * START).to(points.device)
    for step in range(ITERATIONS):
        sums, counts = torch.zeros_like(found), found.new_zeros(centres)
        for start in range(0, len(points), BLOCK):
            block = points[start : start + BLOCK]
            nearest = (found.square().sum(1) - 2 * block @ found.T).argmin(1)
            sums.index_add_(0, nearest, block)
            counts += torch.bincount(nearest, minlength=centres)
        found = sums / counts.clamp(min=1)[:, None]  # 0 where nothing was nearest
        progress(step + 1, ITERATIONS, "iterations")
    return found
