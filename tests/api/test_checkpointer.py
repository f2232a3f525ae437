"""Graphs on a checkpointer of the user's own, and what cannot be done with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from api.bootstrap import Services
from api.processes.embedded import Servers
from store import threads
from store.access import EVERYTHING
from store.errors import InvalidInputError
from tests.api.projects import serving_project
from tests.graph import memories

GRAPHS = {name: f"tests.graph.sample_graphs:{name}" for name in ("ask", "steps", "chat")}


@pytest.fixture
def served(tmp_path: Path, servers: Servers, database_url: str) -> Any:
    @asynccontextmanager
    async def serve(
        checkpointer: dict[str, Any],
    ) -> AsyncIterator[tuple[LangGraphClient, httpx.AsyncClient, Services]]:
        project = serving_project(
            tmp_path, servers, database_url, graphs=GRAPHS, checkpointer=checkpointer
        )
        async with project as served:
            yield served

    return serve


async def test_graphs_run_on_the_users_checkpointer(served: Any) -> None:
    async with served({"path": "tests.graph.memories:notebook"}) as (client, _, services):
        thread = (await client.threads.create())["thread_id"]
        config: Any = {"configurable": {"api_key": "sk-secret", "user_id": "ann"}}
        asked = await client.runs.wait(thread, "ask", input={"log": []}, config=config)
        paused = await client.threads.get(thread)
        answered = await client.runs.wait(thread, "ask", command={"resume": "yes"}, config=config)
        state = await client.threads.get_state(thread)
        history = await client.threads.get_history(thread, limit=10)
        await client.threads.update_state(thread, {"log": ["mine"]})
        changed = (await client.threads.get_state(thread))["values"]
        listed = await client.threads.search(ids=[thread])
        storage = memories.notebooks[-1].storage

        assert "__interrupt__" in asked
        assert paused["status"] == "interrupted"
        assert answered == state["values"]
        assert len(history) >= 3
        assert changed != answered
        assert listed[0]["values"] == changed
        assert set(storage) == {thread}
        assert "sk-secret" not in repr(storage) + repr(history)
        assert state["metadata"]["user_id"] == "ann"
        assert await services.db.tuples("SELECT FROM checkpoints", {}) == []

        await client.threads.delete(thread)
        assert thread not in storage


async def test_what_it_cannot_do_is_refused_before_anything_is_done(served: Any) -> None:
    async with served({"path": "tests.graph.memories:notebook", "backend": "custom"}) as (
        client,
        http,
        services,
    ):
        thread = (await client.threads.create())["thread_id"]
        run = await client.runs.create(thread, "steps", input={"log": []})
        await client.runs.join(thread, run["run_id"])
        body = {"assistant_id": "steps", "input": {"log": []}, "multitask_strategy": "rollback"}
        session = (await http.post("/api/sessions", json={"user_id": "ann"})).json()["id"]
        answers = [
            await http.post(f"/threads/{thread}/runs", json=body),
            await http.post(f"/threads/{thread}/runs/{run['run_id']}/cancel?action=rollback"),
            await http.delete(f"/threads/{thread}/runs/{run['run_id']}"),
            await http.post(f"/api/sessions/{session}/messages", json={"query": "hello"}),
            await http.get(f"/api/sessions/{session}/messages"),
            await http.post(f"/threads/{thread}/copy"),
            await http.get(f"/threads/{thread}/storage"),
            await http.post(
                "/threads/prune", json={"thread_ids": [thread], "strategy": "keep_latest"}
            ),
        ]

        assert [(a.status_code, a.json()["code"]) for a in answers] == [(501, "unsupported")] * 8
        assert "Notebook has no `adelete_for_runs`" in answers[0].json()["detail"]
        assert [r["run_id"] for r in await client.runs.list(thread)] == [run["run_id"]]
        # A sweep goes on without it.
        lease = await threads.lease(services.db, thread, access=EVERYTHING)
        await services.worker._retention._prune_if_possible(lease)


async def test_what_it_has_is_used(served: Any) -> None:
    async with served({"path": "tests.graph.memories:full_notebook"}) as (client, _, services):
        thread = (await client.threads.create())["thread_id"]
        runs = [await client.runs.create(thread, "steps", input={"log": []}) for _ in range(2)]
        for run in runs:
            await client.runs.join(thread, run["run_id"])
        whole = await client.threads.get_history(thread, limit=100)
        copied = (await client.threads.copy(thread))["thread_id"]
        copy = await client.threads.get_state(copied)
        await client.runs.delete(thread, runs[1]["run_id"])
        left = await client.threads.get_history(thread, limit=100)
        lease = await threads.lease(services.db, thread, access=EVERYTHING)
        await services.worker._retention.prune(lease)
        newest = await client.threads.get_history(thread, limit=100)

        assert {s["metadata"]["run_id"] for s in whole} == {run["run_id"] for run in runs}
        assert {s["metadata"]["run_id"] for s in left} == {runs[0]["run_id"]}
        assert copy["values"] == whole[0]["values"] != {}
        assert [s["checkpoint"] for s in newest] == [left[0]["checkpoint"]]


@pytest.mark.parametrize(
    ("checkpointer", "message"),
    [
        ({"path": "tests.graph.memories:shelf"}, "`checkpointer.path` gives a Shelf, not a Base"),
        ({"path": "notebook"}, "`checkpointer.path` must be"),
        ({"backend": "custom"}, "`checkpointer.backend` 'custom' and `path` disagree"),
        ({"backend": "mongo"}, "`checkpointer.backend` 'mongo' is not supported"),
    ],
)
async def test_a_checkpointer_that_is_none_stops_the_start(
    served: Any, checkpointer: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        async with served(checkpointer):
            pass
