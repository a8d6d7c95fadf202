"""Images for the Prefect UI: small, inside Markdown, since the UI shows no local files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gan_core.reporting.charts import line_charts, read_statistics, standalone, training_charts
from gan_core.reporting.images import data_uri, read_image
from gan_core.vision.sheets import encode_webp

# The list of artifacts downloads all of them: a run's images stay under half a megabyte together,
# as text. Inspect's share one part;
# the samples are shown twice (while training goes on, and at its end), and so is the curve, which
# has few points whatever its length.
SAMPLES_BYTES = 80_000
INSPECT_BYTES = 200_000


def image(path: Path, caption: str, most: int = SAMPLES_BYTES) -> str:
    """A PNG as a Markdown image; one that is too large as WebP, first of lower quality, then
    smaller; '' when it cannot be read.
    """
    room = most * 3 // 4 - 300  # base64 makes four letters of three bytes
    data, kind = path.read_bytes(), "png"
    if len(data) > room:
        data, kind = _smaller(path, room), "webp"
    return _markdown(data, kind, caption) if data else ""


def training_curve(folder: Path) -> str:
    """Losses and the discriminator's scores over training as a Markdown image; '' where there are
    no statistics yet.
    """
    drawn = line_charts(training_charts(read_statistics([folder])))
    if not drawn:
        return ""
    return _markdown(standalone(drawn).encode(), "svg+xml", "Losses and scores over training")


def _markdown(data: bytes, kind: str, caption: str) -> str:
    return f"![{caption}]({data_uri(data, kind)})"


def _smaller(path: Path, room: int) -> bytes:
    """The image as WebP of at most `room` bytes; b'' when it cannot be read."""
    try:
        pixels = read_image(path)
    except OSError:
        return b""
    quality = 90
    while len(data := encode_webp(pixels, quality)) > room:
        if quality > 50:
            quality -= 20
        else:
            smaller = cv2.resize(pixels, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
            pixels = smaller.astype(np.uint8)
    return data
