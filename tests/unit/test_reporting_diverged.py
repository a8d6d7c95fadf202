"""The page of a training that diverged: what led to its end, and nothing of attempts that were
given up before.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from gan_core.errors import TrainingDiverged
from gan_core.recipes import load_recipe
from gan_core.reporting.diverged import diverged_page
from gan_core.reporting.run_info import RunFacts


def test_the_last_line_written_is_the_one_that_ended_it(tmp_path: Path) -> None:
    """Went to 10 kimg, back to 4, and met a NaN at 6."""
    losses = [(2, 1.25), (4, 1.5), (6, 1.75), (8, 7.5), (10, None), (6, None)]
    lines = [
        {"kimg": float(kimg), "images": 1000 * kimg, "loss_discriminator": loss}
        for kimg, loss in losses
    ]
    (tmp_path / "stats.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"kimg": 7'
    )
    (tmp_path / "products").mkdir()
    for kimg in (0, 5, 6, 10):
        cv2.imwrite(
            str(tmp_path / "products" / f"grid-{kimg:06d}.png"), np.zeros((8, 8, 3), np.uint8)
        )
    recipe, _ = load_recipe("digits")
    page = diverged_page(
        recipe.model_dump(mode="json"),
        {},
        tmp_path,
        RunFacts(),
        TrainingDiverged("It diverged at 6 kimg.", remedy="slower"),
    )
    seen = page[page.index('id="diverged"') : page.index('id="data"')]
    assert [text in seen for text in ("1.25", "1.5", "not finite", "1.75", "7.5")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert seen.count("not finite") == 1 and seen.rindex("not finite") > seen.rindex("1.5")
    assert page.count("Samples after") == 3 and "Samples after 10" not in page.replace("\xa0", " ")
    assert "It diverged at 6\xa0kimg." in page and "slower" in seen


def test_a_training_that_wrote_nothing_has_a_page_too(tmp_path: Path) -> None:
    recipe, _ = load_recipe("digits")
    page = diverged_page(
        recipe.model_dump(mode="json"),
        {},
        tmp_path,
        RunFacts(),
        TrainingDiverged("It diverged.", remedy="slower"),
    )
    assert "It diverged." in page
