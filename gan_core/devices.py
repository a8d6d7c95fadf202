"""Which processor does the work, found without importing torch, and how many threads it gets."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
from typing import TYPE_CHECKING

from gan_core.errors import RequestError, UnknownName

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")


@functools.cache
def cuda_count() -> int:
    """CUDA devices that the driver reports, 0 without a driver. Asks libcuda itself: importing
    torch takes seconds.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return 0
        return count.value
    except (OSError, AttributeError):
        return 0


def resolve_device(wanted: str) -> str:
    """'cpu' or 'cuda' for a setting of 'auto', 'cpu' or 'cuda' (or 'cuda:1').

    Raises:
        RequestError: another word, with the nearest of these; a GPU was asked for and none is
            there.
    """
    if wanted == "auto":
        return "cuda" if cuda_count() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise UnknownName("device", wanted, DEVICES, remedy="cuda:1 for the second of several GPUs")
    if wanted.startswith("cuda") and not cuda_count():
        raise RequestError(
            f"The device {wanted!r} was asked for, and the driver reports no GPU.",
            expected="a CUDA device, or the device 'auto' or 'cpu'",
            remedy="leave out --device, or run `discern doctor` to see what is found",
        )
    return wanted


def cpu_cores() -> int:
    """Cores that this process may use (its affinity mask, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(count: int) -> None:
    """Gives torch and OpenCV `count` threads in this process. Sums on a CPU depend on it, so it is
    in the keys.
    """
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def use_gpu(device: str, precision: str, *, search: bool = False) -> None:
    """Makes `device` this process's GPU and says what its float32 is; does nothing on a CPU.

    Args:
        precision: 'float32' means float32: torch's own default lets convolutions round to TF32, 10
            bits of mantissa. Under 'bf16', what autocast leaves in float32 may use it.
        search: cuDNN times its convolutions at their first call and keeps the quickest: for many
            passes of one shape.
    """
    if not device.startswith("cuda"):
        return
    import torch

    if ":" in device:
        torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = search


def resolve_processes(wanted: int | str, device: str) -> int:
    """Training processes for a setting of 'auto' or a number: 'auto' is one for each GPU, and one
    on a CPU.
    """
    if wanted == "auto":
        return max(1, cuda_count()) if device == "cuda" else 1
    return int(wanted)


def resolve_compile(wanted: str, device: str) -> str:
    """'off' or 'graphs' for a setting."""
    return wanted if wanted != "auto" else "graphs" if device.startswith("cuda") else "off"


def memory_bytes() -> int:
    """Main memory that this process may fill, in bytes (the smaller of the machine's and its
    control group's).
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            text = file.read().strip()
        if text.isdigit():
            total = min(total, int(text))
    except OSError:
        return total
    return total


@functools.cache
def bf16_units(device: str) -> bool:
    """Whether the processor multiplies bfloat16 in hardware: CUDA devices here always do; a CPU
    says so in its flags.
    """
    if device.startswith("cuda"):
        return True
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def bf16_is_fast(device: str) -> bool:
    """Whether bfloat16 products run in hardware: the processor has the units and oneDNN may use
    them (ONEDNN_MAX_CPU_ISA can mask them).
    """
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return bf16_units(device) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve_precision(wanted: str, device: str) -> str:
    """'float32' or 'bf16' for a setting of 'auto', 'float32' or 'bf16'. Auto: bf16 on CUDA and on
    CPUs with units for it.
    """
    if wanted != "auto":
        return wanted
    return "bf16" if bf16_units(device) else "float32"


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[object]:
    """Convolutions and linear maps in `precision`; weights, norm statistics, losses and optimiser
    stay float32.
    """
    import torch

    kind = "cuda" if device.startswith("cuda") else "cpu"
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16")


def memory_format() -> torch.memory_format:
    """Channels last: the layout in which convolutions of both CPU and GPU were measured to be
    fastest (docs/benchmarks.md).
    """
    import torch

    return torch.channels_last
