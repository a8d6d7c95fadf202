"""Recipes: what wins, and the errors after a typing mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
        assert head.startswith("#") and f"discern run {name}" in head, (
            "a recipe is headed by its command"
        )


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


def test_a_mapping_of_inspections_changes_the_defaults_and_a_list_replaces_them() -> None:
    def made(*overrides: str) -> dict[str, dict[str, Any]]:
        return load_recipe("scenes", overrides=overrides)[0].inspections()

    assert {"dissection", "walks", "samples"} <= set(made())
    changed = set(made("inspect={walks: false}"))
    assert "samples" in changed and not {"walks", "dissection"} & changed
    assert made("inspect=[walks, samples]") == {"samples": {}, "walks": {}}
    assert made("inspect=[]") == {}
    for wrong in ("inspect={wakls: false}", "inspect=[wakls]", "inspect.wakls={}"):
        with pytest.raises(UnknownName, match="did you mean 'walks'"):
            made(wrong)
    with pytest.raises(RequestError, match="options need a mapping"):
        made("inspect=[walks, samples]", "inspect.walks.steps=5")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.kimgs=3"], "did you mean 'kimg'"),
        (["trian.kimg=3"], "did you mean 'train'"),
        (["crop.kind=center"], "did you mean 'centre'"),
        (["train.network.name=dcgan23"], "did you mean 'dcgan32'"),
        (["evaluate.probes.linear_swm.grid=[1]"], "did you mean 'linear_svm'"),
        (["train.kimg=-3"], "greater than 0"),
        (["train.kimg"], "has no '='"),
        (["=3"], "names no setting before its '='"),
        (["train={kimg: 1, kimg: 2}"], "gives 'kimg' twice"),
        (["train.processes=some"], "train.processes is 'some': Input should be a valid integer"),
        (["train.batch=one"], "valid integer"),
    ],
)
def test_mistakes_name_the_nearest_match(overrides: list[str], expected: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_recipe("digits", overrides=overrides)
    assert expected in caught.value.explain()
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
        load_recipe(
            "digits", overrides=["sources.evaluate=[{name: digits, dataset: digits, limit: 10}]"]
        )


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        (
            "name: x\ntrain: {kimg: 1}\nseed: 2\ntrain: {batch: 16}\n",
            "train",
            "in line 2 and in line 4",
        ),
        (
            "name: x\ntrain:\n  network: {width: 1}\n  kimg: 1\n  network: {width: 2}\n",
            "network",
            "in line 3 and in line 5",
        ),
        ("name: x\nsources: {train: [{name: a, name: b}]}\n", "name", "in line 2"),
        (
            "name: x\nscales:\n  debug: {seed: 1}\n  debug: {seed: 2}\n",
            "debug",
            "in line 3 and in line 4",
        ),
    ],
)
def test_a_key_that_occurs_twice_is_refused(
    tmp_path: Path, text: str, key: str, lines: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        load_recipe(str(path))
    assert f"gives '{key}' twice: {lines}." in caught.value.message


def test_merged_keys_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: x\n"
        "sources:\n"
        "  train:\n"
        "    - &one {name: one, folder: a, limit: 5}\n"
        "    - &two {<<: *one, name: two, limit: 6}\n"
        "    - {<<: [*two], name: three}\n"
    )
    sources = load_recipe(str(path))[0].sources.train
    assert [(source.name, source.folder, source.limit) for source in sources] == [
        ("one", "a", 5),
        ("two", "a", 6),
        ("three", "a", 6),
    ]


def test_all_that_is_wrong_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nsources: folder\ntrain: {kimg: two, batch: -4, flip: maybe, kimgs: 3}\ncrop: "
        "{kind: center}\nseed: -1\n"
    )
    with pytest.raises(RequestError) as caught:
        load_recipe(str(path))
    expected = caught.value.message
    assert expected.startswith("7 settings of the recipe are wrong") and expected.endswith(
        "and 2 more"
    )
    for sentence in (
        "seed is -1",
        "sources is 'folder': Input should be a mapping",
        "crop.kind is 'center'; did you mean 'centre'",
    ):
        assert sentence in expected
    assert "train.kimg is 'two'" in expected and "SourcesConfig" not in expected
    path.write_text(
        "name: mine\nsources: {train: [{name: a}]}\nevaluate: {labels_per_class: [0, all], draws: "
        "0}\n"
    )
    with pytest.raises(RequestError) as caught:
        load_recipe(str(path))
    assert "2 settings" in caught.value.message
    assert (
        "evaluate.labels_per_class.0 is 0: Input should be greater than or equal to 1 or 'all'"
        in caught.value.message
    )
    assert "discern run digits --dry-run" in caught.value.remedy
