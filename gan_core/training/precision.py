"""Which number format the convolutions run in: a rule that depends on the processor alone, so that it can be recorded."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gan_core.devices import bf16_units

if TYPE_CHECKING:
    import torch


def resolve_precision(wanted: str, device: str) -> str:
    """'float32' or 'bf16' for a setting of 'auto', 'float32' or 'bf16'. Auto: bf16 on CUDA and on CPUs with units for it."""
    if wanted != "auto":
        return wanted
    return "bf16" if bf16_units(device) else "float32"


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[object]:
    """Convolutions and linear maps in `precision`; weights, norm statistics, losses and optimiser stay float32."""
    import torch

    kind = "cuda" if device.startswith("cuda") else "cpu"
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")


def memory_format() -> torch.memory_format:
    """Channels last: the layout in which convolutions of both CPU and GPU were measured to be fastest (docs/benchmarks.md)."""
    import torch

    return torch.channels_last
