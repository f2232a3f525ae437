"""
Short messages between all processes about who is where, through Redis pub/sub.

Nothing is kept and nothing is promised: what is said while Redis is away is heard in this process
alone. So it is for what is said again from time to time, and for nothing else.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from store.cipher import CLEAR, Cipher, at
from store.errors import InvalidInputError, UnavailableError, UnreadableError
from store.streams import ANSWER_SECONDS, CONNECT_SECONDS, answered

#: How long a message may be, in bytes.
MAX_BYTES: Final = 16 * 1024
#: How long is waited before Redis is asked again.
RETRY_SECONDS: Final = 1.0
#: How long one look for messages waits.
LOOK_SECONDS: Final = 1.0

Hear = Callable[[str, bytes], None]


class Rooms:
    """
    Rooms by name: what is said in one is heard by all processes that are in it, also by this one.

    Args:
        client: None for a process that is alone.
        cipher: Seals what is said.
        hear: Called with the room and what was said; must not raise.
    """

    def __init__(self, client: "Redis | None", prefix: str, *, cipher: Cipher = CLEAR) -> None:
        self._client = client
        self._cipher = cipher
        self._prefix = f"{prefix}:room:"
        self._entered: set[str] = set()
        self._changed = asyncio.Event()
        self.hear: Hear = lambda room, said: None

    def enter(self, room: str) -> None:
        """Hear what is said in a room from soon on."""
        self._entered.add(room)
        self._changed.set()

    def leave(self, room: str) -> None:
        """Hear no more of it."""
        self._entered.discard(room)
        self._changed.set()

    async def say(self, room: str, message: bytes) -> None:
        """
        Say something in a room.

        Raises:
            ValueError: It is longer than `MAX_BYTES`.
            UnavailableError: Redis does not answer; it is heard here all the same, and nowhere else.
        """
        if len(message) > MAX_BYTES:
            raise ValueError("The message is too long")
        if self._client is None:
            self.hear(room, message)
            return
        try:
            async with answered():
                sealed = self._cipher.seal(message, at("room", room))
                await self._client.publish(self._prefix + room, sealed)
        except UnavailableError:
            self.hear(room, message)
            raise

    async def hear_forever(self) -> None:
        """Listen until it is cancelled."""
        while self._client is not None:
            pubsub = self._client.pubsub(ignore_subscribe_messages=True)
            try:
                await self._listen(pubsub)
            except (RedisError, OSError, UnavailableError):
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                with suppress(RedisError, OSError):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _listen(self, pubsub: PubSub) -> None:
        heard_in: set[str] = set()
        while True:
            self._changed.clear()
            new, old = self._entered - heard_in, heard_in - self._entered
            async with answered():
                if new:
                    await pubsub.subscribe(*(self._prefix + room for room in new))
                if old:
                    await pubsub.unsubscribe(*(self._prefix + room for room in old))
            heard_in = (heard_in | new) - old
            if not heard_in:
                await self._changed.wait()
                continue
            await self._hear_some(pubsub)

    async def _hear_some(self, pubsub: PubSub) -> None:
        """Hand on what is said until the rooms change."""
        while not self._changed.is_set():
            message: Any = await pubsub.get_message(timeout=LOOK_SECONDS / 10)
            if message is not None and message["type"] == "message":
                room = message["channel"].decode().removeprefix(self._prefix)
                try:
                    said = self._cipher.open(message["data"], at("room", room))
                except UnreadableError:
                    # Of a process with other keys, or of a stranger.
                    continue
                self.hear(room, said)


@asynccontextmanager
async def open_rooms(
    redis_url: str | None, *, prefix: str = "threadwell", cipher: Cipher = CLEAR
) -> AsyncIterator[Rooms]:
    """
    Open the rooms; Redis need not answer yet, or ever.

    Raises:
        InvalidInputError: The URL is not valid.
    """
    if not redis_url:
        yield Rooms(None, prefix)
        return
    try:
        client = Redis.from_url(
            redis_url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS
        )
    except ValueError:
        # Its message may hold a part of the password.
        raise InvalidInputError("The Redis URL is not valid") from None
    rooms = Rooms(client, prefix, cipher=cipher)
    hearing = asyncio.create_task(rooms.hear_forever(), name="rooms")
    try:
        yield rooms
    finally:
        hearing.cancel()
        await asyncio.wait({hearing})
        await client.aclose()
