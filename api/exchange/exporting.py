"""Sessions as files: made of rows as they are read, a page at a time, whatever their length."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from api.exchange import markdown, native
from api.schemas.sessions import SERVER_KEYS
from graph.encode import dumps
from graph.requests import RESERVED_METADATA
from store import exchanges
from store.database import Database
from store.exchanges import Exported
from store.models import JsonObject, Session

Format = Literal["json", "jsonl", "markdown", "openai", "sharegpt"]
Branch = Literal["active", "all"]

MEDIA: Final[dict[str, tuple[str, str]]] = {
    "json": ("application/json", "json"),
    "jsonl": ("application/x-ndjson", "jsonl"),
    "markdown": ("text/markdown; charset=utf-8", "md"),
    "openai": ("application/x-ndjson", "jsonl"),
    "sharegpt": ("application/json", "json"),
}
#: Messages read at a time.
PAGE = 200
#: What of a session's metadata is told elsewhere in a file, or is this server's own affair.
_NOT_SHOWN = (
    RESERVED_METADATA | SERVER_KEYS | {"graph_id", "name", "user_id", "chat_type", "status"}
)
_SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}

#: A page of sessions after the last one of the page before.
Pages = Callable[[Session | None], Awaitable[Sequence[Session]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What is to be told of sessions, and how."""

    db: Database
    format: Format
    branch: Branch

    async def one(self, session: Session) -> AsyncIterator[bytes]:
        """A file of one session."""
        is_list = self.format == "sharegpt"
        yield b"[" if is_list else b""
        async for chunk in self._session(session):
            yield chunk
        yield b"]\n" if is_list else b"\n" if self.format == "json" else b""

    async def many(self, first: Sequence[Session], pages: Pages) -> AsyncIterator[bytes]:
        """A file of the sessions of all pages, of which the first has been read."""
        is_list = self.format in ("json", "sharegpt")
        yield b"[" if is_list else b""
        begun, page = False, first
        while page:
            for session in page:
                yield b"," if is_list and begun else b""
                begun = True
                async for chunk in self._session(session):
                    yield chunk
            page = await pages(page[-1])
        yield b"]\n" if is_list else b""

    async def _session(self, session: Session) -> AsyncIterator[bytes]:
        if self.format == "json":
            about = {"format": native.FORMAT, "version": native.VERSION}
            head = {**await self._about(session)}
            yield orjson.dumps(about)[:-1] + b',"session":' + dumps(head) + b',"messages":['
            async for number, message in self._messages(session):
                yield (b"," if number else b"") + dumps(message_json(message))
            yield b"]}"
        elif self.format == "jsonl":
            yield dumps(native.session_line(await self._about(session))) + b"\n"
            async for _, message in self._messages(session):
                yield dumps({"type": "message", **message_json(message)}) + b"\n"
        elif self.format == "markdown":
            about = native.session_line(await self._about(session))
            yield markdown.session_head(_plain(about), session.name).encode()
            async for _, message in self._messages(session):
                fields = {key: v for key, v in message_json(message).items() if key != "content"}
                yield markdown.message_part(_plain(fields), message.role, message.content).encode()
        else:
            async for chunk in self._turns(session):
                yield chunk

    async def _turns(self, session: Session) -> AsyncIterator[bytes]:
        """The forms that know turns and nothing else."""
        is_openai = self.format == "openai"
        id_ = {} if is_openai else {"id": session.id}
        name = b'"messages":[' if is_openai else b'"conversations":['
        yield b"{" + (orjson.dumps(id_)[1:-1] + b"," if id_ else b"") + name
        async for number, message in self._messages(session):
            turn = _openai_json(message) if is_openai else _sharegpt_json(message)
            yield (b"," if number else b"") + dumps(turn)
        yield b"]}\n" if is_openai else b"]}"

    async def _messages(self, session: Session) -> AsyncIterator[tuple[int, Exported]]:
        after, number = -1, 0
        while True:
            page = await exchanges.messages_page(
                self.db,
                session.id,
                after_seq=after,
                every_branch=self.branch == "all",
                limit=PAGE,
            )
            for message in page:
                yield number, message
                number += 1
            if len(page) < PAGE:
                return
            after = page[-1].seq

    async def _about(self, session: Session) -> JsonObject:
        about = session_json(session)
        if self.branch == "all":
            about["head_message_id"] = await exchanges.head_of(self.db, session.id)
        return about


def session_json(session: Session) -> JsonObject:
    """What a file tells of a session."""
    graph_id = session.metadata.get("graph_id")
    return {
        "id": session.id,
        "name": session.name,
        "user_id": session.user_id,
        "chat_type": session.chat_type,
        "status": session.status,
        **({"graph_id": graph_id} if isinstance(graph_id, str) else {}),
        "metadata": {k: v for k, v in session.metadata.items() if k not in _NOT_SHOWN},
        "create_time": session.create_time,
        "update_time": session.update_time,
    }


def message_json(message: Exported) -> JsonObject:
    """What a file tells of a message."""
    return {
        "id": message.id,
        "parent_id": message.parent_id,
        "role": message.role,
        "content": message.content,
        "message_type": message.message_type,
        "meta_data": native.without_time(message.meta_data),
        "in_context": message.in_context,
        "on_branch": message.on_branch,
        "create_time": message.create_time,
    }


def _openai_json(message: Exported) -> JsonObject:
    meta = message.meta_data
    turn: JsonObject = {"role": message.role, "content": message.content}
    if message.role == "tool":
        turn["tool_call_id"] = meta.get("tool_call_id", "")
    if calls := meta.get("tool_calls"):
        turn["content"] = message.content or None
        turn["tool_calls"] = [
            {
                "id": call.get("id") or "",
                "type": "function",
                "function": {
                    "name": call.get("name"),
                    "arguments": orjson.dumps(call.get("args") or {}).decode(),
                },
            }
            for call in calls
        ]
    return turn


def _sharegpt_json(message: Exported) -> JsonObject:
    calls = message.meta_data.get("tool_calls")
    if calls and not message.content:
        told = [{"name": call.get("name"), "arguments": call.get("args")} for call in calls]
        return {"from": "function_call", "value": orjson.dumps(told).decode()}
    return {"from": _SHAREGPT.get(message.role, message.role), "value": message.content}


def _plain(about: JsonObject) -> Any:
    """What JSON of Python's own can say."""
    return orjson.loads(dumps(about))
