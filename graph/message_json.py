"""Messages that travelled as JSON."""

from collections.abc import Mapping
from typing import Any

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
#: What LangChain's classes raise of what is no message.
REFUSALS = (AttributeError, KeyError, TypeError, ValueError)


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
