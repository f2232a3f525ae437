"""
Files in messages: their ids in the state, what they hold in the model's hands only.

A message names a file by a block ``{"type": "image" | "audio" | "file", "file_id": …}``, and so it is kept,
streamed and logged. A chat model that is an `Inflating` one has the blocks made into what a model
understands inside its call; a graph of one's own can do it by `inflated`. Under another LangGraph
server files are not to be had, and blocks stay as they are.
"""

import asyncio
import base64
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

#: The most that a call of a model is given of files, in bytes: of older ones it is told that they were;
#: and of how many of them it is looked what they are.
MODEL_BYTES: Final = 50 * 1024 * 1024
MODEL_FILES: Final = 1_000
#: How much all calls of a process hold of files at once, in bytes, unless it is told otherwise. While a
#: call lasts its files are there in base64, too, and in what is sent: three to four times as much.
PROCESS_BYTES: Final = 128 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """A file that a run may use."""

    name: str
    mime_type: str
    size_bytes: int
    #: Reads all of it.
    read: Callable[[], Awaitable[bytes]]


#: Finds files that were sent in the thread, by their ids in small letters; what was not is left out.
Find = Callable[[Sequence[str]], Awaitable[Mapping[str, Attachment]]]


class FileRoom:
    """
    How much all calls of models of a process may hold of files at once; who finds none waits, in turn.

    Who holds some does not wait for more, nor does anything that they start meanwhile: what they wait
    for might wait for them. It is counted, and everybody else waits for longer.

    Args:
        most: In bytes as they are uploaded; a call that wants more waits until it is alone.
    """

    def __init__(self, most: int = PROCESS_BYTES) -> None:
        self._most = most
        self._left = most
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @asynccontextmanager
    async def taken(self, size_bytes: int) -> AsyncIterator[None]:
        """Take some of it, for as long as the block lasts."""
        wanted = min(size_bytes, self._most)
        hold = _HOLD.get()
        holds = hold is not None and hold.room is self and hold.size_bytes > 0
        if hold is None or not holds:
            hold = _Hold(self)
        if wanted and not holds and (self._waiting or wanted > self._left):
            await self._wait(wanted)
        else:
            self._left -= wanted
        hold.size_bytes += wanted
        # Not set back: a generator may end in another context than it began in. Empty, it is none.
        _HOLD.set(hold)
        try:
            yield
        finally:
            hold.size_bytes -= wanted
            self._left += wanted
            self._wake()

    async def _wait(self, wanted: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, wanted))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # Its turn came at the same moment.
                self._left += wanted
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting:
            turn, wanted = self._waiting[0]
            if not turn.cancelled():
                if wanted > self._left:
                    return
                self._left -= wanted
                turn.set_result(None)
            self._waiting.popleft()


@dataclass(slots=True)
class _Hold:
    """What one who took some of a room holds of it, with all that they started meanwhile."""

    room: FileRoom
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Files:
    """What a run has of files."""

    find: Find
    room: FileRoom


_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HOLD: ContextVar[_Hold | None] = ContextVar("hold", default=None)
_FILES: ContextVar[_Files | None] = ContextVar("files", default=None)


def attach(find: Find, room: FileRoom) -> None:
    """Let what runs in this context have the files that it may use; all of it on one event loop."""
    _FILES.set(_Files(find, room))


class Inflating(BaseChatModel):
    """Mix in before a chat model: what calls it, and who watches, sees ids of files, the model files."""

    def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        stream = super()._astream
        if not any(map(_has_files, messages)):
            return stream(messages, *args, **kwargs)

        async def streaming() -> AsyncIterator[ChatGenerationChunk]:
            async with inflating(messages) as whole:
                async for chunk in stream(whole, *args, **kwargs):
                    yield chunk

        return streaming()

    async def _agenerate(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> ChatResult:
        async with inflating(messages) as whole:
            return await super()._agenerate(whole, *args, **kwargs)


async def inflated(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """
    Messages with what their files hold: images and audio as base64, text as text.

    The newest files first, until they are `MODEL_BYTES`. The messages that are given are not changed.
    What they hold counts until this returns; with `inflating` for as long as it is used.
    """
    async with inflating(messages) as whole:
        return whole


@asynccontextmanager
async def inflating(messages: Sequence[BaseMessage]) -> AsyncIterator[list[BaseMessage]]:
    """
    Messages as `inflated` makes them, for a call of a model inside of the block.

    Waits while the calls of this process hold `PROCESS_BYTES` of files, or what the server was told;
    not inside of another such block, which may be what others wait for.
    """
    files = _FILES.get()
    if files is None or not any(map(_has_files, messages)):
        yield list(messages)
        return
    shown = await _shown(messages, files.find)
    size = sum(file.size_bytes for file in shown.values() if isinstance(file, Attachment))
    async with files.room.taken(size):
        yield [
            message.model_copy(update={"content": await _blocks(message, place, shown)})
            if _has_files(message)
            else message
            for place, message in enumerate(messages)
        ]


async def _shown(
    messages: Sequence[BaseMessage], find: Find
) -> dict[tuple[int, int], Attachment | str]:
    """By the places of blocks that name files: the file, or what the model is told instead."""
    named = [
        (message_place, place, str(block["file_id"]).lower())
        for message_place in range(len(messages) - 1, -1, -1)
        if _has_files(messages[message_place])
        for place, block in enumerate(messages[message_place].content)
        if isinstance(block, dict) and _is_file(block)
    ]
    found = await find(list(dict.fromkeys(file_id for _, _, file_id in named[:MODEL_FILES])))
    left, shown = MODEL_BYTES, dict[tuple[int, int], Attachment | str]()
    for number, (message_place, place, file_id) in enumerate(named):
        file = found.get(file_id)
        if number >= MODEL_FILES:
            shown[message_place, place] = "a file that was shown before"
        elif file is None:
            shown[message_place, place] = "a file that is not there any more"
        elif file.size_bytes > left:
            shown[message_place, place] = f"{file.name}, which was shown before"
        else:
            left -= file.size_bytes
            shown[message_place, place] = file
    return shown


async def _blocks(
    message: BaseMessage, message_place: int, shown: Mapping[tuple[int, int], Attachment | str]
) -> list[Any]:
    blocks: list[Any] = []
    for place, block in enumerate(message.content):
        file = shown.get((message_place, place))
        if file is None:
            blocks.append(block)
        else:
            blocks.append(_note(file) if isinstance(file, str) else _block(file, await file.read()))
    return blocks


def _block(file: Attachment, data: bytes) -> dict[str, Any]:
    kind = file.mime_type.split("/")[0]
    if kind == "text":
        return {"type": "text", "text": f"{file.name}:\n{data.decode(errors='replace')}"}
    block = {
        "type": kind if kind in ("image", "audio") else "file",
        "base64": base64.b64encode(data).decode(),
        "mime_type": file.mime_type,
    }
    return block if kind in ("image", "audio") else {**block, "filename": file.name}


def _note(what: str) -> dict[str, Any]:
    return {"type": "text", "text": f"[{what}]"}


def _has_files(message: BaseMessage) -> bool:
    return isinstance(message.content, list) and any(map(_is_file, message.content))


def _is_file(block: Any) -> bool:
    """Whether it names a file of ours: other servers' ids are no UUIDs."""
    return (
        isinstance(block, dict)
        and block.get("type") in ("image", "audio", "file")
        and _UUID.fullmatch(str(block.get("file_id"))) is not None
    )
