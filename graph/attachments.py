"""
Files in messages: their ids in the state, what they hold in the model's hands only.

A message names a file by a block ``{"type": "image" | "audio" | "file", "file_id": …}``, and so it is kept,
streamed and logged. A chat model that is an `Inflating` one has the blocks made into what a model
understands inside its call; a graph of one's own can do it by `inflated`. Under another LangGraph
server files are not to be had, and blocks stay as they are.
"""

import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

#: The most that a call of a model is given of files, in bytes: of older ones it is told that they were.
MODEL_BYTES: Final = 50 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """A file that a run may use."""

    name: str
    mime_type: str
    size_bytes: int
    #: Reads all of it.
    read: Callable[[], Awaitable[bytes]]


#: Finds a file that was sent in the thread; None for one that was not.
Find = Callable[[str], Awaitable[Attachment | None]]

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FIND: ContextVar[Find | None] = ContextVar("files", default=None)


def attach(find: Find) -> None:
    """Let what runs in this context have the files that it may use."""
    _FIND.set(find)


class Inflating(BaseChatModel):
    """Mix in before a chat model: what calls it, and who watches, sees ids of files, the model files."""

    def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        stream = super()._astream
        if not any(map(_has_files, messages)):
            return stream(messages, *args, **kwargs)

        async def inflating() -> AsyncIterator[ChatGenerationChunk]:
            async for chunk in stream(await inflated(messages), *args, **kwargs):
                yield chunk

        return inflating()

    async def _agenerate(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> ChatResult:
        return await super()._agenerate(await inflated(messages), *args, **kwargs)


async def inflated(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """
    Messages with what their files hold: images and audio as base64, text as text.

    The newest files first, until they are `MODEL_BYTES`. The messages that are given are not changed.
    """
    find = _FIND.get()
    if find is None or not any(map(_has_files, messages)):
        return list(messages)
    left, made = MODEL_BYTES, []
    for message in reversed(messages):
        if _has_files(message):
            blocks, left = await _blocks(message, find, left)
            message = message.model_copy(update={"content": blocks})
        made.append(message)
    return made[::-1]


async def _blocks(message: BaseMessage, find: Find, left: int) -> tuple[list[Any], int]:
    blocks: list[Any] = []
    for block in message.content:
        if not isinstance(block, dict) or not _is_file(block):
            blocks.append(block)
            continue
        found = await find(str(block["file_id"]))
        if found is None:
            blocks.append(_note("a file that is not there any more"))
        elif found.size_bytes > left:
            blocks.append(_note(f"{found.name}, which was shown before"))
        else:
            left -= found.size_bytes
            blocks.append(_block(found, await found.read()))
    return blocks, left


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
