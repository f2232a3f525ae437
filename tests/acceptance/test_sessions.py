"""Sessions with plain HTTP, as the sequence diagrams of the design say."""

from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.gate import Gate
from tests.acceptance.sse import Frame, collect, frames
from tests.acceptance.talk import contents, says


async def session(http: httpx.AsyncClient, **attributes: Any) -> str:
    """The id of a new session."""
    created = await http.post("/api/sessions", json={"assistant_id": "chat", **attributes})
    assert created.status_code == 200, created.text
    return str(created.json()["id"])


async def ask(http: httpx.AsyncClient, session_id: str, query: str, **more: Any) -> httpx.Response:
    return await http.post(f"/api/sessions/{session_id}/messages", json={"query": query, **more})


async def pages(http: httpx.AsyncClient, path: str, **params: Any) -> list[list[dict[str, Any]]]:
    """All pages of a list."""
    found = []
    cursor: dict[str, str] = {}
    while True:
        answer = await http.get(path, params={**params, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found.append(page["data"])
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return found
        cursor = {"cursor": page["next_cursor"]}


async def test_a_session_is_created_and_answers(http: httpx.AsyncClient) -> None:
    created = await http.post(
        "/api/sessions", json={"user_id": "ada", "name": "第一次", "assistant_id": "chat"}
    )
    session_id = created.json()["id"]
    answered = await ask(http, session_id, "你好")

    assert created.status_code == answered.status_code == 200
    assert list(created.json())[:2] == ["id", "name"]
    assert created.json()["name"] == "第一次"
    assert list(answered.json())[:2] == ["id", "response"]
    assert answered.json()["response"] == "(1) 你好"
    assert answered.json()["session_id"] == session_id
    assert answered.json()["status"] == "success"
    history = (await http.get(f"/api/sessions/{session_id}/messages")).json()["data"]
    assert [(row["role"], row["content"]) for row in history] == [
        ("user", "你好"),
        ("assistant", "(1) 你好"),
    ]
    assert [row["id"] for row in history] == [
        answered.json()["user_message_id"],
        answered.json()["id"],
    ]


@pytest.mark.parametrize("way", ["accept", "stream"])
async def test_an_answer_is_streamed_when_it_is_asked_for(
    way: str, http: httpx.AsyncClient
) -> None:
    session_id = await session(http)
    headers = {"Accept": "text/event-stream"} if way == "accept" else {}
    body = {"query": "one two", **({"stream": True} if way == "stream" else {})}

    async with http.stream(
        "POST", f"/api/sessions/{session_id}/messages", json=body, headers=headers
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events: list[Frame] = [frame async for frame in frames(response)]

    names = [event.name for event in events]
    began = ["run.start", "session.updated"]
    assert names == [*began, *["message.delta"] * 3, "message.end", "run.end"]
    assert "".join(e.data["delta"] for e in events if e.name == "message.delta") == "(1) one two"
    assert events[0].data["session_id"] == session_id
    assert events[-2].data["content"] == "(1) one two"
    assert events[-1].data["status"] == "success"
    placed = [event.place for event in events if event.id]
    assert placed == sorted(set(placed))
    [asked, stored] = (await http.get(f"/api/sessions/{session_id}/messages")).json()["data"]
    assert stored["id"] == events[-2].data["message_id"] == events[2].data["message_id"]
    assert asked["id"] == events[0].data["user_message_id"]


async def test_a_stream_says_what_is_answered_how_long_it_took_and_what_the_graph_goes_by(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    session_id = await session(http, assistant_id="finds")
    path = f"/api/sessions/{session_id}"

    async def streamed(to: str, **body: Any) -> list[Frame]:
        return await collect(http, "POST", f"{path}/{to}", json={"stream": True, **body})

    first = await streamed("messages", query="Which rivers?")
    again = await streamed(f"messages/{first[-2].data['message_id']}/regenerate")
    second = await streamed("messages", query="hello", id="mine")
    named = (await http.get(path)).json()
    run_id = first[0].data["run_id"]
    rest = {
        event.id: await collect(http, "GET", f"{path}/stream", last_event_id=event.id)
        for event in second[:-1]
        if event.id
    }
    as_a_run = [part.event async for part in client.runs.join_stream(session_id, run_id)]

    assert [event.name for event in first][:3] == ["run.start", "session.updated", "source"]
    assert first[1].data == {
        "session_id": session_id, "name": "Which rivers?", "title_source": "first_words",
    }  # fmt: skip
    assert named["name"] == first[1].data["name"]
    assert first[2].data["documents"] == [
        {
            "id": f"{first[2].id}-0", "title": "Rivers", "url": "https://example.com/r",
            "content": "Rivers flow.",
        },
        {"id": "n1", "title": "notes.md", "url": None, "content": "Down."},
    ]  # fmt: skip
    # It is named once.
    assert [e.name for e in again + second if e.name == "session.updated"] == []
    assert again[0].data["user_message_id"] == first[0].data["user_message_id"]
    assert second[0].data["user_message_id"] == "mine"
    for told in (first, again, second):
        end = told[-2].data
        assert 0 <= end["ttft_ms"] <= end["latency_ms"] < 60_000
    # Who comes back is told the same.
    for place, found in rest.items():
        seen = next(n for n, event in enumerate(second, 1) if event.id == place)
        assert [(e.name, e.data) for e in found] == [(e.name, e.data) for e in second[seen:]]
    # To others it is a run like any other.
    assert set(as_a_run) <= {"metadata", "custom", "messages", "updates", "end"}


async def test_pages_of_sessions_repeat_none_and_miss_none(http: httpx.AsyncClient) -> None:
    created = [await session(http, user_id="grace", name=f"chat {n}") for n in range(25)]
    await session(http, user_id="somebody else")

    found = await pages(http, "/api/sessions", user_id="grace", limit=10)

    assert [len(page) for page in found] == [10, 10, 5]
    assert [row["id"] for page in found for row in page] == created[::-1]
    everybody = [row["id"] for page in await pages(http, "/api/sessions", limit=7) for row in page]
    assert len(everybody) == len(set(everybody))
    assert set(created) < set(everybody)


async def test_a_session_is_renamed_archived_and_deleted(http: httpx.AsyncClient) -> None:
    session_id = await session(http, user_id="edsger", name="Old")
    path = f"/api/sessions/{session_id}"
    await ask(http, session_id, "one")

    renamed = await http.patch(path, json={"name": "New"})
    got = await http.get(path)
    archived = await http.patch(path, json={"status": "archived"})
    listed = (await http.get("/api/sessions", params={"user_id": "edsger"})).json()
    in_archive = await http.get("/api/sessions", params={"user_id": "edsger", "status": "archived"})
    deleted = await http.delete(path)

    assert renamed.json()["name"] == got.json()["name"] == "New"
    assert archived.json()["status"] == "archived"
    assert listed == {"data": [], "next_cursor": None, "has_more": False}
    assert [row["id"] for row in in_archive.json()["data"]] == [session_id]
    assert (deleted.status_code, deleted.content) == (204, b"")
    for gone in (
        await http.get(path),
        await http.delete(path),
        await http.patch(path, json={"name": "Back"}),
        await http.get(f"{path}/messages"),
        await ask(http, session_id, "anybody?"),
    ):
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found"), gone.request.method


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_the_history_comes_in_pages(order: str, http: httpx.AsyncClient) -> None:
    session_id = await session(http)
    for word in ("one", "two", "three"):
        await ask(http, session_id, word)

    found = await pages(http, f"/api/sessions/{session_id}/messages", limit=4, order=order)

    said = ["one", "(1) one", "two", "(3) two", "three", "(5) three"]
    expected = said if order == "asc" else said[::-1]
    assert [[row["content"] for row in page] for page in found] == [expected[:4], expected[4:]]


async def test_a_busy_session_says_so_or_lets_the_question_wait(
    http: httpx.AsyncClient, gate: Gate
) -> None:
    gate.hold("busy")
    session_id = await session(http)
    async with http.stream(
        "POST",
        f"/api/sessions/{session_id}/messages",
        json={"query": f"hold {gate.port} busy one", "stream": True},
    ) as first:
        await gate.arrived("busy")

        refused = await ask(http, session_id, "me too")
        async with http.stream(
            "POST",
            f"/api/sessions/{session_id}/messages",
            json={"query": "I can wait", "on_busy": "enqueue", "stream": True},
        ) as second:
            gate.release("busy")
            assert [frame.name async for frame in frames(first)][-1] == "run.end"
            waited = [frame async for frame in frames(second)]

    assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
    assert waited[0].name == "run.start"
    assert waited[-2].data["content"] == "(3) I can wait"


async def test_a_run_that_fails_is_a_502_and_the_question_is_kept(http: httpx.AsyncClient) -> None:
    session_id = await session(http)

    failed = await ask(http, session_id, "fail please")
    streamed = await collect(
        http,
        "POST",
        f"/api/sessions/{session_id}/messages",
        json={"query": "fail again", "stream": True},
    )
    answered = await ask(http, session_id, "and now?")

    assert (failed.status_code, failed.json()) == (
        502,
        {"detail": "the model broke down", "code": "run_failed"},
    )
    assert [event.name for event in streamed[-2:]] == ["error", "run.end"]
    assert streamed[-2].data == {"code": "ValueError", "message": "the model broke down"}
    assert streamed[-1].data["status"] == "error"
    assert answered.json()["response"] == "(3) and now?"
    history = (await http.get(f"/api/sessions/{session_id}/messages")).json()["data"]
    assert [row["content"] for row in history] == [
        "fail please",
        "fail again",
        "and now?",
        "(3) and now?",
    ]


async def test_a_thread_is_a_session_and_a_session_a_thread(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    thread_id = (await client.threads.create(metadata={"user_id": "alan"}))["thread_id"]
    await client.runs.wait(thread_id, "chat", input=says("from the SDK"))
    session_id = await session(http, user_id="alan", name="With a name")
    await ask(http, session_id, "from a session")

    listed = (await http.get("/api/sessions", params={"user_id": "alan"})).json()["data"]
    threads = await client.threads.search(metadata={"user_id": "alan"})
    asked = (await ask(http, thread_id, "and on")).json()
    ran = await client.runs.wait(session_id, "chat", input=says("and on"))
    state = await client.threads.get_state(session_id)

    assert [row["id"] for row in listed] == [session_id, thread_id]
    assert [row["name"] for row in listed] == ["With a name", "from the SDK"]
    assert {thread["thread_id"] for thread in threads} == {thread_id, session_id}
    assert asked["response"] == "(3) and on"
    assert contents(ran)[3] == contents(state["values"])[3] == "(3) and on"
    history = (await http.get(f"/api/sessions/{session_id}/messages")).json()["data"]
    assert [row["content"] for row in history] == contents(ran)


async def test_attributes_are_checked_wherever_they_are_given(http: httpx.AsyncClient) -> None:
    for metadata in ({"user_id": 7}, {"name": ["x"]}, {"status": "weird"}):
        refused = await http.post("/api/sessions", json={"metadata": metadata})

        assert refused.status_code == 422
        assert refused.json()["code"] == "invalid_input"
