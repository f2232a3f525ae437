"""
What A2A says of messages and tasks, and what that is here.

A context is a thread, a task a run of it and those that brought what it asked for. All is made in
the words of protocol 0.3; `modern` says it in those of 1.0.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import uuid4

from api.http.jsonrpc import INVALID_PARAMS, RpcError
from graph.encode import plain
from graph.message_json import NOT_ADDRESSABLE, is_addressable
from store.chains import Chain
from store.models import JsonObject, Message, RunStatus

TASK_NOT_FOUND: Final = -32001
TASK_NOT_CANCELABLE: Final = -32002
PUSH_NOT_SUPPORTED: Final = -32003
UNSUPPORTED_OPERATION: Final = -32004
CONTENT_NOT_SUPPORTED: Final = -32005

State = Literal["submitted", "working", "completed", "input-required", "canceled", "failed"]

_STATES: Final[Mapping[RunStatus, State]] = {
    "pending": "submitted",
    "running": "working",
    "success": "completed",
    "interrupted": "canceled",
    "error": "failed",
    "timeout": "failed",
}
_ROLES: Final = {"user": "user", "assistant": "agent"}
#: States that a task leaves no more.
TERMINAL: Final = frozenset({"completed", "canceled", "failed"})
_MAX_PARTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Received:
    """A message that was sent to an agent."""

    message: JsonObject
    message_id: str
    context_id: str | None
    task_id: str | None
    content: str | list[JsonObject]
    """What was said, as a model takes it; empty if nothing was."""
    data: JsonObject
    """Fields of the graph's input beside its messages."""

    def answer(self) -> Any:
        """What it says, in answer to an interrupt."""
        if isinstance(self.content, str) and not self.content:
            return self.data
        return self.content


def received(params: JsonObject) -> Received:
    """
    Read the message of a call, of either generation.

    Raises:
        RpcError: There is none, or none that can be read.
    """
    message = params.get("message")
    if not isinstance(message, dict):
        raise RpcError(INVALID_PARAMS, "Missing or invalid 'message' in params")
    parts = message.get("parts")
    if not isinstance(parts, list) or not parts or len(parts) > _MAX_PARTS:
        raise RpcError(INVALID_PARAMS, "Message must contain at least one part")
    blocks: list[JsonObject] = []
    data: JsonObject = {}
    for part in parts:
        block = _block(part)
        if "data" in block:
            data |= block["data"]
        else:
            blocks.append(block)
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    message_id = _text_of(message, "messageId") or str(uuid4())
    if not is_addressable(message_id):
        raise RpcError(INVALID_PARAMS, NOT_ADDRESSABLE)
    return Received(
        message=message,
        message_id=message_id,
        context_id=_text_of(message, "contextId"),
        task_id=_text_of(message, "taskId"),
        content="\n".join(texts) if len(texts) == len(blocks) else blocks,
        data=data,
    )


def _text_of(message: JsonObject, name: str) -> str | None:
    value = message.get(name)
    if not isinstance(value, str | None):
        raise RpcError(INVALID_PARAMS, f"'{name}' must be a string")
    return value or None


def _block(part: Any) -> JsonObject:
    """A part as content of LangChain's, or its data."""
    if not isinstance(part, dict):
        raise RpcError(INVALID_PARAMS, "A part must be an object")
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if isinstance(part.get("data"), dict):
        return {"data": part["data"]}
    file = part.get("file", part)
    if not isinstance(file, dict):
        raise RpcError(INVALID_PARAMS, "The file of a part must be an object")
    kind = str(file.get("mimeType") or file.get("mediaType") or "application/octet-stream")
    name = file.get("name") or file.get("filename")
    about = {
        "type": kind.partition("/")[0] if kind.startswith(("image/", "audio/")) else "file",
        "mime_type": kind,
        **({"filename": name} if name else {}),
    }
    raw, url = file.get("bytes") or file.get("raw"), file.get("uri") or file.get("url")
    if isinstance(raw, str):
        return {**about, "base64": raw}
    if isinstance(url, str):
        return {**about, "url": url}
    raise RpcError(INVALID_PARAMS, "A part must have text, data, or a file with bytes or a URL")


def graph_input(asked: Received) -> JsonObject:
    """The input of a graph: the data, and what was said as a message of the user."""
    if not asked.content:
        return dict(asked.data)
    said = {"role": "user", "content": asked.content, "id": asked.message_id}
    return {**asked.data, "messages": [said]}


def state_of(chain: Chain) -> State:
    """The state of a task."""
    return "input-required" if chain.asks else _STATES[chain.status]


def task_id(thread_id: str, first_run_id: str) -> str:
    """The id of a task."""
    return f"{thread_id}:{first_run_id}"


def statuses_of(state: Any) -> tuple[list[RunStatus] | None, bool | None]:
    """
    Which chains are in a state: with what status, and whether they ask; None for any.

    Raises:
        RpcError: There is no such state.
    """
    if state in (None, "", "TASK_STATE_UNSPECIFIED"):
        return None, None
    name = str(state).removeprefix("TASK_STATE_").lower().replace("_", "-")
    if name == "input-required":
        return ["success"], True
    found: list[RunStatus] = [status for status, said in _STATES.items() if said == name]
    if not found and name not in ("rejected", "auth-required"):
        raise RpcError(INVALID_PARAMS, f"Unknown task state: {state}")
    return found, False if name == "completed" else None


@dataclass(frozen=True, slots=True)
class Address:
    """Which task something is of."""

    task_id: str
    context_id: str

    @property
    def keys(self) -> JsonObject:
        """It in an object of the protocol."""
        return {"taskId": self.task_id, "contextId": self.context_id}


def status_json(
    at: Address, state: State, *, text: str | None = None, message_id: str | None = None,
    when: datetime | None = None,
) -> JsonObject:  # fmt: skip
    """How a task stands, and what its agent says of it."""
    status: JsonObject = {"state": state, "timestamp": (when or datetime.now(UTC)).isoformat()}
    if text is not None:
        status["message"] = {
            "kind": "message",
            "role": "agent",
            "parts": [{"kind": "text", "text": text}],
            "messageId": message_id or str(uuid4()),
            **at.keys,
        }
    return status


def status_update(at: Address, status: JsonObject, *, final: bool = False) -> JsonObject:
    """An event: a task stands otherwise."""
    return {**at.keys, "kind": "status-update", "status": status, "final": final}


def artifact_update(at: Address, artifact: JsonObject) -> JsonObject:
    """An event: a task has made something."""
    return {
        **at.keys,
        "kind": "artifact-update",
        "artifact": artifact,
        "append": False,
        "lastChunk": True,
    }


def task_json(
    at: Address, status: JsonObject, history: Sequence[JsonObject], artifacts: Sequence[JsonObject]
) -> JsonObject:
    """A task."""
    return {
        "kind": "task",
        "id": at.task_id,
        "contextId": at.context_id,
        "status": status,
        "history": list(history),
        "artifacts": list(artifacts),
    }


def history_message(row: Message, at: Address) -> JsonObject | None:
    """A message of the conversation; None of what is said to nobody, such as a tool's result."""
    if row.role not in _ROLES or not row.content:
        return None
    return {
        "kind": "message",
        "role": _ROLES[row.role],
        "parts": [{"kind": "text", "text": row.content}],
        "messageId": row.id,
        **at.keys,
    }


def response_artifact(run_id: str, assistant_id: str, part: JsonObject) -> JsonObject:
    """What a run came to."""
    return {
        "artifactId": f"{run_id}-response",
        "name": "Assistant Response",
        "description": f"Response from assistant {assistant_id}",
        "parts": [part],
    }


def interrupt_artifact(interrupt_id: str, value: Any) -> JsonObject:
    """What a run asks."""
    return {
        "artifactId": interrupt_id,
        "name": "Interrupt",
        "description": "Agent requires input to continue",
        "parts": [{"kind": "data", "data": {"id": interrupt_id, "value": plain(value)}}],
    }


def text_part(text: str) -> JsonObject:
    """A part that says something."""
    return {"kind": "text", "text": text}


def data_part(data: Any) -> JsonObject:
    """A part that is something; what is no object is its `value`."""
    made = plain(data)
    return {"kind": "data", "data": made if isinstance(made, dict) else {"value": made}}


def modern(content: JsonObject, *, wrapped: bool) -> JsonObject:
    """
    Something in the words of protocol 1.0.

    Args:
        wrapped: Under a key that says what it is, as the answer to a message and every event.
    """
    kind = content.get("kind")
    said = {
        key: _modern(key, value) for key, value in content.items() if key not in ("kind", "final")
    }
    names = {"status-update": "statusUpdate", "artifact-update": "artifactUpdate"}
    return {names.get(str(kind), str(kind)): said} if wrapped else said


def _modern(key: str, value: Any) -> Any:
    if key == "state":
        return "TASK_STATE_" + value.upper().replace("-", "_")
    if key == "role":
        return f"ROLE_{value.upper()}"
    if key == "parts":
        return [_modern_part(part) for part in value]
    if key in ("data", "metadata"):
        return value
    if isinstance(value, dict):
        return {name: _modern(name, inner) for name, inner in value.items() if name != "kind"}
    if isinstance(value, list):
        return [_modern("", item) for item in value]
    return value


def _modern_part(part: JsonObject) -> JsonObject:
    file = part.get("file")
    if not isinstance(file, dict):
        return {key: value for key, value in part.items() if key != "kind"}
    names = {"bytes": "raw", "uri": "url", "mimeType": "mediaType", "name": "filename"}
    return {names[key]: value for key, value in file.items() if key in names}


def older_part(part: JsonObject) -> JsonObject:
    """A part of either generation as 0.3 has it."""
    if isinstance(part.get("text"), str):
        return text_part(part["text"])
    if isinstance(part.get("data"), dict):
        return {"kind": "data", "data": part["data"]}
    file = part.get("file")
    if not isinstance(file, dict):
        names = {"raw": "bytes", "url": "uri", "mediaType": "mimeType", "filename": "name"}
        file = {names[key]: value for key, value in part.items() if key in names}
    return {"kind": "file", "file": file}


_TASK: Final = re.compile(r"([0-9a-f-]{32,36}):([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def task_address(text: Any) -> tuple[str, str] | None:
    """The thread and the first run of a task by its id; None if it is no task's."""
    found = _TASK.fullmatch(text) if isinstance(text, str) else None
    return (found[1], found[2]) if found else None
