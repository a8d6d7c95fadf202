"""Several processes as one: every process holds the same weights and takes its share of each global
batch.

`torchrun` starts the processes; the gradient is averaged over them after each backward pass, and
batch norm may take its statistics over all of them (`BatchNorm.across`). The sums are exact up to
rounding, so two processes agree with one on the same global batch. What is decided rather than
computed (where to begin, what a check has found, whether time is over) the first process decides
for all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.errors import RequestError
from gan_core.networks.layers import BatchNorm
from gan_core.signals import stop_requested

ASK_EVERY = 100  # minibatches between two questions whether time is over, at most


@dataclass(frozen=True)
class Processes:
    """This process's number among how many, `here` of them on this machine. Rank 0 writes the
    files.
    """

    rank: int = 0
    count: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over the processes, in one message."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for gradient, part in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view(gradient.shape))

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the processes."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
            values = values / self.count
        return values

    def any(self, wish: bool) -> bool:
        """Whether any process wishes it: the same answer everywhere."""
        if self.count == 1:
            return wish
        flag = torch.tensor([int(wish)], device=_messages())
        torch.distributed.all_reduce(flag)
        return bool(flag.item())

    def broadcast(self, value: Any) -> Any:
        """The first process's value, in every process; what the others give is ignored. Args:
        value: plain JSON.
        """
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.first else b""
        size = torch.tensor([len(text)], device=_messages())
        torch.distributed.broadcast(size, 0)
        sent = (
            torch.tensor(list(text), dtype=torch.uint8)
            if self.first
            else torch.zeros(int(size), dtype=torch.uint8)
        )
        sent = sent.to(_messages())
        torch.distributed.broadcast(sent, 0)
        return json.loads(bytes(sent.cpu().tolist()))

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first process's tensors, in every process: what the others give is ignored, its
        names and shapes neither.
        """
        if self.count == 1:
            return dict(tensors)
        sent = self.broadcast(
            [
                [name, str(t.dtype).removeprefix("torch."), list(t.shape)]
                for name, t in tensors.items()
            ]
        )
        out = {}
        for name, kind, shape in sent:
            dtype = getattr(torch, kind)
            value = (
                tensors[name].detach().contiguous()
                if self.first
                else torch.empty(shape, dtype=dtype)
            )
            out[name] = value.to(_messages())
            torch.distributed.broadcast(out[name], 0)
        return out

    def barrier(self) -> None:
        """Returns when every process has come here."""
        if self.count > 1:
            torch.distributed.barrier()


def _messages() -> str:
    """The device on which processes talk to each other."""
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"


@dataclass
class Deadline:
    """Whether time is over, or this process was sent to end: asked after every minibatch. Several
    processes agree about once a second.

    Attributes: seconds: the limit, None for none; since: time.monotonic() from which it counts.
    """

    seconds: float | None
    since: float
    processes: Processes
    _left: int = 1
    _every: int = 1
    _asked: float = field(default_factory=time.monotonic)

    def over(self) -> bool:
        """The same answer in every process."""
        if self.processes.count == 1 and stop_requested():
            return True
        if self.seconds is None and self.processes.count == 1:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        now = time.monotonic()
        many = round(self._every / max(now - self._asked, 1e-3)) if self.processes.count > 1 else 1
        late = self.seconds is not None and now - self.since > self.seconds
        over, self._every = self.processes.broadcast(
            [late or stop_requested(), max(1, min(many, ASK_EVERY))]
        )
        self._left, self._asked = self._every, now
        return bool(over)


def join(device: str) -> tuple[Processes, str]:
    """The processes that `torchrun` started and this one's device; one process when it did not.

    Returns: (processes, device): with several GPUs on a machine each process gets its own.
    Raises: RequestError: more processes on this machine than it has GPUs.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        return Processes(), device
    here, found = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    cuda = device.startswith("cuda")
    if cuda and here > found:
        raise RequestError(
            f"{here} processes are to train on this machine's GPUs, and it has {found}.",
            expected="a GPU for each process",
            remedy=f"--set train.processes={max(found, 1)}, or --set train.processes=auto",
        )
    if cuda:  # first: nccl binds a process to the current GPU, and without device_id it guesses
        device = f"cuda:{torch.distributed.get_node_local_rank()}"
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized() and cuda:
        torch.distributed.init_process_group("nccl", device_id=torch.device(device))
    elif not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    processes = Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), here)
    return processes, device


def leave(processes: Processes) -> None:
    """Ends what `join` began."""
    if processes.count > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def synchronise_norms(networks: Iterable[nn.Module], processes: Processes) -> None:
    """Batch norms take their statistics over all processes from now on."""
    if processes.count == 1:
        return
    for network in networks:
        for module in network.modules():
            if isinstance(module, BatchNorm):
                module.across = True
