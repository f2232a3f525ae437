"""What clients send to have runs begin by the clock, named as in the SDK."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas.common import (
    UUID_FORM,
    UUID_SCHEMA,
    AssistantId,
    Limit,
    Metadata,
    Offset,
    Payload,
    ThreadId,
)
from api.schemas.runs import Nodes, RunConfig, RunCreate, RunCreateStateless, StreamModes
from graph.requests import RunRequest
from graph.schedule import MAX_LENGTH
from store import crons
from store.crons import Cron, OnRunCompleted
from store.errors import InvalidInputError
from store.models import JsonObject, MultitaskStrategy
from store.ordering import Order

CronField = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "user_id",
    "end_time",
    "schedule",
    "timezone",
    "payload",
    "next_run_date",
    "metadata",
    "on_run_completed",
    "enabled",
    "created_at",
    "updated_at",
]
CronSortBy = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "created_at",
    "updated_at",
    "next_run_date",
    "end_time",
]


def _cron_id(value: str) -> str:
    if not UUID_FORM.fullmatch(value.lower()):
        raise PydanticCustomError(SENTENCE, "Invalid cron ID: must be a UUID")
    return str(uuid.UUID(value))


def _time(value: str) -> str:
    try:
        time_of(value)
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            SENTENCE, "Invalid end_time: must be a time in ISO 8601"
        ) from None
    return value


def time_of(text: str) -> datetime:
    """A time as clients send it; one without an offset is in UTC."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


CronId = Annotated[str, AfterValidator(_cron_id), UUID_SCHEMA]
Time = Annotated[str, AfterValidator(_time)]


class CronFields(Payload):
    """What a cron is made of that may be left out."""

    timezone: str | None = Field(default=None, max_length=100)
    end_time: Time | None = None
    enabled: bool | None = None
    on_run_completed: OnRunCompleted | None = None
    input: Any = None
    metadata: Metadata | None = None
    config: RunConfig | None = None
    context: JsonObject | None = None
    webhook: str | None = Field(default=None, min_length=1)
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    multitask_strategy: MultitaskStrategy | None = None
    stream_mode: StreamModes | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    checkpoint_during: bool | None = None
    durability: Literal["sync", "async", "exit"] | None = None


class CronCreate(CronFields):
    """A new cron."""

    assistant_id: str
    schedule: str = Field(max_length=MAX_LENGTH)

    @property
    def payload(self) -> JsonObject:
        """What was sent and is known; what is null is as if it were not sent."""
        return self.model_dump(exclude_unset=True, exclude_none=True)


class CronUpdate(CronFields):
    """What is to be changed of a cron; only ``end_time`` can be taken away, with null."""

    schedule: str | None = Field(default=None, max_length=MAX_LENGTH)

    @property
    def payload(self) -> JsonObject:
        """
        What was sent and is known.

        Raises:
            InvalidInputError: Something is null that cannot be.
        """
        changes = {name: getattr(self, name) for name in self.model_fields_set}
        for name, value in changes.items():
            if value is None and name != "end_time":
                raise InvalidInputError(f"{name}: null is not allowed; leave it out to keep it")
        return self.model_dump(exclude_unset=True, exclude={"config"}) | (
            {"config": self.config.model_dump(exclude_unset=True)} if self.config else {}
        )


class CronCount(Payload):
    """Which crons to count."""

    assistant_id: AssistantId | None = None
    thread_id: ThreadId | None = None
    enabled: bool | None = None
    metadata: JsonObject | None = None


class CronSearch(CronCount):
    """Which crons to list, and how."""

    limit: Limit = 10
    offset: Offset = 0
    sort_by: CronSortBy | None = None
    sort_order: Order | None = None
    select: list[CronField] | None = None

    @property
    def column(self) -> crons.SortBy:
        """What to sort by."""
        if self.sort_by == "next_run_date":
            return "next_run_at"
        return self.sort_by or "created_at"


#: Of a payload, what its runs are made of; a cron's other fields say when.
_OF_RUNS = frozenset(CronFields.model_fields) - {
    "timezone",
    "end_time",
    "enabled",
    "on_run_completed",
}


def cron_request(cron: Cron) -> RunRequest:
    """
    The run that a cron asks for when it is due.

    Raises:
        InvalidInputError: It was kept by a version that took what this one does not.
    """
    request = request_of(
        cron.payload,
        assistant_id=cron.assistant_id,
        is_on_thread=cron.thread_id is not None,
        on_run_completed=cron.on_run_completed,
    )
    return replace(
        request,
        metadata={**cron.metadata, **request.metadata},
        injected=cron.injected,
        cron_id=cron.cron_id,
    )


def request_of(
    payload: Mapping[str, Any],
    *,
    assistant_id: str,
    is_on_thread: bool,
    on_run_completed: OnRunCompleted | None,
) -> RunRequest:
    """
    The run that the payload of a cron asks for.

    Raises:
        InvalidInputError: It does not ask for one.
    """
    fields = {name: payload[name] for name in _OF_RUNS if name in payload}
    config = dict(fields.pop("config", None) or {})
    configurable = dict(config.pop("configurable", None) or {})
    # Ours: it would be in the way of a context.
    configurable.pop("cron_id", None)
    if configurable:
        config["configurable"] = configurable
    fields |= {"assistant_id": assistant_id, "config": config}
    try:
        if is_on_thread:
            return RunCreate.model_validate(fields).request()
        return RunCreateStateless.model_validate(
            {**fields, "on_completion": on_run_completed}
        ).request()
    except ValidationError as exc:
        raise InvalidInputError("The cron's payload is not that of a run") from exc
