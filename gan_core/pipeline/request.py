"""A request made into a plan with keys, from the store alone: no torch, no Prefect, no image is
read.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gan_core.artifacts.store import Store
from gan_core.config import Recipe
from gan_core.devices import cuda_count, resolve_device
from gan_core.errors import DataError, RequestError, UnknownName
from gan_core.features.external.fingerprint import Stamp, stamp_of
from gan_core.pipeline.data_growth import Growth, handles_growth
from gan_core.pipeline.nodes import Node, NodeStatus, Settings, imported_key, up_to
from gan_core.pipeline.plan import build_plan, make_plan
from gan_core.pipeline.sources import Location, fingerprint, locate
from gan_core.pipeline.start import find_start
from gan_core.recipes import load_recipe
from gan_core.specs import STAGES

NOT_FETCHED = "not downloaded yet"
_NO_LABELS = "There is nothing to evaluate again: the sources have no labels to evaluate with."


class RunRequest(BaseModel):
    """What a user asks for: the same from the command line, a schedule or the form in the UI."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(description="name of a recipe, or path of a YAML file")
    overrides: list[str] = Field(
        default_factory=list, description="settings to change, as section.key=value"
    )
    scale: str | None = Field(
        None,
        description=(
            "debug, small or full; none: full with a GPU, else small where the recipe has it"
        ),
    )
    data: list[str] = Field(
        default_factory=list, description="where the data lies: PATH, or NAME=PATH for each source"
    )
    home: str = Field(description="absolute folder or fsspec address of the store")
    device: str = Field("auto", description="auto, cpu or cuda")
    until: str = Field("report", description="the last stage wanted")
    only: str | None = Field(None, description="run this stage alone, on inputs in the store")
    refresh: list[str] = Field(
        default_factory=list, description="stages to run again even if cached"
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="end training cleanly after this many seconds; the next run continues it",
    )
    rehash: bool = Field(
        False, description="read every file again instead of trusting size and modification time"
    )
    verify: bool = Field(
        False, description="compare every byte of what the store has with its manifests"
    )
    runner: str = Field(
        "threads", description="threads, dask or ray: where crop and extract are divided"
    )
    command: str = Field("", description="what was typed, for the report")


def as_typed(request: RunRequest, verb: str = "") -> str:
    """The command line that asks for the same, or with another verb for the same recipe and
    data.
    """
    words = [
        "discern",
        verb or {"report": "run", "pack": "prepare"}.get(request.until, request.until),
        request.recipe,
    ]
    for name, value in (
        ("scale", request.scale),
        ("only", request.only),
        ("max-seconds", request.max_seconds),
    ):
        words += [f"--{name}", str(value)] if value is not None else []
    for option, values in (
        ("data", request.data),
        ("set", request.overrides),
        ("refresh", request.refresh),
    ):
        words += [word for value in values for word in (f"--{option}", value)]
    for name, value, usual in (
        ("device", request.device, "auto"),
        ("runner", request.runner, "threads"),
    ):
        words += [f"--{name}", value] if value != usual else []
    if any(word.partition("=")[0] == "--home" for word in _words(request.command)):
        words += ["--home", request.home]
    words += [f"--{name}" for name in ("rehash", "verify") if getattr(request, name)]
    return shlex.join(words)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a schedule's, written by hand
        return []


def _whole(request: RunRequest) -> RunRequest:
    """A request for the whole chain on the same recipe and data."""
    plain: dict[str, Any] = {
        "until": "report",
        "only": None,
        "refresh": [],
        "max_seconds": None,
        "rehash": False,
        "verify": False,
        "runner": "threads",
    }
    return request.model_copy(update=plain)


@dataclass(frozen=True)
class Prepared:
    """A request with its recipe, places and plan, and what the store already has."""

    request: RunRequest
    recipe: Recipe
    notes: list[str]
    settings: Settings
    locations: dict[str, Location]
    fingerprints: dict[str, str]
    statuses: dict[str, NodeStatus]
    external: Stamp | None = None
    growth: Growth | None = None

    @property
    def undecided(self) -> bool:
        """Whether the training set has to be packed before it is known which training is used
        (`train.on_new_data`).
        """
        train, pack = self.statuses.get("train"), self.statuses.get("pack")
        if train is None or pack is None or "train" in self.settings.refresh:
            return False
        return handles_growth(self.recipe) and train.state != "cached" and pack.state != "cached"

    @property
    def nodes(self) -> list[Node]:
        """The plan, inputs first."""
        return [status.node for status in self.statuses.values()]

    @property
    def to_do(self) -> list[NodeStatus]:
        """What has to be made."""
        return [status for status in self.statuses.values() if status.state != "cached"]

    @property
    def to_fetch(self) -> list[str]:
        """Sources that have to be downloaded first."""
        return [name for name, location in self.locations.items() if location.to_fetch]


def prepare(request: RunRequest, store: Store, *, planning: bool = False) -> Prepared:
    """Checks a request and plans it from the store alone: no torch, no Prefect, no image is read.

    Args:
        planning: a source whose data are not there is named in a note, and planned as one that is
            still to be fetched.
    Raises:
        RequestError: an unknown recipe, setting, scale or stage; a source without a place; inputs
            missing for `only`; `only` or `refresh` of a stage that would not be made.
    """
    for stage in [*request.refresh, request.until, *([request.only] if request.only else [])]:
        if stage not in STAGES:
            raise UnknownName("stage", stage, STAGES)
    device = resolve_device(request.device)
    recipe, notes = load_recipe(
        request.recipe,
        scale=request.scale,
        overrides=request.overrides,
        gpu=device != "cpu" or bool(cuda_count()),
    )
    locations = locate(recipe, request.data, store.home, request.command or as_typed(request))
    sources = {source.name: source for source in recipe.all_sources()}
    fingerprints: dict[str, str] = {}
    for name, location in locations.items():
        try:
            fingerprints[name] = (
                NOT_FETCHED if location.to_fetch else fingerprint(sources[name], location)
            )
        except (RequestError, DataError) as error:
            if not planning:
                raise
            notes.append(
                f"{error.message} Expected: {error.expected}. Planned as if it were there."
            )
            fingerprints[name] = NOT_FETCHED
    if (
        recipe.train.snapshot is not None
        and store.find("train", imported_key(recipe.train.snapshot)) is None
    ):
        raise RequestError(
            f"There is no imported snapshot called {recipe.train.snapshot!r} in {store.address}.",
            expected="a snapshot that `discern import` has brought into this home",
            remedy="discern import dcgan-authors FOLDER --check",
        )
    external = stamp_of(recipe.extract, Path.cwd())
    settings = Settings(
        device=device,
        start=None if external else find_start(recipe.train, store, Path.cwd()),
        locations={name: location.path for name, location in locations.items()},
        rehash=request.rehash,
        verify=request.verify,
        max_seconds=request.max_seconds,
        refresh=frozenset(request.refresh),
    )
    _refuse_unplanned(request, recipe, build_plan(recipe, fingerprints, settings, external))
    prepared = _with_plan(
        Prepared(request, recipe, notes, settings, locations, fingerprints, {}, external), store
    )
    # Verified once: later plans of this run trust what this one has found.
    return replace(
        prepared,
        request=request.model_copy(update={"verify": False}),
        settings=replace(settings, verify=False),
    )


def replan_after_ingest(prepared: Prepared, store: Store) -> tuple[Prepared, list[str]]:
    """The request planned again once its sources are ingested: their labels decide what is
    evaluated.

    Returns: the plan, and the ingest nodes whose files have changed since they were read.
    """
    rest = [stage for stage in prepared.request.refresh if stage != "ingest"]
    again = prepare(prepared.request.model_copy(update={"refresh": rest, "rehash": False}), store)
    changed = [
        name
        for name, status in again.statuses.items()
        if status.node.stage == "ingest" and status.state != "cached"
    ]
    return again, changed


def replan(prepared: Prepared, store: Store, made: frozenset[str]) -> Prepared:
    """The same request and sources, planned once more with what the run knows now.

    Args:
        made: stages that this run has made: what was to be refreshed of them has been.
    """
    settings = replace(prepared.settings, refresh=prepared.settings.refresh - made, rehash=False)
    request = prepared.request.model_copy(
        update={"refresh": sorted(settings.refresh), "rehash": False}
    )
    return _with_plan(replace(prepared, request=request, settings=settings), store)


def _with_plan(prepared: Prepared, store: Store) -> Prepared:
    """The request with a plan from what the store has now."""
    request = prepared.request
    plan = make_plan(
        prepared.recipe,
        prepared.fingerprints,
        prepared.settings,
        external=prepared.external,
        store=store,
        until=request.only or request.until,
    )
    there = {node.stage for node in plan.nodes}
    notes = [plan.note, *(_NO_LABELS for stage in request.refresh if stage not in there)]
    new = [note for note in dict.fromkeys(notes) if note and note not in prepared.notes]
    wanted = plan.nodes if request.only else up_to(plan.nodes, request.until)
    statuses = {node.id: plan.statuses[node.id] for node in wanted}
    planned = replace(
        prepared, statuses=statuses, growth=plan.growth, notes=[*prepared.notes, *new]
    )
    return _alone(planned) if request.only else planned


def _refuse_unplanned(request: RunRequest, recipe: Recipe, nodes: list[Node]) -> None:
    """Raises RequestError for stages that are asked for and that the plan does not run.

    Args:
        nodes: the plan as if every source had labels: a source without labels is no mistake.
    """
    there = _stages(nodes)
    for stage in (request.until, request.only, *request.refresh):
        if stage in ("hash", "dedup") and stage not in there and recipe.dedup.mode == "off":
            raise RequestError(
                f"There is nothing to {stage}: dedup.mode is off.",
                expected=f"a stage of this plan: {', '.join(there)}",
                remedy="--set dedup.mode=verified",
            )
        if stage and stage not in there:
            raise RequestError(
                f"There is nothing to {stage}: features come from {recipe.extract.network}, and no "
                "GAN is trained.",
                expected=f"a stage of this plan: {', '.join(there)}",
                remedy="leave extract.network (--network) out to train a GAN",
            )
    planned = _stages(up_to(nodes, request.until))
    verb = as_typed(request).split()[1]
    if request.only and request.only not in planned:
        raise RequestError(
            f"`discern {verb}` does not run the stage {request.only}: it runs "
            f"{', '.join(planned)}.",
            expected="one of these stages",
            remedy=as_typed(_whole(request).model_copy(update={"only": request.only})),
        )
    made = [request.only] if request.only else planned
    for stage in request.refresh:
        if stage not in made:
            what = (
                f"--only {request.only} makes that stage alone"
                if request.only
                else f"`discern {verb}` does not get there"
            )
            raise RequestError(
                f"--refresh {stage} would do nothing: {what}.",
                expected=f"--refresh with {', '.join(made)}",
                remedy=as_typed(_whole(request).model_copy(update={"refresh": [stage]})),
            )


def _stages(nodes: list[Node]) -> list[str]:
    return list(dict.fromkeys(node.stage for node in nodes))


def _alone(prepared: Prepared) -> Prepared:
    """Keeps the nodes of the one stage and the cached ones that they read; refuses when an input is
    missing.
    """
    wanted = [
        status
        for status in prepared.statuses.values()
        if status.node.stage == prepared.request.only
    ]
    names = [name for status in wanted for ids in status.node.inputs.values() for name in ids]
    missing = [name for name in dict.fromkeys(names) if prepared.statuses[name].state != "cached"]
    if missing:
        whole = _whole(prepared.request)
        raise RequestError(
            f"--only {prepared.request.only} needs artifacts that are not there: "
            f"{', '.join(missing)}.",
            expected="every input of the stage in the store",
            remedy=(
                f"`{as_typed(whole)}` makes them; `{as_typed(whole, 'status')}` shows what is there"
            ),
        )
    kept = {name: prepared.statuses[name] for name in dict.fromkeys(names)}
    kept.update({status.node.id: status for status in wanted})
    return replace(prepared, statuses=kept)


def images_expected(prepared: Prepared) -> dict[str, int]:
    """Source name to images: as ingested, else as many as the recipe expects there; a source of
    which nothing is known is left out.
    """
    found: dict[str, int] = {}
    for source in prepared.recipe.all_sources():
        status = prepared.statuses.get(f"ingest:{source.name}")
        if status is not None and status.manifest is not None:
            found[source.name] = status.manifest.outcome.counts.get("ok", 0)
        elif source.images is not None:
            most = (
                source.limit * len(source.splits or ("train", "validation", "test"))
                if source.limit
                else source.images
            )
            found[source.name] = min(source.images, most)
    return found
