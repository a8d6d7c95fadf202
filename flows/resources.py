"""What a stage needs of this machine while it works, so that what fits runs at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gan_core.devices import cpu_cores, memory_bytes
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.runner import StageResult
from gan_core.specs import spec_of

_MEMORY_SHARE = 0.8  # of the machine's, for the data of all stages together
_READERS = ("ingest", "crop")  # decode on every core
_SINGLE = ("pack", "report")


@dataclass(frozen=True)
class Needs:
    """Cores, bytes of data held at once, and whether it computes on the GPU."""

    cores: int = 0
    memory: int = 0
    gpu: bool = False


def needs_of(node: Node, threads: int, results: Mapping[str, StageResult]) -> Needs:
    """What a node needs. Args: results: of the nodes that it reads."""
    if node.pinned is not None:
        return Needs()
    gpu = str(node.context.get("device", "cpu")).startswith("cuda")
    cores = cpu_cores() if node.stage in _READERS else 1 if node.stage in _SINGLE else threads
    if gpu and spec_of(node.stage).child:
        cores = 1
    return Needs(cores, _memory(node, results), gpu)


def _memory(node: Node, results: Mapping[str, StageResult]) -> int:
    """Features as read and as fitted; a training set as kept in memory."""
    summaries = [results[name].outcome.summary for name in node.input_ids]
    if node.stage == "evaluate":
        return sum(6 * int(one.get("rows", 0)) * int(one.get("dims", 0)) for one in summaries)
    if node.stage == "train":
        return sum(int(one.get("bytes", 0)) for one in summaries)
    return 0


def fits(wanted: Needs, held: Iterable[Needs]) -> bool:
    """Whether a stage may start while those work; alone it always may."""
    held = [one for one in held if one.cores]
    if not held or not wanted.cores:
        return True
    return (
        wanted.cores + sum(one.cores for one in held) <= cpu_cores()
        and wanted.memory + sum(one.memory for one in held) <= _MEMORY_SHARE * memory_bytes()
        and not (wanted.gpu and any(one.gpu for one in held))
    )
