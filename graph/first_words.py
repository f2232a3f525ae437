"""
What a session is called until the model has a title for it: the first words that are said in it.

A title has keys of its own in the thread's metadata, so that it is never in the way of a name that
somebody gives. Threads, runs and checkpoints do not show them: they are the sessions' affair.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from store.models import JsonObject

#: The keys: what a session is called unless it has a name, and who says so.
TITLE, SOURCE = "generated_title", "title_source"

#: How long a title is, in characters.
MAX_CHARACTERS: Final = 50
#: How much of a message is looked at, in characters; and how many messages.
LOOK_AT_CHARACTERS: Final = 2_000
LOOK_AT_MESSAGES: Final = 20

_TAG: Final = re.compile(r"\s*([A-Za-z]{2,3})(?:-[\w-]+)?\s*(?:;\s*q\s*=\s*([01](?:\.\d*)?)\s*)?")
_USERS: Final = frozenset({"user", "human"})


def preferred_language(accept_language: str) -> str | None:
    """The language that an ``Accept-Language`` likes best, as ``zh``; None if it names none."""
    tags = (_TAG.fullmatch(part) for part in accept_language[:1000].split(",")[:20])
    liked = [(float(found[2] or 1), found[1].lower()) for found in tags if found]
    best = max(liked, key=lambda each: each[0], default=(0.0, ""))
    return best[1] if best[0] > 0 else None


def first_words(given: Any) -> str | None:
    """What a title is made of at once: the words of the first message of a user in a graph's input."""
    said = given.get("messages") if isinstance(given, dict) else None
    for message in (said if isinstance(said, list) else [said])[:LOOK_AT_MESSAGES]:
        if words := shortened(_text(_content(message))):
            return words
    return None


def _content(message: Any) -> Any:
    """What a user says in a message, in any of the forms that LangChain takes; else nothing."""
    if isinstance(message, str):
        return message
    if isinstance(message, list | tuple) and len(message) == 2:
        return message[1] if message[0] in _USERS else None
    if isinstance(message, dict) and message.get("role", message.get("type")) in _USERS:
        return message.get("content")
    return None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content[:LOOK_AT_CHARACTERS]
    if not isinstance(content, list):
        return ""
    texts = (block.get("text") if isinstance(block, dict) else block for block in content)
    return " ".join(text[:LOOK_AT_CHARACTERS] for text in texts if isinstance(text, str))


def shortened(text: str) -> str:
    """A title of a text: one line, cut where a word ends."""
    line = " ".join(text.replace("\0", " ").split())
    if len(line) <= MAX_CHARACTERS:
        return line
    cut = line[: MAX_CHARACTERS - 1]
    head, _, _ = cut.rpartition(" ")
    # A language without spaces is cut anywhere.
    return (head if len(head) > MAX_CHARACTERS // 2 else cut).rstrip() + "…"


def begun(thread_metadata: JsonObject | None, given: Any) -> JsonObject:
    """
    What a run adds to its thread's metadata: a title, if it is the first that says anything.

    Args:
        thread_metadata: The thread's; None if there is none yet.
    """
    metadata = thread_metadata or {}
    if metadata.get("name") or metadata.get(TITLE):
        return {}
    words = first_words(given)
    return {TITLE: words, SOURCE: "first_words"} if words else {}


def without_title(metadata: Mapping[str, Any]) -> JsonObject:
    """The metadata of a thread as others than sessions show it."""
    return {key: value for key, value in metadata.items() if key not in (TITLE, SOURCE)}
