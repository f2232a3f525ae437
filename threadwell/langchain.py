"""
An old LangChain chain keeps its history in sessions, where a graph goes on with it, and back.

One id for both: what the chain calls ``session_id`` is the graph's ``thread_id``. It is a UUID, with
dashes or without.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote
from uuid import uuid4

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, BaseMessageChunk, message_chunk_to_message
from langchain_core.runnables import ConfigurableFieldSpec, Runnable
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.pregel.protocol import PregelProtocol

from graph.message_json import decode
from threadwell.connection import Connection, RequestError, default

#: How long a write waits for the run that has the session, in seconds.
WAIT_SECONDS = 60.0


class SessionChatMessageHistory(BaseChatMessageHistory):
    """
    The messages of a session that its model sees, as a chain's history.

    Adding writes them as the session's graph would have, after the run that is in flight if there
    is one. Clearing takes them out of what the model sees; the session's history keeps them. The
    first message makes the session, if there is none of this id.

    Args:
        session_id: A UUID, with dashes or without; the same string is the graph's ``thread_id``.
        connection: The server; `threadwell.connection.default` unless given.
        attributes: Of a session that is made: ``user_id``, ``name``, ``chat_type``,
            ``assistant_id``.
        wait_seconds: How long a write waits for a run, at most 300; then `RequestError`
            ``session_busy``.
        is_turn: For one turn of a chain: read once, and seen like that until it is written. What
            others say meanwhile is not lost, but seen by the next turn; `RunnableWithMessageHistory`
            would take it for its own.
    """

    def __init__(
        self,
        session_id: str,
        *,
        connection: Connection | None = None,
        attributes: Mapping[str, Any] | None = None,
        wait_seconds: float = WAIT_SECONDS,
        is_turn: bool = False,
    ) -> None:
        self.session_id = session_id
        self._connection = connection or default()
        self._attributes = {k: v for k, v in (attributes or {}).items() if v is not None}
        self._wait_seconds = wait_seconds
        self._is_turn = is_turn
        self._seen: list[BaseMessage] | None = None

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The messages that the model sees; none of a session that is not there."""
        if self._seen is not None:
            return list(self._seen)
        try:
            found = self._connection.call("GET", self._path)
        except RequestError as exc:
            return self._read(_nothing_of(exc))
        return self._read(found)

    async def aget_messages(self) -> list[BaseMessage]:
        """The same, without blocking the event loop."""
        if self._seen is not None:
            return list(self._seen)
        try:
            found = await self._connection.acall("GET", self._path)
        except RequestError as exc:
            return self._read(_nothing_of(exc))
        return self._read(found)

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages in one step; those that have no id get one."""
        body = self._body(messages)
        try:
            self._connection.call("POST", self._path, json=body)
        except RequestError as exc:
            if exc.status != 404:
                raise
            try:
                self._connection.call("POST", "/api/sessions", json=self._new_session)
            except RequestError as conflict:
                _raise_unless_made_meanwhile(conflict)
            self._connection.call("POST", self._path, json=body)
        self._seen = None

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """The same, without blocking the event loop."""
        body = self._body(messages)
        try:
            await self._connection.acall("POST", self._path, json=body)
        except RequestError as exc:
            if exc.status != 404:
                raise
            try:
                await self._connection.acall("POST", "/api/sessions", json=self._new_session)
            except RequestError as conflict:
                _raise_unless_made_meanwhile(conflict)
            await self._connection.acall("POST", self._path, json=body)
        self._seen = None

    def clear(self) -> None:
        """Take all messages out of what the model sees; the history keeps them."""
        try:
            self._connection.call("DELETE", self._path, params=self._waiting)
        except RequestError as exc:
            _nothing_of(exc)
        self._seen = None

    async def aclear(self) -> None:
        """The same, without blocking the event loop."""
        try:
            await self._connection.acall("DELETE", self._path, params=self._waiting)
        except RequestError as exc:
            _nothing_of(exc)
        self._seen = None

    @property
    def _path(self) -> str:
        return f"/api/sessions/{quote(self.session_id, safe='')}/context"

    @property
    def _waiting(self) -> dict[str, Any]:
        return {"wait_seconds": self._wait_seconds}

    @property
    def _new_session(self) -> dict[str, Any]:
        return {**self._attributes, "id": self.session_id}

    def _body(self, messages: Sequence[BaseMessage]) -> dict[str, Any]:
        return {"messages": [_said(message) for message in messages], **self._waiting}

    def _read(self, found: Mapping[str, Any]) -> list[BaseMessage]:
        messages = [decode(message) for message in found["messages"]]
        if self._is_turn:
            self._seen = messages
        return list(messages)


def get_session_history(session_id: str) -> SessionChatMessageHistory:
    """What `RunnableWithMessageHistory` asks for: the history of a session, for one turn."""
    return SessionChatMessageHistory(session_id, is_turn=True)


def attach(
    chain: Runnable[Any, Any], *, connection: Connection | None = None, **keys: str
) -> Runnable[Any, Any]:
    """
    Let a chain keep its history in the session that its config names as ``thread_id``.

    So one config, ``{"configurable": {"thread_id": …}}``, serves it and the graphs. A chain with
    another server than the default one's is given its connection.

    Args:
        keys: As of `RunnableWithMessageHistory`: ``input_messages_key``, ``history_messages_key``,
            ``output_messages_key``.

    Raises:
        TypeError: It is a graph, which needs no history: name it in langgraph.json and run it there.
    """
    if isinstance(chain, PregelProtocol):
        raise TypeError(
            "A graph keeps its thread by itself: name it in langgraph.json and run it there, with "
            "langgraph_sdk, RemoteGraph or POST /api/sessions/{id}/messages"
        )

    def history(thread_id: str) -> SessionChatMessageHistory:
        return SessionChatMessageHistory(thread_id, connection=connection, is_turn=True)

    field = ConfigurableFieldSpec(
        id="thread_id", annotation=str, name="Thread", description="", default="", is_shared=True
    )
    return RunnableWithMessageHistory(
        chain, history, history_factory_config=[field], **cast("Any", keys)
    )


def _said(message: BaseMessage) -> dict[str, Any]:
    """As JSON; with an id, so that the same request made twice says it once."""
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    said = message.model_dump(mode="json")
    return {**said, "id": message.id or str(uuid4())}


def _nothing_of(error: RequestError) -> dict[str, Any]:
    """A session that is not there has no messages."""
    if error.status != 404:
        raise error
    return {"messages": []}


def _raise_unless_made_meanwhile(error: RequestError) -> None:
    if error.status != 409:
        raise error
