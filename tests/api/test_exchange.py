"""Sessions as files: exported, imported, and both again."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest
from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.exchange import exporting, importing
from api.exchange.exporting import Export
from api.exchange.importing import Report
from api.exchange.jobs import ImportJobs
from api.settings import Settings
from graph import adoption
from store import exchanges, messages, sessions
from store.access import EVERYTHING, UNDER_WAY
from store.checkpoints import open_saver
from store.errors import (
    ConflictError,
    Error,
    InvalidInputError,
    PermissionDeniedError,
    QuotaError,
    TooLargeError,
    UnavailableError,
)
from store.jobs import Job
from tests.api.test_shares import ADA, BOB, ask, session, share

FILES = Path(__file__).parent / "exchange_files"
FOREIGN = (
    "chatgpt.json", "openwebui.json", "openai.jsonl", "sharegpt.json", "chatchat.json", "notes.md",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    graphs = {name: f"tests.graph.sample_graphs:{name}" for name in ("chat", "tools", "ask")}
    graphs["agent"] = "graph.agents.chat:graph"
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": graphs, "auth": {"path": "tests.api.auths:owners"}}))
    return Settings(config=config, request_body_max_bytes=4 * 2**20)


async def imported(
    http: httpx.AsyncClient,
    content: bytes | str,
    *,
    who: dict[str, str] = ADA,
    **params: Any,
) -> dict[str, Any]:
    answer = await http.post("/api/sessions/import", content=content, params=params, headers=who)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counts(report: dict[str, Any]) -> dict[str, int]:
    names = ("created", "updated", "skipped", "failed")
    return {name: report[name] for name in names if report[name]}


async def history(
    http: httpx.AsyncClient, session_id: str, who: dict[str, str] = ADA, **params: Any
) -> list[dict[str, Any]]:
    path = f"/api/sessions/{session_id}/messages"
    answer = await http.get(path, params={"limit": 100, **params}, headers=who)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def exported(
    http: httpx.AsyncClient, session_id: str | None = None, who: dict[str, str] = ADA, **params: Any
) -> str:
    path = f"/api/sessions/{session_id}/export" if session_id else "/api/sessions/export"
    answer = await http.get(path, params=params, headers=who)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith("attachment")
    return answer.text


@pytest.mark.parametrize("graph_id", ["chat", "agent"])
async def test_what_others_export_comes_in_once(
    http: httpx.AsyncClient, services: Services, graph_id: str
) -> None:
    for name in FOREIGN:
        content = (FILES / name).read_bytes()
        tried = await imported(http, content, dry_run=True)
        assert (await http.get("/api/sessions?limit=100", headers=ADA)).status_code == 200
        first = await imported(http, content)
        second = await imported(http, content)

        many = first["created"]
        assert counts(tried) == counts(first) == {"created": many}, (name, first)
        assert counts(second) == {"skipped": many}, (name, second)
        assert [one["id"] for one in second["sessions"]] == [one["id"] for one in first["sessions"]]
        for one in first["sessions"]:
            state = (await http.get(f"/threads/{one['id']}/state", headers=ADA)).json()
            assert state["next"] == []
            rows = await history(http, one["id"])
            assert [row["id"] for row in rows] == [m["id"] for m in state["values"]["messages"]]
            answered = await ask(http, one["id"], "and now?", ADA)
            assert answered.status_code == 200, answered.text


async def test_turns_of_chatchat_become_what_its_database_becomes(http: httpx.AsyncClient) -> None:
    report = await imported(http, (FILES / "chatchat.json").read_bytes())
    [whole, routed, of_rows, loose] = [one["id"] for one in report["sessions"]]
    rows = {one: await history(http, one) for one in (whole, routed, of_rows, loose)}
    named = [(await http.get(f"/api/sessions/{one}", headers=ADA)).json() for one in rows]
    apart = [
        {"id": f"t{n}", "conversation_id": id_, "query": "q", "response": "a"}
        for n, id_ in enumerate((str(uuid7()), str(uuid7())))
    ]
    refused = await imported(http, json.dumps([*apart, {**apart[0], "id": "t3"}]))

    assert report["sessions"][0]["source_id"] == whole == "0b9f4b0a7c1e4f0f9a59d35b1f6f0c2b"
    assert [(one["name"], one["chat_type"]) for one in named] == [
        ("天气", "llm_chat"), ("Which rivers are there?", "general_chat"),
        ("One", "llm_chat"), ("Without one", None),
    ]  # fmt: skip
    said = [(row["role"], row["content"]) for row in rows[whole]]
    assert said == [
        ("user", "下雨吗"), ("assistant", "不下。"), ("user", "And tomorrow?"), ("assistant", "Sun."),
    ]  # fmt: skip
    assert rows[whole][1]["id"] == "5f0c8f7e8f2b4c0f9a59d35b1f6f0c01"
    assert rows[whole][0]["create_time"].startswith("2024-03-10T08:00:00")
    assert rows[routed][-1]["meta_data"]["additional_kwargs"]["status"] == "incomplete"
    # Chatchat's master writes a turn twice, and only one of them has the answer.
    assert [row["content"] for row in rows[of_rows]] == ["One", "Eins", "Two", "Zwei"]
    assert len(rows[loose]) == 2
    assert counts(refused) == {"created": 2, "failed": 1}
    assert "sort them" in refused["errors"][0]["detail"]


async def test_chatgpts_tree_keeps_its_branches_ids_and_times(
    http: httpx.AsyncClient, services: Services
) -> None:
    report = await imported(http, (FILES / "chatgpt.json").read_bytes())
    [first, second] = [one["id"] for one in report["sessions"]]
    shown = await history(http, first)
    whole = await history(http, first, branch="all")
    found = (await http.get(f"/api/sessions/{first}", headers=ADA)).json()
    archived = (await http.get(f"/api/sessions/{second}", headers=ADA)).json()
    threads = await services.db.tuples(
        "SELECT count(*) FROM checkpoints WHERE thread_id = %(id)s", {"id": second}
    )

    assert first == "6615a000-0000-4000-8000-0000000000aa"
    assert [row["content"] for row in shown] == [
        "How do I sort a list of dicts?",
        'Call `list.sort(key=itemgetter("name"))`.',
        "[image]\nAnd this one?",
    ]
    assert [row["content"] for row in whole if row not in shown] == ["Use `sorted` with a key."]
    assert shown[0]["id"] == "aaa00000-0000-4000-8000-000000000002"
    assert shown[0]["create_time"] == "2024-04-01T19:33:21.250000+00:00"
    assert (found["name"], found["metadata"]["pinned"]) == ("Sorting in Python", True)
    assert found["create_time"].startswith("2024-04-01T19:33:20")
    assert found["update_time"].startswith("2024-04-01T19:40:00")
    assert (archived["name"], archived["status"]) == ("你好", "archived")
    # One checkpoint for a conversation in a line.
    assert threads == [(1,)]


async def test_an_answer_of_a_tree_that_was_imported_is_given_again_through_every_door(
    http: httpx.AsyncClient,
) -> None:
    report = await imported(http, (FILES / "chatgpt.json").read_bytes())
    session_id = report["sessions"][0]["id"]
    path = f"/api/sessions/{session_id}/messages"
    rows = {row["content"]: row["id"] for row in await history(http, session_id, branch="all")}
    words = "Use `sorted` with a key."
    asked = {"id": session_id, "trigger": "regenerate-message"}
    question = {"id": "new", "role": "user", "parts": [{"type": "text", "text": "Well?"}]}

    again = await http.post(f"{path}/{rows[words]}/regenerate", json={}, headers=ADA)
    # A question that no run brought, and one whose answer was taken out.
    item = {"type": "message", "role": "user", "content": "Well?"}
    added = await http.post(
        f"/v1/conversations/{session_id}/items", json={"items": [item]}, headers=ADA
    )
    question["id"] = added.json()["data"][0]["id"]
    first = await http.post("/api/ai/chat", json={**asked, "messages": [question]}, headers=ADA)
    answer = (await history(http, session_id))[-1]
    await http.delete(f"{path}/{answer['id']}", headers=ADA)
    second = await http.post("/api/ai/chat", json={**asked, "messages": [question]}, headers=ADA)

    assert again.json()["response"], again.text
    assert again.json()["user_message_id"] == "aaa00000-0000-4000-8000-000000000002"
    assert answer["role"] == "assistant"
    assert "text-delta" in first.text
    assert "text-delta" in second.text
    assert [row["content"] for row in await history(http, session_id)][-2] == "Well?"


async def test_an_imported_answer_is_given_again_once_for_one_key(http: httpx.AsyncClient) -> None:
    lines = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    report = await imported(http, json.dumps({"messages": lines}))
    session_id = report["sessions"][0]["id"]
    answer = (await history(http, session_id))[-1]
    path = f"/api/sessions/{session_id}/messages/{answer['id']}/regenerate"
    headers = {**ADA, "idempotency-key": "once"}

    async def again() -> httpx.Response:
        return await http.post(path, json={}, headers=headers)

    answers = await asyncio.gather(*[again() for _ in range(4)])
    assert [answer.status_code for answer in answers] == [200] * 4, [a.text for a in answers]
    assert len({answer.json()["run_id"] for answer in answers}) == 1


async def test_open_webuis_tree_keeps_its_branches_tags_and_pin(http: httpx.AsyncClient) -> None:
    report = await imported(http, (FILES / "openwebui.json").read_bytes())
    [session_id] = [one["id"] for one in report["sessions"]]
    found = (await http.get(f"/api/sessions/{session_id}", headers=ADA)).json()

    shown = [row["content"] for row in await history(http, session_id)]
    whole = [row["content"] for row in await history(http, session_id, branch="all")]
    assert shown == ["Tell me about snakes.", "Some of them swim.", "Which?", "Sea snakes."]
    assert set(whole) - set(shown) == {"They have no legs."}
    assert found["name"] == "🐍 Snake facts"
    assert found["metadata"]["tags"] == ["animals", "biology"]
    assert found["metadata"]["pinned"] is True


async def test_tools_system_words_and_pictures_come_with_openais_form(
    http: httpx.AsyncClient,
) -> None:
    report = await imported(http, (FILES / "openai.jsonl").read_bytes())
    first, second, third, fourth = [one["id"] for one in report["sessions"]]

    rows = await history(http, first)
    assert [row["role"] for row in rows] == ["system", "user", "assistant", "tool", "assistant"]
    assert rows[2]["meta_data"]["tool_calls"][0]["args"] == {"left": 2, "right": 2}
    assert (await history(http, second))[0]["message_type"] == "image"
    # Two conversations that begin with the same word.
    assert [(await history(http, one))[1]["content"] for one in (third, fourth)] == ["one", "two"]


async def test_markdown_is_read_by_who_speaks(http: httpx.AsyncClient) -> None:
    report = await imported(http, (FILES / "notes.md").read_bytes())
    [session_id] = [one["id"] for one in report["sessions"]]
    found = (await http.get(f"/api/sessions/{session_id}", headers=ADA)).json()

    said = [(row["role"], row["content"]) for row in await history(http, session_id)]
    assert found["name"] == "Boiling an egg"
    assert [role for role, _ in said] == ["user", "assistant", "user", "assistant"]
    assert "is not a heading" in said[0][1]
    assert [text for _, text in said[1:]] == ["Six minutes.", "And a soft one?", "Four."]


async def test_a_longer_export_adds_what_is_new(http: httpx.AsyncClient) -> None:
    lines = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    more = [{"role": "user", "content": "how are you?"}, {"role": "assistant", "content": "fine"}]
    short = await imported(http, json.dumps({"messages": lines}))
    longer = await imported(http, json.dumps({"messages": [*lines, *more]}))
    again = await imported(http, json.dumps({"messages": [*lines, *more]}))
    shorter = await imported(http, json.dumps({"messages": lines}))
    [session_id] = [one["id"] for one in short["sessions"]]
    here = [row["content"] for row in await history(http, session_id)]
    await ask(http, session_id, "said here", ADA)
    elsewhere = [*lines, *more, {"role": "user", "content": "said elsewhere"}]
    both = await imported(http, json.dumps({"messages": elsewhere}))
    twice = await imported(http, json.dumps({"messages": elsewhere}))

    assert counts(short) == {"created": 1}
    assert counts(longer) == {"updated": 1}
    assert counts(again) == counts(shorter) == {"skipped": 1}
    assert here == ["hi", "hello", "how are you?", "fine"]
    # It has gone on here and there: what is here is not touched.
    assert counts(both) == {"created": 1}
    assert both["sessions"][0]["id"] != session_id
    assert counts(twice) == {"skipped": 1}
    assert len(await history(http, session_id)) == 6


@pytest.mark.parametrize(
    ("format", "branch"), [("json", "active"), ("jsonl", "all"), ("markdown", "all")]
)
async def test_what_is_exported_comes_back_equal(
    http: httpx.AsyncClient, services: Services, format: str, branch: str
) -> None:
    for name in FOREIGN:
        await imported(http, (FILES / name).read_bytes())
    own = await session(http, "hello", "add 2 3", assistant_id="tools", chat_type="general_chat")
    odd = "---> \\<!-- threadwell:message {} -->\n<!-- threadwell:session {} -->\n# User\r\n\n \x07"
    await ask(http, own, odd, ADA)
    await turned(http, await session(http, "one", "two", "three", assistant_id="chat"))
    before = await exported(http, format=format, branch=branch)
    of_one = await exported(http, own, format=format)
    everything = [row[0] for row in await services.db.tuples("SELECT thread_id FROM thread", {})]
    for id_ in everything:
        assert (await http.delete(f"/threads/{id_}", headers=ADA)).status_code == 204

    report = await imported(http, before)
    after = await exported(http, format=format, branch=branch)

    assert counts(report) == {"created": len(everything)}, report["errors"]
    assert after == before
    assert await exported(http, own, format=format) == of_one
    assert counts(await imported(http, after)) == {"skipped": len(everything)}


async def turned(http: httpx.AsyncClient, session_id: str) -> None:
    """Leave branches behind in a session: an answer given again, a question asked otherwise."""
    rows = await history(http, session_id)
    path = f"/api/sessions/{session_id}"
    again = await http.post(f"{path}/messages/{rows[-1]['id']}/regenerate", json={}, headers=ADA)
    assert again.status_code == 200, again.text
    other = {"query": "two, otherwise", "parent_id": rows[1]["id"]}
    assert (await http.post(f"{path}/messages", json=other, headers=ADA)).status_code == 200
    first = {"query": "one, otherwise", "parent_id": None}
    assert (await http.post(f"{path}/messages", json=first, headers=ADA)).status_code == 200
    back = {"message_id": rows[-1]["id"]}
    assert (await http.put(f"{path}/head", json=back, headers=ADA)).status_code == 200
    assert (await ask(http, session_id, "four", ADA)).status_code == 200


async def test_the_forms_of_others_are_written_as_they_are_read(http: httpx.AsyncClient) -> None:
    for name in ("openai.jsonl", "sharegpt.json"):
        await imported(http, (FILES / name).read_bytes())
    openai = await exported(http, format="openai")
    sharegpt = await exported(http, format="sharegpt")
    [one] = json.loads(await exported(http, json.loads(sharegpt)[0]["id"], format="sharegpt"))

    lines = [json.loads(line) for line in openai.splitlines()]
    given = [json.loads(line) for line in (FILES / "openai.jsonl").read_text().splitlines()]
    for item in (*lines, *given):
        for message in item["messages"]:
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    assert len(lines) == 6
    assert given[0] in lines
    assert given[2] in lines
    told = [[turn["value"] for turn in item["conversations"]] for item in json.loads(sharegpt)]
    assert [
        "Summarize the main ideas.",
        "Here are the main ideas.",
        "Shorter.",
        "One idea.",
    ] in told
    assert one in json.loads(sharegpt)


async def test_a_file_is_made_a_page_at_a_time_as_it_is_read(
    http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = await session(http, "one", "two", "three")
    whole = await exported(http, own, format="jsonl")
    pages: list[int] = []
    read = exchanges.messages_page

    async def counted(*args: Any, **more: Any) -> Any:
        page = await read(*args, **more)
        pages.append(len(page))
        return page

    monkeypatch.setattr(exporting, "PAGE", 2)
    monkeypatch.setattr(exchanges, "messages_page", counted)
    export = Export(db=services.db, format="jsonl", branch="active")
    chunks = export.one(await sessions.get(services.db, own, access=EVERYTHING))

    lines: list[bytes] = []
    async for chunk in chunks:
        lines += chunk.splitlines(keepends=True)
        # The session, and what came of the pages that were read.
        assert len(lines) <= 1 + sum(pages)
        assert sum(pages) <= len(lines) + 1
    assert pages == [2, 2, 2, 0]
    assert b"".join(lines).decode() == whole


async def test_a_file_of_somebody_elses_session_makes_one_of_ones_own(
    http: httpx.AsyncClient,
) -> None:
    about = {"members": {"eve": "editor"}, "team": "a"}
    session_id = await session(http, "hello", user_id="ada", metadata=about)
    await share(http, session_id, audience="users", users=["bob"])
    file = await exported(http, session_id, who=BOB)
    report = await imported(http, file, who=BOB)
    again = await imported(http, file, who=BOB)
    [own] = [one["id"] for one in report["sessions"]]
    found = (await http.get(f"/threads/{own}", headers=BOB)).json()["metadata"]

    assert "members" not in json.loads(file)["session"]["metadata"]
    assert own != session_id
    assert (counts(report), counts(again)) == ({"created": 1}, {"skipped": 1})
    assert (found["owner"], found["user_id"], found["team"]) == ("bob", "bob", "a")
    assert (await http.get(f"/threads/{own}", headers=ADA)).status_code == 404
    assert session_id not in await exported(http, who=BOB)


def branched(session_id: str) -> str:
    """A file of a conversation that turned twice; of one answer the model does not see any more."""
    said = [("a", None), ("b", "a"), ("c", "b"), ("d", "a"), ("e", "d"), ("f", None)]
    rows = [
        {
            "id": f"{session_id}-{id_}",
            "parent_id": parent and f"{session_id}-{parent}",
            "role": "user",
            "content": id_,
            "in_context": id_ != "b",
        }
        for id_, parent in said
    ]
    about = {"id": session_id, "head_message_id": f"{session_id}-c"}
    return json.dumps({"format": "threadwell", "version": 1, "session": about, "messages": rows})


async def told(http: httpx.AsyncClient, session_id: str) -> list[Any]:
    rows = await history(http, session_id, branch="all")
    return [(row["content"], row["on_branch"], row["in_context"]) for row in rows]


async def test_a_conversation_with_branches_that_comes_twice_at_once_is_there_once(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = str(uuid7())

    reports = await asyncio.gather(*(imported(http, branched(session_id)) for _ in range(3)))

    assert sorted(name for report in reports for name in counts(report)) == [
        "created", "skipped", "skipped",
    ]  # fmt: skip
    assert {one["id"] for report in reports for one in report["sessions"]} == {session_id}
    found = (await http.get(f"/threads/{session_id}", headers=ADA)).json()["metadata"]
    assert UNDER_WAY not in found


@pytest.mark.parametrize("written", range(1, 6))
async def test_an_import_that_broke_off_in_the_middle_is_begun_anew(
    http: httpx.AsyncClient,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    written: int,
) -> None:
    whole, session_id = str(uuid7()), str(uuid7())
    await imported(http, branched(whole))
    monkeypatch.setattr(importing, "_MORE_PAUSES_SECONDS", ())
    ending = adoption.end_with
    left = written

    async def breaking(*args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise UnavailableError("PostgreSQL is away")
        return await ending(*args)

    with monkeypatch.context() as patched:
        patched.setattr(adoption, "end_with", breaking)
        for _ in range(2):
            broken = await http.post(
                "/api/sessions/import", content=branched(session_id), headers=ADA
            )
            assert broken.status_code in (503, 409), broken.text
    assert broken.json()["code"] == "import_under_way", "whoever began it may be at it"
    await silent(services, session_id)
    report = await imported(http, branched(session_id))

    assert counts(report) == {"created": 1}
    assert [one["id"] for one in report["sessions"]] == [session_id]
    assert await told(http, session_id) == await told(http, whole)
    assert counts(await imported(http, branched(session_id))) == {"skipped": 1}


async def test_what_follows_a_message_that_was_deleted_stays_on_its_branch(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = str(uuid7())
    await imported(http, branched(session_id))
    async with services.db.transaction() as tx:
        for id_ in ("a", "d"):
            await tx.execute(
                "INSERT INTO message_deletion (conversation_id, message_id) VALUES (%(c)s, %(m)s)",
                {"c": session_id, "m": f"{session_id}-{id_}"},
            )

    for branch, parents in (
        ("all", {"b": None, "c": "b", "e": None, "f": None}),
        ("active", {"b": None, "c": "b"}),
    ):
        file = json.loads(await exported(http, session_id, branch=branch))
        found = {
            row["content"]: (row.get("parent_id") or "")[-1:] or None for row in file["messages"]
        }
        assert found == parents


async def silent(services: Services, session_id: str) -> None:
    """Have the import of a session be one that broke off a while ago."""
    async with services.db.transaction() as tx:
        for query in (
            "UPDATE thread SET updated_at = updated_at - interval '1 min' WHERE thread_id = %(id)s",
            "UPDATE message SET update_time = update_time - interval '1 min'"
            " WHERE conversation_id = %(id)s",
        ):
            await tx.execute(query, {"id": session_id})


async def test_what_somebody_said_in_a_session_half_imported_is_not_lost(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = str(uuid7())
    await imported(http, branched(session_id))
    await sessions.update(services.db, session_id, changes={UNDER_WAY: "x"}, access=EVERYTHING)
    assert (await ask(http, session_id, "mine", ADA)).status_code == 200
    await silent(services, session_id)
    before = await told(http, session_id)

    report = await imported(http, branched(session_id))

    assert counts(report) == {"skipped": 1}
    assert await told(http, session_id) == before
    found = (await http.get(f"/threads/{session_id}", headers=ADA)).json()["metadata"]
    assert UNDER_WAY not in found


async def test_a_file_of_one_conversation_is_refused_for_what_it_is(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
    for error, status in (
        (PermissionDeniedError("No"), 403),
        (QuotaError("Too many sessions", code="quota_exceeded"), 403),
        (TooLargeError("It is too large"), 413),
        (ConflictError("It has changed"), 409),
        (InvalidInputError("It is wrong"), 422),
    ):

        async def refusing(*args: Any, fault: Error = error, **kwargs: Any) -> Any:
            raise fault

        monkeypatch.setattr(importing.Importer, "_take", refusing)
        refused = await http.post("/api/sessions/import", content=one, headers=ADA)
        assert (refused.status_code, refused.json()["code"]) == (status, error.code)
        two = await imported(http, f"{one}\n{one}")
        assert [told["code"] for told in two["errors"]] == [error.code] * 2


async def test_what_a_file_has_for_a_time_breaks_nothing(
    http: httpx.AsyncClient, services: Services
) -> None:
    times = ["x", "infinity", "0001-01-01T00:00:00+00:00", "2024-01-01T00:00:00+23:00"]
    said = [
        {
            "id": f"m{number}",
            "role": "user",
            "content": at,
            "create_time": "2024-01-01T00:00:00+23:00",
            "meta_data": {"additional_kwargs": {"created_at": at, "kept": 1}},
        }
        for number, at in enumerate(times)
    ]
    for one in said[:2]:
        del one["create_time"]
    file = {"format": "threadwell", "version": 1, "session": {}, "messages": said}
    [own] = [one["id"] for one in (await imported(http, json.dumps(file)))["sessions"]]
    before = await history(http, own)

    async with open_saver(services.db) as saver:
        done = await messages.rebuild(
            services.db, saver, thread_id=own,
            channel_of=services.registry.channel_of, fold_of=services.registry.fold_of,
        )  # fmt: skip
    forked = await http.post(f"/api/sessions/{own}/fork", json={}, headers=ADA)

    assert (done.threads, await history(http, own)) == (1, before)
    assert forked.status_code in (200, 201), forked.text
    kept = [row["meta_data"]["additional_kwargs"] for row in before]
    assert kept == [{"kept": 1}] * 2 + [{"kept": 1, "created_at": "2023-12-31T01:00:00+00:00"}] * 2
    assert [row["create_time"][:10] for row in before[2:]] == ["2023-12-31"] * 2


async def test_what_cannot_be_read_is_told_and_the_rest_comes_in(http: httpx.AsyncClient) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}]}
    deep: Any = "x"
    for _ in range(80):
        deep = [deep]
    called = {"id": "a", "role": "assistant", "content": "x", "meta_data": {"tool_calls": ["x"]}}
    no_calls = {"format": "threadwell", "version": 1, "session": {}, "messages": [called]}
    bad = [
        5,
        {"a": 1},
        {"messages": []},
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": "x", "deep": deep}]},
        {"mapping": {"a": {"message": None, "parent": "a"}}},
        {"chat": {"history": {"messages": {"a": {"id": "a", "role": "user", "content": "x", "parentId": "b"}}}}},
        {"format": "threadwell", "session": {"id": "x", "metadata": 5}, "messages": []},
        {"format": "threadwell", "version": 9, "session": {}, "messages": []},
        {"format": "threadwell", "session": {"name": "x", "status": "odd"}, "messages": [{"id": "a", "role": "user", "content": "x"}]},
        {"type": "constructor", "id": ["langchain", "schema", "messages", "HumanMessage"], "lc": 1, "kwargs": {"content": "x"}},
        no_calls,
    ]  # fmt: skip
    report = await imported(http, json.dumps([good, *bad]))

    assert counts(report) == {"created": 1, "failed": len(bad)}
    assert [error["index"] for error in report["errors"]] == list(range(1, len(bad) + 1))
    assert all(error["detail"] and error["code"] for error in report["errors"])

    for content, status, code in (
        ("", 422, "invalid_input"),
        ("   ", 422, "unknown_format"),
        ("[", 422, "invalid_json"),
        ("nobody speaks", 422, "unknown_format"),
        (b"PK\x03\x04zip", 422, "unknown_format"),
        (b"\xff\xfe", 422, "unknown_format"),
        ("x" * (5 * 2**20), 413, "too_large"),
        (json.dumps(no_calls), 422, "invalid_message"),
    ):
        refused = await http.post("/api/sessions/import", content=content, headers=ADA)
        assert (refused.status_code, refused.json()["code"]) == (status, code), content[:9]
    broken = await imported(http, json.dumps(good) + "\n{")
    assert counts(broken) == {"skipped": 1, "failed": 1}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("conversations.json", json.dumps([good]))
    for name, file in (("x.json", json.dumps(good)), ("x.zip", packed.getvalue())):
        form = await http.post("/api/sessions/import", files={"file": (name, file)}, headers=ADA)
        assert counts(form.json()) == {"skipped": 1}
    nameless = await http.post("/api/sessions/import", files={"other": ("x", "y")}, headers=ADA)
    assert nameless.status_code == 422


async def test_a_long_import_goes_on_in_the_background(
    http: httpx.AsyncClient, services: Services
) -> None:
    many = 30
    lines = "\n".join(
        json.dumps({"messages": [{"role": "user", "content": f"question {n}"}]})
        for n in range(many)
    )
    params = {"background": "true"}
    begun = await http.post("/api/sessions/import", content=lines, params=params, headers=ADA)
    assert begun.status_code == 202
    path = begun.headers["location"]
    async for found in progress(http, path):
        assert found["position"] <= many
    refused = await http.get(path, headers=BOB)
    again = await http.post("/api/sessions/import", content=lines, params=params, headers=ADA)
    async for _ in progress(http, again.headers["location"]):
        pass
    done = (await http.get(again.headers["location"], headers=ADA)).json()

    assert found["status"] == "success"
    assert counts(found) == {"created": many}
    assert found["done_bytes"] == found["size_bytes"] == len(lines)
    assert counts(done) == {"skipped": many}
    assert refused.status_code == 404
    assert await services.db.tuples("SELECT 1 FROM import_part", {}) == []
    owners = await services.db.tuples("SELECT DISTINCT metadata ->> 'owner' FROM thread", {})
    assert owners == [("ada",)]


async def an_import(services: Services, many: int) -> tuple[exchanges.Import, Job]:
    """An import of Ada's that no process knows of, and a job to do it."""
    lines = [{"messages": [{"role": "user", "content": f"question {n}"}]} for n in range(many)]
    content = json.dumps(lines).encode()
    with pytest.MonkeyPatch.context() as patch:
        # The server's own worker would take it up at its next look, before the test is done with it.
        patch.setattr("store.exchanges.jobs.enqueue", AsyncMock())
        begun = await exchanges.begin(
            services.db,
            str(uuid7()),
            owner="ada",
            request={"format": "auto", "dry_run": False, "user": {"identity": "ada"}},
            report={**Report().json(), "done_bytes": 0},
            size_bytes=len(content),
            parts=[content[:99], content[99:]],
        )
    job = Job(
        job_id=0, kind="import", payload={"import_id": begun.import_id}, attempt=1,
        created_at=begun.created_at,
    )  # fmt: skip
    return begun, job


async def test_an_import_that_two_are_at_work_on_is_counted_once(
    http: httpx.AsyncClient, services: Services
) -> None:
    many = 8
    begun, job = await an_import(services, many)
    jobs = ImportJobs(db=services.db, importer=services.importer, authority=services.authority)

    await asyncio.gather(jobs.work(job), jobs.work(job))
    await jobs.work(job)
    done = (await http.get(f"/api/imports/{begun.import_id}", headers=ADA)).json()

    assert (done["status"], done["position"]) == ("success", many)
    assert sum(counts(done).values()) == many
    assert done["errors"] == []
    assert await services.db.tuples("SELECT count(*) FROM thread", {}) == [(many,)]


async def test_an_import_goes_on_where_the_job_before_left_it(
    http: httpx.AsyncClient, services: Services
) -> None:
    many = 6
    begun, job = await an_import(services, many)
    a_bit_at_a_time = ImportJobs(
        db=services.db, importer=services.importer, authority=services.authority,
        slice_seconds=0, tell_seconds=0,
    )  # fmt: skip

    await asyncio.gather(*[a_bit_at_a_time.work(job) for _ in range(3)])
    async for found in progress(http, f"/api/imports/{begun.import_id}"):
        assert found["position"] == sum(counts(found).values()) <= many

    assert found["status"] == "success"
    assert found["errors"] == []
    assert await services.db.tuples("SELECT count(*) FROM thread", {}) == [(many,)]
    assert await services.db.tuples("SELECT count(*) FROM import_part", {}) == [(0,)]


async def test_an_import_that_is_given_up_has_ended_at_once(
    http: httpx.AsyncClient, services: Services
) -> None:
    begun, job = await an_import(services, 6)
    jobs = ImportJobs(
        db=services.db, importer=services.importer, authority=services.authority,
        slice_seconds=0, tell_seconds=0,
    )  # fmt: skip
    await jobs.work(job)
    give_up = jobs.kind().give_up
    assert give_up is not None
    path = f"/api/imports/{begun.import_id}"

    await give_up(job, "it was tried in vain")
    given_up = (await http.get(path, headers=ADA)).json()
    await jobs.work(job)

    assert (given_up["status"], given_up["created"]) == ("error", 1)
    assert (await http.get(path, headers=ADA)).json() == given_up
    assert await services.db.tuples("SELECT 1 FROM import_part", {}) == []


async def progress(http: httpx.AsyncClient, path: str) -> AsyncIterator[dict[str, Any]]:
    """How far an import is, until it has ended."""
    found: dict[str, Any] = {"status": "pending"}
    for _ in range(2000):
        found = (await http.get(path, headers=ADA)).json()
        yield found
        if found["status"] in ("success", "error"):
            return
    raise AssertionError(f"the import has not ended: {found}")
