"""Cancelling runs, and what a second run on a thread does to the first."""

from typing import Any

from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, on_a_thread, single
from tests.differential.talk import Talk

NEXT = {"assistant_id": "steps", "input": {"text": "next"}}

on_a_thread(
    __name__,
    {
        "cancelling a run that is not there": (
            "POST",
            f"/threads/{{thread}}/runs/{NOBODY}/cancel",
        ),
        "cancelling by an id that is no uuid": ("POST", "/threads/{thread}/runs/nope/cancel"),
        "cancelling by an unknown action": (
            "POST",
            f"/threads/{{thread}}/runs/{NOBODY}/cancel?action=burn",
        ),
    },
)
single(
    __name__,
    {
        "cancelling many by nothing": ("POST", "/runs/cancel", {}),
        "cancelling many by an unknown status": ("POST", "/runs/cancel", {"status": "nope"}),
        "cancelling many by status and thread": (
            "POST",
            "/runs/cancel",
            {"status": "all", "thread_id": NOBODY, "run_ids": [NOBODY]},
        ),
        "cancelling many by a thread alone": ("POST", "/runs/cancel", {"thread_id": NOBODY}),
        "cancelling many that are not there": (
            "POST",
            "/runs/cancel",
            {"thread_id": NOBODY, "run_ids": [NOBODY]},
        ),
        "cancelling many by ids that are no uuids": (
            "POST",
            "/runs/cancel",
            {"thread_id": NOBODY, "run_ids": ["nope"]},
        ),
        "cancelling many by an unknown action": (
            "POST",
            "/runs/cancel?action=burn",
            {"thread_id": NOBODY, "run_ids": [NOBODY]},
        ),
    },
)


async def _left(talk: Talk, thread_id: str) -> None:
    """What is to be seen of a thread and its runs."""
    await talk.get(f"/threads/{thread_id}/runs?select=status&select=metadata")
    await talk.get(f"/threads/{thread_id}?select=status")
    await talk.get(f"/threads/{thread_id}/state")


@case
async def a_running_run_is_cancelled(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    path = f"/threads/{thread_id}/runs/{run_id}"
    await talk.post(f"{path}/cancel")
    await talk.until(path, status="interrupted")
    await talk.get(path)
    await _left(talk, thread_id)


@case
async def a_cancel_waits_for_the_end(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    path = f"/threads/{thread_id}/runs/{run_id}"
    await talk.post(f"{path}/cancel?wait=1")
    await talk.until(path, status="interrupted")
    await _left(talk, thread_id)


@case
async def a_cancelled_run_is_joined(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    path = f"/threads/{thread_id}/runs/{run_id}"
    await talk.post(f"{path}/cancel", unseen=True)
    await talk.until(path, status="interrupted")
    await talk.get(f"{path}/join")
    await talk.get(f"{path}/stream")


@case
async def a_run_is_cancelled_and_rolled_back(talk: Talk) -> None:
    thread_id = await talk.done("held", {"gate": talk.mark}, interrupt_before=["wait"])
    _, run_id = await talk.held(thread_id)
    path = f"/threads/{thread_id}/runs/{run_id}"
    await talk.post(f"{path}/cancel?action=rollback&wait=1")
    await talk.gone(path)
    await talk.get(f"/threads/{thread_id}/runs?select=status")
    await talk.get(f"/threads/{thread_id}/state")


@case
async def a_queued_run_is_cancelled(talk: Talk) -> None:
    thread_id, running = await talk.held()
    run = await talk.post(f"/threads/{thread_id}/runs", NEXT, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.get(path)
    await talk.post(f"{path}/cancel")
    await talk.until(path, status="interrupted")
    await talk.get(path)
    await talk.release()
    await talk.until(f"/threads/{thread_id}/runs/{running}", status="success")
    await _left(talk, thread_id)


@case
async def a_delayed_run_is_cancelled(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {**NEXT, "after_seconds": 300}
    run = await talk.post(f"/threads/{thread_id}/runs", body, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.post(f"{path}/cancel?wait=1")
    await talk.until(path, status="interrupted")
    await talk.get(f"/threads/{thread_id}")


@case
async def a_run_that_has_ended_is_not_cancelled(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    (run,) = await talk.get(f"/threads/{thread_id}/runs", unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}/cancel"
    await talk.post(path)
    await talk.post(f"{path}?wait=1")
    await talk.post(f"{path}?action=rollback")
    body = {"thread_id": thread_id, "run_ids": [run["run_id"]]}
    await talk.post("/runs/cancel", body)


@case
async def many_runs_of_a_thread_are_cancelled(talk: Talk) -> None:
    thread_id, running = await talk.held()
    queued = await talk.post(f"/threads/{thread_id}/runs", NEXT, unseen=True)
    ids = [running, queued["run_id"]]
    await talk.post("/runs/cancel", {"thread_id": thread_id, "run_ids": ids})
    for run_id in ids:
        await talk.until(f"/threads/{thread_id}/runs/{run_id}", status="interrupted")
    await _left(talk, thread_id)


@case
async def some_of_many_are_there(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    body = {"thread_id": thread_id, "run_ids": [NOBODY, run_id]}
    await talk.post("/runs/cancel?action=interrupt", body)
    await talk.until(f"/threads/{thread_id}/runs/{run_id}", status="interrupted")


@case
async def a_second_run_waits_for_the_first(talk: Talk) -> None:
    thread_id, _ = await talk.held()
    second = await talk.post(f"/threads/{thread_id}/runs", NEXT)
    await talk.get(f"/threads/{thread_id}/runs?status=pending&select=status")
    await talk.release()
    await talk.get(f"/threads/{thread_id}/runs/{second['run_id']}/join")
    await talk.until(f"/threads/{thread_id}", status="idle")
    await _left(talk, thread_id)


@case
async def a_second_run_is_refused(talk: Talk) -> None:
    thread_id, _ = await talk.held()
    for kind in ("runs", "runs/wait", "runs/stream"):
        body = {**NEXT, "multitask_strategy": "reject"}
        await talk.post(f"/threads/{thread_id}/{kind}", body)
    await talk.release()
    await talk.until(f"/threads/{thread_id}", status="idle")
    await _left(talk, thread_id)


@case
async def a_second_run_interrupts_the_first(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    body = {**NEXT, "multitask_strategy": "interrupt"}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)
    await talk.until(f"/threads/{thread_id}/runs/{run_id}", status="interrupted")
    await talk.until(f"/threads/{thread_id}", status="idle")
    await _left(talk, thread_id)


@case
async def a_second_run_rolls_the_first_back(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "before"})
    _, run_id = await talk.held(thread_id)
    body = {**NEXT, "multitask_strategy": "rollback"}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)
    await talk.get(f"/threads/{thread_id}/runs/{run_id}")
    await talk.until(f"/threads/{thread_id}", status="idle")
    await _left(talk, thread_id)


def _on_an_idle_thread(strategy: str) -> Any:
    async def play(talk: Talk) -> None:
        thread_id = await talk.done("steps", {"text": "before"})
        body = {**NEXT, "multitask_strategy": strategy}
        await talk.post(f"/threads/{thread_id}/runs/wait", body)

    return play


for strategy in ("enqueue", "reject", "interrupt", "rollback"):
    add(f"{strategy} on an idle thread", _on_an_idle_thread(strategy), __name__)


@case
async def a_thread_is_deleted_under_a_run(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    await talk.delete(f"/threads/{thread_id}")
    await talk.get(f"/threads/{thread_id}")
    await talk.get(f"/threads/{thread_id}/runs/{run_id}")


@case
async def a_run_is_deleted_while_it_runs(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    await talk.delete(f"/threads/{thread_id}/runs/{run_id}")
    await talk.release()


@case
async def a_thread_goes_on_after_a_cancel(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    await talk.post(f"/threads/{thread_id}/runs/{run_id}/cancel?wait=1", unseen=True)
    await talk.until(f"/threads/{thread_id}/runs/{run_id}", status="interrupted")
    await talk.release()
    body = {"assistant_id": "held", "input": None}
    await talk.post(f"/threads/{thread_id}/runs/wait", body)
    await talk.get(f"/threads/{thread_id}")
