"""Segmenters: the U-Net on scenes with exact masks, networks of the user's, and their refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_core.config import SegmenterConfig
from gan_core.datasets.scenes import PALETTE, render
from gan_core.errors import DiscernError
from gan_core.inspection import segmenters
from gan_core.inspection.base import Context, NotApplicable, as_float
from gan_core.inspection.segmenters import (
    VOID,
    by_colour,
    by_network,
    fit_unet,
    iou_of,
    of_context,
)
from gan_core.networks.snapshot import Prior, Snapshot


def scenes(first: int, count: int) -> tuple[Tensor, Tensor]:
    found = [render(number, 0) for number in range(first, first + count)]
    images = as_float(np.stack([image for image, _ in found]))
    return images, torch.from_numpy(np.stack([mask for _, mask in found]).astype(np.int64))


def test_a_unet_learns_the_masks_and_void_counts_for_nothing() -> None:
    images, labels = scenes(0, 100)
    labels[:20, :5] = VOID
    network = fit_unet(images, labels, 5, 80, 0)
    held, truth = scenes(150, 20)
    iou = iou_of(network(held).argmax(1), truth, 5)
    assert min(value for value in iou if value is not None) > 0.4
    exact = by_colour(PALETTE)(held)
    assert (exact == truth).float().mean() > 0.999


def test_iou_is_intersection_over_union() -> None:
    found, truth = torch.tensor([[0, 0, 1, 1, 1]]), torch.tensor([[0, 1, 1, VOID, 1]])
    assert iou_of(found, truth, 3) == [0.5, round(2 / 3, 4), None]


class Half(nn.Module):
    """Class 1 where the mean of the channels is above a learned level."""

    classes = ("dark", "bright")

    def __init__(self, mapping: bool = False, small: bool = False) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(1))
        self.mapping, self.small = mapping, small

    def forward(self, x: Tensor) -> object:
        logits = torch.stack([x.mean(1) * 0 + self.level, x.mean(1)], 1)
        logits = logits[..., ::2] if self.small else logits
        return {"out": logits} if self.mapping else logits


def test_a_network_of_the_users_with_weights(tmp_path: Path) -> None:
    name = f"{__name__}:Half"
    torch.save({"level": torch.tensor([0.5])}, tmp_path / "level.pt")
    images = torch.full((2, 3, 8, 8), 0.2)
    assert (by_network(SegmenterConfig(network=name))(images) == 1).all()
    weights = SegmenterConfig(network=f"{name}(mapping=True)", weights=str(tmp_path / "level.pt"))
    found = by_network(weights)
    assert (found(images) == 0).all() and list(found.classes) == ["dark", "bright"]
    for wrong, words in (
        ({"network": "unett"}, "expected"),
        ({"network": f"{name}(small=True)"}, "classes, S, S"),
        ({"network": f"{__name__}:Halff"}, "Half"),
        ({"network": "torch.nn:Identity"}, "no names"),
    ):
        with pytest.raises(DiscernError) as error:
            by_network(SegmenterConfig(**wrong))(images)
        assert words in error.value.explain()


def test_pretrained_networks_are_refused_on_small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenters, "build_module", lambda _: Half())
    found = by_network(SegmenterConfig(network="torchvision.models.segmentation:lraspp"))
    with pytest.raises(NotApplicable, match="below 64"):
        found(torch.zeros(1, 3, 32, 32))
    white = found(torch.ones(1, 3, 64, 64))  # normalised: above 0
    assert (white == 1).all()


def test_without_masks_or_options_there_is_no_segmenter() -> None:
    context = Context(Snapshot({}, Prior()))
    with pytest.raises(NotApplicable, match=r"give segmenter\.palette"):
        of_context(context, SegmenterConfig())
    with pytest.raises(NotApplicable, match="no training set"):
        of_context(context, SegmenterConfig(network="unet"))
