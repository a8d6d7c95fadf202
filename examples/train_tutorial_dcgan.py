"""Trains the tutorial's DCGAN on scikit-learn's handwritten digits for a minute: `python
examples/train_tutorial_dcgan.py FOLDER`.

Writes FOLDER/digits/<digit>/<number>.png (1,797 images of 64 x 64) and FOLDER/netD.pth, the
discriminator's state dict. Then, in examples/:

    discern run --network tutorial_dcgan:Discriminator --network-args ngpu=1 --weights
    FOLDER/netD.pth --data FOLDER/digits
"""

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from tutorial_dcgan import Discriminator, Generator, nz

BATCH = 32


def write_digits(folder: Path) -> np.ndarray:
    """The digits as PNG files in a folder for each class. Returns: uint8 [1797, 64, 64]."""
    digits = load_digits()
    levels = (digits.images * 15.9375).astype(np.uint8)  # 0 to 16 becomes 0 to 255
    pixels = np.stack(
        [cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR) for image in levels]
    )
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    return pixels


def draw_weights(module: nn.Module) -> None:
    """Weights from N(0, 0.02), gains from N(1, 0.02), as in the DCGAN paper."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def train(pixels: np.ndarray, updates: int) -> Discriminator:
    """Both networks get `updates` updates, real and generated images in separate batches."""
    torch.manual_seed(999)
    real = torch.from_numpy(pixels)[:, None].expand(-1, 3, -1, -1)
    generator, discriminator = (
        Generator(1).apply(draw_weights),
        Discriminator(1).apply(draw_weights),
    )
    optimisers = [
        torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for net in (discriminator, generator)
    ]
    loss = nn.BCELoss()
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)
    for update in range(updates):
        batch = real[torch.randint(len(real), (BATCH,))].float() / 127.5 - 1
        made = generator(torch.randn(BATCH, nz, 1, 1))
        discriminator.zero_grad()
        d_loss = loss(discriminator(batch).view(-1), ones) + loss(
            discriminator(made.detach()).view(-1), zeros
        )
        d_loss.backward()
        optimisers[0].step()
        generator.zero_grad()
        g_loss = loss(discriminator(made).view(-1), ones)
        g_loss.backward()
        optimisers[1].step()
        if update % 10 == 9:
            print(
                f"{update + 1} of {updates} updates: loss of D {d_loss.item():.3f}, of G "
                f"{g_loss.item():.3f}",
                flush=True,
            )
    return discriminator


def main(folder: Path, updates: int = 30) -> None:
    """Everything. Args: updates: of each network; 30 take a minute on two cores."""
    started = time.perf_counter()
    discriminator = train(write_digits(folder / "digits"), updates)
    torch.save(discriminator.state_dict(), folder / "netD.pth")
    print(f"{folder / 'netD.pth'} after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(value) for value in sys.argv[2:3]))
