"""Altered versions of one photograph are one group around the photograph itself."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from gan_core.dedup.folder.run import dedup_images
from gan_core.errors import RequestError


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height))


def padded(image: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.copyMakeBorder(image, pixels, pixels, pixels, pixels, cv2.BORDER_CONSTANT)


def write(folder: Path, name: str, image: np.ndarray, quality: int = 95) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs (quality 85) and eight altered versions of each, most with more bytes."""
    folder = tmp_path_factory.mktemp("versions")
    for name in ("china", "flower"):
        image = load_sample_image(f"{name}.jpg")
        write(folder, f"{name}.jpg", image, 85)
        image = cv2.imread(str(folder / f"{name}.jpg"))[..., ::-1]
        write(folder, f"{name}-mirrored.jpg", image[:, ::-1])
        write(folder, f"{name}-turned.jpg", turned(image, -5))
        write(folder, f"{name}-turned-less.jpg", turned(image, 2))
        write(folder, f"{name}-padded.jpg", padded(image, 60))
        write(folder, f"{name}-grey.jpg", np.repeat(image.mean(2, keepdims=True), 3, 2))
        write(folder, f"{name}-cropped.png", image[20:-20, 30:-30])
        write(folder, f"{name}-small.png", cv2.resize(image, (320, 213)))
        write(folder, f"{name}-bright.png", np.clip(image.astype(int) + 25, 0, 255))
    return folder


def test_a_family_is_one_group_around_its_source(versions: Path) -> None:
    rows = dedup_images(versions).table.to_pylist()
    assert {row["address"]: row["representative_address"] for row in rows} == {
        row["address"]: f"{row['address'].split('-')[0].split('.')[0]}.jpg" for row in rows
    }


def test_the_rule_and_the_preferred_folder_choose_the_representative(
    versions: Path, tmp_path: Path
) -> None:
    kinds = ("", "-mirrored", "-cropped", "-small")
    for number, kind in enumerate(kinds):
        path = next(versions.glob(f"china{kind}.*"))
        place = tmp_path / ("b" if kind == "-mirrored" else "a") / f"{number}{path.suffix}"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(path.read_bytes())
        os.utime(place, (1_000_000 - number, 1_000_000 - number))

    def kept(**options: object) -> list[str]:
        rows = dedup_images(tmp_path, **options).table.to_pylist()  # type: ignore[arg-type]
        return [row["address"] for row in rows if row["keep"]]

    assert kept() == ["a/0.jpg"]
    assert kept(keep="first") == ["a/0.jpg"] and kept(keep="oldest") == ["a/3.png"]
    # The mirrored one is as large as its source, and has more bytes; the cropped one has most.
    assert kept(keep="largest") == ["b/1.jpg"]
    for keep in ("best", "largest", "oldest", "first"):
        assert kept(keep=keep, prefer=["b"]) == ["b/1.jpg"]
    with pytest.raises(RequestError, match=r"'aa/'; did you mean 'a'\?"):
        kept(prefer=["b", "aa/"])
