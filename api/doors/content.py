"""Parts of messages of other protocols as LangChain's content blocks."""

from typing import Any

from store.models import JsonObject


def content_of(blocks: list[JsonObject]) -> str | list[JsonObject]:
    """The content of a message: plain text if nothing else is in it."""
    if all(block["type"] == "text" for block in blocks):
        return "".join(block["text"] for block in blocks)
    return blocks


def text_block(text: str) -> JsonObject:
    """A block of text."""
    return {"type": "text", "text": text}


def media_block(url: str, mime_type: str | None, filename: Any = None) -> JsonObject:
    """A block of an image, of audio or of another file, by its URL; one with the data is opened."""
    kind = mime_type or ""
    if url.startswith("data:"):
        head, _, data = url.removeprefix("data:").partition(",")
        kind = kind or head.partition(";")[0]
        given = {"base64": data}
    else:
        given = {"url": url}
    family = kind.partition("/")[0]
    block: JsonObject = {"type": family if family in ("image", "audio") else "file", **given}
    if kind:
        block["mime_type"] = kind
    if isinstance(filename, str):
        block["filename"] = filename
    return block
