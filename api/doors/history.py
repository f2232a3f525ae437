"""
What a client that sends its whole conversation each time wants of one that is kept.

Pure: the longest common beginning of both tells what is new, what is another branch, and what is
to be answered anew. Texts are compared without their white space, which front ends change.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from api.session_events import text_of
from store.models import JsonObject, Message

_MEDIA: Final = frozenset({"image", "image_url", "input_image", "audio", "input_audio"})


@dataclass(frozen=True, slots=True)
class Turn:
    """
    What one side said before the other spoke again.

    Attributes:
        key: Who and what, to compare by.
        message_id: The last message of it; None of one that a client sent.
        message: It as a graph takes it; empty of one that is kept.
    """

    key: tuple[str, bool, bytes]
    message_id: str | None
    message: JsonObject


@dataclass(frozen=True, slots=True)
class Step:
    """
    What is to be done.

    Attributes:
        new: The messages to add.
        at_head: They follow what was said last.
        after: Else the message that they follow; None for the beginning.
        again: There is nothing to add: the user's message `after` is to be answered anew.
    """

    new: list[JsonObject]
    at_head: bool = False
    after: str | None = None
    again: bool = False


def kept(rows: Iterable[Message]) -> list[Turn]:
    """The turns of a session by the rows of a branch: an answer with its tools is one turn."""
    turns: list[Turn] = []
    texts: list[str] = []
    last: str | None = None

    def close() -> None:
        # Of what nothing was said, such as a call that waits for an approval, no client knows.
        if "".join(texts).strip():
            turns.append(Turn(_key("assistant", "".join(texts)), last, {}))

    for row in rows:
        if row.role == "user":
            close()
            texts, last = [], None
            media = row.message_type != "text"
            turns.append(Turn(_key("user", row.content, media=media), row.id, {}))
        elif row.role in ("assistant", "tool"):
            last = row.id
            texts += [row.content] if row.role == "assistant" else []
    close()
    return turns


def sent(messages: Iterable[JsonObject]) -> list[Turn]:
    """The turns that a client sent, as a graph takes them: of roles ``user`` and ``assistant``."""
    turns: list[Turn] = []
    for role, group in groupby(messages, key=lambda message: message["role"]):
        if role == "user":
            turns += [_asked(message) for message in group]
        # Front ends keep an answer that failed before its first word: of that nothing is kept here.
        elif said := [message for message in group if not _is_empty(message["content"])]:
            turns.append(_answered(said))
    return turns


def _asked(message: JsonObject) -> Turn:
    content = message["content"]
    return Turn(_key("user", text_of(content), media=_has_media(content)), None, message)


def _answered(said: list[JsonObject]) -> Turn:
    text = "\n\n".join(text_of(message["content"]) for message in said)
    whole = said[0] if len(said) == 1 else {**said[0], "content": text}
    return Turn(_key("assistant", text), None, whole)


def reconcile(known: Sequence[Turn], told: Sequence[Turn], *, alone: bool = False) -> Step:
    """
    Find what a client's conversation adds to the one that is kept.

    Args:
        told: Not empty; the last one is the user's.
        alone: The client may send the new message and nothing else: a single one is new.
    """
    added = [turn.message for turn in told]
    if not known or (alone and len(told) == 1):
        return Step(added, at_head=True)
    same = _common(known, told)
    if same == len(told):
        return Step([], after=known[same - 1].message_id, again=True)
    if same == len(known):
        return Step(added[same:], at_head=True)
    if same == 0 and (overlap := _overlap(known, told)):
        # A client that keeps only the end of a long conversation.
        return Step(added[overlap:], at_head=True)
    return Step(added[same:], after=known[same - 1].message_id if same else None)


def _common(known: Sequence[Turn], told: Sequence[Turn]) -> int:
    pairs = zip(known, told, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a.key != b.key), min(len(known), len(told)))


def _overlap(known: Sequence[Turn], told: Sequence[Turn]) -> int:
    """How many turns that were sent, without the last one, are the last ones that are kept."""
    keys = [*(turn.key for turn in told[:-1]), None, *(turn.key for turn in known)]
    # How much of the beginning each place is the end of; one pass (Knuth, Morris and Pratt), for
    # whoever sends ten thousand turns that are nearly the same.
    borders = [0]
    for key in keys[1:]:
        length = borders[-1]
        while length and keys[length] != key:
            length = borders[length - 1]
        borders.append(length + int(keys[length] == key))
    return borders[-1]


def _key(role: str, text: str, *, media: bool = False) -> tuple[str, bool, bytes]:
    squeezed = "".join(text.split())
    return role, media, hashlib.sha256(squeezed.encode("utf-8", "surrogatepass")).digest()


def _is_empty(content: Any) -> bool:
    """Whether it says nothing at all."""
    others = isinstance(content, list) and any(part.get("type") != "text" for part in content)
    return not others and not text_of(content).strip()


def _has_media(content: Any) -> bool:
    """Whether it has more than text in it, as the rows of messages know it."""
    if not isinstance(content, list):
        return False
    return any(isinstance(part, dict) and part.get("type") in _MEDIA for part in content)
