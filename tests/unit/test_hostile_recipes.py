"""Recipes made to exhaust time or memory: refused with a reason, in little time and memory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from gan_core.artifacts.store import Store
from gan_core.config import Recipe
from gan_core.errors import DiscernError, RequestError
from gan_core.pipeline.preflight import check_before_starting
from gan_core.pipeline.request import RunRequest, prepare
from gan_core.recipes import MAX_DEPTH, load_recipe
from gan_core.validation import model_in


def laughs(levels: int) -> str:
    """Lists of nine aliases of lists of nine aliases."""
    lines = ["a0: &a0 [1]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: x\ninspect: " + "[" * 5000 + "]" * 5000, "nested more than 30 levels"),
        ("name: x\ninspect: " + "{a: " * 5000 + "1" + "}" * 5000, "nested more than 30 levels"),
        ("name: x\ninspect:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, 900)), "30 levels"),
        (laughs(30), "more than 100,000 values"),
        ("name: x\ninspect: &a [*a]", "an alias is inside what it names"),
        ("name: x\ninspect: &a {b: *a}", "an alias is inside what it names"),
        ("seed: " + "9" * 10_000, "cannot be read"),
        ("seed: 0x" + "f" * 10_000, "thousands of digits"),
    ],
)
def test_yaml_of_no_use_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(RequestError) as caught:
        load_recipe(str(path))
    assert reason in caught.value.explain() and len(caught.value.explain()) < 3000
    if not text.startswith("a0"):
        value = text.partition("inspect: ")[2]
        if value:
            with pytest.raises(RequestError, match=reason):
                load_recipe("digits", overrides=[f"inspect={value}"])
    assert time.process_time() - started < 5


def test_a_setting_of_many_levels_is_refused() -> None:
    with pytest.raises(RequestError, match="4001 levels deep"):
        load_recipe("digits", overrides=["train.options" + ".a" * 3999 + "=1"])
    assert MAX_DEPTH > 10


OUTSIDE = ["../../x", "/tmp/x", "..", "a/../../b", "a\nb", "a\0b"]
NAMES = [*OUTSIDE, "a/b", ".hidden", "a\\b", "", "x" * 51, "a*"]
NAMED = ["name", "scale", "sources.train.digits.name", "train.method", "sources.train.0.dataset"]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        *((setting, text) for setting in NAMED for text in NAMES),
        *(("sources.train.digits.folder", text) for text in OUTSIDE),
    ],
)
def test_text_that_becomes_a_path_has_a_pattern(setting: str, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_recipe("digits", overrides=[f"{setting}={json.dumps(text)}"])
    assert setting.rpartition(".")[2] in caught.value.explain()


def test_a_file_whose_name_is_no_name_has_a_recipe_with_one(tmp_path: Path) -> None:
    path = tmp_path / "my [own] recipe, second.yaml"
    path.write_text("sources: {train: [{name: digits, dataset: digits}]}")
    assert load_recipe(str(path))[0].name == "my _own_ recipe_ second"


def numbers(model: type[BaseModel], place: str = "") -> Iterator[str]:
    """The settings of a recipe that are numbers."""
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        if inner is not None and not str(field.annotation).startswith("list"):
            yield from numbers(inner, f"{place}{name}.")
        elif {int, float} & set(_types(field.annotation)):
            yield f"{place}{name}"


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _types(inner)


PLACES = [*numbers(Recipe), "sources.train.0.limit", "sources.train.0.split.test"]


@pytest.mark.parametrize("place", PLACES)
def test_any_number_is_used_or_refused_with_a_remedy_that_holds(place: str, tmp_path: Path) -> None:
    for value in ("1e308", "-1e308", "1e16", ".nan", ".inf", "0x" + "f" * 5000):
        with pytest.raises(RequestError) as caught:
            load_recipe("digits", scale="debug", overrides=[f"{place}={value}"])
        assert place in caught.value.message
    large = f"{place}=1000000000000000"
    request = RunRequest(
        recipe="digits", scale="debug", overrides=[large], home=str(tmp_path), device="cpu"
    )
    try:
        check_before_starting(prepare(request, Store(tmp_path)))
    except DiscernError as error:
        assert not re.search(r"\b(nan|inf)\b", error.remedy), error.remedy
