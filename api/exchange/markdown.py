"""
Conversations as Markdown: our own, which is read back exactly, and what others write by hand.

Ours has a comment before each session and each message that says what Markdown cannot; other files
have headings, or words in bold, that name who speaks.
"""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO, Final

from api.exchange.transcript import (
    MAX_MESSAGES,
    Role,
    Transcript,
    derived,
    in_a_line,
    name_of,
)
from store.errors import InvalidInputError, TooLargeError
from store.models import JsonObject
from store.projection import clean

MAX_BYTES: Final = 64 * 2**20
_MAX_LINE_BYTES: Final = 16 * 2**20
SESSION, MESSAGE = "<!-- threadwell:session ", "<!-- threadwell:message "
_MARK = re.compile(r"<!-- threadwell:(session|message) (\{.*\}) -->")
_ESCAPED = re.compile(r"^(\\*)(<!-- threadwell:)", re.MULTILINE)
_UNESCAPED = re.compile(r"^\\(\\*<!-- threadwell:)", re.MULTILINE)
_SPEAKERS: dict[str, Role] = {
    "user": "user", "human": "user", "you": "user", "me": "user", "question": "user",
    "用户": "user", "我": "user", "assistant": "assistant", "ai": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "answer": "assistant",
    "claude": "assistant", "助手": "assistant", "system": "system", "系统": "system",
}  # fmt: skip
_HEADING = re.compile(r"#{1,6}\s+(\S.*)")
_BOLD = re.compile(r"\*\*([^*]{1,50})\*\*\s*(?:[:：]\s*)?(.*)")
_WORDS = re.compile(r"\w(?:.*\w)?")
_FENCE = re.compile(r"\s{0,3}(```+|~~~+)")
TITLES: dict[str, str] = {
    "user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool",
}  # fmt: skip


def session_head(about: JsonObject, name: str) -> str:
    """What a session begins with."""
    return f"{SESSION}{_comment(about)} -->\n# {_one_line(name)}\n\n"


def message_part(about: JsonObject, role: str, content: str) -> str:
    """One message."""
    shielded = _ESCAPED.sub(r"\\\1\2", content)
    title = TITLES.get(role, _one_line(role))
    return f"{MESSAGE}{_comment(about)} -->\n## {title}\n\n{shielded}\n\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _comment(about: JsonObject) -> str:
    # A comment ends at the first "-->", a line at its end.
    return json.dumps(about, ensure_ascii=False).replace("--", "-\\u002d")


def lines(file: BinaryIO) -> Iterator[str]:
    """
    The lines of a file with their ends.

    Raises:
        InvalidInputError: It is no UTF-8.
        TooLargeError: A line is longer than anybody writes.
    """
    while raw := file.readline(_MAX_LINE_BYTES):
        if len(raw) == _MAX_LINE_BYTES:
            raise TooLargeError("The file has a line that is too long")
        try:
            yield raw.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise InvalidInputError("The file is no UTF-8", code="unknown_format") from exc


def documents(file: BinaryIO) -> Iterator[JsonObject | Transcript]:
    """
    What a file says: of ours the lines of a native file, of others' the conversation.

    Raises: as `lines`; InvalidInputError if nobody says anything in it.
    """
    source = lines(file)
    first = next((line for line in source if line.strip()), "")
    mark = _MARK.fullmatch(first.rstrip("\r\n"))
    if mark:
        yield from _ours(mark, source)
    else:
        yield _theirs(first, source)


def _ours(mark: re.Match[str], source: Iterator[str]) -> Iterator[JsonObject]:
    about, said, size = _told(mark), [], 0
    for line in source:
        found = _MARK.fullmatch(line.removesuffix("\n"))
        if found is None:
            said.append(line)
            size += len(line)
            if size > MAX_BYTES:
                raise TooLargeError("A message is too long")
            continue
        yield _with_content(about, "".join(said))
        about, said, size = _told(found), [], 0
    yield _with_content(about, "".join(said))


def _told(mark: re.Match[str]) -> JsonObject:
    try:
        about: Any = json.loads(mark[2])
    except (ValueError, RecursionError):
        about = {}
    return {**about, "type": mark[1]}


def _with_content(about: JsonObject, text: str) -> JsonObject:
    if about["type"] == "session":
        return about
    # Its heading, and the empty lines around it.
    _, _, content = text.partition("\n\n")
    content = content.removesuffix("\n\n")
    return {**about, "content": _UNESCAPED.sub(r"\1", content)}


def _theirs(first: str, source: Iterator[str]) -> Transcript:
    reader = _Reader()
    for line in _chained(first, source):
        reader.read(line)
    spoken: list[tuple[Role, str | list[Any], JsonObject, datetime | None]] = [
        (role, clean("".join(parts)).strip(), {}, None) for role, parts in reader.said
    ]
    if not spoken:
        raise InvalidInputError("Nobody says anything in this file", code="unknown_format")
    utterances = in_a_line(derived("markdown", reader.title, spoken[0][1]), spoken)
    return Transcript(
        form="markdown",
        id=None,
        attributes={"name": name_of(reader.title)},
        utterances=utterances,
        head=utterances[-1].id,
    )


class _Reader:
    """Takes the lines of a file that names its speakers."""

    def __init__(self) -> None:
        self.title: str | None = None
        self.said: list[tuple[Role, list[str]]] = []
        self._fence = ""
        self._size = 0

    def read(self, line: str) -> None:
        """
        Take the next line.

        Raises:
            TooLargeError, InvalidInputError: It is one too many.
        """
        self._size += len(line)
        if self._size > MAX_BYTES:
            raise TooLargeError("The conversation is too long")
        bare = line.rstrip("\r\n")
        speaks = None if self._fence else _speaker(bare)
        if opened := _FENCE.match(line):
            closes = self._fence and line.strip().startswith(self._fence)
            self._fence = "" if closes else self._fence or opened[1]
        if speaks is not None:
            self._begin(*speaks)
        elif self.said:
            self.said[-1][1].append(line)
        elif self.title is None and (heading := _HEADING.fullmatch(bare)):
            self.title = heading[1].rstrip().rstrip("#").rstrip() or heading[1]

    def _begin(self, role: Role, text: str) -> None:
        if len(self.said) == MAX_MESSAGES:
            raise InvalidInputError(f"It has more than {MAX_MESSAGES} messages")
        self.said.append((role, [text]))


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _speaker(line: str) -> tuple[Role, str] | None:
    """Who speaks from this line on, and what is said in it; None if it only goes on."""
    if heading := _HEADING.fullmatch(line):
        role = _SPEAKERS.get(_bare(heading[1]))
        return (role, "") if role else None
    if bold := _BOLD.fullmatch(line):
        role = _SPEAKERS.get(_bare(bold[1]))
        return (role, f"{bold[2]}\n") if role else None
    return None


def _bare(name: str) -> str:
    """A name without its decoration."""
    found = _WORDS.search(name)
    return found[0].lower() if found else ""
