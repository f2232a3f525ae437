"""
The nouns, as they lie in the database. Rows are frozen; every time is UTC.

Rows with texts of people are opened as they are read, by `opened`: see `store.cipher`.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, Protocol, Self

from store.cipher import Cipher, at
from store.json import dump_json

RunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
MultitaskStrategy = Literal["reject", "enqueue", "interrupt", "rollback"]
CancelAction = Literal["interrupt", "rollback"]

#: A JSON object.
JsonObject = dict[str, Any]
#: The path of a thread's config, whose keys SQL merges: below it no key is in the clear.
CONFIG: Final = ("config",)


class _OfAssistant(Protocol):
    """A row with what an assistant gives its runs."""

    @property
    def assistant_id(self) -> str: ...
    @property
    def config(self) -> JsonObject: ...
    @property
    def context(self) -> JsonObject: ...
    @property
    def metadata(self) -> JsonObject: ...


def opened_assistant(row: _OfAssistant, cipher: Cipher) -> dict[str, Any]:
    """What an assistant gives its runs, by column and without its seals; every version of it is sealed alike."""
    return {
        "config": cipher.open_json(row.config, at("assistant.config", row.assistant_id)),
        "context": cipher.open_json(row.context, at("assistant.context", row.assistant_id)),
        "metadata": cipher.open_values(row.metadata),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Assistant:
    """A graph with a configuration; its newest version."""

    assistant_id: str
    graph_id: str
    name: str
    description: str | None
    config: JsonObject
    context: JsonObject
    metadata: JsonObject
    version: int
    created_at: datetime
    updated_at: datetime

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        description = self.description and cipher.open_text(
            self.description, at("assistant.description", self.assistant_id)
        )
        return replace(self, description=description, **opened_assistant(self, cipher))


@dataclass(frozen=True, kw_only=True, slots=True)
class AssistantVersion:
    """What an assistant was once."""

    assistant_id: str
    version: int
    graph_id: str
    name: str
    description: str | None
    config: JsonObject
    context: JsonObject
    metadata: JsonObject
    created_at: datetime

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        description = self.description and cipher.open_text(
            self.description, at("assistant.description", self.assistant_id)
        )
        return replace(self, description=description, **opened_assistant(self, cipher))


@dataclass(frozen=True, kw_only=True, slots=True)
class Thread:
    """
    A conversation. Its values are not here: the newest checkpoint has them.

    Args:
        base_epoch: All its leases have an epoch above this one; None in lists, and
            for a thread that was made before this was kept.
    """

    thread_id: str
    status: ThreadStatus
    metadata: JsonObject
    config: JsonObject
    interrupts: JsonObject
    error: JsonObject | None
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    base_epoch: int | None = None

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        return replace(
            self,
            metadata=cipher.open_values(self.metadata),
            config=cipher.open_values(self.config, CONFIG),
            interrupts=cipher.open_json(self.interrupts, at("thread.interrupts", self.thread_id)),
            error=cipher.open_json(self.error, at("thread.error", self.thread_id)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One execution of a graph on a thread; `kwargs` is what was asked for."""

    run_id: str
    thread_id: str
    assistant_id: str
    status: RunStatus
    multitask_strategy: MultitaskStrategy
    metadata: JsonObject
    kwargs: JsonObject
    attempt: int
    #: The epoch of its first attempt; None while it has not begun.
    first_epoch: int | None
    #: Its events are in this epoch of the thread's log and after, or will be.
    log_epoch: int
    temporary: bool
    error: JsonObject | None
    created_at: datetime
    updated_at: datetime

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        return replace(
            self,
            metadata=cipher.open_values(self.metadata),
            kwargs=cipher.open_json(self.kwargs, at("run.kwargs", self.run_id)),
            error=cipher.open_json(self.error, at("run.error", self.run_id)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """
    The right to write to a thread.

    Every claim of a thread raises its epoch by one; what a holder of a lower epoch writes is
    refused, in SQL and in Redis.
    """

    thread_id: str
    epoch: int
    #: The newest checkpoint of the root namespace when the lease was taken.
    head_checkpoint_id: str | None
    #: The checkpoint that the message table mirrors.
    projected_checkpoint_id: str | None
    #: What the last run left the thread in.
    settled_status: ThreadStatus = "idle"
    #: Nobody wrote a newer checkpoint past the thread's row, as LangGraph's own saver would.
    head_is_newest: bool = False
    #: Checkpoints of the root namespace: written since the thread was pruned, and kept then.
    checkpoint_count: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message of a conversation, as its checkpoints last had it."""

    id: str
    conversation_id: str
    seq: int
    role: str
    content: str
    message_type: str
    meta_data: JsonObject
    run_id: str | None
    in_context: bool
    on_branch: bool
    create_time: datetime
    update_time: datetime
    #: Of a page of the history: the message that it follows, and all that follow that one, itself
    #: among them, the oldest first. None and none otherwise.
    parent_id: str | None = None
    sibling_ids: list[str] = field(default_factory=list)
    edited_at: datetime | None = None
    deleted_at: datetime | None = None

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        key = (self.conversation_id, self.id)
        return replace(
            self,
            content=cipher.open_text(self.content, at("message.content", *key)),
            meta_data=cipher.open_json(self.meta_data, at("message.meta_data", *key)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A thread, as people who think in conversations see it."""

    id: str
    user_id: str | None
    name: str
    chat_type: str | None
    #: ``active``, ``archived`` or ``deleted``, unless somebody wrote another into the metadata.
    status: str
    metadata: JsonObject
    thread_status: ThreadStatus
    #: Messages that it ever had.
    message_count: int
    expires_at: datetime | None
    #: Changes with what its owner may change of it, and with nothing that a run does.
    etag: str
    create_time: datetime
    update_time: datetime

    def opened(self, cipher: Cipher) -> Self:
        """The row without its seals."""
        metadata = cipher.open_values(self.metadata)
        # One that is there and cannot be opened is told as empty, never as it lies there.
        otherwise = self.name if _named(self.metadata) is None else ""
        return replace(self, metadata=metadata, name=_named(metadata) or otherwise)


def _named(metadata: JsonObject) -> str | None:
    """What ``session_name`` of the database says of metadata; None if it has no name."""
    found = (metadata.get(key) for key in ("name", "generated_title"))
    name = next((name for name in found if name not in (None, "")), None)
    return name if name is None or isinstance(name, str) else dump_json(name).decode()
