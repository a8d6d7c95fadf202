"""The chain: which node a stage becomes for a recipe, with its settings and its inputs.

One function for each stage, in the order of the data flow. `plan.py` calls them and asks the store;
the flow runs what they return.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_core import registry
from gan_core.config import (
    ExtractConfig,
    ProbeConfig,
    Recipe,
    SourceConfig,
    TrainConfig,
)
from gan_core.config.evaluation import BaselineConfig
from gan_core.contract import ArtifactRef
from gan_core.devices import resolve_compile, resolve_precision, resolve_processes
from gan_core.errors import RequestError
from gan_core.features.external.fingerprint import Stamp, from_outside, stamp_of
from gan_core.files import sha256_file
from gan_core.pipeline.nodes import EXTERNAL, Inputs, Node, Settings, plugins
from gan_core.specs import REPORT_ROLES, spec_of

# Settings of a source that no image depends on: for people, and for finding it.
_NOT_CONTENT = frozenset({"folder", "layout", "images"})
# Settings of `train` that choose between trainings; they are in no key.
_CHOOSING = ("on_new_data", "min_new_share", "continue_kimg")


@dataclass(frozen=True)
class Chain:
    """What all stages of a run share.

    Attributes:
        fingerprints: source name to fingerprint.
        external: the external network whose features are extracted; then no GAN is trained.
        kept_set: the training set of a kept training, where that is not the present one.
    """

    recipe: Recipe
    fingerprints: dict[str, str]
    settings: Settings
    external: Stamp | None = None
    kept_set: ArtifactRef | None = None

    @property
    def dedups(self) -> bool:
        """Whether near-duplicates are searched."""
        return self.recipe.dedup.mode != "off"

    @property
    def common(self) -> dict[str, Any]:
        """Settings in the key of every stage that computes."""
        return {"seed": self.recipe.seed, "threads": self.recipe.threads}

    @property
    def device(self) -> dict[str, Any]:
        """Where a stage computes: in no key."""
        return {"device": self.settings.device}

    @property
    def modules(self) -> dict[str, Any]:
        """The network and the method of the recipe: a snapshot may import these modules."""
        train = self.recipe.train
        return {"allow": [train.network.name, train.method]}

    @property
    def training_crops(self) -> Inputs:
        """The crops of all training sources."""
        return {"crops": tuple(f"crop:{source.name}" for source in self.recipe.sources.train)}

    @property
    def duplicates(self) -> Inputs:
        """What dedup found, where it runs."""
        return {"duplicates": ("dedup",)} if self.dedups else {}

    @property
    def trained_on(self) -> Inputs:
        """The set that the snapshot was trained on; lineage names the present set too."""
        if self.kept_set is None:
            return {"pack": ("pack",)}
        return {"pack": ("pack:trained",), "grown": ("pack",)}

    def location(self, source: SourceConfig) -> dict[str, Any]:
        """Where a source's files lie."""
        path = self.settings.locations.get(source.name)
        return {"location": str(path) if path else None}


def ingest(chain: Chain, source: SourceConfig) -> Node:
    """One row for each image of a source."""
    fingerprint = {"fingerprint": chain.fingerprints[source.name]}
    content = {name: v for name, v in source.key_part().items() if name not in _NOT_CONTENT}
    return Node(
        f"ingest:{source.name}",
        "ingest",
        {"source": source.model_dump(mode="json"), **fingerprint},
        {"source": content, **fingerprint, **plugins(("datasets", source.dataset))},
        context={**chain.location(source), "rehash": chain.settings.rehash},
    )


def crop(chain: Chain, source: SourceConfig) -> Node:
    """The crops of a source's images."""
    settings = chain.recipe.crop
    return Node(
        f"crop:{source.name}",
        "crop",
        {"crop": settings.model_dump(mode="json")},
        {"crop": settings.key_part(), **plugins(("datasets", source.dataset))},
        {"images": (f"ingest:{source.name}",)},
        {**chain.location(source), "source": source.model_dump(mode="json")},
    )


def hash_crops(chain: Chain) -> Node:
    """A code for each training crop."""
    settings, common = chain.recipe.hash, chain.common
    return Node(
        "hash",
        "hash",
        {"hash": settings.model_dump(mode="json"), **common},
        {"hash": settings.key_part(), **common},
        chain.training_crops,
    )


def dedup(chain: Chain) -> Node:
    """Which training crops are near-duplicates of which."""
    settings, threads = chain.recipe.dedup, {"threads": chain.recipe.threads}
    return Node(
        "dedup",
        "dedup",
        {"dedup": settings.model_dump(mode="json"), **threads},
        {"dedup": settings.key_part(), **threads},
        {"codes": ("hash",), **chain.training_crops},
    )


def pack(chain: Chain) -> Node:
    """The training set."""
    return Node("pack", "pack", {}, {}, {**chain.training_crops, **chain.duplicates})


def pack_of_kept_training(chain: Chain) -> Node:
    """The training set of a training that is kept although there is a larger set now."""
    return Node("pack:trained", "pack", {}, {}, pinned=chain.kept_set)


def train(chain: Chain) -> Node:
    """The GAN, or the imported snapshot that the recipe names."""
    recipe, device = chain.recipe, chain.settings.device
    if recipe.train.snapshot is not None:
        named = {"snapshot": recipe.train.snapshot}
        return Node("train", "train", named, named, {}, chain.device)
    # Resolved settings are in the key like the number of threads: sums depend on them.
    resolved = {
        "precision": resolve_precision(recipe.train.precision, device),
        "processes": resolve_processes(recipe.train.processes, device),
        "compile": resolve_compile(recipe.train.compile, device),
    }
    defaults = TrainConfig()
    choosing = {name: getattr(defaults, name) for name in _CHOOSING}
    start = chain.settings.start
    if start is not None:
        resolved["start"] = start.digest
    settings = recipe.train.model_copy(update={**resolved, **choosing})
    common = {**chain.common, "image_size": recipe.crop.size}
    used = (("methods", settings.method), ("networks", settings.network.name))
    return Node(
        "train",
        "train",
        {"train": settings.model_dump(mode="json"), **common},
        {"train": _trajectory(settings, device), **common, **plugins(*used)},
        {"pack": ("pack",)},
        {
            **chain.device,
            "max_seconds": chain.settings.max_seconds,
            **({"start": str(start.path)} if start else {}),
        },
    )


def _trajectory(settings: TrainConfig, device: str) -> dict[str, Any]:
    """The settings that decide the weights."""
    keyless = set(spec_of("train").keyless)
    if settings.on_divergence == "rollback":  # it goes back to what was checked and saved
        keyless -= {"log_kimg", "state_kimg"}
    if settings.choose == "best_probe":  # where the probe is fitted decides which weights go on
        keyless -= {"log_kimg", "probe_kimg"}
    if settings.compile == resolve_compile("auto", device):  # follows from the device
        keyless.add("compile")
    return {name: value for name, value in settings.key_part().items() if name not in keyless}


def inspect(chain: Chain, name: str, options: dict[str, Any]) -> Node:
    """One inspection of the trained networks.

    Its file's `NEEDS` says what it reads in addition to them and the training set: 'features' (of
    the first source that is evaluated, and its crops).
    """
    train = chain.recipe.train
    part = {"inspection": {"name": name, "options": options}, **chain.common}
    keyed = {"inspection": {"name": name, "options": _keyed_options(options)}, **chain.common}
    inputs: Inputs = {"snapshot": ("train",), "pack": chain.trained_on["pack"]}
    if "features" in registry.literal("inspection", name, "NEEDS", ()):
        source = chain.recipe.evaluated()[0].name
        inputs["crops"] = (f"crop:{source}",)
        inputs["features"] = (f"extract:{source}:{chain.recipe.extract.network}",)
    return Node(
        f"inspect:{name}",
        "inspect",
        part,
        {**keyed, **plugins(("inspection", name), ("networks", train.network.name))},
        inputs,
        {**chain.device, **chain.modules},
    )


def _keyed_options(options: dict[str, Any]) -> dict[str, Any]:
    """An inspection's options for the key: weights and a segmenter of the user's by the digests of
    their files, not by where they lie.
    """
    if (weights := options.get("weights")) and Path(weights).expanduser().is_file():
        return {**options, "weights": sha256_file(Path(weights).expanduser())}
    segmenter = options.get("segmenter") or {}
    if not from_outside(segmenter.get("network", "")):
        return options
    config = ExtractConfig(network=segmenter["network"], weights=segmenter.get("weights") or None)
    stamp = stamp_of(config, Path.cwd())
    assert stamp is not None
    return {**options, "segmenter": {**segmenter, **stamp.part()}}


def extract(chain: Chain, source: str, role: str) -> Node:
    """Features of a role of the trained networks, or of an external network."""
    recipe = chain.recipe
    settings = recipe.extract.of_role(role)
    kind = EXTERNAL if chain.external else role
    part: dict[str, Any] = {"features": kind, **chain.common}
    key_part = {**part, "extract": _activations(settings)}
    part["extract"] = settings.model_dump(mode="json")
    inputs = {"crops": (f"crop:{source}",), **chain.duplicates, **chain.trained_on}
    context = chain.device
    if chain.external:
        part["external"] = key_part["external"] = chain.external.part(weights=True)
        context |= chain.external.context(weights=True)
    else:
        inputs["snapshot"] = ("train",)
        context |= chain.modules
        key_part |= plugins(("networks", recipe.train.network.name))
    return Node(f"extract:{source}:{kind}", "extract", part, key_part, inputs, context)


def extract_baseline(chain: Chain, source: str, baseline: BaselineConfig) -> Node:
    """Features of a baseline.

    Its file's `NEEDS` says what it reads in addition to the crops: 'pack' (the training images),
    'network' (the architecture and the settings of extract), 'snapshot' (the trained networks).

    Raises: RequestError: it needs a snapshot, and the network is an external one.
    """
    recipe, name = chain.recipe, baseline.name
    needs = _needs(baseline)
    used = [("baselines", name)]
    part: dict[str, Any] = {"features": name, "options": baseline.options, **chain.common}
    key_part = dict(part)
    inputs: Inputs = {"crops": (f"crop:{source}",), **chain.duplicates}
    inputs |= chain.trained_on if "pack" in needs else {}
    context = chain.device if needs else {"device": "cpu"}
    if "network" in needs:
        settings = recipe.extract.of_role(recipe.extract.network)
        part["extract"] = settings.model_dump(mode="json")
        key_part["extract"] = _activations(settings)
        if chain.external:
            part["external"] = key_part["external"] = chain.external.part(weights=False)
            context |= chain.external.context(weights=False)
        else:
            network = recipe.train.network
            size: dict[str, Any] = {"image_size": recipe.crop.size}
            built = recipe.train.key_part()
            trained = {name: built[name] for name in ("method", "options") if name in built}
            size |= {"training": trained} if trained else {}
            part |= {"network": network.model_dump(mode="json"), **size}
            key_part |= {"network": network.key_part(), **size}
            used += [("networks", network.name), ("methods", recipe.train.method)]
    if "snapshot" in needs:
        if chain.external:
            raise RequestError(
                f"The baseline {name} reads the snapshot of a GAN, and the features of an external "
                "network need none.",
                remedy=f"leave {name} out of evaluate.baselines",
            )
        inputs["snapshot"] = ("train",)
        context |= chain.modules
        used += [("networks", recipe.train.network.name), ("methods", recipe.train.method)]
    key_part |= plugins(*used)
    return Node(f"extract:{source}:{name}", "extract", part, key_part, inputs, context)


def _needs(baseline: BaselineConfig) -> tuple[str, ...]:
    return tuple(registry.literal("baselines", baseline.name, "NEEDS", ("pack",)))


def _activations(settings: ExtractConfig) -> dict[str, Any]:
    """The settings of extract in a key: the place of the weights is not, their digest is."""
    return {name: value for name, value in settings.key_part().items() if name != "weights"}


def evaluate(chain: Chain, features: Node, probe: ProbeConfig) -> Node:
    """One cell: a probe on some features."""
    settings = chain.recipe.evaluate
    _, source, kind = features.id.split(":")
    # The values that are tried on these features alone: another grid for some features re-runs no
    # cells of others.
    chosen: dict[str, Any] = {"name": probe.name, "grid": probe.values(kind)}
    if probe.options:
        chosen["options"] = probe.options
    if probe.prepare:
        chosen["prepare"] = probe.prepare
    # Whether leaked images are left out shows as an input.
    apart = {"probes", "baselines", "exclude_leaked"}
    protocol = {name: value for name, value in settings.key_part().items() if name not in apart}
    inputs: Inputs = {"features": (features.id,)}
    if settings.exclude_leaked is not False and chain.recipe.searches_leaks(source):
        inputs["leaked"] = ("dedup",)
    common = {"probe": chosen, "features": kind, **chain.common}
    return Node(
        f"evaluate:{source}:{kind}:{probe.label}",
        "evaluate",
        {**common, "protocol": settings.model_dump(mode="json")},
        {**common, "protocol": protocol, **plugins(("probes", probe.name))},
        inputs,
        chain.device,
    )


def reference_cells(chain: Chain, features: list[Node]) -> list[Node]:
    """Cells of the probes that need no features (chance), on the smallest features."""
    light = {b.name for b in chain.recipe.evaluate.baselines if not _needs(b)}
    small = [node for node in features if node.id.rpartition(":")[2] in light]
    on = next(iter([*small, *features]))
    return [
        evaluate(chain, on, ProbeConfig(name=name))
        for name in registry.names("probes")
        if registry.literal("probes", name, "REFERENCE", False)
    ]


def report(chain: Chain, nodes: list[str]) -> Node:
    """The report over all that was made. Args: nodes: their ids."""
    recipe = chain.recipe
    inputs: dict[str, list[str]] = {role: [] for role in REPORT_ROLES.values()}
    for node in nodes:
        inputs[REPORT_ROLES[node.split(":")[0]]].append(node)
    part = {
        "report": recipe.report.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
    }
    keyed = recipe.key_part()
    # paths: the digests of the inputs identify their files
    keyed.get("extract", {}).pop("weights", None)
    keyed.get("train", {}).pop("start", None)
    given = {role: tuple(ids) for role, ids in inputs.items() if ids}
    return Node("report", "report", part, {"recipe": keyed}, given)
