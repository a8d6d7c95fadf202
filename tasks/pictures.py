"""Pictures for the Prefect UI: small, inside Markdown, since the UI shows no local files."""

from __future__ import annotations

import base64
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from gan_core.reporting.charts import read_statistics, training_charts
from gan_core.reporting.svg import beside, standalone
from tasks.base import artifact_key

# The list of artifacts downloads all of them: a run's pictures stay under half a megabyte together.
MOST_BYTES = 150_000


def show_picture(node: str, name: str, path: Path, caption: str) -> None:
    """Publishes a picture as a Markdown artifact with a data URI; a large one is made smaller first (JPEG, at most 150 kB)."""
    text = f"{picture(path, caption)}\n\n{caption}. Full size: `{path}`"
    create_markdown_artifact(key=artifact_key(name, node), markdown=text, description=caption)


def picture(path: Path, caption: str) -> str:
    """A PNG as a Markdown picture."""
    data = path.read_bytes()
    kind = "png"
    if len(data) > MOST_BYTES:
        data, kind = _smaller(data), "jpeg"
    return _markdown(data, kind, caption)


def training_curve(folder: Path) -> str:
    """Losses and the discriminator's verdicts over training as a Markdown picture; '' where there are no statistics yet."""
    charts = training_charts(read_statistics([folder]))
    return _markdown(standalone(beside(charts)).encode(), "svg+xml", "Losses and verdicts over training") if charts else ""


def _markdown(data: bytes, kind: str, caption: str) -> str:
    return f"![{caption}](data:image/{kind};base64,{base64.b64encode(data).decode()})"


def _smaller(data: bytes) -> bytes:
    """A picture as JPEG within the limit: first by quality, then by size."""
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        return data
    quality = 85
    while True:
        _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(encoded) <= MOST_BYTES:
            return bytes(encoded.tobytes())
        if quality > 55:
            quality -= 15
        else:
            pixels = cv2.resize(pixels, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
