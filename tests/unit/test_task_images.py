"""What a run puts into the Prefect UI as images: each small, and all of them together under half a
megabyte.
"""

from __future__ import annotations

import base64
import json
import re
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

from gan_core.pipeline.runner import StageResult
from gan_core.randomness import numpy_stream
from gan_core.vision.sheets import encode_png


def noise(side: int) -> bytes:
    """The image that compresses worst."""
    return encode_png(
        numpy_stream(0, "noise", str(side)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    )


def test_the_worst_run_stays_under_half_a_megabyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, train, inspect = (
        import_module(f"tasks.{name}") for name in ("images", "train", "inspect")
    )
    shown: dict[str, str] = {}

    def keep(key: str, markdown: str, description: str) -> str:
        shown[key] = markdown
        return key

    for module in (images, train):
        monkeypatch.setattr(module, "create_markdown_artifact", keep)
    monkeypatch.setattr(train, "FIRST_LOOKS", 0.0)
    (tmp_path / "products").mkdir()
    for name in ("samples", "walk", "guided", "arithmetic", "grid-000100", "products/grid-000100"):
        (tmp_path / f"{name}.png").write_bytes(noise(500))
    names = ("d_loss", "g_loss", "d_real", "d_fake", "probe_validation_accuracy")
    values = numpy_stream(0, "stats").random((5_000, len(names)))
    lines = [
        {"kimg": n / 10, **dict(zip(names, row, strict=True))}
        for n, row in enumerate(values.tolist())
    ]
    (tmp_path / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train.Watch(tmp_path)()
    train._publish(StageResult(node="train", ref=None, cached=False), tmp_path)
    (tmp_path / "grid-000100.png").unlink()
    names = ("samples", "walk", "guided", "arithmetic")
    figures = [{"file": f"{name}.png", "caption": name} for name in names]
    content = {"title": "Everything", "sentence": "", "figures": figures}
    (tmp_path / "inspection.json").write_text(json.dumps(content))
    inspect._publish(StageResult(node="inspect", ref=None, cached=False), tmp_path)
    figures = {f"{name}-inspect" for name in names}
    assert set(shown) == {"training-so-far", "samples-train", "curve-train", *figures}
    assert sum(len(text) for text in shown.values()) < 500_000
    for text in shown.values():
        for kind, data in re.findall(r"data:image/([a-z+]+);base64,([A-Za-z0-9+/=]+)", text):
            assert len(data) <= 150_000
            if kind != "svg+xml":
                decoded = cv2.imdecode(
                    np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR
                )
                assert decoded.shape[0] == decoded.shape[1] > 100


def test_a_small_image_stays_as_it_is_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    from tasks.images import image

    small, broken = tmp_path / "small.png", tmp_path / "broken.png"
    small.write_bytes(noise(50))
    broken.write_bytes(b"no image" * 100_000)
    assert base64.b64encode(small.read_bytes()).decode() in image(small, "")
    assert image(broken, "") == ""
