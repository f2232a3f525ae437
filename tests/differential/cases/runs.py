"""Runs in every form, §1.3 and §3 of the contract, but for their streams and their end before time."""

from typing import Any

from tests.differential.cases.assistants import own
from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, on_a_thread, single
from tests.differential.talk import Talk

TEXT = {"input": {"text": "x"}}
STEPS = {"assistant_id": "steps", **TEXT}

single(
    __name__,
    {
        "a run on a thread that is not there": ("POST", f"/threads/{NOBODY}/runs", STEPS),
        "a wait on a thread that is not there": ("POST", f"/threads/{NOBODY}/runs/wait", STEPS),
        "a stream on a thread that is not there": (
            "POST",
            f"/threads/{NOBODY}/runs/stream",
            STEPS,
        ),
        "a run by a thread id that is no uuid": ("POST", "/threads/nope/runs", STEPS),
        "runs of a thread that is not there": ("GET", f"/threads/{NOBODY}/runs"),
        "runs by an id that is no uuid": ("GET", "/threads/nope/runs"),
        "a stateless run of an unknown graph": ("POST", "/runs", {"assistant_id": "nope"}),
        "a stateless wait of an unknown assistant": (
            "POST",
            "/runs/wait",
            {"assistant_id": NOBODY},
        ),
        "a stateless stream of an unknown graph": (
            "POST",
            "/runs/stream",
            {"assistant_id": "nope"},
        ),
        "a stateless run without an assistant": ("POST", "/runs", {}),
        "a stateless resume": (
            "POST",
            "/runs/wait",
            {"assistant_id": "ask", "command": {"resume": "yes"}},
        ),
        "a stateless run with an unknown completion": (
            "POST",
            "/runs",
            {**STEPS, "on_completion": "burn"},
        ),
        "a batch of nothing": ("POST", "/runs/batch", []),
        "a batch that is an object": ("POST", "/runs/batch", {}),
        "a batch with a bad run": ("POST", "/runs/batch", [STEPS, {"assistant_id": "nope"}]),
        "a stateless wait": ("POST", "/runs/wait", STEPS),
        "a stateless wait by the assistant's id": (
            "POST",
            "/runs/wait",
            {"assistant_id": own("steps"), **TEXT},
        ),
        "a stateless wait of a graph that fails": (
            "POST",
            "/runs/wait",
            {"assistant_id": "boom", **TEXT},
        ),
        "a stateless wait of a graph that asks": (
            "POST",
            "/runs/wait",
            {"assistant_id": "ask", **TEXT},
        ),
        "a stateless wait of a functional graph": (
            "POST",
            "/runs/wait",
            {"assistant_id": "functional", "input": [1, 2]},
        ),
        "a stateless wait of a graph with an output of its own": (
            "POST",
            "/runs/wait",
            {"assistant_id": "form", "input": {"name": "Ada", "age": 3}},
        ),
        "a stateless wait that keeps its thread": (
            "POST",
            "/runs/wait",
            {**STEPS, "on_completion": "keep"},
        ),
        "input that the graph's schema refuses": (
            "POST",
            "/runs/wait",
            {"assistant_id": "form", "input": {"age": "old"}},
        ),
    },
)
WRONG: dict[str, dict[str, Any]] = {
    "an unknown stream mode": {"stream_mode": "nope"},
    "the stream mode tools": {"stream_mode": ["tools"]},
    "the stream mode lifecycle": {"stream_mode": ["lifecycle"]},
    "a stream mode that is a number": {"stream_mode": 1},
    "an unknown strategy": {"multitask_strategy": "nope"},
    "an unknown durability": {"durability": "nope"},
    "an unknown if not exists": {"if_not_exists": "nope"},
    "metadata that is a list": {"metadata": []},
    "a config that is a list": {"config": []},
    "configurable that is a list": {"config": {"configurable": []}},
    "a recursion limit that is a word": {"config": {"recursion_limit": "x"}},
    "a recursion limit of 0": {"config": {"recursion_limit": 0}},
    "a context that is a list": {"context": []},
    "a context beside a configurable": {"context": {"a": 1}, "config": {"configurable": {"a": 1}}},
    "a command that is a word": {"command": "x"},
    "a command of nothing": {"command": {}},
    "a checkpoint that is a word": {"checkpoint": "x"},
    "a delay that is a word": {"after_seconds": "x"},
    "a delay below 0": {"after_seconds": -1},
    "an interrupt before a number": {"interrupt_before": 5},
    "an interrupt before an unknown node": {"interrupt_before": ["nope"]},
    "an interrupt before a word": {"interrupt_before": "first"},
    "subgraphs that are a word": {"stream_subgraphs": "x"},
    "resumable that is a word": {"stream_resumable": "x"},
    "feedback keys that are a word": {"feedback_keys": "x"},
    "a webhook that is a number": {"webhook": 5},
    "an unknown end of connection": {"on_disconnect": "nope"},
    "a tracer": {"langsmith_tracer": {"project_name": "p"}},
    "a tracer that is a word": {"langsmith_tracer": "p"},
    "checkpoints only at the end": {"checkpoint_during": False},
    "fields nobody knows": {"nobody": "knows"},
    "a resume of nothing": {"command": {"resume": "x"}, "input": None},
    "a goto to an unknown node": {"command": {"goto": "nope"}, "input": None},
}
on_a_thread(
    __name__,
    {
        f"a run with {what}": ("POST", "/threads/{thread}/runs/wait", {**STEPS, **fields})
        for what, fields in WRONG.items()
    },
)
on_a_thread(
    __name__,
    {
        "a run without an assistant": ("POST", "/threads/{thread}/runs", {}),
        "a run of an unknown graph": ("POST", "/threads/{thread}/runs", {"assistant_id": "nope"}),
        "a run of an assistant that is not there": (
            "POST",
            "/threads/{thread}/runs",
            {"assistant_id": NOBODY},
        ),
        "a run of an assistant that is a number": (
            "POST",
            "/threads/{thread}/runs",
            {"assistant_id": 5},
        ),
        "a run that is not there": ("GET", f"/threads/{{thread}}/runs/{NOBODY}"),
        "a run by an id that is no uuid": ("GET", "/threads/{thread}/runs/nope"),
        "a run that is not there is not deleted": (
            "DELETE",
            f"/threads/{{thread}}/runs/{NOBODY}",
        ),
        "a run that is not there is not joined": (
            "GET",
            f"/threads/{{thread}}/runs/{NOBODY}/join",
        ),
        "runs with a limit of 0": ("GET", "/threads/{thread}/runs?limit=0"),
        "runs with a limit that is a word": ("GET", "/threads/{thread}/runs?limit=x"),
        "runs by an unknown status": ("GET", "/threads/{thread}/runs?status=nope"),
        "runs with unknown fields": ("GET", "/threads/{thread}/runs?select=nope"),
    },
)


@case
async def a_run_is_queued_read_and_joined(talk: Talk) -> None:
    thread_id = await talk.thread()
    run = await talk.post(f"/threads/{thread_id}/runs", STEPS)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.get(f"{path}/join")
    await talk.until(path, status="success")
    await talk.get(path)
    await talk.get(f"/threads/{thread_id}/runs")
    await talk.get(f"{path}/join")


@case
async def a_run_with_every_field(talk: Talk) -> None:
    thread_id = await talk.thread(metadata={"from": "thread"})
    body = {
        **STEPS,
        "metadata": {"a": 1, "run_id": "x", "from": "run"},
        "config": {"tags": ["t"], "recursion_limit": 9, "configurable": {"c": 1}},
        "stream_mode": ["values", "messages-tuple"],
        "stream_subgraphs": True,
        "stream_resumable": True,
        "interrupt_before": ["second"],
        "interrupt_after": [],
        "multitask_strategy": "reject",
        "durability": "sync",
        "if_not_exists": "create",
    }
    run = await talk.post(f"/threads/{thread_id}/runs", body)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.until(path, status="success")
    await talk.get(path)
    await talk.get(f"/threads/{thread_id}")


@case
async def a_run_with_a_context(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {"assistant_id": "form", "input": {}, "context": {"language": "de"}}
    await talk.post(f"/threads/{thread_id}/runs", body)


@case
async def a_run_makes_its_thread(talk: Talk) -> None:
    body = {**STEPS, "if_not_exists": "create", "metadata": {"a": 1}}
    await talk.post(f"/threads/{talk.mark}/runs/wait", body)
    await talk.get(f"/threads/{talk.mark}")


@case
async def a_wait_answers_with_the_values(talk: Talk) -> None:
    thread_id = await talk.thread()
    await talk.post(f"/threads/{thread_id}/runs/wait", STEPS)
    await talk.post(f"/threads/{thread_id}/runs/wait", STEPS)


@case
async def a_wait_answers_with_the_interrupt(talk: Talk) -> None:
    for graph_id in ("ask", "nested_ask", "ask_both"):
        body = {"assistant_id": graph_id, **TEXT}
        heard = await talk.post(f"/threads/{await talk.thread()}/runs/wait", body, unseen=True)
        asked = sorted(heard["__interrupt__"], key=str)
        talk.exchanges.append({"ask": graph_id, "body": {**heard, "__interrupt__": asked}})


@case
async def a_wait_answers_with_the_error(talk: Talk) -> None:
    for text in ("x", "house", "key"):
        body = {"assistant_id": "boom", "input": {"text": text}}
        thread_id = await talk.thread()
        await talk.post(f"/threads/{thread_id}/runs/wait", body)
        await talk.get(f"/threads/{thread_id}")
        await talk.get(f"/threads/{thread_id}/runs")


@case
async def a_wait_of_a_conversation(talk: Talk) -> None:
    message = {"role": "user", "content": "hello", "id": "question"}
    body = {"assistant_id": "chat", "input": {"messages": [message]}}
    await talk.post(f"/threads/{await talk.thread()}/runs/wait", body)


@case
async def a_graph_with_an_output_of_its_own(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {"assistant_id": "form", "input": {"name": "Ada", "age": 3}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)
    await talk.post(f"/threads/{thread_id}/runs/stream", body)
    await talk.get(f"/threads/{thread_id}")
    await talk.get(f"/threads/{thread_id}/state")


@case
async def a_wait_beyond_the_recursion_limit(talk: Talk) -> None:
    body = {**STEPS, "config": {"recursion_limit": 1}}
    await talk.post(f"/threads/{await talk.thread()}/runs/wait", body)


@case
async def a_join_of_a_run_that_failed(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {"assistant_id": "boom", **TEXT}
    run = await talk.post(f"/threads/{thread_id}/runs", body, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.until(path, status="error")
    await talk.get(f"{path}/join")
    await talk.get(path)


@case
async def a_join_of_a_run_under_way(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    await talk.get(f"/threads/{thread_id}/runs/{run_id}")
    await talk.get(f"/threads/{thread_id}")
    await talk.release()
    await talk.get(f"/threads/{thread_id}/runs/{run_id}/join")


@case
async def runs_are_listed_newest_first_in_pages(talk: Talk) -> None:
    thread_id = await talk.thread()
    for number in range(3):
        await talk.again(thread_id, "steps", input={"text": "x"}, metadata={"n": number})
    for page in ("limit=2", "limit=2&offset=2", "offset=9", "status=success&limit=1"):
        await talk.get(f"/threads/{thread_id}/runs?{page}")
    for wanted in ("status=error", "select=run_id&select=status", "select=metadata"):
        await talk.get(f"/threads/{thread_id}/runs?{wanted}")
    await talk.get(f"/threads/{thread_id}/runs?select=%5B%22run_id%22%5D")


@case
async def a_run_is_deleted_once(talk: Talk) -> None:
    thread_id = await talk.thread()
    await talk.again(thread_id, "steps", input={"text": "x"})
    (run,) = await talk.get(f"/threads/{thread_id}/runs", unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.delete(path)
    await talk.get(path)
    await talk.delete(path)
    await talk.get(f"/threads/{thread_id}/state")


@case
async def a_run_of_another_thread_is_not_there(talk: Talk) -> None:
    one, other = await talk.thread(), await talk.thread()
    await talk.again(one, "steps", input={"text": "x"})
    (run,) = await talk.get(f"/threads/{one}/runs", unseen=True)
    await talk.get(f"/threads/{other}/runs/{run['run_id']}")
    await talk.get(f"/threads/{other}/runs/{run['run_id']}/join")
    await talk.delete(f"/threads/{other}/runs/{run['run_id']}")


@case
async def a_delayed_run_waits(talk: Talk) -> None:
    thread_id = await talk.thread()
    run = await talk.post(f"/threads/{thread_id}/runs", {**STEPS, "after_seconds": 300})
    await talk.get(f"/threads/{thread_id}/runs/{run['run_id']}")
    await talk.get(f"/threads/{thread_id}")


@case
async def a_run_sees_its_config(talk: Talk) -> None:
    thread_id = await talk.thread(metadata={"a": "thread", "b": "thread"})
    body = {
        "assistant_id": "look",
        "input": {},
        "config": {
            "tags": ["mine"],
            "recursion_limit": 11,
            "configurable": {"x": 1, "user_id": "me", "langgraph_auth_user": "spoofed"},
            "metadata": {"b": "config", "c": "config"},
        },
        "metadata": {"c": "request", "cron_id": "x"},
    }
    await talk.post(f"/threads/{thread_id}/runs/wait", body)
    await talk.get(f"/threads/{thread_id}")
    await talk.get(f"/threads/{thread_id}/runs")


@case
async def a_second_run_sees_the_config_of_the_thread(talk: Talk) -> None:
    thread_id = await talk.thread()
    await talk.again(thread_id, "look", input={}, config={"configurable": {"x": 1, "y": 1}})
    body = {"assistant_id": "look", "input": {}, "config": {"configurable": {"y": 2}}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_run_sees_a_context_as_configurable(talk: Talk) -> None:
    body = {"assistant_id": "look", "input": {}, "context": {"x": 1}}
    await talk.post(f"/threads/{await talk.thread()}/runs/wait", body)


@case
async def a_stateless_run_sees_its_config(talk: Talk) -> None:
    body = {"assistant_id": "look", "input": {}, "config": {"configurable": {"x": 1}}}
    await talk.post("/runs/wait", body)


@case
async def an_answer_resumes_a_run(talk: Talk) -> None:
    thread_id = await talk.done("ask", {"text": "x"})
    body = {"assistant_id": "ask", "command": {"resume": {"any": ["thing", None]}}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)
    await talk.get(f"/threads/{thread_id}")


@case
async def an_answer_resumes_a_subgraph(talk: Talk) -> None:
    thread_id = await talk.done("nested_ask", {"text": "x"})
    body = {"assistant_id": "nested_ask", "command": {"resume": "yes"}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)
    await talk.get(f"/threads/{thread_id}/state")


@case
async def answers_by_the_ids_of_interrupts(talk: Talk) -> None:
    thread_id = await talk.done("ask_both", {"text": "x"})
    state = await talk.get(f"/threads/{thread_id}/state", unseen=True)
    asked = {
        interrupt["id"]: interrupt["value"]["side"][::-1]
        for task in state["tasks"]
        for interrupt in task["interrupts"]
    }
    body = {"assistant_id": "ask_both", "command": {"resume": asked}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def one_answer_to_two_interrupts(talk: Talk) -> None:
    thread_id = await talk.done("ask_both", {"text": "x"})
    body = {"assistant_id": "ask_both", "command": {"resume": "both"}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def an_answer_beside_an_empty_input(talk: Talk) -> None:
    thread_id = await talk.done("ask", {"text": "x"})
    body = {"assistant_id": "ask", "input": {}, "command": {"resume": "yes"}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_new_input_in_place_of_an_answer(talk: Talk) -> None:
    thread_id = await talk.done("ask", {"text": "x"})
    body = {"assistant_id": "ask", "input": {"text": "y"}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_command_updates_and_goes_on(talk: Talk) -> None:
    thread_id = await talk.done("ask", {"text": "x"})
    command = {"update": {"text": "changed"}, "resume": "yes"}
    body = {"assistant_id": "ask", "command": command}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_command_updates_by_pairs(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    body = {"assistant_id": "steps", "command": {"update": [["text", "changed"]]}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_command_goes_to_a_node(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    for goto in ("second", ["second"], {"node": "second", "input": {"text": "sent"}}):
        body = {"assistant_id": "steps", "command": {"goto": goto}}
        await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_command_wins_over_an_input(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    body = {**STEPS, "input": {"text": "ignored"}, "command": {"goto": "second"}}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_run_stops_before_and_after_nodes(talk: Talk) -> None:
    for pause in ({"interrupt_before": ["second"]}, {"interrupt_after": "*"}):
        thread_id = await talk.thread()
        await talk.post(f"/threads/{thread_id}/runs/wait", {**STEPS, **pause})
        await talk.get(f"/threads/{thread_id}")
        await talk.get(f"/threads/{thread_id}/runs")
        await talk.post(f"/threads/{thread_id}/runs/wait", {**STEPS, "input": None})


@case
async def a_run_from_a_checkpoint(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    states = await talk.post(f"/threads/{thread_id}/history", {"limit": 10}, unseen=True)
    path = f"/threads/{thread_id}/runs/wait"
    checkpoint = states[1]["checkpoint"]
    await talk.post(path, {**STEPS, "input": None, "checkpoint": checkpoint})
    del checkpoint["thread_id"]
    await talk.post(path, {**STEPS, "input": {"text": "y"}, "checkpoint": checkpoint})
    checkpoint_id = checkpoint["checkpoint_id"]
    await talk.post(path, {**STEPS, "input": None, "checkpoint_id": checkpoint_id})


@case
async def a_run_from_the_start_of_a_thread(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    states = await talk.post(f"/threads/{thread_id}/history", {"limit": 10}, unseen=True)
    body = {**STEPS, "input": {"text": "y"}, "checkpoint": states[-1]["checkpoint"]}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_run_from_a_checkpoint_that_is_not_there(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    body = {**STEPS, "checkpoint_id": NOBODY}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)


@case
async def a_thread_changes_its_graph(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    await talk.post(f"/threads/{thread_id}/runs/wait", {"assistant_id": "ask", **TEXT})
    await talk.get(f"/threads/{thread_id}")


def _durable(durability: str) -> Any:
    async def play(talk: Talk) -> None:
        thread_id = await talk.thread()
        await talk.post(f"/threads/{thread_id}/runs/wait", {**STEPS, "durability": durability})
        states = await talk.post(f"/threads/{thread_id}/history", {"limit": 9}, unseen=True)
        talk.exchanges.append({"ask": "states", "body": len(states)})

    return play


for durability in ("sync", "async", "exit"):
    add(f"what is kept of a run with durability {durability}", _durable(durability), __name__)


@case
async def a_stateless_run_is_queued(talk: Talk) -> None:
    await talk.post("/runs", STEPS)


@case
async def a_stateless_run_keeps_its_thread(talk: Talk) -> None:
    run = await talk.post("/runs", {**STEPS, "on_completion": "keep"})
    path = f"/threads/{run['thread_id']}"
    await talk.until(path, status="idle")
    await talk.get(path)
    await talk.get(f"{path}/state")


@case
async def a_stateless_run_takes_its_thread_with_it(talk: Talk) -> None:
    await talk.post("/runs/wait", {**STEPS, "metadata": {"mark": talk.mark}})
    await talk.post("/threads/search", {"metadata": {"mark": talk.mark}})


@case
async def a_batch_of_runs(talk: Talk) -> None:
    other = {"assistant_id": "ask", "input": {"text": "y"}, "on_completion": "keep"}
    await talk.post("/runs/batch", [STEPS, other])
