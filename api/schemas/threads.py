"""What clients send to the routes of threads, named as in the SDK. Unknown fields are ignored."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas.common import Checkpoint, Limit, Metadata, Offset, Payload, ThreadId, none_if_empty
from api.schemas.runs import RunCommand
from graph.json_paths import size
from store import threads
from store.errors import InvalidInputError
from store.models import JsonObject, ThreadStatus
from store.ordering import Order
from store.retention import Life, Strategy

#: How many paths a search extracts, and from which fields.
EXTRACT_MAX_PATHS, EXTRACT_ROOTS = 10, ("config", "interrupts", "metadata", "values")
#: How many values, one within the other included, a search looks for.
SEARCHED_MAX_VALUES = 100
STATE_FIELDS = (
    "values", "next", "tasks", "checkpoint", "metadata", "created_at", "parent_checkpoint",
    "interrupts",
)  # fmt: skip

ThreadField = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "status",
    "config",
    "values",
    "interrupts",
    "error",
]


def _searched_values(values: JsonObject) -> JsonObject:
    if size(values) > SEARCHED_MAX_VALUES:
        raise PydanticCustomError(
            SENTENCE, f"No more than {SEARCHED_MAX_VALUES} values can be searched for"
        )
    return values


def _extract(paths: dict[str, str]) -> dict[str, str]:
    if len(paths) > EXTRACT_MAX_PATHS:
        raise PydanticCustomError(
            SENTENCE, f"No more than {EXTRACT_MAX_PATHS} paths can be extracted"
        )
    if taken := sorted(paths.keys() & set(get_args(ThreadField))):
        raise PydanticCustomError(
            SENTENCE, f"Extract keys cannot use reserved field names: {taken}"
        )
    for key, path in paths.items():
        _check_path(key, path)
    return paths


def _check_path(key: str, path: str) -> None:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key):
        fault = f"Extract key '{key}' must be a valid identifier (letters, digits, underscores)"
    elif not path:
        fault = f"Extract path for '{key}' must be a non-empty string"
    elif re.split(r"[.\[]", path, maxsplit=1)[0] not in EXTRACT_ROOTS:
        roots = ", ".join(EXTRACT_ROOTS)
        fault = f"Extract path '{path}' must start with one of: {roots}"
    else:
        return
    # As a value: a brace of the client's would be taken for a place to fill.
    raise PydanticCustomError(SENTENCE, "{fault}", {"fault": fault})


def _state_fields(names: list[str]) -> list[str]:
    for name in names:
        if name not in STATE_FIELDS and not re.fullmatch(r"values\..+", name, re.DOTALL):
            raise PydanticCustomError(
                SENTENCE,
                "{name} cannot be selected: only {fields}, or values.<key>",
                {"name": repr(name), "fields": ", ".join(STATE_FIELDS)},
            )
    return names


#: What of each thread is shown under a name: a path into its fields.
Extract = Annotated[
    dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=500)]],
    AfterValidator(_extract),
]
SearchedValues = Annotated[JsonObject, AfterValidator(_searched_values)]
#: Fields of a state, and keys of its values.
StateFields = Annotated[list[str], AfterValidator(_state_fields)]
ThreadFields = Annotated[list[ThreadField] | None, BeforeValidator(none_if_empty)]
ThreadIds = Annotated[list[ThreadId], Field(max_length=1000)]


class ThreadTtl(Payload):
    """How long a thread lives that nobody uses."""

    ttl: float = Field(ge=1e-6, le=10**8, description="Minutes since its last use.")
    strategy: Strategy = Field(
        "delete", description="`keep_latest` deletes all checkpoints but the newest."
    )

    def life(self) -> Life:
        """It as `store.retention` has it."""
        return Life(ttl_minutes=self.ttl, strategy=self.strategy)


class SuperstepUpdate(Payload):
    """What a node is to have returned: values, or a command in their place."""

    as_node: str
    values: JsonObject | list[JsonObject] | None = None
    command: RunCommand | None = None


class Superstep(Payload):
    """Updates that were made at the same time."""

    updates: Annotated[list[SuperstepUpdate], Field(min_length=1, max_length=1000)]


class ThreadCreate(Payload):
    """A thread to create."""

    thread_id: ThreadId | None = None
    metadata: Metadata | None = None
    if_exists: Literal["raise", "do_nothing"] = "raise"
    ttl: ThreadTtl | None = None
    supersteps: list[Superstep] | None = Field(
        None, description="States that it begins with; `metadata.graph_id` names their graph."
    )


class ThreadUpdate(Payload):
    """What to change of a thread."""

    metadata: Metadata | None = Field(None, description="Merged key by key.")
    ttl: ThreadTtl | None = None


class ThreadCount(Payload):
    """Which threads to count."""

    metadata: JsonObject | None = None
    status: ThreadStatus | None = None
    values: SearchedValues | None = Field(None, description="Contained in their values.")


class ThreadSearch(ThreadCount):
    """Which threads to list, and how."""

    ids: Annotated[ThreadIds | None, BeforeValidator(none_if_empty)] = None
    limit: Limit = 10
    offset: Offset = 0
    sort_by: threads.SortBy = "updated_at"
    sort_order: Order = "desc"
    select: ThreadFields = None
    extract: Extract | None = Field(
        None, description="Paths into their fields by the name to show what is there under."
    )


class ThreadsPrune(Payload):
    """Which threads to prune, and how."""

    thread_ids: ThreadIds
    strategy: Strategy = Field(
        "delete", description="`keep_latest` deletes all checkpoints but the newest."
    )


class StateAtCheckpoint(Payload):
    """Which state of a thread to read."""

    checkpoint: Checkpoint
    subgraphs: bool | None = None
    select: StateFields | None = None


class StateUpdate(Payload):
    """A change of a thread's state, as if a node had returned it."""

    values: JsonObject | list[JsonObject] | None = None
    as_node: str | None = None
    checkpoint: Checkpoint | None = Field(None, description="Fork from here.")
    checkpoint_id: str | None = None


class HistorySearch(Payload):
    """Which states of a thread to list."""

    limit: Limit = 1
    before: str | JsonObject | None = Field(
        None, description="The id of a checkpoint, a checkpoint, or a config with one."
    )
    metadata: JsonObject | None = None
    checkpoint: Checkpoint | None = None
    select: StateFields | None = None

    def before_id(self) -> str | None:
        """
        The id of the checkpoint before which to begin, in whatever form it came.

        Raises:
            InvalidInputError: It came in none.
        """
        before = self.before
        if isinstance(before, dict):
            before = before.get("configurable", before)
        found = before.get("checkpoint_id") if isinstance(before, dict) else before
        if found is None and not before:
            return None
        if not isinstance(found, str):
            raise InvalidInputError("before: it names no checkpoint_id")
        return found or None
