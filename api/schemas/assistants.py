"""What clients send to the routes of assistants, named as in the SDK. Unknown fields are ignored."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas.common import AssistantId, Limit, Metadata, Offset, Payload, none_if_empty
from store import assistants
from store.models import JsonObject
from store.ordering import Order


def _xray(value: object) -> bool | int:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError(SENTENCE, "Invalid xray value")
    if value.lower() in ("true", "false", ""):
        return value.lower() == "true"
    if not re.fullmatch("[1-9][0-9]{0,3}", value):
        raise PydanticCustomError(SENTENCE, "Invalid xray value")
    return int(value)


#: How deep a drawing opens subgraphs: ``true``, ``false`` or levels.
Xray = Annotated[bool | int, BeforeValidator(_xray)]
AssistantField = Literal[
    "assistant_id",
    "graph_id",
    "config",
    "context",
    "metadata",
    "name",
    "description",
    "created_at",
    "updated_at",
    "version",
]
AssistantFields = Annotated[list[AssistantField] | None, BeforeValidator(none_if_empty)]


class AssistantCount(Payload):
    """Which assistants to count."""

    metadata: JsonObject | None = None
    graph_id: str | None = None
    name: str | None = Field(None, description="A part of the name, in any case.")


class AssistantSearch(AssistantCount):
    """Which assistants to list, and how."""

    limit: Limit = 10
    offset: Offset = 0
    sort_by: assistants.SortBy = "created_at"
    sort_order: Order = "desc"
    select: AssistantFields = None


class AssistantConfig(BaseModel):
    """A config as an assistant keeps it, whatever else is in it."""

    model_config = ConfigDict(strict=True, extra="allow")

    tags: list[str] | None = None
    recursion_limit: int | None = None
    configurable: JsonObject | None = None


class AssistantCreate(Payload):
    """An assistant to create."""

    graph_id: str
    assistant_id: AssistantId | None = None
    config: AssistantConfig | None = None
    context: JsonObject | None = Field(None, description="Another name for `config.configurable`.")
    metadata: Metadata | None = None
    if_exists: Literal["raise", "do_nothing"] | None = "raise"
    name: str | None = None
    description: str | None = None


class AssistantUpdate(Payload):
    """What to change of an assistant; each change is a new version."""

    graph_id: str | None = None
    config: AssistantConfig | None = None
    context: JsonObject | None = Field(None, description="Another name for `config.configurable`.")
    metadata: Metadata | None = Field(None, description="Merged key by key.")
    name: str | None = None
    description: str | None = None


class AssistantVersions(Payload):
    """Which versions of an assistant to list."""

    metadata: JsonObject | None = None
    limit: Limit = 10
    offset: Offset = 0


class AssistantLatest(Payload):
    """The version that an assistant is to be."""

    version: Annotated[int, Field(ge=1, lt=2**31)]
