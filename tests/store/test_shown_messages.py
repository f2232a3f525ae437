"""Messages told from their bytes are in JSON what they are when they are decoded."""

import json
from collections.abc import Iterator
from typing import Any

import ormsgpack
import pytest
from hypothesis import given, settings, strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2, JsonPlusSerializer

from graph.encode import dumps
from store.shown_messages import _CLASSES, shown_messages

SERDE = JsonPlusSerializer()
CALL: Any = {"name": "f", "args": {"n": 1, "deep": [{"x": 1.5}]}, "id": "c", "type": "tool_call"}
USAGE: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
DETAILS: Any = {
    "input_token_details": {"audio": 1, "cache_read": 2},
    "output_token_details": {"reasoning": 3},
}
SAID: list[AnyMessage] = [
    HumanMessage("question", id="1", name="ada", response_metadata={"é": [1, None, "\ud7ff"]}),
    HumanMessage([{"type": "text", "text": "t"}, "u"]),
    SystemMessage("be short"),
    AIMessage("answer", id="2", usage_metadata={**USAGE, **DETAILS}),
    AIMessage("", tool_calls=[CALL], additional_kwargs={"refusal": None}, usage_metadata=USAGE),
    ToolMessage("found", tool_call_id="c", artifact={"rows": [1]}, status="error"),
]
#: Whose classes make something else of some attributes, or that have values with classes of their own.
ODD: list[Any] = [
    AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "c", "error": "e"}]),
    AIMessage(
        "", additional_kwargs={"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    ),
    AIMessageChunk(content="part"),
    RemoveMessage(id="1"),
    HumanMessage("more", extra=1),
    HumanMessage("set", additional_kwargs={"seen": {1, 2}}),
    {"role": "user", "content": "a dict"},
    "text",
    None,
]
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from(["", "a", "ai", "tool_call", 1.5])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(
        st.sampled_from([*USAGE, *DETAILS, *CALL, "audio", "reasoning", "tool_calls", "b"]), inner, max_size=3
    )),
    max_leaves=5,
)  # fmt: skip


def in_json(value: Any) -> Any:
    return json.loads(dumps(value))


def bytes_of(value: Any) -> bytes:
    return SERDE.dumps_typed(value)[1]


@pytest.mark.parametrize("count", [0, 1, 6, 20, 70_000])
def test_messages_of_a_list_are_in_json_as_if_they_were_decoded(count: int) -> None:
    said = (SAID * (1 + count // len(SAID)))[:count]

    shown = shown_messages(bytes_of(said))

    assert shown is not None
    assert dumps(shown) == dumps(said)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_list_with_anything_odd_is_left_to_be_decoded(odd: Any) -> None:
    assert shown_messages(bytes_of([*SAID, odd])) is None
    assert shown_messages(bytes_of([odd, *SAID])) is None


@pytest.mark.parametrize("value", [SAID[0], {"messages": SAID}, tuple(SAID), "a", 1, None])
def test_what_is_no_list_is_left_to_be_decoded(value: Any) -> None:
    shown = shown_messages(bytes_of(value))

    assert shown is None or in_json(shown) == in_json(
        SERDE.loads_typed(("msgpack", bytes_of(value)))
    )
    assert shown_messages(b"") is None
    assert shown_messages(bytes_of(SAID)[:-1]) is None


def _changed() -> Iterator[Any]:
    """Of each class one with anything in place of one attribute."""
    for said in SAID:
        for name in type(said).model_fields:
            yield st.tuples(st.just(said), st.just(name), ANYTHING)


@settings(max_examples=300, deadline=None)
@given(st.one_of(*_changed()))
def test_of_any_attributes_the_same_is_told_as_if_the_message_was_decoded(
    changed: tuple[AnyMessage, str, Any],
) -> None:
    """Whoever changed a message in place after it was made."""
    said, name, value = changed
    kept = [
        type(said).__module__, type(said).__name__, {**said.model_dump(), name: value}, "model_validate_json"
    ]  # fmt: skip
    option = ormsgpack.OPT_NON_STR_KEYS
    blob = ormsgpack.packb(
        [ormsgpack.Ext(EXT_PYDANTIC_V2, ormsgpack.packb(kept, option=option))], option=option
    )

    shown = shown_messages(blob)

    assert shown is None or in_json(shown) == in_json(SERDE.loads_typed(("msgpack", blob)))


def test_all_classes_that_are_told_without_being_made_are_plain_when_they_are_encoded() -> None:
    assert {(type(said).__module__, type(said).__name__) for said in SAID} == _CLASSES.keys()
