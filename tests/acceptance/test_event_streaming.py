"""The event-streaming protocol: on the wire, over both transports, by the official SDK, on two servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, cast

import httpx
import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk.client import LangGraphClient
from websockets.exceptions import ConnectionClosed

from tests.acceptance.gate import Gate
from tests.acceptance.process import ServerProcess
from tests.acceptance.protocol import (
    ALL,
    Event,
    Followed,
    command,
    data,
    following,
    is_end,
    new_id,
    socket,
    start,
)
from tests.acceptance.sse import collect

Transport = Literal["sse", "websocket"]
TRANSPORTS = pytest.mark.parametrize("transport", ["sse", "websocket"])

#: What a chunk of a message says, in the order in which it is said.
WHOLE = [
    "message-start", "content-block-start", *["content-block-delta"] * 3,
    "content-block-finish", "message-finish",
]  # fmt: skip


def said(*words: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": " ".join(words)}]}


def held(gate: Gate, name: str) -> dict[str, Any]:
    gate.hold(name)
    return said("hold", str(gate.port), name, "hello", "you")


def statuses(followed: Followed, *namespace: str) -> list[str]:
    """The life of a graph or of a node's subgraph."""
    return [
        data(event)["event"]
        for event in followed.of("lifecycle")
        if [part.split(":")[0] for part in event["params"]["namespace"]] == [*namespace]
    ]


def texts(events: list[Event]) -> str:
    return "".join(
        data(event)["delta"]["text"]
        for event in events
        if data(event)["event"] == "content-block-delta"
    )


@asynccontextmanager
async def followed_on_both(
    server: ServerProcess, replica: ServerProcess, http: httpx.AsyncClient, thread_id: str
) -> AsyncIterator[tuple[Followed, Followed]]:
    """A thread, by the server over SSE and by the replica over a WebSocket."""
    async with following(http, thread_id) as one, socket(replica.url, thread_id) as other:
        answer = await other.command("subscription.subscribe", channels=ALL)
        assert answer["type"] == "success", answer
        yield one, other.followed


async def test_a_conversation_is_the_same_on_every_server_and_transport(
    server: ServerProcess, replica: ServerProcess, http: httpx.AsyncClient
) -> None:
    thread_id = new_id()
    async with followed_on_both(server, replica, http, thread_id) as (one, other):
        first = await start(http, thread_id, "chat", input=said("hello you"))
        await one.until(is_end)
        second = await start(http, thread_id, "chat", input=said("again"))
        await one.until(is_end, times=2)
        await other.until(is_end, times=2)
    async with following(http, thread_id) as late:
        await late.until(is_end, times=2)

    assert one.events == other.events == late.events
    seqs = [event["seq"] for event in one.events]
    assert seqs == sorted(set(seqs))
    assert max(seqs) < 2**53
    assert len({event["event_id"] for event in one.events}) == len(one.events)
    running = [e["event_id"] for e in one.of("lifecycle") if data(e)["event"] == "running"]
    assert [event_id.split(":")[1] for event_id in running] == [first, second]
    _check_a_conversation(one)


def _check_a_conversation(one: Followed) -> None:
    messages = one.of("messages")
    assert [data(event)["event"] for event in messages[:7]] == WHOLE
    assert data(messages[0])["role"] == "ai"
    assert data(messages[0])["metadata"]["langgraph_node"] == "model"
    assert texts(messages) == "(1) hello you(3) again"
    assert statuses(one) == ["running", "completed"] * 2
    assert {data(e)["graph_name"] for e in one.of("lifecycle")} == {"chat"}
    assert [data(e)["node"] for e in one.of("updates")] == ["model", "model"]
    assert [data(e)["name"] for e in one.of("tasks")] == ["model"] * 4
    steps = [data(event) for event in one.of("checkpoints")]
    assert [step["step"] for step in steps] == [-1, 0, 1, 2, 3, 4]
    assert [step["source"] for step in steps[:3]] == ["input", "loop", "loop"]
    assert [step["parent_id"] for step in steps[1:]] == [step["id"] for step in steps[:-1]]
    # A checkpoint comes before the values that are in it: clients fork by that.
    kinds = [e["method"] for e in one.events if e["method"] in ("checkpoints", "values")]
    assert kinds == ["checkpoints", "checkpoints", "values", "checkpoints", "values"] * 2
    assert len(data(one.of("values")[-1])["messages"]) == 4


@pytest.mark.parametrize("goes_on_with", ["sse", "websocket"])
async def test_a_client_that_breaks_off_gets_the_rest_from_another_server(
    server: ServerProcess,
    replica: ServerProcess,
    http: httpx.AsyncClient,
    other_http: httpx.AsyncClient,
    gate: Gate,
    goes_on_with: Transport,
) -> None:
    thread_id = new_id()
    async with following(http, thread_id) as whole:
        await start(http, thread_id, "chat", input=held(gate, "middle"))
        async with following(http, thread_id) as part:
            await part.until(lambda event: event["method"] == "messages", times=3)
        had = part.events
        gate.release("middle")
        await whole.until(is_end)
        if goes_on_with == "sse":
            async with following(other_http, thread_id, since=had[-1]["seq"]) as rest:
                await rest.until(is_end)
                events = rest.events
        else:
            async with socket(replica.url, thread_id) as opened:
                lost = await opened.command("subscription.subscribe", channels=ALL, since=1)
                token = lost["result"]["subscription_id"]
            async with socket(replica.url, thread_id) as opened:
                answer = await opened.command(
                    "subscription.reconnect",
                    run_id="",
                    last_event_id=had[-1]["event_id"],
                    subscriptions=[token],
                )
                await opened.followed.until(is_end)
                events = opened.followed.events
            assert answer["result"]["restored"] is True
            assert answer["result"]["missed_events"] == len(events)
            assert "resume_gap" not in answer["result"]

    assert had
    assert had + events == whole.events


async def test_a_graph_that_asks_is_answered_by_whoever_was_told(
    http: httpx.AsyncClient, other_http: httpx.AsyncClient
) -> None:
    thread_id = new_id()
    async with following(other_http, thread_id) as told:
        await start(http, thread_id, "nested_ask", input={"log": ["start"]})
        asked = await told.until(lambda event: event["method"] == "input.requested")
        answer = {"namespace": asked["params"]["namespace"], "response": "yes"}
        wrong = await command(
            other_http, thread_id, "input.respond", **answer, interrupt_id="f" * 32
        )
        right = await command(
            other_http,
            thread_id,
            "input.respond",
            **answer,
            interrupt_id=data(asked)["interrupt_id"],
        )
        answered = await told.until(lambda event: event["method"] == "input.answered")
        await told.until(lambda event: is_end(event) and data(event)["event"] == "completed")
        late = await command(
            http, thread_id, "input.respond", **answer, interrupt_id=data(asked)["interrupt_id"]
        )
        tree = await command(http, thread_id, "agent.getTree")
    state = (await http.get(f"/threads/{thread_id}/state")).json()

    assert data(asked)["payload"] == data(asked)["value"] == {"question": "Go on?"}
    assert [part.split(":")[0] for part in asked["params"]["namespace"]] == ["inner"]
    assert (wrong["type"], wrong["error"]) == ("error", "no_such_interrupt")
    assert (right["type"], right["result"]) == ("success", {})
    assert right["meta"]["applied_through_seq"] > asked["seq"]
    assert data(answered)["interrupt_ids"] == [data(asked)["interrupt_id"]]
    assert (late["type"], late["error"]) == ("error", "no_such_run")
    assert statuses(told) == ["running", "interrupted", "running", "completed"]
    assert statuses(told, "inner") == ["started", "interrupted", "started", "completed"]
    assert all("__interrupt__" not in data(event) for event in told.of("values"))
    assert tree["result"]["tree"]["status"] == "completed"
    [inner] = tree["result"]["tree"]["children"]
    assert (inner["graph_name"], inner["status"]) == ("inner", "completed")
    assert state["values"]["log"][-2:] == ["asked: yes", "after"]


async def test_an_answer_to_what_is_not_asked_is_refused_if_strict(http: httpx.AsyncClient) -> None:
    thread_id = new_id()
    async with following(http, thread_id) as told:
        await start(http, thread_id, "ask", input={"log": []})
        asked = await told.until(lambda event: event["method"] == "input.requested")
        await told.until(is_end)
        body = {
            "assistant_id": "ask",
            "command": {"resume": {"0" * 32: "no"}},
            "strict_resume": True,
        }
        refused = (await http.post(f"/threads/{thread_id}/runs/wait", json=body)).json()
        failed = await told.until(is_end, times=2)
        thread = (await http.get(f"/threads/{thread_id}")).json()
        await start(http, thread_id, "ask", input="yes")
        await told.until(lambda event: is_end(event) and data(event)["event"] == "completed")
    state = (await http.get(f"/threads/{thread_id}/state")).json()
    flags = (await http.get("/info")).json()["flags"]

    assert refused["__error__"]["error"] == "UnknownInterruptError"
    assert data(failed)["event"] == "failed"
    assert data(failed)["reason"] == "not_pending"
    assert data(failed)["interrupt_ids"] == ["0" * 32]
    assert data(failed)["pending_ids"] == [data(asked)["interrupt_id"]]
    assert thread["status"] == "interrupted"
    [[question]] = thread["interrupts"].values()
    assert question["id"] == data(asked)["interrupt_id"]
    assert state["values"]["log"] == ["asked: yes", "after"]
    assert flags["strict_resume"] is flags["stream_namespaces"] is True


async def test_a_stream_shows_the_namespaces_and_channels_that_were_asked_for(
    http: httpx.AsyncClient,
) -> None:
    thread_id = new_id()
    await start(http, thread_id, "nested", input=said("hello you"))
    async with (
        following(http, thread_id) as everything,
        following(http, thread_id, namespaces=[["inner"]]) as inner,
        following(http, thread_id, namespaces=[[]], depth=0) as root,
        following(http, thread_id, channels=["lifecycle"]) as life,
    ):
        await everything.until(is_end)
        await root.until(is_end)
        await life.until(is_end)
        await inner.until(
            lambda event: event["method"] == "lifecycle" and data(event)["event"] == "completed"
        )

    within = [event for event in everything.events if event["params"]["namespace"]]
    assert within
    assert inner.events == within
    assert root.events == [event for event in everything.events if event not in within]
    assert life.events == everything.of("lifecycle")
    assert statuses(life, "inner") == ["started", "completed"]
    assert texts(inner.of("messages")) == "(1) hello you"
    assert not root.of("messages")


async def test_what_nodes_and_transformers_tell_is_on_the_custom_channels(
    http: httpx.AsyncClient,
) -> None:
    plain, own = new_id(), new_id()
    await start(http, plain, "tells", input={"log": []})
    await start(http, own, "transforming", input={"log": []})
    async with (
        following(http, plain) as told,
        following(http, plain, channels=["custom:status", "lifecycle"]) as named,
        following(http, own) as transformed,
    ):
        for one in (told, named, transformed):
            await one.until(is_end)

    status = {"name": "status", "payload": {"done": True}}
    assert [data(event) for event in told.of("custom")] == [{"payload": {"progress": 1}}, status]
    assert [data(event) for event in named.of("custom")] == [status]
    assert [data(event) for event in transformed.of("custom")] == [
        {"payload": {"progress": 1}},
        status,
        {"name": "counts", "payload": 1},
    ]
    assert statuses(transformed) == ["running", "completed"]
    assert data(transformed.of("values")[-1]) == {"log": ["told"]}


@TRANSPORTS
async def test_messages_that_are_said_at_the_same_time_are_told_apart(
    client: LangGraphClient, gate: Gate, transport: Transport
) -> None:
    async with client.threads.stream(assistant_id="choir", transport=transport) as thread:
        await thread.run.start(input=held(gate, "both"))
        await gate.arrived("both", times=2)
        gate.release("both")
        streams = [stream async for stream in thread.messages]

    assert ["".join([token async for token in stream.text]) for stream in streams] == [
        "(1) hello you"
    ] * 2


async def test_a_run_of_another_client_is_seen_too(http: httpx.AsyncClient) -> None:
    """A run that was started as ever: what its stream modes give, in the protocol's form."""
    thread_id = str((await http.post("/threads", json={})).json()["thread_id"])
    modes = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints"]
    body = {"assistant_id": "nested", "input": said("hello you"), "stream_subgraphs": True}
    async with following(http, thread_id) as told:
        url = f"/threads/{thread_id}/runs/stream"
        await collect(http, "POST", url, json={**body, "stream_mode": modes})
        await told.until(is_end)
        asking = {"assistant_id": "ask", "input": {"log": []}}
        await http.post(f"/threads/{thread_id}/runs/wait", json=asking)
        await told.until(is_end, times=2)
    async with following(http, thread_id) as late:
        await late.until(is_end, times=2)

    assert statuses(told) == ["running", "completed", "running", "interrupted"]
    assert statuses(told, "inner") == ["started", "completed"]
    assert [data(event)["event"] for event in told.of("messages")] == WHOLE
    assert texts(told.of("messages")) == "(1) hello you"
    assert {data(event)["node"] for event in told.of("updates")} >= {"inner", "model", "after"}
    assert all(
        set(data(event)) <= {"id", "parent_id", "step", "source"}
        for event in told.of("checkpoints")
    )
    [asked] = told.of("input.requested")
    assert data(asked)["value"] == {"question": "Go on?"}

    def known(event: Event) -> Any:
        # A run that does not log when it says something is heard now.
        return {**event, "params": {**event["params"], "timestamp": 0}}

    assert [known(event) for event in late.events] == [known(event) for event in told.events]


async def test_clients_of_other_streams_see_nothing_of_the_protocol(
    http: httpx.AsyncClient,
) -> None:
    thread_id = new_id()
    run_id = await start(http, thread_id, "nested", input=said("hello you"))
    url = f"/threads/{thread_id}/runs/{run_id}"
    joined = (await http.get(f"{url}/join")).json()
    async with http.stream("GET", f"{url}/stream", headers={"Last-Event-ID": "-1"}) as response:
        names = [
            line.removeprefix("event: ").split("|")[0]
            async for line in response.aiter_lines()
            if line.startswith("event: ")
        ]
    run = (await http.get(url)).json()

    assert len(joined["messages"]) == 2
    assert set(names) == {"metadata", "values", "updates", "tasks", "end"}
    assert run["status"] == "success"
    assert "values" in run["kwargs"]["stream_mode"]


async def test_a_run_that_fails_or_is_stopped_says_so(http: httpx.AsyncClient, gate: Gate) -> None:
    thread_id = new_id()
    async with following(http, thread_id) as told:
        await start(http, thread_id, "boom", input={"kind": "value"})
        failed = await told.until(is_end)
        await start(http, thread_id, "chat", input=held(gate, "stopped"))
        await gate.arrived("stopped")
        runs = (await http.get(f"/threads/{thread_id}/runs", params={"status": "running"})).json()
        await http.post(f"/threads/{thread_id}/runs/{runs[0]['run_id']}/cancel")
        stopped = await told.until(is_end, times=2)
    kept = (await http.get(f"/threads/{thread_id}/state")).json()

    assert data(failed)["event"] == "failed"
    assert data(failed)["error"] == "boom!"
    assert data(stopped)["event"] == "interrupted"
    # What the model had said is kept, as it is for other streams.
    assert kept["values"]["messages"][-1]["content"] == "(1)"


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_a_run_that_ends_in_the_queue_is_told_of_on_every_server(
    http: httpx.AsyncClient, other_http: httpx.AsyncClient, gate: Gate, action: str
) -> None:
    thread_id = new_id()
    async with (
        following(http, thread_id, channels=["lifecycle"]) as one,
        following(other_http, thread_id, channels=["lifecycle"]) as other,
    ):
        await start(http, thread_id, "chat", input=held(gate, "first"))
        await gate.arrived("first")
        waiting = await start(http, thread_id, "chat", input=said("second"))
        await http.post(f"/threads/{thread_id}/runs/{waiting}/cancel?action={action}")
        ended = [await followed.until(is_end) for followed in (one, other)]
        gate.release("first")
        await one.until(is_end, times=2)

    assert [event["event_id"].split(":")[1] for event in ended] == [waiting] * 2
    assert [data(event)["event"] for event in ended] == ["interrupted"] * 2


async def test_a_thread_is_read_listed_and_forked_by_commands(http: httpx.AsyncClient) -> None:
    thread_id = new_id()
    async with following(http, thread_id) as told:
        await start(http, thread_id, "chat", input=said("hello"))
        await told.until(is_end)
        listed = await command(http, thread_id, "state.listCheckpoints", limit=2)
        [newest, asked] = listed["result"]["checkpoints"]
        forked = await command(http, thread_id, "state.fork", checkpoint_id=asked["id"])
        await told.until(is_end, times=2)
        read = await command(http, thread_id, "state.get", namespace=[], keys=["messages", "none"])
        message = {"role": "user", "content": "and more"}
        injected = await command(http, thread_id, "input.inject", namespace=[], message=message)
        await told.until(is_end, times=3)
    older = await command(http, thread_id, "state.listCheckpoints", before=asked["id"])
    state = (await http.get(f"/threads/{thread_id}/state")).json()

    assert (newest["node_name"], newest["step"]) == ("model", 1)
    assert newest["timestamp"] > asked["timestamp"]
    assert older["result"]["checkpoints"]
    assert set(forked["result"]) == {"run_id", "thread_id"}
    assert [m["content"] for m in read["result"]["values"]["messages"][:1]] == ["hello"]
    assert set(read["result"]["values"]) == {"messages"}
    assert read["result"]["checkpoint"]["id"] != newest["id"]
    assert injected["result"] == {}
    assert state["values"]["messages"][-2]["content"] == "and more"


async def test_commands_that_are_wrong_are_refused_with_a_code(http: httpx.AsyncClient) -> None:
    made = new_id()
    async with following(http, made) as told:
        await start(http, made, "steps", input={"log": []}, config={"configurable": {}})
        await told.until(lambda event: event["method"] == "values")
    wrong: list[tuple[str, str, dict[str, Any]]] = [
        ("invalid_argument", "run.start", {}),
        ("invalid_argument", "run.start", {"assistant_id": "nothing"}),
        ("invalid_argument", "run.start", {"assistant_id": "chat", "multitask_strategy": "odd"}),
        ("invalid_argument", "run.start", {"assistant_id": "chat", "config": 5}),
        (
            "invalid_argument",
            "run.start",
            {"assistant_id": "chat", "input": {}, "config": {"configurable": 5}},
        ),
        ("unknown_command", "run.stop", {}),
        ("not_supported", "subscription.subscribe", {"channels": ALL}),
        ("no_such_run", "agent.getTree", {}),
        ("no_such_run", "input.respond", {"interrupt_id": "a", "response": 1}),
        ("invalid_argument", "input.respond", {"responses": []}),
        ("invalid_argument", "state.get", {"namespace": "root"}),
        ("invalid_argument", "state.listCheckpoints", {"limit": 0}),
        ("invalid_argument", "state.fork", {}),
    ]
    for code, method, params in wrong:
        answer = await command(http, new_id(), method, **params)
        assert (answer["type"], answer["error"]) == ("error", code), (method, params)
    answer = await command(http, made, "state.get", namespace=["nowhere:1"])
    assert answer["error"] == "no_such_namespace"
    answer = await command(http, made, "state.get", keys=[{}])
    assert answer["error"] == "invalid_argument"
    for body in (b"{", b"[]", b'{"id": "1", "method": "run.start"}', b'{"id": 1}'):
        response = await http.post(f"/threads/{made}/commands", content=body)
        assert response.status_code == 400, body
    bodies: list[dict[str, Any]] = [
        {}, {"channels": []}, {"channels": ["odd"]}, {"channels": ["custom:"]},
        {"channels": ALL, "since": -1}, {"channels": ALL, "depth": "1"},
        {"channels": ALL, "namespaces": [1]}, {"channels": ALL, "namespaces": [["a"]] * 10_000},
        {"channels": [f"custom:{number}" for number in range(10_000)]},
    ]  # fmt: skip
    for asked in bodies:
        response = await http.post(f"/threads/{made}/stream/events", json=asked)
        assert response.status_code == 400, asked
        assert response.json()["detail"]


async def test_a_socket_sends_an_event_once_however_many_subscriptions_want_it(
    server: ServerProcess, http: httpx.AsyncClient
) -> None:
    thread_id = new_id()
    async with socket(server.url, thread_id) as opened:
        life = await opened.command("subscription.subscribe", channels=["lifecycle", "input"])
        answer = await opened.command("run.start", assistant_id="chat", input=said("hello"))
        await opened.followed.until(is_end)
        both = await opened.command(
            "subscription.subscribe", channels=["lifecycle", "values"], since=1
        )
        await opened.followed.until(is_end, times=2)
        before = len(opened.followed.events)
        first = life["result"]["subscription_id"]
        gone = await opened.command("subscription.unsubscribe", subscription_id=first)
        again = await opened.command("subscription.unsubscribe", subscription_id=first)
        await opened.command("run.start", assistant_id="chat", input=said("again"))
        await opened.followed.until(
            lambda event: event["method"] == "values" and len(data(event)["messages"]) == 4
        )
        nonsense = await opened.command("run.stop")

    assert answer["result"]["run_id"]
    assert life["result"]["replayed_events"] == 0
    assert both["result"]["replayed_events"] == 4
    # The two of the life that the second subscription wanted anew, and the two values.
    assert before == 2 + 4
    new = opened.followed.events[before:]
    assert len({event["event_id"] for event in new}) == len(new)
    assert gone["type"] == "success"
    assert (again["error"], nonsense["error"]) == ("no_such_subscription", "unknown_command")


async def test_a_subscription_that_is_played_from_the_beginning_loses_nothing_to_the_next_one(
    server: ServerProcess, http: httpx.AsyncClient
) -> None:
    thread_id = new_id()
    async with socket(server.url, thread_id) as opened:
        await opened.command("subscription.subscribe", channels=["lifecycle"])
        await opened.command("run.start", assistant_id="chat", input=said(*["word"] * 1_000))
        await opened.followed.until(is_end)
        messages = await opened.command("subscription.subscribe", channels=["messages"])
        # The next one comes while this one is still being played.
        await opened.followed.until(lambda event: event["method"] == "messages")
        values = await opened.command("subscription.subscribe", channels=["values"])
        await opened.followed.until(
            lambda event: event["method"] == "values" and len(data(event)["messages"]) == 2
        )

    told = opened.followed.of("messages")
    assert len(told) == messages["result"]["replayed_events"] > 1_000
    assert len({event["event_id"] for event in told}) == len(told)
    assert len(opened.followed.of("values")) == values["result"]["replayed_events"]


async def test_a_subscription_may_be_given_up_before_it_is_played(server: ServerProcess) -> None:
    thread_id = new_id()
    async with socket(server.url, thread_id) as opened:
        made = await opened.command("subscription.subscribe", channels=["lifecycle"])
    token = made["result"]["subscription_id"]
    async with socket(server.url, thread_id) as opened:
        taken_up, given_up = await asyncio.gather(
            opened.command("subscription.reconnect", subscriptions=[token]),
            opened.command("subscription.unsubscribe", subscription_id=token),
        )
        nonsense = await opened.command("run.stop")

    assert (taken_up["type"], given_up["type"]) == ("success", "success")
    assert nonsense["error"] == "unknown_command"


async def test_a_socket_is_refused_with_the_status_beyond_4000(server: ServerProcess) -> None:
    codes = []
    for thread_id in ("nothing", "0" * 31):
        async with socket(server.url, thread_id) as opened:
            with pytest.raises(ConnectionClosed) as closed:
                await opened.connection.recv()
            codes.append(closed.value.rcvd and closed.value.rcvd.code)

    assert codes == [4422, 4422]


@TRANSPORTS
async def test_the_sdk_follows_a_conversation(
    client: LangGraphClient, transport: Transport
) -> None:
    async with client.threads.stream(assistant_id="chat", transport=transport) as thread:
        await thread.run.start(input=said("hello you"))
        streams = [stream async for stream in thread.messages]
        output = await thread.output
        thread_id = thread.thread_id
    async with client.threads.stream(thread_id, assistant_id="chat", transport=transport) as late:
        again = await late.output

    [stream] = streams
    assert [token async for token in stream.text] == ["(1)", " hello", " you"]
    assert output["messages"][-1]["id"] == stream.message_id
    assert again == output


@TRANSPORTS
async def test_the_sdk_answers_follows_tools_and_subgraphs_and_hears_of_failures(
    client: LangGraphClient, gate: Gate, transport: Transport
) -> None:
    async with client.threads.stream(assistant_id="ask", transport=transport) as thread:
        await thread.run.start(input={"log": []})
        seen = [values async for values in thread.values]
        asked = list(thread.interrupts)
        await thread.run.respond("yes")
        output = await thread.output
    async with client.threads.stream(assistant_id="nested", transport=transport) as thread:
        await thread.run.start(input=said("hello you"))
        [inner] = [handle async for handle in thread.subgraphs]
        [message] = [stream async for stream in inner.messages]
    async with client.threads.stream(assistant_id="tells", transport=transport) as thread:
        await thread.run.start(input={"log": []})
        told = [item async for item in thread.extensions["status"]]
    async with client.threads.stream(assistant_id="boom", transport=transport) as thread:
        await thread.run.start(input={"kind": "value"})
        with pytest.raises(RuntimeError, match="boom!"):
            await thread.output

    assert seen[-1] == {"log": []}
    assert [interrupt["value"] for interrupt in asked] == [{"question": "Go on?"}]
    assert output["log"] == ["asked: yes", "after"]
    assert (inner.graph_name, inner.status) == ("inner", "completed")
    assert [token async for token in message.text] == ["(1)", " hello", " you"]
    assert told == [{"name": "status", "payload": {"done": True}}]


async def test_langgraphs_remote_graph_streams_by_it(client: LangGraphClient) -> None:
    graph = RemoteGraph("chat", client=client)
    config: Any = {"configurable": {"thread_id": new_id()}}
    run = cast("Any", await graph.astream_events(said("hello you"), config, version="v3"))
    async with run:
        output = await run.output()

    assert output["messages"][-1]["content"][0]["text"] == "(1) hello you"
