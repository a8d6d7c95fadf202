"""Whether a larger image is a smaller one enlarged, or the smaller one is the larger one reduced.

Enlarging adds no detail: the small image, enlarged, reproduces the large one but for compression,
while the large one, reduced, has lost some of the small one's finest details. Of a source and its
reduced copy the opposite holds.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

ROUNDING = (0.7, 1.4)  # levels that compression explains, and factor on the other difference there
# What may differ, in shares of what the small image itself would lose by the same reduction: above
# the first they are not one image, below the second nothing is lost.
LOST = (1.3, 0.2)


def is_enlarged(large: Luma, small: Luma) -> bool:
    """Whether `large` is `small` enlarged.

    False where that cannot be decided: another crop, a turn, other tones.

    Args:
        large, small: uint8 [height, width] grey images in the same orientation.
    """
    a, b = (one.astype(np.float32) for one in (large, small))
    height, width = b.shape
    grown = min(
        _difference(a, _resized(b, a.shape[1], a.shape[0], kind))
        for kind in (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
    )
    reduced = _difference(b, _resized(a, width, height, cv2.INTER_AREA))
    less = (max(1, round(width * width / a.shape[1])), max(1, round(height * height / a.shape[0])))
    again = _resized(_resized(b, *less, cv2.INTER_AREA), width, height, cv2.INTER_LINEAR)
    loss = _difference(b, again)
    return grown <= LOST[0] * loss and (
        grown < reduced
        or grown < LOST[1] * loss
        or (grown < ROUNDING[0] and grown < ROUNDING[1] * reduced)
    )


def _resized(image: Floats, width: int, height: int, kind: int) -> Floats:
    return np.asarray(cv2.resize(image, (width, height), interpolation=kind), np.float32)


def _difference(one: Floats, other: Floats) -> float:
    """Root of the mean squared difference after a common gain and offset, in levels of `one`."""
    a, b = one - one.mean(), other - other.mean()
    gain = float((a * b).mean() / max(1e-3, float((b * b).mean())))
    return float(np.sqrt(((a - gain * b) ** 2).mean()))
