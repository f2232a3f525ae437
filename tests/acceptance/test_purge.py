"""A session that is purged is gone: from every table, for every late writer, but for knowing that it was."""

import asyncio
from typing import Any

import httpx
from langgraph_sdk.client import LangGraphClient
from redis.asyncio import Redis

from api.processes.embedded import Servers
from tests.acceptance.conftest import Sql
from tests.acceptance.gate import Gate
from tests.acceptance.talk import says

TABLES = """
SELECT table_name
FROM information_schema.tables
WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'
"""
#: How an id looks as text, and within bytes.
WHERE = "strpos(t::text, %s) > 0 OR strpos(t::text, encode(convert_to(%s, 'UTF8'), 'hex')) > 0"


def traces(sql: Sql, session_id: str) -> dict[str, int]:
    """How many rows of which tables have the id of a session anywhere."""
    found = {}
    for (table,) in sql(TABLES):
        [(count,)] = sql(
            f'SELECT count(*) FROM "{table}" AS t WHERE {WHERE}', session_id, session_id
        )
        found[table] = count
    return {table: count for table, count in found.items() if count}


async def published(http: httpx.AsyncClient, sql: Sql) -> None:
    """Wait until all that happened so far was told: there is somebody who listens."""
    async with asyncio.timeout(30), http.stream("GET", "/api/events"):
        while sql("SELECT FROM outbox"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def session_with_all_there_is(http: httpx.AsyncClient) -> str:
    """The id of a session that has messages, an opinion and a cron."""
    attributes = {"assistant_id": "chat", "tags": ["a"], "folder": "f"}
    session_id = (await http.post("/api/sessions", json=attributes)).json()["id"]
    path = f"/api/sessions/{session_id}"
    for query in ("hello", "again"):
        said = (await http.post(f"{path}/messages", json={"query": query})).json()
    await http.put(f"{path}/messages/{said['id']}/feedback", json={"score": 1})
    cron = {"schedule": "0 0 1 1 *", "assistant_id": "chat", "input": says("x")}
    await http.post(f"/threads/{session_id}/runs/crons", json=cron)
    return str(session_id)


async def test_a_purge_leaves_nothing_and_what_is_written_late_brings_nothing_back(
    http: httpx.AsyncClient,
    other_http: httpx.AsyncClient,
    client: LangGraphClient,
    gate: Gate,
    servers: Servers,
    sql: Sql,
) -> None:
    session_id = await session_with_all_there_is(http)
    path = f"/api/sessions/{session_id}"
    gate.hold("job:b")
    work: dict[str, Any] = {"gate": gate.port, "name": "job", **says("hello")}
    run = await client.runs.create(session_id, "talking_steps", input=work)
    await client.runs.create(session_id, "chat", input=says("queued"))
    await gate.arrived("job:b")
    before = traces(sql, session_id)

    # By another process than the one that runs it.
    gone = await other_http.delete(path, params={"purge": "true"})

    assert gone.status_code == 204
    await gate.left("job:b")
    await client.runs.join(session_id, run["run_id"])
    assert {"thread", "run", "message", "checkpoints", "checkpoint_writes"} <= before.keys()
    await published(http, sql)
    for _ in range(3):
        # That it was purged is told, once, to who listens and in the audit log; and nothing else of it.
        assert traces(sql, session_id) == {"tombstone": 1, "change": 1, "audit": 1}
        await asyncio.gather(
            *(client.runs.wait(None, "chat", input=says("something else")) for _ in range(4))
        )
    async with Redis.from_url(servers.redis_url) as redis:
        assert await redis.keys(f"*{session_id}*") == []
    for method, late in (("GET", path), ("PATCH", path), ("GET", f"{path}/messages")):
        assert (await http.request(method, late, json={})).status_code == 404
    [(told, data, seen_by)] = sql(
        "SELECT name, data, seen_by FROM change WHERE thread_id = %s", session_id
    )
    assert told == "session.purged"
    assert "hello" not in f"{data} {seen_by}"
    # What stands where it was says nothing of what it was.
    tombstone = sql("SELECT seen_by FROM tombstone WHERE thread_id = %s", session_id)
    assert tombstone == [({},)]
    restored = await http.post(f"{path}/restore")
    assert (restored.status_code, restored.json()["code"]) == (410, "gone")
    listed = await http.get("/api/sessions", params={"status": "all", "limit": 100})
    assert session_id not in {row["id"] for row in listed.json()["data"]}
