"""Stage hash: fits the autoencoder on the training split and gives every usable crop its 128-bit
code.

Writes encoder.safetensors (weights and pixel mean: the version of the hash) and codes.parquet
(schemas.CODES).
"""

from __future__ import annotations

import logging
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from gan_core.contract import HashRequest, StageOutcome, StageRequest
from gan_core.dedup.hashing import SIDE, autoencoder, codes
from gan_core.files import write_table
from gan_core.progress import Progress
from gan_core.schemas import CODES
from gan_core.shards import PixelShards

log = logging.getLogger(__name__)

_BLOCK = 4096


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Fits on at most `fit_rows` training crops (the ones with the smallest ids), encodes all.

    Raises:
        DataError: no usable crop in any training split.
    """
    job = HashRequest.of(request)
    config = job.settings
    cv2.setNumThreads(job.execution.threads)
    shards = PixelShards(job.crops)
    table = shards.table
    chosen = training = shards.training_rows("to fit the hash on")
    if len(training) > config.fit_rows:
        # Ids are hashes: the smallest are a fair draw, and mostly the same ones when the set has
        # grown.
        ids = table["image_id"].to_numpy()[training]
        order = np.lexsort((table["box"].to_numpy()[training], ids))
        chosen = np.sort(training[order[: config.fit_rows]])
    small = np.empty((len(chosen), SIDE, SIDE, 3), np.uint8)
    for start in range(0, len(chosen), _BLOCK):
        part = slice(start, start + _BLOCK)
        small[part] = autoencoder.resize_to(shards.pixels(chosen[part]))
    encoder = autoencoder.fit(small, config, job.seed, progress)
    del small
    encoder.save(request.work / "encoder.safetensors")

    out = np.empty((len(shards), codes.BITS // 8), np.uint8)
    for start in range(0, len(shards), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(shards)))
        out[rows] = encoder.encode(shards.pixels(rows))
        progress(start + len(rows), len(shards), "images")
    columns: dict[str, Any] = {name: table[name] for name in ("image_id", "box", "source", "split")}
    columns["code"] = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(out.shape[1]), len(out), [None, pa.py_buffer(out)]
    )
    write_table(pa.table(columns).cast(CODES), request.work / "codes.parquet")

    figures = codes.health(out)
    log.info("hash: %d rows, %d distinct codes", len(out), figures["distinct_codes"])
    return StageOutcome(
        counts={"in": len(out), "encoded": len(out), "fitted_on": len(chosen)},
        summary={"health": figures, "fit": encoder.about},
        warnings=_warnings(figures),
    )


def _warnings(health: dict[str, Any]) -> list[str]:
    """What a person should know about codes that distinguish images badly."""
    out = []
    idle = len(health["dead_bits"]) + len(health["always_on_bits"])
    if idle > 32:
        out.append(
            f"{idle} of 128 bits of the code never change: equal codes say less than they should."
        )
    if health["overfull_rows"]:
        out.append(
            f"{health['overfull_rows']:,} images share {len(health['overfull_codes'])} over-full "
            "codes "
            f"(the fullest holds {health['largest_code']:,}): blank images, or a code that has "
            "collapsed."
        )
    return out
