"""Files on their way in: of what kind they are is read from what is in them."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
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
    upload = Upload(services.db)
    left = await services.quotas.file_bytes_left(caller)
    try:
        mime_type = await _keep(services, given, upload, left)
        return await upload.finish(
            name=_name(given.filename), owner=caller.identity, mime_type=mime_type
        )
    except BaseException:
        with suppress(Error):
            await upload.abandon()
        raise


async def require_files(services: Services, caller: Caller, given: Sequence[UploadFile]) -> None:
    """
    See that all of some files would be kept, ahead of what is made for them; they are to be read again.

    Raises: as `keep_file`.
    """
    if not given:
        return
    left = await services.quotas.file_bytes_left(caller, count=len(given))
    for file in given:
        scale = _Scale()
        await _keep(services, file, scale, left)
        await file.seek(0)
        left = None if left is None else left - scale.size_bytes


@dataclass(slots=True)
class _Scale:
    """An upload of which nothing is kept."""

    size_bytes: int = 0

    async def append(self, data: bytes) -> None:
        self.size_bytes += len(data)


async def _keep(
    services: Services, given: UploadFile, upload: Upload | _Scale, left: int | None
) -> str:
    """
    Keep a file piece by piece; its type, if that is one that is taken.

    Args:
        left: How many bytes the caller may have; None for any number.
    """
    max_bytes, types = services.settings.file_max_bytes, services.settings.file_types
    beyond: Error = too_large(max_bytes)
    if left is not None and left < max_bytes:
        max_bytes, beyond = left, services.quotas.full_of_bytes()
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
