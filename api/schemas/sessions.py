"""What `/api/sessions` takes and gives."""

import base64
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag as Case,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas.common import Metadata, Payload, SessionId, Text
from graph.first_words import SOURCE, TITLE, without_title
from graph.message_json import NOT_ADDRESSABLE, is_addressable
from store import media
from store.errors import BadRequestError
from store.feedback import Feedback
from store.files import File
from store.models import JsonObject, Message, Session
from store.search import Place
from store.sessions import UNNAMED, Counts, Filter, Place as ListPlace, SortBy

Name = Annotated[str, Field(min_length=1, max_length=255)]
Label = Annotated[str, Field(max_length=255)]
#: Longer than any that LangChain, or a chat front end, makes.
MessageId = Annotated[str, Field(min_length=1, max_length=255)]


def _addressable(message_id: str) -> str:
    if not is_addressable(message_id):
        raise PydanticCustomError(SENTENCE, NOT_ADDRESSABLE)
    return message_id


#: Of a message that is to be.
NewMessageId = Annotated[MessageId, AfterValidator(_addressable)]


def _content_block(block: JsonObject) -> JsonObject:
    if not isinstance(block.get("type"), str):
        raise PydanticCustomError(SENTENCE, "Each block of content must have a `type`")
    if block["type"] == "text" and not isinstance(block.get("text"), str):
        raise PydanticCustomError(SENTENCE, "A block of text must have a `text`")
    return block


#: One of LangChain's, such as ``{"type": "text", "text": "…"}``.
ContentBlock = Annotated[JsonObject, AfterValidator(_content_block)]


#: Keys of a session's metadata that only the server sets; stripped of what clients send.
SERVER_KEYS = frozenset({"deleted_at", TITLE, SOURCE})
MAX_TAGS = 50
#: How far ahead a session may end.
MAX_LIFE = timedelta(days=36525)


def _tags(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _future(at: datetime) -> datetime:
    now = datetime.now(UTC)
    if not now < at <= now + MAX_LIFE:
        raise PydanticCustomError(SENTENCE, "expires_at must be in the next hundred years")
    return at


Tag = Annotated[str, Field(min_length=1, max_length=64)]
Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS), AfterValidator(_tags)]
Folder = Annotated[str, Field(min_length=1, max_length=255)]
#: JSON has it as a text, so it is not strict.
Moment = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_future)]
_TAGS = TypeAdapter(Tags, config=ConfigDict(strict=True))


def _session_metadata(metadata: JsonObject) -> JsonObject:
    for key in ("user_id", "name", "chat_type", "assistant_id", "graph_id", "folder"):
        if not isinstance(metadata.get(key, ""), str | None):
            raise PydanticCustomError(SENTENCE, f"metadata.{key} must be a string")
    if metadata.get("status", "active") not in ("active", "archived"):
        raise PydanticCustomError(SENTENCE, "metadata.status must be active or archived")
    if not isinstance(metadata.get("pinned", False), bool):
        raise PydanticCustomError(SENTENCE, "metadata.pinned must be true or false")
    try:
        _TAGS.validate_python(metadata.get("tags") or [])
    except ValidationError:
        raise PydanticCustomError(SENTENCE, "metadata.tags must be a list of tags") from None
    return {key: value for key, value in metadata.items() if key not in SERVER_KEYS}


#: A session's attributes are keys of it, so they are checked here too.
SessionMetadata = Annotated[Metadata, AfterValidator(_session_metadata)]


class SessionCreate(Payload):
    """A new session; every attribute is optional."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "ada", "name": "First", "tags": ["work"]}]}
    )

    id: SessionId | None = None
    user_id: Label | None = Field(
        default=None, description="Whose it is; where users are known, the caller's own or none."
    )
    name: Name = Field(default=UNNAMED, description="Without one the first words are its title.")
    chat_type: Label | None = None
    assistant_id: Label | None = Field(
        default=None,
        description="The assistant or graph that answers; else the server's first graph.",
    )
    pinned: bool = False
    tags: Tags = Field(default_factory=list)
    folder: Folder | None = None
    metadata: SessionMetadata | None = None
    expires_at: Moment | None = Field(default=None, description="It is purged then.")

    def attributes(self) -> JsonObject:
        """The metadata of the thread."""
        own = self.model_dump(
            include={"user_id", "name", "chat_type", "assistant_id", "pinned", "tags", "folder"}
        )
        kept = {key: value for key, value in own.items() if value not in (None, False, [])}
        if self.name == UNNAMED:
            del kept["name"]
        return {**(self.metadata or {}), **kept}


class SessionUpdate(Payload):
    """What can be changed of a session; what is not named stays."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "Second", "pinned": True, "folder": None}]}
    )

    name: Name | None = Field(
        default=None, description="null: the title that it had without a name."
    )
    status: Literal["active", "archived"] | None = None
    pinned: bool | None = None
    tags: Tags | None = None
    folder: Folder | None = Field(default=None, description="null: in none.")
    metadata: SessionMetadata | None = Field(default=None, description="Merged key by key.")
    expires_at: Moment | None = Field(default=None, description="null: never.")

    def changes(self) -> JsonObject:
        """The keys of the thread's metadata that change."""
        own = self.model_dump(
            include={"name", "status", "pinned", "tags", "folder"}, exclude_none=True
        )
        return {**(self.metadata or {}), **own}

    def removed(self) -> list[str]:
        """The keys of the thread's metadata that go."""
        cleared = [key for key in ("name", "folder", "tags") if key in self.model_fields_set]
        return [key for key in cleared if getattr(self, key) is None]

    def expiry(self) -> tuple[datetime | None] | None:
        """When it ends from now on; None if that does not change."""
        return (self.expires_at,) if "expires_at" in self.model_fields_set else None


class SessionList(BaseModel):
    """Which sessions to list, and how."""

    user_id: Text | None = None
    status: Literal["active", "archived", "deleted", "all"] = "active"
    q: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    pinned: bool | None = None
    tag: Annotated[list[Text], Field(max_length=20)] = Field(default_factory=list)
    folder: Text | None = None
    chat_type: Text | None = None
    shared: bool | None = None
    sort: Literal["-update_time", "update_time", "-create_time", "create_time"] = "-update_time"
    pinned_first: bool | None = None
    counts: bool = False
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: str | None = None

    def filter(self, ids: Collection[str]) -> Filter:
        """The sessions that are meant; those with these ids beside those whose names `q` is in."""
        asked = {"chat_type": self.chat_type, "folder": self.folder, "tags": self.tag or None}
        return Filter(
            user_id=self.user_id,
            status=None if self.status == "all" else self.status,
            pinned=self.pinned,
            attributes={key: value for key, value in asked.items() if value is not None},
            title=self.q,
            ids=ids,
        )

    def sort_by(self) -> SortBy:
        """By which of their times they are listed."""
        return "create_time" if self.sort.endswith("create_time") else "update_time"

    def begins_with_pinned(self) -> bool:
        """Whether those that are pinned come first: where people expect them, or as they say."""
        if self.pinned is not None:
            return False
        if self.pinned_first is not None:
            return self.pinned_first
        return self.sort == "-update_time" and self.status in ("active", "all")


class FeedbackPut(Payload):
    """What somebody thinks of a message: a score or a rating."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"rating": "like", "reason": "to the point"}]}
    )

    score: Annotated[int, Field(ge=0, le=100)] | None = None
    rating: Literal["like", "dislike"] | None = None
    reason: Annotated[str, Field(max_length=2000)] | None = None
    tags: Tags = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.score is None) == (self.rating is None):
            raise PydanticCustomError(SENTENCE, "Give one of score and rating")
        return self

    def points(self) -> int:
        """The score; of a rating an end of the scale."""
        if self.score is not None:
            return self.score
        return 100 if self.rating == "like" else 0


class MessageSend(Payload):
    """What is said to the session's graph: a text, blocks of content, or the answer to a question."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "And a shorter one?", "parent_id": "lc_run--01a21865"}]
        }
    )

    query: Annotated[str, Field(min_length=1)] | None = None
    content: Annotated[
        list[ContentBlock] | None,
        Field(min_length=1, max_length=100, description="Blocks, in place of the text `query`."),
    ] = None
    resume: Annotated[
        Any, Field(description="The answer to what the graph has asked, in place of a message.")
    ] = None
    parent_id: Annotated[
        MessageId | None,
        Field(
            description="The message that this one follows: a branch; null: none. Else the last."
        ),
    ] = None
    id: Annotated[
        NewMessageId | None, Field(description="The new message's; else one is made.")
    ] = None
    attachments: Annotated[list[str] | None, Field(max_length=20, description="Ids of files.")] = (
        None
    )
    model: Annotated[
        Label | None, Field(min_length=1, description="`configurable.model` of the graph.")
    ] = None
    chat_type: Label | None = None
    stream: bool = False
    #: What to do while a run is in flight.
    on_busy: Literal["reject", "enqueue", "interrupt"] = "reject"

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        given = [self.query is not None, self.content is not None, self.resume is not None]
        if sum(given) != 1:
            raise PydanticCustomError(SENTENCE, "Give one of query, content and resume")
        if self.resume is not None and (self.branches or self.attachments or self.id):
            raise PydanticCustomError(
                SENTENCE, "An answer to a question has no parent_id, id or attachments"
            )
        return self

    @property
    def branches(self) -> bool:
        """Whether it says which message it follows."""
        return "parent_id" in self.model_fields_set


class Regenerate(Payload):
    """How an answer is to be given again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"stream": True}]})

    model: Annotated[
        Label | None, Field(min_length=1, description="`configurable.model` of the graph.")
    ] = None
    stream: bool = False
    #: What to do while a run is in flight.
    on_busy: Literal["reject", "enqueue", "interrupt"] = "reject"


class MessageEdit(Payload):
    """What a message is to say."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"content": "Name a river of Europe."}]}
    )

    content: Annotated[
        Annotated[str, Field(min_length=1), Case("text")]
        | Annotated[list[ContentBlock], Field(min_length=1, max_length=100), Case("blocks")],
        # Or what is wrong would be told of both.
        Discriminator(lambda given: "blocks" if isinstance(given, list) else "text"),
    ]


class HeadMove(Payload):
    """Where a conversation is to go on from."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"message_id": "lc_run--01a21865"}]})

    message_id: MessageId


class SessionFork(Payload):
    """Up to where a conversation is copied, and what the copy is called."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"message_id": "lc_run--01a21865", "name": "Rivers"}]}
    )

    message_id: Annotated[
        MessageId | None, Field(description="The last one of the copy; else that of the session.")
    ] = None
    name: Name | None = None

    def attributes(self, source: Session) -> JsonObject:
        """The metadata of the new thread: nothing of who may see the other one."""
        taken = {key: source.metadata[key] for key in _FORKED if key in source.metadata}
        name = {"name": self.name} if self.name else {}
        return {**taken, **name, "forked_from": {"session_id": source.id, **self._place()}}

    def _place(self) -> JsonObject:
        return {"message_id": self.message_id} if self.message_id is not None else {}


#: What a copy of a session has of its attributes.
_FORKED = ("user_id", "chat_type", "assistant_id", "folder", "tags", "name", TITLE, SOURCE)


def attachment_block(file: File) -> JsonObject:
    """A file in the content of a message: what it holds is nowhere but in the file."""
    return {
        "type": media.block_type(file.mime_type),
        "file_id": file.file_id,
        "mime_type": file.mime_type,
        "name": file.name,
    }


def is_pinned(session: Session) -> bool:
    """Whether it comes first: as SQL sees it, whatever was written there through /threads."""
    pinned = session.metadata.get("pinned")
    return pinned is True or pinned == "true"


def session_json(session: Session, snippet: str | None = None) -> JsonObject:
    """A session, its attributes beside its id; of one that was searched for, where it was found."""
    metadata = session.metadata
    tags, folder = metadata.get("tags"), metadata.get("folder")
    found = {} if snippet is None else {"snippet": snippet}
    return {
        "id": session.id,
        "name": session.name,
        "title_source": "user" if metadata.get("name") else metadata.get(SOURCE),
        "user_id": session.user_id,
        "chat_type": session.chat_type,
        "status": session.status,
        "pinned": is_pinned(session),
        # Through /threads anything may be written there.
        "tags": [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        "folder": folder if isinstance(folder, str) else None,
        "thread_status": session.thread_status,
        "message_count": session.message_count,
        "metadata": without_title(metadata),
        "expires_at": session.expires_at,
        "create_time": session.create_time,
        "update_time": session.update_time,
        **found,
    }


def feedback_json(feedback: Feedback) -> JsonObject:
    """What somebody thinks of a message."""
    score = feedback.score
    return {
        "score": score,
        "rating": None if score == 50 else "like" if score > 50 else "dislike",
        "reason": feedback.reason,
        "tags": feedback.tags,
    }


def counts_json(counts: Counts) -> JsonObject:
    """How many sessions there are."""
    return {
        **{status: counts.statuses.get(status, 0) for status in ("active", "archived", "deleted")},
        "pinned": counts.pinned,
        "folders": counts.folders,
        "tags": counts.tags,
        **({} if counts.of_latest is None else {"of_latest": counts.of_latest}),
    }


def message_json(message: Message, feedback: Feedback | None = None) -> JsonObject:
    """A message, with the seed's names, and what the caller thinks of it."""
    return {
        "id": message.id,
        "conversation_id": message.conversation_id,
        "role": message.role,
        "content": message.content,
        "message_type": message.message_type,
        "meta_data": message.meta_data,
        "run_id": message.run_id,
        "parent_id": message.parent_id,
        "sibling_ids": message.sibling_ids,
        "on_branch": message.on_branch,
        "in_context": message.in_context,
        "feedback": feedback_json(feedback) if feedback else None,
        "create_time": message.create_time,
        "update_time": message.update_time,
        "edited_at": message.edited_at,
        "deleted_at": message.deleted_at,
    }


def encode_cursor(*parts: Any) -> str:
    """An opaque place in a list."""
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def session_cursor(text: str | None) -> ListPlace | None:
    """
    The place that a cursor of a list of sessions stands for.

    Raises:
        BadRequestError: It is not one of ours.
    """
    place = _decode(text)
    if place is None:
        return None
    try:
        pinned, at, session_id = place
        touched_at = datetime.fromisoformat(at)
    except (TypeError, ValueError) as exc:
        raise _bad_cursor() from exc
    # A NUL can be in a cursor, which is no JSON body, and in no text of PostgreSQL.
    if not isinstance(session_id, str) or "\0" in session_id or not isinstance(pinned, bool):
        raise _bad_cursor()
    return ListPlace(pinned, touched_at, session_id)


def message_cursor(text: str | None) -> int | None:
    """
    The place that a cursor of a list of messages stands for.

    Raises:
        BadRequestError: It is not one of ours.
    """
    return number_cursor(text, below=2**31)


def number_cursor(text: str | None, *, below: int = 2**63) -> int | None:
    """
    The number that a cursor stands for.

    Raises:
        BadRequestError: It is not one of ours.
    """
    place = _decode(text)
    if place is None:
        return None
    if len(place) != 1 or type(place[0]) is not int or not 0 <= place[0] < below:
        raise _bad_cursor()
    return place[0]


def search_cursor(text: str | None) -> Place | None:
    """
    The place that a cursor of a list of hits stands for.

    Raises:
        BadRequestError: It is not one of ours.
    """
    place = _decode(text)
    if place is None:
        return None
    match place:
        case [int(before), None, None] if 0 <= before < 2**63:
            return Place(before=before)
        case [int(before), float(rank), int(number)] if 0 <= before < 2**63 > number >= 0:
            return Place(before=before, rank=rank, number=number)
    raise _bad_cursor()


def _decode(text: str | None) -> list[Any] | None:
    if text is None:
        return None
    try:
        place = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError as exc:  # of base64, of UTF-8 and of JSON
        raise _bad_cursor() from exc
    if not isinstance(place, list):
        raise _bad_cursor()
    return place


def _bad_cursor() -> BadRequestError:
    return BadRequestError("The cursor is not valid", code="bad_cursor")
