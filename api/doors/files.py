"""Files that come within a message: kept as files, and named in it by their ids."""

import base64
import binascii
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from starlette.datastructures import UploadFile

from api.bootstrap import Services
from api.identity.auth import Caller
from api.schemas.sessions import attachment_block
from api.uploads import keep_file, require_files
from store import files
from store.access import Access
from store.errors import InvalidInputError
from store.models import JsonObject


async def with_files_kept(
    services: Services, caller: Caller, session_id: str, message: JsonObject, *, access: Access
) -> JsonObject:
    """
    A message of a session as it is to be kept: the graph finds its files by their ids.

    They are named in the message that was given, so that another attempt keeps no file again.

    Args:
        access: The sessions that the caller sees.

    Raises:
        InvalidInputError: What is to be a file's content is not.
        WrongTypeError: It is of no kind that is taken.
        TooLargeError: It is larger than files may be.
        QuotaError: The caller's files would be more, or larger together, than they may be.
    """
    content = message["content"]
    if not isinstance(content, list):
        return message
    blocks = []
    for block in content:
        given = _file(block)
        if given is None:
            blocks.append(block)
            continue
        file = await keep_file(services, caller, given)
        sender = caller.identity
        await files.send(services.db, [file.file_id], session_id, owner=sender, access=access)
        blocks.append(attachment_block(file))
    content[:] = blocks
    return message


async def require_keepable(
    services: Services, caller: Caller, messages: Iterable[JsonObject]
) -> None:
    """
    See that the files of all these messages would be kept, before a session is made for them.

    Raises: as `with_files_kept`.
    """
    blocks = (block for message in messages for block in _blocks(message))
    await require_files(services, caller, [file for block in blocks if (file := _file(block))])


def has_files(message: JsonObject) -> bool:
    """Whether there is a file within a message."""
    return any(_encoded(block) is not None for block in _blocks(message))


def _blocks(message: JsonObject) -> list[Any]:
    content = message["content"]
    return content if isinstance(content, list) else []


def _file(block: Any) -> UploadFile | None:
    """The file that a block holds; None of one that holds none, or names it by a URL."""
    text = _encoded(block)
    if text is None:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInputError("A file within a message must be in base64") from exc
    return UploadFile(BytesIO(data), filename=_filename(block))


def _encoded(block: Any) -> str | None:
    if not isinstance(block, dict):
        return None  # a text: LangChain takes it, and handlers of an author's may put it there
    kind = str(block.get("type"))
    inner = block.get(kind)
    within: dict[str, Any] = inner if isinstance(inner, dict) else {}
    found = {
        "image_url": within.get("url"),
        "input_audio": within.get("data"),
        "file": within.get("file_data"),
    }
    text = block.get("base64") or found.get(kind)
    if not isinstance(text, str):
        return None
    if text.startswith("data:"):
        return text.partition(",")[2]
    return None if kind == "image_url" else text


def _filename(block: JsonObject) -> str | None:
    inner = block.get("file")
    found = block.get("filename") or (inner.get("filename") if isinstance(inner, dict) else None)
    return found if isinstance(found, str) else None
