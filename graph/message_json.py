"""Messages that travelled as JSON."""

from collections.abc import Mapping
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from store.errors import InvalidInputError

_TYPES: dict[str, type[BaseMessage]] = {
    "human": HumanMessage,
    "ai": AIMessage,
    "system": SystemMessage,
    "tool": ToolMessage,
}
NOT_ADDRESSABLE: Final = "The id of a message must not be . or .., nor have these between slashes"
#: What LangChain's classes raise of what is no message.
REFUSALS = (AttributeError, KeyError, TypeError, ValueError)


def is_addressable(message_id: str) -> bool:
    """
    Whether a URL can name a message by its id.

    Clients resolve ``..`` before they send: who deletes a message of that id would delete its session.
    """
    return {".", ".."}.isdisjoint(message_id.split("/"))


def require_addressable(message_id: str | None) -> None:
    """
    Refuse the id of a new message that no URL can name.

    Raises:
        InvalidInputError: It is one.
    """
    if message_id is not None and not is_addressable(message_id):
        raise InvalidInputError(NOT_ADDRESSABLE)


def decode(message: Mapping[str, Any]) -> BaseMessage:
    """
    The message of its JSON: LangChain's, with a ``type``, or OpenAI's, with a ``role``.

    Raises:
        InvalidInputError: It is none.
    """
    kind = _TYPES.get(str(message.get("type")))
    try:
        if kind is not None:
            return kind.model_validate(dict(message))
        if "role" in message:
            return convert_to_messages([dict(message)])[0]
    except REFUSALS as exc:
        raise InvalidInputError(f"This is no message of type {kind or message['role']}") from exc
    raise InvalidInputError(f"A message has a `type`, one of {', '.join(_TYPES)}, or a `role`")
