"""The state of threads and its history."""

from typing import Any

from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, on_a_thread, single
from tests.differential.talk import Talk

single(
    __name__,
    {
        "the state of a thread that is not there": ("GET", f"/threads/{NOBODY}/state"),
        "the state by an id that is no uuid": ("GET", "/threads/nope/state"),
        "the history of a thread that is not there": ("POST", f"/threads/{NOBODY}/history", {}),
        "the history, by GET, of a thread that is not there": (
            "GET",
            f"/threads/{NOBODY}/history",
        ),
        "an update of a thread that is not there": (
            "POST",
            f"/threads/{NOBODY}/state",
            {"values": {}},
        ),
        "the history by an id that is no uuid": ("POST", "/threads/nope/history", {}),
    },
)
on_a_thread(
    __name__,
    {
        "the state of a new thread": ("GET", "/threads/{thread}/state"),
        "the history of a new thread": ("POST", "/threads/{thread}/history", {}),
        "the history, by GET, of a new thread": ("GET", "/threads/{thread}/history"),
        "a new thread at a checkpoint": ("GET", f"/threads/{{thread}}/state/{NOBODY}"),
        "an update of a thread without a graph": (
            "POST",
            "/threads/{thread}/state",
            {"values": {"text": "x"}},
        ),
        "the old way to patch a state": ("PATCH", "/threads/{thread}/state", {"metadata": {}}),
        "a history of 0 states": ("POST", "/threads/{thread}/history", {"limit": 0}),
        "a history of 1001 states": ("POST", "/threads/{thread}/history", {"limit": 1001}),
        "a history with a limit that is a word": (
            "POST",
            "/threads/{thread}/history",
            {"limit": "x"},
        ),
        "a history, by GET, of 0 states": ("GET", "/threads/{thread}/history?limit=0"),
        "a history, by GET, of a word": ("GET", "/threads/{thread}/history?limit=x"),
        "a state at a checkpoint without one": ("POST", "/threads/{thread}/state/checkpoint", {}),
    },
)


@case
async def the_state_after_a_run(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    await talk.get(f"/threads/{thread_id}/state")
    await talk.get(f"/threads/{thread_id}/state?subgraphs=true")


@case
async def the_state_of_a_conversation(talk: Talk) -> None:
    message = {"role": "user", "content": "hello", "id": "question"}
    thread_id = await talk.done("chat", {"messages": [message]})
    await talk.get(f"/threads/{thread_id}/state")


@case
async def the_state_after_an_interrupt(talk: Talk) -> None:
    thread_id = await talk.done("ask", {"text": "x"})
    await talk.get(f"/threads/{thread_id}/state")


@case
async def the_state_after_an_interrupt_in_a_subgraph(talk: Talk) -> None:
    thread_id = await talk.done("nested_ask", {"text": "x"})
    await talk.get(f"/threads/{thread_id}/state")
    await talk.get(f"/threads/{thread_id}/state?subgraphs=true")


@case
async def the_state_after_two_interrupts(talk: Talk) -> None:
    thread_id = await talk.done("ask_both", {"text": "x"})
    await talk.get(f"/threads/{thread_id}/state")
    await talk.get(f"/threads/{thread_id}")


@case
async def the_state_after_a_failure(talk: Talk) -> None:
    thread_id = await talk.done("boom", {"text": "x"})
    await talk.get(f"/threads/{thread_id}/state")


@case
async def the_state_of_every_checkpoint(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    path = f"/threads/{thread_id}"
    for state in await talk.post(f"{path}/history", {"limit": 10}):
        await talk.get(f"{path}/state/{state['checkpoint']['checkpoint_id']}")
        body = {"checkpoint": state["checkpoint"]}
        await talk.post(f"{path}/state/checkpoint", body)
        del body["checkpoint"]["thread_id"]
        await talk.post(f"{path}/state/checkpoint", {**body, "subgraphs": True})


@case
async def a_checkpoint_that_is_not_there(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.get(f"{path}/state/{NOBODY}")
    await talk.get(f"{path}/state/nope")
    await talk.post(f"{path}/state/checkpoint", {"checkpoint": {"checkpoint_id": NOBODY}})


@case
async def the_state_of_a_subgraph(talk: Talk) -> None:
    path = f"/threads/{await talk.done('nested_ask', {'text': 'x'})}"
    state = await talk.get(f"{path}/state", unseen=True)
    checkpoint = state["tasks"][0]["checkpoint"]
    await talk.post(f"{path}/state/checkpoint", {"checkpoint": checkpoint})
    await talk.post(f"{path}/history", {"checkpoint": checkpoint, "limit": 10})


@case
async def the_history_of_a_thread(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.post(f"{path}/history", {})
    await talk.post(f"{path}/history", {"limit": 10})
    await talk.get(f"{path}/history")
    await talk.get(f"{path}/history?limit=2")


@case
async def the_history_before_a_checkpoint(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    states = await talk.post(f"{path}/history", {"limit": 10}, unseen=True)
    checkpoint_id = states[1]["checkpoint"]["checkpoint_id"]
    await talk.get(f"{path}/history?before={checkpoint_id}&limit=2")
    configurable = {"configurable": {"checkpoint_id": checkpoint_id}}
    await talk.post(f"{path}/history", {"before": configurable, "limit": 2})
    await talk.post(f"{path}/history", {"before": checkpoint_id, "limit": 2})
    await talk.post(f"{path}/history", {"before": states[1]["checkpoint"], "limit": 2})


@case
async def the_history_by_metadata(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    for metadata in ({"source": "input"}, {"step": 1}, {"nope": 1}):
        await talk.post(f"{path}/history", {"metadata": metadata, "limit": 10})


@case
async def the_history_after_two_runs(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    await talk.again(thread_id, "steps", input={"text": "y"})
    await talk.post(f"/threads/{thread_id}/history", {"limit": 100})


@case
async def the_history_of_an_interrupted_thread(talk: Talk) -> None:
    thread_id = await talk.done("nested_ask", {"text": "x"})
    await talk.post(f"/threads/{thread_id}/history", {"limit": 100})


@case
async def an_update_as_a_node(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.post(f"{path}/state", {"values": {"log": ["told"]}, "as_node": "first"})
    await talk.get(f"{path}/state")
    await talk.get(path)
    await talk.post(f"{path}/runs/wait", {"assistant_id": "steps", "input": None})


@case
async def an_update_without_a_node(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.post(f"{path}/state", {"values": {"text": "y"}})
    await talk.get(f"{path}/state")


@case
async def an_update_as_an_unknown_node(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.post(f"{path}/state", {"values": {"text": "y"}, "as_node": "nope"})


@case
async def an_update_as_the_end(talk: Talk) -> None:
    path = f"/threads/{await talk.done('ask', {'text': 'x'})}"
    await talk.post(f"{path}/state", {"values": None, "as_node": "__end__"})
    await talk.get(f"{path}/state")
    await talk.get(path)


@case
async def an_update_of_what_the_graph_does_not_have(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.post(f"{path}/state", {"values": {"nope": 1}})
    await talk.get(f"{path}/state")


@case
async def an_update_with_a_word_for_values(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.post(f"{path}/state", {"values": "word"})
    await talk.post(f"{path}/state", {"values": 5})


@case
async def an_update_of_the_wrong_type(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.post(f"{path}/state", {"values": {"log": 5}, "as_node": "first"})


@case
async def an_update_with_a_list_of_values(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    body = {"values": [{"log": ["one"]}, {"log": ["two"]}], "as_node": "first"}
    await talk.post(f"{path}/state", body)
    await talk.get(f"{path}/state")


@case
async def an_update_without_anything(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    await talk.post(f"{path}/state", {})
    await talk.get(f"{path}/state")


@case
async def an_update_of_messages_replaces_by_id(talk: Talk) -> None:
    message = {"role": "user", "content": "hello", "id": "question"}
    path = f"/threads/{await talk.done('chat', {'messages': [message]})}"
    change = {"messages": [{**message, "content": "changed"}]}
    await talk.post(f"{path}/state", {"values": change, "as_node": "model"})
    await talk.get(f"{path}/state")
    remove = {"messages": [{"type": "remove", "id": "question", "content": ""}]}
    await talk.post(f"{path}/state", {"values": remove, "as_node": "model"})
    await talk.get(f"{path}/state")


@case
async def a_fork_as_studio_makes_it(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    states = await talk.post(f"{path}/history", {"limit": 10}, unseen=True)
    checkpoint = states[1]["checkpoint"]
    body = {"values": None, "checkpoint": checkpoint, "as_node": "first"}
    await talk.post(f"{path}/state", body)
    await talk.get(f"{path}/state")
    await talk.post(f"{path}/runs/wait", {"assistant_id": "steps", "input": None})


@case
async def a_fork_by_the_id_of_a_checkpoint(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    states = await talk.post(f"{path}/history", {"limit": 10}, unseen=True)
    body = {
        "values": {"log": ["forked"]},
        "checkpoint_id": states[1]["checkpoint"]["checkpoint_id"],
        "as_node": "first",
    }
    await talk.post(f"{path}/state", body)
    await talk.post(f"{path}/history", {"limit": 10})


@case
async def a_fork_at_a_checkpoint_that_is_not_there(talk: Talk) -> None:
    path = f"/threads/{await talk.done('steps', {'text': 'x'})}"
    checkpoint = {"checkpoint_ns": "", "checkpoint_id": NOBODY}
    await talk.post(f"{path}/state", {"values": {"text": "y"}, "checkpoint": checkpoint})


@case
async def an_update_of_a_thread_of_another_status(talk: Talk) -> None:
    path = f"/threads/{await talk.done('boom', {'text': 'x'})}"
    await talk.post(f"{path}/state", {"values": {"text": "y"}, "as_node": "first"})
    await talk.get(path)
    await talk.get(f"{path}/state")


@case
async def an_update_under_a_run_is_refused(talk: Talk) -> None:
    thread_id, _ = await talk.held()
    await talk.post(f"/threads/{thread_id}/state", {"values": {"text": "y"}})
    await talk.release()


@case
async def an_update_of_a_thread_whose_graph_was_named_at_the_start(talk: Talk) -> None:
    path = f"/threads/{await talk.thread(metadata={'graph_id': 'steps'})}"
    await talk.post(f"{path}/state", {"values": {"text": "y"}, "as_node": "__start__"})
    await talk.get(f"{path}/state")
    await talk.post(f"{path}/history", {"limit": 10})


def _shown(thing: str) -> Any:
    async def play(talk: Talk) -> None:
        path = f"/threads/{await talk.done('things', {'thing': thing})}"
        await talk.get(f"{path}/state")
        await talk.get(path)

    return play


for thing in ("pydantic", "dataclass", "decimal", "bytes", "exception", "set", "float"):
    add(f"a value of the kind {thing} is shown", _shown(thing), __name__)
