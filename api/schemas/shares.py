"""What the routes of shares take and give."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas.common import UUID_FORM, UUID_SCHEMA, Payload
from store import shares
from store.access import Role
from store.models import JsonObject
from store.shares import Link, Shared, SharedMessage

#: The id of what a session's members are, among its shares.
USERS = "users"


def _moment(value: Any) -> Any:
    """A time in ISO 8601; without an offset it is UTC."""
    if not isinstance(value, str):
        return value
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError(SENTENCE, "expires_at is no time of ISO 8601") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _later(value: datetime) -> datetime:
    if value <= datetime.now(UTC):
        raise PydanticCustomError(SENTENCE, "expires_at is in the past")
    return value


def _share_id(value: str) -> str:
    if not UUID_FORM.fullmatch(value.lower()):
        raise PydanticCustomError(SENTENCE, "Invalid share ID: must be a UUID")
    return str(UUID(value))


ShareId = Annotated[str, AfterValidator(_share_id), UUID_SCHEMA]
Identity = Annotated[str, Field(min_length=1, max_length=255)]
Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_later)]


class ShareCreate(Payload):
    """Whom to share a session with: whoever has a link, or some users."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"mode": "snapshot", "password": "open sesame"},
                {"audience": "users", "users": ["bob"], "role": "editor"},
            ]
        }
    )

    mode: Literal["snapshot", "live"] | None = Field(
        None, description="Of a link; `snapshot` unless given: what the session says now."
    )
    audience: Literal["link", "users"] = "link"
    users: Annotated[list[Identity], Field(min_length=1, max_length=shares.MAX_MEMBERS)] | None = (
        Field(None, description="Their identities, as `authenticate` tells them.")
    )
    role: Role = "viewer"
    expires_at: Moment | None = Field(None, description="Of a link; never unless given.")
    password: Annotated[str, Field(min_length=4, max_length=256)] | None = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> "ShareCreate":
        if self.audience == "users":
            if self.users is None:
                raise PydanticCustomError(SENTENCE, "users: whom the session is shared with")
            if self.mode == "snapshot" or self.expires_at or self.password:
                raise PydanticCustomError(
                    SENTENCE, "Users see the session itself, without an end or a password"
                )
        elif self.users is not None:
            raise PydanticCustomError(SENTENCE, "users are for the audience `users`")
        elif self.role != "viewer":
            raise PydanticCustomError(SENTENCE, "Who has a link may read, and no more")
        return self


def link_json(link: Link, token: str | None = None) -> JsonObject:
    """A link; its URL is told once, to whoever makes it."""
    return {
        "id": link.share_id,
        "url": f"/api/shares/{token}" if token else None,
        "audience": "link",
        "mode": link.mode,
        "role": "viewer",
        "has_password": link.has_password,
        "checkpoint_id": link.checkpoint_id,
        "created_at": link.created_at,
        "expires_at": link.expires_at,
    }


def members_json(session_id: str, members: dict[str, Role]) -> JsonObject:
    """The members of a session, as one of its shares."""
    return {
        "id": USERS,
        "url": f"/api/sessions/{session_id}",
        "audience": "users",
        "mode": "live",
        "users": members,
    }


def shared_json(
    shared: Shared, messages: Sequence[SharedMessage], cursor: str | None
) -> JsonObject:
    """What a link shows: nothing of ids, owners, metadata, or how an answer came about."""
    return {
        "name": shared.name,
        "mode": shared.mode,
        "created_at": shared.created_at,
        "expires_at": shared.expires_at,
        "messages": [
            {
                "id": message.id,
                "role": message.role,
                "content": message.content,
                "message_type": message.message_type,
                "create_time": message.create_time,
            }
            for message in messages
        ],
        "next_cursor": cursor,
        "has_more": cursor is not None,
    }
