"""From a row of features to the image it came from, and back: `python examples/read_features.py
FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq


def main(folder: str) -> None:
    """Prints where the image of one row is, and the features of that image. Args: folder: an
    extract artifact.
    """
    files = sorted(Path(folder).glob("features-*.parquet"))
    where = ["image_id", "source", "address", "member", "split", "label"]
    row = pq.read_table(files, columns=where).slice(0, 1).to_pylist()[0]
    print("a row of features comes from:", row)
    same = (pc.field("address") == row["address"]) & (pc.field("member") == row["member"])
    table = pq.read_table(files, filters=same)
    layers = [field.name for field in table.schema if "fixed_shape_tensor" in str(field.type)]
    for layer in layers:
        tensor = table[layer].combine_chunks().to_numpy_ndarray()
        print(f"that image's features in {layer}: {tensor.shape} {tensor.dtype}")


if __name__ == "__main__":
    main(sys.argv[1])
