"""Assistants, §1.1 of the contract."""

import uuid
from typing import Any

from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, single
from tests.differential.talk import Talk

CHAT = str(uuid.uuid5(uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8"), "chat"))


def own(graph_id: str) -> str:
    """The id of a graph's own assistant."""
    return str(uuid.uuid5(uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8"), graph_id))


single(
    __name__,
    {
        "an assistant without a graph": ("POST", "/assistants", {}),
        "an assistant of an unknown graph": ("POST", "/assistants", {"graph_id": "nope"}),
        "an assistant whose id is no uuid": (
            "POST",
            "/assistants",
            {"graph_id": "chat", "assistant_id": "nope"},
        ),
        "an assistant whose metadata is a list": (
            "POST",
            "/assistants",
            {"graph_id": "chat", "metadata": []},
        ),
        "an assistant with an unknown if exists": (
            "POST",
            "/assistants",
            {"graph_id": "chat", "if_exists": "maybe"},
        ),
        "an assistant with configurable and context": (
            "POST",
            "/assistants",
            {"graph_id": "chat", "config": {"configurable": {"a": 1}}, "context": {"b": 2}},
        ),
        "an assistant whose name is a number": (
            "POST",
            "/assistants",
            {"graph_id": "chat", "name": 1},
        ),
        "a graph's own assistant": ("GET", f"/assistants/{CHAT}"),
        "a graph's own assistant is not found by its name": ("GET", "/assistants/chat"),
        "an assistant that is not there": ("GET", f"/assistants/{NOBODY}"),
        "an assistant that is not there is not changed": (
            "PATCH",
            f"/assistants/{NOBODY}",
            {"name": "x"},
        ),
        "an assistant that is not there is not deleted": ("DELETE", f"/assistants/{NOBODY}"),
        "versions of an assistant that is not there": (
            "POST",
            f"/assistants/{NOBODY}/versions",
            {},
        ),
        "versions by an id that is no uuid": ("POST", "/assistants/nope/versions", {}),
        "the versions of a graph's own assistant": ("POST", f"/assistants/{CHAT}/versions", {}),
        "the latest of an assistant that is not there": (
            "POST",
            f"/assistants/{NOBODY}/latest",
            {"version": 1},
        ),
        "a search with a limit of 0": ("POST", "/assistants/search", {"limit": 0}),
        "a search with a limit of 1001": ("POST", "/assistants/search", {"limit": 1001}),
        "a search with a negative offset": ("POST", "/assistants/search", {"offset": -1}),
        "a search with a limit that is a word": ("POST", "/assistants/search", {"limit": "x"}),
        "a search by an unknown order": ("POST", "/assistants/search", {"sort_by": "nope"}),
        "a search in an unknown direction": ("POST", "/assistants/search", {"sort_order": "up"}),
        "a search for unknown fields": ("POST", "/assistants/search", {"select": ["nope"]}),
        "a search by an unknown graph": ("POST", "/assistants/search", {"graph_id": "nope"}),
        "a search as Studio makes it": (
            "POST",
            "/assistants/search",
            {"graph_id": "chat", "metadata": {"created_by": "system"}, "limit": 10},
        ),
        "a count of a graph's own assistants": (
            "POST",
            "/assistants/count",
            {"graph_id": "chat", "metadata": {"created_by": "system"}},
        ),
        "a count by an unknown graph": ("POST", "/assistants/count", {"graph_id": "nope"}),
        "schemas of an assistant that is not there": ("GET", f"/assistants/{NOBODY}/schemas"),
        "schemas by the graph's name": ("GET", "/assistants/steps/schemas"),
        "the graph of an assistant that is not there": ("GET", f"/assistants/{NOBODY}/graph"),
        "the graph by its name": ("GET", "/assistants/ask/graph"),
        "an xray of 0": ("GET", f"/assistants/{own('nested')}/graph?xray=0"),
        "an xray of -1": ("GET", f"/assistants/{own('nested')}/graph?xray=-1"),
        "an xray of a word": ("GET", f"/assistants/{own('nested')}/graph?xray=deep"),
        "an xray of false": ("GET", f"/assistants/{own('nested')}/graph?xray=false"),
        "subgraphs of an assistant that is not there": ("GET", f"/assistants/{NOBODY}/subgraphs"),
        "subgraphs of a graph without any": ("GET", f"/assistants/{CHAT}/subgraphs"),
    },
)
for graph_id in ("chat", "form", "functional", "ask", "look"):
    path = f"/assistants/{own(graph_id)}"
    single(__name__, {f"the schemas of {graph_id}": ("GET", f"{path}/schemas")})
for graph_id in ("chat", "form", "functional", "nested", "ask", "command", "sends", "tools"):
    path = f"/assistants/{own(graph_id)}"
    single(__name__, {f"the graph of {graph_id}": ("GET", f"{path}/graph")})
for graph_id in ("nested", "nested_ask"):
    path = f"/assistants/{own(graph_id)}"
    single(
        __name__,
        {
            f"the graph of {graph_id} with all subgraphs": ("GET", f"{path}/graph?xray=true"),
            f"the graph of {graph_id} with one level": ("GET", f"{path}/graph?xray=1"),
        },
    )
NESTED = f"/assistants/{own('nested_ask')}"
single(
    __name__,
    {
        "the subgraphs of a graph": ("GET", f"{NESTED}/subgraphs"),
        "all subgraphs of a graph": ("GET", f"{NESTED}/subgraphs?recurse=true"),
        "a subgraph by its namespace": ("GET", f"{NESTED}/subgraphs/outer"),
        "a subgraph that is not there": ("GET", f"{NESTED}/subgraphs/nope"),
    },
)


async def _three(talk: Talk) -> list[str]:
    """The ids of three assistants that only this talk finds."""
    ids = []
    for name in ("Beta", "alpha", "Gamma"):
        body = {"graph_id": "chat", "name": name, "metadata": {"mark": talk.mark, "n": name}}
        made = await talk.post("/assistants", body, unseen=True)
        ids.append(str(made["assistant_id"]))
    return ids


@case
async def an_assistant_of_a_graph_alone(talk: Talk) -> None:
    made = await talk.post("/assistants", {"graph_id": "chat"})
    await talk.get(f"/assistants/{made['assistant_id']}")


@case
async def an_assistant_with_everything(talk: Talk) -> None:
    body = {
        "graph_id": "form",
        "assistant_id": talk.mark,
        "config": {"tags": ["t"], "recursion_limit": 7, "configurable": {"language": "de"}},
        "metadata": {"a": {"b": [1, None]}},
        "name": "Whole",
        "description": "All fields",
    }
    await talk.post("/assistants", body)
    await talk.get(f"/assistants/{talk.mark}")


@case
async def an_assistant_with_context_only(talk: Talk) -> None:
    await talk.post("/assistants", {"graph_id": "form", "context": {"language": "fr"}})


@case
async def an_assistant_with_configurable_only(talk: Talk) -> None:
    config = {"configurable": {"language": "fr", "langgraph_auth_user": "spoofed"}}
    await talk.post("/assistants", {"graph_id": "form", "config": config})


@case
async def an_assistant_whose_metadata_names_ids(talk: Talk) -> None:
    metadata = {"assistant_id": "x", "thread_id": "x", "run_id": "x", "cron_id": "x", "kept": 1}
    await talk.post("/assistants", {"graph_id": "chat", "metadata": metadata})


@case
async def an_assistant_that_is_there_is_refused(talk: Talk) -> None:
    body = {"graph_id": "chat", "assistant_id": talk.mark}
    await talk.post("/assistants", body)
    await talk.post("/assistants", body)


@case
async def an_assistant_that_is_there_may_be_asked_for(talk: Talk) -> None:
    body = {"graph_id": "chat", "assistant_id": talk.mark, "name": "first"}
    await talk.post("/assistants", body)
    await talk.post("/assistants", {**body, "name": "second", "if_exists": "do_nothing"})


@case
async def a_change_merges_metadata_and_makes_a_version(talk: Talk) -> None:
    body = {"graph_id": "chat", "metadata": {"a": 1, "b": {"c": 1}}}
    path = f"/assistants/{(await talk.post('/assistants', body))['assistant_id']}"
    await talk.patch(path, {"metadata": {"b": {"d": 2}, "e": 3}})
    await talk.get(path)


@case
async def a_change_of_config(talk: Talk) -> None:
    body = {"graph_id": "form", "config": {"configurable": {"language": "de"}, "tags": ["x"]}}
    path = f"/assistants/{(await talk.post('/assistants', body))['assistant_id']}"
    await talk.patch(path, {"config": {"configurable": {"temperature": 1.0}}})
    await talk.patch(path, {"context": {"language": "it"}})
    await talk.patch(path, {"config": {"configurable": {"a": 1}}, "context": {"b": 1}})


@case
async def a_change_of_everything_else(talk: Talk) -> None:
    made = await talk.post("/assistants", {"graph_id": "chat"}, unseen=True)
    path = f"/assistants/{made['assistant_id']}"
    await talk.patch(path, {"graph_id": "form", "name": "Other", "description": "Changed"})
    await talk.patch(path, {"graph_id": "nope"})
    await talk.patch(path, {"name": 7})
    await talk.patch(path, {})


@case
async def an_assistant_is_deleted_once(talk: Talk) -> None:
    made = await talk.post("/assistants", {"graph_id": "chat"}, unseen=True)
    path = f"/assistants/{made['assistant_id']}"
    await talk.delete(path)
    await talk.get(path)
    await talk.delete(path)


@case
async def an_assistant_is_deleted_with_its_threads(talk: Talk) -> None:
    made = await talk.post("/assistants", {"graph_id": "steps"}, unseen=True)
    thread_id = await talk.done(made["assistant_id"], {"text": "x"})
    await talk.delete(f"/assistants/{made['assistant_id']}?delete_threads=true")
    await talk.get(f"/threads/{thread_id}")


@case
async def an_assistant_is_deleted_without_its_threads(talk: Talk) -> None:
    made = await talk.post("/assistants", {"graph_id": "steps"}, unseen=True)
    thread_id = await talk.done(made["assistant_id"], {"text": "x"})
    await talk.delete(f"/assistants/{made['assistant_id']}")
    await talk.get(f"/threads/{thread_id}")


@case
async def assistants_are_found_by_metadata_in_pages(talk: Talk) -> None:
    await _three(talk)
    mine = {"metadata": {"mark": talk.mark}, "sort_by": "name", "sort_order": "asc"}
    for page in ({"limit": 2}, {"limit": 2, "offset": 2}, {"limit": 3}, {"offset": 9}):
        await talk.post("/assistants/search", {**mine, **page})
    await talk.post("/assistants/count", {"metadata": {"mark": talk.mark}})


@case
async def assistants_are_found_by_a_part_of_the_name(talk: Talk) -> None:
    await _three(talk)
    for name in ("a", "ALPHA", "%", "nope", ""):
        body = {"metadata": {"mark": talk.mark}, "name": name, "sort_by": "name"}
        await talk.post("/assistants/search", {**body, "select": ["name"]})
        await talk.post("/assistants/count", {"metadata": {"mark": talk.mark}, "name": name})


@case
async def assistants_are_found_by_graph(talk: Talk) -> None:
    await _three(talk)
    for graph_id in ("chat", "form"):
        body = {"metadata": {"mark": talk.mark}, "graph_id": graph_id}
        await talk.post("/assistants/search", {**body, "select": ["graph_id"]})
        await talk.post("/assistants/count", body)


def _sorted_by(order: dict[str, str]) -> Any:
    async def play(talk: Talk) -> None:
        await _three(talk)
        body = {"metadata": {"mark": talk.mark}, "select": ["name"], **order}
        await talk.post("/assistants/search", body)

    return play


for key in ("created_at", "updated_at", "name", "graph_id"):
    for direction in ("asc", "desc"):
        if key != "graph_id":
            order = {"sort_by": key, "sort_order": direction}
            add(f"assistants by {key}, {direction}", _sorted_by(order), __name__)
add("assistants in the order of a search", _sorted_by({}), __name__)


@case
async def a_search_answers_with_the_fields_asked_for(talk: Talk) -> None:
    await _three(talk)
    for select in (["name", "version"], [], ["config", "context", "metadata"], ["assistant_id"]):
        body = {"metadata": {"mark": talk.mark}, "select": select, "limit": 1, "sort_by": "name"}
        await talk.post("/assistants/search", body)


@case
async def versions_are_listed_newest_first(talk: Talk) -> None:
    made = await talk.post("/assistants", {"graph_id": "chat", "metadata": {"n": 1}}, unseen=True)
    path = f"/assistants/{made['assistant_id']}"
    for number in (2, 3):
        body = {"metadata": {"n": number}, "name": f"N{number}"}
        await talk.patch(path, body, unseen=True)
    await talk.post(f"{path}/versions", {})
    await talk.post(f"{path}/versions", {"limit": 1, "offset": 1})
    await talk.post(f"{path}/versions", {"metadata": {"n": 2}})
    await talk.post(f"{path}/versions", {"limit": 0})


@case
async def an_older_version_is_made_the_latest(talk: Talk) -> None:
    body = {"graph_id": "form", "name": "One", "context": {"language": "de"}}
    made = await talk.post("/assistants", body, unseen=True)
    path = f"/assistants/{made['assistant_id']}"
    await talk.patch(path, {"name": "Two", "context": {"language": "fr"}}, unseen=True)
    await talk.post(f"{path}/latest", {"version": 1})
    await talk.get(path)
    await talk.patch(path, {"name": "Three"})
    await talk.post(f"{path}/latest", {"version": 9})
    await talk.post(f"{path}/latest", {"version": "x"})
    await talk.post(f"{path}/latest", {})


@case
async def an_assistant_gives_its_runs_its_config(talk: Talk) -> None:
    body = {
        "graph_id": "look",
        "config": {"configurable": {"a": "assistant", "b": "assistant"}, "tags": ["mine"]},
        "metadata": {"m": "assistant", "o": "assistant"},
    }
    made = await talk.post("/assistants", body, unseen=True)
    run = {
        "assistant_id": made["assistant_id"],
        "input": {},
        "config": {"configurable": {"b": "run"}},
        "metadata": {"o": "run"},
    }
    await talk.post(f"/threads/{await talk.thread()}/runs/wait", run)
