"""
Who is in which session now, in all processes; and who is typing there.

Every process tells the others who is connected to it: as somebody comes or goes, and again from time to
time. Who was not told of for a while has gone with their process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import orjson
import structlog

from store.errors import UnavailableError
from store.models import JsonObject
from store.rooms import Rooms

log = structlog.get_logger(__name__)

#: Between two times that a process tells who is here, and after what silence they are not.
TELL_SECONDS: Final = 20.0
GONE_SECONDS: Final = 50.0
#: How many of a session are told, and kept.
MAX_MEMBERS: Final = 100
#: How many a process tells in a message, in how many bytes, and how long what they are called is.
TOLD_AT_ONCE: Final = 50
TOLD_BYTES: Final = 12 * 1024
MAX_USER: Final = 128

#: Is told of a session: a method and its params.
Watch = Callable[[str, JsonObject], None]


@dataclass(slots=True)
class _Member:
    user: str
    #: When it counts as gone; None for those of this process.
    until: float | None


class Presence:
    """The sessions that sockets of this process are in."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._process = uuid4().hex
        self._members: dict[str, dict[str, _Member]] = {}
        self._watching: dict[str, dict[str, Watch]] = {}
        #: Answers that are being said.
        self._answering: set[asyncio.Task[None]] = set()
        rooms.hear = self._hear

    async def join(self, session_id: str, member_id: str, user: str, watch: Watch) -> None:
        """Be there: the others are told, and `watch` is told of them."""
        watching = self._watching.setdefault(session_id, {})
        watching[member_id] = watch
        self._members.setdefault(session_id, {})[member_id] = _Member(user[:MAX_USER], None)
        self._rooms.enter(session_id)
        self._tell(session_id)
        await self._say(session_id, {"ask": len(watching) == 1, **self._here(session_id)})

    async def leave(self, session_id: str, member_id: str) -> None:
        """Be there no more."""
        watching = self._watching.get(session_id, {})
        if watching.pop(member_id, None) is None:
            return
        self._members[session_id].pop(member_id, None)
        if not watching:
            del self._watching[session_id], self._members[session_id]
            self._rooms.leave(session_id)
        self._tell(session_id)
        await self._say(session_id, {"gone": [member_id]})

    async def typing(self, session_id: str, member_id: str, *, is_typing: bool) -> None:
        """Tell the others that somebody types, or does not any more."""
        member = self._members.get(session_id, {}).get(member_id)
        if member is not None:
            said = {"typing": is_typing, "member": member_id, "user": member.user}
            self._typing(session_id, said)
            await self._say(session_id, said)

    async def tell_forever(self) -> None:
        """Tell the others who is here, and forget who was not told of; until it is cancelled."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            for session_id in list(self._watching):
                if session_id in self._watching:
                    self._expire(session_id)
                    await self._say(session_id, self._here(session_id))

    def _here(self, session_id: str) -> JsonObject:
        members = self._members.get(session_id, {})
        told: list[tuple[str, str]] = []
        room = TOLD_BYTES
        for member_id, one in members.items():
            if one.until is None:
                room -= len(orjson.dumps((member_id, one.user))) + 1
                if room < 0 or len(told) == TOLD_AT_ONCE:
                    break
                told.append((member_id, one.user))
        return {"here": told}

    async def _say(self, session_id: str, said: JsonObject) -> None:
        # Without Redis, those of this process know all the same.
        with suppress(UnavailableError):
            try:
                await self._rooms.say(session_id, orjson.dumps({"from": self._process, **said}))
            except (ValueError, TypeError):
                # One session: whoever is in the others hears of theirs.
                log.warning("who is there cannot be told", session_id=session_id)

    def _hear(self, session_id: str, message: bytes) -> None:
        """Take note of what a process says."""
        try:
            said: Any = orjson.loads(message)
            if said["from"] == self._process or session_id not in self._watching:
                return
            self._take(session_id, said)
        except (ValueError, KeyError, TypeError):
            log.warning("a process said something else than who is there")

    def _take(self, session_id: str, said: JsonObject) -> None:
        members = self._members[session_id]
        before = self._listed(session_id)
        until = asyncio.get_running_loop().time() + GONE_SECONDS
        for member_id, user in said.get("here", ()):
            if member_id in members or len(members) < MAX_MEMBERS:
                members[str(member_id)] = _Member(str(user), until)
        for member_id in said.get("gone", ()):
            members.pop(member_id, None)
        if said.get("ask"):
            task = asyncio.create_task(self._say(session_id, self._here(session_id)))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        if "typing" in said:
            self._typing(session_id, said)
        if self._listed(session_id) != before:
            self._tell(session_id)

    def _expire(self, session_id: str) -> None:
        members, now = self._members[session_id], asyncio.get_running_loop().time()
        gone = [id_ for id_, one in members.items() if one.until is not None and one.until < now]
        for member_id in gone:
            del members[member_id]
        if gone:
            self._tell(session_id)

    def _listed(self, session_id: str) -> list[JsonObject]:
        counts: dict[str, int] = {}
        for member in self._members.get(session_id, {}).values():
            counts[member.user] = counts.get(member.user, 0) + 1
        listed = sorted(counts.items())[:MAX_MEMBERS]
        return [{"user": user, "connections": count} for user, count in listed]

    def _tell(self, session_id: str) -> None:
        params = {"session_id": session_id, "members": self._listed(session_id)}
        for watch in list(self._watching.get(session_id, {}).values()):
            watch("presence", params)

    def _typing(self, session_id: str, said: JsonObject) -> None:
        params = {"session_id": session_id, "user": said["user"], "typing": bool(said["typing"])}
        for member_id, watch in list(self._watching.get(session_id, {}).items()):
            if member_id != said["member"]:
                watch("typing", params)


@asynccontextmanager
async def open_presence(rooms: Rooms) -> AsyncIterator[Presence]:
    """Know who is where, for as long as the block lasts."""
    presence = Presence(rooms)
    telling = asyncio.create_task(presence.tell_forever(), name="presence")
    try:
        yield presence
    finally:
        telling.cancel()
        await asyncio.wait({telling})
