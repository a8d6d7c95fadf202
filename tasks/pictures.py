"""Pictures and tables for the Prefect UI: small, inside Markdown, since the UI shows no local files."""

from __future__ import annotations

import base64
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from tasks.base import artifact_key

_MOST_BYTES = 150_000


def show_picture(node: str, name: str, path: Path, caption: str) -> None:
    """Publishes a picture as a Markdown artifact with a data URI; a large one is made smaller first (JPEG, at most 150 kB)."""
    data = path.read_bytes()
    kind = "png"
    if len(data) > _MOST_BYTES:
        data, kind = _smaller(data), "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    text = f"![{caption}]({uri})\n\n{caption}. Full size: `{path}`"
    create_markdown_artifact(key=artifact_key(name, node), markdown=text, description=caption)


def _smaller(data: bytes) -> bytes:
    import cv2
    import numpy as np

    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return data
    quality = 85
    while True:
        done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done or len(encoded) <= _MOST_BYTES or quality <= 30:
            return bytes(encoded.tobytes())
        quality -= 15
