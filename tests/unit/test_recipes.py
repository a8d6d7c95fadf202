"""Recipes: what wins, and what people are told when they mistype."""

from __future__ import annotations

from pathlib import Path

import pytest

from gan_core.errors import RequestError, UnknownName
from gan_core.recipes import load_recipe, recipe_names


def test_every_recipe_loads_at_every_scale() -> None:
    import yaml

    from gan_core.recipes import recipe_path

    for name in recipe_names():
        for scale in ["full", *yaml.safe_load(recipe_path(name).read_text()).get("scales", {})]:
            recipe, _ = load_recipe(name, scale=scale)
            assert recipe.scale == scale and recipe.about
            head = recipe_path(name).read_text().split("\n")[0]
        assert head.startswith("#") and f"discern run {name}" in head, "a recipe is headed by its command"


def test_set_wins_over_scale_wins_over_file() -> None:
    assert load_recipe("cifar10", scale="full")[0].train.kimg == 5000
    assert load_recipe("cifar10", scale="small")[0].train.kimg == 150
    assert load_recipe("cifar10", scale="small", overrides=["train.kimg=7"])[0].train.kimg == 7


def test_without_a_gpu_the_scale_is_small_and_says_so() -> None:
    recipe, notes = load_recipe("cifar10", gpu=False)
    assert recipe.scale == "small" and "--scale small" in notes[0]
    assert load_recipe("cifar10", gpu=True)[0].scale == "full"


def test_list_entries_are_set_by_name_or_number() -> None:
    by_name, _ = load_recipe("digits", overrides=["evaluate.probes.linear_svm.grid=[1e-3]"])
    by_number, _ = load_recipe("digits", overrides=["evaluate.probes.0.grid=[0.001]"])
    assert by_name.evaluate.probes[0].grid == by_number.evaluate.probes[0].grid == [0.001]
    assert by_name.evaluate.probes[1].grid == []
    limited, _ = load_recipe("digits", overrides=["sources.train.digits.limit=50"])
    assert limited.sources.train[0].limit == 50


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.kimgs=3"], "did you mean 'kimg'"),
        (["trian.kimg=3"], "did you mean 'train'"),
        (["crop.kind=center"], "did you mean 'centre'"),
        (["train.network.name=dcgan23"], "did you mean 'dcgan32'"),
        (["evaluate.probes.linear_swm.grid=[1]"], "did you mean 'linear_svm'"),
        (["train.kimg=-3"], "greater than 0"),
        (["train.kimg"], "has no '='"),
        (["train.batch=one"], "valid integer"),
    ],
)
def test_mistakes_name_the_nearest_match(overrides: list[str], told: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_recipe("digits", overrides=overrides)
    assert told in caught.value.explain()
    assert caught.value.exit_code == 2


def test_unknown_recipe_and_scale() -> None:
    with pytest.raises(UnknownName, match="did you mean 'digits'"):
        load_recipe("digit")
    with pytest.raises(UnknownName, match="did you mean 'debug'"):
        load_recipe("digits", scale="debgu")


def test_broken_yaml_is_an_error_for_people(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sources: [unclosed")
    with pytest.raises(RequestError, match="cannot be read"):
        load_recipe(str(path))
    path.write_text("just text")
    with pytest.raises(RequestError, match="not a mapping"):
        load_recipe(str(path))


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match="two different sources are called 'digits'"):
        load_recipe("digits", overrides=["sources.evaluate=[{name: digits, dataset: digits, limit: 10}]"])
