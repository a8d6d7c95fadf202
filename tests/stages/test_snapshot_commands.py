"""`discern sample` and `discern import` as typed, what becomes of an imported snapshot, and what a
report says of a training.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from gan_core.config import TrainConfig
from gan_core.errors import RequestError
from gan_core.inspection.memorisation import draw
from gan_core.networks.snapshot import load_snapshot, write_snapshot
from gan_core.progress import silent
from gan_core.reporting.page import gan_words, warnings
from gan_core.reporting.run_info import RunFacts
from gan_core.stages import evaluate, extract, train
from gan_core.training.trainer_state import build
from tests.packs import write_pack
from tests.stages.digits_artifacts import digits_crops, evaluate_request, extract_request, given


def answer(*arguments: object, code: int = 0) -> Any:
    """What a command prints with --json, on standard output."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if done.exit_code != code and done.exception is not None:
        raise done.exception
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def snapshot(folder: Path, method: str = "dcgan") -> Path:
    state = build(TrainConfig(network={"width": 0.125}), seed=0, device="cpu", image_size=32)
    meta = {
        "method": method,
        "network": state.spec,
        "prior": {"distribution": "uniform", "dim": 100, "classes": 0},
    }
    return write_snapshot(
        folder / "snapshot-000001.safetensors", state.networks, state.grid_latents, meta
    )


def test_sample_draws_a_grid_and_rejects_copies_of_training_images(tmp_path: Path) -> None:
    path, pack = snapshot(tmp_path), tmp_path / "pack"
    plain = answer("sample", path, "--n", 16, "--out", tmp_path / "a.png", "--columns", 4)
    assert plain["rejected"] == 0
    assert cv2.imread(str(tmp_path / "a.png")).shape[:2] == (4 * 32 + 5 * 2,) * 2
    mine, _ = draw(load_snapshot(path), 60, seed=0)  # what `sample` draws first
    noise = np.random.default_rng(5).integers(0, 256, (40, 32, 32, 3), np.uint8)
    write_pack(pack, np.concatenate([mine, noise]))
    result = answer(
        "sample", path, "--n", 16, "--out", tmp_path / "b.png", "--reject-collisions", pack
    )
    assert result["samples"] == 16 and result["rejected"] >= 50
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.data
def test_imported_weights_are_checked_sampled_and_taken_features_of(
    real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / "dcgan-authors-svhn"
    result = answer("import", "dcgan-authors", folder, "--check", "--home", tmp_path / "home")
    assert len(result["check"]) == 5 and all(figure["right"] for figure in result["check"])
    path = Path(result["snapshot"])
    assert answer("sample", path, "--n", 4, "--out", tmp_path / "a.png")["snapshot"] == str(path)
    crops = digits_crops(tmp_path / "crops", count=200)
    inputs = {"snapshot": [given("train", path.parent)]}
    taken = extract.run(
        extract_request(crops, tmp_path / "features", "discriminator", inputs=inputs), silent
    )
    assert taken.complete
    evaluate.run(
        evaluate_request(
            tmp_path / "features", tmp_path / "cell", grid=[1e-3], draws=1, labels_per_class=[8]
        ),
        silent,
    )
    scores = pq.read_table(tmp_path / "cell" / "scores.parquet").to_pylist()
    assert max(row["test_accuracy"] for row in scores) > 0.6, (
        "features learned on house numbers distinguish digits"
    )


@pytest.mark.data
def test_weights_that_are_not_the_released_ones_are_not_imported(
    real_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(real_data / "dcgan-authors-svhn", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    path = (
        folder / "200_discrim_params.jl_01.npy"
    )  # no batch norm follows it and takes the factor away
    np.save(path, np.load(path) * 1.5)
    result = answer(
        "import", "dcgan-authors", folder, "--check", "--home", tmp_path / "home", code=1
    )
    assert not all(figure["right"] for figure in result["check"]) and result["snapshot"] is None
    assert not list((tmp_path / "home").rglob("snapshot-*.safetensors"))


def test_sample_replaces_its_own_grids_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, grid, mine = snapshot(tmp_path), tmp_path / "grid.png", tmp_path / "mine.png"
    answer("sample", path, "--n", 4, "--out", grid)
    first = grid.read_bytes()
    assert cv2.imread(str(grid)) is not None
    answer("sample", path, "--n", 4, "--seed", 1, "--out", grid)
    assert grid.read_bytes() != first
    cv2.imwrite(str(mine), np.zeros((8, 8, 3), np.uint8))
    photo = mine.read_bytes()
    for out, words in (
        (mine, "was not written by this command"),
        (tmp_path / "table.parquet", r"no PNG"),
        (tmp_path, "no PNG"),
        (tmp_path / "none" / "x.jpg", "no PNG"),
    ):
        with pytest.raises(RequestError, match=words):
            answer("sample", path, "--n", 4, "--out", out)
    assert mine.read_bytes() == photo
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RequestError, match="is a folder"):
        answer("sample", path, "--n", 4, "--out", tmp_path / "folder.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot be written: (Not a directory|File exists)"):
        answer("sample", path, "--n", 4, "--out", tmp_path / "file" / "a.png")
    answer("sample", path, "--n", 4, "--out", mine, "--force")
    assert mine.read_bytes() == first
    with pytest.raises(RequestError, match="1,000,000,000 samples of 32 x 32 pixels take"):
        answer("sample", path, "--n", 10**9, "--out", grid)
    with pytest.raises(
        RequestError, match="is of the network dcgan32_svhn, and --network names json"
    ):
        answer("sample", path, "--n", 4, "--out", grid, "--network", "json")


def test_a_method_from_outside_is_imported_where_the_command_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "mine.py").write_text("from gan_core.methods.dcgan import *")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = snapshot(tmp_path, method="my_methods.mine")
    drawn = ("sample", path, "--n", 4, "--out", tmp_path / "grid.png")
    with pytest.raises(RequestError) as caught:
        answer(*drawn)
    assert "discern sample --method my_methods.mine" in caught.value.remedy
    assert answer(*drawn, "--method", "my_methods.mine")["samples"] == 4
    inspected = ("inspect", path, "--only", "samples", "--out", tmp_path / "inspection")
    assert answer(*inspected, "--method", "my_methods.mine")["inspections"]


def test_a_folder_without_training_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no training images"):
        answer(
            "sample",
            snapshot(tmp_path),
            "--out",
            tmp_path / "a.png",
            "--reject-collisions",
            tmp_path,
        )


def test_a_network_from_outside_goes_through_the_stages_where_the_recipe_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "net.py").write_text("from gan_core.networks.dcgan32_svhn import *")
    monkeypatch.syspath_prepend(str(tmp_path))
    crops = digits_crops(tmp_path / "crops", count=80)
    settings = {"network": {"name": "elsewhere.net", "width": 0.125}, "batch": 16, "kimg": 0.032}
    asked = extract_request(crops, tmp_path / "train")
    asked = asked.model_copy(
        update={
            "part": {"train": settings, "seed": 0, "threads": 1},
            "inputs": {"pack": [given("pack", crops)]},
        }
    )
    assert train.run(asked, silent).complete
    inputs = {"snapshot": [given("train", tmp_path / "train")]}
    taken = extract_request(crops, tmp_path / "features", "discriminator", inputs=inputs)
    with pytest.raises(RequestError, match=r"elsewhere\.net"):
        extract.run(taken, silent)
    named = taken.model_copy(update={"context": {**taken.context, "allow": ["elsewhere.net"]}})
    assert extract.run(named, silent).complete


def test_the_report_names_mode_and_what_was_found_while_training() -> None:
    record = {
        "method": "dcgan",
        "options": {"mode": "paper"},
        "network": {"name": "dcgan64", "width": 0.5},
        "kimg": 60.0,
    }
    assert gan_words(record) == "DCGAN (paper), network dcgan64 at width 0.5, 60 kimg"
    finding = "At 12 kimg: the generator draws a few images over and over"
    entry = {"node": "train", "stage": "train", "warnings": [finding]}
    assert warnings({"checks": []}, RunFacts(artifacts=[entry])) == [("train", [finding])]


def test_inspect_a_snapshot_writes_figures_and_says_what_they_show(tmp_path: Path) -> None:
    path, out = snapshot(tmp_path), tmp_path / "out"
    result = answer("inspect", path, "--only", "walks", "--set", "rows=2", "--out", out)
    (one,) = result["inspections"]
    assert one["numbers"]["rows"] == 2 and "From one image to the next" in one["sentence"]
    assert cv2.imread(str(out / "walks" / one["figures"][0])) is not None
    prefixed = ["--set", "inspect.walks.rows=2"]
    again = answer("inspect", tmp_path, "--only", "walks", *prefixed, "--out", tmp_path / "b")
    assert again["inspections"][0]["numbers"] == one["numbers"]
    lacking = answer("inspect", path, "--only", "memorisation", "--out", out, code=1)
    assert "no training set" in lacking["inspections"][0]["sentence"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "walk"], "walks"),
        (["--only", "walks", "--set", "row=2"], "rows"),
        (["--only", "walks", "--set", "rows=two"], "rows"),
        (["--only", "walks", "--set", "rows=0"], "walks: rows is 0: Input should be greater than"),
        (["--only", "walks", "--set", "rows=0"], "remedy:   --set OPTION=VALUE"),
        (["--set", "inspect.walks.rows=0"], "remedy:   --set inspect.walks.OPTION=VALUE"),
        (["--set", "inspect.walks=0"], "--set inspect.NAME.option=value"),
        (["--set", "inspect=walks"], "--set inspect.NAME.option=value"),
        (["--set", "rows=2"], "--only NAME"),
        (["--only", "arithmetic", "--set", "attributes=[slannt,width]"], "slant"),
        (["--only", "walks", "--training-set", "."], "no training images"),
    ],
)
def test_inspect_refuses_wrong_names_with_the_nearest(
    tmp_path: Path, words: list[str], expected: str
) -> None:
    path = snapshot(tmp_path)
    with pytest.raises(RequestError) as error:
        answer("inspect", path, *words, "--out", tmp_path / "out")
    assert expected in error.value.explain()
    with pytest.raises(RequestError, match="no snapshot at"):
        answer("inspect", tmp_path / "none.safetensors", "--only", "walks")
    with pytest.raises(RequestError, match="names an inspection"):
        answer("inspect", "digits", "--only", "walks", "--home", tmp_path / "home")
