"""The forms of other programs' files: of each what is read, as a `Transcript`. Nothing is guessed at."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from api.exchange import pairs
from api.exchange.transcript import (
    Role,
    Transcript,
    Utterance,
    checked,
    derived,
    id_of,
    in_a_line,
    moment,
    name_of,
    role_of,
    text_of,
)
from store.errors import InvalidInputError
from store.models import JsonObject
from store.projection import clean

_SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
    "function_call": "assistant", "system": "system", "tool": "tool", "observation": "tool",
    "function_response": "tool",
}  # fmt: skip


def chatgpt(item: JsonObject) -> Transcript:
    """
    A conversation of ChatGPT's ``conversations.json``: a tree of nodes, of which one is current.

    What was not shown is left out: hidden messages, tools, thoughts. What followed it follows what
    came before it.
    """
    mapping = _object(item, "mapping")
    nodes: dict[str, JsonObject] = {
        id_of(key, "The id of a node"): _an_object(node, "A node") for key, node in mapping.items()
    }
    shown = {key: found for key, node in nodes.items() if (found := _of_chatgpt(node))}
    parents = {key: _parent(node, "parent") for key, node in nodes.items()}

    def nearest(key: str | None) -> str | None:
        seen: set[str] = set()
        while key is not None and key not in shown:
            if key in seen or key not in parents:
                return None
            seen.add(key)
            key = parents[key]
        return key

    said = [
        Utterance(
            id=key, parent_id=nearest(parents[key]), role=role, content=text, created_at=at,
            fields=fields,
        )
        for key, (role, text, at, fields) in shown.items()
    ]  # fmt: skip
    current = item.get("current_node")
    utterances, head = checked(said, nearest(current if isinstance(current, str) else None))
    found_id = item.get("conversation_id") or item.get("id")
    status = {"status": "archived"} if item.get("is_archived") is True else {}
    pinned = {"pinned": True} if item.get("is_starred") is True else {}
    return Transcript(
        form="chatgpt",
        id=id_of(found_id, "The conversation's id") if found_id else None,
        attributes={"name": name_of(item.get("title")), **status, **pinned},
        utterances=utterances,
        head=head,
        created_at=moment(item.get("create_time")),
        updated_at=moment(item.get("update_time")),
    )


def _of_chatgpt(
    node: JsonObject,
) -> tuple[Role, str | list[Any], datetime | None, JsonObject] | None:
    """A message that was shown; None for anything else."""
    message = node.get("message")
    if not isinstance(message, dict):
        return None
    author, content = message.get("author"), message.get("content")
    role = author.get("role") if isinstance(author, dict) else None
    about = message.get("metadata")
    about = about if isinstance(about, dict) else {}
    if (
        role not in ("user", "assistant")
        or about.get("is_visually_hidden_from_conversation")
        or message.get("recipient", "all") != "all"
        or message.get("weight") == 0
        or not isinstance(content, dict)
    ):
        return None
    text = _chatgpt_text(content)
    if not text:
        return None
    model = about.get("model_slug")
    fields = {"response_metadata": {"model_name": clean(model)}} if isinstance(model, str) else {}
    return role, text, moment(message.get("create_time")), fields if role == "assistant" else {}


def _chatgpt_text(content: JsonObject) -> str:
    kind = content.get("content_type")
    if kind not in ("text", "multimodal_text", "code"):
        return ""
    if isinstance(text := content.get("text"), str):
        return clean(text)
    parts = content.get("parts")
    texts = []
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            # A picture is not in the file, what was heard is.
            texts.append(part["text"] if isinstance(part.get("text"), str) else "[image]")
    return clean("\n".join(text for text in texts if text))


def openwebui(item: JsonObject) -> Transcript:
    """A chat of Open WebUI's export: ``chat.history`` is a tree, of which one message is current."""
    chat = _object(item, "chat")
    history = chat.get("history")
    messages = history.get("messages") if isinstance(history, dict) else None
    if isinstance(history, dict) and isinstance(messages, dict) and messages:
        said = [_of_openwebui(key, message) for key, message in messages.items()]
        current = history.get("currentId")
    else:
        # The first versions had a list alone.
        listed = chat.get("messages")
        said, current = _openwebui_line(listed if isinstance(listed, list) else []), None
    utterances, head = checked(said, current if isinstance(current, str) else None)
    meta = item.get("meta")
    tags = meta.get("tags") if isinstance(meta, dict) else None
    tags = tags if isinstance(tags, list) else chat.get("tags")
    named = [_tag(tag) for tag in tags] if isinstance(tags, list) else []
    attributes: JsonObject = {
        "name": name_of(item.get("title") or chat.get("title")),
        "tags": [tag for tag in named if tag] or None,
        "status": "archived" if item.get("archived") is True else None,
        "pinned": True if item.get("pinned") is True else None,
    }
    found_id = item.get("id") or chat.get("id")
    return Transcript(
        form="openwebui",
        id=id_of(found_id, "The chat's id") if found_id else None,
        attributes=attributes,
        utterances=utterances,
        head=head,
        created_at=moment(item.get("created_at")) or moment(chat.get("timestamp")),
        updated_at=moment(item.get("updated_at")),
    )


def _openwebui_line(listed: list[Any]) -> list[Utterance]:
    found: list[Utterance] = []
    for number, message in enumerate(listed):
        key = message.get("id") if isinstance(message, dict) else None
        before = found[-1].id if found else None
        said = _of_openwebui(key or f"{number}", message)
        found.append(
            Utterance(
                id=said.id, parent_id=before, role=said.role, content=said.content,
                created_at=said.created_at, fields=said.fields,
            )
        )  # fmt: skip
    return found


def _of_openwebui(key: Any, message: Any) -> Utterance:
    fields = _an_object(message, "A message")
    role = role_of(fields.get("role"))
    model = fields.get("model")
    about = {"response_metadata": {"model_name": clean(model)}} if isinstance(model, str) else {}
    return Utterance(
        id=id_of(key, "The id of a message"),
        parent_id=_parent(fields, "parentId"),
        role=role,
        content=_openwebui_content(fields.get("content")),
        created_at=moment(fields.get("timestamp")),
        fields=about if role == "assistant" else {},
    )


def _openwebui_content(content: Any) -> str | list[Any]:
    return [] if content is None else _content(content)


def _tag(tag: Any) -> str | None:
    return name_of(tag.get("name")) if isinstance(tag, dict) else name_of(tag)


def sharegpt(item: JsonObject, *, number: int = 0) -> Transcript:
    """A conversation of ShareGPT: ``conversations`` of ``from`` and ``value``, or of role and content."""
    listed = item.get("conversations") or item.get("conversation") or item.get("items")
    if not isinstance(listed, list):
        raise InvalidInputError("conversations is no list")
    said: list[tuple[Role, str | list[Any], JsonObject, datetime | None]] = []
    if isinstance(system := item.get("system"), str) and system:
        said.append(("system", clean(system), {}, None))
    for turn in listed:
        fields = _an_object(turn, "A turn")
        role = _SHAREGPT_ROLES.get(str(fields.get("from", fields.get("role"))).lower())
        if role is None:
            raise InvalidInputError("A turn is from nobody who is known")
        value = fields.get("value", fields.get("content"))
        said.append((role, text_of(value, "The value of a turn"), {}, None))
    return _line(item, "sharegpt", said)


def openai(item: JsonObject, *, number: int = 0) -> Transcript:
    """A conversation of OpenAI's chat form: ``messages`` of ``role`` and ``content``."""
    listed = item.get("messages")
    if not isinstance(listed, list):
        raise InvalidInputError("messages is no list")
    return _line(item, "openai", [_of_openai(_an_object(m, "A message")) for m in listed])


def _of_openai(
    message: JsonObject,
) -> tuple[Role, str | list[Any], JsonObject, datetime | None]:
    given = message.get("role")
    role = role_of({"developer": "system", "function": "tool"}.get(str(given), given))
    fields: JsonObject = {}
    if isinstance(name := message.get("name"), str):
        fields["name"] = clean(name)[:MAX_NAME]
    if role == "tool":
        fields["tool_call_id"] = clean(str(message.get("tool_call_id") or ""))
    elif role == "assistant" and isinstance(calls := message.get("tool_calls"), list):
        fields["tool_calls"] = [call for found in calls if (call := _call(found))]
    content = message.get("content")
    at = moment(message.get("created_at", message.get("timestamp")))
    return role, "" if content is None else _content(content), fields, at


#: Of a person or a tool.
MAX_NAME = 255


def _call(call: Any) -> JsonObject | None:
    """A call of a tool; None if its arguments are no JSON object, as no model would take it either."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError, RecursionError):
        return None
    if not isinstance(arguments, dict):
        return None
    id_ = call.get("id")
    return {
        "id": clean(id_) if isinstance(id_, str) else "",
        "name": clean(function["name"]),
        "args": arguments,
        "type": "tool_call",
    }


def _content(content: Any) -> str | list[Any]:
    if isinstance(content, str):
        return clean(content)
    if isinstance(content, list) and all(isinstance(block, str | dict) for block in content):
        return content
    raise InvalidInputError("The content of a message is neither text nor blocks")


def _line(
    item: JsonObject,
    form: str,
    said: list[tuple[Role, str | list[Any], JsonObject, datetime | None]],
) -> Transcript:
    given = item.get("id") or item.get("conversation_id")
    known = id_of(given, "The conversation's id") if isinstance(given, str) and given else None
    begins = f"{said[0][0]} {said[0][1]}" if said else ""
    utterances = in_a_line(known or derived(form, begins), said)
    return Transcript(
        form=form,
        id=known,
        attributes={"name": name_of(item.get("title") or item.get("name"))},
        utterances=utterances,
        head=utterances[-1].id if utterances else None,
        created_at=moment(item.get("create_time", item.get("created_at"))),
        updated_at=moment(item.get("update_time", item.get("updated_at"))),
    )


def recognised(item: Any) -> str | None:
    """The form that an item of a file has; None if it is none that is known."""
    if not isinstance(item, dict):
        return None
    return next(_signs(item), None)


def _signs(item: JsonObject) -> Iterator[str]:
    if item.get("format") == "threadwell" or item.get("type") in ("session", "message"):
        yield "native"
    if isinstance(item.get("mapping"), dict):
        yield "chatgpt"
    if isinstance(item.get("chat"), dict):
        yield "openwebui"
    if any(isinstance(item.get(name), list) for name in ("conversations", "conversation")):
        yield "sharegpt"
    if pairs.is_conversation(item):
        yield "chatchat-json"
    if isinstance(item.get("messages"), list):
        yield "openai"


def _object(item: JsonObject, name: str) -> JsonObject:
    return _an_object(item.get(name), name)


def _an_object(value: Any, what: str) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidInputError(f"{what} is no object")
    return value


def _parent(fields: JsonObject, name: str) -> str | None:
    value = fields.get(name)
    return id_of(value, "The id of a parent") if value else None
