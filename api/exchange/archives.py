"""The archive that ChatGPT exports: its conversations, unpacked within bounds."""

import re
import struct
import zipfile
import zlib
from typing import BinaryIO, Final

from store.errors import InvalidInputError, TooLargeError

SIGNATURE: Final = b"PK\x03\x04"
#: Beside pictures and pages an export has its conversations in one file, or in several.
_CONVERSATIONS: Final = re.compile(r"(?:[^/]+/)?conversations(?:-\d+)?\.json")
#: The list of an archive's files is read as a whole.
_MAX_LIST_BYTES: Final = 4 * 2**20
#: What ends an archive: its signature, counts and sizes, and a comment of up to 64 KiB.
_END: Final = struct.Struct("<4s4H2LH")
_END_BYTES: Final = _END.size + 2**16
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
    try:
        with zipfile.ZipFile(file) as archive:
            names = (n for n in sorted(archive.namelist()) if _CONVERSATIONS.fullmatch(n))
            for name in names:
                with archive.open(name) as packed:
                    while content := packed.read(_READ_BYTES):
                        size += len(content)
                        if size > max_bytes:
                            raise TooLargeError(
                                f"The archive has more than {max_bytes} bytes of conversations"
                            )
                        into.write(content)
                into.write(b"\n")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as exc:
        raise InvalidInputError("The archive cannot be unpacked", code="unknown_format") from exc
    if not size:
        raise InvalidInputError("The archive has no conversations.json", code="unknown_format")
    into.seek(0)
    return size


def _check_list(file: BinaryIO) -> None:
    """See that the list of an archive's files is one to be read; it is known by how a file ends."""
    length = file.seek(0, 2)
    file.seek(max(0, length - _END_BYTES))
    ends = file.read()
    file.seek(0)
    place = ends.rfind(b"PK\x05\x06")
    if place < 0 or len(ends) - place < _END.size:
        raise InvalidInputError("The archive cannot be unpacked", code="unknown_format")
    list_bytes = _END.unpack_from(ends, place)[5]
    # 0xFFFFFFFF: another record says how large it is, beyond what this one could.
    if list_bytes > _MAX_LIST_BYTES:
        raise TooLargeError("The archive has too many files")
