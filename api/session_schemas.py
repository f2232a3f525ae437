"""What `/api/sessions` takes and gives."""

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas import Metadata, Payload, SessionId
from store.errors import BadRequestError
from store.models import JsonObject, Message, Session
from store.search import Place

Name = Annotated[str, Field(min_length=1, max_length=255)]
Label = Annotated[str, Field(max_length=255)]


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
    """A question to the session's graph."""

    query: str = Field(min_length=1)
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
