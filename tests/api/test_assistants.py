from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from api.bootstrap import Services
from graph.requests import system_assistant_id
from store import assistants
from store.access import EVERYTHING
from tests.api.conftest import GRAPHS
from tests.api.test_threads import UNKNOWN

NESTED = system_assistant_id("nested_ask")


async def test_every_graph_has_its_assistant(client: LangGraphClient) -> None:
    found = await client.assistants.search(limit=100)

    assert {assistant["graph_id"] for assistant in found} == set(GRAPHS)
    assert await client.assistants.count() == len(GRAPHS)
    assert all(assistant["metadata"] == {"created_by": "system"} for assistant in found)
    assert await client.assistants.get(found[0]["assistant_id"]) == found[0]


async def test_search_finds_by_graph_name_and_metadata(client: LangGraphClient) -> None:
    by_graph = await client.assistants.search(graph_id="ask")
    by_name = await client.assistants.search(name="NESTED")
    by_metadata = await client.assistants.search(metadata={"created_by": "nobody"})
    part = await client.assistants.search(graph_id="ask", select=["name", "version"])

    assert [assistant["graph_id"] for assistant in by_graph] == ["ask"]
    assert [assistant["graph_id"] for assistant in by_name] == ["nested_ask"]
    assert by_metadata == []
    assert part == [{"name": "ask", "version": 1}]


async def test_pages_tell_where_the_next_one_begins(http: httpx.AsyncClient) -> None:
    page = await http.post("/assistants/search", json={"limit": 2, "offset": 1})

    assert len(page.json()) == 2
    assert page.headers["x-pagination-next"] == "3"
    assert page.headers["x-pagination-total"] == "4"


async def test_an_assistant_is_read_by_a_uuid_only(client: LangGraphClient) -> None:
    with pytest.raises(NotFoundError):
        await client.assistants.get(UNKNOWN)
    with pytest.raises(UnprocessableEntityError, match="Invalid assistant ID: must be a UUID"):
        await client.assistants.get("ask")


@pytest.mark.parametrize("name", ["nested_ask", NESTED])
async def test_a_graph_is_drawn_and_opened_by_xray(client: LangGraphClient, name: str) -> None:
    closed = await client.assistants.get_graph(name)
    opened = await client.assistants.get_graph(name, xray=1)

    assert {node["id"] for node in closed["nodes"]} == {"__start__", "outer", "second", "__end__"}
    assert closed["nodes"][1] == {"id": "outer", "type": "runnable", "data": {"name": "outer"}}
    assert "outer:ask" in {node["id"] for node in opened["nodes"]}


async def test_an_xray_that_makes_no_sense_is_refused(http: httpx.AsyncClient) -> None:
    for xray in ("0", "-1", "no", "9" * 9000):
        refused = await http.get(f"/assistants/{NESTED}/graph", params={"xray": xray})
        assert (refused.status_code, refused.json()["detail"]) == (422, "Invalid xray value")


async def test_schemas_tell_what_a_graph_takes(client: LangGraphClient) -> None:
    schemas = await client.assistants.get_schemas(NESTED)

    assert schemas["graph_id"] == "nested_ask"
    assert "text" in schemas["state_schema"]["properties"]  # type: ignore[index]
    assert set(schemas) == {
        "graph_id", "input_schema", "output_schema", "state_schema", "config_schema",
        "context_schema",
    }  # fmt: skip


async def test_subgraphs_are_listed_by_namespace(client: LangGraphClient) -> None:
    every = await client.assistants.get_subgraphs(NESTED)

    assert list(every) == ["outer"]
    assert await client.assistants.get_subgraphs(NESTED, namespace="outer") == every
    assert await client.assistants.get_subgraphs(NESTED, namespace="nobody") == {}


async def test_the_graph_of_an_unknown_assistant_is_not_found(http: httpx.AsyncClient) -> None:
    for what in ("graph", "schemas", "subgraphs"):
        assert (await http.get(f"/assistants/{UNKNOWN}/{what}")).status_code == 404
        assert (await http.get(f"/assistants/nobody/{what}")).status_code == 422


async def test_an_assistant_is_created_changed_and_set_back(client: LangGraphClient) -> None:
    created = await client.assistants.create(
        "steps",
        config={"tags": ["a"], "configurable": {"tone": "kind", "langgraph_auth_user": "x"}},
        metadata={"team": "one", "run_id": "x"},
        name="Helper",
        description="Helps.",
    )
    assistant_id = created["assistant_id"]
    bare = await client.assistants.create("steps", context={"tone": "kind"})

    assert created["config"] == {"tags": ["a"], "configurable": {"tone": "kind"}}
    assert created["context"] == {"tone": "kind"}
    assert (created["metadata"], created["version"]) == ({"team": "one"}, 1)
    assert (bare["name"], bare["config"]) == ("Untitled", {"configurable": {"tone": "kind"}})
    assert await client.assistants.get(assistant_id) == created

    changed = await client.assistants.update(
        assistant_id, graph_id="ask", context={"tone": "dry"}, metadata={"of": "two"}, name="H2"
    )
    assert changed["config"] == {"configurable": {"tone": "dry"}}
    assert (changed["context"], changed["version"]) == ({"tone": "dry"}, 2)
    assert changed["metadata"] == {"team": "one", "of": "two"}
    assert changed["description"] == "Helps."

    versions = await client.assistants.get_versions(assistant_id)
    assert [version["version"] for version in versions] == [2, 1]
    assert versions[1]["graph_id"] == "steps"
    assert (
        await client.assistants.get_versions(assistant_id, metadata={"of": "two"}) == versions[:1]
    )
    back = await client.assistants.set_latest(assistant_id, 1)
    assert {**back, "updated_at": None} == {**created, "updated_at": None}
    with pytest.raises(NotFoundError, match="Version 9 not found"):
        await client.assistants.set_latest(assistant_id, 9)


async def test_an_id_that_is_taken_is_refused_unless_it_may_exist(client: LangGraphClient) -> None:
    first = await client.assistants.create("steps")
    taken = first["assistant_id"]

    with pytest.raises(ConflictError, match="already exists"):
        await client.assistants.create("steps", assistant_id=taken)
    assert (
        await client.assistants.create("ask", assistant_id=taken, if_exists="do_nothing") == first
    )


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"graph_id": "nothing"}, 404, "Graph 'nothing' not found. Expected one of: "),
        ({"graph_id": "ask", "assistant_id": "x"}, 422, "Invalid assistant ID: must be a UUID"),
        ({}, 422, "graph_id: "),
        (
            {"graph_id": "ask", "context": {"a": 1}, "config": {"configurable": {"b": 2}}},
            400,
            "Cannot specify both configurable and context.",
        ),
    ],
)
async def test_an_assistant_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, body: Any, status: int, detail: str
) -> None:
    refused = await http.post("/assistants", json=body)

    assert (refused.status_code, refused.json()["detail"][: len(detail)]) == (status, detail)


async def test_a_run_is_one_of_what_its_assistant_is_now(client: LangGraphClient) -> None:
    assistant = await client.assistants.create("steps", config={"tags": ["first"]})
    assistant_id = assistant["assistant_id"]

    async def run() -> Any:
        made: Any = await client.runs.create(None, assistant_id, on_completion="keep")
        return made["kwargs"]["config"]["configurable"]["graph_id"], made["kwargs"]["config"][
            "tags"
        ]

    assert await run() == ("steps", ["first"])
    await client.assistants.update(assistant_id, graph_id="ask", config={"tags": ["second"]})
    assert await run() == ("ask", ["second"])
    await client.assistants.set_latest(assistant_id, 1)
    assert await run() == ("steps", ["first"])


async def test_deleting_an_assistant_may_take_its_threads(client: LangGraphClient) -> None:
    ids = [(await client.assistants.create("steps"))["assistant_id"] for _ in range(2)]
    threads = [(await client.threads.create())["thread_id"] for _ in range(2)]
    for assistant_id, thread_id in zip(ids, threads, strict=True):
        await client.runs.wait(thread_id, assistant_id, input={"text": "a"})
    await client.runs.create(threads[0], ids[0], after_seconds=3600)

    await client.assistants.delete(ids[0])
    await client.assistants.delete(ids[1], delete_threads=True)

    assert await client.runs.list(threads[0]) == []
    assert (await client.threads.get_state(threads[0]))["values"]["text"] == "a"  # type: ignore[call-overload]
    for assistant_id in ids:
        with pytest.raises(NotFoundError):
            await client.assistants.get(assistant_id)
    with pytest.raises(NotFoundError):
        await client.threads.get(threads[1])
    with pytest.raises(NotFoundError, match="Thread or assistant not found"):
        await client.runs.create(threads[0], ids[0])


async def test_an_assistant_of_a_graph_that_is_not_loaded_says_so(
    client: LangGraphClient, http: httpx.AsyncClient, services: Services
) -> None:
    assistant_id = (await client.assistants.create("steps"))["assistant_id"]
    for graph_id, status in (("gone", 404), ("bad", 424)):
        await assistants.update(services.db, assistant_id, graph_id=graph_id, access=EVERYTHING)
        answers = [
            await http.get(f"/assistants/{assistant_id}/schemas"),
            await http.get(f"/assistants/{assistant_id}/graph"),
            await http.post("/runs/wait", json={"assistant_id": assistant_id}),
            await http.post("/runs/batch", json=[{"assistant_id": assistant_id}]),
        ]
        assert [answer.status_code for answer in answers] == [status] * 4
        assert (await http.get(f"/assistants/{assistant_id}")).json()["graph_id"] == graph_id
    assert (await http.post("/runs/wait", json={"assistant_id": "bad"})).status_code == 424
