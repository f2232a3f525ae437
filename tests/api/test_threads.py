import uuid
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError

from api.bootstrap import Services
from store import queue
from store.access import EVERYTHING
from store.queue import NewRun
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
    await queue.enqueue(services.db, _new_run(blue))

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


async def test_what_is_not_supported_is_refused_rather_than_ignored(
    http: httpx.AsyncClient,
) -> None:
    unsupported: list[tuple[str, dict[str, Any]]] = [
        ("/threads", {"supersteps": [{"updates": []}]}),
        ("/threads/search", {"values": {"a": 1}}),
        ("/threads/search", {"extract": {"a": "values.a"}}),
        ("/threads/count", {"values": {"a": 1}}),
    ]
    for path, body in unsupported:
        refused = await http.post(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (501, "unsupported"), body
        assert (await http.post(path, json=dict.fromkeys(body))).status_code == 200, body


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
