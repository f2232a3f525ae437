"""
What clients send, under the SDK's names: what several routes take, and items.

Unknown fields are ignored, because newer SDKs send more; a wrong type is refused, never guessed.
"""

import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from graph.requests import RESERVED_METADATA
from store.models import JsonObject

#: A namespace and a key fit into a row of an index together.
ITEM_NAME_MAX_BYTES = 1024

UUID_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
#: What is told of such ids. No `format`: JSON Schema's has dashes.
UUID_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "pattern": "^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32})$",
    }
)
#: The last place that a number of JSON names exactly.
MAX_OFFSET = 2**53 - 1


def _thread_id(value: str) -> str:
    """
    Both forms of a UUID, in lower case.

    The form is kept: a conversation that was imported under 32 digits is found under them.
    """
    if not UUID_FORM.fullmatch(value.lower()):
        raise PydanticCustomError(SENTENCE, "Invalid thread ID: must be a UUID")
    return value.lower()


def _session_id(value: str) -> str:
    if not UUID_FORM.fullmatch(value.lower()):
        raise PydanticCustomError(SENTENCE, "Invalid session ID: must be a UUID")
    return value.lower()


def _assistant_id(value: str) -> str:
    if not UUID_FORM.fullmatch(value.lower()):
        raise PydanticCustomError(SENTENCE, "Invalid assistant ID: must be a UUID")
    return str(uuid.UUID(value))


def _run_id(value: str) -> str:
    if not UUID_FORM.fullmatch(value.lower()):
        raise PydanticCustomError(SENTENCE, "Invalid run ID: must be a UUID")
    return str(uuid.UUID(value))


def _without_reserved(metadata: JsonObject) -> JsonObject:
    return {key: value for key, value in metadata.items() if key not in RESERVED_METADATA}


def _label(value: str) -> str:
    if not value or "." in value or "\x00" in value:
        raise PydanticCustomError(
            SENTENCE, "A namespace label must be a non-empty string without periods"
        )
    return value


def _key(value: str) -> str:
    if len(value.encode()) > ITEM_NAME_MAX_BYTES:
        raise PydanticCustomError(
            SENTENCE, f"The key of an item cannot be longer than {ITEM_NAME_MAX_BYTES} bytes"
        )
    return value


def _namespace(labels: list[str]) -> list[str]:
    if not labels:
        raise PydanticCustomError(SENTENCE, "The namespace cannot be empty")
    if len(".".join(labels).encode()) > ITEM_NAME_MAX_BYTES:
        raise PydanticCustomError(
            SENTENCE, f"The namespace cannot be longer than {ITEM_NAME_MAX_BYTES} bytes"
        )
    if labels[0] == "langgraph":
        raise PydanticCustomError(SENTENCE, "The namespace 'langgraph' is reserved")
    return labels


def _dotted_namespace(parts: list[str]) -> list[str]:
    return _namespace([_label(label) for label in ".".join(parts).split(".")])


def _text(value: str) -> str:
    # A NUL of a query or a path; those of a body are gone already.
    return value.replace("\x00", "\ufffd")


def none_if_empty(value: Any) -> Any:
    """An empty list asks for nothing in particular, as if it were not there."""
    return None if value == [] else value


ThreadId = Annotated[str, AfterValidator(_thread_id), UUID_SCHEMA]
#: A thread's id by its other name.
SessionId = Annotated[str, AfterValidator(_session_id), UUID_SCHEMA]
AssistantId = Annotated[str, AfterValidator(_assistant_id), UUID_SCHEMA]
RunId = Annotated[str, AfterValidator(_run_id), UUID_SCHEMA]
Text = Annotated[str, AfterValidator(_text)]


def _time(value: Any) -> Any:
    """A number is none, whatever pydantic makes of it."""
    if not isinstance(value, str):
        return value
    try:
        found = datetime.fromisoformat(value.upper())
        # What an offset brings out of range is none that PostgreSQL could compare with.
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError(SENTENCE, "A time is to be in ISO 8601") from None


#: A moment in UTC, given in ISO 8601; one without a zone is in UTC already.
Time = Annotated[datetime, BeforeValidator(_time)]
Metadata = Annotated[JsonObject, AfterValidator(_without_reserved)]
Label = Annotated[str, AfterValidator(_label)]
Namespace = Annotated[list[Label], AfterValidator(_namespace)]
ItemKey = Annotated[str, AfterValidator(_text), AfterValidator(_key)]
DottedNamespace = Annotated[list[str], AfterValidator(_dotted_namespace)]
Limit = Annotated[int, Field(ge=1, le=1000)]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]


class Payload(BaseModel):
    """A request body."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Checkpoint(Payload):
    """A checkpoint of a thread; without an id the newest of its namespace."""

    checkpoint_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_map: JsonObject | None = None


class ItemPut(Payload):
    """An item to keep."""

    namespace: Namespace
    key: ItemKey
    value: JsonObject
    index: Annotated[
        Literal[False] | list[str] | None,
        Field(description="The fields that it is found by; false for none."),
    ] = None
    ttl: float | None = Field(None, ge=1e-6, le=10**8, description="Minutes that it lives.")


class ItemDelete(Payload):
    """An item to forget."""

    namespace: Namespace
    key: ItemKey


class ItemSearch(Payload):
    """Which items to list."""

    namespace_prefix: list[Label] | None = None
    filter: JsonObject | None = None
    query: str | None = None
    limit: Limit = 10
    offset: Offset = 0
    refresh_ttl: bool | None = None


class NamespaceSearch(Payload):
    """Which namespaces to list; ``*`` stands for any one label."""

    prefix: list[Label] | None = None
    suffix: list[Label] | None = None
    max_depth: Annotated[int, Field(ge=1, le=1000)] | None = None
    limit: Limit = 100
    offset: Offset = 0
