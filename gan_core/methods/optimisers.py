"""torch's optimisers by a method's rules: fused, capturable, with the rate as a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gan_core.config import TrainConfig


@dataclass(frozen=True)
class Rule:
    """How one optimiser moves the weights of some roles. None: what the recipe says.

    Attributes:
        roles: networks whose weights it moves.
        rate: factor on `train.learning_rate`.
        schedule: further factor on the rate, a function of kimg.
        kind: 'adam', or 'sgd' with `momentum`.
    """

    roles: tuple[str, ...]
    rate: float = 1.0
    beta1: float | None = None
    beta2: float | None = None
    eps: float = 1e-8
    weight_decay: float | None = None
    kind: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    schedule: Callable[[float], float] | None = None


class Optimiser:
    """Moves the weights of a rule's roles.

    Weight decay is added to the gradient before the moments, as the DCGAN authors do
    (lib/updates.py); their decay of beta1 by 1 - 1e-8 a step is left out: over a million steps it
    changes beta1 by one per cent. The state is made at once, in the weights' memory layout, so that
    CUDA graphs can hold it and populations can copy it.

    Attributes:
        parameters: the weights it moves, all on one device.
        base_rate: without schedules; rate: the learning rate, a tensor of no dimensions: changing
            it reaches captured steps, too.
    """

    def __init__(self, networks: Sequence[nn.Module], rule: Rule, settings: TrainConfig) -> None:
        self.rule = rule
        self.parameters = [p for network in networks for p in network.parameters()]
        self._buffers = [b for network in networks for b in network.buffers()]
        device = self.parameters[0].device
        # a fused CPU step reads the rate in float64, one on a GPU in float32
        wide = torch.float64 if device.type == "cpu" else torch.float32
        self.base_rate = settings.learning_rate * rule.rate
        self.rate = torch.tensor(self.base_rate, dtype=wide, device=device)
        real = device.type != "meta"  # where only costs are counted, nothing has a value
        rate = self.rate if real else self.base_rate
        decay = settings.weight_decay if rule.weight_decay is None else rule.weight_decay
        self._optimiser: torch.optim.Optimizer
        self.names: tuple[str, ...]
        if rule.kind == "adam":
            betas = (
                settings.beta1 if rule.beta1 is None else rule.beta1,
                settings.beta2 if rule.beta2 is None else rule.beta2,
            )
            self._optimiser = torch.optim.Adam(
                self.parameters,
                lr=rate,
                betas=betas,
                eps=rule.eps,
                weight_decay=decay,
                fused=real,
                capturable=device.type == "cuda",
            )
            self.names = ("exp_avg", "exp_avg_sq", "step")
        else:
            self._optimiser = torch.optim.SGD(
                self.parameters,
                lr=rate,
                momentum=rule.momentum,
                weight_decay=decay,
                fused=real,
            )
            self.names = ("momentum_buffer",)
        for p in self.parameters:
            self._optimiser.state[p] = {
                name: torch.zeros((), device=p.device) if name == "step" else torch.zeros_like(p)
                for name in self.names
            }

    def set_rate(self, factor: float, kimg: float) -> None:
        """Sets the rate for the next step. Args: factor: of the recipe's schedule and rollbacks."""
        own = self.rule.schedule(kimg) if self.rule.schedule else 1.0
        self.rate.fill_(self.base_rate * own * factor)

    @torch.no_grad()
    def step(self) -> None:
        """Moves every weight by its gradient and forgets the gradients. Weights without a gradient
        stay.
        """
        for p in self.parameters:
            # the fused step compares strides one by one, those of dimensions of size one included
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def all_tensors(self) -> list[Tensor]:
        """Weights, buffers and moments in a fixed order: what a copy of the trained role consists
        of.
        """
        moments = [value for p in self.parameters for value in self._optimiser.state[p].values()]
        return [*(p.detach() for p in self.parameters), *self._buffers, *moments]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Its state, named optimiser.<name>.<number of the weight>.<name of the moment>."""
        return {
            f"optimiser.{name}.{i}.{key}": self._optimiser.state[p][key]
            for i, p in enumerate(self.parameters)
            for key in self.names
        }

    @torch.no_grad()
    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave, in place, so that the memory layout stays."""
        for key, value in self.tensors(name).items():
            value.copy_(tensors[key])
