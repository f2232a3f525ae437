from typing import Any

import httpx
from langgraph_sdk.client import LangGraphClient

from api.bootstrap import Services
from store.database import Database


async def test_an_item_is_kept_changed_and_forgotten(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    place: Any = {"namespace": ["users", "ann"], "key": "colour"}

    put = await http.put("/store/items", json={**place, "value": {"is": "red"}})
    kept = await client.store.get_item(["users", "ann"], key="colour")
    await client.store.put_item(["users", "ann"], "colour", {"is": "blue"})
    changed = await client.store.get_item(["users", "ann"], key="colour")
    await client.store.delete_item(["users", "ann"], key="colour")
    gone = await http.get("/store/items", params={"namespace": "users.ann", "key": "colour"})

    assert (put.status_code, put.content) == (204, b"")
    assert kept["value"] == {"is": "red"}
    assert list(kept) == ["namespace", "key", "value", "created_at", "updated_at"]
    assert changed["value"] == {"is": "blue"}
    assert (gone.status_code, gone.json()) == (200, None)
    assert (await http.request("DELETE", "/store/items", json=place)).status_code == 204


async def test_search_looks_below_a_namespace_and_filters(client: LangGraphClient) -> None:
    for name, age in (("ann", 3), ("bob", 5)):
        await client.store.put_item(["users", name], "age", {"years": age})
    await client.store.put_item(["usersandmore"], "age", {"years": 5})

    async def found(*prefix: str, **search: Any) -> list[str]:
        answer = await client.store.search_items(prefix, **search)
        return sorted(".".join(item["namespace"]) for item in answer["items"])

    assert await found("users") == ["users.ann", "users.bob"]
    assert await found() == ["users.ann", "users.bob", "usersandmore"]
    assert await found("users", filter={"years": 5}) == ["users.bob"]
    assert await found("users", filter={"years": {"$lt": 5}}) == ["users.ann"]
    assert len(await found(limit=1, offset=1)) == 1


async def test_namespaces_are_listed(client: LangGraphClient) -> None:
    await client.store.put_item(["a", "b", "c"], "key", {})
    await client.store.put_item(["d", "c"], "key", {})

    async def listed(**search: Any) -> list[list[str]]:
        return sorted((await client.store.list_namespaces(**search))["namespaces"])

    assert await listed() == [["a", "b", "c"], ["d", "c"]]
    assert await listed(prefix=["a"]) == [["a", "b", "c"]]
    assert await listed(suffix=["c"], max_depth=2) == [["a", "b"], ["d", "c"]]


async def test_a_namespace_that_cannot_be_one_is_refused(http: httpx.AsyncClient) -> None:
    namespaces: list[list[str]] = [[], ["a.b"], ["a", ""], ["langgraph", "a"]]
    for namespace in namespaces:
        item = {"namespace": namespace, "key": "k", "value": {}}
        assert (await http.put("/store/items", json=item)).status_code == 422, namespace
    for dotted in ("", "a.", ".a", "langgraph.a", "a\x00"):
        query = {"namespace": dotted, "key": "k"}
        assert (await http.get("/store/items", params=query)).status_code == 422, dotted


async def test_a_name_that_no_index_can_hold_is_refused(http: httpx.AsyncClient) -> None:
    item = {"namespace": ["a"], "key": "键" * 341, "value": {}}
    assert (await http.put("/store/items", json=item)).status_code == 204

    for longer in ({"key": "键" * 342}, {"namespace": ["a" * 512, "b" * 512]}):
        refused = await http.put("/store/items", json={**item, **longer})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
        assert "cannot be longer than 1024 bytes" in refused.json()["detail"]


async def test_a_filter_compares_numbers_as_numbers(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    values: dict[str, dict[str, Any]] = {
        "ten": {"n": 10, "at": "2026-01-10", "who": {"name": "ann", "age": 3}},
        "nine": {"n": 9.5, "at": "2026-01-09", "who": {"name": "bob"}},
        "text": {"n": "90", "who": "ann"},
        "null": {"n": None, "tags": ["a"]},
        "none": {},
    }
    for key, value in values.items():
        await client.store.put_item(["f"], key, value)

    async def found(**filter: Any) -> set[str]:
        answer = await client.store.search_items(["f"], filter=filter)
        return {item["key"] for item in answer["items"]}

    assert await found(n={"$gt": 9}) == {"ten", "nine"}
    assert await found(n={"$gte": 9.5, "$lt": 10}) == {"nine"}
    assert await found(n={"$lte": "90"}) == {"text"}
    assert await found(at={"$gt": "2026-01-09"}) == {"ten"}
    assert await found(n={"$ne": 10}) == {"nine", "text", "null", "none"}
    assert await found(n=None) == await found(n={"$eq": None}) == {"null", "none"}
    assert await found(who={"name": "ann"}) == {"ten"}
    assert await found(who={"age": {"$lt": 4}, "name": {"$ne": "bob"}}) == {"ten"}
    assert await found(who={}) == {"ten", "nine"}
    assert await found(tags=["a"]) == {"null"}
    for unknown in ({"n": {"$in": [1]}}, {"who": {"age": {"$like": 1}}}):
        refused = await http.post("/store/items/search", json={"filter": unknown})
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


async def test_without_an_index_a_query_finds_all_and_scores_none(client: LangGraphClient) -> None:
    await client.store.put_item(["q"], "key", {"text": "pasta"}, index=["text"])

    found = await client.store.search_items(["q"], query="the stock market")

    assert [(item["key"], item["score"]) for item in found["items"]] == [("key", None)]


async def test_an_item_lives_as_long_as_it_was_given_and_used(
    services: Services, client: LangGraphClient, http: httpx.AsyncClient, db: Database
) -> None:
    async def put(key: str, value: dict[str, Any], ttl: int | None) -> None:
        await client.store.put_item(["t"], key, value, ttl=ttl)

    for key, ttl in (
        ("old", 10),
        ("read", 10),
        ("searched", 10),
        ("asked", 10),
        ("kept", None),
    ):
        await put(key, {}, ttl)

    async def lives() -> dict[str, float | None]:
        """How long each lives, in seconds, give or take what a busy machine needs."""
        rows = await db.tuples(
            "SELECT key, round(extract(epoch FROM expires_at - now()), -2) FROM store", {}
        )
        return dict(rows)

    async def later(seconds: int) -> None:
        query = "UPDATE store SET expires_at = expires_at - make_interval(secs => %(seconds)s)"
        await db.execute(query, {"seconds": seconds})

    assert await lives() == {
        **dict.fromkeys(("old", "read", "searched", "asked"), 600),
        "kept": None,
    }
    await later(400)
    await client.store.get_item(["t"], "read")
    await client.store.get_item(["t"], "old", refresh_ttl=False)
    await client.store.search_items(["t"], limit=5, refresh_ttl=False)
    assert await lives() == {"old": 200, "read": 600, "searched": 200, "asked": 200, "kept": None}
    await put("searched", {"a": 1}, 10)
    await later(400)
    await client.store.search_items(["t"], filter={"a": 1})
    await later(300)

    assert await client.store.get_item(["t"], "old") is None
    assert await client.store.get_item(["t"], "asked") is None
    found = await client.store.search_items(["t"])
    assert {item["key"] for item in found["items"]} == {"searched", "kept"}
    assert await services.worker._retention.sweep_items(limit=2) == 3
    assert set(await lives()) == {"searched", "kept"}

    for wrong in (0, -1, 10**9, "5", True):
        item: dict[str, Any] = {"namespace": ["t"], "key": "k", "value": {}, "ttl": wrong}
        assert (await http.put("/store/items", json=item)).status_code == 422, wrong


async def test_a_life_that_no_clock_can_count_is_refused(http: httpx.AsyncClient) -> None:
    item = {"namespace": ["n"], "key": "k", "value": {}, "ttl": 5e-324}

    assert (await http.put("/store/items", json=item)).status_code == 422


async def test_the_shortest_lives_are_lives(http: httpx.AsyncClient) -> None:
    # With all their digits, which no interval takes where they come with an exponent.
    for minutes in (1e-6, 1.0000000000000002e-06, 9.999999999999999e-05, 1e8 - 1e-7):
        item = {"namespace": ["n"], "key": "k", "value": {}, "ttl": minutes}
        assert (await http.put("/store/items", json=item)).status_code == 204, minutes
