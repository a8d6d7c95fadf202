"""A run: a request made into a plan with keys, and the folder that records what came of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gan_core.config import Recipe
from gan_core.devices import cuda_count, resolve_device
from gan_core.errors import DataError, DiscernError, RequestError, TrainingDiverged, UnknownName
from gan_core.features.stamp import Stamp, stamp_of
from gan_core.files import atomic_write_bytes, read_json, write_json
from gan_core.growth import Growth, concerns, decide
from gan_core.locks import held
from gan_core.plan import OUTSIDE, Node, Settings, Standing, build_plan, imported_key, key_of, look_up, up_to
from gan_core.recipes import dump_recipe, load_recipe
from gan_core.runner import StageResult, trajectory_key
from gan_core.sources import Location, fingerprint, locate
from gan_core.stages.contract import ArtifactRef
from gan_core.stages.specs import STAGES
from gan_core.store import Store

if TYPE_CHECKING:
    from gan_core.features.look import Look

NOT_FETCHED = "not downloaded yet"
_NO_LABELS = "There is nothing to evaluate again: the sources have no labels to evaluate with."


class RunRequest(BaseModel):
    """What somebody asks for: the same from the command line, a schedule or the form in the UI."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(description="name of a recipe, or path of a YAML file")
    overrides: list[str] = Field(default_factory=list, description="settings to change, as section.key=value")
    scale: str | None = Field(
        None, description="debug, small or full; none: full with a GPU, else small where the recipe has it"
    )
    data: list[str] = Field(default_factory=list, description="where the data lies: PATH, or NAME=PATH for each source")
    home: str = Field(description="absolute folder or fsspec address of the store")
    device: str = Field("auto", description="auto, cpu or cuda")
    until: str = Field("report", description="the last stage wanted")
    only: str | None = Field(None, description="this stage alone, from inputs that are there")
    refresh: list[str] = Field(default_factory=list, description="stages to make again")
    max_seconds: float | None = Field(None, gt=0, description="training ends cleanly after so long; the next run continues")
    rehash: bool = Field(False, description="read every file again instead of trusting size and time of change")
    runner: str = Field("threads", description="who makes the shares of crop and extract: threads, dask or ray")
    command: str = Field("", description="what was typed, for the report")


def as_typed(request: RunRequest, verb: str = "") -> str:
    """The command line that asks for the same, or with another verb for the same recipe and data."""
    words = ["discern", verb or {"report": "run", "pack": "prepare"}.get(request.until, request.until), request.recipe]
    for name, value in (("scale", request.scale), ("only", request.only), ("max-seconds", request.max_seconds)):
        words += [f"--{name}", str(value)] if value is not None else []
    for option, values in (("data", request.data), ("set", request.overrides), ("refresh", request.refresh)):
        words += [word for value in values for word in (f"--{option}", value)]
    for name, value, usual in (("device", request.device, "auto"), ("runner", request.runner, "threads")):
        words += [f"--{name}", value] if value != usual else []
    if any(word.partition("=")[0] == "--home" for word in _words(request.command)):
        words += ["--home", request.home]
    return shlex.join([*words, *(["--rehash"] if request.rehash else [])])


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a schedule's, written by hand
        return []


def _whole(request: RunRequest) -> RunRequest:
    """The same recipe and data, with nothing left out or made again."""
    plain: dict[str, Any] = {
        "until": "report",
        "only": None,
        "refresh": [],
        "max_seconds": None,
        "rehash": False,
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
    standings: dict[str, Standing]
    outside: Stamp | None = None
    growth: Growth | None = None

    @property
    def undecided(self) -> bool:
        """Whether the training set has to be packed before it is known which training is used (`train.on_new_data`)."""
        train, pack = self.standings.get("train"), self.standings.get("pack")
        if train is None or pack is None or "train" in self.settings.refresh:
            return False
        return concerns(self.recipe) and train.state != "cached" and pack.state != "cached"

    @property
    def nodes(self) -> list[Node]:
        """The plan, inputs first."""
        return [standing.node for standing in self.standings.values()]

    @property
    def to_do(self) -> list[Standing]:
        """What has to be made."""
        return [standing for standing in self.standings.values() if standing.state != "cached"]

    @property
    def to_fetch(self) -> list[str]:
        """Sources that have to be downloaded first."""
        return [name for name, location in self.locations.items() if location.to_fetch]


def prepare(request: RunRequest, store: Store, *, planning: bool = False) -> Prepared:
    """Checks a request and plans it from the store alone: no torch, no Prefect, no picture is read.

    Args:
        planning: a source whose data are not there is told of in a note, and planned as one that is still to be fetched.
    Raises:
        RequestError: an unknown recipe, setting, scale or stage; a source without a place; inputs missing for `only`; `only` or
            `refresh` of a stage that would not be made.
    """
    for stage in [*request.refresh, request.until, *([request.only] if request.only else [])]:
        if stage not in STAGES:
            raise UnknownName("stage", stage, STAGES)
    device = resolve_device(request.device)
    recipe, notes = load_recipe(
        request.recipe, scale=request.scale, overrides=request.overrides, gpu=device != "cpu" or bool(cuda_count())
    )
    locations = locate(recipe, request.data, store.home, request.command or as_typed(request))
    sources = {source.name: source for source in recipe.all_sources()}
    fingerprints: dict[str, str] = {}
    for name, location in locations.items():
        try:
            fingerprints[name] = NOT_FETCHED if location.to_fetch else fingerprint(sources[name], location)
        except (RequestError, DataError) as error:
            if not planning:
                raise
            notes.append(f"{error.message} Expected: {error.expected}. Planned as if it were there.")
            fingerprints[name] = NOT_FETCHED
    if recipe.train.snapshot is not None and store.find("train", imported_key(recipe.train.snapshot)) is None:
        raise RequestError(
            f"There is no imported snapshot called {recipe.train.snapshot!r} in {store.address}.",
            expected="a snapshot that `discern import` has brought into this home",
            remedy="discern import dcgan-authors FOLDER --check",
        )
    settings = Settings(
        device=device,
        locations={name: location.path for name, location in locations.items()},
        rehash=request.rehash,
        max_seconds=request.max_seconds,
        refresh=frozenset(request.refresh),
    )
    return _planned(request, recipe, notes, settings, locations, fingerprints, store, stamp_of(recipe.extract, Path.cwd()))


def _planned(
    request: RunRequest,
    recipe: Recipe,
    notes: list[str],
    settings: Settings,
    locations: dict[str, Location],
    fingerprints: dict[str, str],
    store: Store,
    outside: Stamp | None,
) -> Prepared:
    nodes = build_plan(recipe, fingerprints, settings, outside=outside)
    _refuse_unplanned(request, recipe, nodes)
    refresh = settings.refresh | ({"ingest"} if request.rehash else frozenset())
    standings = look_up(store, nodes, refresh)
    labelled = {
        name: bool(standings[f"ingest:{name}"].manifest.outcome.summary.get("labelled", True))  # type: ignore[union-attr]
        for name in locations
        if standings[f"ingest:{name}"].manifest
    }
    nodes = build_plan(recipe, fingerprints, settings, labelled, outside)
    standings = look_up(store, nodes, refresh)
    growth, told = None, ""
    if "train" not in refresh and any(node.stage == "train" for node in up_to(nodes, request.only or request.until)):
        growth, told = decide(store, recipe, standings)
    if growth is not None:
        nodes = build_plan(recipe, fingerprints, settings, labelled, outside, growth)
        standings = look_up(store, nodes, refresh)
    notes = [*notes, told] if told else notes
    there = {node.stage for node in nodes}
    notes = [*notes, *(note for stage in request.refresh if stage not in there and (note := _NO_LABELS) not in notes)]
    prepared = Prepared(request, recipe, notes, settings, locations, fingerprints, standings, outside, growth)
    if request.only:
        return _alone(prepared)
    return replace(prepared, standings={node.id: standings[node.id] for node in up_to(nodes, request.until)})


def plan_anew(prepared: Prepared, store: Store, made: frozenset[str]) -> Prepared:
    """The same request and sources, planned once more after its first stages were made.

    Args:
        made: stages that this run has made already: what was to be refreshed of them has been.
    """
    settings = replace(prepared.settings, refresh=prepared.settings.refresh - made, rehash=False)
    request = prepared.request.model_copy(update={"refresh": sorted(settings.refresh), "rehash": False})
    args = (prepared.recipe, prepared.notes, settings, prepared.locations, prepared.fingerprints)
    return _planned(request, *args, store, prepared.outside)


def _refuse_unplanned(request: RunRequest, recipe: Recipe, nodes: list[Node]) -> None:
    """Stages that are asked for and would not be made: a mistake, not work that is done.

    Args:
        nodes: the plan as if every source had labels: that some have none is no mistake.
    """
    there = _stages(nodes)
    for stage in (request.until, request.only, *request.refresh):
        if stage and stage not in there:
            raise RequestError(
                f"There is nothing to {stage}: features are taken of {recipe.extract.network}, and no GAN is trained.",
                expected=f"a stage of this plan: {', '.join(there)}",
                remedy="leave extract.network (--network) out to train a GAN",
            )
    planned = _stages(up_to(nodes, request.until))
    verb = as_typed(request).split()[1]
    if request.only and request.only not in planned:
        raise RequestError(
            f"--only {request.only} cannot be had of `discern {verb}`: that makes {', '.join(planned)}.",
            expected="one of these stages",
            remedy=as_typed(_whole(request).model_copy(update={"only": request.only})),
        )
    made = [request.only] if request.only else planned
    for stage in request.refresh:
        if stage not in made:
            what = f"--only {request.only} makes that stage alone" if request.only else f"`discern {verb}` does not get there"
            raise RequestError(
                f"--refresh {stage} would do nothing: {what}.",
                expected=f"--refresh with {', '.join(made)}",
                remedy=as_typed(_whole(request).model_copy(update={"refresh": [stage]})),
            )


def _stages(nodes: list[Node]) -> list[str]:
    return list(dict.fromkeys(node.stage for node in nodes))


def _alone(prepared: Prepared) -> Prepared:
    """Keeps the nodes of the one stage and the cached ones that they read; refuses when an input is missing."""
    wanted = [standing for standing in prepared.standings.values() if standing.node.stage == prepared.request.only]
    names = [name for standing in wanted for ids in standing.node.inputs.values() for name in ids]
    missing = [name for name in dict.fromkeys(names) if prepared.standings[name].state != "cached"]
    if missing:
        whole = _whole(prepared.request)
        raise RequestError(
            f"--only {prepared.request.only} needs artifacts that are not there: {', '.join(missing)}.",
            expected="every input of the stage in the store",
            remedy=f"`{as_typed(whole)}` makes them; `{as_typed(whole, 'status')}` shows what is there",
        )
    kept = {name: prepared.standings[name] for name in dict.fromkeys(names)}
    kept.update({standing.node.id: standing for standing in wanted})
    return replace(prepared, standings=kept)


@dataclass(frozen=True)
class Refusal:
    """Why a run would not be begun. `for_good`: on every machine and however long it may take."""

    error: DiscernError
    for_good: bool


def refusals(prepared: Prepared) -> Iterator[Refusal]:
    """What a run of this plan would be refused for, as far as its sources are known (they are, once ingested).

    The last one where it is for good: what never runs need not be measured.
    """
    checks: list[tuple[Callable[[Prepared], object], bool]] = [
        (_refuse_another_size, True),
        (_refuse_batch, True),
        (_refuse_the_large, False),
    ]
    if prepared.outside is not None:
        checks = [(_look_at_network, True), (_refuse_long_features, False)]
    for check, for_good in checks:
        try:
            check(prepared)
        except DiscernError as error:
            yield Refusal(error, for_good)
            if for_good:
                return


def refuse_before_starting(prepared: Prepared) -> None:
    """Refuses a run that cannot work, or would not fit into memory or a day, as far as its sources are known.

    Raises:
        DiscernError: the first of `refusals`, with the figures.
    """
    for refusal in refusals(prepared):
        raise refusal.error


def _refuse_another_size(prepared: Prepared) -> None:
    from gan_core import registry

    network, given = prepared.recipe.train.network.name, prepared.recipe.crop.size
    if "train" not in _stages_to_do(prepared) or (size := registry.load("networks", network).IMAGE_SIZE) == given:
        return
    raise RequestError(
        f"The network {network} takes pictures of {size} pixels, and crop.size is {given}.",
        expected=f"--set crop.size={size}, or a network for {given} pixels",
        remedy="`discern list networks` shows the networks",
    )


def _refuse_batch(prepared: Prepared) -> None:
    """Fewer training pictures than one batch, or a batch that its processes cannot share: before hours of work, not after."""
    from gan_core.devices import resolve_processes
    from gan_core.stages.train import refuse_small, refuse_uneven

    train = prepared.recipe.train
    if "train" not in _stages_to_do(prepared) or train.snapshot is not None or prepared.undecided:
        return
    refuse_uneven(train.batch, resolve_processes(train.processes, prepared.settings.device))
    pack = prepared.standings.get("pack")
    if pack is not None and pack.manifest is not None:
        counts = pack.manifest.outcome.counts
        if "kept" in counts:
            refuse_small(counts["kept"], train, counts.get("duplicates", 0))
    elif (most := _training_pictures(prepared)) is not None:
        refuse_small(most, train)


def _training_pictures(prepared: Prepared) -> int | None:
    """How many pictures there are to train on, at most; None where that is not known: before ingest, or where faces are cut out."""
    if prepared.recipe.crop.kind == "faces":
        return None
    most = 0
    for source in prepared.recipe.sources.train:
        standing = prepared.standings.get(f"ingest:{source.name}")
        if standing is None or standing.manifest is None:
            return None
        outcome = standing.manifest.outcome
        # how many cannot be used is known of all splits together
        most += min(outcome.counts.get("ok", 0), int(outcome.summary.get("splits", {}).get("train", 0)))
    return most


def _refuse_the_large(prepared: Prepared) -> None:
    from gan_core.estimates import refuse_the_impossible

    stages = _stages_to_do(prepared)
    if stages & {"train", "evaluate"}:
        trains = "train" in stages and prepared.settings.max_seconds is None
        refuse_the_impossible(prepared.recipe, prepared.settings.device, _rows_to_evaluate(prepared), trains=trains)


def _stages_to_do(prepared: Prepared) -> set[str]:
    return {standing.node.stage for standing in prepared.to_do}


def _rows_to_evaluate(prepared: Prepared) -> int:
    """Pictures that evaluation will hold at once, as far as their sources are known."""
    evaluated = {f"ingest:{source.name}" for source in prepared.recipe.evaluated()}
    return sum(
        standing.manifest.outcome.counts.get("ok", 0)
        for name, standing in prepared.standings.items()
        if name in evaluated and standing.manifest and any(other.node.stage == "evaluate" for other in prepared.to_do)
    )


def _look_at_network(prepared: Prepared) -> Look | None:
    """Makes a network from outside once, where its features are still to be taken: what does not fit is said before any work."""
    from gan_core.features.look import look

    if prepared.outside is None or not any(
        standing.node.id.endswith(f":{OUTSIDE}") and standing.node.stage == "extract" for standing in prepared.to_do
    ):
        return None
    return look(prepared.recipe.extract, prepared.outside, prepared.recipe.crop.size)


def _refuse_long_features(prepared: Prepared) -> None:
    from gan_core.estimates import refuse_what_exceeds_memory

    if (found := _look_at_network(prepared)) is not None:
        refuse_what_exceeds_memory(_rows_to_evaluate(prepared), found.dims)


def pictures_expected(prepared: Prepared) -> dict[str, int]:
    """Source name to pictures: as ingested, else as many as the recipe expects there; a source of which nothing is known is left out."""
    found: dict[str, int] = {}
    for source in prepared.recipe.all_sources():
        standing = prepared.standings.get(f"ingest:{source.name}")
        if standing is not None and standing.manifest is not None:
            found[source.name] = standing.manifest.outcome.counts.get("ok", 0)
        elif source.pictures is not None:
            most = source.limit * len(source.splits or ("train", "validation", "test")) if source.limit else source.pictures
            found[source.name] = min(source.pictures, most)
    return found


LIVE_LOCK = "alive.lock"  # in a run's folder, held while its process is at work

RunState = Literal["running", "completed", "paused", "failed"]


class Run:
    """The folder of one execution: `recipe.yaml`, `run.json` (which artifacts, cached or made), `report.html`."""

    def __init__(self, store: Store, prepared: Prepared, *, flow_run: str | None = None, attempt: int = 1) -> None:
        now = datetime.now(UTC)
        self.name = f"{prepared.recipe.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = store.home / "runs" / self.name
        self.store = store
        self.folder.mkdir(parents=True)
        self._alive = os.open(self.folder / LIVE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._alive, fcntl.LOCK_EX)
        self.results: dict[str, StageResult] = {}
        self.made_before: frozenset[str] = frozenset()
        self.record: dict[str, Any] = {
            "run": self.name,
            "recipe": prepared.recipe.name,
            "scale": prepared.recipe.scale,
            "until": prepared.request.until,
            "only": prepared.request.only,
            "overrides": sorted(prepared.request.overrides),
            "data": {name: str(location.path) for name, location in prepared.locations.items() if location.path},
            "command": prepared.request.command,
            "started": now.isoformat(timespec="seconds"),
            "state": "running",
            "process": os.getpid(),
            "host": socket.gethostname(),
            "flow_run": flow_run,
            "attempt": attempt,
            "begun": [],
        }
        atomic_write_bytes(self.folder / "recipe.yaml", dump_recipe(prepared.recipe).encode())
        self.planned(prepared)

    def planned(self, prepared: Prepared) -> None:
        """Takes a plan, the first or a later one, into the record: what it counts on, and what it decided."""
        self.prepared = prepared
        refs = [standing.ref for standing in prepared.standings.values() if standing.ref]
        self.record["plan"] = [ref.model_dump(include={"stage", "key", "digest"}) for ref in refs]
        if prepared.growth:
            self.record["growth"] = prepared.growth.as_json()
        self._write()

    def follows_up(self) -> None:
        """Takes note that the same flow run was tried before: what those attempts have made needs no refreshing again."""
        made: set[str] = set()
        for path in self.folder.parent.glob("*/run.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = read_json(path)
                if path.parent != self.folder and record["flow_run"] == self.record["flow_run"]:
                    made |= {node["node"] for node in record["nodes"] if node["ref"] and not node["cached"]}
        self.made_before = frozenset(made)

    def begins(self, node: Node, inputs: dict[str, ArtifactRef]) -> None:
        """Records that a node is about to be made: its unfinished work, and a training's states, are kept for as long as this run is."""
        entry: dict[str, Any] = {"stage": node.stage, "key": key_of(node, {name: ref.digest for name, ref in inputs.items()})}
        if node.stage == "train" and "train" in node.key_part:
            states = [trajectory_key(node, inputs)]
            if "continues" in node.context:
                states.append(Path(node.context["continues"]["state"]).name)
            entry["trajectories"] = states
        self.record["begun"].append(entry)
        self._write()

    def add(self, result: StageResult) -> None:
        """Records what came of one node."""
        self.results[result.node] = result
        self._write()

    def finish(self, state: RunState, error: str = "") -> dict[str, Any]:
        """Ends the record and puts the report, if there is one, beside it. Returns the record."""
        self.record.update(state=state, ended=datetime.now(UTC).isoformat(timespec="seconds"))
        self.record.pop("plan", None)
        if state == "completed":  # its artifacts say it all
            self.record.pop("begun", None)
        if error:
            self.record["error"] = error
        report = self.results.get("report")
        if report and report.ref:
            made = self.store.path(report.ref) / "report.html"
            if made.exists():
                _link(made, self.folder / "report.html")
                self.record["report"] = str(self.folder / "report.html")
        self._write()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        return self.record

    def report_divergence(self, error: TrainingDiverged) -> Path:
        """Writes `report.html` of a run whose training diverged, and says in the error where it is. Returns its path."""
        from gan_core.reporting.diverged import diverged_page
        from gan_core.reporting.facts import RunFacts

        trajectory = next(entry["trajectories"][0] for entry in reversed(self.record["begun"]) if "trajectories" in entry)
        folders: dict[str, list[Path]] = {}
        for result in self.results.values():
            if result.ref is not None:
                folders.setdefault(result.ref.stage, []).append(self.store.path(result.ref))
        told = {"artifacts": self.artifacts(), "versions": versions(), "run": self.name, "notes": self.prepared.notes}
        facts = RunFacts.told({**told, "command": self.prepared.request.command})
        recipe = self.prepared.recipe.model_dump(mode="json")
        path = self.folder / "report.html"
        page = diverged_page(recipe, folders, self.store.state("train", trajectory), facts, error)
        atomic_write_bytes(path, page.encode())
        self.record["report"] = str(path)
        error.remedy += f"; what led to it: {path}"
        return path

    def artifacts(self) -> list[dict[str, Any]]:
        """What the report is told of every node: which artifact, cached or made, seconds, memory, counts."""
        listed = []
        for result in self.results.values():
            if result.ref is None:
                continue
            listed.append(
                {
                    "node": result.node,
                    **result.ref.model_dump(include={"stage", "key", "digest"}),
                    "path": str(self.store.path(result.ref)),
                    "cached": result.cached,
                    "seconds": result.seconds,
                    "peak_memory_mb": result.peak_memory_mb,
                    **result.outcome.model_dump(include={"counts", "summary", "warnings"}),
                }
            )
        return listed

    def _write(self) -> None:
        nodes = [result.model_dump(mode="json", exclude={"outcome"}) for result in self.results.values()]
        write_json(self.folder / "run.json", {**self.record, "nodes": nodes})


DIED = "Its process ended without a word: killed (by somebody, or for want of memory), or the machine went down."


def dead_runs(home: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and record of each run of this machine that says it is running, and whose process is gone.

    A run holds its lock from before its record is there until after the record says how it ended. Of a home on a shared disk the runs
    of other machines are theirs: not every such disk tells one machine what another has locked.
    """
    found = []
    for path in sorted((home / "runs").glob("*/run.json")):
        with contextlib.suppress(OSError, ValueError):
            if _running_here(read_json(path)) and not held(path.parent / LIVE_LOCK):
                record = read_json(path)  # as it was left: it may have ended between the two looks
                if _running_here(record):
                    found.append((path.parent, record))
    return found


def _running_here(record: dict[str, Any]) -> bool:
    return record.get("state") == "running" and record.get("host") == socket.gethostname()


def bury(folder: Path, record: dict[str, Any]) -> None:
    """Writes down that a run of `dead_runs` has failed; what it had begun stays named, so that `discern gc` knows of it."""
    write_json(folder / "run.json", {**record, "state": "failed", "error": DIED})


def _link(source: Path, target: Path) -> None:
    """A hard link where the disk has them, else a copy."""
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def versions() -> dict[str, str]:
    """Versions of Discern and of what its results depend on, read from package metadata (nothing is imported)."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in (
        "discern-gan",
        "torch",
        "numpy",
        "opencv-python-headless",
        "faiss-gpu",
        "faiss-cpu",
        "pyarrow",
        "scikit-learn",
        "prefect",
    ):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
