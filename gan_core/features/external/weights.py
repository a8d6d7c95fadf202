"""From `my_module:Discriminator` and a file of weights to a module: nothing is unpickled but
tensors.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.errors import DataError, RequestError, UnknownName, nearest

log = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "model_state_dict", "netD", "discriminator", "model", "ema", "params")


def build_module(
    text: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    root: Path | None = None,
    seed: int | None = None,
    fresh: bool = False,
) -> nn.Module:
    """A module from 'package.module:Name', or 'package.module:Name(arguments)' with plain literals
    as arguments.

    `Name` is a class, a function that makes a module, or a module that is there already.

    Args:
        arguments: further ones, by name.
        root: the folder that the module is imported from; None: wherever Python finds it.
        seed: of torch's random numbers while it is made, so that fresh weights are the same
            tomorrow.
        fresh: only a class or function will do, since a module that is there already has lost its
            first weights.

    Raises: RequestError or UnknownName, with what is missing.
    """
    place, _, call = text.partition(":")
    if not place or not call:
        raise RequestError(
            f"{text!r} does not name a network.",
            expected="my_module:Discriminator or my_module:Discriminator(ngpu=1)",
        )
    name, positional, _ = _parse_call(call)
    named = arguments_of(text, arguments)
    module = _import(place, root)
    if not hasattr(module, name):
        raise UnknownName(
            f"network in {place}",
            name,
            [
                entry
                for entry, value in vars(module).items()
                if not entry.startswith("_") and callable(value)
            ],
        )
    target = getattr(module, name)
    if isinstance(target, nn.Module):
        if fresh:
            raise RequestError(
                f"{place}:{name} is a module that is there already: its baseline with random "
                "weights cannot be made.",
                expected="a class or function that makes a torch.nn.Module",
                remedy=(
                    "name its class, or leave that baseline out: --set evaluate.baselines=[pixels]"
                ),
            )
        return target
    if not callable(target):
        raise RequestError(
            f"{place}:{name} gives a {type(target).__name__}.",
            expected="a class or function that makes a torch.nn.Module",
        )
    _check_arguments(name, target, positional, named)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            made = target(*positional, **named)
        except Exception as error:  # an external constructor may raise anything
            raise RequestError(
                f"{name} cannot be made: {type(error).__name__}: {error}.",
                remedy=f"see that {name} of {place} makes its network in plain Python",
            ) from error
    if not isinstance(made, nn.Module):
        raise RequestError(f"{text} gives a {type(made).__name__}.", expected="a torch.nn.Module")
    return made


def _check_arguments(
    name: str, target: Callable[..., Any], positional: Sequence[Any], named: Mapping[str, Any]
) -> None:
    try:
        inspect.signature(target).bind(*positional, **named)
    except TypeError as error:
        raise RequestError(
            f"{name}{inspect.signature(target)} cannot be made: {error}.",
            expected="its arguments, as plain values",
            remedy=(
                f"--network-args {','.join(_needed(target)) or 'NAME=VALUE'} "
                "(extract.network_args) with values of yours"
            ),
        ) from error


def arguments_of(text: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments by name of 'package.module:Name(arguments)' and the further ones, which count
    where both say something.
    """
    return {**_parse_call(text.partition(":")[2])[2], **(arguments or {})}


def _import(place: str, root: Path | None) -> Any:
    """Imports from `root` first; it stays on the path, at the end, for what the module imports
    later.
    """
    if root is not None:
        sys.path.insert(0, str(root))
    try:
        return importlib.import_module(place)
    except Exception as error:  # an external module may raise anything while it is imported
        raise RequestError(
            f"The module {place!r} cannot be imported: {type(error).__name__}: {error}.",
            remedy="run in its folder, or put that on PYTHONPATH; see that `python -c 'import "
            + place
            + "'` works",
        ) from error
    finally:
        if root is not None:
            with contextlib.suppress(ValueError):  # the module may have removed it itself
                sys.path.remove(str(root))
            sys.path.append(str(root))


def _parse_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """('Name', positional, named) of 'Name' or 'Name(1, width=2)'; literals only, nothing is
    evaluated.
    """
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = {word.arg or "": ast.literal_eval(word.value) for word in node.keywords}
            return node.func.id, [ast.literal_eval(value) for value in node.args], named
    except (SyntaxError, ValueError):
        pass
    raise RequestError(
        f"{text!r} cannot be read.",
        expected="a name, or a name with plain values: Discriminator(ngpu=1)",
    )


def _needed(target: Any) -> list[str]:
    parameters = inspect.signature(target).parameters.values()
    return [
        f"{p.name}=..."
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a state dict saved by torch (read with
    weights_only, so no code runs).

    Wrappings that people use ({'state_dict': ...}, DataParallel's 'module.') are removed.

    Raises: DataError where the file is neither.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(
            f"There is no file {path.name} to read weights from.",
            expected="a .safetensors file or a state dict",
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise DataError(f"{path.name} cannot be read as safetensors: {error}.") from error
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's errors are of many kinds
        raise DataError(
            f"{path.name} cannot be read as plain weights: {str(error).splitlines()[0]}",
            expected="a state dict: torch.save(network.state_dict(), FILE)",
            remedy=(
                "load it where it was made and save its state_dict(), best as safetensors; "
                "whole pickled modules are never loaded"
            ),
        ) from error
    for _ in range(3):
        inner = next(
            (
                found[name]
                for name in _WRAPPERS
                if isinstance(found, dict) and isinstance(found.get(name), dict)
            ),
            None,
        )
        if inner is None:
            break
        found = inner
    tensors = (
        {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if isinstance(found, dict)
        else {}
    )
    if not tensors:
        raise DataError(
            f"{path.name} holds no tensors by name.",
            expected="a state dict: torch.save(network.state_dict(), FILE)",
        )
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def load_weights(module: nn.Module, path: Path) -> nn.Module:
    """Puts a file's weights into a module; every weight of the module must have its place in the
    file.

    Where all of them are in the file below one prefix ('discriminator.', '_orig_mod.'), they are
    taken from there and the rest of the file is left, which is logged. Counters of batch
    norm, which older files lack, do not matter.

    Raises: DataError naming what does not fit, with the nearest names.
    """
    tensors = read_weights(path)
    own = module.state_dict()
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    if not needed <= tensors.keys() and (prefix := _prefix(needed, tensors)):
        inside = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        if left := len(tensors) - len(inside):
            log.info(
                "%s: the weights below %r are taken, %d other tensors are left",
                path.name,
                prefix,
                left,
            )
        tensors = inside
    missing, extra = sorted(needed - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    if missing or extra or shapes:
        missing_lines = [
            f"{what} {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
            for what, names in (
                ("missing in the file:", missing),
                ("not in the network:", extra),
                ("of other shape:", shapes),
            )
            if names
        ]
        pairs = [
            f"{name} may be the file's {near}"
            for name in missing[:4]
            if (near := nearest(name, extra))
        ]
        raise DataError(
            f"The weights in {path.name} do not fit {type(module).__name__}: "
            f"{'; '.join(missing_lines + pairs)}.",
            remedy=(
                "check that the network is made with the arguments that it was trained with "
                "(--network-args)"
            ),
        )
    module.load_state_dict(tensors, strict=False)  # but for those counters nothing is missing
    return module


def _prefix(needed: set[str], tensors: Mapping[str, Tensor]) -> str | None:
    """The one prefix below which the file has every needed name; None where there is none or a
    choice.
    """
    first = min(needed, default="")
    heads = {name[: -len(first)] for name in tensors if first and name.endswith("." + first)}
    fitting = [head for head in heads if all(head + name in tensors for name in needed)]
    return fitting[0] if len(fitting) == 1 else None
