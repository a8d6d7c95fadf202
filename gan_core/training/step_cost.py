"""What one training step costs: floating-point operations of a real step, counted by torch, for
large images on tensors without storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gan_core.config import TrainConfig
from gan_core.methods.base import Base, Batch, Update
from gan_core.methods.optimisers import Optimiser
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.make import Make
from gan_core.networks.snapshot import load_method
from gan_core.training.trainer_state import network_spec

COUNT = 4  # images in the counted minibatch
# Image size and number of weights up to which the step is computed. That takes less than the import
# of torch's compiler, which its operations on tensors without storage need: four seconds of a slow
# processor.
COMPUTED, COMPUTED_WEIGHTS = 32, 2**25


@dataclass(frozen=True)
class StepCost:
    """Attributes: gflop_per_image: of training, per real image that kimg counts. networks: by role,
    bound to `method`.
    """

    gflop_per_image: float
    networks: dict[str, LayeredNetwork]
    method: Base

    def parameters(self, role: str) -> int:
        """Weights of a role's network."""
        return sum(p.numel() for p in self.networks[role].parameters())


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas for the operations inside. `FlopCounterMode` makes the same sum,
    but cannot follow gradients of gradients (R1), and imports torch's compiler.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports the compiler to keep it out of this class

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **given, out_val=out)
        return out


def step_cost(settings: TrainConfig, classes: int = 10) -> StepCost:
    """Counts the minibatches of one period. Args: classes: of the training set, where labels are
    used.
    """
    make = Make(network_spec(settings, classes))
    method: Base = load_method(settings.method, settings.options)
    with torch.device("meta"):
        networks = method.networks(make)
    weights = sum(p.numel() for network in networks.values() for p in network.parameters())
    computed = make.image_size <= COMPUTED and weights <= COMPUTED_WEIGHTS
    with torch.device("cpu" if computed else "meta"), torch.random.fork_rng(devices=[]):
        if computed:
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
            with _Counter() as counter:
                for given in method.updates(batch):
                    for update in [given] if isinstance(given, Update) else given:
                        update.loss.backward()  # type: ignore[no-untyped-call]
                        shown += update.real
            flops += counter.flops
    return StepCost(flops / max(shown, 1) / 1e9, networks, method)
