import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from store.packed import Packed, pack, unpack

SERDE = JsonPlusSerializer()


def encode(message: object) -> bytes:
    return SERDE.dumps_typed([message])[1][1:]


def decode(blob: bytes) -> Any:
    return SERDE.loads_typed(("msgpack", b"\x91" + blob))[0]


def whole(messages: list[Any]) -> bytes:
    return SERDE.dumps_typed(messages)[1]


def said(i: int) -> BaseMessage:
    if i % 3 == 0:
        return HumanMessage(f"question {i}", id=str(i))
    if i % 3 == 1:
        calls: Any = [{"name": "f", "args": {"n": i, "deep": [{"x": 1.5}]}, "id": str(i)}]
        usage: Any = {"input_tokens": i, "output_tokens": 1, "total_tokens": i + 1}
        return AIMessage("a" * (i * 40), id=str(i), tool_calls=calls, usage_metadata=usage)
    return ToolMessage([{"type": "text", "text": "t"}], tool_call_id=str(i), id=str(i))


def packed(messages: list[Any], before: Packed | None = None) -> Packed:
    found = pack(messages, before, encode)
    assert found is not None
    return found


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300, 70_000])
def test_a_packed_list_is_what_the_serialiser_makes_of_it(count: int) -> None:
    messages = [said(i % 300) for i in range(count)]

    assert packed(messages).blob() == whole(messages)


def changed(messages: list[Any], chance: random.Random, step: int) -> list[Any]:
    """The list after some change, or a change in place of some message."""
    place = chance.randrange(len(messages))
    match chance.choice(["append", "append", "remove", "replace", "swap", "edit", "deep"]):
        case "append":
            return [*messages, said(1000 + step)]
        case "remove":
            return [*messages[:place], *messages[place + 1 :], said(2000 + step)]
        case "replace":
            other = HumanMessage("other", id=messages[place].id)
            return [*messages[:place], other, *messages[place + 1 :]]
        case "swap":
            return messages[place:] + messages[:place]
        case "edit":
            messages[place].content = f"edited {step}"
        case _:
            messages[place].additional_kwargs.setdefault("x", []).append({"step": step})
    return messages


def test_after_any_change_a_list_is_packed_as_if_it_were_new() -> None:
    chance = random.Random(1)
    messages: list[Any] = [said(i) for i in range(30)]
    before = packed(messages)
    for step in range(300):
        messages = changed(messages, chance, step)
        before = packed(messages, before)
        assert before.blob() == whole(messages)
        restored = before.restored(decode)
        assert whole(restored.messages) == before.blob()
        if chance.random() < 0.5:
            before, messages = restored, restored.messages


def test_only_what_is_new_is_encoded() -> None:
    encoded: list[Any] = []

    def noting(message: object) -> bytes:
        encoded.append(message)
        return encode(message)

    messages = [said(i) for i in range(50)]
    before = packed(messages)
    new = said(50)

    after = pack([*messages, new], before, noting)

    assert encoded == [new]
    assert after is not None
    assert after.appended == 1


def test_a_message_that_was_changed_in_place_is_restored_from_its_bytes() -> None:
    messages = [said(i) for i in range(6)]
    blob = whole(messages)
    handed = packed(messages).restored(decode)
    handed.messages[1].additional_kwargs["secret"] = 1
    handed.messages[4].tool_calls[0]["args"]["n"] = "changed"
    handed.messages[5].extra_attribute = "x"

    again = handed.restored(decode)

    assert whole(again.messages) == blob
    assert again.messages[4].tool_calls[0]["args"]["n"] == 4


def test_a_change_in_place_is_seen_in_whichever_step_its_message_came() -> None:
    messages = [said(i) for i in range(3)]
    before = packed(messages)
    for i in range(3, 120):
        messages = [*messages, said(i)]
        before = packed(messages, before)

    for message in (*messages[:6], *messages[60:66], *messages[-6:]):
        for change, undo in changes(message):
            assert before.is_unchanged()
            change()
            assert not before.is_unchanged()
            undo()
    assert before.is_unchanged()
    messages[64].content = "".join(["changed", " and equal"])
    again = packed(messages, before)
    messages[64].content = "".join(["changed", " and", " equal"])
    assert again.is_unchanged()


def changes(message: Any) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Ways to change a message in place, and back."""
    content, kwargs, metadata = (
        message.content,
        message.additional_kwargs,
        message.response_metadata,
    )
    yield lambda: setattr(message, "content", "other"), lambda: setattr(message, "content", content)
    yield lambda: setattr(message, "name", "x"), lambda: setattr(message, "name", None)
    yield lambda: kwargs.update(x=1), kwargs.clear
    yield (
        lambda: setattr(message, "response_metadata", {"x": 1}),
        lambda: setattr(message, "response_metadata", metadata),
    )
    yield lambda: setattr(message, "unknown", 1), lambda: delattr(message, "unknown")
    state = message.__dict__
    yield (
        lambda: object.__setattr__(message, "__dict__", {**state, "id": "other"}),
        lambda: object.__setattr__(message, "__dict__", state),
    )
    if isinstance(content, list):
        yield lambda: content[0].update(text="other"), lambda: content[0].update(text="t")
    if isinstance(message, AIMessage):
        args = message.tool_calls[0]["args"]
        yield lambda: args["deep"].append(1), lambda: args["deep"].pop()


def test_messages_in_which_a_change_could_go_unnoticed_extend_no_list() -> None:
    before = packed([said(0)])

    assert (
        before.extended([HumanMessage("x", id="n", additional_kwargs={"set": {1}})], encode) is None
    )
    extended = before.extended([HumanMessage("x", id="n")], encode)

    assert extended is not None
    assert extended.appended == 1


def test_what_a_reader_gets_has_been_through_the_serialiser() -> None:
    restored = packed([HumanMessage("lone \udc80", id="1")]).restored(decode)

    assert restored.messages[0].content == "lone ?"


def test_a_list_is_taken_apart_as_it_was_put_together() -> None:
    messages = [said(i) for i in range(40)]
    loaded = SERDE.loads_typed(("msgpack", whole(messages)))

    found = unpack(whole(messages), loaded)

    assert found is not None
    assert found.blobs == packed(messages).blobs
    assert found.restored(decode) is found


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        ["text"],
        [HumanMessage("x", id="1"), {"role": "user", "content": "x"}],
        [HumanMessage("x", additional_kwargs={"set": {1}})],
        [HumanMessage("x", additional_kwargs={"tuple": (1, [])})],
        [HumanMessage("x", unknown="attribute")],
    ],
)
def test_what_could_change_unnoticed_is_not_packed(value: Any) -> None:
    assert pack(value, None, encode) is None
    if isinstance(value, list):
        assert unpack(whole(value), value) is None


def test_ids_that_are_not_new_are_no_addition() -> None:
    messages = [said(i) for i in range(3)]
    before = packed(messages)

    for more in ([HumanMessage("x", id="1")], [HumanMessage("x")], [said(7), said(7)]):
        after = packed([*messages, *more], before)
        assert after.appended is None
