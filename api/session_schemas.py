"""What `/api/sessions` takes and gives."""

import base64
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas import Metadata, Payload, SessionId
from store.errors import BadRequestError
from store.models import JsonObject, Message, Session

Name = Annotated[str, Field(min_length=1, max_length=255)]
Label = Annotated[str, Field(max_length=255)]
#: Longer than any that LangChain, or a chat front end, makes.
MessageId = Annotated[str, Field(min_length=1, max_length=255)]


def _content_block(block: JsonObject) -> JsonObject:
    if not isinstance(block.get("type"), str):
        raise PydanticCustomError(SENTENCE, "Each block of content must have a `type`")
    if block["type"] == "text" and not isinstance(block.get("text"), str):
        raise PydanticCustomError(SENTENCE, "A block of text must have a `text`")
    return block


#: One of LangChain's, such as ``{"type": "text", "text": "…"}``.
ContentBlock = Annotated[JsonObject, AfterValidator(_content_block)]


def _session_metadata(metadata: JsonObject) -> JsonObject:
    for key in ("user_id", "name", "chat_type", "assistant_id"):
        if not isinstance(metadata.get(key, ""), str):
            raise PydanticCustomError(SENTENCE, f"metadata.{key} must be a string")
    if metadata.get("status", "active") not in ("active", "archived"):
        raise PydanticCustomError(SENTENCE, "metadata.status must be active or archived")
    return metadata


#: A session's attributes are keys of it, so they are checked here too.
SessionMetadata = Annotated[Metadata, AfterValidator(_session_metadata)]


class SessionCreate(Payload):
    """A new session; every attribute is optional."""

    id: SessionId | None = None
    user_id: Label | None = None
    name: Name = "新对话"
    chat_type: Label | None = None
    #: The assistant or graph that answers; the server's first graph unless given.
    assistant_id: Label | None = None
    metadata: SessionMetadata | None = None

    def attributes(self) -> JsonObject:
        """The metadata of the thread."""
        own = self.model_dump(include={"user_id", "name", "chat_type", "assistant_id"})
        kept = {key: value for key, value in own.items() if value is not None}
        return {**(self.metadata or {}), **kept}


class SessionUpdate(Payload):
    """What can be changed of a session."""

    name: Name | None = None
    status: Literal["active", "archived"] | None = None
    metadata: SessionMetadata | None = None

    def changes(self) -> JsonObject:
        """The keys of the thread's metadata that change."""
        own = self.model_dump(include={"name", "status"}, exclude_none=True)
        return {**(self.metadata or {}), **own}


class MessageSend(Payload):
    """What is said to the session's graph: a text, blocks of content, or the answer to a question."""

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
    id: Annotated[MessageId | None, Field(description="The new message's; else one is made.")] = (
        None
    )
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

    model: Annotated[
        Label | None, Field(min_length=1, description="`configurable.model` of the graph.")
    ] = None
    stream: bool = False
    #: What to do while a run is in flight.
    on_busy: Literal["reject", "enqueue", "interrupt"] = "reject"


def session_json(session: Session) -> JsonObject:
    """A session, its attributes beside its id."""
    return {
        "id": session.id,
        "name": session.name,
        "user_id": session.user_id,
        "chat_type": session.chat_type,
        "status": session.status,
        "thread_status": session.thread_status,
        "metadata": session.metadata,
        "create_time": session.create_time,
        "update_time": session.update_time,
    }


def message_json(message: Message) -> JsonObject:
    """A message, with the seed's names."""
    return {
        "id": message.id,
        "conversation_id": message.conversation_id,
        "role": message.role,
        "content": message.content,
        "message_type": message.message_type,
        "meta_data": message.meta_data,
        "run_id": message.run_id,
        "in_context": message.in_context,
        "create_time": message.create_time,
        "update_time": message.update_time,
    }


def encode_cursor(*parts: Any) -> str:
    """An opaque place in a list."""
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def session_cursor(text: str | None) -> tuple[datetime, str] | None:
    """
    The place that a cursor of a list of sessions stands for.

    Raises:
        BadRequestError: It is not one of ours.
    """
    place = _decode(text)
    if place is None:
        return None
    try:
        at, session_id = place
        touched_at = datetime.fromisoformat(at)
    except (TypeError, ValueError) as exc:
        raise _bad_cursor() from exc
    # A NUL can be in a cursor, which is no JSON body, and in no text of PostgreSQL.
    if not isinstance(session_id, str) or "\0" in session_id:
        raise _bad_cursor()
    return touched_at, session_id


def message_cursor(text: str | None) -> int | None:
    """
    The place that a cursor of a list of messages stands for.

    Raises:
        BadRequestError: It is not one of ours.
    """
    place = _decode(text)
    if place is None:
        return None
    if len(place) != 1 or type(place[0]) is not int or not 0 <= place[0] < 2**31:
        raise _bad_cursor()
    return place[0]


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
