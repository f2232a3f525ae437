import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from graph.requests import system_assistant_id
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
