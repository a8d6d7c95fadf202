"""What a training set that has grown does to training: the snapshot stays, is trained again, or is
trained further.

Nothing but the store remembers "the present training": it is the training artifact with the same
settings whose set shares the most images with the one at hand. So the choice is a function of what
the store holds, and keys stay honest:

* kept: the plan pins that artifact. Its key says what it was trained on; features made with it
  name, as inputs, the set that it was trained on (`pack`, also for batch-norm statistics and
  baselines) and the set that there is now (`grown`).
* continued: a key of its own, with the digest of the training that it goes on from.
* trained again: the key that the grown set has anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gan_core.artifacts.manifest import Manifest, make_key, problems
from gan_core.artifacts.store import Store
from gan_core.config import Recipe, TrainConfig
from gan_core.contract import ArtifactRef
from gan_core.pipeline.nodes import Node, NodeStatus
from gan_core.specs import spec_of

if TYPE_CHECKING:
    import pyarrow as pa

# a set that holds less than this share of a training's images is another set, not a grown one
SAME_SET = 0.5


@dataclass(frozen=True)
class Growth:
    """A decision about a training set that has grown.

    Attributes:
        action: keep the present training, or continue from its last state.
        training: the present training.
        older_set: what it was trained on, where that is not the set at hand.
        new_images, all_images: of the set at hand, those that the training has not seen, and all.
        state: folder of its checkpoints, for `continue`.
        kimg: length of the whole training when it is continued.
    """

    action: Literal["keep", "continue"]
    training: Manifest
    older_set: ArtifactRef | None
    new_images: int
    all_images: int
    state: Path | None = None
    kimg: float = 0.0

    @property
    def kept_set(self) -> ArtifactRef | None:
        """The set that stays in use with a training that is kept; None where everything rests on
        the set at hand.
        """
        return self.older_set if self.action == "keep" else None

    def applied(self, node: Node) -> Node:
        """The train node of the plan, as decided."""
        if self.action == "keep":
            inputs: dict[str, tuple[str, ...]] = {"pack": ("pack:trained",), "grown": ("pack",)}
            return replace(
                node, inputs=inputs if self.kept_set else node.inputs, pinned=self.training.ref()
            )
        continued = {"training": self.training.digest, "kimg": node.part["train"]["kimg"]}
        context = {"state": str(self.state), "images": images_of(self.training)}
        return replace(
            node,
            part={
                **node.part,
                "train": {**node.part["train"], "kimg": self.kimg},
                "continued": continued,
            },
            key_part={
                **node.key_part,
                "train": {**node.key_part["train"], "kimg": self.kimg},
                "continued": continued,
            },
            context={**node.context, "continues": context},
        )

    def sentence(self) -> str:
        """For people: what has grown, and what is done about it."""
        share = self.new_images / max(1, self.all_images)
        grown = (
            f"{self.new_images:,} of {self.all_images:,} training images ({share:.1%}) are new "
            "since the present snapshot"
        )
        if self.action == "continue":
            return f"{grown}: training goes on from its state to {self.kimg:g} kimg."
        return f"{grown}: it stays, and they get features and scores from it."

    def as_json(self) -> dict[str, Any]:
        """For the run's record."""
        facts = {
            "how": self.action,
            "training": self.training.digest,
            "new": self.new_images,
            "of": self.all_images,
        }
        return {**facts, "trained_on": self.older_set.digest} if self.older_set else facts


def handles_growth(recipe: Recipe) -> bool:
    """Whether the recipe does anything but train on the set as it is."""
    train = recipe.train
    return train.snapshot is None and (train.on_new_data != "retrain" or train.min_new_share > 0)


def decide(
    store: Store, recipe: Recipe, statuses: dict[str, NodeStatus]
) -> tuple[Growth | None, str]:
    """What to do about the training set, once it is packed; and a sentence about it for people (''
    for nothing to say).

    A training of exactly this set goes before everything else.
    """
    train, pack = statuses.get("train"), statuses.get("pack")
    if (
        not handles_growth(recipe)
        or train is None
        or train.state != "to do"
        or pack is None
        or pack.ref is None
    ):
        return None, ""
    found = present_training(store, train.node, pack.ref)
    if found is None:
        return None, ""
    training, older_set, new, of = found
    kept = Growth("keep", training, older_set, new, of)
    if older_set is None:
        return kept, ""
    how = recipe.train.on_new_data
    if how == "ignore" or new / max(1, of) < recipe.train.min_new_share:
        return kept, kept.sentence()
    if how == "retrain":
        return (
            None,
            f"{new:,} of {of:,} training images are new since the present snapshot: it is trained "
            "from the beginning.",
        )
    state = last_state(store, training)
    if state is None:
        return (
            None,
            "The checkpoint of the present training is gone, so it cannot be continued: training "
            "begins again on the grown set.",
        )
    more = recipe.train.continue_kimg or recipe.train.kimg
    on = replace(kept, action="continue", state=state, kimg=images_of(training) / 1000 + more)
    return on, on.sentence()


def present_training(
    store: Store, node: Node, pack: ArtifactRef
) -> tuple[Manifest, ArtifactRef | None, int, int] | None:
    """The training with the node's settings whose set shares the most images with `pack`.

    Returns: (its manifest, its set or None where that is `pack`, new images in `pack`, all images
        in `pack`), or None where no training saw a set of which at least half is still there.
        Between equals, the one made last.
    """
    now: pa.Array | None = None
    best: tuple[tuple[int, str, str], Manifest, ArtifactRef | None] | None = None
    for ref in store.artifacts.refs("train"):
        manifest = store.find("train", ref.key)
        if manifest is None or manifest.digest != ref.digest or not _same_settings(manifest, node):
            continue
        sets = manifest.inputs.get("pack", [])
        older = store.artifacts.get(sets[0]) if len(sets) == 1 else None
        if older is None or problems(store.path(sets[0]), older, deep=False):
            continue
        now = images(store.path(pack)) if now is None else now
        before = now if sets[0].digest == pack.digest else images(store.path(sets[0]))
        shared = _shared(now, before)
        if shared < SAME_SET * len(before):
            continue
        rank = (shared, str(manifest.made.get("at", "")), manifest.key)
        if best is None or rank > best[0]:
            best = (rank, manifest, None if sets[0].digest == pack.digest else sets[0])
    if best is None or now is None:
        return None
    (shared, _, _), manifest, older_set = best
    return manifest, older_set, len(now) - shared, len(now)


def images(folder: Path) -> pa.Array:
    """What identifies a packed image: image, box and content, as one text each."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "crops.parquet", columns=["image_id", "box", "content_sha256"])
    joined = pc.binary_join_element_wise(
        table["image_id"], pc.cast(table["box"], "string"), table["content_sha256"], " "
    )
    return joined.combine_chunks()


def _shared(now: pa.Array, before: pa.Array) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.is_in(now, value_set=before)).as_py() or 0)


def _same_settings(manifest: Manifest, node: Node) -> bool:
    """Whether a training was asked for with the node's settings, counting a continued one by the
    length it began with.
    """
    if manifest.version != spec_of("train").version or "train" not in manifest.part:
        return False
    return _asked(manifest.part) == _asked(node.key_part)


def _asked(part: dict[str, Any]) -> dict[str, Any]:
    length = (
        part["continued"]["kimg"]
        if "continued" in part
        else part["train"].get("kimg", TrainConfig().kimg)
    )
    rest = {name: value for name, value in part.items() if name not in ("train", "continued")}
    return {
        **rest,
        **{name: value for name, value in part["train"].items() if name != "kimg"},
        "kimg": float(length),
    }


def images_of(training: Manifest) -> int:
    """Real images that a training has shown to its discriminator."""
    return round(float(training.outcome.summary["kimg"]) * 1000)


def trajectory_of(version: int, part: dict[str, Any], digests: dict[str, list[str]]) -> str:
    """What decides the path of a training but not its length: longer training continues from the
    state kept under it, unless the schedule of the rate ends with the training.
    """
    schedule = part["train"].get("schedule", {})
    ends = schedule.get("kind", "constant") != "constant" and not schedule.get("until_kimg")
    train = {name: value for name, value in part["train"].items() if ends or name != "kimg"}
    return make_key("trajectory", version, {**part, "train": train}, digests)


def state_folder(store: Store, training: Manifest) -> Path:
    """Where the states of a finished training lie, if they are still there."""
    digests = {role: [ref.digest for ref in refs] for role, refs in training.inputs.items()}
    return store.home / "state" / "train" / trajectory_of(training.version, training.part, digests)


def last_state(store: Store, training: Manifest) -> Path | None:
    """The folder of a training's states when the one at its end is among them."""
    folder = state_folder(store, training)
    return (
        folder
        if (folder / f"state-{images_of(training):012d}" / "manifest.json").is_file()
        else None
    )
