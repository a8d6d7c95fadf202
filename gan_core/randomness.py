"""Random numbers that are the same tomorrow: one seed, one named stream for each use.

A stream is derived from (seed, name), so that adding a new use of randomness never shifts an old
one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names` under `seed` (SHA-256, so equal on every machine)."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator (PCG64) for the stream `names`."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))


def torch_stream(seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    """A torch generator on `device` for the stream `names`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def unit_interval(*names: str | int) -> float:
    """A number in [0, 1) fixed by `names` alone: for splits by content, where identical things must
    fall together.
    """
    return derive_seed(0, *names) / 2**63
