"""Units (maps) of a generator's layer: their activations, and images with some of them changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.inspection.base import Images, NotApplicable, as_images
from gan_core.networks.base import LayeredNetwork

BATCH = 128
FADED, GREY = 0.25, 0.6  # share of an image where a unit is off, and the grey of the rest
Change = Callable[[Tensor, Tensor], Tensor]


class Units:
    """A layer of a generator for given latents.

    A conditional generator gets the classes in turn. Everything is on the CPU but the passes.

    Attributes:
        activations: float [n, units, h, w].
        images: float32 [n, 3, S, S] in [-1, 1].
    """

    def __init__(self, generator: nn.Module, layer: str, latents: Tensor) -> None:
        self.generator, self.layer, self.latents = generator, layer, latents
        self.device = next((p.device for p in generator.parameters()), torch.device("cpu"))
        activations, images = [], []
        for start in range(0, len(latents), BATCH):
            rows = torch.arange(start, min(start + BATCH, len(latents)))
            z, more = self._inputs(rows)
            with torch.no_grad():
                x = generator.run_to(z, layer, **more)  # type: ignore[operator]
                images.append(self.image(x, rows))
            activations.append(x.cpu())
        self.activations, self.images = torch.cat(activations), torch.cat(images)

    def _inputs(self, rows: Tensor) -> tuple[Tensor, dict[str, Any]]:
        z = self.latents[rows].to(self.device)
        classes = getattr(self.generator, "classes", 0)
        return z, {"labels": (rows % classes).to(self.device)} if classes else {}

    def image(self, x: Tensor, rows: Tensor) -> Tensor:
        """The images that activations [k, units, h, w] of the latents `rows` give, on the CPU; the
        gradient flows through.
        """
        z, more = self._inputs(rows)
        if isinstance(self.generator, LayeredNetwork):
            found = self.generator.run_from(x, self.layer, latents=z, **more)
        else:
            found = self.generator.run_from(x, self.layer)  # type: ignore[operator]
        image: Tensor = found.float().cpu()
        return image

    def changed(self, change: Change, rows: Tensor | None = None) -> Tensor:
        """Images once activations are changed: float32 [rows, 3, S, S].

        Args:
            change: activations [k, units, h, w] and their positions in `rows` [k] to activations.
            rows: int64, the latents wanted, which may repeat; None: all in order.
        """
        rows = torch.arange(len(self.latents)) if rows is None else rows
        out = []
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            x = change(self.activations[some], torch.arange(start, start + len(some)))
            with torch.no_grad():
                out.append(self.image(x.to(self.device), some))
        return torch.cat(out)

    def without(self, units: Sequence[int], rows: Tensor | None = None) -> Tensor:
        """Images with some units set to 0 at all places."""

        def change(x: Tensor, _: Tensor) -> Tensor:
            x[:, list(units)] = 0
            return x

        return self.changed(change, rows)

    def norms(self) -> Tensor:
        """Length of the weights that leave each unit: float32 [units]; ones where the layer that
        follows is no convolution.
        """
        weight = outgoing(self.generator, self.layer)
        if weight is None:
            return torch.ones(self.activations.shape[1])
        lengths: Tensor = weight.detach().float().flatten(1).norm(dim=1).cpu()
        return lengths


def outgoing(generator: nn.Module, layer: str) -> Tensor | None:
    """The weights that read each unit of a layer, as a view [units, ...] of the parameter of the
    convolution that follows; None where none does.
    """
    if not isinstance(generator, LayeredNetwork):
        return None
    infos = generator.layers()
    names = [info.name for info in infos]
    place = names.index(layer)
    units = infos[place].shape[0]
    for module in generator.layer(names[place + 1]).modules() if names[place + 1 :] else ():
        if isinstance(module, nn.ConvTranspose2d) and module.in_channels == units:
            return module.weight
        if isinstance(module, nn.Conv2d) and module.in_channels == units:
            return module.weight.transpose(0, 1)
    return None


def layers_of_maps(generator: LayeredNetwork) -> list[str]:
    """Names of the hidden layers of maps after the projection, in order; NotApplicable where there
    is none.
    """
    found = [info.name for info in generator.layers() if info.kind == "deconv"]
    if not found:
        raise NotApplicable("This generator has no convolutional layer whose units can be changed.")
    return found


def choose_layer(generator: LayeredNetwork, wanted: str, default: int) -> str:
    """The wanted layer, else the one at `default` among those of maps.

    Raises: UnknownName: there is no such layer.
    """
    name = wanted or layers_of_maps(generator)[default]
    generator.layer(name)
    return name


def random_sets(
    units: int, without: Sequence[int], size: int, count: int, random: Any
) -> list[list[int]]:
    """`count` random sets of `size` units that are not in `without`; smaller where few are left."""
    left = [unit for unit in range(units) if unit not in set(without)]
    return [random.permutation(left)[:size].tolist() for _ in range(count)]


def before_and_after(study: Units, chosen: Sequence[Sequence[int]]) -> Images:
    """A row of samples, then a row for each set of units with these ablated."""
    return np.concatenate(
        [as_images(study.images), *(as_images(study.without(units)) for units in chosen)]
    )


def highlighted(images: Tensor, maps: Tensor) -> Images:
    """Images under a unit's map, a row for each unit: uint8 [units * n, S, S, 3].

    A place is as it is where the unit is above the 98th percentile of these maps, and fades to
    light grey where it is off, so that dark photographs show as much as bright ones.

    Args: images: [n, 3, S, S]. maps: activations of the units [n, units, h, w].
    """
    size = list(images.shape[2:])
    large = F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
    flat = large.transpose(0, 1).flatten(1)
    most = torch.quantile(flat, 0.98, dim=1).clamp(min=1e-6)
    part = FADED + (1 - FADED) * (large / most[:, None, None]).clamp(0, 1)
    mixed = [images * share + GREY * (1 - share) for share in torch.split(part, 1, dim=1)]
    return np.concatenate([as_images(one) for one in mixed])
