"""What people do with sessions: list, name, pin, put away, delete, get back."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from api.bootstrap import Services
from api.settings import Settings
from graph.retention import Retention
from store import branches, messages
from store.access import EVERYTHING
from store.checkpoints import open_saver
from store.database import Database
from store.errors import UnavailableError
from store.models import Message
from tests.acceptance.talk import says

WRONG: list[dict[str, Any]] = [
    {"pinned": "yes"},
    {"tags": "a"},
    {"tags": [""]},
    {"tags": ["x" * 65]},
    {"tags": ["a"] * 51},
    {"tags": [1]},
    {"folder": ""},
    {"folder": "x" * 256},
    {"name": ""},
    {"metadata": {"pinned": 1}},
    {"metadata": {"tags": "a"}},
    {"metadata": {"folder": 1}},
    {"metadata": {"status": "deleted"}},
    {"status": "deleted"},
    {"expires_at": "2020-01-01T00:00:00Z"},
    {"expires_at": "2199-01-01T00:00:00Z"},
    {"expires_at": "0001-01-01T00:00:00+14:00"},
    {"expires_at": "9999-12-31T23:59:59-12:00"},
    {"expires_at": "2099-01-01T00:00:00"},
    {"expires_at": "soon"},
]


async def created(http: httpx.AsyncClient, **attributes: Any) -> dict[str, Any]:
    answer = await http.post("/api/sessions", json={"assistant_id": "chat", **attributes})
    assert answer.status_code == 200, answer.text
    session: dict[str, Any] = answer.json()
    return session


async def changed(
    http: httpx.AsyncClient, session_id: str, etag: str | None = None, **changes: Any
) -> httpx.Response:
    headers = {} if etag is None else {"If-Match": etag}
    return await http.patch(f"/api/sessions/{session_id}", json=changes, headers=headers)


async def names(http: httpx.AsyncClient, **asked: Any) -> list[str]:
    """The names of all sessions that are listed, page by page."""
    found: list[str] = []
    more: dict[str, str] = {}
    while True:
        answer = await http.get("/api/sessions", params={"limit": 2, **asked, **more})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [session["name"] for session in page["data"]]
        if not page["has_more"]:
            return found
        more = {"cursor": page["next_cursor"]}


async def test_a_session_has_the_attributes_that_it_is_given(http: httpx.AsyncClient) -> None:
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    given = {
        "user_id": "ada",
        "name": "Plans",
        "chat_type": "llm_chat",
        "pinned": True,
        "tags": ["a", "b", "a"],
        "folder": "work",
        "expires_at": soon,
    }
    session = await created(http, **given, metadata={"mine": 1, "deleted_at": "x"})

    assert list(session)[:2] == ["id", "name"]
    shown = {key: session[key] for key in given}
    assert shown == {**given, "tags": ["a", "b"], "expires_at": shown["expires_at"]}
    assert datetime.fromisoformat(shown["expires_at"]) == datetime.fromisoformat(soon)
    assert session["title_source"] == "user"
    assert "deleted_at" not in session["metadata"]
    assert (await http.get(f"/api/sessions/{session['id']}")).json() == session


async def test_wrong_attributes_are_refused_and_change_nothing(http: httpx.AsyncClient) -> None:
    before = await created(http, name="x")
    for wrong in WRONG:
        made = await http.post("/api/sessions", json={"assistant_id": "chat", **wrong})
        patched = await changed(http, before["id"], **wrong)
        if "status" not in wrong:
            assert made.status_code == 422, (wrong, made.text)
        assert patched.status_code == 422, (wrong, patched.text)
        assert patched.json().keys() == {"detail", "code"}

    assert (await http.get(f"/api/sessions/{before['id']}")).json() == before


async def test_what_is_wrong_is_told_in_words_of_sessions(http: httpx.AsyncClient) -> None:
    id_ = (await created(http))["id"]
    message = f"/api/sessions/{id_}/messages/m"

    told = [
        (await http.post("/api/sessions", json={"id": id_.upper()})).json()["detail"],
        (await http.patch(message, json={"content": []})).json()["detail"],
        (await http.patch(message, json={"content": 1})).json()["detail"],
        (await http.delete(f"{message}/feedback")).json()["detail"],
    ]

    assert told == [
        f"Session {id_} already exists",
        "content.blocks: List should have at least 1 item after validation, not 0",
        "content.text: Input should be a valid string",
        "There is no feedback of yours on message m",
    ]


async def test_sessions_are_found_by_what_they_are(http: httpx.AsyncClient) -> None:
    await created(http, name="one", user_id="ada", tags=["a", "b"], folder="x")
    await created(http, name="two", user_id="ada", tags=["a"], chat_type="t")
    await created(http, name="three", user_id="eve", tags=["b"], folder="x", pinned=True)
    away = await created(http, name="four", user_id="ada")
    gone = await created(http, name="five", user_id="ada")
    await changed(http, away["id"], status="archived")
    await http.delete(f"/api/sessions/{gone['id']}")

    assert await names(http) == ["three", "two", "one"]
    assert await names(http, user_id="ada") == ["two", "one"]
    assert await names(http, tag="a") == ["two", "one"]
    assert await names(http, tag=["a", "b"]) == ["one"]
    assert await names(http, folder="x") == ["three", "one"]
    assert await names(http, chat_type="t") == ["two"]
    assert await names(http, pinned="true") == ["three"]
    assert await names(http, pinned="false") == ["two", "one"]
    assert await names(http, status="archived") == ["four"]
    assert await names(http, status="deleted") == ["five"]
    assert await names(http, status="all") == ["three", "four", "two", "one"]
    assert await names(http, status="all", tag="b", folder="x") == ["three", "one"]


async def test_lists_have_their_orders_and_every_session_once(http: httpx.AsyncClient) -> None:
    made = [await created(http, name=str(n), pinned=n in (2, 5)) for n in range(7)]
    await changed(http, made[3]["id"], metadata={"touched": True})

    assert await names(http) == ["5", "2", "3", "6", "4", "1", "0"]
    assert await names(http, sort="update_time") == ["0", "1", "2", "4", "5", "6", "3"]
    assert await names(http, sort="-create_time") == ["6", "5", "4", "3", "2", "1", "0"]
    assert await names(http, sort="create_time") == ["0", "1", "2", "3", "4", "5", "6"]
    assert await names(http, pinned_first="false") == ["3", "6", "5", "4", "2", "1", "0"]
    assert await names(http, sort="create_time", pinned_first="true") == [
        "2", "5", "0", "1", "3", "4", "6",
    ]  # fmt: skip
    for wrong in ("x", "W10", "WzFd", "WyJhIiwiYiJd"):
        answer = await http.get("/api/sessions", params={"cursor": wrong})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


async def test_sessions_are_found_by_a_part_of_their_names(http: httpx.AsyncClient) -> None:
    for name in ("Trip to Oslo", "导出对话记录", "100% sure", "100 times", "a_b", "axb"):
        await created(http, name=name)

    assert await names(http, q="oslo") == ["Trip to Oslo"]
    assert await names(http, q="导出") == ["导出对话记录"]
    assert await names(http, q="100%") == ["100% sure"]
    assert await names(http, q="a_b") == ["a_b"]
    assert await names(http, q="\\") == []
    assert (await http.get("/api/sessions", params={"q": ""})).status_code == 422


async def test_a_list_counts_what_there_is(http: httpx.AsyncClient) -> None:
    await created(http, user_id="ada", tags=["a", "b"], folder="x", pinned=True)
    await created(http, user_id="ada", tags=["a"])
    await created(http, user_id="eve", tags=["c"])
    away = await created(http, user_id="ada", tags=["away"], folder="y")
    await changed(http, away["id"], status="archived")
    # Whatever is written there through /threads.
    await http.post(
        "/threads", json={"metadata": {"tags": {"a": 1}, "folder": [1], "user_id": "x"}}
    )

    asked = {"counts": "true", "user_id": "ada", "limit": "1"}
    answer = (await http.get("/api/sessions", params=asked)).json()

    assert len(answer["data"]) == 1
    assert answer["counts"] == {
        "active": 2, "archived": 1, "deleted": 0, "pinned": 1,
        "folders": {"x": 1}, "tags": {"a": 2, "b": 1},
    }  # fmt: skip
    everything = (await http.get("/api/sessions", params={"counts": "true"})).json()
    assert everything["counts"]["active"] == 4


async def test_of_two_who_change_what_they_have_read_one_is_told_that_it_has_changed(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session = await created(http, name="x")
    path = f"/api/sessions/{session['id']}"
    await http.post(f"{path}/messages", json={"query": "hello"})
    read = (await http.get(path)).headers["etag"]
    await client.runs.wait(session["id"], "chat", input=says("again"))
    # A run changes nothing that they could change.
    assert (await http.get(path)).headers["etag"] == read

    answers = await asyncio.gather(
        *(changed(http, session["id"], read, name=name) for name in ("a", "b", "c"))
    )

    assert sorted(answer.status_code for answer in answers) == [200, 412, 412]
    [kept] = [answer for answer in answers if answer.status_code == 200]
    assert (await http.get(path)).json()["name"] == kept.json()["name"]
    assert {a.json()["code"] for a in answers if a is not kept} == {"changed"}
    new = kept.headers["etag"]
    assert (await changed(http, session["id"], f"W/{new}", name="weak")).status_code == 412
    assert (await changed(http, session["id"], f'"other", {new}', name="d")).status_code == 200
    assert (await changed(http, session["id"], "*", name="e")).status_code == 200
    missing = await changed(http, "00000000-0000-7000-8000-00000000dead", "*", name="e")
    assert missing.status_code == 404


async def test_what_is_cleared_is_gone(http: httpx.AsyncClient) -> None:
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    session = await created(http, name="x", folder="f", tags=["a"], pinned=True, expires_at=soon)

    cleared = (
        await changed(
            http, session["id"], folder=None, tags=None, pinned=False, expires_at=None, name=None
        )
    ).json()

    assert (cleared["folder"], cleared["tags"], cleared["pinned"]) == (None, [], False)
    assert (cleared["expires_at"], cleared["name"]) == (None, "新对话")
    untouched = (await changed(http, session["id"], name="y")).json()
    assert untouched["metadata"] == {**cleared["metadata"], "name": "y"}


async def test_a_deleted_session_is_nowhere_until_it_is_restored(http: httpx.AsyncClient) -> None:
    session = await created(http, name="x", folder="f")
    path = f"/api/sessions/{session['id']}"
    await http.post(f"{path}/messages", json={"query": "hello"})

    assert (await http.delete(path)).status_code == 204

    assert await names(http) == []
    for answer in (
        await http.get(path),
        await http.delete(path),
        await http.patch(path, json={"name": "y"}),
        await http.get(f"{path}/messages"),
        await http.post(f"{path}/messages", json={"query": "again"}),
        await http.post(f"{path}/title"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    [listed] = (await http.get("/api/sessions", params={"status": "deleted"})).json()["data"]
    assert listed["status"] == "deleted"
    assert "deleted_at" in listed["metadata"]

    restored = (await http.post(f"{path}/restore")).json()

    assert (restored["status"], restored["name"], restored["folder"]) == ("active", "x", "f")
    assert "deleted_at" not in restored["metadata"]
    assert len((await http.get(f"{path}/messages")).json()["data"]) == 2
    assert (await http.post(f"{path}/restore")).json() == restored
    unknown = await http.post("/api/sessions/00000000-0000-7000-8000-00000000dead/restore")
    assert unknown.status_code == 404


async def test_deleting_a_session_stops_its_answer(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session = await created(http, assistant_id="endless")
    run = await client.runs.create(session["id"], "endless", input=says("go"))

    assert (await http.delete(f"/api/sessions/{session['id']}")).status_code == 204

    await client.runs.join(session["id"], run["run_id"])
    assert (await client.runs.get(session["id"], run["run_id"]))["status"] == "interrupted"


async def test_who_waits_for_an_answer_of_a_session_that_is_purged_is_told_so(
    http: httpx.AsyncClient, services: Services
) -> None:
    session = await created(http, assistant_id="endless")
    path = f"/api/sessions/{session['id']}"
    asking = asyncio.create_task(http.post(f"{path}/messages", json={"query": "go"}))
    while not services.worker.executor.running:
        assert not asking.done()
        await asyncio.sleep(0.01)

    assert (await http.delete(path, params={"purge": True})).status_code == 204

    answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_copy_that_cannot_be_made_whole_is_not_there(
    http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = (await created(http))["id"]
    path = f"/api/sessions/{session_id}"
    assert (await http.post(f"{path}/messages", json={"query": "hello"})).status_code == 200

    async def fail(*args: Any, **more: Any) -> None:
        raise UnavailableError("PostgreSQL is away")

    monkeypatch.setattr(messages, "rebuild", fail)
    refused = await http.post(f"{path}/fork", json={})

    assert refused.status_code == 503
    assert await services.db.tuples("SELECT thread_id FROM thread", {}) == [(session_id,)]


async def test_a_fork_in_which_somebody_talks_before_it_is_done_stays(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = (await created(http, assistant_id="chat"))["id"]
    await http.post(f"/api/sessions/{session_id}/messages", json={"query": "hello"})
    know = branches.know

    async def talk_and_know(db: Database, thread_id: str) -> None:
        run = {"assistant_id": "endless", "input": {"messages": []}}
        assert (await http.post(f"/threads/{thread_id}/runs", json=run)).status_code == 200
        await know(db, thread_id)

    monkeypatch.setattr(branches, "know", talk_and_know)
    forked = await http.post(f"/api/sessions/{session_id}/fork", json={})

    assert forked.status_code == 200
    path = f"/threads/{forked.json()['id']}"
    [run] = (await http.get(f"{path}/runs")).json()
    stopped = await http.post(f"{path}/runs/{run['run_id']}/cancel", params={"wait": True})
    assert stopped.status_code in (200, 204)


async def test_a_message_that_waits_follows_what_it_names_whatever_comes_first(
    http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = (await created(http, assistant_id="chat"))["id"]
    path = f"/api/sessions/{session_id}"
    one = (await http.post(f"{path}/messages", json={"query": "one"})).json()
    place = await branches.state_after(services.db, session_id, one["id"], access=EVERYTHING)
    assert place.is_head

    async def as_before(*args: Any, **more: Any) -> branches.Place:
        """The run that is under way has written nothing yet."""
        return place

    monkeypatch.setattr(branches, "state_after", as_before)
    runs = f"/threads/{session_id}/runs"
    # With something to do: nothing is next on the thread, where it would have ended at once.
    await http.post(runs, json={"assistant_id": "endless", "input": says("wait")})
    asked = {"query": "two", "parent_id": one["id"], "on_busy": "enqueue"}
    found: list[Any] = []
    asking = asyncio.create_task(http.post(f"{path}/messages", json=asked))
    while [run["status"] for run in found[:2]] != ["pending", "running"]:
        assert not asking.done()
        found = (await http.get(runs)).json()
    waiting = found[0]
    await http.post(f"{path}/stop")
    await asking

    assert waiting["kwargs"]["config"]["configurable"]["checkpoint_id"] == place.checkpoint_id


async def test_a_session_is_gone_when_its_time_has_come(
    http: httpx.AsyncClient, services: Services
) -> None:
    session = await created(http, name="x")
    other = await created(http, name="deleted")
    await http.delete(f"/api/sessions/{other['id']}")
    kept = await created(http, name="kept")
    await http.delete(f"/api/sessions/{kept['id']}")
    for column, session_id in (("expires_at", session["id"]), ("purge_at", other["id"])):
        past = f"UPDATE thread SET {column} = now() WHERE thread_id = %(id)s"
        await services.db.execute(past, {"id": session_id})

    assert await names(http) == []
    assert (await http.get(f"/api/sessions/{session['id']}")).status_code == 404
    restored = await http.post(f"/api/sessions/{session['id']}/restore")
    assert (restored.status_code, restored.json()["code"]) == (410, "gone")

    retention = Retention(
        db=services.db,
        registry=services.registry,
        place=services.place,
        events=services.events,
        keep=0,
    )
    assert await retention.sweep_sessions(limit=10) == 2

    left = await services.db.tuples("SELECT thread_id FROM thread", {})
    assert [row[0] for row in left] == [kept["id"]]
    assert (await http.post(f"/api/sessions/{other['id']}/restore")).status_code == 410
    assert (await http.post(f"/api/sessions/{kept['id']}/restore")).status_code == 200


async def test_a_session_tells_its_state_if_it_is_asked(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    session = await created(http, assistant_id="ask_user")
    path = f"/api/sessions/{session['id']}?include=state"
    empty = (await http.get(path)).json()["state"]
    await client.runs.wait(session["id"], "ask_user", input=says("go"))

    asking = (await http.get(path)).json()["state"]

    assert empty == {"checkpoint_id": None, "next": [], "interrupts": []}
    state = await client.threads.get_state(session["id"])
    assert asking["checkpoint_id"] == state["checkpoint"]["checkpoint_id"]
    assert asking["next"]
    assert len(asking["interrupts"]) == 1


async def test_an_opinion_of_a_message_is_kept_through_a_rebuild(
    http: httpx.AsyncClient, services: Services
) -> None:
    session = await created(http)
    path = f"/api/sessions/{session['id']}/messages"
    answer = (await http.post(path, json={"query": "hello"})).json()
    opinion = f"{path}/{answer['id']}/feedback"

    liked = await http.put(opinion, json={"rating": "like", "reason": "good", "tags": ["a"]})
    scored = await http.put(opinion, json={"score": 30})

    assert liked.json() == {"score": 100, "rating": "like", "reason": "good", "tags": ["a"]}
    assert scored.json() == {"score": 30, "rating": "dislike", "reason": None, "tags": []}
    await services.db.execute(
        "DELETE FROM message WHERE conversation_id = %(id)s", {"id": session["id"]}
    )
    await services.db.execute("UPDATE thread SET projected_checkpoint_id = NULL", {})
    async with open_saver(services.db) as saver:
        done = await messages.rebuild(services.db, saver, thread_id=session["id"])
    assert done.messages == 2
    said = (await http.get(path)).json()["data"]
    assert [message["feedback"] for message in said] == [None, scored.json()]

    assert (await http.delete(opinion)).status_code == 204
    assert (await http.delete(opinion)).status_code == 404
    assert [m["feedback"] for m in (await http.get(path)).json()["data"]] == [None, None]
    for wrong in ({}, {"score": 1, "rating": "like"}, {"score": 101}, {"rating": "love"}):
        assert (await http.put(opinion, json=wrong)).status_code == 422
    unknown = await http.put(f"{path}/none/feedback", json={"score": 1})
    assert unknown.status_code == 404


async def test_what_is_deleted_of_an_answer_is_not_told_to_who_asks_again(
    http: httpx.AsyncClient,
) -> None:
    path = f"/api/sessions/{(await created(http))['id']}/messages"
    key, asked = {"Idempotency-Key": "k"}, {"query": "hello"}
    first = (await http.post(path, json=asked, headers=key)).json()
    await http.delete(f"{path}/{first['id']}")
    again = (await http.post(path, json=asked, headers=key)).json()

    assert first["response"]
    assert (again["run_id"], again["id"], again["response"]) == (first["run_id"], None, "")
    assert again["user_message_id"] == first["user_message_id"]


async def test_a_message_that_is_purged_as_it_is_corrected_is_not_found(
    http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = f"/api/sessions/{(await created(http))['id']}"
    answer = (await http.post(f"{session}/messages", json={"query": "hello"})).json()
    edit = services.branches.edit

    async def edit_and_purge(*args: Any, **more: Any) -> Message:
        edited = await edit(*args, **more)
        await http.delete(session, params={"purge": "true"})
        return edited

    monkeypatch.setattr(services.branches, "edit", edit_and_purge)
    message = f"{session}/messages/{answer['id']}"
    corrected = await http.patch(message, json={"content": "x"})

    assert (corrected.status_code, corrected.json()["code"]) == (404, "not_found")


class TestARunThatTakesTooLong:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"run_timeout_seconds": 0.2})

    async def test_is_a_504_and_the_session_goes_on(self, http: httpx.AsyncClient) -> None:
        session = await created(http, assistant_id="endless")
        path = f"/api/sessions/{session['id']}"
        late = await http.post(f"{path}/messages", json={"query": "hello"})
        now = (await http.get(path)).json()
        schema = (await http.get("/openapi.json")).json()

        assert (late.status_code, late.json()["code"]) == (504, "run_timeout")
        assert now["thread_status"] == "error"
        answers = schema["paths"]["/api/sessions/{session_id}/messages"]["post"]["responses"]
        assert "504" in answers
