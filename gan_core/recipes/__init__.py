"""Recipes: YAML files in this folder or anywhere else, turned into a checked `Recipe`.

Order of what wins: the file, the overlay of the scale, then each `--set`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from gan_core import registry
from gan_core.config import Recipe
from gan_core.devices import cpu_cores
from gan_core.errors import RequestError, UnknownName, nearest

_FOLDER = Path(__file__).parent
_PARTS = ("discriminator", "encoder")
_MOST_FAULTS = 5  # wrong settings that are told at once
_SHOW = "`discern run digits --dry-run` shows a whole recipe"


class _Twice(yaml.YAMLError):
    """A key that stands twice in one mapping, and the lines where it stands."""

    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__(f"{key!r} stands there twice")
        self.key = key
        self.lines = (first, second)


class _EachOnce(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML's own loader drops the first one and
    says nothing.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # On the nodes as they are written: later the keys that come by `<<` stand among the
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
        raise RequestError(
            f"There is no recipe file {name}.",
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
        raise RequestError(f"The recipe {path} cannot be read: {error}", expected="YAML") from error
    if not isinstance(content, dict):
        raise RequestError(
            f"The recipe {path} is not a mapping of settings.",
            expected="`name:`, `sources:`, ... at the top level",
        )
    return content


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_EachOnce)


def load_recipe(
    name: str, *, scale: str | None = None, overrides: Sequence[str] = (), gpu: bool = False
) -> tuple[Recipe, list[str]]:
    """The checked recipe and what a person should be told about how it was chosen.

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
    content.setdefault("name", Path(name).stem)
    return build_recipe(content), notes


def build_recipe(content: dict[str, Any]) -> Recipe:
    """Checks a mapping of settings and the names in it; fixes the number of threads.

    Raises:
        RequestError: what is wrong, where, and the nearest right name.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise _explain(error) from None
    if ":" not in recipe.extract.network and recipe.extract.network not in _PARTS:
        raise UnknownName(
            "part of a snapshot",
            recipe.extract.network,
            _PARTS,
            remedy="a network of your own is named my_module:Discriminator",
        )
    registry.check("methods", recipe.train.method)
    registry.check("networks", recipe.train.network.name)
    for source in recipe.all_sources():
        registry.check("datasets", source.dataset)
    for probe in recipe.evaluate.probes:
        registry.check("probes", probe.name)
    if recipe.threads == 0:
        # One core is left to the Prefect server, to readers and to whoever else: oneDNN's threads
        # spin while they wait for each
        # other, and a training that has to share its last core becomes several times slower
        # (docs/benchmarks.md).
        recipe = recipe.model_copy(update={"threads": max(1, cpu_cores() - 1)})
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120
    )


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
    for entry in entries:
        if isinstance(entry, dict) and entry.get("name") == name:
            return entry
    known = [str(entry.get("name")) for entry in entries if isinstance(entry, dict)]
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


def _default_at(path: list[str]) -> Any:
    """What stands at `path` in a recipe that says nothing there: defaults of lists are needed to
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
        model = _model_in(field.annotation)
    return {}


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def _explain(error: ValidationError) -> RequestError:
    """All that is wrong, up to five places; one mistake alone is told with what was expected and
    the nearest match.
    """
    at: dict[tuple[str, ...], list[Any]] = {}
    for one in error.errors():
        at.setdefault(_place(one["loc"]), []).append(one)
    faults = [_fault(place, said) for place, said in at.items()]
    if len(faults) == 1:
        return faults[0]
    lines = [f"  {_sentence(fault)}" for fault in faults[:_MOST_FAULTS]]
    more = f"\n  and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
    return RequestError(
        f"{len(faults)} settings of the recipe are wrong:\n" + "\n".join(lines) + more, remedy=_SHOW
    )


def _place(loc: Sequence[int | str]) -> tuple[str, ...]:
    """A setting's path, without pydantic's own words for the members of a union and for keys."""
    return tuple(
        str(part)
        for part in loc
        if not (isinstance(part, str) and (part.endswith("]") or part == "constrained-int"))
    )


def _sentence(fault: RequestError) -> str:
    told = fault.message.rstrip(".")
    return (
        told
        if "did you mean" in told or not fault.expected
        else f"{told} (expected: {fault.expected})"
    )


def _fault(place: tuple[str, ...], errors: Sequence[Any]) -> RequestError:
    """What is wrong at one place: several errors there are those of a union's members."""
    first, where = errors[0], ".".join(place)
    kind = first["type"] if len(errors) == 1 else "union"
    if kind == "extra_forbidden":
        model: Any = Recipe
        for part in place[:-1]:
            if not part.isdigit():
                model = _model_in(model.model_fields[part].annotation)
        section = ".".join(place[:-1]) or "a recipe"
        return UnknownName(f"setting of {section}", place[-1], model.model_fields if model else [])
    if kind == "literal_error":
        given = str(first.get("input"))
        known = [
            text.strip("' ")
            for text in str(first["ctx"]["expected"]).replace(" or ", ",").split(",")
        ]
        near = nearest(given, known)
        hint = f"; did you mean {near!r}?" if near else "."
        return RequestError(f"{where} is {given!r}{hint}", expected=str(first["ctx"]["expected"]))
    if kind == "missing":
        return RequestError(f"The recipe has no {where}.", expected=f"a value for {where}")
    said = " or ".join(
        dict.fromkeys(_said(error).removeprefix("Input should be ") for error in errors)
    )
    if not where:  # what a whole recipe must obey: its value is the recipe
        return RequestError(f"{said}.", remedy=_SHOW)
    if kind == "value_error" and isinstance(first.get("input"), dict):
        return RequestError(f"{where}: {said}.", remedy=_SHOW)
    should = "Input should be " if _said(first).startswith("Input should be ") else ""
    return RequestError(f"{where} is {_shown(first.get('input'))}: {should}{said}.", remedy=_SHOW)


def _said(error: Any) -> str:
    if error["type"] in ("model_type", "dict_type"):
        return "Input should be a mapping of settings"
    return str(error["msg"]).removeprefix("Value error, ")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
