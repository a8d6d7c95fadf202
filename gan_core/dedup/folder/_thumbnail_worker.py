"""`python -m gan_core.dedup.folder._thumbnail_worker REQUEST`: one of the processes that
`thumbnails.read_files` starts; a JSON line for each block.
"""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np

from gan_core.dedup.folder.thumbnails import FACTS, Blocks, File, Shared
from gan_core.dedup.hashing import SIDE
from gan_core.signals import die_with_parent


def main() -> None:
    """Reads blocks until none is left."""
    request = json.loads(sys.argv[1])
    die_with_parent(request["parent"])
    cv2.setNumThreads(1)
    with open(request["files"]) as listed:
        files = [File(*one) for one in json.load(listed)]
    thumbnails = Shared(request["thumbnails"], (len(files), SIDE, SIDE, 3), np.uint8)
    facts = Shared(request["facts"], (len(files), FACTS), np.int64)
    blocks = Blocks(
        files,
        thumbnails.array,
        facts.array,
        request["max_megapixels"],
        request["pipe"],
        request["block"],
    )
    while (block := blocks.claim()) is not None:
        print(json.dumps({"block": block, "problems": blocks.read(block)}), flush=True)


if __name__ == "__main__":
    main()
