"""Settings of `extract` for `--network`, `--weights`, `--network-args` and `--layers`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gan_core.errors import RequestError

RECIPE = "network"  # taken when a network is named and no recipe is


def as_settings(
    recipe: str | None,
    network: str | None,
    weights: str | None,
    arguments: str | None,
    layers: str | None,
    data: Sequence[str],
) -> tuple[str, list[str]]:
    """The recipe and the `--set` values that the options stand for.

    Raises: RequestError: neither a recipe nor a network; options of a network without one.
    """
    given = {"--weights": weights, "--network-args": arguments}
    if network is None and (lone := [name for name, value in given.items() if value is not None]):
        raise RequestError(
            f"{' and '.join(lone)} came without --network.",
            expected="--network my_module:Discriminator",
        )
    if not recipe and network is None:
        raise RequestError(
            "No recipe was named.",
            expected="the name of a recipe, or --network for features of your own network",
            remedy="`discern list recipes` lists them",
        )
    settings: dict[str, Any] = {}
    if network is not None:
        settings["extract.network"] = network
    if weights is not None:
        settings["extract.weights"] = weights
    if arguments is not None:
        settings["extract.network_args"] = _mapping(arguments)
    if layers is not None:
        settings["extract.layers"] = [name.strip() for name in layers.split(",") if name.strip()]
    if recipe is None and (kind := _kind_of(data)):
        settings["sources.train.images.dataset"] = kind
    return recipe or RECIPE, [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def _mapping(text: str) -> dict[str, Any]:
    """'ngpu=1,maps=64' or a YAML mapping."""
    try:
        if text.lstrip().startswith("{"):
            found = yaml.safe_load(text)
        else:
            pairs = [part.partition("=") for part in text.split(",") if part.strip()]
            found = {name.strip(): yaml.safe_load(value) for name, equals, value in pairs if equals}
            if len(found) < len(pairs):  # a pair without '=', or a name that came twice
                found = None
        if isinstance(found, dict) and found:
            json.dumps(found)
            return found
    except (yaml.YAMLError, TypeError):
        pass
    raise RequestError(
        f"--network-args {text!r} cannot be read.",
        expected="name=value,... or a YAML mapping: '{ngpu: 1, sizes: [3, 5]}'",
    )


def _kind_of(data: Sequence[str]) -> str | None:
    """'parquet' where the data lies in Parquet files; None: a folder of images."""
    place = Path(data[0].split("=", 1)[-1]).expanduser() if data else Path()
    files = [place] if place.is_file() else list(place.glob("*.parquet")) if data else []
    return "parquet" if any(file.suffix == ".parquet" for file in files) else None
