"""Answers without what differs from one time to the next: ids, times, places, versions."""

import json
import re
import uuid
from typing import Any

from tests.differential.talk import Exchange

_NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b", re.I
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+\d\d:\d\d|Z)?")
_EVENT_ID = re.compile(r"\d+-\d+(\.\d+)?")
_RAW_ID = re.compile(r"(?m)^id: \d+-\d+")
_URL = re.compile(r"https?://(127\.0\.0\.1|localhost):\d+")
#: Values that only say which server, version or moment it is, or how much room something takes.
_MASKED = frozenset(
    (
        *("langgraph_version", "langgraph_api_version", "langgraph_plan", "langgraph_host"),
        *("langgraph_api_url", "langgraph_request_id", "__request_start_time_ms__", "timestamp"),
        *("langgraph_py_version", "revision_id"),
        *("bytes", "total_bytes", "event_id", "applied_through_seq"),
    )
)
#: What comes after it in an error's words is an inside of the server.
DETAIL_LENGTH = 100


def normalise(exchanges: list[Exchange], graph_ids: frozenset[str]) -> list[Exchange]:
    """
    The same exchanges, comparable: equal ids stay equal and are numbered as they appear.

    Args:
        graph_ids: Graphs whose own assistants have ids that are known.
    """
    known = {str(uuid.uuid5(_NAMESPACE, graph_id)) for graph_id in graph_ids}
    marks = _Marks(known)
    return [
        {key: marks.value(exchange[key], key) for key in exchange if key != "headers"}
        | {"headers": marks.value(exchange.get("headers", {}), "headers")}
        for exchange in exchanges
    ]


def _place(name: str, value: Any) -> str:
    """Where a field comes: by its name, and if that is an id by what it holds."""
    return _ID.sub("<id>", json.dumps([name, value], default=str, sort_keys=True))


class _Marks:
    """Names of ids, in the order in which a reader meets them."""

    def __init__(self, known: set[str]) -> None:
        self._known = known
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def value(self, value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {
                self._text(name, "key"): self.value(value[name], name)
                for name in sorted(value, key=lambda name: _place(name, value[name]))
            }
        if isinstance(value, list):
            return [self.value(item, key) for item in value]
        if key in _MASKED and isinstance(value, str | int | float):
            return f"<{key}>"
        if not isinstance(value, str):
            return value
        text = self._text(value, key)
        return text[:DETAIL_LENGTH] if key == "detail" else text

    def _text(self, text: str, key: str) -> str:
        if key == "id" and _EVENT_ID.fullmatch(text):
            return "<event id>"
        for pattern, mark in ((_URL, "<url>"), (_TIME, "<time>"), (_RAW_ID, "id: <event id>")):
            text = pattern.sub(mark, text)
        return _ID.sub(lambda found: self._name(found[0].lower(), key), text)

    def _name(self, found: str, key: str) -> str:
        if found in self._known:
            return found
        if found not in self._names:
            # By the field that it was first met in: one id more shifts no others.
            self._counts[key] = self._counts.get(key, 0) + 1
            self._names[found] = f"<{key} {self._counts[key]}>"
        return self._names[found]
