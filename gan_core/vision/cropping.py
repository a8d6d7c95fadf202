"""From an image's bytes to its crops: one for a centre crop, one a face, or the reason why there is
none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gan_core.config import CropConfig
from gan_core.vision.decode import decode, decode_mask
from gan_core.vision.faces import FaceDetector
from gan_core.vision.geometry import Box, centre_crop, crop_box
from gan_core.vision.image_files import UnreadableImage


class HasMask(Protocol):
    """What may hold a mask (datasets.base.Blob)."""

    def read_mask(self) -> bytes | None: ...


@dataclass(slots=True)
class Cut:
    """One crop of an image, or one reason for having none.

    Attributes:
        status: ok, failed, no_face or rejected.
        reason: '' or a sentence that begins with a code.
        box: number of the crop within its image, -1 where there is none.
        corners: x0, y0, x1, y1 in pixels of the upright original.
        pixels: uint8 [size, size, 3].
        mask: uint8 [size, size], for images with masks; None when the mask is missing or cannot be
            used.
    """

    status: str = "ok"
    reason: str = ""
    box: int = -1
    corners: tuple[float, float, float, float] | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    mask: npt.NDArray[np.uint8] | None = None


class Cutter:
    """Cuts as the settings say; may be called from several threads."""

    def __init__(self, crop: CropConfig) -> None:
        self._crop = crop
        self._detector = None
        if crop.kind == "faces":
            self._detector = FaceDetector(
                cascade=crop.face_cascade,
                scale_factor=crop.face_scale_factor,
                min_neighbors=crop.face_min_neighbors,
                min_side=crop.face_min_side,
                margin=crop.face_margin,
                size=crop.size,
            )

    def describe(self) -> dict[str, str]:
        """The face detector, for the record; nothing for centre crops."""
        return self._detector.describe() if self._detector else {}

    def cut(self, data: bytes, masked: HasMask | None) -> list[Cut]:
        """All crops of an image; at least one entry, of status failed, no_face or rejected where
        there is no crop.

        Args:
            data: the image's bytes.
            masked: where its mask is, for sources with masks.
        """
        try:
            image = decode(data, self._crop.max_megapixels)
        except UnreadableImage as error:
            return [Cut(status="failed", reason=error.reason)]
        if self._detector:
            cuts = self._faces(image)
        else:
            cuts = [self._centre(image)] if self._crop.windows == 1 else self._windows(image)
        if masked is not None and any(cut.status == "ok" for cut in cuts):
            self._add_masks(cuts, image, masked)
        return cuts

    def _centre(self, image: npt.NDArray[np.uint8]) -> Cut:
        square, box = centre_crop(image, self._crop.size)
        return Cut(box=0, corners=_corners(box), pixels=square)

    def _windows(self, image: npt.NDArray[np.uint8]) -> list[Cut]:
        """Squares of the shorter side, spread evenly along the longer one."""
        height, width = image.shape[:2]
        side, last = min(height, width), self._crop.windows - 1
        cuts = []
        for number in range(self._crop.windows):
            x0, y0 = ((edge - side) * number / last for edge in (width, height))
            box = Box(round(x0), round(y0), round(x0) + side, round(y0) + side)
            pixels = crop_box(image, box, self._crop.size)
            cuts.append(Cut(box=number, corners=_corners(box), pixels=pixels))
        return cuts

    def _faces(self, image: npt.NDArray[np.uint8]) -> list[Cut]:
        assert self._detector is not None
        cuts = []
        for number, face in enumerate(self._detector.find(image)):
            if face.rejected:
                reason = f"{face.rejected}: {face.sentence}"
                cuts.append(Cut("rejected", reason, number, _corners(face.box)))
            else:
                pixels = crop_box(image, face.box, self._crop.size)
                cuts.append(Cut(box=number, corners=_corners(face.box), pixels=pixels))
        return cuts or [
            Cut(
                status="no_face",
                reason=f"no_face: no detection of {self._crop.face_min_side} pixels or more",
            )
        ]

    def _add_masks(self, cuts: list[Cut], image: npt.NDArray[np.uint8], masked: HasMask) -> None:
        """Cuts the mask as the image was cut, picking pixels instead of mixing them."""
        size = self._crop.size
        try:
            data = masked.read_mask()
            mask = decode_mask(data, self._crop.max_megapixels) if data is not None else None
        except UnreadableImage:
            mask = None
        if mask is None or mask.shape != image.shape[:2]:
            return
        for cut in cuts:
            if cut.status == "ok" and cut.corners is not None:
                if self._detector or self._crop.windows > 1:
                    cut.mask = crop_box(mask, Box(*cut.corners), size, nearest=True)
                else:
                    cut.mask = centre_crop(mask, size, nearest=True)[0]


def _corners(box: Box) -> tuple[float, float, float, float]:
    return (float(box.x0), float(box.y0), float(box.x1), float(box.y1))
