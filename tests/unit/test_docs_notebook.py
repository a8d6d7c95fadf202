"""The notebook page's code, run as it stands on a snapshot of a few minibatches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from gan_core.config import TrainConfig
from gan_core.training.data import ArrayImages
from gan_core.training.loop import Setting, train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebook.md"


def test_the_code_block_runs_and_gives_what_it_says(tmp_path: Path) -> None:
    settings = TrainConfig(network={"width": 0.125}, batch=16, kimg=0.032, log_kimg=0.016, state_kimg=1.0)
    train(ArrayImages(np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)), Setting(settings, tmp_path, 32))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("TRAIN_ARTIFACT", str(tmp_path / "products")), names)
    assert names["pictures"].shape == (16, 32, 32, 3) and names["pictures"].dtype == np.uint8
    assert names["scores"].shape == (16, 1) and names["changed"].shape == (16, 3, 32, 32)
    sizes = {layer.name: layer.shape[0] for layer in names["snapshot"].discriminator.layers() if layer.maps}
    assert names["features"].shape == (16, sum(sizes.values()) * 16)
    assert not np.allclose(names["changed"].numpy(), names["snapshot"].best_generator()(names["latents"]).detach().numpy())
