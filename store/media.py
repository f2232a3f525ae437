"""What kind of file some bytes are: by themselves, whatever name or type they came with. Pure."""

import codecs
from typing import Final

#: How many bytes tell.
HEAD_BYTES: Final = 512
TEXT: Final = "text/plain"

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x1aE\xdf\xa3", "audio/webm"),
    (b"%PDF-", "application/pdf"),
)
#: Of a RIFF, and of what has its brand in a box.
_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_BRANDS: Final = {b"M4A ": "audio/mp4", b"avif": "image/avif", b"heic": "image/heic"}
#: Control characters that text has none of.
_NO_TEXT: Final = bytes(set(range(32)) - {9, 10, 12, 13, 27})


def sniff(head: bytes) -> str | None:
    """The MIME type of a file by its first `HEAD_BYTES`; None if they are of no kind that is known."""
    for magic, mime_type in _MAGIC:
        if head.startswith(magic):
            return mime_type
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    # An MPEG frame: eleven bits, then layer III.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:
        return "audio/mpeg"
    return TEXT if Text().takes(head) else None


def block_type(mime_type: str) -> str:
    """What a block of a message is called that names such a file."""
    kind = mime_type.split("/")[0]
    return kind if kind in ("image", "audio") else "file"


class Text:
    """Reads a file as text, piece by piece: UTF-8 without control characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def takes(self, data: bytes, *, last: bool = False) -> bool:
        """Whether it is text up to here."""
        try:
            self._decoder.decode(data, last)
        except UnicodeDecodeError:
            return False
        return len(data.translate(None, _NO_TEXT)) == len(data)
