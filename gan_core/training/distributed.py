"""Several processes as one: every process holds the same weights and takes its share of each global batch.

`torchrun` starts the processes; the gradient is averaged over them after each backward pass, and batch norm may take its statistics
over all of them (`BatchNorm.across`). The sums are exact up to rounding, so two processes agree with one on the same global batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_core.networks.base import BatchNorm


@dataclass(frozen=True)
class Processes:
    """This process's number among how many, `here` of them on this machine. Rank 0 writes the files."""

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
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the processes."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
            values = values / self.count
        return values

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it: the same answer everywhere."""
        if self.count == 1:
            return wish
        flag = torch.tensor([int(wish)])
        if torch.distributed.get_backend() == "nccl":
            flag = flag.cuda()
        torch.distributed.all_reduce(flag)
        return bool(flag.item())

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.count > 1:
            torch.distributed.barrier()


def join(device: str) -> tuple[Processes, str]:
    """The processes that `torchrun` started and this one's device; one process when it did not.

    Returns: (processes, device): with several GPUs on a machine each process gets its own.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        return Processes(), device
    cuda = device.startswith("cuda")
    if cuda:  # first: nccl binds a process to the GPU that is current, and without device_id it guesses
        device = f"cuda:{torch.distributed.get_node_local_rank()}"
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized() and cuda:
        torch.distributed.init_process_group("nccl", device_id=torch.device(device))
    elif not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    processes = Processes(
        torch.distributed.get_rank(), torch.distributed.get_world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    )
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
