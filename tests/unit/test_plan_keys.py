"""Keys: what must change them, and what must never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gan_core import devices, registry
from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import Store
from gan_core.config import ProbeConfig, Recipe
from gan_core.errors import RequestError
from gan_core.features.external.fingerprint import Stamp
from gan_core.pipeline.nodes import Node, Settings, key_of, up_to
from gan_core.pipeline.plan import Plan, build_plan, explain, make_plan
from gan_core.recipes import load_recipe
from gan_core.specs import spec_of


def keys(*overrides: str, fingerprint: str = "f", **settings: Any) -> dict[str, str]:
    """Node id to key, with each node's digest standing for its key (so that a change travels as far
    as it can).
    """
    recipe, _ = load_recipe("digits", overrides=["threads=2", *overrides])
    return keys_of(recipe, fingerprint, **settings)


def keys_of(recipe: Recipe, fingerprint: str = "f", **settings: Any) -> dict[str, str]:
    nodes = build_plan(
        recipe, {source.name: fingerprint for source in recipe.all_sources()}, Settings(**settings)
    )
    found: dict[str, str] = {}
    for node in nodes:
        found[node.id] = key_of(node, found)
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name.split(":")[0] for name in before if before[name] != after[name]}


def test_nothing_outside_the_recipe_enters_a_key() -> None:
    # `auto` depends on the device, and the resolved one is in the key
    same = "train.precision=float32"
    assert keys(same) == keys(
        same, device="cuda", rehash=True, max_seconds=5.0, locations={"digits": Path("elsewhere")}
    )


def test_random_weights_are_those_of_the_method_that_builds_the_network() -> None:
    random = "extract:digits:random"
    assert keys("train.kimg=1")[random] == keys("train.kimg=2")[random]
    assert keys("train.options.first_bias=true")[random] != keys()[random]
    assert keys("train.method=ssgan")[random] != keys()[random]


def test_features_of_several_roles_are_those_of_a_run_of_each() -> None:
    bigan = "train.method=bigan"
    both = keys(bigan, "extract.also=[discriminator, encoder]")
    for role in ("encoder", "discriminator"):
        alone = keys(bigan, f"extract.network={role}")
        name = f"extract:digits:{role}"
        assert both[name] == alone[name]
        assert both[f"evaluate:digits:{role}:linear_svm"] in alone.values()
    assert both["extract:digits:random"] == keys(bigan)["extract:digits:random"]
    assert [name for name in both if name == "extract:digits:encoder"] == ["extract:digits:encoder"]
    with pytest.raises(RequestError, match="discriminator"):
        keys(bigan, "extract.also=[discriminatr]")
    with pytest.raises(RequestError, match="external"):
        keys("extract.network=a:B", "extract.also=[discriminator]")


def test_the_precision_in_the_key_is_the_resolved_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "bf16_units", lambda device: False)
    assert keys("train.precision=auto")["train"] == keys("train.precision=float32")["train"]
    monkeypatch.setattr(devices, "bf16_units", lambda device: True)
    assert keys("train.precision=auto")["train"] == keys("train.precision=bf16")["train"]


def test_a_c_grid_touches_its_probe_and_the_report_alone() -> None:
    before, after = keys(), keys("evaluate.probes.linear_svm.grid=[1e-3]")
    assert {name for name in before if before[name] != after[name]} == {
        "evaluate:digits:discriminator:linear_svm",
        "evaluate:digits:random:linear_svm",
        "evaluate:digits:pixels:linear_svm",
        "report",
    }


def test_kmeans_has_a_grid_of_its_own_and_no_other_cell_knows() -> None:
    baselines = "evaluate.baselines=[pixels, random, kmeans]"
    before, after = (
        keys(baselines),
        keys(baselines, "evaluate.probes.linear_svm.grids.kmeans=[1e-3]"),
    )
    assert {name for name in before if before[name] != after[name]} == {
        "evaluate:digits:kmeans:linear_svm",
        "report",
    }
    probe = ProbeConfig(name="linear_svm", grid=[1e-2], grids={"kmeans": [1e-3]})
    assert probe.values("kmeans") == [1e-3] and probe.values("random") == [1e-2]
    assert ProbeConfig(name="linear_svm").values("kmeans") == [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]
    assert ProbeConfig(name="linear_svm", grid=[1e-2]).values("kmeans") == [1e-2]
    assert (
        ProbeConfig(name="linear_svm").values("random")
        == ProbeConfig(name="logistic").values("kmeans")
        == []
    )


@pytest.mark.parametrize("name", ["cifar10", "tiny-imagenet32-cifar10", "imagenet32-cifar10"])
def test_kmeans_is_in_the_tables_of_full_runs(name: str) -> None:
    for scale in ("debug", "small", "full"):
        evaluate = load_recipe(name, scale=scale)[0].evaluate
        baselines = {baseline.name for baseline in evaluate.baselines}
        assert baselines == {"pixels", "random", *(["kmeans"] if scale == "full" else [])}
        assert (
            evaluate.probes[0].values("kmeans")
            == [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]
            != evaluate.probes[0].values("random")
        )


def test_a_setting_reaches_its_stage_and_what_follows() -> None:
    before = keys()
    assert changed(before, keys("train.kimg=61")) == {
        "train",
        "inspect",
        "extract",
        "evaluate",
        "report",
    }
    after = keys("train.kimg=61")
    assert before["extract:digits:random"] == after["extract:digits:random"], (
        "baselines do not hang on the training"
    )
    assert changed(before, keys("dedup.max_group=999")) >= {"dedup", "pack", "train"}
    assert "hash" not in changed(before, keys("dedup.max_group=999")), (
        "a change of dedup does not re-run hash"
    )
    assert changed(before, keys(fingerprint="g")) >= {"ingest", "crop", "train"}


def test_a_baseline_s_options_touch_its_features_and_no_others() -> None:
    named = "evaluate.baselines=[pixels, {name: kmeans, options: {centres: %d}}]"
    default, other = keys(named % 1600), keys(named % 800)
    assert default == keys("evaluate.baselines=[pixels, kmeans]"), "a default written out"
    assert {name for name in default if default[name] != other[name]} == {
        "extract:digits:kmeans",
        "evaluate:digits:kmeans:linear_svm",
        "evaluate:digits:kmeans:logistic",
        "report",
    }
    with pytest.raises(RequestError, match="option of the baseline kmeans called 'centers'; did"):
        keys("evaluate.baselines=[{name: kmeans, options: {centers: 8}}]")


def test_a_plug_in_s_version_is_in_the_keys_of_what_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = keys()
    raised = ("networks", "dcgan32_svhn")
    monkeypatch.setattr(registry, "version", lambda kind, name: 2 if (kind, name) == raised else 1)
    after = keys()
    assert changed(before, after) == {"train", "extract", "evaluate", "inspect", "report"}
    assert before["extract:digits:pixels"] == after["extract:digits:pixels"]


def test_a_default_written_out_changes_no_stage() -> None:
    before, after = (
        keys(),
        keys(
            "train.beta1=0.5",
            "crop.size=32",
            "evaluate.draws=5",
            "train.log_kimg=1",
            "train.state_kimg=3",
        ),
    )
    assert changed(before, after) <= {"report"}


def test_with_rollback_the_intervals_are_in_the_key() -> None:
    before = keys("train.on_divergence=rollback")
    assert "train" in changed(before, keys("train.on_divergence=rollback", "train.state_kimg=3"))
    assert "train" not in changed(before, keys("train.on_divergence=rollback", "train.grid_kimg=3"))


def test_unlabelled_sources_are_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, _ = load_recipe("digits")
    monkeypatch.setattr(Plan, "has_labels", lambda plan, source: False)
    stages = [node.stage for node in build_plan(recipe, {"digits": "f"}, Settings())]
    assert "evaluate" not in stages and stages.count("extract") == 1 and stages[-1] == "report"


def test_up_to_takes_what_a_stage_reads() -> None:
    recipe, _ = load_recipe("digits")
    nodes = build_plan(recipe, {"digits": "f"}, Settings())
    assert [node.stage for node in up_to(nodes, "pack")] == [
        "ingest",
        "crop",
        "hash",
        "dedup",
        "pack",
    ]
    assert "inspect" not in {node.stage for node in up_to(nodes, "extract")}


def test_inputs_come_first() -> None:
    for name in ("digits", "tiny-imagenet32-cifar10"):
        recipe, _ = load_recipe(name)
        seen: set[str] = set()
        for node in build_plan(
            recipe, {source.name: "f" for source in recipe.all_sources()}, Settings()
        ):
            assert all(inner in seen for ids in node.inputs.values() for inner in ids), node.id
            seen.add(node.id)


def test_look_up_says_what_waits_for_what(tmp_path: Path) -> None:
    recipe, _ = load_recipe("digits")
    found = make_plan(recipe, {"digits": "f"}, Settings(), store=Store(tmp_path)).statuses
    assert (
        found["ingest:digits"].state == "to do" and found["ingest:digits"].why == "not made before"
    )
    assert (
        found["crop:digits"].state == "after" and found["crop:digits"].why == "after ingest:digits"
    )


def add_artifact(store: Store, stage: str, key: str, part: dict[str, Any], at: int) -> None:
    """Publishes an artifact of the node 'STAGE:x' without inputs."""
    work = store.work(stage, key)
    (work / "made.parquet").write_text(key)
    same = {"stage": stage, "version": spec_of(stage).version, "node": f"{stage}:x"}
    made = Manifest(**same, key=key, digest="", part=part, made={"at": str(at)})
    store.publish(work, made, ("*.parquet",))


def test_explain_compares_with_the_artifact_that_differs_least(tmp_path: Path) -> None:
    store = Store(tmp_path)
    node = Node("crop:x", "crop", {}, {"crop": {"size": 64}}, {"images": ("ingest:x",)})
    add_artifact(store, "crop", "old", {"crop": {}}, at=1)
    assert explain(store, node, {"ingest:x": "d"}) == "changed: crop.size, input images (ingest:x)"
    add_artifact(store, "crop", "other recipe", {"crop": {"kind": "face", "margin": 1}}, at=2)
    assert explain(store, node, {"ingest:x": "d"}) == "changed: crop.size, input images (ingest:x)"


def test_explain_names_a_plug_in_whose_version_alone_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    network = {"network": {"name": "dcgan32"}}
    add_artifact(store, "train", "a", network, at=1)
    add_artifact(store, "train", "b", {"network": {"name": "mine"}}, at=2)
    newer = Node("train:x", "train", {}, {**network, "plugins": {"networks/dcgan32": 2}})
    assert explain(store, newer, {}) == "changed: version of networks/dcgan32 (1 to 2)"
    add_artifact(store, "train", "c", newer.key_part, at=3)
    other = Node("train:x", "train", {}, {"network": {"name": "resnet32"}})
    assert explain(store, other, {}) == "changed: network.name"
    newest = Node("train:x", "train", {}, {**network, "plugins": {"networks/dcgan32": 3}})
    assert explain(store, newest, {}) == "changed: version of networks/dcgan32 (2 to 3)"


def test_dedup_s_threshold_re_runs_dedup_and_what_follows_but_not_hash() -> None:
    before, after = keys(), keys("dedup.threshold=0.95")
    assert changed(before, after) == {
        "dedup",
        "pack",
        "train",
        "extract",
        "evaluate",
        "inspect",
        "report",
    }
    assert {
        name: key
        for name, key in before.items()
        if name.split(":")[0] in ("ingest", "crop", "hash")
    }.items() <= after.items()


def test_the_number_of_threads_reaches_dedup() -> None:
    before, after = keys("threads=1"), keys("threads=2")
    assert before["dedup"] != after["dedup"]
    nodes = build_plan(
        load_recipe("digits", overrides=["threads=2"])[0], {"digits": "f"}, Settings()
    )
    assert next(node for node in nodes if node.id == "dedup").part["threads"] == 2


def leaked_inputs(*overrides: str, recipe: str = "digits") -> dict[str, bool]:
    """Evaluate node to whether it reads leaked.parquet."""
    made, _ = load_recipe(recipe, overrides=list(overrides))
    nodes = build_plan(made, {source.name: "f" for source in made.all_sources()}, Settings())
    return {
        node.id: node.inputs.get("leaked") == ("dedup",)
        for node in nodes
        if node.stage == "evaluate"
    }


def test_evaluate_reads_the_leaked_images_only_where_they_are_known_and_wanted() -> None:
    assert all(leaked_inputs().values()) and all(
        leaked_inputs("evaluate.exclude_leaked=true").values()
    )
    for override in (
        "evaluate.exclude_leaked=false",
        "dedup.mode=paper",
        "dedup.mode=off",
        "dedup.leakage=false",
    ):
        assert not any(leaked_inputs(override).values()), override
    assert not any(leaked_inputs(recipe="tiny-imagenet32-cifar10").values()), (
        "CIFAR-10 is not trained on there"
    )
    cell = "evaluate:digits:pixels:linear_svm"
    asked, default, without = (
        keys(f"evaluate.exclude_leaked={value}")[cell] for value in ("true", "null", "false")
    )
    assert asked == default != without


@pytest.mark.parametrize(
    ("recipe", "override"),
    [
        ("digits", "dedup.mode=paper"),
        ("digits", "dedup.leakage=false"),
        ("tiny-imagenet32-cifar10", "seed=1"),
    ],
)
def test_leaving_out_what_no_stage_searches_is_refused(recipe: str, override: str) -> None:
    with pytest.raises(
        RequestError, match=r"^evaluate.exclude_leaked is true, but no stage searches"
    ):
        load_recipe(recipe, overrides=[override, "evaluate.exclude_leaked=true"])


def outside(*overrides: str, digest: str = "w", place: str = "here") -> dict[str, str]:
    """Keys of digits with a network from outside."""
    recipe, _ = load_recipe(
        "digits",
        overrides=[
            "threads=2",
            "extract.network=my_net:Net",
            f"extract.weights={place}",
            *overrides,
        ],
    )
    stamp = Stamp({"my_net.py": "s"}, digest, Path(place), Path(place) / "w.pth")
    found: dict[str, str] = {}
    for node in build_plan(recipe, {"digits": "f"}, Settings(), external=stamp):
        found[node.id] = key_of(node, found)
    return found


def test_fisher_vectors_hang_on_the_snapshot_and_on_no_setting_of_extract() -> None:
    named, node = "evaluate.baselines=[fisher]", "extract:digits:fisher"
    before = keys(named)
    assert before[node] != keys(named, "train.kimg=61")[node]
    assert before[node] == keys(named, "extract.grid=2")[node]
    with pytest.raises(RequestError, match="fisher reads the snapshot of a GAN"):
        outside(named)


def test_with_a_network_from_outside_no_gan_is_planned() -> None:
    stages = {name.split(":")[0] for name in outside()}
    assert stages == {"ingest", "crop", "hash", "dedup", "pack", "extract", "evaluate", "report"}
    assert {name.split(":")[0] for name in outside('dedup.mode="off"')} == stages - {
        "hash",
        "dedup",
    }


def test_weights_count_by_their_digest_and_not_by_their_place() -> None:
    before = outside("evaluate.baselines=[pixels, random, kmeans]")
    assert before == outside("evaluate.baselines=[pixels, random, kmeans]", place="elsewhere")
    after = outside("evaluate.baselines=[pixels, random, kmeans]", digest="v")
    moved = {name for name in before if before[name] != after[name] and name.startswith("extract")}
    assert moved == {"extract:digits:network"}
    assert (
        before["extract:digits:kmeans"]
        == keys("evaluate.baselines=[kmeans]")["extract:digits:kmeans"]
    )
