"""Checks before a planned run starts: settings that never fit together, and work that would not fit
into memory or a day. Reads the store only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from gan_core.errors import DiscernError, RequestError
from gan_core.pipeline.nodes import EXTERNAL
from gan_core.pipeline.request import Prepared

if TYPE_CHECKING:
    from gan_core.features.external.preflight import Checked


@dataclass(frozen=True)
class FailedCheck:
    """A check that a run fails. `for_good`: with these settings and data it can never run; else it
    lacks memory or time here.
    """

    error: DiscernError
    for_good: bool


def failed_checks(prepared: Prepared) -> Iterator[FailedCheck]:
    """The checks that a run of this plan fails, as far as its sources are known (they are, once
    ingested). It ends after a check that fails for good.
    """
    checks: list[tuple[Callable[[], object], bool]] = [
        (partial(_check_image_size, prepared), True),
        (partial(_check_batch, prepared), True),
        (partial(_check_memory_and_time, prepared), False),
    ]
    if prepared.external is not None:
        built = cache(partial(_build_external_network, prepared))  # once for both checks
        checks = [(built, True), (lambda: _check_long_features(prepared, built()), False)]
    for check, for_good in checks:
        try:
            check()
        except DiscernError as error:
            yield FailedCheck(error, for_good)
            if for_good:
                return


def check_before_starting(prepared: Prepared) -> None:
    """Refuses a run that cannot work, or would not fit into memory or a day, as far as its sources
    are known.

    Raises:
        DiscernError: the first of `failed_checks`, with the figures.
    """
    for failed in failed_checks(prepared):
        raise failed.error


def _check_image_size(prepared: Prepared) -> None:
    from gan_core import registry

    network, given = prepared.recipe.train.network.name, prepared.recipe.crop.size
    if (
        "train" not in _stages_to_do(prepared)
        or (size := registry.load("networks", network).IMAGE_SIZE) == given
    ):
        return
    raise RequestError(
        f"The network {network} takes images of {size} pixels, and crop.size is {given}.",
        expected=f"--set crop.size={size}, or a network for {given} pixels",
        remedy="`discern list networks` shows the networks",
    )


def _check_batch(prepared: Prepared) -> None:
    """Fewer training images than one batch, or a batch that its processes cannot share: before
    hours of work, not after.
    """
    from gan_core.devices import resolve_processes
    from gan_core.stages.train import refuse_small, refuse_uneven

    train = prepared.recipe.train
    if "train" not in _stages_to_do(prepared) or train.snapshot is not None or prepared.undecided:
        return
    refuse_uneven(train.batch, resolve_processes(train.processes, prepared.settings.device))
    pack = prepared.statuses.get("pack")
    if pack is not None and pack.manifest is not None:
        counts = pack.manifest.outcome.counts
        if "kept" in counts:
            refuse_small(counts["kept"], train, counts.get("duplicates", 0))
    elif (most := _training_images(prepared)) is not None:
        refuse_small(most, train)


def _training_images(prepared: Prepared) -> int | None:
    """How many images there are to train on, at most; None where that is not known: before ingest,
    or where faces are cut out.
    """
    if prepared.recipe.crop.kind == "faces":
        return None
    most = 0
    for source in prepared.recipe.sources.train:
        status = prepared.statuses.get(f"ingest:{source.name}")
        if status is None or status.manifest is None:
            return None
        outcome = status.manifest.outcome
        # how many cannot be used is known of all splits together
        most += min(
            outcome.counts.get("ok", 0), int(outcome.summary.get("splits", {}).get("train", 0))
        )
    return most


def _check_memory_and_time(prepared: Prepared) -> None:
    from gan_core.pipeline.estimates import refuse_the_impossible

    stages = _stages_to_do(prepared)
    if stages & {"train", "evaluate"}:
        trains = "train" in stages and prepared.settings.max_seconds is None
        refuse_the_impossible(
            prepared.recipe, prepared.settings.device, _rows_to_evaluate(prepared), trains=trains
        )


def _stages_to_do(prepared: Prepared) -> set[str]:
    return {status.node.stage for status in prepared.to_do}


def _rows_to_evaluate(prepared: Prepared) -> int:
    """Images that evaluation will hold at once, as far as their sources are known."""
    evaluated = {f"ingest:{source.name}" for source in prepared.recipe.evaluated()}
    return sum(
        status.manifest.outcome.counts.get("ok", 0)
        for name, status in prepared.statuses.items()
        if name in evaluated
        and status.manifest
        and any(other.node.stage == "evaluate" for other in prepared.to_do)
    )


def _build_external_network(prepared: Prepared) -> Checked | None:
    """Builds an external network where its features are still to be extracted, so that a mistake
    shows before any work.
    """
    from gan_core.features.external.preflight import inspect_network

    if prepared.external is None or not any(
        status.node.id.endswith(f":{EXTERNAL}") and status.node.stage == "extract"
        for status in prepared.to_do
    ):
        return None
    return inspect_network(prepared.recipe.extract, prepared.external, prepared.recipe.crop.size)


def _check_long_features(prepared: Prepared, found: Checked | None) -> None:
    from gan_core.pipeline.estimates import refuse_what_exceeds_memory

    if found is not None:
        refuse_what_exceeds_memory(_rows_to_evaluate(prepared), found.dims)
