"""Threads, §1.2 and §4 of the contract, but for their state."""

from typing import Any

from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, on_a_thread, single
from tests.differential.talk import Talk

single(
    __name__,
    {
        "a thread": ("POST", "/threads", {}),
        "a thread whose id is no uuid": ("POST", "/threads", {"thread_id": "nope"}),
        "a thread whose metadata is a word": ("POST", "/threads", {"metadata": "x"}),
        "a thread whose metadata is null": ("POST", "/threads", {"metadata": None}),
        "a thread with an unknown if exists": ("POST", "/threads", {"if_exists": "maybe"}),
        "a thread with a ttl that is a number": ("POST", "/threads", {"ttl": 5}),
        "a thread with an unknown ttl strategy": (
            "POST",
            "/threads",
            {"ttl": {"ttl": 5, "strategy": "burn"}},
        ),
        "a thread with a ttl that is a word": ("POST", "/threads", {"ttl": {"ttl": "x"}}),
        "a thread with a negative ttl": ("POST", "/threads", {"ttl": {"ttl": -5}}),
        "a thread's metadata names ids": (
            "POST",
            "/threads",
            {"metadata": {"thread_id": "x", "run_id": "x", "assistant_id": "x", "kept": 1}},
        ),
        "supersteps without a graph": (
            "POST",
            "/threads",
            {"supersteps": [{"updates": [{"values": {"text": "a"}, "as_node": "first"}]}]},
        ),
        "supersteps of an unknown graph": (
            "POST",
            "/threads",
            {
                "metadata": {"graph_id": "nope"},
                "supersteps": [{"updates": [{"values": {}, "as_node": "first"}]}],
            },
        ),
        "supersteps that are words": ("POST", "/threads", {"supersteps": ["x"]}),
        "a thread that is not there": ("GET", f"/threads/{NOBODY}"),
        "a thread by an id that is no uuid": ("GET", "/threads/nope"),
        "a thread that is not there is not changed": ("PATCH", f"/threads/{NOBODY}", {}),
        "a thread that is not there is not deleted": ("DELETE", f"/threads/{NOBODY}"),
        "a thread to be deleted by an id that is no uuid": ("DELETE", "/threads/nope"),
        "a thread that is not there is not copied": ("POST", f"/threads/{NOBODY}/copy"),
        "the storage of a thread that is not there": ("GET", f"/threads/{NOBODY}/storage"),
        "pruning nothing": ("POST", "/threads/prune", {"thread_ids": []}),
        "pruning without ids": ("POST", "/threads/prune", {}),
        "pruning what is not there": ("POST", "/threads/prune", {"thread_ids": [NOBODY]}),
        "pruning by an id that is no uuid": ("POST", "/threads/prune", {"thread_ids": ["nope"]}),
        "pruning by an unknown strategy": (
            "POST",
            "/threads/prune",
            {"thread_ids": [NOBODY], "strategy": "burn"},
        ),
        "threads with a limit of 0": ("POST", "/threads/search", {"limit": 0}),
        "threads with a limit of 1001": ("POST", "/threads/search", {"limit": 1001}),
        "threads with a negative offset": ("POST", "/threads/search", {"offset": -1}),
        "threads by an unknown status": ("POST", "/threads/search", {"status": "nope"}),
        "threads by an unknown order": ("POST", "/threads/search", {"sort_by": "nope"}),
        "threads in an unknown direction": ("POST", "/threads/search", {"sort_order": "up"}),
        "threads by an id that is no uuid": ("POST", "/threads/search", {"ids": ["nope"]}),
        "threads by ids that are not there": ("POST", "/threads/search", {"ids": [NOBODY]}),
        "threads by no ids": (
            "POST",
            "/threads/search",
            {"ids": [], "metadata": {"nobody": "has this"}},
        ),
        "threads with unknown fields": ("POST", "/threads/search", {"select": ["nope"]}),
        "threads by metadata that is a list": ("POST", "/threads/search", {"metadata": []}),
        "threads by values that are a list": ("POST", "/threads/search", {"values": []}),
        "a count of threads by an unknown status": ("POST", "/threads/count", {"status": "nope"}),
        "a count of threads by metadata nobody has": (
            "POST",
            "/threads/count",
            {"metadata": {"nobody": "has this"}},
        ),
        "extracting from an unknown root": (
            "POST",
            "/threads/search",
            {"extract": {"a": "thread_id"}},
        ),
        "extracting under a name that is no identifier": (
            "POST",
            "/threads/search",
            {"extract": {"a-b": "values.text"}},
        ),
        "extracting under the name of a field": (
            "POST",
            "/threads/search",
            {"extract": {"values": "values.text"}},
        ),
        "extracting 11 values": (
            "POST",
            "/threads/search",
            {"extract": {f"a{number}": "values.text" for number in range(11)}},
        ),
        "extracting by a broken path": (
            "POST",
            "/threads/search",
            {"extract": {"a": "values.log[x]"}, "metadata": {"nobody": "has this"}},
        ),
        "extracting by a path that is a number": (
            "POST",
            "/threads/search",
            {"extract": {"a": 1}},
        ),
    },
)
on_a_thread(
    __name__,
    {
        "a thread with an unknown include": ("GET", "/threads/{thread}?include=nope"),
        "a thread without a ttl is asked for it": ("GET", "/threads/{thread}?include=ttl"),
        "a thread is changed by a word": ("PATCH", "/threads/{thread}", {"metadata": "x"}),
        "a thread is changed by nothing": ("PATCH", "/threads/{thread}", {}),
        "the storage of an empty thread": ("GET", "/threads/{thread}/storage"),
        "a new thread has no runs": ("GET", "/threads/{thread}/runs"),
    },
)


@case
async def a_thread_with_an_id_of_its_own(talk: Talk) -> None:
    await talk.post("/threads", {"thread_id": talk.mark, "metadata": {"a": {"b": 1}}})
    await talk.get(f"/threads/{talk.mark}")
    await talk.get(f"/threads/{talk.mark.upper()}")


@case
async def a_thread_that_is_there_is_refused(talk: Talk) -> None:
    await talk.post("/threads", {"thread_id": talk.mark})
    await talk.post("/threads", {"thread_id": talk.mark, "if_exists": "raise"})


@case
async def a_thread_that_is_there_may_be_asked_for(talk: Talk) -> None:
    await talk.post("/threads", {"thread_id": talk.mark, "metadata": {"a": 1}})
    body = {"thread_id": talk.mark, "metadata": {"a": 2}, "if_exists": "do_nothing"}
    await talk.post("/threads", body)


@case
async def a_thread_with_a_ttl_tells_when_it_ends(talk: Talk) -> None:
    for ttl in ({"ttl": 30}, {"ttl": 1.5, "strategy": "keep_latest"}):
        made = await talk.post("/threads", {"ttl": ttl})
        await talk.get(f"/threads/{made['thread_id']}?include=ttl")
        await talk.get(f"/threads/{made['thread_id']}")


@case
async def a_change_merges_the_metadata_of_a_thread(talk: Talk) -> None:
    thread_id = await talk.thread(metadata={"a": 1, "b": {"c": 1}})
    await talk.patch(f"/threads/{thread_id}", {"metadata": {"b": {"d": 2}, "e": None}})
    await talk.get(f"/threads/{thread_id}")


@case
async def a_change_may_be_answered_with_nothing(talk: Talk) -> None:
    thread_id = await talk.thread()
    headers = {"prefer": "return=minimal"}
    await talk.patch(f"/threads/{thread_id}", {"metadata": {"a": 1}}, headers=headers)


@case
async def a_ttl_is_set_later(talk: Talk) -> None:
    thread_id = await talk.thread()
    await talk.patch(f"/threads/{thread_id}", {"ttl": {"ttl": 10}})
    await talk.get(f"/threads/{thread_id}?include=ttl")
    await talk.patch(f"/threads/{thread_id}", {"ttl": {"ttl": "x"}})


@case
async def a_thread_is_deleted_once(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    await talk.delete(f"/threads/{thread_id}")
    await talk.get(f"/threads/{thread_id}")
    await talk.get(f"/threads/{thread_id}/state")
    await talk.get(f"/threads/{thread_id}/runs")
    await talk.delete(f"/threads/{thread_id}")


@case
async def supersteps_make_a_history(talk: Talk) -> None:
    steps = [
        {"updates": [{"values": {"text": "a"}, "as_node": "__input__"}]},
        {"updates": [{"values": {"log": ["one"]}, "as_node": "first"}]},
        {"updates": [{"values": {"log": ["two"]}, "as_node": "second"}]},
    ]
    body = {"metadata": {"graph_id": "steps"}, "supersteps": steps}
    made = await talk.post("/threads", body)
    await talk.get(f"/threads/{made['thread_id']}/state")
    await talk.post(f"/threads/{made['thread_id']}/history", {"limit": 10})


@case
async def supersteps_with_a_command(talk: Talk) -> None:
    steps: list[Any] = [
        {"updates": [{"command": {"update": {"log": ["told"]}, "goto": []}, "as_node": "first"}]},
    ]
    body = {"metadata": {"graph_id": "steps"}, "supersteps": steps}
    await talk.post("/threads", body)


@case
async def supersteps_by_an_unknown_node(talk: Talk) -> None:
    steps = [{"updates": [{"values": {"text": "a"}, "as_node": "nope"}]}]
    await talk.post("/threads", {"metadata": {"graph_id": "steps"}, "supersteps": steps})


async def _three(talk: Talk) -> list[str]:
    """The ids of three threads that only this talk finds: idle, interrupted and in error."""
    ids = []
    for number, graph_id in enumerate(("steps", "ask", "boom")):
        thread_id = await talk.thread(metadata={"mark": talk.mark, "n": {"of": number}})
        await talk.again(thread_id, graph_id, input={"text": f"t{number}", "log": ["in"]})
        ids.append(thread_id)
    return ids


@case
async def threads_are_found_by_metadata_in_pages(talk: Talk) -> None:
    await _three(talk)
    mine = {"metadata": {"mark": talk.mark}, "sort_by": "created_at", "sort_order": "asc"}
    for page in ({}, {"limit": 2}, {"limit": 2, "offset": 2}, {"limit": 3}, {"offset": 9}):
        await talk.post("/threads/search", {**mine, **page})
    await talk.post("/threads/count", {"metadata": {"mark": talk.mark}})


@case
async def threads_are_found_by_status(talk: Talk) -> None:
    await _three(talk)
    for status in ("idle", "busy", "interrupted", "error"):
        body = {"metadata": {"mark": talk.mark}, "status": status}
        await talk.post("/threads/search", body)
        await talk.post("/threads/count", body)


@case
async def threads_are_found_by_values(talk: Talk) -> None:
    await _three(talk)
    for values in ({"text": "t0"}, {"log": ["first"]}, {"text": "nope"}, {}):
        body = {"metadata": {"mark": talk.mark}, "values": values, "sort_by": "created_at"}
        await talk.post("/threads/search", {**body, "select": ["values", "status"]})
        await talk.post("/threads/count", body)


@case
async def threads_are_found_by_nested_metadata(talk: Talk) -> None:
    await _three(talk)
    wanted: tuple[Any, ...] = ({"n": {"of": 1}}, {"n": {}}, {"n": 1}, {"graph_id": "ask"})
    for metadata in wanted:
        body = {"metadata": {"mark": talk.mark, **metadata}, "sort_by": "created_at"}
        await talk.post("/threads/search", {**body, "select": ["metadata"]})


@case
async def threads_are_found_by_ids(talk: Talk) -> None:
    one, other, _ = await _three(talk)
    body = {"ids": [one, other], "sort_by": "created_at", "select": ["thread_id", "status"]}
    await talk.post("/threads/search", body)
    await talk.post("/threads/search", {**body, "ids": [one, one, NOBODY]})


@case
async def a_search_of_threads_answers_with_the_fields_asked_for(talk: Talk) -> None:
    await _three(talk)
    body = {"metadata": {"mark": talk.mark}, "sort_by": "created_at", "limit": 2}
    for select in (
        ["thread_id"],
        ["values", "interrupts"],
        ["config", "metadata"],
        ["created_at", "updated_at", "state_updated_at"],
        [],
    ):
        await talk.post("/threads/search", {**body, "select": select})


@case
async def a_search_of_threads_extracts_values(talk: Talk) -> None:
    await _three(talk)
    body = {
        "metadata": {"mark": talk.mark},
        "sort_by": "created_at",
        "select": ["thread_id"],
        "extract": {
            "first": "values.log[0]",
            "last": "values.log[-1]",
            "beyond": "values.log[9]",
            "nothing": "values.nope.deeper",
            "number": "metadata.n.of",
            "whole": "values.log",
        },
    }
    await talk.post("/threads/search", body)


def _sorted_by(order: dict[str, str]) -> Any:
    async def play(talk: Talk) -> None:
        await _three(talk)
        body = {"metadata": {"mark": talk.mark}, "select": ["metadata"], **order}
        await talk.post("/threads/search", body)

    return play


for key in ("created_at", "updated_at", "state_updated_at", "status"):
    for direction in ("asc", "desc"):
        add(
            f"threads by {key}, {direction}",
            _sorted_by({"sort_by": key, "sort_order": direction}),
            __name__,
        )
add("threads in the order of a search", _sorted_by({}), __name__)


@case
async def a_thread_tells_how_its_last_run_left_it(talk: Talk) -> None:
    for graph_id in ("steps", "ask", "nested_ask", "boom", "chat"):
        text = {"messages": "hi"} if graph_id == "chat" else {"text": "x"}
        await talk.get(f"/threads/{await talk.done(graph_id, text)}")


@case
async def a_copy_has_the_state_and_the_metadata(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    await talk.patch(f"/threads/{thread_id}", {"metadata": {"a": 1}}, unseen=True)
    copy = await talk.post(f"/threads/{thread_id}/copy")
    path = f"/threads/{copy['thread_id']}"
    await talk.get(f"{path}/state")
    await talk.post(f"{path}/history", {"limit": 10})
    await talk.get(f"{path}/runs")
    await talk.get(f"{path}")


@case
async def a_copy_of_an_interrupted_thread_goes_on(talk: Talk) -> None:
    thread_id = await talk.done("ask", {"text": "x"})
    copy = await talk.post(f"/threads/{thread_id}/copy")
    body = {"assistant_id": "ask", "command": {"resume": "yes"}}
    await talk.post(f"/threads/{copy['thread_id']}/runs/wait", body)
    await talk.get(f"/threads/{thread_id}/state")


@case
async def a_copy_of_an_empty_thread(talk: Talk) -> None:
    await talk.post(f"/threads/{await talk.thread(metadata={'a': 1})}/copy")


@case
async def pruning_deletes_threads(talk: Talk) -> None:
    one, other = await talk.done("steps", {"text": "x"}), await talk.thread()
    await talk.post("/threads/prune", {"thread_ids": [one, other, NOBODY]})
    await talk.get(f"/threads/{one}")


@case
async def pruning_keeps_the_latest_state(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    body = {"thread_ids": [thread_id], "strategy": "keep_latest"}
    await talk.post("/threads/prune", body)
    await talk.post(f"/threads/{thread_id}/history", {"limit": 10})
    await talk.get(f"/threads/{thread_id}/state")


@case
async def storage_is_told_by_channel(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    await talk.get(f"/threads/{thread_id}/storage")
