"""What a run puts into the Prefect UI as images: each small, and all of them together under half a
megabyte.
"""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from gan_core.randomness import numpy_stream
from gan_core.vision.sheets import encode_png


def noise(side: int) -> bytes:
    """The image that compresses worst."""
    return encode_png(
        numpy_stream(0, "noise", str(side)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    )


def test_a_small_image_stays_as_it_is_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    from tasks.images import image

    small, broken = tmp_path / "small.png", tmp_path / "broken.png"
    small.write_bytes(noise(50))
    broken.write_bytes(b"no image" * 100_000)
    assert base64.b64encode(small.read_bytes()).decode() in image(small, "")
    assert image(broken, "") == ""
