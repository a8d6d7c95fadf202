"""Images and tensors: x / 127.5 - 1 and back, nothing lost."""

from __future__ import annotations

import pytest
import torch

from gan_core.vision.tensors import to_float, to_uint8


def test_every_level_comes_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    floats = to_float(levels)
    assert (
        floats.shape == (2, 3, 16, 16) and floats.dtype == torch.float32 and floats.is_contiguous()
    )
    assert floats.min() == -1 and floats.max() == 1
    assert torch.allclose(floats[0, 0].flatten(), torch.arange(256) / 127.5 - 1, atol=1e-7)
    assert torch.equal(to_uint8(floats), levels)


def test_channels_go_to_the_front() -> None:
    image = torch.zeros(1, 4, 5, 3, dtype=torch.uint8)
    image[0, 1, 2] = torch.tensor([10, 20, 30])
    assert (to_float(image)[0, :, 1, 2] + 1).mul(127.5).round().tolist() == [10, 20, 30]


def test_what_lies_outside_is_clipped_and_half_precision_is_taken() -> None:
    outside = torch.tensor([-3.0, -1.001, 0.0, 1.001, 7.0]).reshape(1, 1, 1, 5)
    assert to_uint8(outside).flatten().tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(outside.to(torch.bfloat16)).dtype == torch.uint8
    assert outside.flatten()[0] == -3.0, "the input is left alone"


def test_other_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8"):
        to_float(torch.zeros(1, 2, 2, 3))
    with pytest.raises(TypeError, match="floating"):
        to_uint8(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
