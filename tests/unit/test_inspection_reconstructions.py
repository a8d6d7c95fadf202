"""Reconstructions on a planted encoder that keeps the class, on one that keeps nothing, and on a
method without an encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_core.inspection import reconstructions
from gan_core.inspection.base import Context, NotApplicable
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, Snapshot, build_networks
from tests.packs import write_pack

OPTIONS = reconstructions.Options(images=100, probe_images=300)


class Planted:
    """E(x) is the mean brightness of x, or noise; G paints it, negated where `wrong`."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps

    def feature_inputs(self, role: str, images: Tensor) -> tuple[Tensor, None, None]:
        if self.keeps:
            return images.mean((1, 2, 3))[:, None], None, None
        return (
            torch.rand(len(images), 1, generator=torch.Generator().manual_seed(0)) - 0.5,
            None,
            None,
        )


class Painter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, code: Tensor, labels: Tensor | None = None) -> Tensor:
        return code[:, :, None, None].expand(-1, 3, 32, 32)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark images of class 0 and bright ones of class 1."""
    folder = tmp_path_factory.mktemp("pack")
    labels = np.arange(400) % 2
    noise = np.random.default_rng(0).integers(0, 60, (400, 32, 32, 3), dtype=np.uint8)
    pixels = (noise + 150 * labels[:, None, None, None]).astype(np.uint8)
    return write_pack(folder, pixels, label=labels.tolist())


def context(pack: Path, method: Any, encoder: bool = True) -> Context:
    networks: dict[str, Any] = build_networks({"name": "dcgan32_svhn", "width": 0.125})
    initialise(networks["discriminator"], torch.Generator().manual_seed(1))
    networks["generator"] = Painter()
    if encoder:
        networks["encoder"] = networks["discriminator"]
    return Context(Snapshot(networks, Prior("uniform", 1), method=method), packs=[pack])


def test_a_planted_encoder_keeps_the_class_and_noise_does_not(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Snapshot, "feature_network", lambda self, role: self.networks[role])
    good = reconstructions.inspect(context(pack, Planted(True)), OPTIONS)
    assert good.numbers["original"]["mean"] > 0.98 and good.numbers["reconstruction"]["low"] > 0.9
    assert "They keep the class" in good.sentence and good.numbers["pixel_error"] < 0.6
    poor = reconstructions.inspect(context(pack, Planted(False)), OPTIONS)
    assert "They do not keep the class" in poor.sentence
    assert poor.numbers["pixel_error"] > good.numbers["pixel_error"]


def test_without_an_encoder_it_says_so(pack: Path) -> None:
    with pytest.raises(NotApplicable, match="need an encoder"):
        reconstructions.inspect(context(pack, None, encoder=False), OPTIONS)
