"""What an inspection is given and what it returns.

An inspection is a file of this folder with the literals

    ABOUT    one sentence
    TITLE    its heading in the report
    VERSION  raised when the same request gives other figures or numbers
    ORDER    its place in the report; DEFAULT = False keeps it out of recipes that do not name it
    NEEDS    optional: "features" where it reads features of the source that is evaluated; roles of
             networks, such as "encoder", without which it is no default
    EXAMPLES optional: options with which the contract test runs it in a moment; () where none do

a `class Options(Section)` if it has settings, and `inspect(context, options) -> Inspection`. It
raises NotApplicable where the snapshot or the data lack what it needs. All random draws are streams
of `context`, so that equal requests write equal files. `samples.py` is a short example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_core.networks.snapshot import Snapshot, generate, sample_latents
from gan_core.randomness import numpy_stream, torch_stream
from gan_core.shards import PixelShards
from gan_core.vision.sheets import sheet
from gan_core.vision.tensors import to_float, to_uint8

Images = npt.NDArray[np.uint8]
GAP = 2  # pixels between the images of a sheet


class NotApplicable(Exception):
    """An inspection cannot be done here; the message says what is missing."""


@dataclass(frozen=True)
class Figure:
    """One image of the report: uint8 [H, W, 3], shown in its own size; its file name without
    ending; a caption. `image_sheet` makes a grid of images; `feature_map.py` draws with matplotlib.
    """

    name: str
    image: Images
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under column headings. Cells are text or JSON numbers, shown as they are: an
    inspection rounds its own figures.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class Inspection:
    """The outcome: figures, tables, JSON numbers, one sentence that says what they show."""

    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    warnings: Sequence[str] = ()
    snapshot: Snapshot | None = None  # an edited one, written next to the figures


@dataclass(frozen=True)
class Context:
    """The snapshot, and the training set it was trained on.

    Attributes:
        packs: folders of the packed training set; empty for an imported snapshot.
        features, crops: artifacts of the source that is evaluated, for inspections whose NEEDS
            names features.
        device: where the networks are.
        history: gives the snapshots of this training in order, this one among them; none where
            only one is known.
    """

    snapshot: Snapshot
    seed: int = 0
    device: str = "cpu"
    packs: Sequence[Path] = ()
    features: Path | None = None
    crops: Path | None = None
    history: Callable[[], Iterable[Snapshot]] = tuple

    @cached_property
    def training_set(self) -> PixelShards:
        """The training images; NotApplicable without a training set."""
        if not self.packs or not len(found := PixelShards(list(self.packs))):
            raise NotApplicable("There is no training set to compare with.")
        return found

    def training_images(self, count: int, stream: str) -> Images:
        """At most `count` training images of a random stream: uint8 [n, S, S, 3]."""
        order = numpy_stream(self.seed, "inspect", stream).permutation(len(self.training_set))
        return self.training_set.pixels(np.sort(order[:count]))

    @cached_property
    def training_masks(self) -> npt.NDArray[np.uint8]:
        """The training images' masks: uint8 [n, S, S], 255 where no class is known; NotApplicable
        without any.
        """
        if not self.training_set.has_masks:
            raise NotApplicable("The training set has no masks.")
        return self.training_set.masks()

    @cached_property
    def match(self) -> Callable[[Tensor], Tensor]:
        """Gives generated images the contrast of training images by the map that fits 1,000 samples
        (`contrast_map`); it is fitted once, so that an intervention cannot change it. Without a
        training set images stay as they are.
        """
        if not self.packs:
            return lambda images: images
        real = as_float(self.training_images(2048, "dissection"))
        return contrast_map(self.samples(1000, "dissection contrast"), real)

    def latents(self, count: int, stream: str) -> Tensor:
        """Latents [count, dim] of a random stream, on the CPU."""
        return sample_latents(
            self.snapshot.prior, count, torch_stream(self.seed, "inspect", stream)
        )

    def samples(self, count: int, stream: str) -> Tensor:
        """Generated images of a random stream: float32 [count, C, S, S] in [-1, 1] on the CPU."""
        return generate(self.snapshot, self.latents(count, stream))


def as_images(images: Tensor) -> Images:
    """float [n, C, S, S] in [-1, 1] to uint8 [n, S, S, 3]; one channel is shown as grey."""
    found: Images = np.asarray(to_uint8(images).numpy())
    return found.repeat(3, axis=3) if found.shape[3] == 1 else found


def as_float(images: Images) -> Tensor:
    """uint8 [n, S, S, 3] to float32 [n, 3, S, S] in [-1, 1]."""
    return to_float(torch.from_numpy(np.ascontiguousarray(images)))


def image_sheet(name: str, images: Images, columns: int | None, caption: str = "") -> Figure:
    """Images uint8 [..., S, S, 3] laid out in rows of `columns` (None: a square)."""
    flat = images.reshape(-1, *images.shape[-3:])
    return Figure(name, sheet(flat, columns, GAP), caption)


def diversity(images: Images, most: int = 256) -> float:
    """Mean absolute difference of two images over all pairs, as a share of the value range.

    Args: images: uint8 [n, ...]; the first `most` of them count, since pairs grow with the square.
    """
    if len(images) < 2:
        return 0.0
    flat = images[:most].reshape(min(len(images), most), -1).astype(np.int16)
    total = sum(
        float(np.abs(flat[i + 1 :] - flat[i]).mean(axis=1).sum()) for i in range(len(flat) - 1)
    )
    return total / (len(flat) * (len(flat) - 1) / 2) / 255


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over images and places: [C] and [C]."""
    values = images.float()
    return values.mean((0, 2, 3)), values.std((0, 2, 3))


def contrast_ratio(generated: Tensor, real: Tensor) -> float:
    """Standard deviation of generated over that of real images, averaged over channels.

    The authors' discriminators cannot see contrast (their first layer has neither bias nor norm,
    and the next is normalised by batch), so samples often come out with less of it.
    """
    return float((moments(generated)[1] / moments(real)[1].clamp(min=1e-6)).mean())


def contrast_map(generated: Tensor, real: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear map of each channel that gives `generated` [n, C, S, S] the mean and standard
    deviation of `real`, clamped to [-1, 1]; it may be applied to other images.
    """
    (mean, std), (goal, wanted) = moments(generated), moments(real)
    factor = (wanted / std.clamp(min=1e-6))[:, None, None]
    shift = goal[:, None, None] - mean[:, None, None] * factor

    def apply(images: Tensor) -> Tensor:
        return (images * factor.to(images) + shift.to(images)).clamp(-1, 1)

    return apply


def match_contrast(generated: Tensor, real: Tensor) -> Tensor:
    """Generated images [n, C, S, S] with the contrast of real ones (`contrast_map`)."""
    return contrast_map(generated, real)(generated)
