"""One training or extraction at a time on a GPU: a run from the command line and one from the pool
never share it by accident.

A lock for each device, held by the process that waits for the child that computes there; the kernel
drops it when its holder dies, and the child dies with it. The lock belongs to the machine, not to a
home, and to the device itself, however CUDA_VISIBLE_DEVICES numbers it. It decides when something
is computed, never what: it is in no key.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

from gan_core.artifacts.locks import Waiting, file_lock
from gan_core.devices import cuda_count

PLACE = Path("/tmp")  # not TMPDIR, which a service and a shell may have set differently


@contextlib.contextmanager
def exclusive_use(devices: list[str], who: str, waiting: Waiting | None = None) -> Iterator[None]:
    """Holds the locks of some devices for the time of a block; of none, does nothing.

    Args:
        devices: identities, as `identities` gives them.
        who: name shown to those who wait.
        waiting: called with the holder's words when a device is not free at once.
    """
    with contextlib.ExitStack() as held:
        # in one order for all processes: two that want two GPUs each do not deadlock
        for name in sorted(set(devices)):
            held.enter_context(
                file_lock(PLACE / f"discern-gpu-{name}.lock", who, waiting, public=True)
            )
        yield


def identities(device: str, processes: int = 1) -> list[str]:
    """The GPUs that `processes` processes on a device use ('cuda' is the first one and those after
    it); none on a CPU.
    """
    if not device.startswith("cuda"):
        return []
    first = int(device.partition(":")[2] or 0)
    return [
        _identity(number)
        for number in range(first, min(first + processes, max(cuda_count(), first + 1)))
    ]


def _identity(number: int) -> str:
    """The UUID of a CUDA device (of its part, where it is divided), or its number where the driver
    does not show it.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        handle, uuid = ctypes.c_int(), ctypes.create_string_buffer(16)
        known = getattr(cuda, "cuDeviceGetUuid_v2", cuda.cuDeviceGetUuid)
        if (
            cuda.cuInit(0)
            == cuda.cuDeviceGet(ctypes.byref(handle), number)
            == known(uuid, handle)
            == 0
        ):
            return uuid.raw.hex()
    except (OSError, AttributeError):
        pass
    return str(number)
