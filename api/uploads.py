"""Files on their way in: of what kind they are is read from what is in them."""

import re
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Final

from starlette.datastructures import UploadFile

from api.bootstrap import Services
from api.identity.auth import Caller
from store import media
from store.errors import Error, TooLargeError, WrongTypeError
from store.files import CHUNK_BYTES, File, Upload

MAX_NAME: Final = 255


async def keep_file(services: Services, caller: Caller, given: UploadFile) -> File:
    """
    Keep a file that was sent; the same content is kept once, whoever sends it.

    Raises:
        WrongTypeError: It is of no kind that is taken.
        TooLargeError: It is larger than files may be.
        QuotaError: The caller's would be more, or larger together, than they may be.
    """
    settings, upload = services.settings, Upload(services.db)
    left = await services.quotas.file_bytes_left(caller)
    max_bytes = settings.file_max_bytes
    beyond: Error = too_large(max_bytes)
    if left is not None and left < max_bytes:
        max_bytes, beyond = left, services.quotas.full_of_bytes()
    try:
        mime_type = await _keep(given, upload, max_bytes, beyond, settings.file_types)
        return await upload.finish(
            name=_name(given.filename), owner=caller.identity, mime_type=mime_type
        )
    except BaseException:
        with suppress(Error):
            await upload.abandon()
        raise


async def _keep(
    given: UploadFile, upload: Upload, max_bytes: int, beyond: Error, types: tuple[str, ...]
) -> str:
    """Keep a file piece by piece; its type, if that is one that is taken."""
    piece = await given.read(CHUNK_BYTES)
    mime_type = media.sniff(piece[: media.HEAD_BYTES]) if piece else None
    if mime_type is None:
        raise WrongTypeError("The file is empty, or neither text in UTF-8 nor of a known kind")
    if not any(fnmatchcase(mime_type, pattern) for pattern in types):
        raise WrongTypeError(f"Files of type {mime_type} are not taken")
    text = media.Text() if mime_type == media.TEXT else None
    while piece:
        following = await given.read(CHUNK_BYTES)
        if upload.size_bytes + len(piece) > max_bytes:
            raise beyond
        if text and not text.takes(piece, last=not following):
            raise WrongTypeError("The file is neither text in UTF-8 nor of a known kind")
        await upload.append(piece)
        piece = following
    return mime_type


def too_large(max_bytes: int) -> TooLargeError:
    """What is said of a file beyond the bound."""
    return TooLargeError(f"A file may have {max_bytes} bytes at the most")


def _name(given: str | None) -> str:
    """What a file is called: of a path its last part, of that nothing that is not to be seen."""
    last = re.split(r"[/\\]", given or "")[-1]
    return "".join(c for c in last if c.isprintable()).strip(" .")[:MAX_NAME] or "file"
