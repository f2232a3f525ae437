"""Items that are found by likeness, by a real small model, and stores of the user's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from langgraph_sdk.client import LangGraphClient

from api.processes.embedded import Servers
from store.errors import ConflictError, InvalidInputError
from tests.api.projects import serving_project
from tests.graph import memories

GRAPHS = {name: f"tests.graph.memories:{name}" for name in ("remembers", "recalls")}
INDEX = {"dims": memories.DIMS, "embed": "tests.graph.memories:embed", "fields": ["text"]}

THINGS = {
    "dinner": "We had pasta with tomatoes and basil",
    "market": "The stock market fell by three percent",
    "pet": "Her dog likes long walks in the forest",
}


@pytest.fixture
def served(tmp_path: Path, servers: Servers, database_url: str) -> Any:
    """Serves with a section `store` of langgraph.json; gives the SDK's client and an HTTP one."""

    @asynccontextmanager
    async def serve(
        store: dict[str, Any],
    ) -> AsyncIterator[tuple[LangGraphClient, httpx.AsyncClient]]:
        project = serving_project(tmp_path, servers, database_url, graphs=GRAPHS, store=store)
        async with project as (client, http, _):
            yield client, http

    return serve


async def test_items_are_found_by_what_they_mean(served: Any, database_url: str) -> None:
    async with served({"index": INDEX}) as (client, _):
        for key, text in THINGS.items():
            await client.store.put_item(["notes"], key, {"text": text, "length": len(text)})
        await client.store.put_item(["notes"], "hidden", {"text": "Pasta!"}, index=False)
        await client.store.put_item(["notes"], "titled", {"title": "Noodles"}, index=["title"])
        await client.store.put_item(["elsewhere"], "dinner", {"text": "Pizza"})

        async def found(query: str, **search: Any) -> list[str]:
            answer = await client.store.search_items(["notes"], query=query, **search)
            scores = [item["score"] for item in answer["items"]]
            assert scores == sorted(scores, reverse=True)
            return [item["key"] for item in answer["items"]]

        assert (await found("what did they eat?"))[0] == "dinner"
        assert (await found("shares and investors"))[0] == "market"
        assert (await found("an animal"))[0] == "pet"
        assert (await found("spaghetti"))[0] in ("dinner", "titled")
        assert "hidden" not in await found("pasta")
        assert await found("dinner", filter={"length": {"$gt": 36}}) != []
        whole = await found("dinner", limit=4)
        pages = [await found("dinner", limit=1, offset=offset) for offset in range(5)]
        assert (whole, []) == ([key for page in pages for key in page], pages[4])
        assert [item["score"] for item in (await client.store.search_items([]))["items"]] == [
            None for _ in range(6)
        ]

        # What an item was before is forgotten with it.
        await client.store.put_item(["notes"], "dinner", {"text": "nothing"}, index=False)
        assert "dinner" not in await found("what did they eat?")
        await client.store.delete_item(["notes"], "pet")
        with psycopg.connect(database_url) as connection:
            vectors = connection.execute("SELECT key FROM store_vectors ORDER BY key").fetchall()
        assert vectors == [("dinner",), ("market",), ("titled",)]


async def test_a_node_searches_by_the_same_index(served: Any) -> None:
    async with served({"index": INDEX}) as (client, _):
        answers = []
        for said in (*THINGS.values(), "Did she walk her dog?", "Are my shares worth less?"):
            messages = {"messages": [{"role": "user", "content": said}]}
            values = await client.runs.wait(None, "remembers", input=messages)
            answers.append(values["messages"][-1]["content"])

        assert answers[0] == "nothing"
        assert answers[-2:] == [THINGS["pet"], THINGS["market"]]
        kept = await client.store.search_items(["said"], query="walk", limit=1)
        assert kept["items"][0]["key"] == "Did she walk her dog?"


async def test_the_index_finds_what_is_rare_among_many(served: Any, database_url: str) -> None:
    async with served({"index": INDEX}) as (client, _):
        await client.store.put_item(["mine"], "pet", {"text": THINGS["pet"]})
    with psycopg.connect(database_url, autocommit=True) as connection:
        # Nearer to what will be asked than mine is, and more than pgvector looks at by itself.
        words = memories.embed([f"dog number {n}" for n in range(1000)])
        vectors = [(str(n), str([float(x) for x in vector])) for n, vector in enumerate(words)]
        connection.execute(
            "INSERT INTO store (prefix, key, value) SELECT 'theirs', n::text, '{}'"
            " FROM generate_series(0, 999) AS n"
        )
        connection.cursor().executemany(
            "INSERT INTO store_vectors (prefix, key, field_name, embedding)"
            " VALUES ('theirs', %s, 'text', %s)",
            vectors,
        )
        # So few would be sorted; of a million the index is read.
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET enable_sort = off")

    async with served({"index": INDEX}) as (client, _):
        found = await client.store.search_items(["mine"], query="dog")
        all_found = await client.store.search_items([], query="dog", limit=100)

    assert [item["key"] for item in found["items"]] == ["pet"]
    assert len(all_found["items"]) == 100


async def test_what_cannot_be_embedded_is_not_kept(served: Any) -> None:
    index = {"dims": memories.DIMS, "embed": "tests.graph.memories:embed_badly"}
    async with served({"index": index}) as (client, http):
        item = {"namespace": ["a"], "key": "k", "value": {"a": "b"}}

        short = await http.put("/store/items", json=item)
        failed = await http.put("/store/items", json={**item, "value": {"a": "secret"}})
        asked = await http.post("/store/items/search", json={"query": "secret"})

        assert (short.status_code, short.json()["code"]) == (502, "embedding_failed")
        assert "2 numbers; `dims` says 256" in short.json()["detail"]
        assert failed.json()["detail"] == "Texts could not be embedded: ConnectionError"
        assert asked.status_code == 502
        assert await client.store.get_item(["a"], key="k") is None
        assert (await http.put("/store/items", json={**item, "index": False})).status_code == 204


async def test_an_index_of_other_dimensions_stops_the_start(served: Any) -> None:
    async with served({"index": INDEX}):
        pass
    with pytest.raises(ConflictError, match=r"`store\.index\.dims` is 5, .* vector\(256\)"):
        async with served({"index": {**INDEX, "dims": 5}}):
            pass
    async with served({"index": INDEX}):
        pass


async def test_a_store_of_ones_own_serves_requests_and_graphs(served: Any) -> None:
    memories.opened.clear()
    async with served({"path": "tests.graph.memories:shelf"}) as (client, http):
        await client.store.put_item(["said"], "now", {"text": "from my shelf"})
        messages = {"messages": [{"role": "user", "content": "?"}]}
        values = await client.runs.wait(None, "recalls", input=messages)
        found = await client.store.search_items(["said"], filter={"text": "from my shelf"})
        put = {"namespace": ["a"], "key": "k", "value": {}, "ttl": 5}
        refused = await http.put("/store/items", json=put)

        assert values["messages"][-1]["content"] == "from my shelf"
        assert [item["key"] for item in found["items"]] == ["now"]
        assert (await client.store.list_namespaces())["namespaces"] == [["said"]]
        await client.store.delete_item(["said"], "now")
        assert await client.store.get_item(["said"], "now") is None
        assert (refused.status_code, refused.json()["code"]) == (501, "unsupported")

    # Once for each process, not once for each event loop.
    assert memories.opened == ["opened", "closed"]


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({"path": "tests.graph.memories:no_shelf"}, "`store.path` gives a str, not a BaseStore"),
        ({"path": "tests.graph.memories:nothing"}, "`store.path`: .* no variable 'nothing'"),
        ({"path": "./missing.py:store"}, "`store.path`: .* is not a file"),
        ({"path": "memories"}, "`store.path` must be"),
        (
            {"index": {**INDEX, "embed": "tests.graph.memories:DIMS"}},
            "`store.index.embed` gives a int",
        ),
        ({"index": {**INDEX, "embed": "nobody:model-1"}}, "`store.index.embed`: .*langchain"),
        ({"index": {**INDEX, "embed": "model"}}, "`store.index.embed` must be"),
        ({"index": {**INDEX, "dims": 0}}, "`store.index.dims` must be a number from 1 to 4000"),
        ({"index": {**INDEX, "fields": [1]}}, "`store.index.fields` must be a list of strings"),
        ({"index": {**INDEX, "distance": "l2"}}, "`store.index` has an unknown key: 'distance'"),
        ({"ttl": {"default_ttl": 0}}, "`store.ttl.default_ttl` must be a number above 0"),
        ({"ttl": {"refresh_on_read": 1}}, "`store.ttl.refresh_on_read` must be true or false"),
        ({"ttl": 5}, "`store.ttl` must be an object"),
    ],
)
async def test_a_section_that_is_wrong_stops_the_start(
    served: Any, store: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        async with served(store):
            pass
