"""Words of the command line that cannot be meant: one sentence, the nearest word, what to do, and
no traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.commands.outcome import run_folder
from gan_core.artifacts.store import Store
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
        (["dedup", ""], {}, ["An argument is empty", "shell variable"]),
        (["run", "folder", "--data", ""], {}, ["--data is empty", "shell variable", "remedy"]),
        (["run", "folder", "--data="], {}, ["--data is empty"]),
        (["run", "folder", "--data", "folder="], {}, ["--data folder= names no place"]),
        (["status", "digits", "--home", ""], {}, ["--home is empty"]),
        (
            ["status", "digits", "--home", "s4://bucket/x"],
            {},
            ["s4://bucket/x cannot be opened", "did you mean s3://", "--home"],
        ),
        (
            ["status", "digits", "--set", "sources.train.digits.folder=x"],
            {},
            ["folder 'x'", "comes with a package", "`dataset`"],
        ),
        (["list", "netwrks"], {}, ["did you mean 'networks'", "datasets, inspections, methods"]),
        (["import", "dcgan-authors", "."], {}, ["0 were found", "numbered from 1 to 10"]),
        (["validate", ".", "--sheet", "a.gif"], {}, ["names no image format", "--sheet a.png"]),
        (["dedup", ".", "--move", "new"], {}, ["new is within .", "next to"]),
        (["compare", "a", "b"], {}, ["no run called 'a'", "remedy"]),
        (["similar", "1.png", "--features", "a"], {}, ["'a' in", "discern extract RECIPE"]),
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


def test_a_usage_error_is_json_too(discern: Callable[..., Any]) -> None:
    answer = discern("run", "digits", "--verbos", "--json")
    assert answer.code == 2 and "--verbos" in answer.json["error"]
    assert answer.json["remedy"] == "`discern run --help`"


def test_a_recipe_in_the_place_of_a_run_names_its_newest(tmp_path: Path) -> None:
    for name in ("digits-20261101-1", "digits-20261102-1", "faces-20261103-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").touch()
    with pytest.raises(UnknownName) as refused:
        run_folder(Store(tmp_path), "digits")
    assert refused.value.remedy == "the newest run of digits is digits-20261102-1"


def test_of_many_names_an_error_lists_some() -> None:
    error = UnknownName("run", "run-0", [f"run-{number}" for number in range(1, 500)])
    assert error.expected.endswith(" and 459 more") and len(error.expected) < 500


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    for wrong in ("cudaa", "cuda:", "cuda:x", "cpu:0"):
        with pytest.raises(UnknownName):
            resolve_device(wrong)
