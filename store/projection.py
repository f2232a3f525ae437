"""
From checkpoints to messages: what the list in a checkpoint means for the rows of a conversation.

Pure, and knows a message by its attributes only: LangChain's objects and plain dicts alike. The
head alone decides which messages are in context and where; what came earlier decides each
message's place in the history (`seq`) and whether it lies on the branch that is shown. So edits,
removals, forks and replays are all differences of two lists.

`Projector` finds the differences while checkpoints are written; `History` replays checkpoints in
memory and must come to the same rows.
"""

import base64
import json
import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import orjson

from store.json import without_nul

_ROLES: Final = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_KEPT: Final = (
    "name",
    "tool_calls",
    "invalid_tool_calls",
    "tool_call_id",
    "status",
    "usage_metadata",
    "response_metadata",
    "additional_kwargs",
)
_MEDIA: Final = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "input_audio": "audio",
}
#: The key of a checkpoint's metadata that says that its messages are older than itself, and since
#: when they are: `created_at` of their `additional_kwargs`. Written by `graph.imports` alone.
IMPORTED: Final = "imported"
_NAMESPACE: Final = uuid.UUID("5c3cf9a2-4f0e-4b57-9f5d-0d9b1f3e6c11")
#: How many loads of one checkpoint a lease compares with: a run makes two or three.
_MAX_LOADS: Final = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A message as its list has it; texts are fit for PostgreSQL, `meta_data` is JSON."""

    id: str
    role: str
    content: str
    message_type: str
    meta_data: bytes
    position: int


class Listed:
    """
    A list of messages as it was when the table came to mirror it.

    It holds the messages and their contents, so that the identity of each stays its own.

    Args:
        value: Anything but a list counts as an empty one.
        states: Copies of the attributes of its messages, each of which has an id: then it is looked at
            only if something is asked of it.
    """

    def __init__(self, value: object, states: Sequence[Mapping[str, Any]] | None = None) -> None:
        self.messages: list[Any] = list(value) if isinstance(value, list) else []
        self._states = states
        self._places: dict[str, int] | None = None
        if states is not None:
            return
        # Loops of C: it may be a long conversation, of which nothing has changed.
        self._contents = _all(self.messages, "content")
        self._ids = _all(self.messages, "id")
        # A message without an id may get one later, in place.
        if not all(self._ids):
            self._places = _places(self.messages)

    @property
    def places(self) -> dict[str, int]:
        """Where each message stands, by its id."""
        if self._places is None:
            if self._states is not None:
                self._contents = [state["content"] for state in self._states]
                self._ids = [state["id"] for state in self._states]
            self._places = {clean(str(id_)): place for place, id_ in enumerate(self._ids)}
        return self._places

    def place_of(self, id_: str, message: Any) -> int | None:
        """Where the list has this very message, unchanged."""
        place = self.places.get(id_)
        if place is None or self.messages[place] is not message:
            return None
        return place if self._contents[place] is _read(message, "content") else None


@dataclass(frozen=True, slots=True)
class RowChange:
    """
    What one checkpoint of the root namespace does to the rows of its thread.

    Attributes:
        reset: First take every message out of the context, and those of other branches off it.
        upserts: Messages to write, whether they exist or not.
        places: Messages whose place in the context changed; None takes them out of it.
        is_projected: The rows mirror the checkpoint afterwards; else they must be made again.
        seen: The list afterwards; None if it is as before, or longer by `appended`.
    """

    reset: bool = False
    upserts: list[Row] = field(default_factory=list)
    places: list[tuple[str, int | None]] = field(default_factory=list)
    is_projected: bool = True
    seen: Listed | None = None
    appended: int = 0


class Projector:
    """
    Turns the checkpoints of one lease into changes, without a query and without a hash.

    Between two checkpoints of a line, a message is unchanged if it is the same object with the
    same content object. Where that cannot be known (a fork, a replay, a thread whose rows are
    behind) the whole list is written, idempotently.

    Args:
        head_checkpoint_id: The thread's newest checkpoint when the lease was taken.
    """

    def __init__(self, head_checkpoint_id: str | None) -> None:
        # Which checkpoint the table mirrors, and its list as often as it was loaded: a run loads
        # its head more than once and goes on with one of the copies.
        self._head: str | None = None
        self._loads = [Listed([])] if head_checkpoint_id is None else []
        self._is_mirrored = head_checkpoint_id is None
        self._has_written = False

    def learn(
        self,
        checkpoint_id: str,
        value: object,
        states: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Take note of a list that was loaded from the checkpoint that the table mirrors; as `Listed`."""
        if self._has_written:
            return
        self.learn_head(checkpoint_id)
        if len(self._loads) < _MAX_LOADS:
            self._loads.append(Listed(value, states))

    def learn_head(self, checkpoint_id: str) -> None:
        """Take note of which checkpoint the table mirrors, without its list."""
        if not self._has_written and self._head != checkpoint_id:
            self._head, self._is_mirrored = checkpoint_id, True
            self._loads = []

    def project(
        self,
        parent_checkpoint_id: str | None,
        value: object,
        *,
        changed: bool,
        appended: int | None = None,
    ) -> RowChange:
        """
        Find what a checkpoint changes.

        Args:
            parent_checkpoint_id: The checkpoint it continues.
            value: Its list of messages; anything else counts as an empty list.
            changed: Whether the channel was written since the parent.
            appended: How many messages, with ids that are new, were added at the end of an
                otherwise equal list; None if that is not known.
        """
        if self._is_mirrored and parent_checkpoint_id == self._head:
            if not changed:
                return RowChange()
            if appended is not None and isinstance(value, list):
                return _addition(value, appended)
            if self._loads:
                return self._difference(value)
        rows = [row(id_, *at) for id_, at in identified(value).items()]
        return RowChange(reset=True, upserts=rows, seen=Listed(value))

    def committed(self, checkpoint_id: str, change: RowChange) -> None:
        """Go on from a checkpoint whose change is in the database."""
        self._has_written = True
        self._head, self._is_mirrored = checkpoint_id, change.is_projected
        if change.seen is not None:
            self._loads = [change.seen]
        elif change.appended or not change.is_projected:
            self._loads = []

    def _difference(self, value: object) -> RowChange:
        listed = identified(value)
        change = RowChange(seen=Listed(value))
        for id_, (message, position) in listed.items():
            was = self._find(id_, message)
            if was is None:
                change.upserts.append(row(id_, message, position))
            elif was != position:
                change.places.append((id_, position))
        change.places.extend((id_, None) for id_ in self._loads[0].places if id_ not in listed)
        return change

    def _find(self, id_: str, message: Any) -> int | None:
        places = (load.place_of(id_, message) for load in self._loads)
        return next((place for place in places if place is not None), None)


def _addition(value: list[Any], count: int) -> RowChange:
    first = len(value) - count
    rows = [row(id_, m, first + place) for id_, (m, place) in identified(value[first:]).items()]
    return RowChange(upserts=rows, appended=count)


@dataclass(slots=True)
class Record:
    """A row of the table as a replay has made it."""

    id: str
    role: str
    content: str
    message_type: str
    meta_data: bytes
    seq: int
    position: int | None
    on_branch: bool
    run_id: str | None
    checkpoint_id: str
    last_checkpoint_id: str
    created: str
    updated: str


@dataclass(frozen=True, slots=True)
class Fork:
    """
    Where a branch begins: its first message does not follow the one before it in the history.

    Attributes:
        seq: Of the first message of the branch, which may have yet to come.
        parent_seq: Of the message that it follows; -1 for none.
        checkpoint_id: The checkpoint that went back.
    """

    seq: int
    parent_seq: int
    checkpoint_id: str


class History:
    """
    The rows of one thread, from its root checkpoints oldest first.

    Args:
        records: Rows of messages that first appeared in checkpoints which are gone (pruned).
        forks: As the table has them; those of checkpoints that are gone are kept.
    """

    def __init__(self, records: Iterable[Record] = (), forks: Iterable[Fork] = ()) -> None:
        self.records = {record.id: record for record in records}
        self.forks = {fork.seq: fork for fork in forks}
        #: The newest checkpoint, and the one that the records mirror.
        self.head: str | None = None
        self.projected: str | None = None
        self.count = 1 + max((record.seq for record in self.records.values()), default=-1)
        self._parents: dict[str, str | None] = {}
        self._value: object = None

    def skip(self, checkpoint_id: str, parent_checkpoint_id: str | None) -> None:
        """Pass over a checkpoint whose list is not in it."""
        self._parents[checkpoint_id] = parent_checkpoint_id
        self.head, self.projected = checkpoint_id, None

    def add(
        self,
        checkpoint_id: str,
        parent_checkpoint_id: str | None,
        value: object,
        *,
        at: str,
        run_id: str | None,
        is_import: bool = False,
    ) -> None:
        """Apply a checkpoint: the meaning of the writer's SQL, in Python."""
        if self.head is None:
            # Those of checkpoints that are gone, and of this one, whose parent may be.
            kept = (f for f in self.forks.values() if f.checkpoint_id <= checkpoint_id)
            self.forks = {fork.seq: fork for fork in kept if fork.seq <= self.count}
        if parent_checkpoint_id != self.projected or value is not self._value:
            first = self.count
            self._reset(parent_checkpoint_id)
            for id_, (message, position) in identified(value).items():
                born = (born_at(message) if is_import else None) or at
                self._put(row(id_, message, position), checkpoint_id, run_id, born)
            if parent_checkpoint_id != self.projected:
                parent_seq = self._fork(first, checkpoint_id)
                if parent_checkpoint_id is None:
                    # A beginning, or its parent is gone.
                    self._show(parent_seq)
        self._parents[checkpoint_id] = parent_checkpoint_id
        self.head = self.projected = checkpoint_id
        self._value = value

    def _put(self, new: Row, checkpoint_id: str, run_id: str | None, at: str) -> None:
        record = self.records.get(new.id)
        if record is None:
            self.records[new.id] = _record(new, self.count, checkpoint_id, run_id, at)
            self.count += 1
            return
        if _body(record) != _body(new):
            record.role, record.content = new.role, new.content
            record.message_type, record.meta_data = new.message_type, new.meta_data
            record.last_checkpoint_id, record.updated = checkpoint_id, at
        record.position, record.on_branch = new.position, True

    def _fork(self, seq: int, checkpoint_id: str) -> int:
        before = (r.seq for r in self.records.values() if r.on_branch and r.seq < seq)
        parent_seq = max(before, default=-1)
        self.forks.pop(seq, None)
        if parent_seq != seq - 1:
            self.forks[seq] = Fork(seq, parent_seq, checkpoint_id)
        return parent_seq

    def _show(self, seq: int) -> None:
        """Have a message, and those that it follows, on the branch."""
        shown = set()
        while seq >= 0:
            shown.add(seq)
            fork = self.forks.get(seq)
            seq = fork.parent_seq if fork else seq - 1
        for record in self.records.values():
            record.on_branch = record.on_branch or record.seq in shown

    def _reset(self, parent: str | None) -> None:
        for record in self.records.values():
            record.position = None
        if parent == self.projected:
            return
        line = self._line(parent)
        oldest = min(line, default="")
        for record in self.records.values():
            record.on_branch = record.checkpoint_id in line or (
                record.on_branch and record.checkpoint_id < oldest
            )

    def _line(self, checkpoint_id: str | None) -> set[str]:
        line = set()
        while checkpoint_id is not None:
            line.add(checkpoint_id)
            checkpoint_id = self._parents.get(checkpoint_id)
        return line


def identified(value: object) -> dict[str, tuple[Any, int]]:
    """
    The messages of a list with their positions, by id; what is not a message is passed over.

    Of two messages with one id the later counts. A message without an id gets one from its role,
    its content and how many equal ones stand before it: the same in every checkpoint.
    """
    listed: dict[str, tuple[Any, int]] = {}
    if not isinstance(value, list):
        return listed
    equal_ones: Counter[tuple[str, str]] = Counter()
    for position, message in enumerate(value):
        if not _is_message(message):
            continue
        if id_ := _read(message, "id"):
            listed[clean(str(id_))] = (message, position)
            continue
        text = (_role(message), plain_text(_read(message, "content")))
        name = "\0".join((*text, str(equal_ones[text])))
        equal_ones[text] += 1
        listed[str(uuid.uuid5(_NAMESPACE, name))] = (message, position)
    return listed


def run_id_of(metadata: Mapping[str, Any]) -> str | None:
    """The run that wrote a checkpoint, if its metadata names one of ours."""
    try:
        return str(uuid.UUID(metadata.get("run_id")))
    except (AttributeError, TypeError, ValueError):
        return None


def born_at(message: Any) -> str | None:
    """Since when an imported message is, if it says so: a time with its zone that PostgreSQL reads too."""
    more = _read(message, "additional_kwargs")
    told = more.get("created_at") if isinstance(more, dict) else None
    if not isinstance(told, str):
        return None
    try:
        at = datetime.fromisoformat(told)
        # PostgreSQL does not read every zone that Python does.
        return at.astimezone(UTC).isoformat() if at.tzinfo and at.year >= 1970 else None
    except (OverflowError, ValueError):
        return None


def row(id_: str, message: Any, position: int) -> Row:
    """The row of one message."""
    content, has = _read(message, "content"), _attributes(message)
    meta = {key: value for key in _KEPT if (value := has.get(key)) not in (None, {}, [], "")}
    if not isinstance(content, str):
        meta["content"] = content
    return Row(
        id=id_,
        role=_role(message),
        content=plain_text(content),
        message_type=_message_type(content),
        meta_data=dump(meta),
        position=position,
    )


def plain_text(content: object) -> str:
    """The text of a content: a string's own, the text blocks of a list."""
    if isinstance(content, str):
        return clean(content)
    if not isinstance(content, list | tuple):
        return ""
    blocks = (block if isinstance(block, str) else _block_text(block) for block in content)
    return clean("".join(blocks))


def clean(text: str) -> str:
    """Text that PostgreSQL can hold: U+FFFD stands for NUL and for each lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "\ufffd")


def dump(value: object) -> bytes:
    """JSON for ``jsonb`` of anything: what JSON has no form for is named, not refused."""
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS
    try:
        text = orjson.dumps(value, default=_plain, option=options)
    except TypeError:
        # Lone surrogates, integers beyond 64 bits, keys of odd types.
        text = json.dumps(_cleaned(value), default=_plain, sort_keys=True).encode()
    return without_nul(text)


def _is_message(message: object) -> bool:
    if isinstance(message, dict):
        return "content" in message and ("role" in message or "type" in message)
    return hasattr(message, "content") and hasattr(message, "type")


def _read(message: Any, key: str) -> Any:
    return message.get(key) if isinstance(message, dict) else getattr(message, key, None)


def _attributes(message: Any) -> Mapping[str, Any]:
    """What a message has of `_KEPT` and more: asked for what is not there, pydantic takes long to say so."""
    if isinstance(message, dict):
        return message
    if not hasattr(message, "__pydantic_extra__"):
        return {key: getattr(message, key, None) for key in ("role", *_KEPT)}
    more = message.__pydantic_extra__
    return {**vars(message), **more} if more else vars(message)


def _all(messages: list[Any], key: Literal["content", "id"]) -> list[Any]:
    try:
        return [m.content for m in messages] if key == "content" else [m.id for m in messages]
    except AttributeError:  # plain dicts are messages too
        return [_read(message, key) for message in messages]


def _places(messages: list[Any]) -> dict[str, int]:
    return {id_: place for id_, (_, place) in identified(messages).items()}


def _role(message: Any) -> str:
    kind = str(_attributes(message).get("role") or _read(message, "type"))
    kind = kind.removesuffix("MessageChunk").lower()
    return clean(_ROLES.get(kind, kind))


def _message_type(content: object) -> str:
    if isinstance(content, list | tuple):
        for block in content:
            if isinstance(block, dict) and (kind := _MEDIA.get(str(block.get("type")))):
                return kind
    return "text"


def _block_text(block: object) -> str:
    text = block.get("text") if isinstance(block, dict) else None
    return text if isinstance(text, str) else ""


def _record(new: Row, seq: int, checkpoint_id: str, run_id: str | None, at: str) -> Record:
    return Record(
        id=new.id,
        role=new.role,
        content=new.content,
        message_type=new.message_type,
        meta_data=new.meta_data,
        seq=seq,
        position=new.position,
        on_branch=True,
        run_id=run_id,
        checkpoint_id=checkpoint_id,
        last_checkpoint_id=checkpoint_id,
        created=at,
        updated=at,
    )


def _body(of: Row | Record) -> tuple[str, str, str, bytes]:
    return of.role, of.content, of.message_type, of.meta_data


def _plain(value: object) -> object:
    """A JSON form of what orjson does not know; the same in every process."""
    dump_model: Callable[..., object] | None = getattr(value, "model_dump", None)
    if callable(dump_model):
        return dump_model()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return f"<{type(value).__name__}>"


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
