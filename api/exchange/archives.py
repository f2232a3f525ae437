"""The archive that ChatGPT exports: its conversations, unpacked within bounds."""

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from store.errors import InvalidInputError, TooLargeError

SIGNATURE: Final = b"PK\x03\x04"
#: Beside pictures and pages an export has its conversations in one file, or in several.
_CONVERSATIONS: Final = re.compile(r"(?:[^/]+/)?conversations(?:-\d+)?\.json")
#: The list of an archive's files is read as a whole.
_MAX_LIST_BYTES: Final = 4 * 2**20
#: What ends an archive: its signature, counts and sizes, and a comment of up to 64 KiB.
_END: Final = struct.Struct("<4s4H2LH")
#: What may stand right before it, and leads to a record for archives beyond 4 GiB.
_LOCATOR: Final = b"PK\x06\x07"
_LOCATOR_BYTES: Final = 20
_END_BYTES: Final = _LOCATOR_BYTES + _END.size + 2**16
#: Others take memory by what an archive says of itself.
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: What reading one may raise that is not what it says it is.
_DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError,
    OverflowError, RuntimeError, ValueError,
)  # fmt: skip
_READ_BYTES: Final = 2**20


def is_archive(file: BinaryIO) -> bool:
    """Whether a file is one; it is at its first byte then."""
    begins = file.read(len(SIGNATURE))
    file.seek(0)
    return begins == SIGNATURE


def unpack(file: BinaryIO, into: BinaryIO, *, max_bytes: int) -> int:
    """
    Write the conversations of an archive one after another; how many bytes they have.

    Raises:
        InvalidInputError: It cannot be read, or has none.
        TooLargeError: Unpacked they are larger than `max_bytes`, whatever the archive says of it, or it
            has too many files.
    """
    _check_list(file)
    size = 0
    for content in _conversations(file):
        size += len(content)
        if size > max_bytes:
            raise TooLargeError(f"The archive has more than {max_bytes} bytes of conversations")
        # A line between two of its files, of which each is whole JSON.
        into.write(content or b"\n")
    if not size:
        raise InvalidInputError("The archive has no conversations.json", code="unknown_format")
    into.seek(0)
    return size


def _conversations(file: BinaryIO) -> Iterator[bytes]:
    """What is in the files of conversations, piece by piece; an empty piece after each."""
    try:
        with zipfile.ZipFile(file) as archive:
            for name in sorted(archive.namelist()):
                if not _CONVERSATIONS.fullmatch(name):
                    continue
                if archive.getinfo(name).compress_type not in _METHODS:
                    raise _not_unpacked()
                with archive.open(name) as packed:
                    while content := packed.read(_READ_BYTES):
                        yield content
                yield b""
    except _DAMAGE as exc:
        raise _not_unpacked() from exc


def _not_unpacked() -> InvalidInputError:
    return InvalidInputError("The archive cannot be unpacked", code="unknown_format")


def _check_list(file: BinaryIO) -> None:
    """See that the list of an archive's files is one to be read; it is known by how a file ends."""
    length = file.seek(0, 2)
    file.seek(max(0, length - _END_BYTES))
    ends = file.read()
    file.seek(0)
    place = ends.rfind(b"PK\x05\x06")
    if place < 0 or len(ends) - place < _END.size:
        raise _not_unpacked()
    list_bytes = _END.unpack_from(ends, place)[5]
    # Where a locator stands before it, another record counts, whatever this one says.
    if ends.startswith(_LOCATOR, max(0, place - _LOCATOR_BYTES)) or list_bytes > _MAX_LIST_BYTES:
        raise TooLargeError("The archive has too many files")
