"""Requests that cannot be meant: said before any work, with a command that works when it is
typed.
"""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import Store
from gan_core.errors import DataError, RequestError
from gan_core.pipeline.preflight import check_before_starting, failed_checks
from gan_core.pipeline.request import Prepared, RunRequest, as_typed, prepare, replan
from gan_core.pipeline.runner import execute
from gan_core.specs import spec_of

OUTSIDE = 'extract.network="torchvision.models:resnet18"'


def images(folder: Path, count: int) -> Path:
    for number in range(count):
        colours = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(colours).save(buffer, "PNG")
        place = folder / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(buffer.getvalue())
    return folder


def planned(home: Path, recipe: str = "digits", **asked: Any) -> Prepared:
    return prepare(RunRequest(recipe=recipe, home=str(home), **asked), Store(home))


def refused(home: Path, recipe: str = "digits", **asked: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        planned(home, recipe, **asked)
    return caught.value


def test_a_stage_that_would_not_be_made_is_not_refreshed(tmp_path: Path) -> None:
    error = refused(tmp_path, until="pack", refresh=["crop", "train"])
    assert (
        "--refresh train would do nothing" in error.message and "`discern prepare`" in error.message
    )
    assert error.remedy == "discern run digits --refresh train"
    assert "report" in refused(tmp_path, until="evaluate", refresh=["report"]).message
    assert "inspect" in refused(tmp_path, until="evaluate", refresh=["inspect"]).message
    error = refused(tmp_path, only="ingest", refresh=["evaluate"])
    assert (
        "--only ingest makes that stage alone" in error.message
        and error.expected == "--refresh with ingest"
    )
    assert "no GAN is trained" in refused(tmp_path, overrides=[OUTSIDE], refresh=["train"]).message


def test_what_is_made_is_refreshed(tmp_path: Path) -> None:
    assert planned(tmp_path, until="pack", refresh=["crop", "pack"]).settings.refresh == {
        "crop",
        "pack",
    }
    alone = planned(tmp_path, only="ingest", refresh=["ingest"])
    assert [node.stage for node in alone.nodes] == ["ingest"], "as the flow `stage` asks"
    prepared = planned(tmp_path, refresh=["ingest", "train"])
    assert replan(prepared, Store(tmp_path), frozenset({"ingest"})).settings.refresh == {"train"}


def test_only_a_stage_that_the_command_makes(tmp_path: Path) -> None:
    error = refused(tmp_path, until="train", only="evaluate", scale="debug")
    assert "`discern train` does not run the stage evaluate" in error.message
    assert error.remedy == "discern run digits --scale debug --only evaluate"
    assert planned(tmp_path, until="train", only="ingest").nodes


def test_scores_that_there_cannot_be_are_refreshed_with_a_note(tmp_path: Path) -> None:
    """That the sources have no labels is known once they are ingested: no mistake of whoever
    asked.
    """
    data = images(tmp_path / "images", 2)
    asked: dict[str, Any] = {
        "recipe": "folder",
        "data": [str(data)],
        "overrides": ["sources.train.folder.options={labels: false}"],
    }
    store = Store(tmp_path / "home")
    first = planned(store.home, **asked, refresh=["evaluate"])
    assert not any("evaluate" in note for note in first.notes)
    execute(store, first.nodes[0], {})
    again = planned(store.home, **asked, refresh=["evaluate"])
    assert any("nothing to evaluate" in note for note in again.notes)
    assert replan(again, store, frozenset()).notes == again.notes, "said once"


@pytest.mark.parametrize(
    "typed",
    [
        "discern status rec/ok.yaml",
        "discern run --network torchvision.models:resnet18",
        "discern train 'a b.yaml' --home x",
    ],
)
def test_the_remedy_repeats_what_was_typed(tmp_path: Path, typed: str) -> None:
    assert refused(tmp_path, "folder", command=typed).remedy == f"{typed} --data PATH"


def test_where_nothing_was_typed_the_remedy_asks_for_the_same(tmp_path: Path) -> None:
    own = tmp_path / "my own.yaml"
    own.write_text("name: mine\nsources: {train: [{name: mine}]}\n")
    error = refused(tmp_path, str(own), until="train", overrides=["train.kimg=2"])
    assert shlex.split(error.remedy) == [
        "discern",
        "train",
        str(own),
        "--set",
        "train.kimg=2",
        "--data",
        "PATH",
    ]


def test_the_remedy_for_missing_inputs_keeps_the_data_and_the_home(tmp_path: Path) -> None:
    data = str(images(tmp_path / "images", 2))
    asked = {"data": [data], "scale": "debug", "refresh": ["evaluate"], "overrides": ["seed=1"]}
    error = refused(
        tmp_path,
        "folder",
        only="evaluate",
        command=f"discern run folder --home={tmp_path}",
        **asked,
    )
    same = f"folder --scale debug --data {data} --set seed=1 --home {tmp_path}"
    assert (
        error.remedy
        == f"`discern run {same}` makes them; `discern status {same}` shows what is there"
    )


def test_a_place_is_given_once(tmp_path: Path) -> None:
    error = refused(tmp_path, "folder", data=["folder=/a", "folder=/b"])
    assert (
        "twice for the source 'folder'" in error.message
        and "/a" in error.message
        and "/b" in error.message
    )


def test_a_request_as_it_is_typed() -> None:
    asked = RunRequest(
        recipe="folder",
        home="/h",
        data=["a b"],
        until="pack",
        only="crop",
        max_seconds=3,
        runner="dask:2",
        rehash=True,
    )
    assert as_typed(asked) == (
        "discern prepare folder --only crop --max-seconds 3.0 --data 'a b' --runner dask:2 --rehash"
    )
    assert as_typed(asked.model_copy(update={"command": "discern x --home /h"})).endswith(
        "--home /h --rehash"
    )
    assert as_typed(asked.model_copy(update={"command": "a schedule's 'half"})) == as_typed(asked)


def test_a_plan_knows_what_the_run_would_be_refused_for(tmp_path: Path) -> None:
    (size,) = failed_checks(planned(tmp_path, overrides=["crop.size=64"]))
    assert (
        size.for_good and size.error.exit_code == 2 and "images of 32 pixels" in size.error.message
    )
    with pytest.raises(RequestError, match="images of 32 pixels"):
        check_before_starting(planned(tmp_path, overrides=["crop.size=64"]))
    (uneven,) = failed_checks(planned(tmp_path, overrides=["train.batch=33", "train.processes=2"]))
    assert uneven.for_good and "shared evenly" in uneven.error.message
    (long,) = failed_checks(planned(tmp_path, overrides=["train.kimg=10_000_000"], device="cpu"))
    assert not long.for_good and "hours on cpu" in long.error.message
    assert not list(failed_checks(planned(tmp_path, until="pack", overrides=["crop.size=64"])))
    assert not list(
        failed_checks(
            planned(tmp_path, overrides=["train.kimg=10_000_000"], device="cpu", max_seconds=60)
        )
    )


def test_fewer_images_than_a_batch_are_refused_once_they_are_counted(tmp_path: Path) -> None:
    """Before hash, dedup and pack have spent their time."""
    data = images(tmp_path / "images", 12)
    store = Store(tmp_path / "home")
    asked: dict[str, Any] = {"recipe": "folder", "data": [str(data)], "scale": "debug"}
    before = planned(store.home, **asked)
    check_before_starting(before)
    execute(store, before.nodes[0], {})
    with pytest.raises(DataError, match=r"has \d+ images, and one batch takes 32") as caught:
        check_before_starting(planned(store.home, **asked))
    assert "more images, or --set train.batch=" in caught.value.remedy
    (small,) = failed_checks(planned(store.home, **asked))
    assert small.for_good
    check_before_starting(planned(store.home, **asked, until="pack"))
    check_before_starting(planned(store.home, **asked, overrides=["train.batch=4"]))
    check_before_starting(
        planned(store.home, **asked, overrides=["crop.kind=faces"])
    )  # an image may hold several


def test_a_training_starts_from_a_file_or_an_artifact_and_its_digest_is_in_the_key(
    tmp_path: Path,
) -> None:
    method = "train.method=latent_regression"
    error = refused(tmp_path, overrides=[method])
    assert "needs the generator of a finished training" in error.message
    assert "train.start" in error.expected

    def train_node(start: str) -> Any:
        asked = [method, f"train.start={start}"]
        return planned(tmp_path, overrides=asked).statuses["train"]

    folder = publish(tmp_path, b"weights")
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    one.write_bytes(b"weights")
    other.write_bytes(b"other weights")
    places = [str(one), str(folder), folder.relative_to(tmp_path).as_posix(), folder.parent.name]
    nodes = [train_node(place).node for place in places]
    assert all(node.key_part == nodes[0].key_part for node in nodes)
    assert nodes[0].context["start"] == str(one)
    assert all(str(folder) in node.context["start"] for node in nodes[1:])
    assert train_node(str(other)).node.key_part != nodes[0].key_part
    assert (
        "There is no snapshot"
        in refused(tmp_path, overrides=[method, "train.start=artifacts/train/0123456789"]).message
    )


def publish(home: Path, weights: bytes) -> Path:
    """A train artifact with one snapshot file."""
    store = Store(home)
    key = "ab" * 16
    work = store.work("train", key)
    (work / "snapshot-000001.safetensors").write_bytes(weights)
    manifest = Manifest(stage="train", version=1, key=key, digest="", node="train", part={})
    ref, _ = store.publish(work, manifest, spec_of("train").content)
    return store.path(ref)
