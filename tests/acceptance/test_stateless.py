"""Runs without a thread of their own making."""

from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.conftest import Sql
from tests.acceptance.gate import Gate
from tests.acceptance.sse import collect, frames
from tests.acceptance.talk import contents, says
from tests.acceptance.test_runs import rows_of


def all_threads(sql: Sql) -> set[str]:
    return {row[0] for row in sql("SELECT thread_id FROM thread")}


@pytest.mark.parametrize("way", ["wait", "stream", "create", "cancel", "cancel before it begins"])
async def test_a_stateless_run_leaves_nothing_behind(
    way: str, client: LangGraphClient, http: httpx.AsyncClient, gate: Gate, sql: Sql
) -> None:
    gate.hold("middle")
    body: dict[str, Any] = {"assistant_id": "chat", "input": says("hello")}
    held = {**body, "input": says(f"hold {gate.port} middle hello"), "stream_mode": "values"}
    before = all_threads(sql)

    if way == "wait":
        assert contents((await http.post("/runs/wait", json=body)).json())[1] == "(1) hello"
    elif way == "stream":
        received = await collect(http, "POST", "/runs/stream", json=body)
        assert contents(received[-1].data)[1] == "(1) hello"
    elif way == "cancel before it begins":
        delayed = (await http.post("/runs", json={**body, "after_seconds": 3600})).json()
        await client.runs.cancel(delayed["thread_id"], delayed["run_id"])
    else:
        run = (await http.post("/runs", json=held)).json()
        await gate.arrived("middle")
        assert run["thread_id"] in all_threads(sql)
        async with http.stream("GET", f"/runs/{run['run_id']}/stream") as followed:
            if way == "cancel":
                await client.runs.cancel(run["thread_id"], run["run_id"])
            else:
                gate.release("middle")
            names = [frame.name async for frame in frames(followed)]
            assert names[0] == "metadata"
        assert set(rows_of(sql, run["thread_id"]).values()) == {0}

    # Those of other tests may go meanwhile.
    assert all_threads(sql) <= before


@pytest.mark.parametrize("kind", ["plain", "private"])
async def test_a_stateless_run_that_fails_leaves_nothing_behind(
    kind: str, http: httpx.AsyncClient, sql: Sql
) -> None:
    before = all_threads(sql)
    body = {"assistant_id": "boom", "input": {"kind": kind, "log": []}}

    failed = (await http.post("/runs/wait", json=body)).json()

    assert list(failed) == ["__error__"]
    # Those of other tests may go meanwhile.
    assert all_threads(sql) <= before


async def test_a_stateless_run_that_is_kept_is_a_thread_to_go_on_with(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    body = {"assistant_id": "chat", "input": says("hello"), "on_completion": "keep"}
    kept = await http.post("/runs/wait", json=body)
    thread_id = kept.headers["content-location"].split("/")[2]

    values = await client.runs.wait(thread_id, "chat", input=says("and on"))

    assert contents(values) == ["hello", "(1) hello", "and on", "(3) and on"]
