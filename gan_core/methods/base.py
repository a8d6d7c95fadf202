"""What a training method is to the loop: networks by role, optimisers, and for each minibatch a
sequence of updates.

A method file (`gan_core/methods/<name>.py`) offers ABOUT, ROLES (the networks it trains),
USES_LABELS, and `Method(settings, networks)` with `optimised` (optimiser to the roles whose weights
it moves) and `updates(batch)`. A method knows nothing of the loop, the disk or Prefect; the loop
knows no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gan_core.config import TrainConfig
from gan_core.networks.base import LayeredNetwork


@dataclass(frozen=True)
class Batch:
    """One minibatch of real images and the randomness that goes with it.

    Attributes:
        index: minibatches before this one, from the start of the training.
        images: [n, 3, S, S] float32 in [-1, 1].
        labels: [n] int64, or None.
        latents: gives fresh latents [n, dim] at each call.
        random: stream for anything else, on the images' device, in the same state in every process:
            what is drawn per image is drawn for the whole batch, of which this process takes its
            `share`.
        share: (rank, processes): the images are every `processes`-th of the whole batch's, from
            `rank` on.
    """

    index: int
    images: Tensor
    labels: Tensor | None
    latents: Callable[[], Tensor]
    random: torch.Generator
    share: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Update:
    """One step of one optimiser: the loop takes the gradient of `loss`, moves the weights, and asks
    for the next update.

    Attributes:
        name: which optimiser, a key of `Method.optimised`.
        loss: scalar float32.
        real: real images that the discriminator was shown for it: what kimg counts.
        figures: scalars worth logging, detached; averaged over a logging interval.
    """

    name: str
    loss: Tensor
    real: int = 0
    figures: Mapping[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """A method bound to its networks.

    It may also have `period`, an int: `updates` depends on the minibatch's index only by the
    remainder on division by it, and on nothing else that changes from minibatch to minibatch
    outside of tensors. Then CUDA graphs can hold its steps.
    """

    optimised: Mapping[str, tuple[str, ...]]

    def updates(self, batch: Batch) -> Iterator[Update]:
        """The updates that this minibatch feeds, in order; code after a `yield` sees the moved
        weights.
        """
        ...


class MethodModule(Protocol):
    """A method file."""

    ABOUT: str
    ROLES: tuple[str, ...]
    USES_LABELS: bool

    def Method(self, settings: TrainConfig, networks: Mapping[str, LayeredNetwork]) -> Method: ...
