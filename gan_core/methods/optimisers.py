"""torch's optimisers by a method's rules: fused, capturable, with the rate as a tensor.

They are called as functions: making an object of `torch.optim` imports torch's compiler, four
seconds of a slow processor in every process that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

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
        self._decay = settings.weight_decay if rule.weight_decay is None else rule.weight_decay
        self._betas = (
            settings.beta1 if rule.beta1 is None else rule.beta1,
            settings.beta2 if rule.beta2 is None else rule.beta2,
        )
        is_adam = rule.kind == "adam"
        self.names = ("exp_avg", "exp_avg_sq", "step") if is_adam else ("momentum_buffer",)
        self._state: dict[Tensor, dict[str, Tensor]] = {
            p: {
                name: torch.zeros((), device=p.device) if name == "step" else torch.zeros_like(p)
                for name in self.names
            }
            for p in self.parameters
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
        weights: list[Tensor] = []
        gradients: list[Tensor] = []
        for p in self.parameters:
            if (gradient := p.grad) is None:
                continue
            # the fused step compares strides one by one, those of dimensions of size one included
            if gradient.stride() != p.stride():
                gradient = torch.empty_like(p).copy_(gradient)
            weights.append(p)
            gradients.append(gradient)
            p.grad = None
        moments = [[self._state[p][name] for p in weights] for name in self.names]
        if self.rule.kind == "adam":
            first, second, steps = moments
            adam(
                weights,
                gradients,
                first,
                second,
                [],
                steps,
                fused=True,
                capturable=self.rate.is_cuda,
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=self.rate,
                weight_decay=self._decay,
                eps=self.rule.eps,
                maximize=False,
            )
        else:
            sgd(
                weights,
                gradients,
                cast(list[Tensor | None], moments[0]),
                fused=True,
                weight_decay=self._decay,
                momentum=self.rule.momentum,
                lr=self.rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )

    def all_tensors(self) -> list[Tensor]:
        """Weights, buffers and moments in a fixed order: what a copy of the trained role consists
        of.
        """
        moments = [value for p in self.parameters for value in self._state[p].values()]
        return [*(p.detach() for p in self.parameters), *self._buffers, *moments]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Its state, named optimiser.<name>.<number of the weight>.<name of the moment>."""
        return {
            f"optimiser.{name}.{i}.{key}": self._state[p][key]
            for i, p in enumerate(self.parameters)
            for key in self.names
        }

    @torch.no_grad()
    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave, in place, so that the memory layout stays."""
        for key, value in self.tensors(name).items():
            value.copy_(tensors[key])
