"""With `overlays`, an image with text on it is a duplicate of the one without."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from gan_core.dedup.folder.run import dedup_images
from gan_core.dedup.search import overlays


def with_text(image: np.ndarray, *lines: str) -> np.ndarray:
    """Text three quarters of the width long, white with a black edge."""
    out = image.copy()
    width = image.shape[1]
    for number, line in enumerate(lines, 1):
        unit = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 1, 1)[0][0]
        scale = 0.75 * width / unit
        place = (width // 8, number * image.shape[0] // (len(lines) + 1))
        for colour, thick in ((0, 2), (255, 0)):
            cv2.putText(
                out, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (colour,) * 3,
                max(1, round(3 * scale)) + thick, cv2.LINE_AA,
            )  # fmt: skip
    return out


def with_object(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A part of another photograph at the bottom: an object before a fixed camera."""
    out = image.copy()
    height, width = image.shape[:2]
    part = other[height // 4 : height // 2, width // 8 : 3 * width // 4]
    out[-len(part) :, width // 8 : width // 8 + part.shape[1]] = part
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("overlays")
    photos = {
        name: cv2.resize(load_sample_image(f"{name}.jpg"), (300, 200), interpolation=cv2.INTER_AREA)
        for name in ("china", "flower")
    }
    china, flower = photos["china"], photos["flower"]
    images = {
        "china": china,
        "china-1": with_text(china, "a fair price"),
        "china-2": with_text(china, "used lamps", "and chairs", "sold here"),
        "flower": flower,
        "flower-1": with_text(flower, "today"),
        "object": with_object(china, flower),
        "small": cv2.resize(china, (50, 40), interpolation=cv2.INTER_AREA)[:, ::-1],
    }
    for name, image in images.items():
        quality = 95 if "-" in name else 85  # the copies have more bytes
        cv2.imwrite(
            str(place / f"{name}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
    return place


def represented(place: Path, **options: object) -> dict[str, str]:
    rows = dedup_images(place, **options).table.to_pylist()  # type: ignore[arg-type]
    return {row["address"][:-4]: row["representative_address"][:-4] for row in rows}


def test_images_with_text_are_copies_on_request_alone(folder: Path) -> None:
    plain = represented(folder)
    assert plain["china-2"] == "china-2" and plain["object"] == "object"
    found = represented(folder, overlays=True)
    assert found | {"small": ""} == {
        "china": "china",
        "china-1": "china",
        "china-2": "china",
        "flower": "flower",
        "flower-1": "flower",
        "object": "object",
        "small": "",
    }


def test_the_rule_still_chooses_which_image_is_kept(folder: Path) -> None:
    found = represented(folder, overlays=True, keep="largest")
    assert found["flower"] == found["flower-1"] == "flower-1"  # as large, with more bytes
    assert len({found[name] for name in ("china", "china-1", "china-2")}) == 1


def test_overlays_are_found_in_another_set_in_both_directions(folder: Path, tmp_path: Path) -> None:
    text, clean = tmp_path / "text", tmp_path / "clean"
    for place, names in ((text, ("china-2", "object")), (clean, ("china", "flower"))):
        place.mkdir()
        for name in names:
            (place / f"{name}.jpg").write_bytes((folder / f"{name}.jpg").read_bytes())
    assert represented(text, against=clean, overlays=True) == {"china-2": "china", "object": ""}
    assert represented(clean, against=text, overlays=True) == {"china": "china-2", "flower": ""}
    assert represented(text, against=clean) == {"china-2": "", "object": ""}


def test_the_search_says_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    small, thumbnails = (
        rng.integers(0, 256, shape, np.uint8) for shape in ((9, 16, 16), (9, 32, 32, 3))
    )
    monkeypatch.setattr(overlays, "TIMED", 2)
    monkeypatch.setattr(overlays, "LONG", 0)
    seen = []
    caplog.set_level("INFO", "gan_core")
    rows = np.arange(9)
    overlays.candidates(
        small, thumbnails, rows, rows, lambda done, total, *rest: seen.append((done, total))
    )
    assert seen == [(sum(range(9 - k, 9)), 36) for k in range(10)]
    assert "every pair of 9 images" in caplog.text and "about 0 s" in caplog.text


def test_a_set_without_large_images_has_no_candidates() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, 16, 16), np.uint8)
    thumbnails = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    none = np.empty(0, np.int64)
    for first, second in ((np.arange(40), none), (none, np.arange(40)), (none, none)):
        assert overlays.candidates(small, thumbnails, first, second).shape == (2, 0)
