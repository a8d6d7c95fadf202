"""Types of fields: the name of a plug-in, and its options as far as they differ from the
plug-in's defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from gan_core import registry


def _options(kind: str, field: str) -> Callable[[dict[str, Any], ValidationInfo], dict[str, Any]]:
    """A validator of a plug-in's options: keeps those that differ from the plug-in's defaults.

    Args:
        field: the field of the plug-in's name, before its options.
    """

    def validate(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get(field)
        if name is None:
            return value
        return registry.options(kind, name, value).key_part()

    return validate


def _plugin(kind: str) -> AfterValidator:
    return AfterValidator(partial(registry.check, kind))


Method = Annotated[str, _plugin("methods")]
Network = Annotated[str, _plugin("networks")]
Dataset = Annotated[str, _plugin("datasets")]
Probe = Annotated[str, _plugin("probes")]
Baseline = Annotated[str, _plugin("baselines")]
MethodOptions = Annotated[dict[str, Any], AfterValidator(_options("methods", "method"))]
NetworkOptions = Annotated[dict[str, Any], AfterValidator(_options("networks", "name"))]
DatasetOptions = Annotated[dict[str, Any], AfterValidator(_options("datasets", "dataset"))]
ProbeOptions = Annotated[dict[str, Any], AfterValidator(_options("probes", "name"))]
BaselineOptions = Annotated[dict[str, Any], AfterValidator(_options("baselines", "name"))]
