"""Many runs at once, runs that meet on one thread, and runs that are stopped."""

import asyncio
from itertools import pairwise
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError

from tests.acceptance.conftest import Sql
from tests.acceptance.gate import Gate
from tests.acceptance.sse import Frame, collect, follow
from tests.acceptance.talk import contents, says, tokens

STREAMS = 50
CLIENTS = 16
#: Every table that has rows of a thread, and how the column is called.
TABLES = {
    "thread": "thread_id",
    "run": "thread_id",
    "message": "conversation_id",
    "checkpoints": "thread_id",
    "checkpoint_blobs": "thread_id",
    "checkpoint_writes": "thread_id",
}


def rows_of(sql: Sql, thread_id: str) -> dict[str, int]:
    """How many rows each table has of a thread."""
    return {
        table: sql(f"SELECT count(*) FROM {table} WHERE {column} = %s", thread_id)[0][0]
        for table, column in TABLES.items()
    }


async def new_thread(client: LangGraphClient) -> str:
    return str((await client.threads.create())["thread_id"])


async def work(client: LangGraphClient, thread_id: str, gate: Gate, name: str, **more: Any) -> None:
    """A run that says something and takes two steps."""
    asked = {"gate": gate.port, "name": name, **says(name)}
    await client.runs.wait(thread_id, "talking_steps", input=asked, **more)


async def start_held(
    client: LangGraphClient, gate: Gate, thread_id: str, name: str, **more: Any
) -> str:
    """Start a run whose second step waits at the gate; it has written its first step."""
    gate.hold(f"{name}:b")
    work: dict[str, Any] = {"gate": gate.port, "name": name}
    run = await client.runs.create(thread_id, "steps", input=work, durability="sync", **more)
    await gate.arrived(f"{name}:b")
    return str(run["run_id"])


async def test_50_streams_at_once_each_get_all_of_their_own(
    client: LangGraphClient, http: httpx.AsyncClient, gate: Gate
) -> None:
    names = [f"stream{number}" for number in range(STREAMS)]
    gate.hold(*names)

    async def stream(name: str) -> list[Frame]:
        words = " ".join(f"{name}.{number}" for number in range(10))
        return await collect(
            http,
            "POST",
            f"/threads/{await new_thread(client)}/runs/stream",
            json={
                "assistant_id": "chat",
                "input": says(f"hold {gate.port} {name} {words}"),
                "stream_mode": ["messages-tuple", "values"],
            },
        )

    streams = asyncio.gather(*(stream(name) for name in names))
    for name in names:
        await gate.arrived(name)
    # All of them are under way now.
    gate.release(*names)

    for name, received in zip(names, await streams, strict=True):
        said = ["(1)", *(f" {name}.{number}" for number in range(10)), ""]
        assert tokens(received) == said
        assert received[0].name == "metadata"
        assert contents(received[-1].data)[1] == "".join(said)
        places = [frame.place for frame in received]
        assert all(one < following for one, following in pairwise(places))


async def test_runs_of_one_thread_never_overlap_and_go_in_order(
    client: LangGraphClient,
    other_client: LangGraphClient,
    http: httpx.AsyncClient,
    other_http: httpx.AsyncClient,
    gate: Gate,
    sql: Sql,
) -> None:
    thread_id = await new_thread(client)

    async def one(number: int) -> dict[str, Any]:
        asked = (client, other_client)[number % 2].runs
        work = {"gate": gate.port}
        if number % 4 < 2:
            run = await asked.create(thread_id, "alone", input=work)
            return await asked.join(thread_id, run["run_id"])
        return await asked.wait(thread_id, "alone", input=work)  # type: ignore[return-value]

    await asyncio.gather(*(one(number) for number in range(CLIENTS)))

    created = [
        str(row[0])
        for row in sql("SELECT run_id FROM run WHERE thread_id = %s ORDER BY seq", thread_id)
    ]
    assert gate.seen == [f"{run_id}:{edge}" for run_id in created for edge in ("start", "end")]
    state = await client.threads.get_state(thread_id)
    assert state["values"]["log"] == created  # type: ignore[call-overload]
    assert (await client.threads.get(thread_id))["status"] == "idle"
    for run_id in created:
        path = f"/threads/{thread_id}/runs/{run_id}/stream"
        here, there = [await collect(where, "GET", path) for where in (http, other_http)]
        assert [frame.name for frame in here] == ["metadata", "values", "values"]
        assert here == there


async def test_reject_refuses_a_second_run_and_leaves_the_first_alone(
    client: LangGraphClient, gate: Gate
) -> None:
    thread_id = await new_thread(client)
    run_id = await start_held(client, gate, thread_id, "first")

    with pytest.raises(ConflictError, match="already running"):
        await client.runs.create(thread_id, "steps", input={}, multitask_strategy="reject")
    gate.release("first:b")
    values = await client.runs.join(thread_id, run_id)

    assert values["log"] == ["first:a", "first:b", "first:c"]


async def test_the_state_of_a_busy_thread_is_not_changed_from_outside(
    client: LangGraphClient, other_client: LangGraphClient, gate: Gate
) -> None:
    thread_id = await new_thread(client)
    run_id = await start_held(client, gate, thread_id, "first")

    with pytest.raises(ConflictError, match="in flight"):
        await other_client.threads.update_state(thread_id, {"log": ["from outside"]})
    gate.release("first:b")
    await client.runs.join(thread_id, run_id)
    await other_client.threads.update_state(thread_id, {"log": ["from outside"]})

    values: Any = (await client.threads.get_state(thread_id))["values"]
    assert values["log"] == ["first:a", "first:b", "first:c", "from outside"]


async def test_interrupt_stops_the_first_run_and_goes_on_from_what_it_wrote(
    client: LangGraphClient, other_client: LangGraphClient, gate: Gate
) -> None:
    thread_id = await new_thread(client)
    first = await start_held(client, gate, thread_id, "first")
    queued = await client.runs.create(thread_id, "steps", input={})

    values = await other_client.runs.wait(
        thread_id,
        "steps",
        input={"gate": gate.port, "name": "second"},
        multitask_strategy="interrupt",
    )

    assert isinstance(values, dict)
    assert values["log"] == ["first:a", "second:a", "second:b", "second:c"]
    for run_id in (first, queued["run_id"]):
        assert (await client.runs.get(thread_id, run_id))["status"] == "interrupted"
    assert (await client.threads.get(thread_id))["status"] == "idle"


@pytest.mark.parametrize("by", ["another run", "a cancel", "a cancel elsewhere"])
async def test_rollback_leaves_no_trace(
    by: str, client: LangGraphClient, other_client: LangGraphClient, gate: Gate, sql: Sql
) -> None:
    thread_id = await new_thread(client)
    await work(client, thread_id, gate, "before")
    before = rows_of(sql, thread_id)
    state = await client.threads.get_state(thread_id)
    gate.hold("doomed:b")
    asked = {"gate": gate.port, "name": "doomed", **says("doomed")}
    run = await client.runs.create(thread_id, "talking_steps", input=asked, durability="sync")
    await gate.arrived("doomed:b")
    during = rows_of(sql, thread_id)

    if by == "another run":
        await work(client, thread_id, gate, "after", multitask_strategy="rollback")
    else:
        canceller = other_client if by.endswith("elsewhere") else client
        await canceller.runs.cancel(thread_id, run["run_id"], wait=True, action="rollback")

    assert during["message"] == before["message"] + 2
    with pytest.raises(NotFoundError):
        await client.runs.get(thread_id, run["run_id"])
    traces = "SELECT count(*) FROM checkpoints WHERE metadata ->> 'run_id' = %s"
    assert sql(traces, run["run_id"]) == [(0,)]
    said = "SELECT content FROM message WHERE conversation_id = %s ORDER BY seq"
    left = ["before", "after"] if by == "another run" else ["before"]
    assert [row[0] for row in sql(said, thread_id)] == [
        text for name in left for text in (name, f"working for {name}")
    ]
    assert (await client.threads.get(thread_id))["status"] == "idle"
    if by != "another run":
        assert rows_of(sql, thread_id) == before
        assert await client.threads.get_state(thread_id) == state


async def test_a_running_run_is_cancelled_from_any_process_and_its_stream_ends(
    client: LangGraphClient,
    other_client: LangGraphClient,
    http: httpx.AsyncClient,
    other_http: httpx.AsyncClient,
    gate: Gate,
) -> None:
    thread_id = await new_thread(client)
    run_id = await start_held(client, gate, thread_id, "first")
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    followers = [await follow(where, path) for where in (http, other_http)]

    await other_client.runs.cancel(thread_id, run_id, wait=True)

    await gate.left("first:b")
    for follower in followers:
        assert [frame.name for frame in await follower][:2] == ["metadata", "values"]
    thread = await client.threads.get(thread_id)
    assert (await client.runs.get(thread_id, run_id))["status"] == "interrupted"
    assert thread["status"] == "interrupted"
    assert (await client.threads.get_state(thread_id))["next"] == ["b"]
    with pytest.raises(NotFoundError, match="No matching runs to cancel"):
        await client.runs.cancel(thread_id, run_id)
    gate.release("first:b")
    resumed = await client.runs.wait(thread_id, "steps", input=None)
    assert isinstance(resumed, dict)
    assert resumed["log"] == ["first:a", "first:b", "first:c"]


async def test_a_queued_run_is_cancelled_and_the_streams_that_follow_it_end(
    client: LangGraphClient, http: httpx.AsyncClient, other_http: httpx.AsyncClient, gate: Gate
) -> None:
    thread_id = await new_thread(client)
    first = await start_held(client, gate, thread_id, "first")
    queued = await client.runs.create(thread_id, "steps", input={})
    path = f"/threads/{thread_id}/runs/{queued['run_id']}/stream"
    followers = [await follow(where, path) for where in (http, other_http)]

    await client.runs.cancel(thread_id, queued["run_id"])

    assert [await follower for follower in followers] == [[], []]
    assert (await client.runs.get(thread_id, queued["run_id"]))["status"] == "interrupted"
    assert (await client.threads.get(thread_id))["status"] == "busy"
    gate.release("first:b")
    assert (await client.runs.join(thread_id, first))["log"][-1] == "first:c"


async def test_a_delayed_run_is_cancelled_before_it_begins(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "steps", input={}, after_seconds=3600)
    waiting = (await client.runs.get(thread_id, run["run_id"]))["status"]

    await client.runs.cancel(thread_id, run["run_id"])

    assert waiting == "pending"
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "interrupted"
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_a_delayed_run_begins_when_it_is_due(client: LangGraphClient, sql: Sql) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "chat", input=says("later"), after_seconds=1)

    assert contents(await client.runs.join(thread_id, run["run_id"]))[1] == "(1) later"
    query = "SELECT started_at >= not_before FROM run WHERE run_id = %s"
    assert sql(query, run["run_id"]) == [(True,)]


async def test_a_delayed_run_does_not_hold_up_others(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    delayed = await client.runs.create(thread_id, "chat", input=says("later"), after_seconds=3600)

    values = await client.runs.wait(thread_id, "chat", input=says("now"))

    assert contents(values) == ["now", "(1) now"]
    assert (await client.runs.get(thread_id, delayed["run_id"]))["status"] == "pending"
    assert (await client.threads.get(thread_id))["status"] == "busy"


@pytest.mark.parametrize("where", ["its own process", "another process"])
async def test_a_thread_deleted_under_its_run_leaves_nothing_and_nothing_comes_back(
    where: str,
    client: LangGraphClient,
    other_client: LangGraphClient,
    http: httpx.AsyncClient,
    other_http: httpx.AsyncClient,
    gate: Gate,
    sql: Sql,
) -> None:
    thread_id = await new_thread(client)
    gate.hold("job:b")
    work = {"gate": gate.port, "name": "job", **says("hello")}

    async def stream() -> list[Frame]:
        asked = {"assistant_id": "talking_steps", "input": work}
        return await collect(http, "POST", f"/threads/{thread_id}/runs/stream", json=asked)

    follower = asyncio.create_task(stream())
    await gate.arrived("job:b")
    queued = await client.runs.create(thread_id, "talking_steps", input=work)
    path = f"/threads/{thread_id}/runs/{queued['run_id']}/stream"
    waiting = await follow(other_http, path)

    await (client if where == "its own process" else other_client).threads.delete(thread_id)

    await gate.left("job:b")
    assert (await follower)[0].name == "metadata"
    assert await waiting == []
    assert set(rows_of(sql, thread_id).values()) == {0}
    # Another run goes all the way through the same writer: by then the first one's would be there.
    await client.runs.wait(await new_thread(client), "chat", input=says("hello"))
    assert set(rows_of(sql, thread_id).values()) == {0}
    with pytest.raises(NotFoundError):
        await client.threads.get(thread_id)
