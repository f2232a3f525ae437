"""
Sessions over one WebSocket: commands come, answers and events go.

The events are those of a session's stream (`api.session_events`), from the same log, under the same ids.
Each subscription reads the log at its own pace into what waits for the client. A client that is slow
loses pieces of answers, which come whole with `message.end`; one that takes nothing at all has its
subscriptions wait in the log, and is told of a gap if that does not reach back any more.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final
from uuid import uuid4

from fastapi import WebSocket
from pydantic import TypeAdapter, ValidationError

from api.bootstrap import Services
from api.errors import BrokenOffError
from api.identity.auth import Caller
from api.protocol.commands import CommandError
from api.protocol.sockets import CommandSocket
from api.protocol.stream import with_queued
from api.schemas.common import SessionId
from api.schemas.sessions import MessageSend
from api.session_events import Part, SessionReader
from api.sessions.runs import ask, stop
from api.sse import GOES_ON
from graph.encode import dumps
from graph.protocol_events import Numbering
from graph.requests import answered_ids
from store import messages, sessions, threads
from store.access import Access
from store.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from store.events import START, Event, EventId, Gap, parse_event_id
from store.models import JsonObject

#: How many sessions a socket may follow.
MAX_SUBSCRIPTIONS: Final = 64
#: What may wait for a client, in bytes, before pieces of answers are dropped, and before its
#: subscriptions wait; and how many events at the most.
SOFT_BYTES, HARD_BYTES = 256 * 1024, 4 * 1024 * 1024
MAX_WAITING: Final = 10_000
#: Of how many messages it is known that pieces were left out.
MAX_DROPPED: Final = 1_000
#: How often somebody may say that they type.
TYPING_SECONDS: Final = 0.5

_SESSION_ID = TypeAdapter[str](SessionId)


class Outgoing:
    """What waits for a client, in its order and bounded."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        #: Of each message of a session how many pieces were left out.
        self._dropped: dict[tuple[str, str], int] = {}

    def piece(self, session_id: str, message_id: str, event: bytes) -> None:
        """Add a piece of a message, if there is room, and nothing of the message was left out yet."""
        key = (session_id, message_id)
        if key in self._dropped or self._bytes > SOFT_BYTES or self._is_long:
            self._dropped[key] = self._dropped.get(key, 0) + 1
            if len(self._dropped) > MAX_DROPPED:
                del self._dropped[next(iter(self._dropped))]
            return
        self._add(event)

    def dropped(self, session_id: str, message_id: str) -> int:
        """How many pieces of a message were left out; it is whole now."""
        return self._dropped.pop((session_id, message_id), 0)

    def unfinished(self, session_id: str) -> list[str]:
        """The messages of a session of which pieces were left out, and that are not whole yet."""
        return [message_id for of, message_id in self._dropped if of == session_id]

    async def put(self, event: bytes) -> None:
        """Add what must not be left out; waits for room."""
        while self._bytes > HARD_BYTES or self._is_long:
            self._room.clear()
            await self._room.wait()
        self._add(event)

    def offer(self, event: bytes) -> None:
        """Add it if there is room."""
        if self._bytes <= SOFT_BYTES and not self._is_long:
            self._add(event)

    async def take(self) -> bytes:
        """The next."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        event = self._waiting.popleft()
        self._bytes -= len(event)
        self._room.set()
        return event

    @property
    def _is_long(self) -> bool:
        return len(self._waiting) >= MAX_WAITING

    def _add(self, event: bytes) -> None:
        self._waiting.append(event)
        self._bytes += len(event)
        self._some.set()


class SessionTape:
    """
    The events of a session after a place, run after run, each with its number.

    Args:
        access: The threads that the client may read; asked again whenever a run begins, and from
            time to time.
    """

    def __init__(self, services: Services, session_id: str, *, access: Access) -> None:
        self._services = services
        self._session_id = session_id
        self._access = access
        self._numbering = Numbering()
        self._reader = SessionReader(session_id)
        self._looked_at = time.monotonic()

    async def place(self, since: Any) -> tuple[EventId, int]:
        """
        Where to begin: the event of the log, and the number, after which the client has nothing.

        Args:
            since: An event's id or its number, -1 for all that is kept; None for what comes now.

        Raises:
            NotFoundError: There is no such session that is visible.
            InvalidInputError: It is no such place.
            UnavailableError: The log does not answer.
        """
        thread = await threads.get(self._services.db, self._session_id, access=self._access)
        self._numbering = Numbering.of(thread)
        if since is None:
            tail = await self._services.follower.end_of_log(self._session_id)
            return tail, self._numbering.tail(tail)
        after, seq = self._after(since)
        if after[0] > await threads.epoch(self._services.db, self._session_id):
            # Of another session, that was here under this id.
            return START, 0
        return after, seq

    def _after(self, since: Any) -> tuple[EventId, int]:
        if isinstance(since, str):
            after = parse_event_id(since)
            return after, self._numbering.tail(after)
        if type(since) is not int or not -1 <= since < 1 << 63:
            raise InvalidInputError("since must be an event's id or its seq")
        if since <= 0:
            return START, 0
        epoch, number = self._numbering.place(since)
        # The event is read again, for more may come of it than the client has, and what is said about it
        # right before.
        return (epoch, max(number - 2, 0)), since

    async def events(self, after: EventId, seq: int) -> AsyncGenerator[tuple[Part, str, int]]:
        """
        What the client is told: an event, its id if it is the last of one of the log, its number.

        Raises:
            BrokenOffError: This process goes.
            NotFoundError: The session is not the client's to read any more.
            UnavailableError: PostgreSQL or the log does not answer.
        """
        follower = self._services.follower
        with follower.watch_queued(self._session_id) as queued:
            follow = follower.follow_thread(self._session_id, after=after)
            async with aclosing(with_queued(follow, queued)) as batches:
                async for batch in batches:
                    for part, event_id, number in await self._made(batch):
                        if number > seq or not number:
                            yield part, event_id, number
        raise BrokenOffError(GOES_ON)

    async def _made(self, batch: list[Event] | Gap | str) -> list[tuple[Part, str, int]]:
        if isinstance(batch, str):
            return [(("run.end", {"run_id": batch, "status": "interrupted"}), "", 0)]
        if isinstance(batch, Gap):
            return await self._missed(batch)
        await self.look(at_once=any(event.name == "metadata" for event in batch))
        return [one for event in batch for one in self._read(event)]

    def _read(self, event: Event) -> list[tuple[Part, str, int]]:
        parts = self._reader.read(event)
        last = len(parts) - 1
        return [
            (
                part,
                event.id if place == last else "",
                self._numbering.seq(event.position, place),
            )
            for place, part in enumerate(parts)
        ]

    async def _missed(self, gap: Gap) -> list[tuple[Part, str, int]]:
        """Word of it, and the newest answer of the session, which may have been in it."""
        await self.look(at_once=True)
        word, instead = self._numbering.gap(gap.resume_at)
        told: list[tuple[Part, str, int]] = [
            (("gap", {"session_id": self._session_id}), gap.event_id, word)
        ]
        return [*told, *((part, gap.event_id, instead) for part in await self.newest_answer())]

    async def newest_answer(self) -> list[Part]:
        """The newest message of the session, if it is an answer."""
        rows, _ = await self._services.follower.patiently(
            lambda: messages.list_page(
                self._services.db, self._session_id, limit=1, order="desc",
            )
        )  # fmt: skip
        return [
            ("message.end", {"message_id": m.id, "content": m.content})
            for m in rows
            if m.role == "assistant"
        ]

    async def look(self, *, at_once: bool = False) -> None:
        """
        See that the session is the client's to read, unless that was seen a moment ago.

        Raises:
            NotFoundError: It is not, any more.
        """
        every = self._services.settings.access_look_seconds
        if not at_once and time.monotonic() - self._looked_at < every:
            return
        self._looked_at = time.monotonic()
        services = self._services
        await services.follower.patiently(
            lambda: sessions.get(services.db, self._session_id, access=self._access)
        )


class SessionSocket(CommandSocket):
    """One client's WebSocket on sessions; who it is, is known."""

    def __init__(self, socket: WebSocket, services: Services, caller: Caller) -> None:
        super().__init__(socket, settings=services.settings)
        self._services = services
        self._caller = caller
        self._member_id = uuid4().hex
        self._outgoing = Outgoing()
        self._subscriptions: dict[str, asyncio.Task[None]] = {}
        self._tapes: dict[str, SessionTape] = {}
        #: The sessions in which others are told of this client.
        self._present: set[str] = set()
        self._typed_at: dict[str, float] = {}
        self._methods = {
            "session.subscribe": self._subscribe,
            "session.unsubscribe": self._unsubscribe,
            "message.send": self._send_message,
            "run.stop": self._stop,
            "turn.stop": self._stop,
            "input.respond": self._respond,
            "typing": self._type,
            "ping": self._ping,
        }

    async def run(self) -> None:
        """Serve it until it is closed, by either side."""
        self.begin(self._write(), "session socket writer")
        self.begin(self._look_again(), "session socket looks")
        try:
            await super().run()
        finally:
            for session_id in list(self._present):
                await self._leave(session_id)

    async def answer(self, number: int, method: str, params: JsonObject) -> JsonObject | None:
        """Do what a command says."""
        if (act := self._methods.get(method)) is None:
            raise CommandError("unknown_command", f"There is no {method[:64]!r}")
        result = await act(params)
        return {"type": "success", "id": number, "result": result}

    async def send(self, message: JsonObject) -> None:
        """Send an answer, behind what waits."""
        await self._outgoing.put(dumps(message))

    async def _write(self) -> None:
        while True:
            await self._socket.send_text((await self._outgoing.take()).decode())

    # ----------------------------------------------------------------- what is asked

    async def _subscribe(self, params: JsonObject) -> JsonObject:
        session_id = _session_id(params)
        is_new = session_id not in self._subscriptions
        if is_new and len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise InvalidInputError(f"More than {MAX_SUBSCRIPTIONS} sessions on one socket")
        access = await self._caller.may("threads", "read", {"thread_id": session_id})
        await sessions.get(self._services.db, session_id, access=access)
        tape = SessionTape(self._services, session_id, access=access)
        after, seq = await tape.place(params.get("since"))
        await self._end_subscription(session_id)
        task = self.begin(self._follow(session_id, tape, after, seq), "session subscription")
        self._subscriptions[session_id], self._tapes[session_id] = task, tape
        user = self._caller.identity or "anonymous"
        self._present.add(session_id)
        await self._services.presence.join(session_id, self._member_id, user, self._tell)
        return {"session_id": session_id, "seq": seq}

    async def _unsubscribe(self, params: JsonObject) -> JsonObject:
        session_id = _session_id(params)
        if session_id not in self._subscriptions:
            raise NotFoundError("The session is not subscribed to")
        await self._end_subscription(session_id)
        await self._leave(session_id)
        return {"session_id": session_id}

    async def _leave(self, session_id: str) -> None:
        self._present.discard(session_id)
        await self._services.presence.leave(session_id, self._member_id)

    async def _end_subscription(self, session_id: str) -> None:
        self._tapes.pop(session_id, None)
        if task := self._subscriptions.pop(session_id, None):
            task.cancel()
            await asyncio.wait({task})

    async def _send_message(self, params: JsonObject) -> JsonObject:
        session_id, key = _session_id(params), params.get("idempotency_key")
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= 255):
            raise InvalidInputError("idempotency_key must be a text of 1 to 255 characters")
        asked = {k: v for k, v in params.items() if k not in ("session_id", "idempotency_key")}
        return await self._ask(session_id, asked, key)

    async def _respond(self, params: JsonObject) -> JsonObject:
        session_id, interrupt_id = _session_id(params), params.get("interrupt_id")
        if params.get("value") is None:
            raise InvalidInputError("value is required")
        value = params["value"]
        if interrupt_id is not None:
            if not isinstance(interrupt_id, str):
                raise InvalidInputError("interrupt_id must be a text")
            value = {interrupt_id: value}
            if not answered_ids({"resume": value}):
                # Else the graph would be told all of this as its answer.
                raise ConflictError(
                    "The session does not ask that any more", code="not_interrupted"
                )
        return await self._ask(session_id, {"resume": value}, None)

    async def _ask(self, session_id: str, asked: JsonObject, key: str | None) -> JsonObject:
        try:
            body = MessageSend.model_validate(asked)
        except ValidationError as exc:
            fault = exc.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            raise InvalidInputError(f"{place}: {fault['msg']}" if place else fault["msg"]) from None
        submitted = await ask(self._services, self._caller, session_id, body, idempotency_key=key)
        run = submitted.run
        return {"session_id": session_id, "run_id": run.run_id, "status": run.status}

    async def _stop(self, params: JsonObject) -> JsonObject:
        session_id = _session_id(params)
        access = await self._caller.may("threads", "update", {"thread_id": session_id})
        stopped = await stop(self._services, session_id, access=access)
        return {"session_id": session_id, **stopped}

    async def _type(self, params: JsonObject) -> JsonObject:
        session_id, is_typing = _session_id(params), params.get("typing", True)
        if session_id not in self._subscriptions:
            raise NotFoundError("The session is not subscribed to")
        if not isinstance(is_typing, bool):
            raise InvalidInputError("typing must be true or false")
        now = time.monotonic()
        if now - self._typed_at.get(session_id, 0.0) >= TYPING_SECONDS or not is_typing:
            self._typed_at[session_id] = now
            presence = self._services.presence
            await presence.typing(session_id, self._member_id, is_typing=is_typing)
        return {"session_id": session_id}

    async def _ping(self, params: JsonObject) -> JsonObject:
        return {"time": time.time_ns() // 1_000_000}

    # ----------------------------------------------------------------- what is told

    async def _follow(self, session_id: str, tape: SessionTape, after: EventId, seq: int) -> None:
        try:
            async with aclosing(tape.events(after, seq)) as told:
                async for (method, params), event_id, number in told:
                    # Only what the log has ends the run that is followed: others end in the queue.
                    if method == "run.end" and event_id:
                        await self._make_up(session_id, tape)
                    await self._push(session_id, method, params, event_id, number)
        except NotFoundError:
            self._subscriptions.pop(session_id, None)
            self._tapes.pop(session_id, None)
            await self._gone(session_id)
        except UnavailableError as exc:
            raise BrokenOffError(exc.message) from exc

    async def _make_up(self, session_id: str, tape: SessionTape) -> None:
        """Tell that pieces are missing of answers that end without being whole."""
        if not self._outgoing.unfinished(session_id):
            return
        await self._push(session_id, "gap", {}, "", 0)
        for method, params in await tape.newest_answer():
            await self._push(session_id, method, params, "", 0)
        for message_id in self._outgoing.unfinished(session_id):
            self._outgoing.dropped(session_id, message_id)

    async def _look_again(self) -> None:
        """Ask from time to time also about sessions of which nothing comes but who is there."""
        while True:
            await asyncio.sleep(self._services.settings.access_look_seconds)
            for session_id, tape in list(self._tapes.items()):
                try:
                    await tape.look(at_once=True)
                except NotFoundError:
                    if self._tapes.get(session_id) is tape:
                        await self._end_subscription(session_id)
                        await self._gone(session_id)

    async def _gone(self, session_id: str) -> None:
        await self._leave(session_id)
        gone = {"session_id": session_id, "reason": "not_found"}
        await self._outgoing.put(_event("session.unsubscribed", gone))

    async def _push(
        self, session_id: str, method: str, params: JsonObject, event_id: str, number: int
    ) -> None:
        event = _event(method, {"session_id": session_id, **params}, event_id, number)
        message_id = str(params.get("message_id"))
        if method == "message.delta":
            self._outgoing.piece(session_id, message_id, event)
            return
        if method == "message.end" and (dropped := self._outgoing.dropped(session_id, message_id)):
            told = {"session_id": session_id, **params}
            event = _event(method, told, event_id, number, dropped=dropped)
        await self._outgoing.put(event)

    def _tell(self, method: str, params: JsonObject) -> None:
        """Tell who is there: what is true now, so that one that finds no room is not missed."""
        self._outgoing.offer(_event(method, params))


def _event(method: str, params: JsonObject, event_id: str = "", seq: int = 0, **more: Any) -> bytes:
    told: JsonObject = {"type": "event", "method": method, "params": params, **more}
    if event_id:
        told["event_id"] = event_id
    if seq:
        told["seq"] = seq
    return dumps(told)


def _session_id(params: JsonObject) -> str:
    try:
        return _SESSION_ID.validate_python(params.get("session_id"))
    except ValidationError:
        raise InvalidInputError("session_id must be the id of a session") from None
