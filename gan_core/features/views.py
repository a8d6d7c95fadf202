"""Read-outs over several views of an image: shifted, mirrored, or native crops on a grid.

The DCGAN paper reads one view. Averaging over views is a further option: on the DCGAN authors'
SVHN discriminator nine views shifted by 2 px gave 82.0 % in place of 78.8 % (ridge probe, 1,000
labels; docs/results.md). A discriminator that was trained on small native crops (method contrad)
reads crops of that size: features are averaged over the crops of each quadrant and joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

QUADRANTS = 2  # per side


@dataclass(frozen=True)
class Views:
    """Which views of an image are read.

    Attributes:
        shift: pixels; above 0 nine views, shifted by -shift, 0 and shift down and across, the edge
            repeated.
        mirror: each view mirrored as well.
        crop: side in pixels of native crops; 0: whole images. crops: so many per side.
    """

    shift: int = 0
    mirror: bool = False
    crop: int = 0
    crops: int = 4

    @property
    def count(self) -> int:
        """How many views an image has."""
        places = self.crops**2 if self.crop else 9 if self.shift else 1
        return places * (2 if self.mirror else 1)

    def of(self, images: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(quadrant, view) of images [n, 3, h, w]; the quadrant is 0 for whole images, else row by
        row from 0 to 3.
        """
        for quadrant, view in self._places(images):
            yield quadrant, view
            if self.mirror:
                yield quadrant, view.flip(3)

    def _places(self, images: Tensor) -> Iterator[tuple[int, Tensor]]:
        height, width = images.shape[2:]
        if self.crop:
            side, last = min(self.crop, height, width), max(self.crops - 1, 1)
            for i in range(self.crops):
                for j in range(self.crops):
                    top, left = round(i * (height - side) / last), round(j * (width - side) / last)
                    quadrant = i * QUADRANTS // self.crops * QUADRANTS + j * QUADRANTS // self.crops
                    yield quadrant, images[:, :, top : top + side, left : left + side]
        elif self.shift:
            s = self.shift
            wide = F.pad(images, (s, s, s, s), mode="replicate")
            for down in (0, s, 2 * s):
                for across in (0, s, 2 * s):
                    yield 0, wide[:, :, down : down + height, across : across + width]
        else:
            yield 0, images

    def for_statistics(self, images: Tensor, number: int) -> Tensor:
        """What batch-norm statistics are measured on in the batch `number`: whole images, or one
        crop of the grid after the other.
        """
        if not self.crop:
            return images
        places = list(self._places(images))
        return places[number % len(places)][1]

    def join(self, parts: Iterator[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
        """Means of pooled activations over views, in float32: {layer: [n, channels, h, w]}, with
        crops [n, channels, 2, 2], one place for each quadrant.

        Args: parts: (quadrant, {layer: pooled activations of the view}); [n, channels, 1, 1] for
            crops.
        """
        sums: dict[int, dict[str, Tensor]] = {}
        counts: dict[int, int] = {}
        for quadrant, found in parts:
            total = sums.setdefault(quadrant, {})
            for name, values in found.items():
                total[name] = total[name] + values.float() if name in total else values.float()
            counts[quadrant] = counts.get(quadrant, 0) + 1
        order = sorted(sums)
        means = {
            name: [sums[quadrant][name] / counts[quadrant] for quadrant in order]
            for name in sums[order[0]]
        }
        if not self.crop:
            return {name: values[0] for name, values in means.items()}
        return {
            name: torch.cat(values, 3).view(*values[0].shape[:2], QUADRANTS, QUADRANTS)
            for name, values in means.items()
        }


WHOLE_IMAGE = Views()
