"""Event streaming over threads (v2), §1.9 of the contract."""

from typing import Any

from tests.differential.cases.system import NOBODY
from tests.differential.registry import add, case, on_a_thread
from tests.differential.talk import Talk

CHANNELS = ["values", "messages", "lifecycle", "input", "tools"]


def _command(method: str, **params: Any) -> dict[str, Any]:
    return {"id": 1, "method": method, "params": params}


on_a_thread(
    __name__,
    {
        "a command that nobody knows": (
            "POST",
            "/threads/{thread}/commands",
            _command("nope"),
        ),
        "a command without a method": ("POST", "/threads/{thread}/commands", {"id": 1}),
        "a command without an id": (
            "POST",
            "/threads/{thread}/commands",
            {"method": "run.start", "params": {"assistant_id": "steps"}},
        ),
        "a command that is a list": ("POST", "/threads/{thread}/commands", []),
        "a run is started without an assistant": (
            "POST",
            "/threads/{thread}/commands",
            _command("run.start"),
        ),
        "a run is started of an unknown graph": (
            "POST",
            "/threads/{thread}/commands",
            _command("run.start", assistant_id="nope"),
        ),
        "an answer to nothing": (
            "POST",
            "/threads/{thread}/commands",
            _command("input.respond", namespace=[], interrupt_id="nope", response="x"),
        ),
        "an answer without an interrupt": (
            "POST",
            "/threads/{thread}/commands",
            _command("input.respond"),
        ),
        "the tree of a new thread": (
            "POST",
            "/threads/{thread}/commands",
            _command("agent.getTree"),
        ),
        "the tree of a run that is not there": (
            "POST",
            "/threads/{thread}/commands",
            _command("agent.getTree", run_id=NOBODY),
        ),
        "a subscription by a command": (
            "POST",
            "/threads/{thread}/commands",
            _command("subscription.subscribe", channels=["values"]),
        ),
        "events of no channels": ("POST", "/threads/{thread}/stream/events", {"channels": []}),
        "events without channels": ("POST", "/threads/{thread}/stream/events", {}),
        "events of an unknown channel": (
            "POST",
            "/threads/{thread}/stream/events",
            {"channels": ["nope"]},
        ),
    },
)


def _opened(**wanted: Any) -> Any:
    """A stream that may be endless: only how it begins is written down."""

    async def play(talk: Talk) -> None:
        path = f"/threads/{await talk.thread()}/stream/events"
        async with talk.listening("POST", path, {"channels": ["values"], **wanted}):
            pass

    return play


add("events of namespaces that are words", _opened(namespaces="x"), __name__)
add("events to a depth that is a word", _opened(depth="x"), __name__)
add("events to a negative depth", _opened(depth=-1), __name__)
add("events since a word", _opened(since="x"), __name__)
add("events of a channel of one's own", _opened(channels=["custom:mine"]), __name__)


def _ended(event: Any) -> bool:
    data = event["data"]
    return (
        data["method"] == "lifecycle"
        and data["params"]["namespace"] == []
        and data["params"]["data"]["event"] in ("completed", "failed", "interrupted")
    )


async def _talk(talk: Talk, graph_id: str, value: Any, *, channels: list[str]) -> str:
    """Start a run and write down its events."""
    thread_id = talk.mark
    path = f"/threads/{thread_id}"
    wanted = {"channels": channels}
    async with talk.listening("POST", f"{path}/stream/events", wanted) as heard:
        start = _command("run.start", assistant_id=graph_id, input=value)
        await talk.post(f"{path}/commands", start)
        await heard.until(_ended)
    return thread_id


HELLO = {"messages": [{"role": "user", "content": "hello", "id": "question"}]}


@case
async def events_of_a_conversation(talk: Talk) -> None:
    await _talk(talk, "chat", HELLO, channels=CHANNELS)


@case
async def events_of_steps(talk: Talk) -> None:
    await _talk(talk, "steps", {"text": "x"}, channels=CHANNELS)


@case
async def events_of_tools(talk: Talk) -> None:
    value = {"messages": [{"role": "user", "content": "add 2 3", "id": "question"}]}
    await _talk(talk, "tools", value, channels=CHANNELS)


@case
async def events_of_a_subgraph(talk: Talk) -> None:
    await _talk(talk, "nested", HELLO, channels=CHANNELS)


@case
async def events_of_a_graph_that_fails(talk: Talk) -> None:
    await _talk(talk, "boom", {"text": "x"}, channels=["lifecycle", "values"])


@case
async def events_of_lifecycle_alone(talk: Talk) -> None:
    await _talk(talk, "steps", {"text": "x"}, channels=["lifecycle"])


@case
async def events_of_an_interrupt_and_its_answer(talk: Talk) -> None:
    path = f"/threads/{talk.mark}"
    wanted = {"channels": ["lifecycle", "input"]}
    async with talk.listening("POST", f"{path}/stream/events", wanted) as heard:
        start = _command("run.start", assistant_id="ask", input={"text": "x"})
        await talk.post(f"{path}/commands", start)
        asked = await heard.until(lambda event: event["data"]["method"] == "input.requested")
        await heard.until(_ended)
        answer = {
            "namespace": asked["data"]["params"]["namespace"],
            "interrupt_id": asked["data"]["params"]["data"]["interrupt_id"],
            "response": "yes",
        }
        await talk.post(f"{path}/commands", _command("input.respond", **answer))
        await heard.until(_ended)
    await talk.get(f"{path}/state")


@case
async def events_are_replayed_to_who_comes_late(talk: Talk) -> None:
    thread_id = await _talk(talk, "steps", {"text": "x"}, channels=["lifecycle"])
    path = f"/threads/{thread_id}/stream/events"
    async with talk.listening("POST", path, {"channels": ["lifecycle", "values"]}) as heard:
        await heard.until(_ended)


@case
async def events_of_two_runs(talk: Talk) -> None:
    path = f"/threads/{talk.mark}"
    async with talk.listening(
        "POST", f"{path}/stream/events", {"channels": ["lifecycle"]}
    ) as heard:
        for _ in range(2):
            start = _command("run.start", assistant_id="steps", input={"text": "x"})
            await talk.post(f"{path}/commands", start)
            await heard.until(_ended)


@case
async def the_tree_of_a_thread(talk: Talk) -> None:
    thread_id = await _talk(talk, "nested", HELLO, channels=["lifecycle"])
    await talk.post(f"/threads/{thread_id}/commands", _command("agent.getTree"))


@case
async def a_run_started_by_a_command(talk: Talk) -> None:
    thread_id = await _talk(talk, "steps", {"text": "x"}, channels=["lifecycle"])
    await talk.until(f"/threads/{thread_id}", status="idle")
    await talk.get(f"/threads/{thread_id}")
    await talk.get(f"/threads/{thread_id}/runs")
