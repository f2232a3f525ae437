import uuid
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError

from api.bootstrap import Services
from graph import value_search
from store import new_runs
from store.access import EVERYTHING
from store.new_runs import NewRun
from tests.api.conftest import Run

UNKNOWN = "00000000-0000-7000-8000-000000000000"


async def test_a_created_thread_is_read_back(client: LangGraphClient) -> None:
    created = await client.threads.create(metadata={"colour": "red"})

    read = await client.threads.get(created["thread_id"])

    assert read == created
    assert list(read) == [
        "thread_id", "created_at", "updated_at", "state_updated_at", "metadata", "status",
        "config", "values", "error", "interrupts",
    ]  # fmt: skip
    assert (read["metadata"], read["status"], read["values"]) == ({"colour": "red"}, "idle", None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("01A2B3C4-0000-7000-8000-00000000ABCD", "01a2b3c4-0000-7000-8000-00000000abcd"),
        ("01a2b3c40000700080000000000abcd0", "01a2b3c40000700080000000000abcd0"),
    ],
)
async def test_an_id_keeps_its_form(client: LangGraphClient, given: str, kept: str) -> None:
    created = await client.threads.create(thread_id=given)

    assert created["thread_id"] == kept
    assert (await client.threads.get(given))["thread_id"] == kept


async def test_an_id_that_is_taken_is_refused_unless_it_may_exist(client: LangGraphClient) -> None:
    first = await client.threads.create(metadata={"a": 1})

    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=first["thread_id"])
    again = await client.threads.create(
        thread_id=first["thread_id"], metadata={"a": 2}, if_exists="do_nothing"
    )

    assert again["metadata"] == {"a": 1}


async def test_metadata_that_only_the_server_writes_is_stripped(client: LangGraphClient) -> None:
    created = await client.threads.create(metadata={"run_id": "x", "thread_id": "y", "a": "z"})
    updated = await client.threads.update(created["thread_id"], metadata={"assistant_id": "x"})

    assert created["metadata"] == {"a": "z"}
    assert updated["metadata"] == {"a": "z"}


async def test_nul_becomes_the_replacement_character(http: httpx.AsyncClient) -> None:
    content = rb'{"metadata": {"nul": "a\u0000b", "text": "\\u0000"}}'

    created = (await http.post("/threads", content=content)).json()

    assert created["metadata"] == {"nul": "a\ufffdb", "text": "\\u0000"}


async def test_an_update_merges_metadata(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    thread_id = (await client.threads.create(metadata={"a": 1, "b": 1}))["thread_id"]

    updated = await client.threads.update(thread_id, metadata={"b": 2})
    minimal = await http.patch(
        f"/threads/{thread_id}",
        json={"metadata": {"c": 3}},
        headers={"Prefer": "return=minimal"},
    )

    assert updated["metadata"] == {"a": 1, "b": 2}
    assert (minimal.status_code, minimal.content) == (204, b"")
    assert (await client.threads.get(thread_id))["metadata"] == {"a": 1, "b": 2, "c": 3}


async def test_a_deleted_thread_is_gone(client: LangGraphClient, run: Run) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await run(thread_id, "steps", {"text": "a"})

    await client.threads.delete(thread_id)

    with pytest.raises(NotFoundError):
        await client.threads.get(thread_id)
    with pytest.raises(NotFoundError):
        await client.threads.delete(thread_id)


async def test_search_finds_by_metadata_ids_and_status(
    client: LangGraphClient, services: Services
) -> None:
    red = (await client.threads.create(metadata={"colour": "red"}))["thread_id"]
    blue = (await client.threads.create(metadata={"colour": "blue"}))["thread_id"]
    await new_runs.enqueue(services.db, _new_run(blue))

    async def found(**search: Any) -> list[str]:
        return [thread["thread_id"] for thread in await client.threads.search(**search)]

    assert await found(metadata={"colour": "red"}) == [red]
    assert await found(ids=[blue, UNKNOWN]) == [blue]
    assert await found(status="busy") == [blue]
    assert await found(sort_by="created_at", sort_order="asc") == [red, blue]
    assert await client.threads.count(metadata={"colour": "red"}) == 1
    assert await client.threads.count(status="idle") == 1


async def test_no_more_ids_are_searched_for_than_a_page_holds(http: httpx.AsyncClient) -> None:
    refused = await http.post("/threads/search", json={"ids": [UNKNOWN] * 1001})

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    assert refused.json()["detail"].startswith("ids: ")


@pytest.mark.parametrize("more", [{}, {"metadata": {"a": 1}}, {"ids": [UNKNOWN]}])
async def test_a_page_far_beyond_the_last_one_is_empty(
    http: httpx.AsyncClient, more: dict[str, Any]
) -> None:
    found = await http.post("/threads/search", json={"offset": 2**53 - 1, **more})

    assert (found.status_code, found.json()) == (200, [])


async def test_pages_tell_where_the_next_one_begins(http: httpx.AsyncClient) -> None:
    for _ in range(3):
        await http.post("/threads", json={})

    first = await http.post("/threads/search", json={"limit": 2})
    last = await http.post("/threads/search", json={"limit": 2, "offset": 2})

    assert (len(first.json()), len(last.json())) == (2, 1)
    assert first.headers["x-pagination-next"] == "2"
    assert first.headers["x-pagination-total"] == "3"
    assert "x-pagination-next" not in last.headers
    assert last.headers["x-pagination-total"] == "3"


async def test_search_shows_values_and_only_what_is_selected(
    client: LangGraphClient, run: Run
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await client.threads.create()
    await run(thread_id, "steps", {"text": "a"})

    whole = await client.threads.search(sort_by="created_at", sort_order="asc")
    part: Any = await client.threads.search(ids=[thread_id], select=["thread_id", "values"])

    assert [thread["values"] for thread in whole] == [
        {"text": "a", "log": ["first", "second"]},
        None,
    ]
    assert part == [{"thread_id": thread_id, "values": whole[0]["values"]}]


async def test_search_finds_by_values_and_extracts_from_them(
    client: LangGraphClient, run: Run, http: httpx.AsyncClient
) -> None:
    ids = [(await client.threads.create(metadata={"n": n}))["thread_id"] for n in range(4)]
    await run(ids[0], "steps", {"text": "a"})
    await run(ids[1], "ask", {"text": "a"})
    await run(ids[2], "chat", {"messages": [{"role": "user", "content": "hello"}]})

    async def found(values: Any, **search: Any) -> list[str]:
        page = await client.threads.search(values=values, sort_by="created_at", **search)
        assert await client.threads.count(values=values, metadata=search.get("metadata")) == len(
            page
        )
        return [ids[ids.index(thread["thread_id"])] for thread in page]

    assert await found({"text": "a"}) == [ids[1], ids[0]]
    assert await found({"text": "a"}, metadata={"n": 0}) == [ids[0]]
    assert await found({"log": ["second"]}) == [ids[0]]
    assert await found({"messages": [{"type": "ai"}, {"content": "hello"}]}) == [ids[2]]
    assert await found({"text": None}) == []
    first = await http.post("/threads/search", json={"values": {"text": "a"}, "limit": 1})
    assert (first.headers["x-pagination-next"], len(first.json())) == ("1", 1)

    extracted: Any = await client.threads.search(
        ids=ids[1:],
        select=["metadata"],
        sort_by="created_at",
        extract={
            "said": "values.messages[-1].type",
            "text": "values.text",
            "n": "metadata.n",
            "asked": "interrupts",
            "nothing": "config.configurable.nothing[3]",
        },
    )
    assert [each["extracted"]["said"] for each in extracted] == [None, "ai", None]
    assert [each["extracted"]["text"] for each in extracted] == [None, None, "a"]
    assert [each["extracted"]["n"] for each in extracted] == [3, 2, 1]
    assert {*extracted[0]} == {"metadata", "extracted"}
    assert extracted[0]["extracted"]["nothing"] is None


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"extract": {"values": "values.a"}}, "Extract keys cannot use reserved field names"),
        ({"extract": {"a-b": "values.a"}}, "Extract key 'a-b' must be a valid identifier"),
        ({"extract": {"a": "status"}}, "Extract path 'status' must start with one of: config"),
        ({"extract": {"a": "{values}"}}, "Extract path '{values}' must start with one of"),
        ({"extract": {"a": ""}}, "Extract path for 'a' must be a non-empty string"),
        ({"extract": {f"k{n}": "values.a" for n in range(11)}}, "No more than 10 paths"),
        ({"values": {"a": list(range(100))}}, "No more than 100 values"),
    ],
)
async def test_a_search_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, body: Any, detail: str
) -> None:
    refused = await http.post("/threads/search", json=body)

    assert (refused.status_code, refused.json()["detail"][: len(detail)]) == (422, detail)


async def test_a_search_by_values_is_complete_or_fails(
    http: httpx.AsyncClient, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever would have to be left out of it."""
    for n in range(4):
        thread_id = str(uuid.uuid4())
        await http.post("/threads", json={"thread_id": thread_id, "metadata": {"n": n}})
        await run(thread_id, "steps", {"text": "ab"[n % 2]})
    monkeypatch.setattr(value_search, "BATCH", 2)
    monkeypatch.setattr(value_search, "MAX_CANDIDATES", 2)
    search = {"values": {"log": ["second"]}, "sort_by": "created_at"}

    too_many = await http.post("/threads/search", json=search)
    counted = await http.post("/threads/count", json={"values": search["values"]})
    narrowed = await http.post("/threads/search", json={**search, "metadata": {"n": 1}})
    page = await http.post("/threads/search", json={**search, "limit": 1})
    text = await http.post("/threads/count", json={"values": {"text": "a"}})

    for refused in (too_many, counted):
        assert (refused.status_code, refused.json()["code"]) == (422, "too_many_threads")
    assert [thread["metadata"]["n"] for thread in narrowed.json()] == [1]
    assert [thread["metadata"]["n"] for thread in page.json()] == [3]
    assert text.json() == 2


async def test_searches_by_values_wait_for_one_another_but_not_for_ever(
    http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_search, "SEARCH_SECONDS", 0.05)
    turn = services.value_search._turn
    for _ in range(value_search.AT_ONCE):
        await turn.acquire()

    refused = await http.post("/threads/search", json={"values": {"a": 1}})
    turn.release()
    answered = await http.post("/threads/search", json={"values": {"a": 1}})

    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert answered.json() == []


async def test_a_copy_goes_its_own_way(client: LangGraphClient) -> None:
    thread = await client.threads.create(metadata={"a": 1})
    source = thread["thread_id"]
    await client.runs.wait(source, "nested_ask", input={"text": "a"})

    await client.threads.copy(source)
    [copied] = await client.threads.search(sort_by="created_at", limit=1)

    target = copied["thread_id"]
    original = await client.threads.get(source)
    same = ("metadata", "status", "values", "interrupts", "config", "error")
    assert target != source
    assert {key: copied[key] for key in same} == {key: original[key] for key in same}  # type: ignore[literal-required]
    states = [await client.threads.get_history(each, limit=9) for each in (source, target)]
    assert [s["checkpoint"]["checkpoint_id"] for s in states[0]] == [
        s["checkpoint"]["checkpoint_id"] for s in states[1]
    ]
    assert {s["checkpoint"]["thread_id"] for s in states[1]} == {target}
    values: Any = await client.runs.wait(target, "nested_ask", command={"resume": "yes"})
    assert "answered yes" in values["log"]
    assert await client.threads.get(source) == original
    await client.threads.delete(source)
    assert (await client.threads.get_state(target))["values"] == values
    with pytest.raises(NotFoundError):
        await client.threads.copy(source)


async def test_threads_are_pruned_or_deleted_by_the_dozen(
    client: LangGraphClient, http: httpx.AsyncClient, run: Run
) -> None:
    ids = [(await client.threads.create())["thread_id"] for _ in range(3)]
    for thread_id in ids:
        await run(thread_id, "steps", {"text": "a"})
    await client.runs.create(ids[2], "steps", after_seconds=3600)

    kept = await client.threads.prune([*ids, ids[0], UNKNOWN], strategy="keep_latest")

    assert kept == {"pruned_count": 2}, "not the one that is busy"
    assert [len(await client.threads.get_history(each, limit=9)) for each in ids] == [1, 1, 4]
    assert ((await client.threads.get(ids[0]))["values"] or {})["text"] == "a"
    assert await client.threads.prune(ids[1:]) == {"pruned_count": 2}
    assert [each["thread_id"] for each in await client.threads.search(ids=ids)] == ids[:1]
    assert (await http.post("/threads/prune", json={"thread_ids": []})).json() == {
        "pruned_count": 0
    }
    for body in ({}, {"thread_ids": ["x"]}, {"thread_ids": [], "strategy": "x"}):
        assert (await http.post("/threads/prune", json=body)).status_code == 422


async def test_a_thread_tells_what_it_takes(http: httpx.AsyncClient, run: Run) -> None:
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    empty = (await http.get(f"/threads/{thread_id}/storage")).json()
    await run(thread_id, "steps", {"text": "a"})

    taken = (await http.get(f"/threads/{thread_id}/storage")).json()

    assert (empty["total_bytes"], empty["channel_values"]["by_channel"]) == (0, {})
    assert taken["checkpoints"]["count"] == 4
    assert taken["channel_values"]["by_channel"]["log"]["versions"] == 2
    assert taken["pending_writes"]["count"] > 0
    assert taken["total_bytes"] == sum(
        taken[part]["bytes"] for part in ("checkpoints", "channel_values", "pending_writes")
    )


async def test_a_thread_may_begin_with_states(client: LangGraphClient) -> None:
    steps: Any = [
        {"updates": [{"values": {"text": "a"}, "as_node": "__start__"}]},
        {"updates": [{"values": {"log": ["given"]}, "as_node": "first"}]},
        {
            "updates": [
                {"values": None, "command": {"update": {"log": ["said"]}}, "as_node": "second"}
            ]
        },
    ]
    created = await client.threads.create(graph_id="steps", supersteps=steps[:2])
    thread_id = created["thread_id"]
    again = await client.threads.create(
        thread_id=thread_id, graph_id="steps", if_exists="do_nothing", supersteps=steps[:2]
    )
    whole = await client.threads.create(graph_id="steps", supersteps=steps)

    assert (created["status"], created["values"]) == (
        "interrupted", {"text": "a", "log": ["given"]},
    )  # fmt: skip
    assert again == created
    assert (whole["status"], whole["values"]) == ("idle", {"text": "a", "log": ["given", "said"]})
    assert len(await client.threads.get_history(thread_id, limit=9)) == 2
    values: Any = await client.runs.wait(thread_id, "steps", input=None)
    assert values["log"] == ["given", "second"]


@pytest.mark.parametrize(
    ("metadata", "update", "status"),
    [
        ({}, {"values": {"log": ["a"]}, "as_node": "first"}, 400),
        ({"graph_id": "nothing"}, {"values": {"log": ["a"]}, "as_node": "first"}, 404),
        ({"graph_id": "bad"}, {"values": {"log": ["a"]}, "as_node": "first"}, 424),
        ({"graph_id": "steps"}, {"values": {"log": ["a"]}, "as_node": "nothing"}, 400),
        ({"graph_id": "steps"}, {"values": {"log": ["a"]}}, 422),
    ],
)
async def test_a_thread_whose_states_make_no_sense_is_not_made(
    http: httpx.AsyncClient, metadata: Any, update: Any, status: int
) -> None:
    good = {"updates": [{"values": {"text": "a"}, "as_node": "__start__"}]}
    body = {"metadata": metadata, "supersteps": [good, {"updates": [update]}]}

    refused = await http.post("/threads", json=body)

    assert refused.status_code == status, refused.text
    assert (await http.post("/threads/count", json={})).json() == 0


def _new_run(thread_id: str) -> NewRun:
    return NewRun(
        run_id=str(uuid.uuid4()),
        thread_id=thread_id,
        assistant_id=str(uuid.uuid4()),
        multitask_strategy="enqueue",
        metadata={},
        kwargs={},
        thread_metadata={},
        access=EVERYTHING,
        # Nobody takes it up while the test lasts.
        after_seconds=3600,
    )


async def test_a_thread_lives_as_long_as_it_was_given(http: httpx.AsyncClient) -> None:
    created = (await http.post("/threads", json={"ttl": {"ttl": 5}})).json()
    url = f"/threads/{created['thread_id']}"
    assert "ttl" not in (await http.get(url)).json()

    life = (await http.get(url, params={"include": "ttl"})).json()["ttl"]
    assert (life["ttl_minutes"], life["strategy"]) == (5, "delete")
    seconds = datetime.fromisoformat(life["expires_at"]) - datetime.fromisoformat(
        created["updated_at"]
    )
    assert seconds == timedelta(minutes=5)

    await http.patch(url, json={"ttl": {"ttl": 60, "strategy": "keep_latest"}})

    life = (await http.get(url, params={"include": "ttl"})).json()["ttl"]
    assert (life["ttl_minutes"], life["strategy"]) == (60, "keep_latest")


@pytest.mark.parametrize("ttl", [5, {"ttl": 0}, {"ttl": 1, "strategy": "forget"}, {}])
async def test_a_life_that_makes_no_sense_is_refused(http: httpx.AsyncClient, ttl: Any) -> None:
    assert (await http.post("/threads", json={"ttl": ttl})).status_code == 422
