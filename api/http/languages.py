"""
In which language an error is told: English, or Chinese to whoever likes that better.

Errors are raised in English, and put into other words as they are answered, by ``catalogue.toml``; codes
are the same in every language. See docs/decisions/0028.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from typing import Final, Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.custom_app import route_path

Language = Literal["en", "zh"]
_LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")

#: Where programs speak in the words of another server, and may compare them: English for everybody.
ENGLISH: Final = (
    "/a2a", "/agui", "/api/ai", "/assistants", "/info", "/mcp", "/metrics", "/ok", "/runs", "/store",
    "/threads", "/ui", "/v1", "/.well-known",
)  # fmt: skip
_BELOW: Final = tuple(f"{face}/" for face in ENGLISH)

#: Of as many lines as an error of ours has at most; more are a client's.
MAX_LINES: Final = 20

#: The language of the request; None where there is no choice.
_CURRENT: ContextVar[Language | None] = ContextVar("language", default=None)


class Languages:
    """
    Notes which language a request is to be answered in.

    Args:
        everywhere: Also where programs speak.
    """

    def __init__(self, app: ASGIApp, *, everywhere: bool) -> None:
        self.app = app
        self._everywhere = everywhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] in ("http", "websocket") and self._has_choice(route_path(scope)):
            _CURRENT.set(chosen(Headers(scope=scope).get("accept-language", "")))
        else:
            _CURRENT.set(None)
        await self.app(scope, receive, send)

    def _has_choice(self, path: str) -> bool:
        return self._everywhere or not (path in ENGLISH or path.startswith(_BELOW))


def chosen(accept_language: str) -> Language:
    """The language that an ``Accept-Language`` likes best of those there are; English without one."""
    best: tuple[float, Language] = (0.0, "en")
    for part in accept_language[:1000].split(",")[:20]:
        tag, _, weight = part.partition(";")
        name = tag.strip().lower().partition("-")[0]
        found = next((language for language in _LANGUAGES if language == name), None)
        if found is not None and (liked := _weight(weight)) > best[0]:
            best = (liked, found)
    return best[1]


def _weight(text: str) -> float:
    found = re.fullmatch(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", text)
    return float(found[1]) if found else float(not text.strip())


def translated(detail: str, code: str) -> tuple[str, dict[str, str]]:
    """
    The text of an error in the language of who asked, and the headers that name it.

    A text that the catalogue does not know stays English, after what its code means.
    """
    language = _CURRENT.get()
    if language is None:
        return detail, {}
    headers = {"Content-Language": language, "Vary": "Accept-Language"}
    return (detail if language == "en" else in_chinese(detail, code)), headers


def in_chinese(detail: str, code: str) -> str:
    """An error's text in Chinese."""
    if (whole := _translated(detail)) is not None:
        return whole
    lines = detail.split("\n", MAX_LINES)
    if len(lines) <= MAX_LINES:
        known = [said for line in lines if (said := _line(line)) is not None]
        if len(known) == len(lines):
            return "\n".join(known)
    meaning = catalogue()["codes"].get(code)
    return f"{meaning}（{detail}）" if meaning else detail


def _line(line: str) -> str | None:
    """A line as it stands, or what is wrong after where that is."""
    if (whole := _translated(line)) is not None:
        return whole
    place, colon, fault = line.partition(": ")
    said = _translated(fault) if colon else None
    return None if said is None else f"{_exactly(place)}：{said}"


def _exactly(text: str) -> str:
    return catalogue()["messages"].get(text, text)


def _translated(text: str) -> str | None:
    exactly = catalogue()["messages"].get(text)
    if exactly is not None:
        return exactly
    for pieces, template in _templates():
        if (named := _named(pieces, text)) is not None:
            return template.format(*map(_exactly, named))
    return None


@cache
def catalogue() -> Mapping[str, Mapping[str, str]]:
    """`codes` and `messages`, by what they are in English."""
    text = files("api.http").joinpath("catalogue.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def _templates() -> tuple[tuple[tuple[str, ...], str], ...]:
    """The messages that name something, as what stands around it: those that say most of themselves first."""
    templates = [item for item in catalogue()["messages"].items() if "{}" in item[0]]
    templates.sort(key=lambda item: -len(item[0]))
    return tuple((tuple(english.split("{}")), chinese) for english, chinese in templates)


def _named(pieces: Sequence[str], text: str) -> list[str] | None:
    """
    What stands between the pieces of a message; None if the text is another one.

    Not by a regular expression: of a text that a client chose, one with several gaps tries every place
    for each of them. Here each piece is taken where it comes first, which leaves most to the others.
    """
    first, *middle, last = pieces
    if not (text.startswith(first) and text.endswith(last)):
        return None
    at, end = len(first), len(text) - len(last)
    found = []
    for piece in middle:
        place = text.find(piece, at + 1, end)
        if place < 0:
            return None
        found.append(text[at:place])
        at = place + len(piece)
    return [*found, text[at:end]] if at < end else None
