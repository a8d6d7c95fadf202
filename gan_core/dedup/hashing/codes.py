"""Binary codes of 128 bits in 16 bytes: packing, distance, and whether they are in good health."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BITS = 128
Codes = npt.NDArray[np.uint8]


def pack_bits(bits: npt.NDArray[Any]) -> Codes:
    """Bools [n, 8k] to bytes [n, k], most significant bit first (`np.packbits`)."""
    return np.packbits(bits.astype(bool, copy=False), axis=1)


def unpack_bits(codes: Codes) -> npt.NDArray[np.bool_]:
    """Bytes [n, k] to bools [n, 8k]."""
    return np.unpackbits(codes, axis=1).view(np.bool_)


def hamming(left: Codes, right: Codes) -> npt.NDArray[np.int32]:
    """Differing bits of codes [n, k] and [n, k], row by row: int32 [n]."""
    return np.asarray(np.bitwise_count(left ^ right).sum(axis=1), np.int32)


def equal_codes(codes: Codes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Groups rows of equal code, by a hash table.

    Args:
        codes: uint8 [n, k].

    Returns:
        classes: int64 [n], numbered from 0 in order of first appearance.
        first: int64 [classes], the first row of each.
    """
    if not len(codes):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    buffer = pa.py_buffer(np.ascontiguousarray(codes))
    array = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(codes.shape[1]), len(codes), [None, buffer]
    )
    encoded = array.dictionary_encode()
    classes = encoded.indices.to_numpy().astype(np.int64)
    first = np.empty(len(encoded.dictionary), np.int64)
    first[classes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return classes, first


def health(codes: Codes, max_group: int = 1000) -> dict[str, Any]:
    """How well the codes tell images apart: plain JSON.

    Args:
        codes: uint8 [n, k].
        max_group: a code shared by more rows than this is over-full: blank images, or a code that
            has collapsed.

    Returns:
        rows, distinct_codes; bit_entropy_sum (bits, at most 8k) and bit_entropy_min; dead_bits
        (never set) and always_on_bits (numbers of bits); mean_bits_set; largest_code (rows that
        share the most frequent code); overfull_codes [{code (hex), rows}], largest first, at most
        20; overfull_rows; zero_code_rows.
    """
    rows = len(codes)
    set_counts = np.zeros(codes.shape[1] * 8, np.int64)
    for start in range(0, rows, 1 << 16):
        set_counts += unpack_bits(codes[start : start + (1 << 16)]).sum(axis=0)
    share = set_counts / max(rows, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(share * np.log2(share)) - np.nan_to_num(
            (1 - share) * np.log2(1 - share)
        )
    classes, first = equal_codes(codes)
    sizes = np.bincount(classes, minlength=len(first))
    full = np.flatnonzero(sizes > max_group)
    full = full[np.lexsort((full, -sizes[full]))]
    return {
        "rows": rows,
        "distinct_codes": len(first),
        "bit_entropy_sum": round(float(entropy.sum()), 4),
        "bit_entropy_min": round(float(entropy.min(initial=1.0)), 4),
        "dead_bits": np.flatnonzero(set_counts == 0).tolist() if rows else [],
        "always_on_bits": np.flatnonzero(set_counts == rows).tolist() if rows else [],
        "mean_bits_set": round(float(share.sum()), 4),
        "largest_code": int(sizes.max(initial=0)),
        "overfull_codes": [
            {"code": codes[first[one]].tobytes().hex(), "rows": int(sizes[one])}
            for one in full[:20]
        ],
        "overfull_rows": int(sizes[full].sum()),
        "zero_code_rows": int((~codes.any(axis=1)).sum()),
    }
