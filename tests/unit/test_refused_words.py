"""Words of the command line that cannot be meant: one sentence, the nearest word, what to do, and
no traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gan_core.devices import resolve_device
from gan_core.errors import UnknownName


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (
            ["run", "digits", "--max-seconds", "-3"],
            {},
            ["--max-seconds is -3", "greater than 0", "remedy"],
        ),
        (["run", "digits", "--device", "cud"], {}, ["did you mean 'cuda'"]),
        (["run", "digits", "--scale", "small"], {}, ["debug, full"]),
        (
            ["run", "digits", "--set", "evaluate.probes=[{name: knn, grid: [2.5]}]"],
            {},
            ["2.5", "whole numbers from 1"],
        ),
        (
            [
                "run",
                "digits",
                "--set",
                "evaluate.probes=[{name: linear_svm, grids: {pixels: [-1]}}]",
            ],
            {},
            ["-1", "above 0"],
        ),
        (["setup", "--port", "99999"], {}, ["65535"]),
        (["inspect", "digits", "--only", "walk"], {}, ["--only walks names an inspection"]),
        (["sample", "/"], {}, ["no snapshot in /", "artifact of stage train", "remedy"]),
        (["dedup", "hom/images"], {}, ["nothing at hom/images", "correct FOLDER"]),
        (["dedup", ".", "--against", "hom"], {}, ["nothing at hom", "correct --against"]),
        (["validate", "hom/images"], {}, ["nothing at hom/images", "correct PATH"]),
        (["validate", ".", "--dataset", "digits"], {}, ["--dataset digits comes with a package"]),
        (
            ["status", "digits"],
            {"DISCERN_HOME": ""},
            ["DISCERN_HOME is set, and empty", "worker.env"],
        ),
    ],
)
def test_refused(
    discern: Callable[..., Any], words: list[str], variables: dict[str, str], message: list[str]
) -> None:
    answer = discern(*words, **variables)
    assert answer.code == 2 and all(each in answer.err for each in message), answer.err
    assert "Traceback" not in answer.err


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    for wrong in ("cudaa", "cuda:", "cuda:x", "cpu:0"):
        with pytest.raises(UnknownName):
            resolve_device(wrong)
