"""Segmenters: which class each pixel of an image shows.

palette      the nearest colour of a palette
unet         a small U-Net fitted on the masks of the training set
module:Name  a network of the user's, or one of torchvision, with its weights
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.config import SegmenterConfig
from gan_core.errors import RequestError
from gan_core.features.external.weights import build_module, read_weights
from gan_core.inspection.base import Context, NotApplicable, as_float
from gan_core.randomness import torch_stream
from gan_core.shards import NO_MASK

VOID = NO_MASK
WIDTHS = (12, 24, 48)  # channels of the U-Net, about 0.1 M weights
SOFTNESS = 0.1  # colour distance, of a range of 2, by which a class falls to 1/e of another
BATCH, RATE = 32, 3e-3
HELD_OUT = 5  # the last of so many parts of the images is held out
PRETRAINED_SIZE = 64  # pixels below which torchvision's networks see nothing
# torchvision.transforms.Normalize of its pretrained networks
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Segmenter:
    """Images float [n, 3, S, S] in [-1, 1] to classes int64 [n, S, S]; names of the classes.

    Attributes:
        soft: the same as shares of each class, float [n, classes, S, S], for gradients.
        iou: of a fitted segmenter, intersection over union by class on held-out images; None for a
            class that these do not show.
    """

    segment: Callable[[Tensor], Tensor]
    classes: Sequence[str]
    soft: Callable[[Tensor], Tensor]
    iou: Mapping[str, float | None] = field(default_factory=dict)

    def __call__(self, images: Tensor) -> Tensor:
        return self.segment(images)

    def after(self, change: Callable[[Tensor], Tensor]) -> Segmenter:
        """The same on images that were changed before."""
        return replace(
            self,
            segment=lambda images: self.segment(change(images)),
            soft=lambda images: self.soft(change(images)),
        )


def of_context(context: Context, config: SegmenterConfig) -> Segmenter:
    """The segmenter of the options, for images with the contrast of training images.

    Raises: NotApplicable: none is given, or it cannot be used here. RequestError: a wrong network.
    """
    if config.palette:
        return by_colour(config.palette)
    if config.network == "unet":
        return fitted(context, config)
    if config.network:
        return by_network(config, context.device)
    raise NotApplicable(
        "A segmenter is needed: give segmenter.palette, segmenter.network: unet (with masks), or "
        "segmenter.network: my_module:Segmenter."
    )


def by_colour(palette: Mapping[str, Sequence[int]]) -> Segmenter:
    """Each pixel's class is that of the nearest colour. Args: palette: class to RGB, 0 to 255."""
    colours = torch.tensor([list(colour) for colour in palette.values()]) / 127.5 - 1

    def distances(images: Tensor) -> Tensor:
        places = images.permute(0, 2, 3, 1).flatten(0, 2)
        found = torch.cdist(places, colours.to(places))
        return found.view(len(images), *images.shape[2:], -1).permute(0, 3, 1, 2)

    return Segmenter(
        lambda images: distances(images).argmin(1),
        list(palette),
        lambda images: (-distances(images) / SOFTNESS).softmax(1),
    )


def by_network(config: SegmenterConfig, device: str = "cpu") -> Segmenter:
    """The network that the options name, with its weights.

    It gives logits [n, classes, S, S], classes [n, S, S], or a mapping with either under 'out'. A
    network of torchvision sees images normalised as its pretrained weights expect.
    """
    if ":" not in config.network:
        raise RequestError(
            f"segmenter.network is {config.network!r}.",
            expected="unet, or my_module:Segmenter as one would import it",
        )
    network = build_module(config.network)
    if config.weights:
        try:
            network.load_state_dict(read_weights(Path(config.weights).expanduser()))
        except RuntimeError as error:
            raise RequestError(
                f"The weights in {config.weights} do not fit {config.network}: {error}"
            ) from error
    classes = list(config.classes or getattr(network, "classes", []))
    if not classes:
        raise RequestError(
            f"The classes of {config.network} have no names.",
            expected="segmenter.classes: [background, person, ...], or an attribute `classes`",
        )
    network.to(device).eval().requires_grad_(False)
    pretrained = config.network.startswith("torchvision.")

    def segment(images: Tensor) -> Tensor:
        if pretrained and images.shape[-1] < PRETRAINED_SIZE:
            raise NotApplicable(
                f"The images have {images.shape[-1]} pixels a side. Networks of torchvision "
                "learned on photographs of several hundred and see no classes below "
                f"{PRETRAINED_SIZE}."
            )
        out = _by_batches(network, _normalised(images) if pretrained else images, device)
        if out.shape[-2:] != images.shape[-2:]:
            raise RequestError(
                f"{config.network} gives {tuple(out.shape[1:])} for images of "
                f"{tuple(images.shape[1:])}.",
                expected="logits [n, classes, S, S] or classes [n, S, S]",
            )
        return out

    def soft(images: Tensor) -> Tensor:
        out = _raw(network, _normalised(images) if pretrained else images, device)
        if out.dim() == 4:
            return out.softmax(1)
        return F.one_hot(out.long(), len(classes)).permute(0, 3, 1, 2).float()

    return Segmenter(segment, classes, soft)


def _normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1).to(images) for values in (MEAN, STD))
    return ((images + 1) / 2 - mean) / std


@torch.no_grad()
def _by_batches(network: nn.Module, images: Tensor, device: str) -> Tensor:
    found = []
    for some in torch.split(images, 64):
        out = _raw(network, some, device)
        found.append((out.argmax(1) if out.dim() == 4 else out).long())
    return torch.cat(found)


def _raw(network: nn.Module, images: Tensor, device: str) -> Tensor:
    out: Any = network(images.to(device))
    found: Tensor = out["out"] if isinstance(out, Mapping) else out
    return found.cpu()


class UNet(nn.Module):
    """Images [n, 3, S, S] to logits [n, classes, S, S]; S a multiple of 4."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.down1, self.down2, self.bottom = _double(3, a), _double(a, b), _double(b, c)
        self.up2, self.up1 = _double(c + b, b), _double(b + a, a)
        self.head = nn.Conv2d(a, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.up2(torch.cat([F.interpolate(x, scale_factor=2), second], 1))
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=2), first], 1))
        logits: Tensor = self.head(x)
        return logits


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def fitted(context: Context, config: SegmenterConfig) -> Segmenter:
    """A U-Net fitted on the masks of the training set; the last fifth of its images (in the order
    of the source, where neighbours may be frames of one film) is held out and measured.
    """
    masks = context.training_masks
    classes = config.classes or [f"class {n}" for n in np.unique(masks[masks < VOID]).tolist()]
    table = context.training_set.table
    order = sorted(
        range(len(masks)),
        key=lambda row: tuple(_natural(table[name][row].as_py()) for name in ("address", "member")),
    )
    images = as_float(context.training_set.pixels())
    labels = torch.from_numpy(masks.astype(np.int64))
    labels[labels >= len(classes)] = VOID
    ids = table["image_id"].to_pylist()
    last = {ids[row] for row in order[len(order) - len(order) // HELD_OUT :]}
    held = torch.tensor([identity in last for identity in ids])
    network = fit_unet(images[~held], labels[~held], len(classes), config.steps, context.seed)
    own = Segmenter(
        lambda some: _by_batches(network, some, "cpu"),
        classes,
        lambda some: network(some).softmax(1),
    )
    found = own(images[held])
    measured = iou_of(found, labels[held], len(classes))
    return replace(own, iou=dict(zip(classes, measured, strict=True)))


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdigit() else (-1, text)


def fit_unet(images: Tensor, labels: Tensor, classes: int, steps: int, seed: int) -> UNet:
    """A U-Net fitted by cross entropy on mirrored images of random brightness and contrast.

    Args: images: float [n, 3, S, S]. labels: int64 [n, S, S], VOID where there is no class.
    """
    random = torch_stream(seed, "segmenter", "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=random)))
        network = UNet(classes)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=random)
        x, y = images[rows], labels[rows]
        if bool(torch.rand((), generator=random) < 0.5):
            x, y = x.flip(-1), y.flip(-1)
        contrast = 0.6 + 0.8 * torch.rand(BATCH, 1, 1, 1, generator=random)
        brightness = 0.4 * (torch.rand(BATCH, 1, 1, 1, generator=random) - 0.5)
        loss = F.cross_entropy(network(x * contrast + brightness), y, ignore_index=VOID)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def iou_of(found: Tensor, truth: Tensor, classes: int) -> list[float | None]:
    """Intersection over union of each class, over pixels that have a class; None where neither
    shows it.
    """
    there = truth < classes
    pairs = (truth[there] * classes + found[there]).bincount(minlength=classes * classes)
    table: npt.NDArray[np.float64] = pairs.view(classes, classes).double().numpy()
    both = np.diag(table)
    either = table.sum(0) + table.sum(1) - both
    return [round(float(b / e), 4) if e else None for b, e in zip(both, either, strict=True)]
