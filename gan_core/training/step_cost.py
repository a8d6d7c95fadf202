"""What one training step costs: floating-point operations of a real step, counted by torch on
tensors without storage.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from gan_core.config import TrainConfig
from gan_core.methods.base import Base, Batch, Update
from gan_core.methods.optimisers import Optimiser
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.make import Make
from gan_core.networks.snapshot import load_method
from gan_core.training.trainer_state import network_spec

COUNT = 4  # images in the counted minibatch


@dataclass(frozen=True)
class StepCost:
    """Attributes: gflop_per_image: of training, per real image that kimg counts. networks: by role,
    on the meta device, bound to `method`.
    """

    gflop_per_image: float
    networks: dict[str, LayeredNetwork]
    method: Base

    def parameters(self, role: str) -> int:
        """Weights of a role's network."""
        return sum(p.numel() for p in self.networks[role].parameters())


class _NoModules:
    """Stands in for the tracker of modules, which cannot follow gradients of gradients (R1)."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _counter() -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


def step_cost(settings: TrainConfig, classes: int = 10) -> StepCost:
    """Counts the minibatches of one period. Args: classes: of the training set, where labels are
    used.
    """
    with torch.device("meta"):
        method: Base = load_method(settings.method, settings.options)
        make = Make(network_spec(settings, classes))
        networks = method.networks(make)
        optimisers = {
            name: Optimiser([networks[role] for role in rule.roles], rule, settings)
            for name, rule in method.optimised.items()
        }
        method.bind(networks, optimisers)
        shape = next(
            n.input_shape for n in networks.values() if n.input_shape != (make.latent_dim,)
        )
        flops, shown = 0, 0
        for index in range(max(1, method.period)):
            batch = Batch(
                index,
                torch.empty(COUNT, *shape),
                torch.zeros(COUNT, dtype=torch.int64),
                lambda: torch.empty(COUNT, make.latent_dim),
                None,
                classes=classes,
            )
            with _counter() as counter:
                for given in method.updates(batch):
                    for update in [given] if isinstance(given, Update) else given:
                        update.loss.backward()  # type: ignore[no-untyped-call]
                        shown += update.real
            flops += counter.get_total_flops()
    return StepCost(flops / max(shown, 1) / 1e9, networks, method)
