from typing import Any

import httpx
from langgraph_sdk.client import LangGraphClient


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


async def test_an_operator_that_is_unknown_is_refused(http: httpx.AsyncClient) -> None:
    refused = await http.post("/store/items/search", json={"filter": {"a": {"$near": 1}}})

    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


async def test_a_lifetime_is_refused_rather_than_ignored(http: httpx.AsyncClient) -> None:
    item = {"namespace": ["a"], "key": "k", "value": {}, "ttl": 5}

    assert (await http.put("/store/items", json=item)).status_code == 501
