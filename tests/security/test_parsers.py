"""What reads a text of a stranger's gives a value or one of our errors, whatever the text is."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as some

from api.http.bodies import parse
from api.http.jsonrpc import RpcError, parse as parse_call
from api.schemas.events import before
from api.schemas.sessions import encode_cursor, message_cursor, search_cursor, session_cursor
from graph.config import load_config
from graph.guard import UrlRules, parse as parse_url
from graph.json_paths import at
from store.errors import Error
from store.rings import parse_event_id

CURSORS = [session_cursor, message_cursor, search_cursor, before]
VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**63)
    | some.floats()
    | some.text(max_size=40),
    lambda inner: (
        some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
OFTEN = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
#: The keys of langgraph.json, so that what is below them is reached.
SECTIONS = some.sampled_from(
    ["graphs", "env", "dependencies", "auth", "http", "store", "checkpointer", "webhooks", "ui",
     "encryption", "python_version", "api_version", "image_distro", "base_image", "pip_installer"]
)  # fmt: skip


def _reads(read: Any, *told: Any) -> Any:
    try:
        return read(*told)
    except (Error, RpcError):
        return None


@OFTEN
@given(some.text(max_size=200) | some.builds(encode_cursor, VALUES, VALUES, VALUES))
def test_a_cursor_is_a_place_or_refused(text: str) -> None:
    for read in CURSORS:
        _reads(read, text)


@OFTEN
@given(some.text(max_size=60) | some.from_regex(r"-?[0-9]{0,30}-?-?[0-9]{0,30}", fullmatch=True))
def test_an_id_of_an_event_is_one_or_refused(text: str) -> None:
    found = _reads(parse_event_id, text)

    # What is let through fits into what Redis and PostgreSQL count with.
    assert found is None or all(-1 <= part < 2**63 for part in found)


@OFTEN
@given(some.binary(max_size=300) | some.builds(lambda value: json.dumps(value).encode(), VALUES))
def test_a_body_is_json_or_refused(raw: bytes) -> None:
    _reads(parse, raw)
    _reads(parse_call, raw)


@OFTEN
@given(VALUES, some.text(max_size=60) | some.from_regex(r"[a-c]?(\.[a-c]|\[-?[0-9]+\]){0,9}"))
def test_a_path_leads_somewhere_or_nowhere(value: Any, path: str) -> None:
    at(value, path)


@OFTEN
@given(some.text(max_size=80) | some.from_regex(r"https?://[\[\]0-9a-fx.:@%/?#\\ ]{0,60}"))
def test_a_url_is_one_or_refused(url: str) -> None:
    _reads(parse_url, url, UrlRules())


@settings(OFTEN, max_examples=200)
@given(
    some.dictionaries(SECTIONS, VALUES, max_size=4).map(json.dumps) | some.text(max_size=60),
)
def test_a_langgraph_json_is_read_or_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "langgraph.json"
    file.write_text(text, errors="replace")

    _reads(load_config, file)


def test_what_is_read_is_what_was_meant() -> None:
    assert parse_event_id("5-7") == parse_event_id("05-07")
    with pytest.raises(Error):
        parse_event_id("5")
