"""The one place where images become tensors and tensors become images.

On disk images are uint8 NHWC, in networks float32 NCHW in [-1, 1]: x / 127.5 - 1, as the DCGAN
authors (Newmu/dcgan_code, lib/data_utils.py).
"""

from __future__ import annotations

import torch


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, h, w, c] in 0..255 to float32 [n, c, h, w] in [-1, 1], contiguous, on the same
    device.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f"expected uint8 [n, h, w, c], got {images.dtype} {tuple(images.shape)}")
    return images.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Floating-point [n, c, h, w] in [-1, 1] to uint8 [n, h, w, c], rounded to the nearest level;
    what lies outside is clipped.
    """
    if not images.is_floating_point() or images.ndim != 4:
        raise TypeError(
            f"expected floating point [n, c, h, w], got {images.dtype} {tuple(images.shape)}"
        )
    levels = images.detach().to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
