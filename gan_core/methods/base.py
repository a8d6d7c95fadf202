"""What a training method is to the trainer: networks by role, optimisers, updates per minibatch.

A method file (`gan_core/methods/<name>.py`) has at its top level ABOUT (one line), VERSION,
USES_LABELS (whether it trains on labels), FEATURES (roles that give features, the first is
the default), optional STARTS_FROM (roles whose weights come from another training's snapshot,
`train.start`), an optional `class Options(Section)`, and `class Method(Base)`. A method knows
nothing of the loop, the disk or Prefect; the loop knows no method by name. docs/methods.md,
"Writing a method", has a commented example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.augment import augment
from gan_core.methods.optimisers import Optimiser, Rule
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import sum_over_processes

if TYPE_CHECKING:
    from gan_core.networks.make import Make

Inputs = tuple[Tensor, Tensor | None, Tensor | None]  # (x, labels, latents) of `network.forward`


@dataclass(frozen=True)
class Batch:
    """One minibatch of real images and the randomness that goes with it.

    Attributes:
        index: minibatches before this one (modulo `period` where CUDA graphs replay steps).
        images: [n, 3, S, S] float32 in [-1, 1]; points [n, 2] for 2-D networks.
        labels: [n] int64, or None.
        latents: gives fresh latents [n, dim] at each call.
        random: stream for anything else, on the images' device, in the same state in every
            process: draw for the whole batch, keep this process's `share`. None: torch's own.
        share: (rank, processes): the images are every `processes`-th of the whole batch's.
        classes: number of classes in the training set; 0 without labels.
    """

    index: int
    images: Tensor
    labels: Tensor | None
    latents: Callable[[], Tensor]
    random: torch.Generator | None
    share: tuple[int, int] = (0, 1)
    classes: int = 0

    def draw_labels(self) -> Tensor:
        """Labels for generated images, uniform over the classes: int64 [n]."""
        rank, processes = self.share
        whole = torch.randint(
            self.classes,
            (len(self.images) * processes,),
            generator=self.random,
            device=self.images.device,
        )
        return whole[rank::processes]

    def augment(self, images: Tensor, kinds: Sequence[str]) -> Tensor:
        """A view of images [n, C, S, S]: each changed at random by `augment.augment`."""
        if not kinds:
            return images
        return augment(images.float(), kinds, self.random, self.share)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over all processes, without gradient."""
        values = values.detach()
        if self.share[1] == 1:
            return values
        return sum_over_processes(values) / self.share[1]

    def gather(self, values: Tensor) -> Tensor:
        """Rows [n, ...] of all processes in the order of the whole batch; the gradient flows back.

        A loss of gathered rows is the same in every process, and its gradient is that of one
        process with the whole batch.
        """
        rank, processes = self.share
        if processes == 1:
            return values
        own = values.new_zeros(processes, *values.shape)
        own = own.index_copy(0, torch.tensor([rank], device=values.device), values[None])
        return sum_over_processes(own).transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True)
class Update:
    """One step of one optimiser: the loop takes the gradient of `loss` and moves the weights.

    Attributes:
        name: which optimiser, a key of `Method.optimised`.
        loss: scalar float32.
        real: real images that the discriminator was shown for it: what kimg counts.
        figures: scalars worth logging, detached; averaged over a logging interval. A method whose
            score is a probability of realness logs `score_real` and `score_fake` (0 to 1), which
            the divergence monitor reads.
    """

    name: str
    loss: Tensor
    real: int = 0
    figures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Chart:
    """A chart of statistics for the report.

    Attributes:
        title: with the unit.
        prefix: how the names of its statistics begin; the rest of a name is that of its line.
        kind: 'lines' over kimg, or 'bars' of the last values.
    """

    title: str
    prefix: str
    kind: Literal["lines", "bars"] = "lines"


class Base:
    """Defaults of every method, a generator and a discriminator: derive `Method` from it, and give
    `updates`, and what else is not as here.

    Attributes:
        averaged: roles with an exponential moving average of the weights (`train.ema_kimg`).
        scratch: roles that no snapshot holds.
        period: minibatches after which the kinds of updates repeat, so that CUDA graphs can hold
            them; 0: never. What `updates` does may depend on `batch.index % period` and on
            tensors, on nothing else that changes.
        optimised: name of an optimiser to its rule.
        charts: of what `updates` and `diagnostics` log, in addition to losses and scores.
        captions: of the further image grids, by name.
    """

    averaged: tuple[str, ...] = ("generator",)
    scratch: tuple[str, ...] = ()
    period: int = 1
    optimised: Mapping[str, Rule] = {
        "discriminator": Rule(("discriminator",)),
        "generator": Rule(("generator",)),
    }
    charts: tuple[Chart, ...] = ()
    captions: Mapping[str, str] = {}

    def __init__(self, options: Any = None) -> None:
        """Args: options: the file's `Options`."""
        self.options = Section() if options is None else options
        self.nets: dict[str, LayeredNetwork] = {}
        self.optimisers: Mapping[str, Optimiser] = {}

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        """Fresh networks by role; the trainer initialises them. Called again to load a snapshot."""
        return {"generator": make.generator(), "discriminator": make.discriminator()}

    def bind(
        self, networks: Mapping[str, LayeredNetwork], optimisers: Mapping[str, Optimiser]
    ) -> None:
        """Called once with the networks on their device and the optimisers (none in a snapshot)."""
        self.nets, self.optimisers = dict(networks), optimisers

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """The updates that this minibatch feeds, in order; code after a `yield` sees moved weights.

        A list is one simultaneous step: all backward passes, then all optimisers.
        """
        raise NotImplementedError

    def calibration(
        self, role: str, images: Tensor, latents: Tensor, labels: Tensor | None
    ) -> Inputs:
        """Inputs over which the batch norms of a role's network are measured for a snapshot.

        Args:
            images: real training images [n, ...]; latents: [n, dim] from the prior.
            labels: of the images; for a generator the classes in turn.
        """
        labels = labels if self.nets[role].classes else None
        return (latents if role == "generator" else images), labels, None

    def feature_inputs(self, role: str, images: Tensor) -> Inputs:
        """Inputs of a role's network for features of images; generators are run at E(x)."""
        if role == "generator":
            return self.nets["encoder"](images), None, None
        return self.calibration(role, images, images, None)

    def realness(self, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """How real images look to the discriminator, [n] logits; None: the method has no such
        score.
        """
        x, y, z = self.calibration("discriminator", images, images, labels)
        scores: Tensor = self.nets["discriminator"](x, y, z)
        return scores[:, 0]

    def grids(self, images: Tensor, latents: Tensor) -> dict[str, Tensor]:
        """Image grids in addition to the samples, by name: [n, C, S, S] in [-1, 1]."""
        return {}

    def diagnostics(
        self, images: Tensor, latents: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Further figures for each line of statistics, scalars.

        Called on copies of the networks, without gradient; batch norms take the statistics of what
        they are given.

        Args:
            images: real ones [n, C, S, S]. latents: [m, dim].
            labels: int64 [m] for a conditional generator, the classes in turn, else None.
        """
        return {}

    def clusters(self, images: Tensor) -> Tensor | None:
        """Scores [n, K] of the clusters that the method sorts real images into; None: it does not
        cluster.
        """
        return None

    def state(self) -> dict[str, Tensor]:
        """What resuming needs beyond networks and optimisers."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave."""


class WithEncoder(Base):
    """Defaults of a method with an encoder: reconstructions G(E(x)) and how good they are."""

    charts = (
        Chart("Reconstruction error; 1: as far as another image", "reconstruction_"),
        Chart("Deviation of E(x) per dimension; 1: the prior's", "code_deviation_"),
    )
    captions = {"reconstructions": "Real images, each row above its reconstructions"}

    def grids(self, images: Tensor, latents: Tensor) -> dict[str, Tensor]:
        """Rows of real images, each above its reconstructions G(E(x))."""
        code, _, _ = self.feature_inputs("generator", images)
        return {"reconstructions": pairs(images, self.nets["generator"](code))}

    def diagnostics(
        self, images: Tensor, latents: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Distance of G(E(x)) from x over that of another image from x, in pixels and in the
        discriminator's last hidden layer; least, mean and largest deviation of E(x) over the
        prior's. A collapsed dimension of the code has a deviation near 0.
        """
        code, _, _ = self.feature_inputs("generator", images)
        rebuilt = self.nets["generator"](code)
        found = {"reconstruction_pixels": relative_distance(rebuilt, images)}
        if "discriminator" in self.nets:
            network = self.nets["discriminator"]
            last = [info.name for info in network.layers()][-2:][0]
            seen = []
            for shown in (rebuilt, images):
                x, y, z = self.feature_inputs("discriminator", shown)
                seen.append(network.run_to(x, last, y, z))
            found["reconstruction_features"] = relative_distance(*seen)
        spread = code.float().std(0) / latents.std()
        values = {"least": spread.min(), "mean": spread.mean(), "largest": spread.max()}
        return found | {f"code_deviation_{name}": value for name, value in values.items()}


def relative_distance(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Mean distance of each row from its original, over the originals' mean distance from one
    another.
    """
    a, b = rebuilt.float().flatten(1), images.float().flatten(1)
    error: Tensor = (a - b).norm(dim=1).mean()
    others: Tensor = (b - b.roll(1, 0)).norm(dim=1).mean()
    return error / others.clamp_min(1e-12)


def pairs(above: Tensor, below: Tensor, columns: int = 8) -> Tensor:
    """Rows of images, each row of `above` followed by its row of `below`: for grids."""
    count = len(above) // columns * columns
    if not count:
        return torch.cat([above, below])
    shape = (-1, columns, *above.shape[1:])
    rows = torch.stack([above[:count].reshape(shape), below[:count].reshape(shape)], 1)
    return rows.flatten(0, 2)
