"""
The event-streaming protocol over one WebSocket: commands come, answers and events go.

However many subscriptions it has, a socket follows its thread once, and an event that several of
them want goes out once. Nothing waits here for a client that is slow: what it has not taken yet
stays in the thread's log, and if that does not reach back any more, it is told of a gap.
"""

import asyncio
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import WebSocket

from api.bootstrap import Services
from api.identity.auth import Caller
from api.protocol.commands import Code, CommandError, Commands
from api.protocol.sockets import CommandSocket
from api.protocol.stream import GAP, Tape, applied_through
from graph.protocol_events import CHANNELS, Numbering, Wanted, since_of, wanted
from store import threads
from store.access import Access
from store.errors import (
    Error,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from store.models import JsonObject

#: How many subscriptions a socket may have.
MAX_SUBSCRIPTIONS = 64
#: How long the first events wait for further subscriptions, which clients send one after the other.
TOGETHER_SECONDS = 0.02

_EVENT_ID = re.compile(r"(?:synth:[^:]*:)?([0-9]{1,19})-([0-9]{1,19})\.([0-9]{1,3})")


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client wants to see, and what it has seen of that."""

    wanted: Wanted
    since: int


class ProtocolSocket(CommandSocket):
    """
    One client's WebSocket on a thread.

    Args:
        access: The threads that it may read.
    """

    def __init__(
        self,
        socket: WebSocket,
        services: Services,
        caller: Caller,
        thread_id: str,
        *,
        access: Access,
    ) -> None:
        super().__init__(socket, settings=services.settings)
        self._services = services
        self._thread_id = thread_id
        self._access = access
        self._commands = Commands(services, caller, thread_id)
        self._subscriptions: dict[str, Subscription] = {}
        # How far those subscriptions were played that are being played now.
        self._sent_through = 0
        self._playing: asyncio.Task[None] | None = None
        # Held while subscriptions are added: nothing is sent meanwhile.
        self._adding = asyncio.Lock()

    async def answer(self, number: int, method: str, params: JsonObject) -> JsonObject | None:
        """Subscribe or not, or do what a command says to the thread."""
        if method == "subscription.subscribe":
            async with self._adding:
                await self._subscribe(number, params)
            return None
        if method == "subscription.reconnect":
            async with self._adding:
                await self._reconnect(number, params)
            return None
        if method == "subscription.unsubscribe":
            subscription_id = params.get("subscription_id")
            if self._subscriptions.pop(str(subscription_id), None) is None:
                raise CommandError("no_such_subscription", "There is no such subscription.")
            return await self._success(number, {})
        return await self._commands.answer(number, method, params)

    async def _subscribe(self, number: int, params: JsonObject) -> None:
        asked = wanted(params.get("channels"), params.get("namespaces"), params.get("depth"))
        since = since_of(params.get("since"))
        subscription_id = _token(params)
        tape, count = await self._count({subscription_id: asked}, since)
        result: JsonObject = {"subscription_id": subscription_id, "replayed_events": count}
        await self._add(number, {subscription_id: asked}, since, tape, result)

    async def _reconnect(self, number: int, params: JsonObject) -> None:
        """Take up subscriptions of another socket where it broke: their ids say what they are."""
        since = since_of(params.get("since")) or await self._since(params.get("last_event_id"))
        tokens = params.get("subscriptions") or []
        if not isinstance(tokens, list):
            raise CommandError("invalid_argument", "subscriptions must be an array of ids.")
        asked = {str(token): _of_token(str(token)) for token in tokens}
        tape, count = await self._count(asked, since)
        result: JsonObject = {"restored": bool(asked), "missed_events": count}
        result["current_namespaces"] = tape.view.statuses
        await self._add(number, asked, since, tape, result)

    async def _since(self, event_id: Any) -> int:
        """The number of the event that has an id."""
        if event_id is None:
            return 0
        match = _EVENT_ID.fullmatch(event_id) if isinstance(event_id, str) else None
        if match is None:
            raise CommandError("invalid_argument", "last_event_id is no event's id.")
        epoch, number, part = (int(group) for group in match.groups())
        db = self._services.db
        thread = await threads.find(db, self._thread_id, access=self._access)
        return Numbering.of(thread).seq((epoch, number), part) if thread else 0

    async def _count(self, asked: dict[str, Wanted], since: int) -> tuple[Tape, int]:
        """What the log has for subscriptions now."""
        if len(self._subscriptions) + len(asked) > MAX_SUBSCRIPTIONS:
            raise CommandError("invalid_argument", f"More than {MAX_SUBSCRIPTIONS} subscriptions.")
        tape = self._tape(since)
        retained = await tape.retained()
        return tape, sum(any(one.includes(told) for one in asked.values()) for told in retained)

    async def _add(
        self,
        number: int,
        asked: dict[str, Wanted],
        since: int,
        tape: Tape,
        result: JsonObject,
    ) -> None:
        """Answer, then play for those who were there from where they are, for the new from theirs."""
        if tape.gap is not None:
            result["resume_gap"] = tape.gap
        answer = await self._success(number, result)
        await self._pause()
        await self.send(answer)
        old = {
            key: Subscription(one.wanted, max(one.since, self._sent_through))
            for key, one in self._subscriptions.items()
        }
        new = {key: Subscription(one, since) for key, one in asked.items()}
        self._subscriptions = {**old, **new}
        self._sent_through = 0
        if self._subscriptions:
            self._playing = self.begin(self._play(), "protocol socket events")

    async def _pause(self) -> None:
        playing, self._playing = self._playing, None
        if playing is None:
            return
        playing.cancel()
        await asyncio.wait({playing})
        if not playing.cancelled() and (error := playing.exception()):
            raise error

    async def _play(self) -> None:
        clock = asyncio.get_running_loop().time
        begins_at = clock() + TOGETHER_SECONDS
        # They may all be given up by now.
        tape = self._tape(min((one.since for one in self._subscriptions.values()), default=0))
        async with aclosing(tape.events()) as batches:
            async for batch in batches:
                await asyncio.sleep(max(begins_at - clock(), 0))
                async with self._adding:
                    pass
                for told in batch:
                    # Before it goes: what is stopped while it is sent has been sent.
                    self._sent_through = max(self._sent_through, told.seq)
                    if told.method == GAP or any(
                        (told.seq > one.since or not told.seq) and one.wanted.includes(told)
                        for one in self._subscriptions.values()
                    ):
                        await self._socket.send_text(told.encode().decode())

    def _tape(self, since: int) -> Tape:
        # All channels: later subscriptions may want what those before them did not.
        return Tape(
            self._services, self._thread_id, access=self._access, channels=CHANNELS, since=since
        )

    async def _success(self, number: int, result: JsonObject) -> JsonObject:
        meta = {"applied_through_seq": await applied_through(self._services, self._thread_id)}
        return {"type": "success", "id": number, "result": result, "meta": meta}

    def code(self, error: Error) -> Code:
        """What an error is in the protocol."""
        if isinstance(error, InvalidInputError):
            return "invalid_argument"
        if isinstance(error, PermissionDeniedError):
            return "permission_denied"
        if isinstance(error, NotFoundError):
            return "no_such_run"
        return "unknown_error"


def _token(params: JsonObject) -> str:
    """An id that any process can read a subscription from."""
    kept = {key: params[key] for key in ("channels", "namespaces", "depth") if key in params}
    return urlsafe_b64encode(orjson.dumps({**kept, "id": secrets.token_hex(8)})).decode()


def _of_token(token: str) -> Wanted:
    try:
        kept: Any = orjson.loads(urlsafe_b64decode(token))
        return wanted(kept["channels"], kept.get("namespaces"), kept.get("depth"))
    except (ValueError, TypeError, KeyError, AttributeError, InvalidInputError):
        raise CommandError("no_such_subscription", "There is no such subscription.") from None
