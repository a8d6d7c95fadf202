"""Where the sources of a recipe lie on this machine, and their fingerprints: never
part of a key themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_core import registry
from gan_core.config import Recipe, SourceConfig
from gan_core.errors import RequestError, UnknownName
from gan_core.progress import Progress, silent


@dataclass(frozen=True)
class Location:
    """A source's place: `path` None for data that comes with a package; `to_fetch` when it has to
    be downloaded first.
    """

    path: Path | None
    to_fetch: bool = False


def locate(
    recipe: Recipe, data: Sequence[str], home: Path, command: str = ""
) -> dict[str, Location]:
    """Source name to location, from `--data` values ('PATH' or 'NAME=PATH') and the home's download
    cache.

    Args:
        command: what was typed, for the remedy.
    Raises:
        RequestError: a source that needs a place and got none or two, or a place given for nothing.
    """
    sources = {source.name: source for source in recipe.all_sources()}
    named: dict[str, Path] = {}
    root: Path | None = None
    for value in data:
        name, equals, path = value.partition("=")
        if not value or (equals and not path):
            raise RequestError(
                f"--data {value} names no place." if value else "--data is empty.",
                expected="PATH, or NAME=PATH for each source",
                remedy="give it a path ('.' is the current folder), or leave it out",
            )
        if equals and "/" not in name:
            if name not in sources:
                raise UnknownName(
                    f"source in recipe {recipe.name}",
                    name,
                    sources,
                    remedy="give --data NAME=PATH with one of these",
                )
            place = Path(path).expanduser().absolute()
            if name in named:
                raise RequestError(
                    f"--data was given twice for the source {name!r}: {named[name]} and {place}.",
                    expected="one place for each source",
                    remedy=(
                        "leave one of them out; a second set of images is a second source of "
                        "the recipe"
                    ),
                )
            named[name] = place
        elif root is not None:
            raise RequestError(
                "--data was given twice without names.", expected="--data NAME=PATH for each source"
            )
        else:
            root = Path(value).expanduser().absolute()
    for name, source in sources.items():
        if source.folder is not None and not _wants_place(source):
            raise RequestError(
                f"The source {name!r} has the folder {source.folder!r}, and its dataset "
                f"{source.dataset} comes with a package.",
                expected="no folder",
                remedy="leave `folder` out, or name the kind of files there as `dataset`",
            )
    unused = [name for name in named if not _wants_place(sources[name])]
    if unused or (
        root is not None and not any(_wants_place(source) for source in sources.values())
    ):
        raise RequestError(
            f"Recipe {recipe.name} takes no --data: {', '.join(unused or sources)} comes with a "
            "package.",
            expected="no --data",
            remedy="discern run folder --data PATH, for images of your own",
        )
    typed = command or f"discern run {recipe.name}"
    return {
        name: _place(source, named.get(name), root, len(sources), home, typed)
        for name, source in sources.items()
    }


def _wants_place(source: SourceConfig) -> bool:
    return bool(getattr(registry.load("datasets", source.dataset), "NEEDS_LOCATION", True))


def _place(
    source: SourceConfig, given: Path | None, root: Path | None, count: int, home: Path, typed: str
) -> Location:
    if given is not None:
        return Location(given)
    if not _wants_place(source):
        return Location(None)
    module = registry.load("datasets", source.dataset)
    if root is not None:
        below = root / (source.folder or source.name)
        return Location(
            below if count > 1 or (source.folder is not None and below.exists()) else root
        )
    if hasattr(module, "fetch"):
        target = home / "cache" / "datasets" / source.dataset
        return Location(target, to_fetch=not (target / "complete.json").exists())
    raise RequestError(
        f"The source {source.name!r} needs a place.",
        expected=source.layout or "a folder or file that holds it",
        remedy=f"{typed} --data {'PATH' if count == 1 else source.name + '=PATH'}",
    )


def fetch(source: SourceConfig, location: Location, progress: Progress = silent) -> None:
    """Downloads a source into its place in the cache; a marker written last says that it is
    complete.
    """
    from gan_core.files import write_json

    assert location.path is not None
    module = registry.load("datasets", source.dataset)
    location.path.mkdir(parents=True, exist_ok=True)
    module.fetch(location.path, progress)
    write_json(location.path / "complete.json", {"dataset": source.dataset})


def fingerprint(source: SourceConfig, location: Location) -> str:
    """The fingerprint of a source: relative addresses, sizes and modification times, no
    contents.
    """
    from gan_core.datasets.base import fingerprint as of_stamps

    opened = registry.load("datasets", source.dataset).open_source(source, location.path)
    return of_stamps(opened.stamps())
