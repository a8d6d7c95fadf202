"""Options of the commands that plan a recipe, and the request that they stand for."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows.commands.options import HomeOption, NetworkOption
from flows.home import resolve_home
from gan_core.errors import RequestError
from gan_core.pipeline.request import RunRequest

RECIPE = "network"  # taken when a network is named and no recipe is


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A network of the user's own, whose features take the place of a GAN's."""

    network: NetworkOption = None
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="its weights: safetensors or a state dict", metavar="FILE"),
    ] = None
    network_args: Annotated[
        str | None,
        typer.Option(
            "--network-args", help="arguments of its constructor", metavar="name=value,..."
        ),
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers", help="use these layers (default: all convolutional ones)", metavar="a,b,..."
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """The settings of `extract` that they stand for.

        Raises: RequestError: options of a network without one.
        """
        given = {"--weights": self.weights, "--network-args": self.network_args}
        lone = [name for name, value in given.items() if value is not None]
        if self.network is None and lone:
            raise RequestError(
                f"{' and '.join(lone)} came without --network.",
                expected="--network my_module:Discriminator",
            )
        settings: dict[str, Any] = {}
        if self.network is not None:
            settings["extract.network"] = self.network
        if self.weights is not None:
            settings["extract.weights"] = self.weights
        if self.network_args is not None:
            settings["extract.network_args"] = _mapping(self.network_args)
        if self.layers is not None:
            names = [name.strip() for name in self.layers.split(",")]
            settings["extract.layers"] = [name for name in names if name]
        return settings


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What is changed of a recipe, where its data and artifacts lie, and where it computes."""

    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="change a setting, as section.key=value", metavar="a.b=c"),
    ] = None
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="where the data lies: PATH, or NAME=PATH for each source"),
    ] = None
    scale: Annotated[str | None, typer.Option("--scale", help="debug, small or full")] = None
    home: HomeOption = None
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda")] = "auto"

    def request(self, recipe: str | None, own: NetworkOptions, **more: Any) -> RunRequest:
        """The request for a recipe, or for the features of a network of the user's own.

        Raises: RequestError: neither a recipe nor a network; options of a network without one.
        """
        settings = own.settings()
        if not recipe and own.network is None:
            raise RequestError(
                "No recipe was named.",
                expected="the name of a recipe, or --network for features of your own network",
                remedy="`discern list recipes` lists them",
            )
        data = self.data or []
        if recipe is None and (kind := _kind_of(data)):
            settings["sources.train.images.dataset"] = kind
        overrides = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        return RunRequest(
            recipe=recipe or RECIPE,
            overrides=[*overrides, *(self.set_ or [])],
            data=data,
            scale=self.scale,
            home=resolve_home(self.home),
            device=self.device,
            command=shlex.join(["discern", *sys.argv[1:]]),
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions(RecipeOptions):
    """How a recipe's chain is run, in addition."""

    refresh: Annotated[
        list[str] | None,
        typer.Option("--refresh", help="run this stage again even if cached", metavar="STAGE"),
    ] = None
    max_seconds: Annotated[
        float | None,
        typer.Option(
            "--max-seconds",
            help="end training cleanly after this many seconds; the next run continues it",
        ),
    ] = None
    rehash: Annotated[
        bool,
        typer.Option(
            "--rehash", help="read every file again instead of trusting size and modification time"
        ),
    ] = False
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="read every byte of what the store has, and make damaged artifacts again",
        ),
    ] = False
    runner: Annotated[
        str,
        typer.Option(
            "--runner",
            help=(
                "threads, dask or ray: where crop and extract are divided (dask:4, "
                "dask:tcp://HOST:8786)"
            ),
        ),
    ] = "threads"
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the plan and the recipe, run nothing")
    ] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="more log messages")] = False

    def request(self, recipe: str | None, own: NetworkOptions, **more: Any) -> RunRequest:
        """The request as `RecipeOptions.request` makes it, with these options."""
        return super().request(
            recipe,
            own,
            refresh=self.refresh or [],
            max_seconds=self.max_seconds,
            rehash=self.rehash,
            verify=self.verify,
            runner=self.runner,
            **more,
        )


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
