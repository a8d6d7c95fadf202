"""Finds equal and close binary codes among millions, and nearest neighbours among vectors.

All pairs within a radius come from sorted tables: cut a code of 8k bits into radius + 1 pieces, and
two codes that differ in at most `radius` bits agree in at least one whole piece (pigeonhole), so
they lie side by side when the rows are sorted by that piece. It is multi-index hashing (Norouzi,
Punjani, Fleet, CVPR 2012) without a search structure: for a million 128-bit codes and radius 4 it
takes about a tenth of what FAISS' IndexBinaryMultiHash takes to build and query
(`benchmarks/dedup.py`), with the same result. Where very many rows share a piece, they are looked
up by the rest of their bits in the same way, so that a run of rows alike in part costs no quadratic
time. `pairs_within(..., method="faiss")` is that index, and the tests hold both against brute
force.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gan_core.errors import DataError

Codes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]

PIECE_BITS = 25  # longer pieces make no smaller groups below some 30 million rows
# rows that share a piece: more of them are looked up by their other bits instead of one with
# another
OVERFULL = 2000
# times that this is repeated; below that the rows are alike all over, and the pairs themselves are
# many
DEPTH = 3


class Pairs(NamedTuple):
    """Pairs of rows, i < j, sorted by (i, j), each once.

    Attributes:
        i, j: int64 [pairs].
        distance: int32 [pairs] differing bits.
    """

    i: Rows
    j: Rows
    distance: npt.NDArray[np.int32]


def pairs_within(
    codes: Codes, radius: int, *, method: str = "sorted", max_pairs: int = 100_000_000
) -> Pairs:
    """Every pair of rows whose codes differ in at most `radius` bits: none is missed.

    Rows of equal code make quadratically many pairs: collapse them with `equal_codes` first where
        there may be many.

    Args:
        codes: uint8 [n, k].
        radius: bits, 0 to 8k - 1.
        method: 'sorted' (tables sorted by pieces of the code), 'faiss' (IndexBinaryMultiHash) or
            'brute' (FAISS' flat index).
        max_pairs: stop when there are more.

    Raises:
        DataError: more than `max_pairs` pairs.
    """
    bits = codes.shape[1] * 8
    if not 0 <= radius < bits:
        raise ValueError(f"radius {radius} is not within 0..{bits - 1}")
    if len(codes) < 2:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32))
    pieces = radius + 1
    if method == "brute" or (method == "faiss" and bits // pieces < 8) or bits // pieces < 2:
        return _by_faiss(codes, radius, _flat_index(bits), max_pairs)
    spread = spread_bits(codes)
    if method == "faiss":
        return _by_faiss(spread, radius, _multi_hash_index(bits, pieces, len(codes)), max_pairs)
    return _by_sorting(spread, radius, max_pairs)


def spread_bits(codes: Codes) -> Codes:
    """The codes with their bits in another order, so that every piece gets its share of bits that
    vary.

    Distances stay. A run of dead bits would make a piece equal in all rows, and the look-up
    quadratic.
    """
    rows, width = codes.shape
    counts = np.zeros(width * 8, np.int64)
    for start in range(0, rows, 1 << 16):
        counts += np.unpackbits(codes[start : start + (1 << 16)], axis=1).sum(
            axis=0, dtype=np.int64
        )
    imbalance = np.abs(2 * counts - rows)
    if np.quantile(imbalance, 0.9) < 0.8 * rows:  # nearly all bits vary: nothing to gain
        return codes
    order = np.argsort(imbalance, kind="stable")
    # Every sixteenth of the ranking goes to one place after the other: a piece then holds bits of
    # all ranks.
    order = order.reshape(16, -1).T.ravel() if len(order) % 16 == 0 else order
    out = np.empty_like(codes)
    for start in range(0, rows, 1 << 16):
        block = np.unpackbits(codes[start : start + (1 << 16)], axis=1)
        out[start : start + (1 << 16)] = np.packbits(block[:, order], axis=1)
    return out


def _by_sorting(codes: Codes, radius: int, max_pairs: int, depth: int = 0) -> Pairs:
    rows, bits = len(codes), codes.shape[1] * 8
    words = _words(codes)
    found_i: list[Rows] = []
    found_j: list[Rows] = []
    found = 0
    pieces = radius + 1

    def keep(i: Rows, j: Rows, piece: int) -> None:
        nonlocal found
        if piece:  # found before when an earlier piece agrees too
            new = ~_equal_before(codes, i, j, piece, pieces)
            i, j = i[new], j[new]
        found_i.append(np.minimum(i, j))
        found_j.append(np.maximum(i, j))
        found += len(i)
        _check_count(found, max_pairs, radius)

    for piece in range(pieces):
        start, stop = _ends(piece, pieces, bits)
        key = _piece(codes, start, stop)
        order = np.argsort(key, kind="stable")
        key = key[order]
        # Neighbours at sorted distance 1, 2, ... while any two of them still agree.
        alive = np.flatnonzero(key[1:] == key[:-1])
        for first, last in _overfull(key) if depth < DEPTH else []:
            members = order[first:last]
            rest = _other_bits(codes[members], start, stop, radius)
            if rest is None:
                continue
            pairs = _among(rest, radius, max_pairs, depth + 1)
            keep(members[pairs.i], members[pairs.j], piece)
            alive = alive[(alive < first) | (alive >= last)]
        offset = 1
        while len(alive):
            i, j = order[alive], order[alive + offset]
            close = _distance(words, i, j) <= radius
            keep(i[close], j[close], piece)
            offset += 1
            alive = alive[alive + offset < rows]
            alive = alive[key[alive] == key[alive + offset]]
    return _sorted_pairs(
        np.concatenate(found_i) if found_i else [],
        np.concatenate(found_j) if found_j else [],
        words,
    )


def _among(codes: Codes, radius: int, max_pairs: int, depth: int) -> Pairs:
    """The pairs within the radius among rows of an over-full piece."""
    if codes.shape[1] * 8 // (radius + 1) < 2:
        return _by_faiss(codes, radius, _flat_index(codes.shape[1] * 8), max_pairs)
    return _by_sorting(spread_bits(codes), radius, max_pairs, depth)


def _ends(piece: int, pieces: int, bits: int) -> tuple[int, int]:
    """First bit of a piece and the one after its last that is sorted by."""
    start, stop = piece * bits // pieces, (piece + 1) * bits // pieces
    return start, min(stop, start + PIECE_BITS)


def _overfull(key: npt.NDArray[np.uint32]) -> list[tuple[int, int]]:
    """First and last + 1 of every run of more than `OVERFULL` equal keys."""
    ends = np.flatnonzero(np.r_[True, key[1:] != key[:-1], True])
    large = np.flatnonzero(np.diff(ends) > OVERFULL)
    return [(int(ends[at]), int(ends[at + 1])) for at in large.tolist()]


def _other_bits(codes: Codes, start: int, stop: int, radius: int) -> Codes | None:
    """What can tell rows apart that agree in bits start..stop-1: the other bits, without those that
    are equal in all rows.

    Distances stay. Filled up with zeros to more than `radius` bits; None when that makes no shorter
    codes (then most of the pairs are within the radius, and there is nothing to save).
    """
    varying = np.zeros(codes.shape[1] * 8, np.bool_)
    for first in range(0, len(codes), 1 << 16):
        varying |= np.unpackbits(codes[first : first + (1 << 16)] ^ codes[:1], axis=1).any(axis=0)
    varying[start:stop] = False
    kept = np.flatnonzero(varying)
    width = -(-max(len(kept), radius + 1) // 8)
    if not len(kept) or width >= codes.shape[1]:
        return None
    out = np.zeros((len(codes), width), np.uint8)
    for first in range(0, len(codes), 1 << 16):
        packed = np.packbits(
            np.unpackbits(codes[first : first + (1 << 16)], axis=1)[:, kept], axis=1
        )
        out[first : first + (1 << 16), : packed.shape[1]] = packed
    return out


def _piece(codes: Codes, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """Bits start..stop-1 (at most 25) of each code as a number."""
    first = start // 8
    padded = np.zeros((len(codes), 4), np.uint8)
    part = codes[:, first : first + 4]
    padded[:, : part.shape[1]] = part
    number = padded.view(">u4").ravel().astype(np.uint32)
    return (number << np.uint32(start - first * 8)) >> np.uint32(32 - (stop - start))


def _equal_before(codes: Codes, i: Rows, j: Rows, piece: int, pieces: int) -> npt.NDArray[np.bool_]:
    """Whether two rows agree in the part of an earlier piece that was sorted by."""
    bits = codes.shape[1] * 8
    left, right = codes[i], codes[j]
    out = np.zeros(len(i), np.bool_)
    for earlier in range(piece):
        start, stop = _ends(earlier, pieces, bits)
        out |= _piece(left, start, stop) == _piece(right, start, stop)
    return out


def _words(codes: Codes) -> npt.NDArray[Any]:
    """The codes as few wide words [n, w], for fast counting."""
    kind = np.uint64 if codes.shape[1] % 8 == 0 else np.uint8
    return np.ascontiguousarray(codes).view(kind)


def _distance(
    words: npt.NDArray[Any], i: Rows, j: Rows, block: int = 1 << 20
) -> npt.NDArray[np.int32]:
    out = np.empty(len(i), np.int32)
    for start in range(0, len(i), block):
        part = slice(start, start + block)
        out[part] = np.bitwise_count(words[i[part]] ^ words[j[part]]).sum(axis=1, dtype=np.int32)
    return out


def _check_count(found: int, max_pairs: int, radius: int) -> None:
    if found > max_pairs:
        raise DataError(
            f"More than {max_pairs:,} pairs of codes lie within {radius} bits of one another.",
            expected=(
                "codes that tell images apart (see the health of the codes: dead bits, "
                "over-full codes)"
            ),
            remedy="lower dedup.radius, or fit the hash on images that vary more",
        )


def _sorted_pairs(i: Any, j: Any, words: npt.NDArray[Any]) -> Pairs:
    i, j = np.asarray(i, np.int64), np.asarray(j, np.int64)
    order = np.lexsort((j, i))
    i, j = i[order], j[order]
    return Pairs(i, j, _distance(words, i, j))


def _multi_hash_index(bits: int, pieces: int, rows: int) -> Callable[[], Any]:
    """FAISS' multi-index hash with as many tables as make a radius of pieces - 1 complete."""
    wanted = max(8, int(np.ceil(np.log2(max(rows, 2)))))
    each = min(bits // pieces, wanted)

    def make() -> Any:
        import faiss

        return faiss.IndexBinaryMultiHash(bits, pieces, each)

    return make


def _flat_index(bits: int) -> Callable[[], Any]:
    def make() -> Any:
        import faiss

        return faiss.IndexBinaryFlat(bits)

    return make


def _by_faiss(
    codes: Codes, radius: int, make: Callable[[], Any], max_pairs: int, block: int = 1 << 16
) -> Pairs:
    index = make()
    codes = np.ascontiguousarray(codes)
    index.add(codes)
    found_i: list[Rows] = []
    found_j: list[Rows] = []
    found = 0
    for start in range(0, len(codes), block):
        # FAISS returns distances strictly below its radius.
        limits, _, labels = index.range_search(codes[start : start + block], radius + 1)
        i = np.repeat(
            np.arange(start, start + len(limits) - 1, dtype=np.int64),
            np.diff(limits.astype(np.int64)),
        )
        labels = labels.astype(np.int64)
        forward = i < labels
        found_i.append(i[forward])
        found_j.append(labels[forward])
        found += int(forward.sum())
        _check_count(found, max_pairs, radius)
    return _sorted_pairs(np.concatenate(found_i), np.concatenate(found_j), _words(codes))
