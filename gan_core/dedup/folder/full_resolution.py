"""Pairs of a folder's images compared at full resolution: what the thumbnails could not
tell apart.

Reads the originals of accepted pairs, each about once more, on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from gan_core.datasets._reading import read_ordered
from gan_core.datasets.base import Blob
from gan_core.datasets.folder import FolderSource
from gan_core.dedup.folder.best_source import EVIDENCE, examine, sharpness
from gan_core.dedup.folder.enlarged import is_enlarged
from gan_core.dedup.folder.read import Images
from gan_core.dedup.folder.thumbnails import Shared, trim_border
from gan_core.dedup.hashing import SIDE
from gan_core.dedup.search import compare_full_resolution, overlays
from gan_core.dedup.search.verify_pairs import Verified, score_either_way
from gan_core.progress import Progress, silent
from gan_core.vision.decode import decode
from gan_core.vision.geometry import resize
from gan_core.vision.image_files import UnreadableImage

Rows = npt.NDArray[np.int64]
Compare = Callable[
    [npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float32]], npt.NDArray[np.bool_]
]

_Seen = TypeVar("_Seen")

DETAILED = 64 * 64  # pixels of the smaller original from which its details are compared ...
COLOURED = (
    40 * 40
    # ... and its colours; at 32 px both cost duplicates (6 of CIFAR-10's 255 found pairs fail on
    # colours)
)
PAIRS = 2048  # compared together
ENLARGED = 8  # pairs of whole originals held at once
OVERLAYS = 512  # pairs compared together for overlays; an original takes up to 440 kB
IN_MEMORY = 8192  # originals held, 27 kB each


class Originals:
    """Confirms pairs of rows; `asked` and `rejected` count them.

    Args:
        parts: images and the numbers of those that are rows, one part after the other.
        workers: threads that read.
        scratch: a folder for more originals than `IN_MEMORY`.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Images, Rows]],
        workers: int,
        max_megapixels: float,
        scratch: Path,
        progress: Progress = silent,
    ) -> None:
        self._parts, self._workers, self._max, self._scratch = (
            parts,
            workers,
            max_megapixels,
            scratch,
        )
        self._progress = progress
        self._first = np.cumsum([0, *(len(numbers) for _, numbers in parts)])
        self._facts = np.concatenate([images.facts[numbers] for images, numbers in parts])
        # Containers are read forwards, once for all pairs of a call; files of their own can be read
        # again.
        self._files = all(isinstance(images.source, FolderSource) for images, _ in parts)
        self._held: dict[int, npt.NDArray[np.uint8]] = {}
        self._digests: dict[int, bytes] = {}  # of all pixels of an original that was read
        self.asked = self.rejected = 0

    def __call__(self, pairs: Verified) -> npt.NDArray[np.bool_]:
        """Whether each pair still agrees; what cannot be read again keeps its first verdict."""
        good = self._in_steps(pairs, self._compare)
        self.asked += len(good)
        self.rejected += int((~good).sum())
        return good

    def same_image(self, pairs: Verified, threshold: float) -> npt.NDArray[np.bool_]:
        """Whether pairs with a rough map are duplicates; False for what cannot be read again.

        Images of less than `DETAILED` pixels have no more than their thumbnails: those must reach
        the threshold, and the score that suggests the pair must have.
        """
        return self._in_steps(pairs, partial(self._compare_closer, threshold=threshold))

    def identical(self, first: Rows, second: Rows) -> npt.NDArray[np.bool_]:
        """Whether the originals of pairs with equal thumbnails have equal pixels; what cannot be
        read again counts as differing.
        """
        same = np.asarray((self._facts[first, :2] == self._facts[second, :2]).all(axis=1), np.bool_)
        # At the thumbnail's size the thumbnail is the image.
        larger = np.flatnonzero(same & (self._facts[first, :2] != SIDE).any(axis=1))
        asked = np.unique(np.concatenate([first[larger], second[larger]]))
        self._digest(
            np.array([row for row in asked.tolist() if row not in self._digests], np.int64)
        )
        for at in larger.tolist():
            digest = self._digests.get(int(first[at]))
            same[at] = digest is not None and digest == self._digests.get(int(second[at]))
        return same

    def examine(self, rows: Rows) -> npt.NDArray[np.float64]:
        """float64 [n, EVIDENCE], `best_source.examine` of each row; NaN for what cannot be read
        again.
        """
        seen = self._seen(
            rows, lambda row, data: np.array(examine(data, self._max)), "images of groups examined"
        )
        out = np.full((len(rows), EVIDENCE), np.nan)
        for at, row in enumerate(rows.tolist()):
            out[at] = out[at] if seen[row] is None else seen[row]
        return out

    def sharpness(self, rows: Rows, quality: Rows) -> npt.NDArray[np.float64]:
        """float64 [n], `best_source.sharpness` of each row at its quality; NaN for what cannot be
        read again.
        """
        at = dict(zip(rows.tolist(), quality.tolist(), strict=True))
        seen = self._seen(
            rows,
            lambda row, data: sharpness(data, self._max, at[row]),
            "images of groups compared in sharpness",
        )
        found = [seen[row] for row in rows.tolist()]
        return np.array([np.nan if one is None else one for one in found], np.float64)

    def enlarged(
        self, large: Rows, small: Rows, mirrored: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Whether each larger row is the smaller one, mirrored where asked, enlarged
        (`is_enlarged`): bool [n]; False for what cannot be read again.
        """

        def work(_: int, data: bytes) -> npt.NDArray[np.uint8]:
            image = trim_border(decode(data, self._max))
            return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)

        out = np.zeros(len(large), np.bool_)
        for start in range(0, len(large), ENLARGED):
            chosen = slice(start, start + ENLARGED)
            held = self._seen(np.concatenate([large[chosen], small[chosen]]), work)
            for at in range(start, min(start + ENLARGED, len(large))):
                one, other = held[int(large[at])], held[int(small[at])]
                if one is not None and other is not None:
                    out[at] = is_enlarged(one, other[:, ::-1] if mirrored[at] else other)
        return out

    def area(self, rows: Rows) -> Rows:
        """Pixels of each row's image."""
        return np.asarray(self._facts[rows, 0] * self._facts[rows, 1], np.int64)

    def overlaid(
        self, first: Rows, second: Rows
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """`overlays.overlaid` of each pair, whole frames: int8 [n] and float32 [n]; 0 for what
        cannot be read again.
        """

        def work(_: int, data: bytes) -> npt.NDArray[np.uint8]:
            image = decode(data, self._max)
            factor = min(1.0, overlays.SIDE / max(image.shape[:2]))
            height, width = (max(1, round(side * factor)) for side in image.shape[:2])
            return resize(image, width, height)

        which, agree = np.zeros(len(first), np.int8), np.zeros(len(first), np.float32)
        order = np.lexsort((second, first))
        for start in range(0, len(order), OVERLAYS):
            chosen = order[start : start + OVERLAYS]
            held = self._seen(np.concatenate([first[chosen], second[chosen]]), work)
            for at in chosen.tolist():
                one, other = held[int(first[at])], held[int(second[at])]
                if one is not None and other is not None:
                    which[at], agree[at] = overlays.overlaid(one, other)
            self._progress(
                min(start + OVERLAYS, len(order)), len(order), "pairs compared for overlays"
            )
        return which, agree

    def _seen(
        self, rows: Rows, work: Callable[[int, bytes], _Seen], what: str = ""
    ) -> dict[int, _Seen | None]:
        """What `work` makes of each row and its file's bytes, read once; None for what cannot be
        read again. Args: what: unit of the progress that is reported; none is without.
        """
        held: dict[int, _Seen | None] = {}
        for images, numbers, mine in self._by_part(np.unique(rows)):

            def read(at: int, blob: Blob, mine: Rows = mine) -> _Seen | None:
                try:
                    return work(int(mine[at]), blob.read())
                except UnreadableImage:
                    return None

            seen = read_ordered(images.source, _requests(images, numbers), read, self._workers)
            for row, one in zip(mine.tolist(), seen, strict=True):
                held[row] = one
                if what:
                    self._progress(len(held), len(rows), what)
        return held

    @property
    def summary(self) -> dict[str, Any]:
        """How many pairs were asked about, and how many denied: plain JSON."""
        return {"full_resolution": {"asked": self.asked, "rejected": self.rejected}}

    def _in_steps(
        self, pairs: Verified, compare: Callable[[Verified], npt.NDArray[np.bool_]]
    ) -> npt.NDArray[np.bool_]:
        good = np.ones(len(pairs.i), np.bool_)
        order = np.lexsort((pairs.j, pairs.i))
        step = PAIRS if self._files else max(1, len(order))
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            good[chosen] = compare(pairs.select(chosen))
            self._progress(
                min(start + step, len(order)), len(order), "pairs compared at full resolution"
            )
        return good

    def _compare(self, pairs: Verified) -> npt.NDArray[np.bool_]:
        smaller = self._smaller(pairs)
        detailed = np.flatnonzero(smaller >= DETAILED)
        coloured = np.flatnonzero((smaller >= COLOURED) & (smaller < DETAILED))
        good = np.ones(len(pairs.i), np.bool_)
        detailed = detailed[self._there(pairs.select(detailed))]
        good[detailed] = self._blocks(pairs.select(detailed), compare_full_resolution.same_details)
        good[coloured] = self._blocks(
            pairs.select(coloured), compare_full_resolution.same_colours, large=False
        )
        return good

    def _compare_closer(self, pairs: Verified, threshold: float) -> npt.NDArray[np.bool_]:
        smaller = self._smaller(pairs)
        good = (smaller < DETAILED) & (pairs.score >= threshold)
        small = np.flatnonzero(good)
        good[small] = self._blocks(
            pairs.select(small), lambda *pair: score_either_way(*pair) >= threshold, large=False
        )
        coloured = np.flatnonzero(good & (smaller >= COLOURED))
        good[coloured] = self._blocks(
            pairs.select(coloured), compare_full_resolution.same_colours, large=False
        )
        detailed = np.flatnonzero(smaller >= DETAILED)
        detailed = detailed[self._there(pairs.select(detailed))]
        good[detailed] = self._blocks(pairs.select(detailed), compare_full_resolution.same_image)
        return good

    def _smaller(self, pairs: Verified) -> Rows:
        """Pixels of the smaller image of each pair."""
        return np.minimum(self.area(pairs.i), self.area(pairs.j))

    def _there(self, pairs: Verified) -> npt.NDArray[np.bool_]:
        """Reads the originals of pairs; whether both could be read."""
        self._hold(np.unique(np.concatenate([pairs.i, pairs.j])))
        both = [
            int(i) in self._held and int(j) in self._held
            for i, j in zip(pairs.i, pairs.j, strict=True)
        ]
        return np.array(both, np.bool_)

    def _blocks(
        self, pairs: Verified, compare: Compare, *, large: bool = True
    ) -> npt.NDArray[np.bool_]:
        good = np.ones(len(pairs.i), np.bool_)
        for start in range(0, len(pairs.i), 64):
            part = slice(start, start + 64)
            left, right = (self._pixels(side[part], large=large) for side in (pairs.i, pairs.j))
            flip = pairs.mirrored[part]
            left[flip] = left[flip][:, :, ::-1]
            good[part] = compare(left, right, pairs.maps[part])
        return good

    def _pixels(self, rows: Rows, *, large: bool) -> npt.NDArray[np.uint8]:
        if large:
            return np.stack([self._held[row] for row in rows.tolist()])
        out = []
        for row in rows.tolist():
            images, number = self._place(row)
            out.append(images.thumbnails[number])
        return np.stack(out)

    def _place(self, row: int) -> tuple[Images, int]:
        part = int(np.searchsorted(self._first, row, side="right")) - 1
        images, numbers = self._parts[part]
        return images, int(numbers[row - self._first[part]])

    def _hold(self, rows: Rows) -> None:
        """Reads what is not held yet; when that grows too much, what these pairs do not need is
        dropped.
        """
        if self._files and len(self._held) + len(rows) > IN_MEMORY:
            wanted = set(rows.tolist())
            self._held = {row: pixels for row, pixels in self._held.items() if row in wanted}
        for images, numbers, mine in self._by_part(
            np.array([row for row in rows.tolist() if row not in self._held], np.int64)
        ):
            self._read(images, numbers, mine)

    def _by_part(self, rows: Rows) -> Iterator[tuple[Images, Rows, Rows]]:
        """Rows by the part that they lie in, in its order: its images, their numbers there, and the
        rows.
        """
        for part, (images, numbers) in enumerate(self._parts):
            mine = rows[(rows >= self._first[part]) & (rows < self._first[part + 1])]
            if len(mine):
                there = numbers[mine - self._first[part]]
                order = np.argsort(there, kind="stable")
                yield images, there[order], mine[order]

    def _digest(self, rows: Rows) -> None:
        """Reads originals for their digests alone."""

        def work(_: int, blob: Blob) -> bytes | None:
            try:
                return compare_full_resolution.digest_of(decode(blob.read(), self._max))
            except UnreadableImage:
                return None

        for images, numbers, mine in self._by_part(rows):
            digests = read_ordered(images.source, _requests(images, numbers), work, self._workers)
            self._digests |= {
                row: digest for row, digest in zip(mine.tolist(), digests, strict=True) if digest
            }

    def _read(self, images: Images, numbers: Rows, rows: Rows) -> None:
        shape = (len(rows), compare_full_resolution.SIDE, compare_full_resolution.SIDE, 3)
        store = Shared.make(shape, np.uint8, self._scratch if len(rows) > IN_MEMORY else None)
        store.close()

        def work(at: int, blob: Blob) -> bytes | None:
            try:
                image = decode(blob.read(), self._max)
            except UnreadableImage:
                return None
            side = compare_full_resolution.SIDE
            store.array[at] = resize(trim_border(image), side, side)
            return compare_full_resolution.digest_of(image)

        for at, digest in enumerate(
            read_ordered(images.source, _requests(images, numbers), work, self._workers)
        ):
            if digest:
                row = int(rows[at])
                self._held[row], self._digests[row] = store.array[at], digest


def _requests(images: Images, numbers: Rows) -> list[tuple[str, str]]:
    return [(images.addresses[number], images.members[number]) for number in numbers.tolist()]
