"""Truncated, mislabelled and oversized files of every format: what ingest and crop say of each."""

from __future__ import annotations

import numpy as np
import pytest

from gan_core.vision.decode import UnreadableImage, decode
from tests.faults.hostile import encoded, photo
from tests.faults.test_hostile_images import prepare_folder, rows

FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    "jpg": ("JPEG", {}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tif": ("TIFF", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "ppm": ("PPM", {}),
    "avif": ("AVIF", {}),
    "jp2": ("JPEG2000", {}),
}
ENDINGS = list(FORMATS)


def made(ending: str, width: int = 48, height: int = 40) -> bytes:
    form, options = FORMATS[ending]
    return encoded(photo(ENDINGS.index(ending), width, height), form, **options)


@pytest.fixture(scope="module")
def reasons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, str]]:
    """(format, status, reason) of each file of one folder, after ingest and crop."""
    root = tmp_path_factory.mktemp("formats")
    (root / "images").mkdir()
    for number, ending in enumerate(ENDINGS):
        files = {
            f"whole.{ending}": made(ending),
            f"half.{ending}": made(ending)[: len(made(ending)) // 2],
            f"header.{ending}": made(ending)[:20],
            f"mislabelled {ending}.{ENDINGS[number - 1]}": made(ending),
            f"unlabelled {ending}.data": made(ending),
            f"page.{ending}": b"<!DOCTYPE html><html><body>404 not found</body></html>",
            f"large.{ending}": made(ending, 120, 100),
        }
        for name, data in files.items():
            (root / "images" / name).write_bytes(data)
    results = prepare_folder(root / "images", root / "home", "crop.max_megapixels=0.01")
    images = rows(root / "home", results["ingest:folder"], "images.parquet")
    crops = {
        row["address"]: row for row in rows(root / "home", results["crop:folder"], "crops.parquet")
    }
    return {
        row["address"]: (
            row["format"],
            crops[row["address"]]["status"],
            crops[row["address"]]["reason"],
        )
        for row in images
    }


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_truncated_file_is_a_failed_row(
    ending: str, reasons: dict[str, tuple[str, str, str]]
) -> None:
    for name in (f"half.{ending}", f"header.{ending}"):
        _, status, reason = reasons[name]
        assert status == "failed" and reason.startswith(("truncated: ", "damaged: ")), reason


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_mislabelled_file_is_read_by_its_content(
    ending: str, reasons: dict[str, tuple[str, str, str]]
) -> None:
    other = ENDINGS[ENDINGS.index(ending) - 1]
    expected = (FORMATS[ending][0], "ok", "")
    assert reasons[f"whole.{ending}"] == expected
    assert reasons[f"mislabelled {ending}.{other}"] == expected
    assert reasons[f"unlabelled {ending}.data"] == expected
    assert reasons[f"page.{ending}"][1:] == (
        "failed",
        "not_an_image: its content is of no image format known here (it begins with b'<!DOCTYP')",
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_oversized_file_is_a_failed_row(
    ending: str, reasons: dict[str, tuple[str, str, str]]
) -> None:
    form, status, reason = reasons[f"large.{ending}"]
    assert (form, status) == (FORMATS[ending][0], "failed")
    assert reason.startswith("too_large: it declares 120 x 100 pixels")


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_cut_gives_the_whole_image_or_none(ending: str) -> None:
    data = made(ending)
    whole = decode(data)
    refused = 0
    for length in {*range(0, len(data), max(1, len(data) // 100)), len(data) - 1, len(data) - 2}:
        try:
            pixels = decode(data[:length])
        except UnreadableImage as error:
            assert error.code in ("empty", "not_an_image", "truncated", "damaged")
            refused += 1
        else:
            assert np.array_equal(pixels, whole), length
    assert refused > 90
