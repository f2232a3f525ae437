"""Long-term memory, §1.5 of the contract."""

from typing import Any

from tests.differential.registry import case, single
from tests.differential.talk import Talk

single(
    __name__,
    {
        "an item without a namespace": ("PUT", "/store/items", {"key": "k", "value": {}}),
        "an item without a key": ("PUT", "/store/items", {"namespace": ["a"], "value": {}}),
        "an item without a value": ("PUT", "/store/items", {"namespace": ["a"], "key": "k"}),
        "an item whose value is a list": (
            "PUT",
            "/store/items",
            {"namespace": ["a"], "key": "k", "value": []},
        ),
        "an item in an empty namespace": (
            "PUT",
            "/store/items",
            {"namespace": [], "key": "k", "value": {}},
        ),
        "an item under an empty label": (
            "PUT",
            "/store/items",
            {"namespace": [""], "key": "k", "value": {}},
        ),
        "an item under a label with a period": (
            "PUT",
            "/store/items",
            {"namespace": ["a.b"], "key": "k", "value": {}},
        ),
        "an item under langgraph": (
            "PUT",
            "/store/items",
            {"namespace": ["langgraph"], "key": "k", "value": {}},
        ),
        "an item with an index that is a word": (
            "PUT",
            "/store/items",
            {"namespace": ["a"], "key": "k", "value": {}, "index": "x"},
        ),
        "an item with an index of true": (
            "PUT",
            "/store/items",
            {"namespace": ["a"], "key": "k", "value": {}, "index": True},
        ),
        "an item with a ttl that is a word": (
            "PUT",
            "/store/items",
            {"namespace": ["a"], "key": "k", "value": {}, "ttl": "x"},
        ),
        "an item that is not there": ("GET", "/store/items?namespace=nope&key=k"),
        "an item is asked for without a key": ("GET", "/store/items?namespace=nope"),
        "an item is asked for without a namespace": ("GET", "/store/items?key={mark}"),
        "an item is asked for with an empty label": ("GET", "/store/items?namespace=a..b&key=k"),
        "an item that is not there is deleted": (
            "DELETE",
            "/store/items",
            {"namespace": ["nope"], "key": "k"},
        ),
        "an item is deleted without a key": ("DELETE", "/store/items", {"namespace": ["nope"]}),
        "items with a limit of 0": (
            "POST",
            "/store/items/search",
            {"namespace_prefix": ["nope"], "limit": 0},
        ),
        "items with a limit that is a word": (
            "POST",
            "/store/items/search",
            {"namespace_prefix": ["nope"], "limit": "x"},
        ),
        "items with a negative offset": (
            "POST",
            "/store/items/search",
            {"namespace_prefix": ["nope"], "offset": -1},
        ),
        "items below a word": ("POST", "/store/items/search", {"namespace_prefix": "nope"}),
        "items below nothing": (
            "POST",
            "/store/items/search",
            {"filter": {"nobody": "has this"}},
        ),
        "items below an empty prefix": (
            "POST",
            "/store/items/search",
            {"namespace_prefix": [], "filter": {"nobody": "has this"}},
        ),
        "items by a filter that is a list": (
            "POST",
            "/store/items/search",
            {"namespace_prefix": ["nope"], "filter": []},
        ),
        "namespaces with a limit that is a word": ("POST", "/store/namespaces", {"limit": "x"}),
        "namespaces with a depth that is a word": ("POST", "/store/namespaces", {"max_depth": "x"}),
    },
)


async def _put(talk: Talk, *labels: str, key: str = "k", **more: Any) -> None:
    body = {"namespace": [talk.mark, *labels], "key": key, "value": {}, **more}
    await talk.put("/store/items", body, unseen=True)


@case
async def an_item_is_kept_replaced_and_forgotten(talk: Talk) -> None:
    item = {"namespace": [talk.mark, "b"], "key": "k"}
    await talk.put("/store/items", {**item, "value": {"a": 1}})
    await talk.get(f"/store/items?namespace={talk.mark}.b&key=k")
    await talk.put("/store/items", {**item, "value": {"b": {"c": [None, "你"]}}})
    await talk.get(f"/store/items?namespace={talk.mark}.b&key=k")
    await talk.delete("/store/items", item)
    await talk.get(f"/store/items?namespace={talk.mark}.b&key=k")


@case
async def items_are_found_below_a_prefix(talk: Talk) -> None:
    for labels, key in ((("a",), "1"), (("a", "b"), "2"), (("ab",), "3")):
        await _put(talk, *labels, key=key, value={"n": key})
    for prefix in ([talk.mark], [talk.mark, "a"], [talk.mark, "nope"], [talk.mark, "a", "b"]):
        await talk.post("/store/items/search", {"namespace_prefix": prefix})


@case
async def items_come_in_pages(talk: Talk) -> None:
    for key in "abc":
        await _put(talk, key=key)
    for page in ({"limit": 2}, {"limit": 2, "offset": 2}, {"offset": 9}):
        await talk.post("/store/items/search", {"namespace_prefix": [talk.mark], **page})


@case
async def items_are_found_by_value(talk: Talk) -> None:
    for number in range(3):
        await _put(talk, key=str(number), value={"n": number, "deep": {"x": number}, "s": "v"})
    for filter_ in (
        {"n": 1},
        {"n": {"$gt": 1}},
        {"n": {"$gte": 1, "$lt": 2}},
        {"n": {"$ne": 1}},
        {"n": {"$eq": 2}},
        {"deep": {"x": 1}},
        {"s": "v", "n": {"$lte": 0}},
        {"nope": None},
    ):
        body = {"namespace_prefix": [talk.mark], "filter": filter_}
        await talk.post("/store/items/search", body)


@case
async def items_by_an_unknown_operator(talk: Talk) -> None:
    await _put(talk, value={"n": 1})
    body = {"namespace_prefix": [talk.mark], "filter": {"n": {"$near": 1}}}
    await talk.post("/store/items/search", body)


@case
async def items_are_found_by_meaning(talk: Talk) -> None:
    await _put(talk, key="fruit", value={"text": "a fruit"})
    await _put(talk, key="sea", value={"text": "the sea"})
    await _put(talk, key="hidden", value={"text": "a fruit"}, index=False)
    for query in ("fruit", "sea"):
        body = {"namespace_prefix": [talk.mark], "query": query, "limit": 1}
        heard = await talk.post("/store/items/search", body, unseen=True)
        talk.exchanges.append({"ask": query, "body": [item["key"] for item in heard["items"]]})


@case
async def namespaces_are_listed(talk: Talk) -> None:
    for labels in (("a", "x"), ("a", "y"), ("b", "x"), ("b", "x", "deep")):
        await _put(talk, *labels)
    for wanted in (
        {"prefix": [talk.mark]},
        {"prefix": [talk.mark, "a"]},
        {"prefix": [talk.mark], "suffix": ["x"]},
        {"prefix": [talk.mark], "max_depth": 2},
        {"prefix": [talk.mark, "*", "x"]},
        {"prefix": [talk.mark], "limit": 1, "offset": 1},
        {"prefix": [talk.mark], "limit": 0},
    ):
        await talk.post("/store/namespaces", wanted)


@case
async def an_item_lives_for_its_ttl(talk: Talk) -> None:
    item = {"namespace": [talk.mark], "key": "k", "value": {"a": 1}, "ttl": 5}
    await talk.put("/store/items", item)
    await talk.get(f"/store/items?namespace={talk.mark}&key=k&refresh_ttl=true")
    await talk.get(f"/store/items?namespace={talk.mark}&key=k&refresh_ttl=nope")


@case
async def a_nul_in_an_item_is_replaced(talk: Talk) -> None:
    item = {"namespace": [talk.mark], "key": "k", "value": {"a": "x\0y"}}
    await talk.put("/store/items", item)
    await talk.get(f"/store/items?namespace={talk.mark}&key=k")


@case
async def an_item_of_odd_words(talk: Talk) -> None:
    item = {"namespace": [talk.mark, "你好 x/y"], "key": "a b/c?d&e", "value": {"a": 1}}
    await talk.put("/store/items", item)
    await talk.post("/store/items/search", {"namespace_prefix": [talk.mark]})
