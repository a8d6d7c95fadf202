"""The default mode: planted duplicates found and grouped, across sets, and folders of files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from gan_core.config import DedupConfig
from gan_core.dedup.folder.html import page
from gan_core.dedup.folder.run import IMAGES, dedup_images
from gan_core.dedup.measure import leakage
from gan_core.dedup.measure.injected_duplicates import ALTERATIONS, injected_recall
from gan_core.dedup.search.find_duplicates import find_duplicates
from gan_core.errors import DataError, RequestError
from gan_core.vision.geometry import resize


def textures(count: int, seed: int = 0, side: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.empty((count, side, side, 3), np.uint8)
    for row in range(count):
        noise = [rng.normal(size=(n, n, 3)).astype(np.float32) for n in (4, 7, 11)]
        layers = [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in noise]
        out[row] = np.clip(128 + 28 * sum(layers), 0, 255)
    return out


def test_injected_duplicates_are_found_and_nothing_else_is_tied() -> None:
    result = injected_recall(textures(60), DedupConfig(), each=4)
    assert result["other_pairs"] == 0
    hard = {
        "JPEG 10",
        "shift 3 px",
        "turned 8 degrees",
        "crop 80 %",
        "noise of 16 levels",
        "through 1/2 size",
    }
    missed = {
        name: share for name, share in result["recall"].items() if share < 0.75 and name not in hard
    }
    assert not missed


def test_any_number_of_identical_images_makes_one_group() -> None:
    images = np.concatenate(
        [
            textures(30),
            np.repeat(textures(1, seed=9), 50, axis=0),
            np.full((4, 32, 32, 3), 7, np.uint8),
        ]
    )
    rank = np.random.default_rng(0).permutation(len(images))
    duplicates = find_duplicates(lambda rows: images[rows], rank, DedupConfig(neighbours=3))
    assert int(duplicates.groups.keep.sum()) == 32
    for start, stop in ((30, 80), (80, 84)):
        representatives = np.unique(duplicates.groups.representative[start:stop])
        assert len(representatives) == 1 and rank[representatives[0]] == rank[start:stop].min()
    left_out = np.flatnonzero(~duplicates.groups.keep)
    assert all(
        duplicates.found.reason[duplicates.groups.pair[row]] == "identical pixels"
        for row in left_out
    )


def test_a_burst_larger_than_the_neighbourhood_is_found_whole() -> None:
    one = textures(1, seed=5)[0]
    rng = np.random.default_rng(0)
    burst = np.stack(
        [np.clip(one + rng.normal(0, 3, one.shape), 0, 255).astype(np.uint8) for _ in range(40)]
    )
    images = np.concatenate([textures(50), burst])
    duplicates = find_duplicates(
        lambda rows: images[rows], np.arange(len(images)), DedupConfig(neighbours=5)
    )
    assert (
        len(np.unique(duplicates.groups.representative[50:])) == 1
        and duplicates.groups.keep[:50].all()
    )


def test_a_burst_of_hundreds_leaves_hardly_more_than_one_representative() -> None:
    """Ten neighbours of each of 300 duplicates made 18 groups of a burst; representatives compared
    with one another make one or two.
    """
    one = textures(1, seed=5)[0]
    rng = np.random.default_rng(0)
    burst = np.stack(
        [np.clip(one + rng.normal(0, 6, one.shape), 0, 255).astype(np.uint8) for _ in range(300)]
    )
    images = np.concatenate([textures(30), burst])
    duplicates = find_duplicates(lambda rows: images[rows], np.arange(len(images)), DedupConfig())
    assert (
        len(np.unique(duplicates.groups.representative[30:])) <= 3
        and duplicates.groups.keep[:30].all()
    )
    left_out = np.flatnonzero(~duplicates.groups.keep)
    ends = np.sort(
        np.stack([duplicates.found.i, duplicates.found.j])[:, duplicates.groups.pair[left_out]],
        axis=0,
    )
    tied = np.sort(np.stack([left_out, duplicates.groups.representative[left_out]]), axis=0)
    assert (ends == tied).all(), (
        "whoever is left out was itself found to be a duplicate of its representative"
    )


def test_two_symmetric_images_are_found_in_a_set_of_three() -> None:
    """The mean of so few images is nearly each of them: descriptors without it say nothing."""
    half = textures(3, seed=2)
    images = np.concatenate([half[:, :, :16], half[:, :, 15::-1]], axis=2)
    both = np.concatenate([images, np.stack([ALTERATIONS["JPEG 50"](images[0])])])
    assert (
        int(
            find_duplicates(
                lambda rows: both[rows][:, :, :], np.arange(4), DedupConfig()
            ).groups.keep.sum()
        )
        == 3
    )
    pair = both[[0, 3]]
    assert (
        int(find_duplicates(lambda rows: pair[rows], np.arange(2), DedupConfig()).groups.keep.sum())
        == 1
    )


def test_mirror_images_count_only_when_asked_for() -> None:
    images = textures(20)
    both = np.concatenate([images, images[:5, :, ::-1]])
    for mirror, kept in ((True, 20), (False, 25)):
        duplicates = find_duplicates(
            lambda rows: both[rows], np.arange(25), DedupConfig(mirror=mirror)
        )
        assert int(duplicates.groups.keep.sum()) == kept


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_hardly_any_images(rows: int) -> None:
    images = textures(3)[:rows]
    assert find_duplicates(lambda at: images[at], np.arange(rows), DedupConfig()).groups.keep.all()


def test_equal_calls_give_equal_answers_with_and_without_codes() -> None:
    images = textures(40)
    both = np.concatenate([images, np.stack([ALTERATIONS["JPEG 50"](one) for one in images[:10]])])
    codes = np.random.default_rng(0).integers(0, 256, (50, 16), dtype=np.uint8)
    codes[40:] = codes[:10]
    runs = [
        find_duplicates(lambda rows: both[rows], np.arange(50), DedupConfig(), given)
        for given in (None, None, codes)
    ]
    assert all((run.groups.representative == runs[0].groups.representative).all() for run in runs)
    assert (runs[0].found.score == runs[1].found.score).all() and runs[0].found.reason == runs[
        1
    ].found.reason


def test_leakage_names_the_held_out_images_that_stand_in_training() -> None:
    images = textures(60)
    everything = np.concatenate(
        [images, np.stack([ALTERATIONS["crop 95 %"](one) for one in images[:4]]), images[4:6]]
    )
    splits = ["train"] * 40 + ["test"] * 10 + ["validation"] * 10 + ["test"] * 5 + ["validation"]
    found = leakage.find_leakage(lambda rows: everything[rows], splits, DedupConfig())
    assert found.leaked.tolist() == [60, 61, 62, 63, 64, 65]
    assert dict(zip(found.found.i.tolist(), found.found.j.tolist(), strict=True)) == {
        60 + k: k for k in range(6)
    }
    assert found.summary["splits"] == {
        "test": {"rows": 15, "leaked": 5},
        "validation": {"rows": 11, "leaked": 1},
    }
    sheet = leakage.contact_sheet(lambda rows: everything[rows], found.found)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    nothing = leakage.find_leakage(lambda rows: images[rows], ["train"] * 60, DedupConfig())
    assert not len(nothing.leaked)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """30 images, 4 duplicates (a mirror image among them), one exact duplicate of a large one, two
    files that are none.
    """
    folder = tmp_path / "photographs"
    (folder / "sub").mkdir(parents=True)
    images = textures(30, side=64)
    for row, image in enumerate(images):
        cv2.imwrite(str(folder / f"{row:02d}.png"), image[..., ::-1])
    cv2.imwrite(
        str(folder / "sub" / "jpeg.jpg"), images[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60]
    )
    cv2.imwrite(str(folder / "sub" / "large.png"), cv2.resize(images[1], (100, 100))[..., ::-1])
    cv2.imwrite(str(folder / "sub" / "mirror.png"), images[2][:, ::-1, ::-1])
    (folder / "sub" / "same.png").write_bytes((folder / "03.png").read_bytes())
    (folder / "broken.jpg").write_bytes((folder / "sub" / "jpeg.jpg").read_bytes()[:300])
    (folder / "empty.png").write_bytes(b"")
    return folder


def test_a_folder_of_files(photographs: Path, tmp_path: Path) -> None:
    result = dedup_images(photographs)
    assert result.table.schema.equals(IMAGES)
    assert result.counts == {"in": 36, "kept": 32, "duplicates": 4, "failed": 2, "links": 0}
    rows = {row["address"]: row for row in result.table.to_pylist()}
    assert (
        rows["01.png"]["representative_address"] == "sub/large.png"
        and rows["sub/large.png"]["keep"]
    )  # the largest original
    pairs = {
        frozenset((row["address"], row["representative_address"]))
        for row in rows.values()
        if not row["keep"]
    }
    made = [
        ("00.png", "sub/jpeg.jpg"),
        ("01.png", "sub/large.png"),
        ("02.png", "sub/mirror.png"),
        ("03.png", "sub/same.png"),
    ]
    assert pairs == {frozenset(pair) for pair in made}
    assert (
        rows["broken.jpg"]["status"] == rows["empty.png"]["status"] == "failed"
        and rows["broken.jpg"]["reason"]
    )
    assert sum("mirrored" in row["reason"] for row in rows.values()) == 1
    for row in rows.values():
        assert (
            row["keep"] == (row["score"] is None) == (row["representative_id"] == row["image_id"])
        )
    html = page(result)
    assert html.count("<section>") == 4 and "<script" not in html and "http" not in html
    assert (
        html.count("broken.jpg") == 2 and "could not be read" in html
    )  # the first one in the warning, and in the list
    assert html.count("data:image/jpeg;base64,") == 8


def test_against_another_folder_and_a_parquet_set(photographs: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    other = tmp_path / "other"
    other.mkdir()
    chosen = ["05.png", "06.png", "sub/same.png"]
    data = [{"bytes": (photographs / name).read_bytes(), "path": name} for name in chosen]
    pq.write_table(pa.table({"image": data, "label": [0, 1, 2]}), other / "train.parquet")
    result = dedup_images(photographs, against=other)
    found = {
        row["address"]: row["representative_member"]
        for row in result.table.to_pylist()
        if not row["keep"]
    }
    assert set(found) == {"05.png", "06.png", "03.png", "sub/same.png"}
    assert found["03.png"] == found["sub/same.png"] != found["05.png"]
    assert page(result).count("<section>") == 3
    assert dedup_images(other / "train.parquet").counts["duplicates"] == 0


def hardly_other(image: np.ndarray) -> np.ndarray:
    """An image with one pixel a level off: the same at 32 x 32."""
    for at in np.ndindex(image.shape):
        other = image.copy()
        other[at] ^= 1
        if np.array_equal(resize(other, 32, 32), resize(image, 32, 32)):
            return other
    raise AssertionError("every pixel shows")


def test_identical_pixels_are_said_of_images_that_do_not_differ(tmp_path: Path) -> None:
    """Equal thumbnails are not equal images: neither of another size nor with another pixel."""
    place, other = tmp_path / "images", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    for side, name in ((48, "little"), (96, "large")):
        image = textures(2, seed=side, side=side)[0]
        cv2.imwrite(str(place / f"{name}.png"), image)
        cv2.imwrite(str(place / f"{name} again.bmp"), image)
        cv2.imwrite(str(place / f"{name} turned.png"), hardly_other(image))
    small = textures(1, seed=1)[0]
    for name in ("small.png", "small again.bmp"):
        cv2.imwrite(str(place / name), small)
    cv2.imwrite(str(place / "dot.png"), np.full((1, 1, 3), 90, np.uint8))
    cv2.imwrite(str(place / "line.png"), np.full((1, 5000, 3), 90, np.uint8))
    rows = {row["address"]: row for row in dedup_images(place).table.to_pylist()}
    seen = {address: row["reason"] for address, row in rows.items() if not row["keep"]}
    assert (
        seen["dot.png"] == "equal at 32 x 32 pixels"
        and rows["dot.png"]["representative_address"] == "line.png"
    )
    for name in ("little", "large"):
        representative = next(
            address for address, row in rows.items() if address.startswith(name) and row["keep"]
        )
        for address in seen:
            if address.startswith(name):
                same = ("turned" in address) == ("turned" in representative)
                assert seen[address] == (
                    "identical pixels" if same else "equal at 32 x 32 pixels"
                ), (address, representative)
    assert [reason for address, reason in seen.items() if address.startswith("small")] == [
        "identical pixels"
    ]
    cv2.imwrite(str(other / "line.png"), np.full((1, 4000, 3), 90, np.uint8))
    cv2.imwrite(str(other / "large.png"), cv2.imread(str(place / "large.png")))
    against = {
        row["address"]: row["reason"]
        for row in dedup_images(place, against=other).table.to_pylist()
        if not row["keep"]
    }
    assert (
        against["line.png"]
        == against["dot.png"]
        == against["large turned.png"]
        == "equal at 32 x 32 pixels"
    )
    assert against["large.png"] == against["large again.bmp"] == "identical pixels"


def test_crops_that_differ_above_the_thumbnail_are_not_identical() -> None:
    images = textures(3, side=64)
    turned = images[0].copy()
    turned[0, 0], turned[0, 1] = 100, 102
    images[0][0, :2] = 101
    images = np.concatenate([images, turned[None], images[:1]])
    duplicates = find_duplicates(lambda rows: images[rows], np.arange(5), DedupConfig())
    assert [duplicates.found.reason[duplicates.groups.pair[row]] for row in (3, 4)] == [
        "equal at 32 x 32 pixels",
        "identical pixels",
    ]
    split = ["train"] * 3 + ["test"] * 2
    found = leakage.find_leakage(lambda rows: images[rows], split, DedupConfig()).found
    assert found.i.tolist() == [3, 4] and found.reason == [
        "equal at 32 x 32 pixels",
        "identical pixels",
    ]


def test_requests_that_cannot_be_met(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        dedup_images(tmp_path / "nowhere")
    with pytest.raises(RequestError):
        dedup_images(photographs, DedupConfig(mode="paper"))
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError):
        dedup_images(junk)
