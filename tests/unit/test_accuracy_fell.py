"""When features count as worse than before: the same cell, below the interval of last time."""

from __future__ import annotations

from typing import Any

from flows.accuracy import accuracy_drop


def score(mean: float, **names: str) -> dict[str, Any]:
    cell = {
        "source": "digits",
        "features": "discriminator",
        "probe": "linear_svm",
        "labels": "all",
        **names,
    }
    return {**cell, "mean": mean, "half": 0.02, "low": mean - 0.02, "high": mean + 0.02}


def test_it_fell_only_below_the_interval() -> None:
    before = {"headline": score(0.9)}
    assert accuracy_drop(before, {"scores": [score(0.881)]}) == ""
    sentence = accuracy_drop(before, {"scores": [score(0.5, probe="knn"), score(0.87)]})
    assert "87.0 %, was 90.0" in sentence and "linear_svm" in sentence


def test_other_cells_are_not_compared() -> None:
    before = {"headline": score(0.9)}
    others = [
        score(0.1, probe="knn"),
        score(0.1, labels="10"),
        score(0.1, features="pixels"),
        score(0.1, source="svhn"),
    ]
    assert accuracy_drop(before, {"scores": others}) == ""
    assert accuracy_drop({}, {"scores": [score(0.1)]}) == "" and accuracy_drop(before, {}) == ""
