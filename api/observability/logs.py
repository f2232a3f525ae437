"""How the process logs: structlog and the standard library's loggers, one form, to stderr."""

import logging
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
from structlog.processors import ExceptionRenderer
from structlog.typing import EventDict, Processor, WrappedLogger

from api.settings import without_password

# Also what callers put into an event by mistake; compared in lower case.
SECRET_KEYS = frozenset(
    {"api_key", "authorization", "cookie", "password", "secret", "token", "x-api-key"}
)

#: The lowest levels of libraries that log secrets, or what was said, below them.
_LOWEST: Final = {
    **dict.fromkeys(("httpx", "httpx2", "httpcore", "httpcore2", "openai"), logging.WARNING),
    **dict.fromkeys(("uvicorn.error", "websockets", "sse_starlette"), logging.INFO),
}

#: Of exceptions that were raised for others, so many are written.
MAX_CHAIN: Final = 10


def configure(*, level: str, json: bool, pid: int | None = None, error_texts: bool = True) -> None:
    """
    Send every logger's events to stderr, from now on.

    Guarantees that a password in a URL, in a traceback too, and the values of `SECRET_KEYS` are not
    written.

    Args:
        level: The least severe level written, as in `Settings.log_level`.

        json: One JSON object a line, for collectors; otherwise text for people.

        pid: Added to every event, if given: where several processes write to one stderr.

        error_texts: Whether the texts of exceptions are written: of a traceback, of exceptions that
            are values of an event (`error=exc`), and where a message repeats the text of the exception
            that it is logged with. Without them nothing that users said is, unless code of the user's
            logs it.
    """
    shared: list[Processor] = [
        *([] if pid is None else [partial(_with_pid, pid)]),
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        *([] if error_texts else [_without_texts_in_messages]),
        # Before the secrets are taken out: the text of an error may have one.
        _exceptions(texts=error_texts),
        _exceptions_as_values(texts=error_texts),
        _without_secrets,
    ]
    structlog.configure(
        # First: what is not written costs nothing more.
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(json=json),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    # At info the first ones log each call to a model, with its URL; at debug uvicorn logs the headers and
    # frames of WebSockets, and sse_starlette chunks of answers: tokens, and what was said.
    for name, lowest in _LOWEST.items():
        logging.getLogger(name).setLevel(max(lowest, logging.root.level))


def be_a_guest() -> None:
    """
    In the process of somebody else: give our events to the standard library's loggers, as they are set.

    Where structlog is configured already nothing is changed.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _without_secrets,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _exceptions(*, texts: bool) -> Processor:
    return structlog.processors.format_exc_info if texts else ExceptionRenderer(_without_texts)


def _without_texts(exc_info: tuple[type[BaseException], BaseException, Any]) -> str:
    """A traceback with the kinds of exceptions, and without what they say."""
    chain: list[str] = []
    exc: BaseException | None = exc_info[1]
    while exc is not None and len(chain) < MAX_CHAIN:
        frames = "".join(traceback.format_tb(exc.__traceback__))
        chain.append(f"Traceback (most recent call last):\n{frames}{_kind(exc)}")
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return "\n\n".join(reversed(chain))


def _without_texts_in_messages(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """As LangGraph logs a node that is tried again: with the text of the exception in the message too."""
    found = event.get("exc_info")
    exc = found[1] if isinstance(found, tuple) else found
    if isinstance(exc, BaseException) and (text := str(exc)):
        event["event"] = str(event["event"]).replace(text, "…")
    return event


def _kind(exc: BaseException) -> str:
    return f"{type(exc).__module__}.{type(exc).__qualname__}".removeprefix("builtins.")


def _exceptions_as_values(*, texts: bool) -> Processor:
    written: Callable[[BaseException], str] = repr if texts else _kind

    def write(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        for key, value in event.items():
            if isinstance(value, BaseException):
                event[key] = written(value)
        return event

    return write


def _with_pid(pid: int, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["pid"] = pid
    return event


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's says more than our own: an answer that is broken off is logged."""
    return record.msg != "ASGI callable returned without completing response."


def _renderers(*, json: bool) -> list[Processor]:
    if json:
        return [structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _without_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    # uvicorn sends each of its messages a second time, with colours.
    event.pop("color_message", None)
    for key, value in event.items():
        if key.lower() in SECRET_KEYS:
            event[key] = "***"
        elif isinstance(value, str) and "://" in value:
            event[key] = without_password(value)
    return event
