"""Erasures and exports of users whose processes are killed or frozen in the middle of them."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx

from tests.acceptance.talk import says
from tests.faults.cluster import Cluster, freeze, kill, thaw
from tests.faults.runs import Http, measured, until
from tests.measured import value
from tests.soak.cluster import Member

DEADLINE_SECONDS = 60.0
HELD = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""
CLAIMED = "SELECT FROM job WHERE kind = %s AND attempt > 0"


async def talk(http: httpx.AsyncClient, user: str) -> str:
    """A session of somebody's."""
    made = await http.post("/threads", json={"metadata": {"owner": user}})
    thread_id = str(made.json()["thread_id"])
    run = {"assistant_id": "chat", "input": says(f"said by {user}")}
    answer = await http.post(f"/threads/{thread_id}/runs/wait", json=run)
    assert answer.status_code == 200, answer.text
    return thread_id


async def begun_and_killed(
    cluster: Cluster, http: httpx.AsyncClient, method: str, path: str, kind: str
) -> str:
    """Have it asked for, and every process killed while it reads or deletes messages; its id."""
    with cluster.connect() as connection:
        connection.execute("LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
        begun = (await http.request(method, path)).json()
        await until(lambda: cluster.sql(CLAIMED, kind) and cluster.sql(HELD))
        await asyncio.gather(*(kill(member) for member in cluster.members))
    cluster.revive()
    await asyncio.to_thread(cluster.wait_until_up)
    return str(begun["id"])


async def done(http: httpx.AsyncClient, user: str, job_id: str) -> Any:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            job = (await http.get(f"/api/users/{user}/jobs/{job_id}")).json()
            if job["status"] not in ("pending", "running"):
                return job
            await asyncio.sleep(0.1)


async def test_an_export_whose_processes_are_killed_is_whole_and_has_nothing_twice(
    cluster: Cluster, http: Http
) -> None:
    user = f"ada-{uuid4()}"
    talked = {await talk(http[0], user) for _ in range(3)}
    path = f"/api/users/{user}/export"

    job_id = await begun_and_killed(cluster, http[0], "POST", path, "user_export")
    job = await done(http[1], user, job_id)

    assert (job["status"], job["error"]) == ("success", None)
    lines = [json.loads(line) for line in (await http[1].get(path)).text.splitlines()]
    ids = [line["id"] for line in lines if line["type"] == "session"]
    assert (set(ids), len(ids)) == (talked, 3)
    assert [line["type"] for line in lines].count("message") == job["report"]["message"] == 6


async def test_an_erasure_whose_processes_are_killed_is_done_and_recorded_once(
    cluster: Cluster, http: Http
) -> None:
    user = f"bob-{uuid4()}"
    talked = [await talk(http[0], user) for _ in range(3)]

    path = f"/api/users/{user}/data"
    job_id = await begun_and_killed(cluster, http[0], "DELETE", path, "user_erasure")
    job = await done(http[1], user, job_id)

    assert (job["status"], job["report"]["sessions"]) == ("success", 3)
    for table, column in (
        ("thread", "thread_id"),
        ("message", "conversation_id"),
        ("checkpoints", "thread_id"),
    ):
        assert cluster.sql(f"SELECT FROM {table} WHERE {column} = ANY(%s)", talked) == []
    acts = cluster.sql(
        "SELECT act FROM audit WHERE owner = %s AND act ~ 'erasure' ORDER BY 1", user
    )
    assert acts == [("erasure.done",), ("erasure.requested",)]


async def whose(cluster: Cluster, http: Http) -> Member:
    """The process that does the only job there is."""
    for server, client in zip(cluster.servers, http, strict=True):
        if value(await measured(client), "threadwell_jobs_active"):
            return server
    return cluster.worker


async def test_an_export_whose_process_freezes_is_done_by_another_and_only_once(
    cluster: Cluster, http: Http
) -> None:
    user = f"eve-{uuid4()}"
    await talk(http[0], user)
    path = f"/api/users/{user}/export"
    with cluster.connect() as connection:
        connection.execute("LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
        begun = (await http[0].post(path)).json()
        await until(lambda: cluster.sql(CLAIMED, "user_export") and cluster.sql(HELD))
        frozen = await whose(cluster, http)
        freeze(frozen)
    answering = http[1] if frozen is cluster.servers[0] else http[0]

    job = await done(answering, user, begun["id"])
    thaw(frozen)
    cluster.wait_until_up()
    await until(lambda: not cluster.sql("SELECT FROM job"))

    assert (job["status"], job["report"]["message"]) == ("success", 2)
    assert (await answering.get(f"/api/users/{user}/jobs/{begun['id']}")).json() == job
    lines = [json.loads(line) for line in (await answering.get(path)).text.splitlines()]
    assert [line["type"] for line in lines].count("message") == 2
