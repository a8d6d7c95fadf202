"""The base of all settings, and what is wrong with some as errors for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from gan_core.errors import RequestError, UnknownName, nearest

MOST_FAULTS = 5  # wrong settings that one error lists
MOST = 10**15  # of any number in a recipe: products of several stay finite
SHOW = "`discern run digits --dry-run` shows a whole recipe"


class Section(BaseModel):
    """Base of all parts of a recipe: frozen, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=False, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(one, int | float) and abs(one) > MOST for one in numbers):
            raise ValueError(f"Input should be between -{MOST:.0e} and {MOST:.0e}")
        return value

    def key_part(self) -> dict[str, Any]:
        """What of this section differs from the defaults, as JSON values: its share of a stage's
        key.
        """
        return self.model_dump(mode="json", exclude_defaults=True)


def explain(
    error: ValidationError, model: type[BaseModel], whole: str = "a recipe", word: str = "setting"
) -> RequestError:
    """All that is wrong, up to five places; a single fault comes with what was expected.

    Args:
        model: what was validated against; `whole`: its name for people; `word`: for one field.
    """
    at: dict[tuple[str, ...], list[Any]] = {}
    for one in error.errors():
        at.setdefault(_place(one["loc"]), []).append(one)
    faults = [_fault(place, errors, model, whole, word) for place, errors in at.items()]
    of_recipe = whole == "a recipe"
    remedy = SHOW if of_recipe else "an option that is left out has its default"
    if len(faults) == 1:
        [fault] = faults
        if of_recipe or isinstance(fault, UnknownName):
            return fault
        message = f"{whole[:1].upper()}{whole[1:]}: {fault.message}"
        return RequestError(message, expected=fault.expected, remedy=remedy)
    lines = [f"  {_sentence(fault)}" for fault in faults[:MOST_FAULTS]]
    more = f"\n  and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
    of = "the recipe" if of_recipe else whole
    message = f"{len(faults)} {word}s of {of} are wrong:\n" + "\n".join(lines) + more
    return RequestError(message, remedy=remedy)


def model_in(annotation: Any) -> Any:
    """The model that an annotation holds, inside lists and unions too; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (model_in(inner) for inner in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _place(loc: Sequence[int | str]) -> tuple[str, ...]:
    """A setting's path, without pydantic's own words for the members of a union and for keys."""
    return tuple(
        str(part)
        for part in loc
        if not (isinstance(part, str) and (part.endswith("]") or part == "constrained-int"))
    )


def _sentence(fault: RequestError) -> str:
    message = fault.message.rstrip(".")
    if "did you mean" in message or not fault.expected:
        return message
    return f"{message} (expected: {fault.expected})"


def _fault(
    place: tuple[str, ...], errors: Sequence[Any], model: type[BaseModel], whole: str, word: str
) -> RequestError:
    """What is wrong at one place: several errors there are those of a union's members."""
    first, where = errors[0], ".".join(place)
    kind = first["type"] if len(errors) == 1 else "union"
    if kind == "extra_forbidden":
        inner: Any = model
        for part in place[:-1]:
            if not part.isdigit():
                inner = model_in(inner.model_fields[part].annotation)
        section = ".".join(place[:-1]) or whole
        return UnknownName(f"{word} of {section}", place[-1], inner.model_fields if inner else [])
    if kind == "literal_error":
        given, expected = str(first.get("input")), str(first["ctx"]["expected"])
        known = [text.strip("' ") for text in expected.replace(" or ", ",").split(",")]
        near = nearest(given, known)
        hint = f"; did you mean {near!r}?" if near else "."
        return RequestError(f"{where} is {given!r}{hint}", expected=expected)
    if kind == "missing":
        of = "The recipe" if whole == "a recipe" else "it"
        return RequestError(f"{of} has no {where}.", expected=f"a value for {where}", remedy=SHOW)
    texts = dict.fromkeys(_text(error).removeprefix("Input should be ") for error in errors)
    text = " or ".join(texts)
    if not where:  # a rule for the whole: its value is the whole
        return RequestError(f"{text}.", remedy=SHOW)
    if kind == "value_error" and isinstance(first.get("input"), dict):
        return RequestError(f"{where}: {text}.", remedy=SHOW)
    should = "Input should be " if _text(first).startswith("Input should be ") else ""
    return RequestError(f"{where} is {_short(first.get('input'))}: {should}{text}.", remedy=SHOW)


def _text(error: Any) -> str:
    if error["type"] in ("model_type", "dict_type"):
        return "Input should be a mapping of settings"
    return str(error["msg"]).removeprefix("Value error, ")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
