from typing import Any

import orjson
import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.errors import GraphRecursionError, InvalidUpdateError
from pydantic import BaseModel, ValidationError

from graph.encode import dumps, error_event, error_payload
from store.errors import UnavailableError
from tests.graph.sample_graphs import THINGS, Label

# What the reference answers, but for the last five: those are null there, or fail the run.
AS_THE_REFERENCE = {
    "pydantic": b'{"text":"x","colour":"red"}',
    "dataclass": b'{"size":1,"made_at":"2026-01-02T03:04:05.000600+00:00"}',
    "named tuple": b'{"x":1,"y":2}',
    "set": b"[1]",
    "frozen set": b'["a"]',
    "bytes": b'"AP9hYmM="',
    "exception": b'{"error":"ValueError","message":"(\'bad\', 1)"}',
    "enum": b'"red"',
    "naive time": b'"2026-01-02T03:04:05"',
    "date": b'"2026-01-02"',
    "time delta": b"90.5",
    "decimal": b"1.5",
    "uuid": b'"00000000-0000-0000-0000-000000000007"',
    "float": b"[null,null,1e+300,0.1]",
    "surrogate": b'"a?b"',
    "nul": b'"a\\ufffdb"',
    "class": b"null",
    "function": b"null",
    "object": b"null",
    "message": b'{"content":"hi","additional_kwargs":{},"response_metadata":{},'
    b'"type":"human","name":null,"id":"h"}',
    "send": b'{"node":"node","args":{"a":1}}',
    "command": b'{"graph":null,"update":{"a":1},"resume":null,"goto":"x"}',
    "complex": b"null",
    "generator": b"null",
    "path": b'"a/b"',
    "keys": b'{"1":"int","null":"none","(1, 2)":"tuple","red":"enum"}',
    "big": b"1180591620717411303424",
}


def test_every_thing_a_node_may_return_is_tested() -> None:
    assert AS_THE_REFERENCE.keys() == THINGS.keys()


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_is_encoded_as_the_reference_does(name: str) -> None:
    assert dumps(THINGS[name]) == AS_THE_REFERENCE[name]


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_is_encoded_the_same_beside_one_that_needs_the_slow_way(name: str) -> None:
    if name != "generator":
        assert dumps([2**70, THINGS[name]]) == b"[%d,%b]" % (2**70, AS_THE_REFERENCE[name])


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("x"),
        SystemMessage("x"),
        AIMessage("x", tool_calls=[{"name": "f", "args": {"a": Label(text="t")}, "id": "1"}]),
        AIMessageChunk(content="x", chunk_position="last"),
        ToolMessage("x", tool_call_id="1", artifact={"b": b"\x00"}),
        HumanMessage("x", extra="more"),
    ],
)
def test_a_message_is_encoded_as_its_own_dump(message: AnyMessage) -> None:
    assert dumps(message) == dumps(message.model_dump())


def test_a_backslash_and_the_word_u0000_stay_what_the_user_wrote() -> None:
    text = "\\u0000 and \\\\u0000 but \x00\x00 and \\\x00"
    assert orjson.loads(dumps(text)) == text.replace("\x00", "\ufffd")


def test_cycles_and_depth_end_in_null() -> None:
    cycle: list[Any] = [1]
    cycle += [cycle, cycle]
    assert dumps(cycle) == b"[1,null,null]"
    deep: Any = 1
    for _ in range(5000):
        deep = {"in": deep}
    assert dumps(deep).endswith(b'{"in":null' + b"}" * 100)


def test_a_conversion_that_fails_costs_only_its_value() -> None:
    class Broken(BaseModel):
        def model_dump(self, **_: Any) -> dict[str, Any]:
            raise OSError("no disk")

    assert dumps({"broken": Broken(), "fine": [1, (2,)]}) == b'{"broken":null,"fine":[1,[2]]}'


class HouseError(Exception):
    pass


class OwnValueError(ValueError):
    pass


def _validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        Label(text=1)  # type: ignore[arg-type]
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        ValueError("m"),
        OwnValueError("m"),
        TypeError("m"),
        AttributeError("m"),
        RuntimeError("m"),
        NotImplementedError("m"),
        TimeoutError("m"),
        InvalidUpdateError("m"),
        GraphRecursionError("m"),
        UnavailableError("m"),
        _validation_error(),
    ],
)
def test_a_message_meant_to_be_read_is_shown(error: Exception) -> None:
    assert error_payload(error) == {"error": type(error).__name__, "message": str(error)}


@pytest.mark.parametrize(
    "error",
    [HouseError("s"), OSError("s"), IndexError("s"), ImportError("s"), AssertionError("s")],
)
def test_the_message_of_any_other_error_is_not_shown(error: Exception) -> None:
    shown = {"error": type(error).__name__, "message": "An internal error occurred"}
    assert error_payload(error) == shown
    assert dumps([error]) == dumps([shown])


def test_an_error_event_tells_the_first_of_a_group() -> None:
    group = ExceptionGroup("m", [ExceptionGroup("n", [KeyError("k")]), OSError("s")])
    assert error_event(group) == b'{"error":"KeyError","message":"\'k\'"}'
