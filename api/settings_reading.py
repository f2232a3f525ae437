"""Reads the settings, and says of those that are wrong which they are, and why, without a secret."""

from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from api.settings import Settings, environment, environment_names
from store.errors import InvalidInputError

#: What is wrong, by pydantic's name for it; with the value, which is told unless it may be a secret.
_ABOUT_THE_VALUE: Final = {
    "bool_parsing": "must be true or false",
    "float_parsing": "must be a number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be one of {expected}",
}
_ABOUT_ITS_LENGTH: Final = {
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} of them",
    "too_short": "must have a length of at least {min_length}",
    "value_error": "{error}",
}
#: Of a value in an error.
_SHOWN_CHARACTERS: Final = 60


def read_settings(**given: Any) -> Settings:
    """
    The settings of this process.

    Args:
        given: Fields that win over the environment.

    Raises:
        InvalidInputError: Some are wrong. It names each by its variable, a line each, and quotes the
            value of none that may hold a secret.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        faults = [_told(fault, given) for fault in error.errors(include_url=False)]
    raise InvalidInputError("\n".join(faults))


def _told(fault: ErrorDetails, given: dict[str, Any]) -> str:
    context = fault.get("ctx", {})
    if not fault["loc"]:
        # Of several that contradict each other: it names them.
        return str(context["error"])
    field = _field(str(fault["loc"][0]))
    name = _name(field, given)
    kind = fault["type"]
    if kind in _ABOUT_ITS_LENGTH:
        return f"{name} {_ABOUT_ITS_LENGTH[kind].format(**context)}"
    if kind not in _ABOUT_THE_VALUE:
        return f"{name}: {fault['msg']}"
    said = f"{name} {_ABOUT_THE_VALUE[kind].format(**context)}"
    if not Settings.model_fields[field].repr:
        return said
    return f"{said}; it is {fault['input']!r:.{_SHOWN_CHARACTERS}}"


def _field(name: str) -> str:
    """The field that an error is about, which has its name, or that of a variable."""
    fields = Settings.model_fields
    return name if name in fields else next(f for f in fields if name in environment_names(f))


def _name(field: str, given: dict[str, Any]) -> str:
    """The variable that a value came from; the documented one if it came otherwise."""
    names, there = environment_names(field), environment()
    if field in given:
        return names[0]
    return next((name for name in names if name in there), names[0])
