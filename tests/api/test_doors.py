"""What doors make of conversations and events that no client can be made to send or to meet."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest

from api import submissions
from api.bootstrap import Services
from api.doors import conversation
from api.doors.agui import AgentEvents, RunAgentInput, _delta
from api.doors.ai_sdk import UIMessageStream
from api.doors.history import Step, Turn, kept, reconcile, sent
from api.doors.openai_chat import ChatAnswer
from api.doors.openai_responses import ResponseAnswer, ResponseCreate
from api.doors.spoken import Door
from api.session_events import Part, SessionReader
from api.sessions import once
from api.settings import Settings
from graph.runs import Submitted
from store import threads
from store.access import EVERYTHING
from store.errors import ThreadBusyError
from store.events import Event
from store.models import JsonObject, Message, Run
from tests.api import auths

#: Its state has more than messages.
FINDS = {"finds": "tests.acceptance.graphs:finds"}
NOW = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    config = json.loads(settings.config.read_text())
    settings.config.write_text(json.dumps({"graphs": {**config["graphs"], **FINDS}}))
    return settings


def row(role: str, content: str, id_: str, kind: str = "text") -> Message:
    return Message(
        id=id_, conversation_id="c", seq=0, role=role, content=content, message_type=kind,
        meta_data={}, run_id=None, in_context=True, on_branch=True, create_time=NOW, update_time=NOW,
    )  # fmt: skip


def told(*texts: str) -> list[Turn]:
    """What a client sends: the user's words, the assistant's, and so on."""
    roles = ("user", "assistant")
    return sent({"role": roles[n % 2], "content": text} for n, text in enumerate(texts))


KEPT = kept(
    [
        row("user", "one", "u1"),
        row("assistant", "Let me see.", "a1"),
        row("tool", "42", "t1"),
        row("assistant", "It is 42.", "a2"),
        row("user", "two", "u2"),
        row("assistant", "zwei", "a3"),
    ]
)
ONE = "Let me see.\n\nIt is 42."


def texts(step: Step) -> list[str]:
    return [message["content"] for message in step.new]


@pytest.mark.parametrize(
    ("conversation", "new", "place"),
    [
        (("one", ONE, "two", "zwei", "three"), ["three"], "head"),
        (("one", " Let me see. It is 42. ", "two", "zwei", "three"), ["three"], "head"),
        (("one", ONE, "two"), [], "u2"),
        (("one",), [], "u1"),
        (("one", ONE, "deux"), ["deux"], "a2"),
        (("one", "cut", "deux"), ["cut", "deux"], "u1"),
        (("eins",), ["eins"], None),
        (("two", "zwei", "three"), ["three"], "head"),
        (("other", "zwei", "three"), ["other", "zwei", "three"], None),
        # Answers that failed, or were stopped, before their first word.
        (("one", "", "two", "zwei", "three"), ["two", "zwei", "three"], "u1"),
        (("one", ONE, "two", " ", "three"), ["three"], "u2"),
    ],
)
def test_what_a_client_says_is_placed_where_it_belongs(
    conversation: tuple[str, ...], new: list[str], place: str | None
) -> None:
    step = reconcile(KEPT, told(*conversation))

    assert (texts(step), "head" if step.at_head else step.after) == (new, place)
    assert step.again == (new == [])


def test_a_session_without_messages_takes_all_and_a_client_of_sessions_sends_one() -> None:
    assert reconcile([], told("one", "eins", "two")).at_head
    assert len(reconcile([], told("one", "eins", "two")).new) == 3
    alone = reconcile(KEPT, told("one"), alone=True)
    assert (texts(alone), alone.at_head, alone.again) == (["one"], True, False)


@pytest.mark.parametrize("nothing", ["", " \n", [], [{"type": "text", "text": ""}]])
def test_an_answer_that_never_came_is_nothing_that_was_said(nothing: Any) -> None:
    known = kept(
        [row("user", "one", "u1"), row("user", "two", "u2"), row("assistant", "zwei", "a")]
    )
    failed = {"role": "assistant", "content": nothing}
    image = {"role": "assistant", "content": [{"type": "image", "url": "https://example.com/i"}]}
    one, two, three = ({"role": "user", "content": text} for text in ("one", "two", "three"))
    answer = {"role": "assistant", "content": "zwei"}

    assert reconcile(known, sent([one, failed, two, failed, answer, three])) == Step(
        [three], at_head=True
    )
    assert reconcile(known[:1], sent([one, failed, two])) == Step([two], at_head=True)
    assert reconcile([], sent([one, image, failed, two])).new == [one, image, two]


def test_answers_in_a_row_are_one_answer() -> None:
    parts = [{"role": "assistant", "content": text} for text in ("Let me see.", "", "It is 42.")]
    asked = [{"role": "user", "content": text} for text in ("one", "two", "zwei!")]

    step = reconcile(KEPT, sent([asked[0], *parts, asked[1]]))

    assert (step.again, step.after) == (True, "u2")


def test_the_end_of_a_long_conversation_is_found_in_one_pass() -> None:
    compared = 0

    class Key(tuple[Any, ...]):
        __slots__ = ()
        __hash__ = tuple.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return tuple.__eq__(self, other) is True

        def __ne__(self, other: object) -> bool:
            return not self == other

    def turns(words: str) -> list[Turn]:
        return [
            Turn(Key(("user", False, w.encode())), f"{n}", {"content": w})
            for n, w in enumerate(words)
        ]

    count = 10_000
    step = reconcile(turns("B" + "A" * (count - 2) + "X"), turns("A" * (count - 1) + "C"))
    assert (step.at_head, step.after, len(step.new)) == (False, None, count)
    assert compared < 10 * count

    assert texts(reconcile(turns("BAABAAB"), turns("AABX"))) == ["X"]
    assert texts(reconcile(turns("BAAA"), turns("AAAAAX"))) == ["A", "A", "X"]


def test_an_image_is_not_the_same_as_its_words() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    asked = sent([{"role": "user", "content": [{"type": "text", "text": "look"}, image]}])

    assert reconcile(kept([row("user", "look", "u")]), asked).again is False
    assert reconcile(kept([row("user", "look", "u", "image")]), asked).again is True


def test_a_call_that_waits_for_its_approval_is_nothing_that_a_client_knows() -> None:
    known = kept([row("user", "go", "u"), row("assistant", "", "a")])

    assert reconcile(known, told("go", "Go on?", "yes")).at_head


# --------------------------------------------------------------------- events


@dataclass
class Told:
    """What a door sends of a run that is made up."""

    door: Door
    frames: list[Any] = field(default_factory=list)

    def tell(self, *parts: Part) -> "Told":
        for text in self.door.encoded(parts, "1-1").decode().strip().split("\n\n"):
            data = text.rpartition("data: ")[2]
            if data:
                self.frames.append(data if data == "[DONE]" else json.loads(data))
        return self

    def types(self) -> list[str]:
        return [frame["type"] for frame in self.frames if isinstance(frame, dict)]


RUN = Run(
    run_id="r", thread_id="t", assistant_id="a", status="running", multitask_strategy="reject",
    metadata={}, kwargs={"config": {"configurable": {"graph_id": "chat"}}, "command": None},
    attempt=1, first_epoch=1, log_epoch=1, temporary=False, error=None, created_at=NOW,
    updated_at=NOW,
)  # fmt: skip
SUBMITTED = Submitted(RUN, None)
NONE = cast("Services", None)
START: Part = ("run.start", {"run_id": "r", "session_id": "t"})
END: Part = ("run.end", {"run_id": "r", "status": "success"})
GAP: Part = ("gap", {"run_id": "r"})
INPUT: Any = {"threadId": "t", "runId": "r", "messages": []}


def delta(text: str, message_id: str = "m") -> Part:
    return "message.delta", {"message_id": message_id, "delta": text}


def whole(text: str, message_id: str = "m", **more: Any) -> Part:
    return "message.end", {"message_id": message_id, "content": text, **more}


def chat() -> Told:
    return Told(ChatAnswer(NONE, SUBMITTED, model="chat"))


def agent() -> Told:
    return Told(AgentEvents(NONE, SUBMITTED, RunAgentInput.model_validate(INPUT)))


def test_after_a_gap_only_what_is_missing_is_said() -> None:
    told = (START, delta("Hel"), GAP, whole("Hello there"), whole("Hello there"), END)
    chunks = chat().tell(*told).frames
    ui = Told(UIMessageStream(NONE, SUBMITTED)).tell(*told)
    events = agent().tell(*told)

    said = [c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]]
    assert "".join(said) == "Hello there"
    assert chunks[-1] == "[DONE]"
    deltas = [f["delta"] for f in ui.frames if isinstance(f, dict) and f["type"] == "text-delta"]
    assert deltas == ["Hel", "lo there"]
    assert events.types()[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]


def test_another_attempt_begins_the_answer_again_in_a_message_of_its_own() -> None:
    told = (START, delta("Hel", "m1"), START, delta("Hello", "m2"), whole("Hello", "m2"), END)
    chunks = chat().tell(*told).frames
    events = agent().tell(*told)
    responses = Told(ResponseAnswer(NONE, SUBMITTED)).tell(*told)

    said = [c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]]
    assert "".join(said) == "Hel\n\nHello"
    assert events.types().count("RUN_STARTED") == 1
    assert events.types().count("TEXT_MESSAGE_END") == 2
    output = responses.frames[-1]["response"]["output"]
    assert [(item["status"], item["content"][0]["text"]) for item in output] == [
        ("incomplete", "Hel"), ("completed", "Hello"),
    ]  # fmt: skip


class Over(ChatAnswer):
    """One whose run is over, and was told."""

    async def frames(self) -> AsyncGenerator[bytes, None]:
        more: list[bytes] = []
        for frame in more:
            yield frame


async def test_a_whole_completion_has_what_is_kept_and_no_beginnings_that_were_lost() -> None:
    asks: Part = ("interrupt", {"id": "i", "value": "Sure?"})
    stopped: Part = ("run.end", {"run_id": "r", "status": "interrupted"})
    step = whole("Let me see.", "m1")
    for told, content in (
        ((delta("Hel", "m1"), START, delta("Hello", "m2"), whole("Hello", "m2"), END), "Hello"),
        # The node was tried again, or another model was asked.
        ((step, delta("Hel", "m2"), delta("Hello", "m3"), whole("Hello", "m3"), END),
         "Let me see.\n\nHello"),
        ((delta("a", "m1"), delta("b", "m2"), delta("a", "m1"), whole("aa", "m1"),
          whole("b", "m2"), END), "aa\n\nb"),
        # A graph that keeps no messages.
        ((delta("Hel", "m1"), START, delta("Hello", "m2"), END), "Hello"),
        ((whole("", "m1"), delta("Hel", "m2"), delta("lo", "m2"), END), "Hello"),
        # Stopped.
        ((step, delta("Hel", "m2"), START, delta("He", "m3"), stopped), "Let me see.\n\nHe"),
        ((step, asks, stopped), "Let me see.\n\nSure?"),
    ):  # fmt: skip
        answer = Over(NONE, SUBMITTED, model="chat")
        Told(answer).tell(START, *told)
        assert (await answer.whole())["choices"][0]["message"]["content"] == content


def test_a_node_that_returns_several_updates_tells_of_all_of_them() -> None:
    answer = {"type": "ai", "id": "m", "content": "Hello"}
    tool = {"type": "tool", "id": "t", "tool_call_id": "c", "name": "add", "content": "5"}
    updates = {"tools": [{"messages": [tool]}, None, {"messages": answer}, {"seen": 1}]}
    event = Event(1, 1, "r", "updates", json.dumps(updates).encode())

    assert [name for name, _ in SessionReader("t").read(event)] == ["tool.end", "message.end"]


def test_a_response_whose_log_is_lost_ends_all_the_same() -> None:
    answer = Told(ResponseAnswer(NONE, SUBMITTED, after=40))

    answer.tell(GAP, whole("Hello", usage={"input_tokens": 1, "output_tokens": 2}), END)

    assert answer.types()[-1] == "response.completed"
    assert [frame["sequence_number"] for frame in answer.frames] == list(
        range(41, 41 + len(answer.frames))
    )
    assert answer.frames[-1]["response"]["usage"]["total_tokens"] == 3


def test_what_a_model_thinks_is_told_beside_what_it_says() -> None:
    chunk: dict[str, Any] = {"type": "AIMessageChunk", "id": "m"}
    content = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Hi"}]
    more = {"content": "", "additional_kwargs": {"reasoning_content": "so"}}
    parts = [
        part
        for message in ({**chunk, "content": content}, {**chunk, **more})
        for part in SessionReader("t").read(
            Event(1, 1, "r", "messages", json.dumps([message, {}]).encode())
        )
    ]

    assert [name for name, _ in parts] == ["reasoning.delta", "message.delta", "reasoning.delta"]
    told = (START, *parts, whole("Hi"), END)
    thought = [
        c["choices"][0]["delta"].get("reasoning_content") for c in chat().tell(*told).frames[:-1]
    ]
    assert [text for text in thought if text] == ["hm", "so"]


def thought(text: str, message_id: str = "m") -> Part:
    return "reasoning.delta", {"message_id": message_id, "delta": text}


def test_what_a_model_thinks_is_one_part_until_it_speaks_calls_a_tool_or_ends() -> None:
    call = {"message_id": "m1", "call_id": "c", "name": "add", "args": {}}
    told = (
        START, thought("h", "m1"), thought("m", "m1"), ("tool.start", call),
        thought("s"), thought("o"), delta("Hi"), delta("!"), thought("more"), delta("?"),
        whole("Hi!?"), thought("left", "m2"), END,
    )  # fmt: skip
    ui = Told(UIMessageStream(NONE, SUBMITTED)).tell(*told).types()
    events = agent().tell(*told).types()

    thinks = ["reasoning-start", "reasoning-delta", "reasoning-delta", "reasoning-end"]
    assert ui[1:] == [
        "start-step", *thinks, "tool-input-available", *thinks,
        "text-start", "text-delta", "text-delta", "reasoning-start", "reasoning-delta",
        "reasoning-end", "text-delta", "text-end", "finish-step", "start-step",
        "reasoning-start", "reasoning-delta", "reasoning-end", "finish-step", "finish",
    ]  # fmt: skip
    begins, says, ends = (
        ["REASONING_START", "REASONING_MESSAGE_START"],
        "REASONING_MESSAGE_CONTENT",
        ["REASONING_MESSAGE_END", "REASONING_END"],
    )
    assert [name for name in events if name.startswith(("REASONING", "TEXT", "TOOL_CALL_START"))] == [
        *begins, says, says, *ends, "TOOL_CALL_START", *begins, says, says, *ends,
        "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", *begins, says, *ends,
        "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", *begins, says, *ends,
    ]  # fmt: skip


def test_a_response_has_what_a_model_thinks_as_items_ahead_of_what_it_says() -> None:
    call = {"message_id": "m1", "call_id": "c", "name": "add", "args": {}}
    told = Told(ResponseAnswer(NONE, SUBMITTED)).tell(
        START, thought("h", "m1"), thought("m", "m1"), ("tool.start", call), thought("so"),
        delta("Hi"), thought("more"), whole("Hi"), thought("left", "m2"), END,
    )  # fmt: skip

    thinks = [
        "output_item.added", "content_part.added", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
    ]  # fmt: skip
    twice = [*thinks[:3], *thinks[2:]]
    calls = ["output_item.added", "function_call_arguments.done", "output_item.done"]
    says = ["output_item.added", "content_part.added", "output_text.delta"]
    said = ["output_text.done", "content_part.done", "output_item.done"]
    assert [name.removeprefix("response.") for name in told.types()] == [
        "created", "in_progress", *twice, *calls, *thinks, *says, *thinks, *said, *thinks,
        "completed",
    ]  # fmt: skip
    output = told.frames[-1]["response"]["output"]
    assert [(item["type"], item["status"]) for item in output] == [
        ("reasoning", "completed"), ("function_call", "completed"), ("reasoning", "completed"),
        ("message", "completed"), ("reasoning", "completed"), ("reasoning", "incomplete"),
    ]  # fmt: skip
    texts = [item["content"][0]["text"] for item in output if item["type"] == "reasoning"]
    assert texts == ["hm", "so", "more", "left"]
    assert len({item["id"] for item in output}) == len(output)
    # A client that keeps its own history sends all of it back.
    sent_back = ResponseCreate.model_validate({"input": [*output[2:5], INPUT_ITEM]})
    assert sent_back.messages() == [
        {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "and?"},
    ]  # fmt: skip


INPUT_ITEM = {"role": "user", "content": "and?"}


def test_an_answer_of_a_response_is_annotated_with_what_it_goes_by() -> None:
    page = {"id": "1-1-0", "title": "Rivers", "url": "https://example.com/r", "content": "x"}
    note = {"id": "n1", "title": None, "url": None, "content": "y"}
    told = Told(ResponseAnswer(NONE, SUBMITTED)).tell(
        START, ("source", {"documents": [page]}), delta("Do"), ("source", {"documents": [note]}),
        whole("Down"), whole("More", "m2"), END,
    )  # fmt: skip

    annotations = [
        {"type": "url_citation", "url": page["url"], "title": "Rivers", "start_index": 0,
         "end_index": 4},
        {"type": "file_citation", "file_id": "n1", "filename": "", "index": 4},
    ]  # fmt: skip
    added = [f for f in told.frames if f["type"] == "response.output_text.annotation.added"]
    assert [(f["annotation_index"], f["annotation"]) for f in added] == [*enumerate(annotations)]
    first, second = told.frames[-1]["response"]["output"]
    assert first["content"][0]["annotations"] == annotations
    assert second["content"][0]["annotations"] == []


def test_what_is_open_ends_with_its_step() -> None:
    told = (
        START,
        delta("Hel", "m1"),
        whole("One", "m2"),
        delta("Two", "m3"),
        delta("lo", "m1"),
        END,
    )
    ui = Told(UIMessageStream(NONE, SUBMITTED)).tell(*told)

    # The client forgets with a step what is open in it, and takes no more of that.
    opened: set[str] = set()
    for chunk in (chunk for chunk in ui.frames if isinstance(chunk, dict)):
        if chunk["type"] == "text-start":
            opened.add(chunk["id"])
        assert not chunk["type"].startswith("text-") or chunk["id"] in opened
        if chunk["type"] == "text-end":
            opened.remove(chunk["id"])
        assert chunk["type"] != "finish-step" or not opened


async def test_bad_input_makes_no_session(http: httpx.AsyncClient) -> None:
    said = [{"role": "user", "content": "x"}]
    missing = "00000000-0000-4000-8000-00000000dead"
    for body in (
        {"model": "nothing", "messages": said},
        {"model": missing, "messages": said},
        {"model": "chat", "messages": [{"role": "assistant", "content": "x"}]},
        {"model": "chat", "messages": said, "conversation_id": "x" * 256},
    ):
        answer = await http.post("/v1/chat/completions", json={"conversation_id": "named", **body})
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["error"]["message"]

    assert (await http.get("/api/sessions")).json()["data"] == []


async def test_a_file_or_an_answer_that_is_refused_makes_no_session(
    http: httpx.AsyncClient, services: Services
) -> None:
    new = str(uuid4())
    odd, broken = (f"data:image/gif;base64,{text}" for text in ("AAEC", "?"))
    image = {"type": "image_url", "image_url": {"url": odd}}
    part = {"type": "file", "mediaType": "image/gif", "url": broken}
    item = {"role": "user", "content": [{"type": "input_image", "image_url": odd}]}
    source = {"type": "data", "value": "?", "mimeType": "image/gif"}
    said = {"id": "m", "role": "user", "content": [{"type": "image", "source": source}]}
    agents = {"threadId": new, "runId": "r", "messages": [said]}
    resume = [{"interruptId": "i", "status": "resolved", "payload": 1}]
    refused = [
        await http.post(path, json=body)
        for path, body in (
            ("/v1/chat/completions", {
                "model": "chat", "conversation_id": new,
                "messages": [{"role": "user", "content": [image]}],
            }),
            ("/api/ai/chat", {"id": new, "messages": [{"id": "m", "role": "user", "parts": [part]}]}),
            ("/agui", agents),
            ("/agui", {**agents, "messages": [], "resume": resume}),
            ("/v1/responses", {"model": "chat", "input": [item]}),
            ("/v1/conversations", {"items": [item]}),
        )
    ]  # fmt: skip

    assert [answer.status_code for answer in refused] == [415, 422, 422, 404, 415, 415]
    assert await services.db.tuples("SELECT FROM thread", {}) == []
    assert await services.db.tuples("SELECT FROM outbox", {}) == []


class TestOfFewFiles:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"limit_files": 1})

    async def test_those_that_are_too_many_make_no_session(
        self, http: httpx.AsyncClient, services: Services
    ) -> None:
        image = {"type": "input_image", "image_url": "data:image/gif;base64,R0lGODlh"}
        asked = [
            {"input": [{"role": "user", "content": [image] * count}], "model": "chat"}
            for count in (2, 1)
        ]
        refused, taken = [await http.post("/v1/responses", json=body) for body in asked]

        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "quota_exceeded")
        assert taken.status_code == 200, taken.text
        assert len(await services.db.tuples("SELECT FROM thread", {})) == 1


class TestOfRunsThatAreRefused:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        config = json.loads(settings.config.read_text())
        config["auth"] = {"path": "tests.api.auths:auth"}
        settings.config.write_text(json.dumps(config))
        return settings.model_copy(
            update={
                "compat": ("chatchat",),
                # What is taken in waits.
                "slots": 0,
                "limit_queued_runs": 1,
                "limit_queued_runs_in_all": 2,
            }
        )

    async def test_a_first_message_makes_no_session_unless_its_run_is_taken_in(
        self, http: httpx.AsyncClient, services: Services
    ) -> None:
        async def kept() -> Any:
            tables = ("thread", "outbox", "run", "idempotency_key", "file")
            counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
            return await services.db.tuples(f"SELECT {counts}", {})

        async def refused(who: str, status: int) -> None:
            headers = {"authorization": f"Bearer {who}", **KEY}
            before = await kept()
            for path, body in first_messages():
                answer = await http.post(path, json=body, headers=headers)
                assert answer.status_code == status, (who, path, answer.text)
                assert await kept() == before, (who, path)

        async def waits(who: str) -> None:
            headers = {"authorization": f"Bearer {who}"}
            answer = await http.post("/runs", json={"assistant_id": "chat"}, headers=headers)
            assert answer.status_code == 200, answer.text

        await refused("but:create_run", 403)
        await refused("but:create", 403)
        # Their own sessions are none that they see.
        await refused('filter:{"of": "nobody"}', 404)
        await waits("ada")
        await refused("ada", 429)
        await waits("eve")
        await waits("bob")
        await refused("dan", 503)

    async def test_what_handlers_change_of_a_first_message_they_change_once(
        self, http: httpx.AsyncClient, services: Services
    ) -> None:
        asked = {"model": "chat", "input": "x", "background": True}
        headers = {"authorization": "Bearer says:!"}
        answer = await http.post("/v1/responses", json=asked, headers=headers)
        [(kwargs,)] = await services.db.tuples("SELECT kwargs FROM run", {})

        assert answer.status_code == 200, answer.text
        assert kwargs["input"]["messages"][-1]["content"] == "x!"

    async def test_nor_does_a_conversation_that_cannot_begin_with_its_items(
        self, http: httpx.AsyncClient, services: Services
    ) -> None:
        items = [{"role": "user", "content": "x"}]

        async def make(who: str, **metadata: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {who}"}
            body = {"items": items, "metadata": metadata}
            return await http.post("/v1/conversations", json=body, headers=headers)

        mute = await make("but:update")
        blind = await make('filter:{"of": "nobody"}')
        # Its graph has no messages.
        silent = await make("ada", graph_id="steps")
        unknown = await make("ada", graph_id="nothing")
        assert [a.status_code for a in (mute, blind, silent, unknown)] == [403, 404, 400, 404]
        assert await services.db.tuples("SELECT FROM thread", {}) == []

        made = await make("ada")
        assert made.status_code == 200, made.text


class TestOfHandlers:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        config = json.loads(settings.config.read_text())
        config["auth"] = {"path": "tests.api.auths:auth"}
        settings.config.write_text(json.dumps(config))
        return settings.model_copy(update={"compat": ("chatchat",)})

    async def test_what_something_is_made_for_is_asked_of_them_once(
        self, http: httpx.AsyncClient, services: Services
    ) -> None:
        async def post(path: str, body: dict[str, Any]) -> None:
            auths.SEEN.clear()
            answer = await http.post(path, json=body, headers=headers)
            assert answer.status_code == 200, (path, answer.text)

        async def are_known() -> None:
            """The run that they were asked about is the one that there is."""
            asked = {
                seen["value"]["run_id"] for seen in auths.SEEN if seen.get("action") == "create_run"
            }
            rows = await services.db.tuples(
                "SELECT run_id::text FROM run WHERE run_id = ANY(%(ids)s::uuid[])",
                {"ids": [*asked]},
            )
            assert len(asked) == len(rows) == 1

        headers = {"authorization": "Bearer once:"}
        for number, (path, body) in enumerate(first_messages()):
            headers["idempotency-key"] = str(number)
            await post(path, body)
            await are_known()
        del headers["idempotency-key"]
        made = await services.db.tuples(
            "SELECT t.thread_id, count(r.run_id) FROM thread t LEFT JOIN run r USING (thread_id)"
            " GROUP BY t.thread_id",
            {},
        )
        # The state from which another first message goes on is made for it too.
        session_id = made[0][0]
        keep = {"thread_ids": [session_id], "strategy": "keep_latest"}
        assert (await http.post("/threads/prune", json=keep, headers=headers)).status_code == 200
        path = f"/api/sessions/{session_id}/messages"
        await post(path, {"query": "y", "parent_id": None, "id": "another"})
        await are_known()
        shown = (await http.get(path, headers=headers)).json()["data"]

        assert [count for _, count in made] == [1] * len(first_messages())
        assert shown[0]["content"] == "y"

    async def test_what_they_change_of_a_message_with_a_file_they_change_once(
        self, http: httpx.AsyncClient, services: Services
    ) -> None:
        """They are asked before its file is kept, too; what they add to its blocks is a text."""
        headers = {"authorization": "Bearer says:!"}
        new = str(uuid4())
        there = {"id": str(uuid4()), "assistant_id": "chat"}
        await http.post("/api/sessions", json=there, headers=headers)
        file = {"type": "file", "mediaType": "image/gif", "url": "data:image/gif;base64,R0lGODlh"}
        said = [{"id": "m", "role": "user", "parts": [file]}]
        for session_id in (new, there["id"]):
            asked = {"id": session_id, "messages": said}
            answer = await http.post("/api/ai/chat", json=asked, headers=headers)
            assert answer.status_code == 200, answer.text

        rows = await services.db.tuples("SELECT kwargs FROM run", {})
        contents = [kwargs["input"]["messages"][-1]["content"] for (kwargs,) in rows]
        assert [[type(block) for block in blocks] for blocks in contents] == [[dict, str]] * 2
        assert len(await services.db.tuples("SELECT FROM file", {})) == 2

    async def test_the_assistant_that_they_give_a_session_answers_its_first_message_too(
        self, http: httpx.AsyncClient, services: Services
    ) -> None:
        headers = {"authorization": "Bearer ada"}
        new = await http.post("/assistants", json={"graph_id": "chat"}, headers=headers)
        theirs = new.json()["assistant_id"]
        headers["authorization"] = f"Bearer adds:{json.dumps({'assistant_id': theirs})}"
        said = [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}]
        for path, body in (
            ("/api/ai/chat", {"id": str(uuid4()), "messages": said}),
            ("/chat/chat", {"query": "x", "conversation_id": str(uuid4())}),
        ):
            answer = await http.post(path, json=body, headers=headers)
            assert answer.status_code == 200, answer.text

        rows = await services.db.tuples("SELECT assistant_id::text FROM run", {})
        assert rows == [(theirs,)] * 2


class TestWithoutAnyGraph:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        settings.config.write_text(
            json.dumps({"graphs": {"bad": "tests.graph.sample_graphs:nothing"}})
        )
        return settings.model_copy(update={"compat": ("chatchat",)})

    async def test_a_first_message_makes_no_session(
        self, http: httpx.AsyncClient, services: Services
    ) -> None:
        items = [{"role": "user", "content": "x"}]
        for path, body in (*first_messages(), ("/v1/conversations", {"items": items})):
            answer = await http.post(path, json=body)
            assert answer.status_code in (400, 404), (path, answer.text)

        assert await services.db.tuples("SELECT FROM thread", {}) == []
        assert await services.db.tuples("SELECT FROM outbox", {}) == []


def first_messages() -> list[tuple[str, dict[str, Any]]]:
    """What begins a session that is not there, through each door that makes one."""
    new = [str(uuid4()) for _ in range(5)]
    image = "data:image/gif;base64,R0lGODlh"
    said = {"role": "user", "content": "x"}
    agents = {"threadId": new[0], "runId": "r", "messages": [{"id": "m", **said}]}
    parts = [{"type": "file", "mediaType": "image/gif", "url": image}]
    item = {"role": "user", "content": [{"type": "input_image", "image_url": image}]}
    return [
        ("/agui", agents),
        ("/api/ai/chat", {"id": new[1], "messages": [{"id": "m", "role": "user", "parts": parts}]}),
        ("/v1/chat/completions", {"model": "chat", "conversation_id": new[2], "messages": [said]}),
        ("/v1/responses", {"model": "chat", "input": [item]}),
        ("/v1/responses", {"model": "chat", "input": "x", "background": True}),
        ("/chat/chat", {"query": "x", "conversation_id": new[3]}),
        ("/chat/chat/completions", {"conversation_id": new[4], "messages": [said]}),
    ]


async def test_no_message_gets_an_id_that_leads_out_of_its_path(http: httpx.AsyncClient) -> None:
    """A client that deletes such a message sends the deletion of the session."""
    session_id = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    path = f"/api/sessions/{session_id}"
    said = {"id": "..", "role": "user", "content": "x"}
    file = {"format": "threadwell", "version": 1, "session": {}, "messages": [said]}
    parts = [{"type": "text", "text": "x"}]
    agents = {"threadId": session_id, "runId": "r", "messages": [{**said, "id": "a/../.."}]}
    headers = {"x-conversation-id": session_id, "x-openwebui-user-message-id": "."}

    refused = [
        await http.post(f"{path}/messages", json={"query": "x", "id": id_})
        for id_ in (".", "..", "a/../b", "../..")
    ]
    refused.append(await http.post(f"{path}/context", json={"messages": [said]}))
    refused.append(await http.post("/api/sessions/import", json=file))
    taken = [
        await http.post("/agui", json=agents),
        await http.post("/api/ai/chat", json={
            "id": session_id, "messages": [{"id": "..", "role": "user", "parts": parts}],
        }),
        await http.post("/v1/chat/completions", headers=headers, json={
            "model": "chat", "messages": [{"role": "user", "content": "y"}],
        }),
        await http.post(f"{path}/messages", json={"query": "x", "id": "a..b/c."}),
    ]  # fmt: skip
    sent = {"kind": "message", "role": "user", "messageId": "a/../..", "contextId": session_id}
    call = {"jsonrpc": "2.0", "id": 1, "method": "message/send"}
    agent = {**call, "params": {"message": {**sent, "parts": [{"kind": "text", "text": "x"}]}}}
    called = (await http.post("/a2a/chat", json=agent)).json()
    ids = [row["id"] for row in (await http.get(f"{path}/messages?branch=all")).json()["data"]]

    assert [answer.status_code for answer in refused] == [422] * 6, [a.text for a in refused]
    assert called["error"]["code"] == -32602, called

    assert [answer.status_code for answer in taken] == [200] * 4, [a.text for a in taken]
    assert "a..b/c." in ids
    assert {".", ".."}.isdisjoint(part for id_ in ids for part in id_.split("/")), ids


KEY = {"idempotency-key": "k"}


def twin(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> list[Any]:
    """Have the response that is asked for next made by another request, right after it was looked for."""
    find, firsts = once.known_run, list[Any]()

    async def find_early(*given: Any) -> Submitted | None:
        found = await find(*given)
        if not firsts:
            firsts.append(None)
            firsts[0] = (await http.post("/v1/responses", json=asked, headers=KEY)).json()
        return found

    monkeypatch.setattr(conversation, "known_run", find_early)
    return firsts


async def test_requests_with_one_key_are_one_response_which_goes_with_its_session(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"model": "endless", "input": "x", "background": True}
    firsts = twin(http, monkeypatch, asked)
    second = (await http.post("/v1/responses", json=asked, headers=KEY)).json()
    [first] = firsts
    other = await http.post("/v1/responses", json={**asked, "input": "y"}, headers=KEY)
    await http.delete(f"/api/sessions/{first['conversation']['id']}")
    gone = [
        await http.get(f"/v1/responses/{first['id']}"),
        await http.get(f"/v1/responses/{first['id']}", params={"stream": True}),
        await http.post(f"/v1/responses/{first['id']}/cancel"),
    ]

    assert second["id"] == first["id"]
    assert other.status_code == 409
    assert [answer.status_code for answer in gone] == [404] * 3


@pytest.mark.parametrize("model", ["endless", "chat"])
async def test_of_edits_with_one_key_one_begins_anew_and_the_other_is_it(
    model: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (await http.post("/v1/responses", json={"model": "chat", "input": "one"})).json()
    after, session_id = {"previous_response_id": said["id"]}, said["conversation"]["id"]
    await http.post("/v1/responses", json={"model": "chat", "input": "two", **after})
    pruned = await http.post(
        "/threads/prune", json={"thread_ids": [session_id], "strategy": "keep_latest"}
    )
    edit = {"model": model, "input": "deux", "background": model == "endless", **after}
    firsts = twin(http, monkeypatch, edit)

    second = await http.post("/v1/responses", json=edit, headers=KEY)
    shown = (await http.get(f"/api/sessions/{session_id}/messages")).json()["data"]
    await http.delete(f"/api/sessions/{session_id}")

    assert pruned.status_code == 200, pruned.text
    assert second.status_code == 200, second.text
    assert second.json()["id"] == firsts[0]["id"]
    told = [message["content"].split(" 你好")[0] for message in shown]
    assert told[:2] == ["one", "You said: one"]
    assert model == "endless" or told[2:] == ["deux", "You said: deux"]


async def test_who_loses_its_lease_to_a_request_with_its_key_waits_for_the_run_of_that(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    path = f"/api/sessions/{session_id}/messages"
    first = (await http.post(path, json={"query": "one"})).json()
    await http.post(path, json={"query": "two"})
    keep = {"thread_ids": [session_id], "strategy": "keep_latest"}
    assert (await http.post("/threads/prune", json=keep)).status_code == 200
    edit = {"query": "deux", "parent_id": first["id"]}
    before = await threads.epoch(services.db, session_id)

    async with services.db.transaction() as no_run:
        await no_run.execute("LOCK TABLE run IN SHARE MODE", {})
        async with services.db.transaction() as no_checkpoint:
            await no_checkpoint.execute("LOCK TABLE checkpoints IN SHARE MODE", {})
            asking = [
                asyncio.create_task(http.post(path, json=edit, headers=KEY)) for _ in range(2)
            ]
            async with asyncio.timeout(20):
                while await threads.epoch(services.db, session_id) < before + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        # Both have gone back; one of them for nothing, as the other took the lease from it.
        done, _ = await asyncio.wait(asking, timeout=1.5)
    answers = [await task for task in asking]

    assert not done
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert answers[0].json() == answers[1].json()
    shown = (await http.get(path)).json()["data"]
    assert [message["content"] for message in shown][2:] == ["deux", answers[0].json()["response"]]


@pytest.mark.parametrize("named", ["key", "id"])
async def test_who_goes_back_behind_the_run_of_its_twin_changes_nothing(
    named: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    path = f"/api/sessions/{session_id}/messages"
    await http.post(path, json={"query": "one"})
    await http.post(path, json={"query": "two"})
    keep = {"thread_ids": [session_id], "strategy": "keep_latest"}
    assert (await http.post("/threads/prune", json=keep)).status_code == 200
    edit, headers = {"query": "uno", "parent_id": None}, KEY if named == "key" else {}
    edit |= {} if named == "key" else {"id": "m"}
    lease, twins = threads.lease, list[Any]()

    async def lease_late(*given: Any, **more: Any) -> Any:
        if not twins:
            twins.append(None)
            twins[0] = await http.post(path, json=edit, headers=headers)
        return await lease(*given, **more)

    monkeypatch.setattr(threads, "lease", lease_late)
    answer = await http.post(path, json=edit, headers=headers)
    shown = (await http.get(path)).json()["data"]

    assert twins[0].status_code == 200, twins[0].text
    assert answer.status_code == (200 if named == "key" else 409), answer.text
    assert named == "id" or answer.json() == twins[0].json()
    assert [message["content"] for message in shown] == ["uno", twins[0].json()["response"]]


async def test_an_edit_whose_file_is_refused_goes_back_nowhere(http: httpx.AsyncClient) -> None:
    said = (await http.post("/v1/responses", json={"model": "chat", "input": "one"})).json()
    after, session_id = {"previous_response_id": said["id"]}, said["conversation"]["id"]
    await http.post("/v1/responses", json={"model": "chat", "input": "two", **after})
    keep = {"thread_ids": [session_id], "strategy": "keep_latest"}
    assert (await http.post("/threads/prune", json=keep)).status_code == 200

    odd = {"type": "input_image", "image_url": "data:image/gif;base64,AAEC"}
    edit = {"model": "chat", "input": [{"role": "user", "content": [odd]}], **after}
    refused = await http.post("/v1/responses", json=edit)
    shown = (await http.get(f"/api/sessions/{session_id}/messages")).json()["data"]

    assert refused.status_code == 415, refused.text
    assert [message["content"].split(" 你好")[0] for message in shown] == [
        "one", "You said: one", "two", "You said: two",
    ]  # fmt: skip


async def test_a_key_does_not_stand_for_what_follows_another_message(
    http: httpx.AsyncClient,
) -> None:
    async def say(**more: Any) -> httpx.Response:
        asked = {"model": "chat", "input": "on", **more}
        headers = {"idempotency-key": "k"} if more else {}
        return await http.post("/v1/responses", json=asked, headers=headers)

    first = (await say()).json()["id"]
    second = (await say(previous_response_id=first)).json()["id"]
    same = (await say(previous_response_id=first)).json()["id"]
    other = await say(previous_response_id=second)

    assert same == second
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


async def test_the_id_of_a_message_that_no_client_shows_may_be_a_clients(
    http: httpx.AsyncClient,
) -> None:
    session = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    said = {"type": "system", "content": "Be terse.", "id": "mine"}
    await http.post(f"/api/sessions/{session}/messages", json={"query": "one"})
    await http.post(f"/threads/{session}/state", json={"values": {"messages": [said]}})

    text = {"id": "mine", "role": "user", "parts": [{"type": "text", "text": "two"}]}
    answer = await http.post("/api/ai/chat", json={"id": session, "messages": [text]})

    assert answer.status_code == 200
    assert "text-delta" in answer.text


async def test_an_agent_whose_events_are_lost_is_told_all_that_there_is(
    http: httpx.AsyncClient, services: Services
) -> None:
    said: Any = [{"role": "user", "content": "one"}]
    given = {**INPUT, "threadId": str(uuid4()), "messages": said}
    path = f"/threads/{given['threadId']}"
    live = await http.post("/agui", json=given, params={"assistant_id": "chat"})
    call = {"id": "c1", "name": "add", "args": {"left": 2}, "type": "tool_call"}
    used = [
        {"type": "ai", "content": "", "tool_calls": [call]},
        {"type": "tool", "content": "2", "tool_call_id": "c1"},
    ]
    await http.post(f"{path}/state", json={"values": {"messages": used}})
    runs = (await http.get(f"{path}/runs")).json()
    submitted = await services.runs.attach(runs[0]["run_id"], access=EVERYTHING)
    await services.events.delete(given["threadId"])

    door = AgentEvents(services, submitted, RunAgentInput.model_validate(given))
    sent = b"".join([chunk async for chunk in door.frames()]).decode()
    told = [json.loads(frame.removeprefix("data: ")) for frame in sent.strip().split("\n\n")]

    assert live.status_code == 200, live.text
    assert [event["type"] for event in told[-3:]] == [
        "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RUN_FINISHED",
    ]  # fmt: skip
    messages = told[-2]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "assistant", "tool"]
    [asked] = messages[2]["toolCalls"]
    assert asked["function"] == {"name": "add", "arguments": '{"left":2}'}
    assert messages[3]["toolCallId"] == asked["id"] == "c1"


async def test_what_an_agents_client_knows_is_given_to_the_branch_that_lacks_it(
    http: httpx.AsyncClient,
) -> None:
    session_id = str(uuid4())
    said: list[Any] = []

    async def say(graph: str, text: str, **state: Any) -> JsonObject:
        said.append({"id": str(uuid4()), "role": "user", "content": text})
        given = {**INPUT, "threadId": session_id, "messages": said, "state": state}
        answer = await http.post("/agui", json=given, params={"assistant_id": graph})
        assert answer.status_code == 200, answer.text
        assert "RUN_FINISHED" in answer.text
        shown = (await http.get(f"/api/sessions/{session_id}/messages")).json()["data"]
        said.append({key: shown[-1][key] for key in ("id", "role", "content")})
        values: JsonObject = (await http.get(f"/threads/{session_id}/state")).json()["values"]
        return values

    ran = ["found", "answered"]
    await say("finds", "one", topic=1)
    second = await say("finds", "two", topic=True, steps=ran)
    del said[2:]
    # What the newest state has, and the one that the edit begins from has not.
    edited = await say("finds", "deux", topic=True, steps=ran)
    again = await say("finds", "three", topic=True, steps=ran * 2)
    await http.patch(f"/threads/{session_id}", json={"metadata": {"graph_id": "gone"}})
    elsewhere = await say("chat", "four", topic=True)

    assert second["topic"] is edited["topic"] is again["topic"] is True
    assert (second["steps"], edited["steps"], again["steps"]) == (ran * 2, ran * 2, ran * 3)
    assert len(elsewhere["messages"]) == 8


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (0, False, True),
        (True, 1, True),
        ({"a": [1]}, {"a": [True]}, True),
        ({"a": 1, "b": [{}]}, {"b": [{}], "a": 1}, False),
        (1, 1.0, False),
        ([], {}, True),
    ],
)
def test_what_changes_of_a_state_is_told(before: Any, after: Any, changes: bool) -> None:
    told = [{"op": "replace", "path": "/x", "value": after}] if changes else []

    assert _delta({"x": before}, {"x": after}) == told


def test_documents_without_ids_are_told_apart_for_whoever_hears_of_them() -> None:
    def parts() -> list[Part]:
        reader, found = (
            SessionReader("t"),
            json.dumps({"documents": [{"url": "https://e.org"}] * 2}),
        )
        return [
            part
            for seq in (3, 4)
            for part in reader.read(Event(1, seq, "r", "custom", found.encode()))
        ]

    ui = Told(UIMessageStream(NONE, SUBMITTED)).tell(START, *parts(), END)

    ids = [chunk["sourceId"] for chunk in ui.frames if "sourceId" in chunk]
    assert len(set(ids)) == len(ids) == 4
    assert parts() == parts()


async def test_another_attempt_keeps_no_file_again(
    http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, refused = submissions.submit, list[None]()

    async def submit_late(*given: Any, **named: Any) -> Submitted:
        """Somebody else is quicker, twice."""
        if len(refused) < 2:
            refused.append(None)
            raise ThreadBusyError("busy")
        return await submit(*given, **named)

    monkeypatch.setattr(conversation, "submit", submit_late)
    file = {"type": "file", "mediaType": "image/gif", "url": "data:image/gif;base64,R0lGODlh"}
    said = [{"id": "m", "role": "user", "parts": [file]}]
    answer = await http.post("/api/ai/chat", json={"id": str(uuid4()), "messages": said})

    assert answer.status_code == 200, answer.text
    assert len(refused) == 2
    assert len(await services.db.tuples("SELECT 1 FROM file", {})) == 1


@pytest.mark.parametrize("when", ["with_files_kept", "submit"])
async def test_who_is_overtaken_in_a_session_that_they_made_adds_what_is_new_there(
    when: str, http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    do, quicker = getattr(conversation, when), list[Any]()

    async def do_late(*given: Any, **named: Any) -> Any:
        if not quicker:
            quicker.append(None)
            quicker[0] = await complete([one], session_id)
            if when == "submit":
                raise ThreadBusyError("busy")
        return await do(*given, **named)

    async def complete(messages: list[Any], session_id: str, **headers: str) -> Any:
        asked = {"model": "chat", "conversation_id": session_id, "messages": messages}
        answer = await http.post("/v1/chat/completions", json=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    session_id = str(uuid4())
    one = {"role": "user", "content": "one"}
    answered = (await complete([one], str(uuid4())))["choices"][0]["message"]["content"]
    image = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}}
    told = [one, {"role": "assistant", "content": answered}, {"role": "user", "content": [image]}]
    monkeypatch.setattr(conversation, when, do_late)
    late = [await complete(told, session_id, **KEY) for _ in range(2)]
    shown = (await http.get(f"/api/sessions/{session_id}/messages")).json()["data"]

    assert quicker[0]["choices"][0]["message"]["content"] == answered
    assert late[0]["id"] == late[1]["id"]
    assert [row["role"] for row in shown] == ["user", "assistant"] * 2
    assert len(await services.db.tuples("SELECT FROM file", {})) == 1
