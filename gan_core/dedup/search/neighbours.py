"""Candidates: the nearest neighbours of every image and of its mirror image, by FAISS."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gan_core.dedup.search.descriptors import LENGTH, mirrored

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

EXACT_ROWS = 120_000  # up to so many every pair is compared, above them inverted lists are used
REDUCED = 64


class Candidates(NamedTuple):
    """Pairs worth verifying, i < j, sorted by (i, j, mirrored).

    Attributes:
        i, j: int64 [pairs].
        mirrored: bool [pairs]: j is to be compared with the mirror image of i.
        similarity: float32 [pairs], cosine of the descriptors, -1 to 1.
    """

    i: Rows
    j: Rows
    mirrored: npt.NDArray[np.bool_]
    similarity: Floats

    def select(self, rows: npt.NDArray[Any]) -> Candidates:
        """The chosen pairs, by number or by mask."""
        return Candidates(self.i[rows], self.j[rows], self.mirrored[rows], self.similarity[rows])


def reduce(edges: Floats, length: int = REDUCED, sample: int = 50_000) -> Floats:
    """The descriptors in fewer dimensions (principal components, unit length): half the work, 1 %
    of the recall.

    The mirror symmetry survives: components of a set closed under mirroring are even or odd, and
    the caller passes descriptors and mirrored descriptors through the same matrix.
    """
    step = max(1, len(edges) // sample)
    chosen = edges[::step].astype(np.float64)
    flipped = mirrored(chosen).astype(np.float64)
    _, vectors = np.linalg.eigh(chosen.T @ chosen + flipped.T @ flipped)
    return np.ascontiguousarray(vectors[:, ::-1][:, :length], np.float32)


def _unit(values: Floats) -> Floats:
    values = np.ascontiguousarray(values, np.float32)
    return np.asarray(
        values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6), np.float32
    )


def _index(vectors: Floats) -> Any:
    """FAISS' index of unit vectors by inner product: flat, or inverted lists for many rows."""
    import faiss

    rows, length = vectors.shape
    if rows <= EXACT_ROWS:
        index: Any = faiss.IndexFlatIP(length)
    else:
        lists = int(2 ** round(np.log2(4 * rows**0.5)))
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(length), length, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.niter, index.cp.seed = 10, 1234
        index.train(vectors[:: max(1, rows // (64 * lists))])
        index.nprobe = max(16, lists // 24)
    index.add(vectors)
    return index


def nearest(
    edges: Floats,
    neighbours: int,
    *,
    floor: float,
    mirror: bool = True,
    queries: Rows | None = None,
    targets: Rows | None = None,
    block: int = 4096,
) -> Candidates:
    """For each query its `neighbours` most similar images, and those of its mirror image.

    Args:
        edges: float32 [n, 128], `descriptors.Described.edges`.
        floor: least cosine of a candidate; zeros (blank images) never are one when it is above 0.
        mirror: search for mirror images too.
        queries: rows asked for; None: all.
        targets: rows searched; None: all.
    """
    rows = len(edges)
    asked = np.arange(rows) if queries is None else queries
    searched = np.arange(rows) if targets is None else targets
    if not len(asked) or not len(searched):
        return _unique(
            np.empty(0, np.int64),
            np.empty(0, np.int64),
            np.empty(0, np.bool_),
            np.empty(0, np.float32),
            rows,
        )
    matrix = reduce(edges) if rows > 4 * LENGTH else np.eye(LENGTH, dtype=np.float32)
    index = _index(_unit(edges[searched] @ matrix))
    wanted = min(neighbours + 1, len(searched))  # one more: the image itself
    parts: list[tuple[Rows, Rows, npt.NDArray[np.bool_], Floats]] = []
    for start in range(0, len(asked), block):
        chosen = asked[start : start + block]
        for flip in (False, True) if mirror else (False,):
            vectors = mirrored(edges[chosen]) if flip else edges[chosen]
            similarity, found = index.search(_unit(vectors @ matrix), wanted)
            near = searched[np.maximum(found, 0)]
            i = np.repeat(chosen, wanted)
            j = near.ravel()
            good = (similarity.ravel() >= floor) & (found.ravel() >= 0) & (i != j)
            i, j = i[good], j[good]
            parts.append(
                (
                    np.minimum(i, j),
                    np.maximum(i, j),
                    np.full(len(i), flip),
                    similarity.ravel()[good],
                )
            )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _unique(columns[0], columns[1], columns[2], columns[3], rows)


def _unique(
    i: Rows, j: Rows, flip: npt.NDArray[np.bool_], similarity: Floats, rows: int
) -> Candidates:
    """Each (i, j, mirrored) once: mirroring i or j compares the same two images."""
    key = (i.astype(np.uint64) * np.uint64(max(rows, 1)) + j.astype(np.uint64)) * np.uint64(
        2
    ) + flip.astype(np.uint64)
    _, first = np.unique(key, return_index=True)
    return Candidates(i[first], j[first], flip[first], similarity[first])
