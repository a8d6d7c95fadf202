"""Recipes: YAML files in this folder or anywhere else, turned into a checked `Recipe`.

Order of what wins: the file, the overlay of the scale, then each `--set`. A mapping of the overlay
is merged with the file's; the value of a `--set` replaces what is there, a whole section too.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from gan_core import registry
from gan_core.config import ExtractConfig, Recipe
from gan_core.devices import cpu_cores
from gan_core.errors import RequestError, UnknownName, nearest
from gan_core.validation import explain, model_in

_FOLDER = Path(__file__).parent
MAX_DEPTH = 30  # levels of a recipe; the deepest setting has seven
MAX_NODES = 100_000


class _Twice(yaml.YAMLError):
    """A key that occurs twice in one mapping, and its lines."""

    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__(f"{key!r} occurs twice")
        self.key = key
        self.lines = (first, second)


class _Excess(yaml.YAMLError):
    """YAML of a form or size that no recipe needs."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice in one mapping (YAML's own loader drops the first one and
    says nothing), nesting deeper than `MAX_DEPTH`, and aliases of more than `MAX_NODES`
    values.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # of nodes that are complete, with what aliases repeat

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        alias = self.check_event(yaml.AliasEvent)
        if self._depth == MAX_DEPTH:
            raise _Excess(f"it is nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        assert node is not None
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise _Excess("an alias is inside what it names")
        if not alias:
            inner: list[Any] = [] if isinstance(node, yaml.ScalarNode) else node.value
            parts = [part for one in inner for part in (one if isinstance(one, tuple) else [one])]
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in parts)
            if self._sizes[id(node)] > MAX_NODES:
                raise _Excess(f"it holds more than {MAX_NODES:,} values")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # On the nodes as they are written: later the keys that come by `<<` are among the
        # mapping's own, which may repeat them.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                raise _Twice(key.value, seen[name], line)
            seen[name] = line
        return node


def recipe_names() -> list[str]:
    """Names of the recipes that come with Discern."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file behind a recipe's name, or the path itself when a YAML file was given.

    Raises:
        UnknownName: neither a recipe nor a file.
    """
    own = _FOLDER / f"{name}.yaml"
    if "/" not in name and own.exists():
        return own
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        near = nearest(path.name, [one.name for one in path.parent.glob("*.y*ml")])
        raise RequestError(
            f"There is no recipe file {name}"
            + (f"; did you mean {str(path.parent / near)!r}?" if near else "."),
            expected="a readable YAML file",
            remedy="`discern list recipes`",
        )
    raise UnknownName(
        "recipe",
        name,
        recipe_names(),
        remedy="`discern list recipes`, or give the path of a YAML file",
    )


def read_recipe_file(name: str) -> dict[str, Any]:
    """The YAML of a recipe as a mapping, unchecked."""
    path = recipe_path(name)
    try:
        content = _read_yaml(path.read_text())
    except _Twice as error:
        first, second = error.lines
        where = f"in line {first} and in line {second}" if first != second else f"in line {first}"
        raise RequestError(
            f"The recipe {path} gives {error.key!r} twice: {where}.",
            expected="each setting once: of two, one would be dropped",
            remedy=f"put what belongs to {error.key!r} into one place",
        ) from None
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise RequestError(
            f"The recipe {path} cannot be read: {error}",
            expected="settings in sections, as YAML",
        ) from error
    if not isinstance(content, dict):
        raise RequestError(
            f"The recipe {path} is not a mapping of settings.",
            expected="`name:`, `sources:`, ... at the top level",
        )
    return content


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def load_recipe(
    name: str, *, scale: str | None = None, overrides: Sequence[str] = (), gpu: bool = False
) -> tuple[Recipe, list[str]]:
    """The checked recipe and notes on how it was chosen.

    Args:
        name: a recipe's name or a YAML file.
        scale: overlay to use; None: 'full' with a GPU, else 'small' where the recipe has one.
        overrides: 'a.b=value' strings, values in YAML; list entries by number or by their `name`.
        gpu: whether a GPU is there, for the choice of scale.
    Raises:
        RequestError: an unknown key, value or scale, with the nearest match.
    """
    content = read_recipe_file(name)
    notes = []
    scales = content.pop("scales", None) or {}
    if not isinstance(scales, dict) or not all(
        isinstance(overlay, dict | None) for overlay in scales.values()
    ):
        raise RequestError(
            f"`scales` of recipe {name} is no mapping of overlays.",
            expected="scales: {small: {train: {kimg: 10}}}",
        )
    if scale is None:
        scale = "full"
        if not gpu and "small" in scales:
            scale = "small"
            notes.append("No GPU was found: using --scale small. Give --scale full to override.")
    if scale != "full" and scale not in scales:
        raise UnknownName(f"scale of recipe {name}", scale, ["full", *scales])
    _merge(content, scales.get(scale) or {})
    content["scale"] = scale
    for override in overrides:
        _apply(content, override)
    content.setdefault("name", re.sub(r"[^\w .()+-]", "_", Path(name).stem)[:50])
    return build_recipe(content), notes


def build_recipe(content: dict[str, Any]) -> Recipe:
    """Checks a mapping of settings and the names in it; fixes the number of threads.

    Raises:
        RequestError: what is wrong, where, and the nearest right name.
    """
    evaluate = content.get("evaluate")
    if isinstance(evaluate, dict) and evaluate.get("protocol", "own") != "own":
        content = {**content, "evaluate": {**_protocol(str(evaluate["protocol"])), **evaluate}}
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, Recipe) from None
    recipe = recipe.model_copy(update={"extract": _with_role(recipe)})
    if recipe.threads == 0:
        # One core is left to the Prefect server, to readers and to others: oneDNN's threads
        # spin while they wait for each
        # other, and a training that has to share its last core becomes several times slower
        # (docs/benchmarks.md).
        recipe = recipe.model_copy(update={"threads": max(1, cpu_cores() - 1)})
    return recipe


def _with_role(recipe: Recipe) -> ExtractConfig:
    """The settings of extract with the role that gives features: the method's first one
    where the recipe names none; further ones are checked.

    Raises:
        UnknownName: the method's features are of other roles.
    """
    given, method = recipe.extract.network, recipe.train.method
    roles = registry.literal("methods", method, "FEATURES", ("discriminator",))
    wanted = [*([given] if given and ":" not in given else []), *recipe.extract.also]
    for role in wanted:
        if role not in roles:
            raise UnknownName(
                f"role of method {method} with features",
                role,
                roles,
                remedy="an external network is named my_module:Discriminator",
            )
    return recipe.extract.model_copy(update={"network": given or roles[0]})


def _protocol(name: str) -> dict[str, Any]:
    """The settings of a published protocol.

    Raises:
        UnknownName: there is none of that name.
    """
    known = {path.stem: path for path in (_FOLDER / "protocols").glob("*.yaml")}
    if name not in known:
        raise UnknownName("protocol", name, ["own", *known])
    settings: dict[str, Any] = _read_yaml(known[name].read_text())
    return settings


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(written_out(recipe), sort_keys=False, allow_unicode=True, width=120)


def written_out(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values, with every default, those of the plug-ins' options too."""
    content = recipe.model_dump(mode="json")
    train, evaluate, sources = content["train"], content["evaluate"], content["sources"]
    for kind, name, entry in [
        ("methods", train["method"], train),
        ("networks", train["network"]["name"], train["network"]),
        *(("probes", entry["name"], entry) for entry in evaluate["probes"]),
        *(("baselines", entry["name"], entry) for entry in evaluate["baselines"]),
        *(("datasets", entry["dataset"], entry) for role in sources.values() for entry in role),
    ]:
        entry["options"] = _all_options(kind, name, entry["options"])
    content["inspect"] |= {
        name: _all_options("inspection", name, given)
        for name, given in recipe.inspections().items()
    }
    return content


def _all_options(kind: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    return registry.options(kind, name, given).model_dump(mode="json")


def _merge(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    """Lays `overlay` over `base` in place: mappings are merged; lists of named entries by name; all
    else is replaced.
    """
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        elif isinstance(value, dict) and isinstance(base.get(key), list):
            for name, change in value.items():
                _merge(_entry(base[key], name, key), change)
        else:
            base[key] = copy.deepcopy(value)


def _entry(entries: list[Any], given: str | int, where: str) -> Any:
    name = str(given)
    if name.isdigit() and int(name) < len(entries):
        return entries[int(name)]
    for number, entry in enumerate(entries):
        if entry == name:  # its name alone is an entry without settings
            entries[number] = entry = {"name": name}
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    known = [str(entry.get("name")) if isinstance(entry, dict) else str(entry) for entry in entries]
    raise UnknownName(
        f"entry of {where}", name, known + [str(number) for number in range(len(entries))]
    )


def _apply(content: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        lacks = "names no setting before its '='" if equals else "has no '='"
        raise RequestError(
            f"--set {override!r} {lacks}.",
            expected="--set section.key=value, e.g. --set train.kimg=20",
        )
    try:
        value = _read_yaml(text)
    except _Twice as error:
        raise RequestError(
            f"--set {override!r} gives {error.key!r} twice.", expected="each setting once"
        ) from None
    except (ValueError, yaml.YAMLError) as error:
        raise RequestError(
            f"The value of --set {override!r} cannot be read: {error}", expected="a YAML value"
        ) from error
    parts = path.strip().split(".")
    if len(parts) > MAX_DEPTH:
        raise RequestError(
            f"--set {override[:40]!r}... names a setting {len(parts)} levels deep.",
            expected="--set section.key=value, e.g. --set train.kimg=20",
        )
    place: Any = content
    for number, part in enumerate(parts[:-1]):
        if isinstance(place, list):
            place = _entry(place, part, ".".join(parts[:number]))
        else:
            default = _default_at(parts[: number + 1])
            place = place.setdefault(part, default)
        if not isinstance(place, dict | list):
            raise RequestError(
                f"--set {override!r}: {'.'.join(parts[: number + 1])} is a value, not a section."
            )
    if isinstance(place, list):
        index = place.index(_entry(place, parts[-1], ".".join(parts[:-1])))
        place[index] = value
    else:
        place[parts[-1]] = value


def settings_of(overrides: Sequence[str]) -> dict[str, Any]:
    """What 'a.b=value' strings say, as nested mappings."""
    content: dict[str, Any] = {}
    for override in overrides:
        _apply(content, override)
    return content


def _default_at(path: list[str]) -> Any:
    """The value at `path` of a recipe that leaves it out: defaults of lists are needed to
    change one entry.
    """
    model: Any = Recipe
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return {}
        default = field.get_default(call_default_factory=True)
        if isinstance(default, list):
            return [
                item.model_dump(mode="json") if isinstance(item, BaseModel) else item
                for item in default
            ]
        model = model_in(field.annotation)
    return {}
