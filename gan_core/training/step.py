"""One training step: what a method asks for in a minibatch, carried out."""

from __future__ import annotations

import torch
from torch import Tensor

from gan_core.devices import autocast, memory_format
from gan_core.methods.base import Batch, Update
from gan_core.networks.snapshot import sample_latents
from gan_core.randomness import derive_seed, torch_stream
from gan_core.training import data
from gan_core.training.context import Context
from gan_core.training.trainer_state import TrainerState
from gan_core.vision.tensors import to_float


def step(
    state: TrainerState,
    context: Context,
    pixels: Tensor,
    labels: Tensor | None,
    random: torch.Generator | None = None,
) -> None:
    """One minibatch.

    Args: pixels: this process's share, uint8 [n, S, S, 3] on the device, or points, float [n, d].
        random: None: the minibatch's own stream, and rates for its place.
    """
    parts, processes, position = context.settings.accumulate, context.processes, state.position
    device = str(pixels.device)
    if random is None:
        random = torch_stream(
            context.seed, "batch", position.index, position.attempt, device=device
        )
        prepare(state, context)
    batches = [
        batch_of(
            state,
            context,
            some,
            None if labels is None else labels[i::parts],
            random,
        )
        for i, some in enumerate(pixels[i::parts] for i in range(parts))
    ]
    rounds = [state.method.updates(batch) for batch in batches]
    while True:
        moved: dict[str, None] = {}
        for updates in rounds:
            with autocast(context.precision, device):
                given = next(updates, None)
            for update in [given] if isinstance(given, Update) else given or []:
                loss = update.loss if parts == 1 else update.loss / parts
                loss.backward()  # type: ignore[no-untyped-call]
                state.figures.add(update.figures)
                position.images += update.real * processes.count
                moved[update.name] = None
            del given
        if not moved:
            break
        for name in moved:
            processes.average_gradients(state.parameters(name))
            state.optimisers[name].step()
            position.updates[name] = position.updates.get(name, 0) + 1
    position.index += 1


def prepare(state: TrainerState, context: Context) -> None:
    """Sets the rates and the stream of dropout before each minibatch, outside of captured steps."""
    state.set_rates()
    if state.random_layers:
        at = state.position
        torch.manual_seed(
            derive_seed(context.seed, "layers", at.index, at.attempt, context.processes.rank)
        )


def batch_of(
    state: TrainerState,
    context: Context,
    pixels: Tensor,
    labels: Tensor | None,
    random: torch.Generator,
) -> Batch:
    """A minibatch as the method gets it."""
    s, me = context.settings, context.processes
    count = s.batch // s.accumulate

    def share(values: Tensor) -> Tensor:
        """This process's part of what is drawn for the whole batch."""
        return values[me.rank :: me.count]

    images = to_float(pixels) if pixels.dtype == torch.uint8 else pixels
    if s.flip:
        chosen = share(torch.rand(count, generator=random, device=images.device)) < 0.5
        images = data.mirror(images, chosen)
    if images.dim() == 4:
        images = images.contiguous(memory_format=memory_format())
    return Batch(
        index=state.position.index,
        images=images,
        labels=labels,
        latents=lambda: share(sample_latents(state.prior, count, random)),
        random=random,
        share=(me.rank, me.count),
        classes=int(state.spec["classes"]),
    )
