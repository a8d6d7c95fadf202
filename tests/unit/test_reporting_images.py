"""Sheets split and laid out again, pixel for pixel."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from gan_core.reporting.images import as_image, lay_out, read_image, sheet_image, tiles_of
from gan_core.reporting.run_info import grids
from gan_core.vision.sheets import encode_png, sheet


def noise(n: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_a_sheet_comes_apart_into_its_images() -> None:
    images = noise(12)
    tiles = tiles_of(sheet(images, columns=4), 8)
    assert tiles is not None and tiles.shape == (3, 4, 8, 8, 3)
    assert (tiles.reshape(12, 8, 8, 3) == images).all()


@pytest.mark.parametrize("size", [7, 9, 16])
def test_another_layout_is_left_alone(size: int) -> None:
    assert tiles_of(sheet(noise(12), columns=4), size) is None


def test_gaps_become_transparent() -> None:
    tiles = noise(6).reshape(2, 3, 8, 8, 3)
    out = lay_out(tiles, gap=2)
    assert out.shape == (18, 28, 4)
    assert (out[..., 3] == 0).sum() == 18 * 28 - 6 * 64
    assert (out[10:, 20:, :3] == tiles[1, 2]).all()


def test_images_are_webp_that_decodes(tmp_path: Path) -> None:
    path = tmp_path / "samples.png"
    path.write_bytes(encode_png(sheet(noise(8), columns=4)))
    image = sheet_image(path, 8, columns=8)
    assert image is not None and (image.width, image.height) == (78, 8)
    data = base64.b64decode(image.uri.removeprefix("data:image/webp;base64,"))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape == (8, 78, 4)
    lossless = as_image(noise(1)[0], quality=101)
    back = base64.b64decode(lossless.uri.split(",")[1])
    assert (
        cv2.imdecode(np.frombuffer(back, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == noise(1)[0]
    ).all()


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_text("no")
    assert sheet_image(tmp_path / "samples.png", 8) is None
    assert sheet_image(tmp_path / "missing.png", 8) is None
    with pytest.raises(OSError, match="is no image"):
        read_image(tmp_path / "samples.png")


def test_grids_are_thinned_evenly(tmp_path: Path) -> None:
    for kimg in range(0, 1001, 50):
        (tmp_path / f"grid-{kimg:06d}.png").write_bytes(b"")
    (tmp_path / "grid-final.png").write_bytes(b"")
    assert [kimg for kimg, _ in grids([tmp_path])] == [0, 200, 400, 600, 800, 1000]
    assert len(grids([tmp_path], most=30)) == 21
