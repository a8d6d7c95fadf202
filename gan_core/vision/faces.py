"""Faces by OpenCV's Haar cascades (Viola and Jones 2001), and the squares that are cut around them.

The DCGAN paper (section 4.3) took "the OpenCV face detector" and kept boxes of "sufficiently high
resolution" without saying more; cascade, scale factor, smallest side, margin and the rules below
are ours and are recorded.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gan_core.errors import RequestError, UnknownName
from gan_core.vision.geometry import Box, square_around

CASCADES = {
    "default": "haarcascade_frontalface_default.xml",
    "alt2": "haarcascade_frontalface_alt2.xml",
}

# Why a detection gives no crop, in the order in which the rules are asked.
NESTED = "nested"
ENLARGED = "enlarged"


@dataclass(frozen=True, slots=True)
class Face:
    """One detection.

    Attributes:
        box: the square to cut, whole-number corners inside the image.
        rejected: '' or the rule that says no (nested, enlarged).
        sentence: what the rule saw.
    """

    box: Box
    rejected: str = ""
    sentence: str = ""


class FaceDetector:
    """Finds frontal faces; may be called from several threads, each of which gets a cascade of its
    own.

    Args:
        cascade: 'default' or 'alt2'.
        scale_factor: step between the sizes that are searched.
        min_neighbors: overlapping hits that make a detection.
        min_side: smallest detection in pixels of the original.
        margin: side of the square over the longer side of the detection.
        size: side of the crop; a square smaller than that would be enlarged and is rejected.
    """

    def __init__(
        self,
        *,
        cascade: str,
        scale_factor: float,
        min_neighbors: int,
        min_side: int,
        margin: float,
        size: int,
    ) -> None:
        self._file = _cascade_file(cascade)
        self._settings = (scale_factor, min_neighbors, min_side)
        self._margin = margin
        self._size = size
        self._own = threading.local()

    def describe(self) -> dict[str, str]:
        """Detector, version and hash of the cascade file, for the record."""
        return {
            "detector": f"OpenCV {cv2.__version__} CascadeClassifier",
            "cascade": self._file.name,
            "cascade_sha256": hashlib.sha256(self._file.read_bytes()).hexdigest(),
        }

    def _classifier(self) -> Any:
        if not hasattr(self._own, "classifier"):
            self._own.classifier = cv2.CascadeClassifier(str(self._file))
        return self._own.classifier

    def find(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """All detections in an image, the largest first.

        Args:
            image: uint8 [h, w, 3] RGB, upright.
        """
        scale_factor, min_neighbors, min_side = self._settings
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = self._classifier().detectMultiScale(
            grey, scaleFactor=scale_factor, minNeighbors=min_neighbors, minSize=(min_side, min_side)
        )
        boxes = [(int(x), int(y), int(w), int(h)) for x, y, w, h in found]
        return accept_faces(
            boxes, image.shape[1], image.shape[0], margin=self._margin, size=self._size
        )


def accept_faces(
    detections: Sequence[tuple[int, int, int, int]],
    width: int,
    height: int,
    *,
    margin: float,
    size: int,
) -> list[Face]:
    """Squares around detections and the rule, if any, that rejects each; the largest detection
    first.

    Args:
        detections: (x, y, width, height) in pixels of an image of `width` x `height`.
        margin, size: as in `FaceDetector`.
    """
    faces = []
    ordered = sorted(detections, key=_by_size)
    for index, (x, y, w, h) in enumerate(ordered):
        box = square_around(x, y, w, h, margin, width, height)
        side = round(box.x1 - box.x0)
        if any(_centre_inside((x, y, w, h), larger) for larger in ordered[:index]):
            faces.append(Face(box, NESTED, "its centre lies within a larger detection"))
        elif side < size:
            faces.append(
                Face(
                    box, ENLARGED, f"its square of {side} pixels is smaller than the crop of {size}"
                )
            )
        else:
            faces.append(Face(box))
    return faces


def _by_size(detection: Sequence[int]) -> tuple[int, int, int]:
    x, y, w, h = detection
    return (-w * h, x, y)


def _centre_inside(detection: Sequence[int], larger: Sequence[int]) -> bool:
    x, y, w, h = detection
    return (
        larger[0] <= x + w / 2 < larger[0] + larger[2]
        and larger[1] <= y + h / 2 < larger[1] + larger[3]
    )


def _cascade_file(cascade: str) -> Path:
    if cascade not in CASCADES:
        raise UnknownName("face cascade", cascade, CASCADES)
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    file = Path(folder) / CASCADES[cascade]
    if not hasattr(cv2, "CascadeClassifier") or not file.is_file():
        raise RequestError(
            f"The installed OpenCV {cv2.__version__} has no Haar cascades.",
            expected="opencv-python-headless 4.x (OpenCV 5 has no CascadeClassifier)",
            remedy=(
                "`discern doctor` shows which OpenCV lies where; reinstall opencv-python-headless<5"
            ),
        )
    return file
