"""The report's section on near-duplicates, and accuracy without leaked images, on digits whose
copies stand in the test split.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core import schemas
from gan_core.reporting import duplicates
from gan_core.shards import write_rows

_spec = importlib.util.spec_from_file_location(
    "report_chain", Path(__file__).with_name("report_chain.py")
)
assert _spec is not None and _spec.loader is not None
made_by = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_by)
COPIES, ROWS = made_by.COPIES, 100


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """summary.json, the page and the folder of the stages: hash, dedup, extract, evaluate and
    report are the real ones.
    """
    home = tmp_path_factory.mktemp("copies")
    folders = made_by.write_source(home, "digits", ROWS)
    rows = [
        row
        for row in pq.read_table(folders["crops"] / "crops.parquet").to_pylist()
        if row["status"] == "ok"
    ]
    for number, row in enumerate(rows):  # the first ones in train, their copies in test
        row["split"] = (
            "test" if number >= ROWS - COPIES or number % 5 == 4 and number >= COPIES else "train"
        )
    write_rows(folders["crops"], pa.Table.from_pylist(rows, schema=schemas.CROPS))
    inputs = {role: [made_by.stage_input(role, folders[role])] for role in ("images", "crops")}
    hashing = {"hash": {"epochs": 1, "min_steps": 40, "batch": 64}}
    inputs["codes"] = [
        made_by.stage_input(
            "hash", made_by.run_stage("hash", home / "hash", hashing, {"crops": inputs["crops"]})[0]
        )
    ]
    given = {"crops": inputs["crops"], "codes": inputs["codes"]}
    inputs["duplicates"] = [
        made_by.stage_input(
            "dedup", made_by.run_stage("dedup", home / "dedup", {"dedup": {}}, given)[0]
        )
    ]
    given = {"crops": inputs["crops"], "duplicates": inputs["duplicates"]}
    work, _ = made_by.run_stage(
        "extract", home / "features", {"features": "pixels", "extract": {}}, given
    )
    inputs["features"] = [made_by.stage_input("extract", work)]
    part = {
        "features": "pixels",
        "probe": {"name": "knn", "grid": [1]},
        "protocol": {"labels_per_class": [3, "all"]},
    }
    work, _ = made_by.run_stage(
        "evaluate",
        home / "cell",
        part,
        {"features": inputs["features"], "leaked": inputs["duplicates"]},
    )
    inputs["cells"] = [made_by.stage_input("evaluate", work)]
    work, _ = made_by.report(home / "report", inputs)
    return json.loads((work / "summary.json").read_text()), (work / "report.html").read_text(), home


def test_every_leaked_pair_is_shown_with_its_reason(
    made: tuple[dict[str, Any], str, Path],
) -> None:
    summary, page, home = made
    leaked = summary["duplicates"]["leaked"]
    assert leaked["splits"]["test"]["leaked"] >= COPIES
    table = pq.read_table(home / "dedup" / "leaked.parquet").to_pylist()
    assert leaked["splits"]["test"]["leaked"] == len({row["image_id_a"] for row in table})
    assert len(leaked["examples"]) == min(
        duplicates.LEAKS_SHOWN, leaked["splits"]["test"]["leaked"]
    )
    scores = [pair["score"] for pair in leaked["examples"]]
    assert scores == sorted(scores, reverse=True) and page.count('alt="test digits/') == len(
        leaked["examples"]
    )
    for pair in leaked["examples"]:
        assert pair["held_out"]["split"] == "test" and pair["train"]["split"] == "train"
        assert f"{pair['held_out']['address']} and {pair['train']['address']}" in page


def test_accuracy_is_twice_on_the_page(made: tuple[dict[str, Any], str, Path]) -> None:
    summary, page, _ = made
    best = summary["headline"]
    gone = best["test_rows"] - best["without_leaked"]["test_rows"]
    assert gone == summary["duplicates"]["leaked"]["splits"]["test"]["leaked"]
    assert summary["leaks"].startswith(
        f"{gone} of the {best['test_rows']} test images are also in the training split"
    )
    for row in summary["scores"]:
        assert f"{100 * row['without_leaked']['mean']:.1f}<span" in page
        assert (
            row["without_leaked"]["low"]
            <= row["without_leaked"]["mean"]
            <= row["without_leaked"]["high"]
        )


def test_what_the_search_is_worth_is_on_the_page(
    made: tuple[dict[str, Any], str, Path],
) -> None:
    summary, page, _ = made
    assert "used here" in page and "Copies put in on purpose" in page and "upside down" in page
    for name, share in summary["duplicates"]["quality"]["injected"]["kept_out"].items():
        assert f"<td>{name}</td>" in page and 0 <= share <= 1
    sizes = summary["duplicates"]["sizes"]
    assert sum(row["removed"] for row in sizes) == summary["duplicates"]["removed"]


def test_sizes_of_groups_fall_into_bins() -> None:
    assert duplicates.group_sizes([2, 2, 7, 10, 101, 2000]) == [
        {"size": "2", "groups": 2, "removed": 2},
        {"size": "6 to 10", "groups": 2, "removed": 15},
        {"size": "101 and more", "groups": 2, "removed": 2099},
    ]
    assert duplicates.group_sizes([]) == []


def test_the_health_of_collapsed_codes_is_said_in_words() -> None:
    import numpy as np

    from gan_core.dedup.hashing.codes import health

    codes = np.random.default_rng(0).integers(0, 256, (200, 16), dtype=np.uint8)
    codes[:60], codes[:, 0] = 7, 0
    result = dict(duplicates.health_rows(health(codes, max_group=50)))
    assert (
        result["different codes"] == "141 for 200 images"
        and result["bits that never change"] == "8 (8 never set, 0 always set)"
    )
    assert (
        result["over-full codes"].startswith("1, with 60 images")
        and result["fullest code"] == "shared by 60 images"
    )
