"""The DCGAN paper's own runs: planned with their needs although the sets are not there, and run
small on stand-ins.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from gan_core.artifacts.store import Store
from gan_core.errors import DataError, RequestError
from gan_core.pipeline.estimates import needs
from gan_core.pipeline.nodes import Settings
from gan_core.pipeline.plan import build_plan
from gan_core.pipeline.request import RunRequest, images_expected, prepare
from gan_core.recipes import load_recipe

PAPER = {"imagenet32-cifar10": 28_672, "svhn": 7_168, "faces64": 30_720, "lsun-bedroom64": 30_720}
ALL = [*PAPER, "tiny-imagenet32-cifar10"]  # the last is the first in small, in mode modern


@pytest.mark.parametrize("name", PAPER)
def test_at_full_scale_it_trains_as_the_authors_did_and_says_what_it_needs(
    name: str, tmp_path: Path
) -> None:
    recipe, _ = load_recipe(name, scale="full")
    train = recipe.train
    assert (
        train.options.get("mode"),
        train.batch,
        train.learning_rate,
        train.beta1,
        train.weight_decay,
    ) == (
        "paper",
        128,
        2e-4,
        0.5,
        1e-5,
    )
    assert (
        not train.flip
        and not train.options.get("augment")
        and recipe.dedup.mode == ("paper" if name == "lsun-bedroom64" else "off")
    )
    asked = RunRequest(
        recipe=name, scale="full", data=[str(tmp_path / "nothing")], home=str(tmp_path / "home")
    )
    store = Store(str(tmp_path / "home"), tmp_path / "home")
    prepared = prepare(asked, store, planning=True)
    expected = images_expected(prepared)
    assert set(expected) == {source.name for source in recipe.all_sources()}
    layout = recipe.sources.train[0].layout
    assert layout and any(layout in note for note in prepared.notes)
    found = needs(recipe, "cpu", expected)
    assert found.features == PAPER[name] and found.training_seconds > 3600
    side, source = recipe.crop.size, recipe.sources.train[0].name
    assert found.disk["training set"] == 3 * side * side * expected[source]
    with pytest.raises((RequestError, DataError)) as caught:
        prepare(asked, store)
    assert caught.value.expected == layout and caught.value.remedy


@pytest.mark.parametrize("name", ALL)
def test_its_plan_is_printed_where_nothing_is_there_yet(name: str, tmp_path: Path) -> None:
    """As typed. Whatever a recipe does about duplicates, the training images are hashed: copies
    among the samples are looked for.
    """
    typed = [
        "run",
        name,
        "--dry-run",
        "--json",
        "--data",
        str(tmp_path / "nothing"),
        "--home",
        str(tmp_path / "home"),
    ]
    done = CliRunner().invoke(app, typed)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    nodes = [node["node"] for node in result["plan"]]
    kinds = {node.partition(":")[0] for node in nodes}
    assert {"pack", "train", "inspect", "extract", "report"} <= kinds
    recipe, _ = load_recipe(name)
    found = {source.name: f"fingerprint of {source.name}" for source in recipe.all_sources()}
    (train,) = [node for node in build_plan(recipe, found, Settings()) if node.id == "train"]
    assert train.inputs == {"pack": ("pack",)}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_at_debug_scale_it_runs_on_a_stand_in(
    name: str, real_data: Path, answer: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    result = answer(
        tmp_path / "home", "run", name, "--data", str(real_data), "--scale", "debug", "--json"
    )
    assert result["state"] == "completed" and result["report"]
    (trained,) = [node for node in result["nodes"] if node["node"] == "train"]
    folder = (
        tmp_path
        / "home"
        / "artifacts"
        / "train"
        / trained["ref"]["key"]
        / trained["ref"]["digest"][:12]
    )
    assert list(folder.glob("snapshot-*.safetensors")) and list(folder.glob("grid-*.png"))
