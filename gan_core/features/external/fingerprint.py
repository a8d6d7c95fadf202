"""An external network as the planner sees it: the files of its code and of its weights by
digest. Nothing is imported or run.

The code is the module's file and, followed through their `import` lines, the modules next to it:
those below the folder that it is imported from, or of the same package where it is installed. What
a module loads in other ways (files it reads, names it makes up, other installed packages) is not
followed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from gan_core.config import ExtractConfig
from gan_core.errors import RequestError, nearest
from gan_core.files import sha256_file


@dataclass(frozen=True)
class Stamp:
    """What an external network is made of.

    Attributes:
        sources: file below `root` to SHA-256, the module's own among them: in keys and lineage.
        digest: SHA-256 of the weights' file, None without weights: likewise.
        root: the folder that the module is imported from; like `weights` it is in no key.
    """

    sources: dict[str, str]
    digest: str | None
    root: Path
    weights: Path | None

    def part(self, *, weights: bool = True) -> dict[str, Any]:
        """Its share of a key. `weights` False: of the same network with fresh ones."""
        return {"sources": self.sources, **({"weights": self.digest} if weights else {})}

    def context(self, *, weights: bool = True) -> dict[str, str | None]:
        """Where it lies, for the stage."""
        return {
            "root": str(self.root),
            "weights": str(self.weights) if self.weights and weights else None,
        }


def from_outside(network: str) -> bool:
    """Whether a value of extract.network names a user's own module instead of a part of a
    snapshot.
    """
    return ":" in network


def stamp_of(config: ExtractConfig, folder: Path) -> Stamp | None:
    """The stamp of `extract.network`, None where that is a part of a snapshot.

    Args: folder: where relative paths start and modules are searched first (the current
        directory), then sys.path.
    Raises: RequestError: no such module or weights, with the nearest there is.
    """
    if not from_outside(config.network):
        return None
    name = config.network.partition(":")[0]
    path = _module_file(name, folder)
    above = len(name.split(".")) - (0 if path.name == "__init__.py" else 1)
    root = path.parents[above]
    weights = folder / Path(config.weights).expanduser() if config.weights else None
    if weights is not None and not weights.is_file():
        there = (
            [entry.name for entry in weights.parent.iterdir() if entry.is_file()]
            if weights.parent.is_dir()
            else []
        )
        near = nearest(weights.name, there)
        raise RequestError(
            f"There is no file of weights {config.weights!r}"
            + (f"; did you mean {near!r}?" if near else "."),
            expected="a .safetensors file, or a state dict saved by torch",
            remedy=(
                "torch.save(network.state_dict(), FILE) or safetensors.torch.save_file makes one"
            ),
        )
    digests = {file: sha256_file(root / file) for file in _with_neighbours(name, path, root)}
    return Stamp(digests, sha256_file(weights) if weights else None, root, weights)


def _module_file(name: str, folder: Path) -> Path:
    """The Python file behind a dotted name; parents of the name are not imported where plain
    folders lead to it.
    """
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise RequestError(
            f"{name!r} is no name of a Python module.",
            expected="my_module:Discriminator, as one would import it",
            remedy=(
                "run in the module's folder (or put it on PYTHONPATH) and give its name "
                "without '.py'"
            ),
        )
    importlib.invalidate_caches()
    search: list[str] | None = [str(folder), *(place for place in sys.path if place)]
    spec = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), search) if search is not None else None
        search = (
            list(spec.submodule_search_locations)
            if spec and spec.submodule_search_locations
            else None
        )
    if spec is None:  # installed by other means than a folder on the path
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        near = nearest(name, [entry.stem for entry in folder.glob("*.py")])
        raise RequestError(
            f"There is no module {name!r} in {folder} or on PYTHONPATH"
            + (f"; did you mean {near!r}?" if near else "."),
            expected="a Python file with the network's class",
            remedy="run in its folder, or put that on PYTHONPATH",
        )
    return Path(spec.origin).resolve()


def _with_neighbours(name: str, path: Path, root: Path) -> list[str]:
    """Files below `root`, sorted: the module's, its packages', and those of the modules next to it
    that they import.
    """
    installed = bool({"site-packages", "dist-packages"} & set(root.parts))
    top = name.split(".")[0]
    found: set[str] = set()
    waiting = [name, *_parents(name)]
    while waiting:
        module = waiting.pop()
        file = path if module == name else _beside(root, module)
        if file is None or (installed and module.split(".")[0] != top):
            continue
        inside = file.relative_to(root).as_posix()
        if inside not in found:
            found.add(inside)
            waiting += _imports(file, module)
    return sorted(found)


def _beside(root: Path, module: str) -> Path | None:
    place = root.joinpath(*module.split("."))
    return next(
        (file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None
    )


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imports(file: Path, module: str) -> list[str]:
    """Dotted names that a file's import statements may run, relative ones resolved."""
    try:
        tree = ast.parse(file.read_text())
    except (SyntaxError, ValueError) as error:
        raise RequestError(
            f"{file} is no valid Python: {error}.", remedy="run it by itself to see where it fails"
        ) from error
    wanted = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                own = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
                base = own[: len(own) - (node.level - 1)] + base
            wanted += [".".join(base)] if base else []
            wanted += [".".join([*base, alias.name]) for alias in node.names if alias.name != "*"]
    return [name for one in wanted for name in (one, *_parents(one))]
