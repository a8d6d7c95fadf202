"""Different images of one template (documents, flags) are no duplicates; duplicates of them are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gan_core.dedup.folder.run import dedup_images
from gan_core.dedup.measure.injected_duplicates import ALTERATIONS

WORDS = [
    "invoice",
    "total",
    "amount",
    "payment",
    "item",
    "price",
    "order",
    "customer",
    "license",
    "travel",
    "paper",
    "cable",
]
RED, GREEN, BLUE, WHITE = (206, 43, 55), (0, 146, 70), (0, 35, 149), (255, 255, 255)


def letter(seed: int) -> np.ndarray:
    """A page with the head of a firm and other lines of text for each seed."""
    random = np.random.default_rng(seed)
    page = np.full((700, 500, 3), 255, np.uint8)
    cv2.rectangle(page, (30, 30), (180, 80), BLUE, -1)
    cv2.putText(page, "ACME", (50, 68), 0, 1, WHITE, 2)
    cv2.rectangle(page, (30, 170), (470, 195), (220, 220, 220), -1)
    for line in range(14):
        y = 225 + 30 * line
        cv2.putText(
            page,
            " ".join(random.choice(WORDS, random.integers(1, 4))),
            (35, y),
            0,
            0.5,
            (20, 20, 20),
            1,
        )
        cv2.putText(
            page,
            f"{random.integers(1, 9999)}.{random.integers(10, 99)}",
            (390, y),
            0,
            0.5,
            (20, 20, 20),
            1,
        )
        cv2.line(page, (30, y + 8), (470, y + 8), (200, 200, 200), 1)
    return page


def flag(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.repeat(np.repeat(np.array([colours], np.uint8), 200, axis=0), 100, axis=1)


def save(folder: Path, **images: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1])


def test_letters_of_one_firm_are_different_and_their_duplicates_are_not(tmp_path: Path) -> None:
    letters = {f"letter{number:02d}": letter(number) for number in range(16)}
    altered = ("JPEG 20", "brighter by 30", "grey", "through 1/2 size")
    duplicates = {
        f"duplicate{number:02d}": ALTERATIONS[kind](letter(number))
        for number, kind in enumerate(altered)
    }
    small = {"copy04": cv2.resize(letter(4), (250, 350), interpolation=cv2.INTER_AREA)}
    save(tmp_path / "letters", **letters, **duplicates, **small)
    result = dedup_images(tmp_path / "letters")
    assert result.counts["duplicates"] == 5 and result.summary["full_resolution"]["rejected"] > 15
    together = [
        (row["address"], row["representative_address"])
        for row in result.table.to_pylist()
        if not row["keep"]
    ]
    assert all(one[-6:] == other[-6:] for one, other in together)
    save(tmp_path / "new", same=letters["letter07"], other=letter(77))
    known = dedup_images(tmp_path / "new", against=tmp_path / "letters").table.to_pylist()
    assert {row["address"]: row["representative_address"] for row in known} == {
        "same.png": "letter07.png",
        "other.png": "",
    }


def test_flags_of_other_colours_are_different(tmp_path: Path) -> None:
    italy = flag(GREEN, WHITE, RED)
    save(
        tmp_path,
        italy=italy,
        france=flag(BLUE, WHITE, RED),
        other=flag(RED, WHITE, GREEN),
        warm=np.clip(italy * np.array([1.0, 0.95, 0.8]), 0, 255).astype(np.uint8),
        grey=ALTERATIONS["grey"](italy),
    )
    rows = {row["address"]: row for row in dedup_images(tmp_path).table.to_pylist()}
    assert rows["france.png"]["keep"] and rows["other.png"]["keep"] and not rows["grey.png"]["keep"]
    assert rows["italy.png"]["group"] == rows["warm.png"]["group"] != ""


def test_pages_that_are_equal_in_small_are_compared_at_full_resolution(tmp_path: Path) -> None:
    """White pages, two of them with a dot that 32 pixels hardly show."""
    blank = np.full((800, 800, 3), 255, np.uint8)
    dotted = blank.copy()
    dotted[405:413, 405:413] = 40
    save(tmp_path, a=blank, b=blank, c=dotted, d=dotted)
    rows = {row["address"]: row["keep"] for row in dedup_images(tmp_path).table.to_pylist()}
    assert sum(rows.values()) == 2
