"""Adam in one pass over all weights, without torch.optim: constructing an optimiser of that module
imports torch's compiler, which takes three seconds at every start, and training here is often
short. A parity test holds it to torch.optim.Adam."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class Adam:
    """Adam (Kingma and Ba) with L2 added to the gradient before the moments, as the DCGAN authors
    do (lib/updates.py).

    Args:
        parameters: the weights it moves; all on one device.
        learning_rate, beta1, beta2, eps, weight_decay: as in torch.optim.Adam. The authors' decay
            of beta1 by 1 - 1e-8 a step is left out: over a million steps it changes beta1 by one
            per cent.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.learning_rate, self.beta1, self.beta2, self.eps, self.weight_decay = (
            learning_rate,
            beta1,
            beta2,
            eps,
            weight_decay,
        )
        self.means = [
            torch.zeros_like(p) for p in self.parameters
        ]  # in the weights' memory layout: the fused step walks all alike
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Moves every weight by its gradient and forgets the gradients. Weights without a gradient
        stay.
        """
        chosen = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        steps = [self.steps[i] for i in chosen]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            [self.parameters[i] for i in chosen],
            [_laid_out_like(p, g) for p in self.parameters if (g := p.grad) is not None],
            [self.means[i] for i in chosen],
            [self.squares[i] for i in chosen],
            [],
            steps,
            lr=self.learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )
        for p in self.parameters:
            p.grad = None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Its state, named optimiser.<name>.<number of the weight>.<mean, square or step>."""
        out: dict[str, Tensor] = {}
        for i, (mean, square, step) in enumerate(
            zip(self.means, self.squares, self.steps, strict=True)
        ):
            out |= {
                f"optimiser.{name}.{i}.mean": mean,
                f"optimiser.{name}.{i}.square": square,
                f"optimiser.{name}.{i}.step": step,
            }
        return out

    @torch.no_grad()
    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave, in place, so that the memory layout stays that of the
        weights.
        """
        for what, values in (("mean", self.means), ("square", self.squares), ("step", self.steps)):
            for i, value in enumerate(values):
                value.copy_(tensors[f"optimiser.{name}.{i}.{what}"])


def _laid_out_like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the weight's strides, which the fused step compares one by one, those of
    dimensions of size one included.

    Autograd keeps to the layout of the weight but for such dimensions: where nothing differs,
        nothing is copied.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
