"""What every file in gan_core/inspection must do, found by name, on 150 digits and a snapshot of
two minibatches.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gan_core import registry
from gan_core.inspection.base import Context
from gan_core.networks.snapshot import last_snapshot, load_snapshot
from gan_core.progress import silent
from gan_core.shards import PixelShards
from gan_core.stages import extract
from gan_core.stages.inspect import inspect
from tests.stages.digits_artifacts import digits_crops, extract_request, given
from tests.tiny_snapshot import train_tiny

NAMES = registry.names("inspection")
CASES = [
    pytest.param(name, options, id=f"{name}-{number}")
    for name in NAMES
    for number, options in enumerate(registry.literal("inspection", name, "EXAMPLES", ({},)))
]


class Artifacts:
    """Crops of 150 digits, and what is made of them when a test asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.crops = digits_crops(folder / "crops", 150)

    def snapshot(self, role: str) -> Path:
        """The snapshot of the first method whose networks give features of a role."""
        folder = self.folder / f"train-{role}"
        if folder.exists():
            return folder / "products"
        fitting = (
            name
            for name in ["dcgan", *registry.names("methods")]
            if role in registry.literal("methods", name, "FEATURES", ())
        )
        pixels = PixelShards([self.crops]).pixels(slice(None))
        return train_tiny(pixels, folder, method=next(fitting))

    def features(self) -> Path:
        """Features of the discriminator."""
        work = self.folder / "features"
        if not work.exists():
            inputs = {"snapshot": [given("train", self.snapshot("discriminator"))]}
            extract.run(extract_request(self.crops, work, "discriminator", inputs=inputs), silent)
        return work

    def context(self, needs: Sequence[str]) -> Context:
        role = next((name for name in needs if name != "features"), "discriminator")
        features = self.features() if "features" in needs else None
        snapshot = load_snapshot(last_snapshot(self.snapshot(role)))
        return Context(snapshot, packs=[self.crops], features=features, crops=self.crops)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(tmp_path_factory.mktemp("inspections"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("baselines", "inspection") for name in registry.names(kind)],
)
def test_says_what_it_is(kind: str, name: str) -> None:
    literal = {word: registry.literal(kind, name, word) for word in ("ABOUT", "TITLE", "NEEDS")}
    assert literal["ABOUT"] == registry.load(kind, name).ABOUT and len(literal["ABOUT"]) > 20
    assert "\n" not in literal["ABOUT"] and not literal["ABOUT"].endswith(".")
    assert literal["TITLE"] and isinstance(registry.load(kind, name).VERSION, int)
    allowed = {"pack", "network", "snapshot"} if kind == "baselines" else {"features", *roles()}
    assert set(literal["NEEDS"] or ()) <= allowed
    if kind == "inspection":
        assert isinstance(registry.literal(kind, name, "ORDER"), int)
        assert isinstance(registry.literal(kind, name, "DEFAULT", True), bool)


def roles() -> Iterator[str]:
    for name in registry.names("methods"):
        yield from registry.literal("methods", name, "FEATURES", ())


def test_options_of_all_plug_ins_are_known_without_torch() -> None:
    code = (
        "import sys; from gan_core import registry\n"
        "for kind in registry.KINDS:\n"
        "    for name in registry.names(kind):\n"
        "        assert registry.options(kind, name, {}).key_part() == {}, (kind, name)\n"
        "        print(kind, name, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = [line for line in done.stdout.splitlines() if not line.endswith("False False")]
    assert done.stdout and not heavy


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gives_figures_and_numbers(
    artifacts: Artifacts, name: str, options: dict[str, Any]
) -> None:
    needs = registry.literal("inspection", name, "NEEDS", ())
    applicable, found = inspect(artifacts.context(needs), name, options)
    assert applicable, found.sentence
    assert found.sentence.endswith(".") and all(w.endswith(".") for w in found.warnings)
    assert found.numbers
    json.dumps(found.numbers, allow_nan=False)
    assert len({figure.name for figure in found.figures}) == len(found.figures)
    for figure in found.figures:
        assert figure.image.dtype == np.uint8 and figure.image.ndim == 3
        assert figure.image.shape[2] == 3 and np.ptp(figure.image) > 0
    for table in found.tables:
        assert table.rows and {len(row) for row in table.rows} == {len(table.columns)}
        cells = [cell for row in table.rows for cell in row]
        assert all(isinstance(cell, str | int | float) for cell in cells)
        assert all(math.isfinite(cell) for cell in cells if isinstance(cell, float))
