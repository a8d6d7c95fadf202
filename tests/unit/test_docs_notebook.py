"""The code of the notebook page, on a snapshot of a few minibatches, and of the features page, as
it is there.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gan_core.config import TrainConfig
from gan_core.features.parquet import FeatureWriter
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train
from tests.unit.test_features_store import rows

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_code_block_runs_and_gives_what_it_says(tmp_path: Path) -> None:
    settings = TrainConfig(
        network={"width": 0.125}, batch=16, kimg=0.032, log_kimg=0.016, state_kimg=1.0
    )
    train(
        ArrayImages(np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)),
        Context(settings, tmp_path, 32),
    )
    (code,) = blocks("notebook.md")
    names: dict[str, Any] = {}
    exec(code.replace("TRAIN_ARTIFACT", str(tmp_path / "products")), names)
    assert names["samples"].shape == (16, 32, 32, 3) and names["samples"].dtype == np.uint8
    assert names["scores"].shape == (16, 1) and names["changed"].shape == (16, 3, 32, 32)
    sizes = {
        layer.name: layer.shape[0]
        for layer in names["snapshot"].discriminator.layers()
        if layer.maps
    }
    assert names["features"].shape == (16, sum(sizes.values()) * 16)
    assert not np.allclose(
        names["changed"].numpy(),
        names["snapshot"].best_generator()(names["latents"]).detach().numpy(),
    )


def test_the_features_pages_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tutorial's discriminator at a sixteenth of its width, and on a features file of three
    images.
    """
    for name in ("pandas", "duckdb", "datasets"):
        pytest.importorskip(name)
    import datasets

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    tutorial = importlib.import_module("tutorial_dcgan")
    monkeypatch.setattr(tutorial, "ndf", 4)
    module = tutorial.Discriminator(1)
    shapes = {"conv3": (2, 4, 4), "head": (5, 1, 1)}
    with FeatureWriter(tmp_path / "features-00000.parquet", shapes, {"format": 1}) as writer:
        writer.write(
            rows(3), {name: np.ones((3, *shape), np.float16) for name, shape in shapes.items()}
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    names: dict[str, Any] = {
        "netD": module,
        "encoder": module,
        "images": images,
        "folder": tmp_path,
    }
    network, reading = blocks("features.md")
    exec(network, names)
    assert names["matrix"].shape == (3, sum(size.dims for size in names["layers"]))
    exec(reading, names)
    assert names["conv3"].shape == (3, 2, 4, 4) and names["matrix"].shape == (3, 37)
    assert json.loads(names["lineage"]) == {"format": 1}
