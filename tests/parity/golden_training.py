"""Trains small DCGANs on fixed pixels and prints a digest of the weights for each option, as JSON.

Run by test_golden_training.py in a process of its own, with every CPU library limited to AVX2, so
that processors of different kinds can give the same sums. `fingerprint` is the digest of the same
kernels in plain PyTorch code: where it differs from the expected one, this machine sums in another
order, and nothing is trained. Arguments: the expected fingerprints, float32 and bf16; without them
every case is trained.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE: dict[str, Any] = {
    "network": {"name": "dcgan32_svhn", "width": 0.25},
    "batch": 16,
    "kimg": 0.32,
    "log_kimg": 0.16,
    "options": {"mode": "paper"},
}
MODERN: dict[str, Any] = {**BASE, "options": {}, "ema_kimg": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "paper": BASE,
    "paper, flip": {**BASE, "flip": True},
    "modern": MODERN,
    "modern, augment": {
        **MODERN,
        "options": {"augment": ["color", "translation", "cutout"]},
    },
    "modern, r1": {**MODERN, "options": {"r1": 1.0}},
    "modern, spectral norm": {**MODERN, "options": {"spectral_norm": True}},
    "paper, bf16": {**BASE, "precision": "bf16"},
}


def digest(tensors: Iterable[Tensor]) -> str:
    """16 hex digits over the bytes of tensors, in order."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return whole.hexdigest()[:16]


def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth random images: uint8 [128, 32, 32, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (128, 8, 8, 3), np.uint8)
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)


def fingerprint(bf16: bool = False) -> str:
    """The digest of ten steps of a small GAN in plain PyTorch."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(*shape, generator=random) * 0.05)

    down = [normal(16, 3, 5, 5), normal(32, 16, 5, 5), normal(64, 32, 5, 5), normal(1, 1024)]
    up = [normal(1024, 100), normal(64, 32, 5, 5), normal(32, 16, 5, 5), normal(16, 3, 5, 5)]
    for p in [*down[:3], *up[1:]]:
        p.data = p.data.contiguous(memory_format=torch.channels_last)

    def discriminate(x: Tensor) -> Tensor:
        for number, weight in enumerate(down[:3]):
            x = F.conv2d(x, weight, stride=2, padding=2)
            x = F.leaky_relu(F.batch_norm(x, None, None, training=True) if number else x, 0.2)
        return F.linear(x.flatten(1), down[3])

    def generate(z: Tensor) -> Tensor:
        x = F.linear(z, up[0]).view(-1, 64, 4, 4)
        for weight in up[1:]:
            x = torch.relu(F.batch_norm(x, None, None, training=True))
            x = F.conv_transpose2d(x, weight, stride=2, padding=2, output_padding=1)
        return torch.tanh(x)

    optimiser = torch.optim.Adam([*down, *up], lr=2e-4, betas=(0.5, 0.999), fused=True)
    images = torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 127.5 - 1
    for number in range(10):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            fake = generate(torch.randn(16, 100, generator=random))
            real = discriminate(images[number * 8 : number * 8 + 16])
            loss = F.softplus(-real).mean() + F.softplus(discriminate(fake)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return digest([*down, *up])


def trained(options: dict[str, Any]) -> str:
    """The digest of the weights after a training with `options`."""
    from gan_core.config import TrainConfig
    from gan_core.training.context import Context
    from gan_core.training.data import ArrayImages
    from gan_core.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainConfig.model_validate(options)
        precision = settings.precision
        context = Context(settings, Path(folder), 32, seed=3, precision=precision)
        state = train(ArrayImages(pixels()), context).state
    networks = [state.networks["generator"], state.networks["discriminator"]]
    networks += [average.network for average in state.averages.values()]
    return digest(p for network in networks for p in network.parameters())


if __name__ == "__main__":
    torch.set_num_threads(1)
    expected = dict(zip(("float32", "bf16"), sys.argv[1:], strict=False))
    prints = {"float32": fingerprint()}
    same = prints["float32"] == expected.get("float32", prints["float32"])
    # where float32 differs, bf16 does, and a processor without its units emulates it slowly
    prints["bf16"] = fingerprint(bf16=True) if same else "not taken"
    expected = expected or prints
    found = {
        name: trained(case)
        for name, case in CASES.items()
        if prints[kind := case.get("precision", "float32")] == expected[kind]
    }
    print(json.dumps({"fingerprints": prints, "digests": found}))
