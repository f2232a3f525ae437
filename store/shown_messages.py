"""
Lists of messages as JSON shows them, told from their bytes.

To make the messages is most of the work of a list of threads.

LangChain's messages are encoded as their attributes, and decoded by giving these to their classes. Those check
them, and most often take them as they are. Here is said of which they do; all others are decoded. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

import ormsgpack
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2

#: How a serialiser of LangGraph reads MessagePack.
_OPTION: Final = ormsgpack.OPT_NON_STR_KEYS
#: What the MessagePack of a list begins with.
_LISTS: Final = frozenset(bytes((first,)) for first in (*range(0x90, 0xA0), 0xDC, 0xDD))
#: By module and name, the names of the attributes in the order in which JSON shows them, and the type.
_CLASSES: Final = {
    (kind.__module__, kind.__name__): (list(kind.model_fields), kind.model_fields["type"].default)
    for kind in (AIMessage, HumanMessage, SystemMessage, ToolMessage)
}
_COUNTS: Final = ["input_tokens", "output_tokens", "total_tokens"]
_DETAILS: Final = {
    "input_token_details": {"audio", "cache_creation", "cache_read"},
    "output_token_details": {"audio", "reasoning"},
}


def shown_messages(blob: bytes) -> list[dict[str, Any]] | None:
    """
    The messages of a list that LangGraph has encoded, each as the object that it is in JSON.

    None if it is anything else than a list of messages whose classes take all attributes as they were encoded.
    """
    if blob[:1] not in _LISTS:
        return None
    found: list[dict[str, Any]] = []

    def read(code: int, data: bytes) -> None:
        module, name, attributes, _ = ormsgpack.unpackb(data, ext_hook=_refuse, option=_OPTION)
        if code != EXT_PYDANTIC_V2 or not _is_taken(module, name, attributes):
            raise ValueError
        found.append(attributes)

    try:
        items = ormsgpack.unpackb(blob, ext_hook=read, option=_OPTION)
    except (ValueError, TypeError):
        return None
    return found if items == [None] * len(found) else None


def _refuse(code: int, data: bytes) -> None:
    """Values within a message that have a class of their own."""
    raise ValueError


def _is_taken(module: str, name: str, attributes: dict[str, Any]) -> bool:
    """Whether a class of messages makes of its attributes just these."""
    if (known := _CLASSES.get((module, name))) is None:
        return False
    names, type_ = known
    if list(attributes) != names or attributes["type"] != type_ or not _is_common(attributes):
        return False
    if name == "ToolMessage":
        return type(attributes["tool_call_id"]) is str and attributes["status"] in (
            "success",
            "error",
        )
    return name != "AIMessage" or _is_answer(attributes)


def _is_common(attributes: Mapping[str, Any]) -> bool:
    return (
        _is_content(attributes["content"])
        and type(attributes["additional_kwargs"]) is dict
        and type(attributes["response_metadata"]) is dict
        and _is_text_or_none(attributes["name"])
        and _is_text_or_none(attributes["id"])
    )


def _is_content(content: object) -> bool:
    return type(content) is str or (
        type(content) is list and all(type(block) in (str, dict) for block in content)
    )


def _is_answer(attributes: Mapping[str, Any]) -> bool:
    calls, usage = attributes["tool_calls"], attributes["usage_metadata"]
    return (
        # Of these, as providers have them, calls are made.
        "tool_calls" not in attributes["additional_kwargs"]
        and attributes["invalid_tool_calls"] == []
        and type(calls) is list
        and all(map(_is_call, calls))
        and (usage is None or _is_usage(usage))
    )


def _is_call(call: object) -> bool:
    return (
        type(call) is dict
        and list(call) == ["name", "args", "id", "type"]
        and type(call["name"]) is str
        and type(call["args"]) is dict
        and all(type(key) is str for key in call["args"])
        and _is_text_or_none(call["id"])
        and call["type"] == "tool_call"
    )


def _is_usage(usage: object) -> bool:
    if type(usage) is not dict or list(usage)[:3] != _COUNTS:
        return False
    details = {key: value for key, value in usage.items() if key not in _COUNTS}
    return (
        all(type(usage[key]) is int for key in _COUNTS)
        and list(details) in ([], *([key] for key in _DETAILS), list(_DETAILS))
        and all(
            type(given) is dict
            and given.keys() <= _DETAILS[key]
            and all(type(count) is int for count in given.values())
            for key, given in details.items()
        )
    )


def _is_text_or_none(value: object) -> bool:
    return value is None or type(value) is str
