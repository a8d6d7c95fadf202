"""Counts on the page: faces that were not found, several crops of an image, sources in one role
only.
"""

from __future__ import annotations

from typing import Any

from gan_core.reporting.page import flow_steps
from gan_core.reporting.summary import check_counts


def summary(**roles: list[str]) -> dict[str, Any]:
    entry = {
        "images": {
            "in": 100,
            "ok": 97,
            "failed": 3,
            "reasons": {"truncated": 2, "not_an_image": 1},
        },
        "crops": {
            "rows": 112,
            "images": 100,
            "ok": 90,
            "status": {"ok": 90, "no_face": 19, "failed": 3},
            "reasons": {},
        },
        "duplicates": {"rows": 70, "kept": 66, "removed": 4},
        "packed": 66,
        "features": {"rows": 90, "values": 30_720, "splits": {"test": 20, "train": 70}},
    }
    return {
        "flow": {"photos": entry},
        "sources": {"train": [], "evaluate": [], **roles},
        "scores": [],
        "outside": {},
    }


def steps(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["title"]: step for step in found["steps"]}


def test_faces_that_were_not_found() -> None:
    found = steps(flow_steps(summary(train=["photos"], evaluate=["photos"]), "photos"))
    assert [step["number"] for step in found.values()] == [100, 97, 90, 70, 66, 90]
    assert found["readable"]["gone"] == 3 and found["readable"]["lost"] == [
        "2 truncated",
        "1 not an image",
    ]
    assert found["crops"]["gone"] == 19 and found["crops"]["lost"] == ["19 no face"]
    assert found["for training"]["gone"] == 20
    assert found["training set"]["gone"] == 4
    assert found["crops with features"]["aside"] == ["70 train", "20 test"]
    assert all(0 <= step["share"] <= 1 for step in found.values())


def test_a_source_that_is_only_evaluated_has_no_training_set() -> None:
    found = flow_steps(summary(evaluate=["photos"]), "photos")
    assert list(steps(found)) == ["files in", "readable", "crops", "crops with features"]
    assert found["roles"] == "features taken"


def test_counts_that_meet_and_counts_that_do_not() -> None:
    whole = summary(train=["photos"])
    assert check_counts(whole) == []
    whole["flow"]["photos"]["packed"] = 65
    whole["flow"]["photos"]["features"]["rows"] = 89
    whole["flow"]["photos"]["images"]["ok"] = 96
    assert len(check_counts(whole)) == 3


def test_nothing_is_trained_on_where_the_network_is_from_outside() -> None:
    found = summary(train=["photos"], evaluate=["photos"]) | {"outside": {"name": "my_net:Net"}}
    assert flow_steps(found, "photos")["roles"] == "training images and features taken"
