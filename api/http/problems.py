"""
Errors in the form of RFC 9457, for whoever asks for it: ``Accept: application/problem+json``.

The same status, `detail` and `code` as to everybody else. Where clients of another protocol read errors, as
under ``/v1``, they have that protocol's form all the same.
"""

from contextvars import ContextVar
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from store.models import JsonObject

MEDIA_TYPE: Final = "application/problem+json"

_WANTED: ContextVar[bool] = ContextVar("problem", default=False)


class Problems:
    """Notes whether a request wants its error in this form."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        accept = Headers(scope=scope).get("accept", "") if scope["type"] == "http" else ""
        _WANTED.set(MEDIA_TYPE in accept.lower())
        await self.app(scope, receive, send)


def is_wanted() -> bool:
    """Whether the request of now wants it."""
    return _WANTED.get()


def problem(status: int, detail: str, code: str) -> JsonObject:
    """An error in this form; what kind of error it is `code` says, and no URL."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = code
    about = {"type": "about:blank", "title": title, "status": status}
    return {**about, "detail": detail, "code": code}
