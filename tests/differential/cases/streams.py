"""Server-sent events, §2 of the contract; what every mode sends is in `tests.graph.reference`."""

from typing import Any

from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, on_a_thread, single
from tests.differential.talk import Talk

STEPS: dict[str, Any] = {"assistant_id": "steps", "input": {"text": "x"}}
MODES = ("values", "updates", "messages", "messages-tuple", "tasks", "checkpoints", "debug")

on_a_thread(
    __name__,
    {
        "a stream of the default mode": ("POST", "/threads/{thread}/runs/stream", STEPS),
        "a stream of no modes": (
            "POST",
            "/threads/{thread}/runs/stream",
            {**STEPS, "stream_mode": []},
        ),
        "a stream of a mode twice": (
            "POST",
            "/threads/{thread}/runs/stream",
            {**STEPS, "stream_mode": ["values", "values"]},
        ),
        "a stream of a graph that fails": (
            "POST",
            "/threads/{thread}/runs/stream",
            {"assistant_id": "boom", "input": {"text": "x"}},
        ),
        "a stream of a graph that asks": (
            "POST",
            "/threads/{thread}/runs/stream",
            {"assistant_id": "ask", "input": {"text": "x"}, "stream_mode": ["values", "updates"]},
        ),
        "a stream of an unknown graph": (
            "POST",
            "/threads/{thread}/runs/stream",
            {"assistant_id": "nope"},
        ),
        "a stream of a run that is not there": (
            "GET",
            f"/threads/{{thread}}/runs/{NOBODY}/stream",
        ),
        "a stream by an id that is no uuid": ("GET", "/threads/{thread}/runs/nope/stream"),
    },
)
for mode in MODES:
    on_a_thread(
        __name__,
        {
            f"a whole stream of {mode}": (
                "POST",
                "/threads/{thread}/runs/stream",
                {**STEPS, "stream_mode": [mode]},
            ),
            f"a whole resumable stream of {mode}": (
                "POST",
                "/threads/{thread}/runs/stream",
                {**STEPS, "stream_mode": [mode], "stream_resumable": True},
            ),
        },
    )
for mode in ("values", "updates", "tasks", "debug"):
    on_a_thread(
        __name__,
        {
            f"{mode} of a graph that keeps more than it tells": (
                "POST",
                "/threads/{thread}/runs/stream",
                {"assistant_id": "reticent", "input": {"kept": "in"}, "stream_mode": [mode]},
            ),
        },
    )
single(
    __name__,
    {
        "a stateless stream": ("POST", "/runs/stream", {**STEPS, "stream_mode": ["updates"]}),
        "a stateless stream of a graph that fails": (
            "POST",
            "/runs/stream",
            {"assistant_id": "boom", "input": {"text": "x"}},
        ),
        "a stateless stream that keeps its thread": (
            "POST",
            "/runs/stream",
            {**STEPS, "on_completion": "keep"},
        ),
    },
)


def _raw(body: dict[str, Any]) -> Any:
    async def play(talk: Talk) -> None:
        await talk.post(f"/threads/{await talk.thread()}/runs/stream", body, raw=True)

    return play


BYTES: dict[str, dict[str, Any]] = {
    "of updates": {"stream_mode": "updates"},
    "of a resumable stream": {"stream_mode": "updates", "stream_resumable": True},
    "of an error": {"assistant_id": "boom"},
    "of every script": {"input": {"text": "é你🧵\u2028\n"}},
    "of a subgraph": {
        "assistant_id": "nested_ask",
        "stream_mode": "updates",
        "stream_subgraphs": True,
    },
}
for name, body in BYTES.items():
    add(f"the bytes {name}", _raw({**STEPS, **body}), __name__)


@case
async def a_wait_is_whole_json(talk: Talk) -> None:
    await talk.post(f"/threads/{await talk.thread()}/runs/wait", STEPS, raw=True)


@case
async def a_stream_is_followed_from_aside(talk: Talk) -> None:
    thread_id, run_id = await talk.held(stream_mode=["updates", "values"])
    path = f"/threads/{thread_id}/runs/{run_id}/stream"
    async with talk.listening("GET", path) as heard:
        await talk.release()
        await heard.end()


@case
async def a_resumable_stream_is_replayed_whole(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {**STEPS, "stream_mode": ["updates", "values"], "stream_resumable": True}
    run = await talk.post(f"/threads/{thread_id}/runs", body, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.until(path, status="success")
    for last in ("-1", "-", "0-0"):
        await talk.get(f"{path}/stream", headers={"last-event-id": last})


@case
async def a_resumable_stream_goes_on_after_an_event(talk: Talk) -> None:
    thread_id, run_id = await talk.held(
        stream_mode=["updates", "values"],
        stream_resumable=True,
    )
    path = f"/threads/{thread_id}/runs/{run_id}"
    await talk.release()
    await talk.until(path, status="success")
    events = await talk.get(f"{path}/stream", headers={"last-event-id": "-1"}, unseen=True)
    # The reference's ids are not unique: only the last event's is safe to go on from.
    for last in (events[0]["id"], events[-1]["id"]):
        await talk.get(f"{path}/stream", headers={"last-event-id": last})


@case
async def a_stream_that_has_ended_is_empty_without_an_id(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {**STEPS, "stream_resumable": True}
    run = await talk.post(f"/threads/{thread_id}/runs", body, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.until(path, status="success")
    await talk.get(f"{path}/stream")


@case
async def a_stream_that_is_not_resumable_is_not_replayed(talk: Talk) -> None:
    thread_id = await talk.thread()
    run = await talk.post(f"/threads/{thread_id}/runs", STEPS, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.until(path, status="success")
    await talk.get(f"{path}/stream", headers={"last-event-id": "-1"})


@case
async def a_follower_asks_for_some_modes(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {**STEPS, "stream_mode": ["updates", "values", "debug"], "stream_resumable": True}
    run = await talk.post(f"/threads/{thread_id}/runs", body, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.until(path, status="success")
    replay = {"last-event-id": "-1"}
    for modes in (
        "stream_mode=values",
        "stream_mode=values&stream_mode=updates",
        "stream_mode=%5B%22updates%22%5D",
        "stream_mode=custom",
        "stream_mode=nope",
    ):
        await talk.get(f"{path}/stream?{modes}", headers=replay)


@case
async def a_follower_with_an_odd_id(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {**STEPS, "stream_resumable": True}
    run = await talk.post(f"/threads/{thread_id}/runs", body, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.until(path, status="success")
    await talk.get(f"{path}/stream", headers={"last-event-id": "nope"})


@case
async def a_failed_run_is_replayed_with_its_error(talk: Talk) -> None:
    thread_id = await talk.thread()
    body = {"assistant_id": "boom", "input": {"text": "x"}, "stream_resumable": True}
    run = await talk.post(f"/threads/{thread_id}/runs", body, unseen=True)
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    await talk.until(path, status="error")
    await talk.get(f"{path}/stream", headers={"last-event-id": "-1"})


@case
async def a_stream_just_ends_when_its_run_is_cancelled(talk: Talk) -> None:
    thread_id, run_id = await talk.held(stream_mode=["updates"])
    path = f"/threads/{thread_id}/runs/{run_id}"
    async with talk.listening("GET", f"{path}/stream") as heard:
        await talk.post(f"{path}/cancel")
        await heard.end()


@case
async def a_leaving_follower_cancels_the_run(talk: Talk) -> None:
    thread_id, run_id = await talk.held()
    path = f"/threads/{thread_id}/runs/{run_id}"
    async with talk.listening("GET", f"{path}/stream?cancel_on_disconnect=true"):
        pass
    await talk.until(path, status="interrupted")


# The stream of a thread.


def _done(event: Any) -> bool:
    return isinstance(event["data"], dict) and event["data"].get("status") == "run_done"


def _followed(query: str) -> Any:
    async def play(talk: Talk) -> None:
        thread_id = await talk.thread()
        async with talk.listening("GET", f"/threads/{thread_id}/stream{query}") as heard:
            for _ in range(2):
                await talk.again(thread_id, "steps", input={"text": "x"}, stream_mode=["updates"])
                await heard.until(_done)

    return play


for mode in ("run_modes", "lifecycle", "run_modes,lifecycle"):
    add(f"a thread is followed by {mode}", _followed(f"?stream_modes={mode}"), __name__)
add("a thread is followed", _followed(""), __name__)


@case
async def a_thread_is_followed_by_state_update(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"})
    path = f"/threads/{thread_id}/stream?stream_modes=state_update"
    async with talk.listening("GET", path) as heard:
        update = {"values": {"log": ["told"]}, "as_node": "first"}
        await talk.post(f"/threads/{thread_id}/state", update)
        await heard.until(lambda event: event["event"] == "state_update")


@case
async def a_thread_is_replayed(talk: Talk) -> None:
    thread_id = await talk.done("steps", {"text": "x"}, stream_resumable=True)
    headers = {"last-event-id": "-"}
    async with talk.listening("GET", f"/threads/{thread_id}/stream", headers=headers) as heard:
        await heard.until(_done)


@case
async def a_thread_that_is_not_there_is_followed(talk: Talk) -> None:
    async with talk.listening("GET", f"/threads/{NOBODY}/stream"):
        pass


@case
async def a_thread_is_followed_by_an_unknown_mode(talk: Talk) -> None:
    await talk.get(f"/threads/{await talk.thread()}/stream?stream_modes=nope")


@case
async def a_thread_is_followed_after_an_odd_id(talk: Talk) -> None:
    path = f"/threads/{await talk.thread()}/stream"
    await talk.get(path, headers={"last-event-id": "nope"})
