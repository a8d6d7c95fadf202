"""From `my_module:Discriminator` and a file of weights to a module: nothing is unpickled but tensors."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_core.errors import DataError, RequestError, UnknownName

_WRAPPERS = ("state_dict", "model_state_dict", "netD", "discriminator", "model", "ema", "params")


def build_module(text: str) -> nn.Module:
    """A module from 'package.module:Name', or 'package.module:Name(arguments)' with plain literals as arguments.

    `Name` is a class, a function that makes a module, or a module that is there already.

    Raises: RequestError or UnknownName, with what is missing.
    """
    place, _, call = text.partition(":")
    if not place or not call:
        raise RequestError(
            f"{text!r} does not name a network.", expected="my_module:Discriminator or my_module:Discriminator(ngpu=1)"
        )
    name, positional, named = _parse_call(call)
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        raise RequestError(
            f"The module {place!r} cannot be imported: {error}.", remedy="run in its folder, or put that on PYTHONPATH"
        ) from error
    if not hasattr(module, name):
        raise UnknownName(f"network in {place}", name, [entry for entry in vars(module) if not entry.startswith("_")])
    target = getattr(module, name)
    if isinstance(target, nn.Module):
        return target
    if not callable(target):
        raise RequestError(
            f"{place}:{name} gives a {type(target).__name__}.", expected="a class or function that makes a torch.nn.Module"
        )
    try:
        inspect.signature(target).bind(*positional, **named)
    except TypeError as error:
        raise RequestError(
            f"{name}{inspect.signature(target)} cannot be made: {error}.",
            expected="its arguments in the name, as plain values",
            remedy=f"name it as '{place}:{name}({', '.join(_needed(target))})' with values of yours",
        ) from error
    made = target(*positional, **named)
    if not isinstance(made, nn.Module):
        raise RequestError(f"{text} gives a {type(made).__name__}.", expected="a torch.nn.Module")
    return made


def _parse_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """('Name', positional, named) of 'Name' or 'Name(1, width=2)'; literals only, nothing is evaluated."""
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = {word.arg or "": ast.literal_eval(word.value) for word in node.keywords}
            return node.func.id, [ast.literal_eval(value) for value in node.args], named
    except (SyntaxError, ValueError):
        pass
    raise RequestError(f"{text!r} cannot be read.", expected="a name, or a name with plain values: Discriminator(ngpu=1)")


def _needed(target: Any) -> list[str]:
    parameters = inspect.signature(target).parameters.values()
    return [f"{p.name}=..." for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a state dict saved by torch (read with weights_only, so no code runs).

    Wrappings that people use ({'state_dict': ...}, DataParallel's 'module.') are taken off.

    Raises: DataError where the file is neither.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(f"There is no file {path.name} to read weights from.", expected="a .safetensors file or a state dict")
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
            remedy="load it where it was made and save its state_dict(), best as safetensors; whole pickled modules are never loaded",
        ) from error
    for _ in range(3):
        inner = next((found[name] for name in _WRAPPERS if isinstance(found, dict) and isinstance(found.get(name), dict)), None)
        if inner is None:
            break
        found = inner
    tensors = (
        {str(name): value for name, value in found.items() if isinstance(value, Tensor)} if isinstance(found, dict) else {}
    )
    if not tensors:
        raise DataError(
            f"{path.name} holds no tensors by name.", expected="a state dict: torch.save(network.state_dict(), FILE)"
        )
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def load_weights(module: nn.Module, path: Path) -> nn.Module:
    """Puts a file's weights into a module; every weight must have its place.

    Raises: DataError naming what does not fit.
    """
    tensors = read_weights(path)
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    if missing or extra or shapes:
        told = [
            f"{what} {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
            for what, names in (("missing in the file:", missing), ("not in the network:", extra), ("of other shape:", shapes))
            if names
        ]
        raise DataError(
            f"The weights in {path.name} do not fit {type(module).__name__}: {'; '.join(told)}.",
            remedy="check that the network is made with the arguments that it was trained with",
        )
    module.load_state_dict(tensors)
    return module
