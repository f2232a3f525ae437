"""Every public method of the SDK's client, against one server and against two at random."""

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError

from tests.acceptance.either import client_of_either
from tests.acceptance.gate import Gate
from tests.acceptance.graphs import Work
from tests.acceptance.process import ServerProcess

MODULES = ("assistants", "threads", "runs", "crons", "store")
MODES = (
    "values",
    "messages",
    "messages-tuple",
    "updates",
    "events",
    "tasks",
    "checkpoints",
    "debug",
    "custom",
)
SECONDS = 30
HELLO: Any = {"messages": [{"role": "user", "content": "hello there", "id": "question"}]}
NEVER = "0 0 29 2 *"

COVERED: dict[str, str] = {}


def covers(*methods: str) -> Callable[[Any], Any]:
    """Name what a test calls: it must call it."""

    def mark(test: Any) -> Any:
        COVERED.update(dict.fromkeys(methods, test.__name__))
        test.covers = methods
        return test

    return mark


def methods() -> set[str]:
    """Every public method of the client's modules."""
    client = get_client(url="http://127.0.0.1:1")
    return {
        f"{module}.{name}"
        for module in MODULES
        for name, _ in inspect.getmembers(getattr(client, module), callable)
        if not name.startswith("_")
    }


def _listen(client: LangGraphClient, called: set[str]) -> None:
    """Note the methods that are called."""
    for method in methods():
        module, name = method.split(".")
        target = getattr(client, module)
        bound = getattr(target, name)

        def note(*args: Any, _method: str = method, _bound: Any = bound, **kwargs: Any) -> Any:
            called.add(_method)
            return _bound(*args, **kwargs)

        setattr(target, name, note)


@pytest.fixture(params=["one server", "either of two, by 1", "either of two, by 2"])
async def sdk(
    request: pytest.FixtureRequest, server: ServerProcess, replica: ServerProcess
) -> AsyncIterator[LangGraphClient]:
    """A client; in the end it must have called what the test says it covers."""
    if request.param == "one server":
        client = get_client(url=server.url)
    else:
        client = client_of_either([server.url, replica.url], seed=int(request.param[-1]))
    called: set[str] = set()
    _listen(client, called)
    async with client:
        yield client
    assert set(getattr(request.function, "covers", ())) <= called


def test_every_method_of_the_client_is_covered() -> None:
    assert set(COVERED) == methods()


async def _done(sdk: LangGraphClient, graph_id: str, value: Any) -> str:
    """The id of a thread on which a graph has run."""
    thread = await sdk.threads.create()
    await sdk.runs.wait(thread["thread_id"], graph_id, input=value)
    return thread["thread_id"]


# Assistants.


@covers(
    *("assistants.create", "assistants.get", "assistants.update", "assistants.delete"),
    *("assistants.search", "assistants.count", "assistants.get_versions"),
    "assistants.set_latest",
)
async def test_an_assistant_is_made_found_changed_and_deleted(sdk: LangGraphClient) -> None:
    mark = str(uuid.uuid4())
    made = await sdk.assistants.create(
        "chat",
        {"configurable": {"a": 1}},
        metadata={"mark": mark},
        name="One",
        description="The first",
    )
    assistant_id = made["assistant_id"]
    again = await sdk.assistants.create(
        "chat", assistant_id=assistant_id, if_exists="do_nothing", name="Other"
    )
    assert again == made == await sdk.assistants.get(assistant_id)
    with pytest.raises(ConflictError):
        await sdk.assistants.create("chat", assistant_id=assistant_id)

    changed = await sdk.assistants.update(assistant_id, name="Two", metadata={"more": 1})
    assert (changed["name"], changed["version"]) == ("Two", 2)
    assert changed["metadata"] == {"mark": mark, "more": 1}
    versions = await sdk.assistants.get_versions(assistant_id)
    assert [version["name"] for version in versions] == ["Two", "One"]
    assert (await sdk.assistants.set_latest(assistant_id, 1))["name"] == "One"

    for found in (
        await sdk.assistants.search(metadata={"mark": mark}, graph_id="chat", name="on"),
        (
            await sdk.assistants.search(
                metadata={"mark": mark}, limit=1, sort_by="name", response_format="object"
            )
        )["assistants"],
    ):
        assert [assistant["assistant_id"] for assistant in found] == [assistant_id]
    (only,) = await sdk.assistants.search(metadata={"mark": mark}, select=["name"])
    assert dict(only) == {"name": "One"}
    assert await sdk.assistants.count(metadata={"mark": mark}) == 1

    thread_id = await _done(sdk, assistant_id, HELLO)
    await sdk.assistants.delete(assistant_id, delete_threads=True)
    with pytest.raises(NotFoundError):
        await sdk.assistants.get(assistant_id)
    with pytest.raises(NotFoundError):
        await sdk.threads.get(thread_id)


@covers("assistants.get_graph", "assistants.get_schemas", "assistants.get_subgraphs")
async def test_an_assistant_shows_its_graph(sdk: LangGraphClient) -> None:
    (assistant,) = await sdk.assistants.search(
        graph_id="ask", metadata={"created_by": "system"}, limit=1
    )
    drawn = await sdk.assistants.get_graph(assistant["assistant_id"], xray=True)
    schemas = await sdk.assistants.get_schemas(assistant["assistant_id"])
    subgraphs = await sdk.assistants.get_subgraphs(assistant["assistant_id"], recurse=True)

    assert {"ask", "after"} <= {node["id"] for node in drawn["nodes"]}
    assert schemas["graph_id"] == "ask"
    assert "log" in cast("Any", schemas["state_schema"])["properties"]
    assert subgraphs == {}


# Threads.


@covers(
    *("threads.create", "threads.get", "threads.update", "threads.delete", "threads.search"),
    *("threads.count", "threads.copy", "threads.prune"),
)
async def test_a_thread_is_made_found_changed_copied_and_deleted(sdk: LangGraphClient) -> None:
    thread_id, mark = str(uuid.uuid4()), str(uuid.uuid4())
    made = await sdk.threads.create(thread_id=thread_id, metadata={"mark": mark}, ttl=60)
    again = await sdk.threads.create(thread_id=thread_id, if_exists="do_nothing")
    assert again["thread_id"] == made["thread_id"] == thread_id
    with pytest.raises(ConflictError):
        await sdk.threads.create(thread_id=thread_id)
    assert cast("Any", await sdk.threads.get(thread_id, include=["ttl"]))["ttl"]

    await sdk.runs.wait(thread_id, "chat", input=HELLO)
    changed: Any = await sdk.threads.update(thread_id, metadata={"more": 1}, ttl={"ttl": 5})
    assert changed["metadata"]["mark"] == mark
    assert changed["metadata"]["more"] == 1
    await sdk.threads.update(thread_id, metadata={"n": 1}, return_minimal=True)

    (found,) = await sdk.threads.search(
        metadata={"mark": mark}, status="idle", sort_by="updated_at", ids=[thread_id]
    )
    assert cast("Any", found["values"])["messages"][0]["content"] == "hello there"
    (only,) = await sdk.threads.search(
        metadata={"mark": mark},
        select=["thread_id"],
        extract={"said": "values.messages[-1].content"},
    )
    assert cast("Any", only)["extracted"] == {"said": "(1) hello there"}
    assert await sdk.threads.count(metadata={"mark": mark}, status="idle") == 1

    await sdk.threads.copy(thread_id)
    copies = await sdk.threads.search(metadata={"mark": mark}, sort_order="desc")
    assert len(copies) == 2
    assert copies[0]["values"] == copies[1]["values"]
    ids = [copy["thread_id"] for copy in copies if copy["thread_id"] != thread_id]
    assert (await sdk.threads.prune(ids, strategy="delete"))["pruned_count"] == 1
    await sdk.threads.delete(thread_id)
    assert await sdk.threads.count(metadata={"mark": mark}) == 0


@covers("threads.get_state", "threads.get_history", "threads.update_state")
async def test_a_state_is_read_changed_and_forked(sdk: LangGraphClient) -> None:
    thread_id = await _done(sdk, "chat", HELLO)
    newest = await sdk.threads.get_state(thread_id, subgraphs=True)
    history = await sdk.threads.get_history(thread_id)
    assert cast("Any", newest["values"])["messages"][-1]["content"] == "(1) hello there"
    assert len(history) == 3
    oldest = history[-1]["checkpoint"]
    assert (await sdk.threads.get_state(thread_id, checkpoint=oldest))["next"] == ["__start__"]
    by_id = await sdk.threads.get_state(
        thread_id, checkpoint_id=newest["checkpoint"]["checkpoint_id"]
    )
    assert by_id["values"] == newest["values"]
    (before,) = await sdk.threads.get_history(
        thread_id, limit=1, before=newest["checkpoint"]["checkpoint_id"]
    )
    assert before["next"] == ["model"]

    change = {"messages": [{"role": "user", "content": "other", "id": "question"}]}
    forked = await sdk.threads.update_state(
        thread_id, change, as_node="__start__", checkpoint=before["checkpoint"]
    )
    assert forked["checkpoint"]["thread_id"] == thread_id
    result = await sdk.runs.wait(thread_id, "chat", input=None)
    assert cast("Any", result)["messages"][-1]["content"] == "(1) other"


@covers("threads.join_stream")
async def test_a_thread_is_followed(sdk: LangGraphClient) -> None:
    thread_id = await _done(sdk, "chat", HELLO)
    run = await sdk.runs.create(
        thread_id, "chat", input=HELLO, stream_mode="updates", stream_resumable=True
    )
    heard = []
    async with asyncio.timeout(SECONDS):
        stream = await sdk.threads.join_stream(
            thread_id, last_event_id="-", stream_mode=["run_modes", "lifecycle"]
        )
        async for part in stream:
            heard.append(part)
            if part.event == "metadata" and part.data == {
                "status": "run_done",
                "run_id": run["run_id"],
            }:
                break
    assert "updates" in [part.event for part in heard]


@covers("threads.stream")
async def test_a_thread_streams_by_the_v2_protocol(sdk: LangGraphClient) -> None:
    async with asyncio.timeout(SECONDS):
        async with sdk.threads.stream(assistant_id="chat") as thread:
            await thread.run.start(input=HELLO)
            streams = [message async for message in thread.messages]
            output = await thread.output
    assert [await message.text for message in streams] == ["(1) hello there"]
    assert output["messages"][-1]["content"]


@covers("threads.stream")
async def test_an_interrupt_is_answered_by_the_v2_protocol(sdk: LangGraphClient) -> None:
    async with asyncio.timeout(SECONDS):
        async with sdk.threads.stream(assistant_id="ask") as thread:
            await thread.run.start(input={"name": "x"})
            async for _ in thread.values:
                pass
            assert thread.interrupted
            (asked,) = thread.interrupts
            assert asked["value"] == {"question": "Go on?"}
            await thread.run.respond("yes")
            async for _ in thread.values:
                pass
            thread_id = thread.thread_id
    state = await sdk.threads.get_state(thread_id)
    assert cast("Any", state["values"])["log"] == ["asked: yes", "after"]


# Runs.


@covers("runs.create", "runs.get", "runs.list", "runs.join", "runs.delete", "runs.wait")
async def test_a_run_is_queued_read_joined_and_deleted(sdk: LangGraphClient) -> None:
    created: list[Any] = []
    thread = await sdk.threads.create()
    thread_id = thread["thread_id"]
    run = await sdk.runs.create(
        thread_id, "chat", input=HELLO, metadata={"a": 1}, on_run_created=created.append
    )
    run_id = run["run_id"]
    assert created[0]["run_id"] == run_id
    values = await sdk.runs.join(thread_id, run_id)
    assert cast("Any", values)["messages"][-1]["content"] == "(1) hello there"
    assert (await sdk.runs.get(thread_id, run_id))["status"] == "success"
    (listed,) = await sdk.runs.list(thread_id, status="success", select=["run_id"])
    assert dict(listed) == {"run_id": run_id}
    await sdk.runs.delete(thread_id, run_id)
    with pytest.raises(NotFoundError):
        await sdk.runs.get(thread_id, run_id)
    stateless = await sdk.runs.wait(None, "chat", input=HELLO)
    assert cast("Any", stateless)["messages"][-1]["content"] == "(1) hello there"
    with pytest.raises(Exception, match="boom!"):
        await sdk.runs.wait(thread_id, "boom", input={"kind": "x"})


@covers("runs.create_batch")
async def test_runs_are_queued_as_a_batch(sdk: LangGraphClient) -> None:
    payload: Any = {"assistant_id": "chat", "input": HELLO, "on_completion": "keep"}
    runs = await sdk.runs.create_batch([payload, payload])
    for run in runs:
        values = await sdk.runs.join(run["thread_id"], run["run_id"])
        assert cast("Any", values)["messages"][-1]["content"] == "(1) hello there"


@covers("runs.cancel", "runs.cancel_many", "runs.join_stream")
async def test_runs_are_followed_and_cancelled(sdk: LangGraphClient, gate: Gate) -> None:
    gate.hold("x:b")
    thread = await sdk.threads.create()
    thread_id = thread["thread_id"]
    work: Any = {"gate": gate.port, "name": "x"}
    run = await sdk.runs.create(
        thread_id, "steps", input=work, stream_mode=["updates"], stream_resumable=True
    )
    heard = []
    async with asyncio.timeout(SECONDS):
        async for part in sdk.runs.join_stream(
            thread_id, run["run_id"], stream_mode="updates", last_event_id="-1"
        ):
            heard.append(part)
            if part.event == "updates":
                await sdk.runs.cancel(thread_id, run["run_id"])
    assert (await sdk.runs.get(thread_id, run["run_id"]))["status"] == "interrupted"

    gate.hold("y:a")
    work = {"gate": gate.port, "name": "y"}
    running = await sdk.runs.create(thread_id, "steps", input=work)
    queued = await sdk.runs.create(thread_id, "steps", input=work)
    await gate.arrived("y:a")
    ids = [running["run_id"], queued["run_id"]]
    await sdk.runs.cancel_many(thread_id=thread_id, run_ids=ids)
    for run_id in ids:
        await sdk.runs.join(thread_id, run_id)
        assert (await sdk.runs.get(thread_id, run_id))["status"] == "interrupted"


@covers("runs.stream")
@pytest.mark.parametrize("mode", MODES)
async def test_a_run_streams_in_every_mode(sdk: LangGraphClient, mode: Any) -> None:
    thread = await sdk.threads.create()
    custom: Any = {"kind": "fine"}
    graph_id, value = ("tells_oddly", custom) if mode == "custom" else ("chat", HELLO)
    events = [
        part.event
        async for part in sdk.runs.stream(
            thread["thread_id"], graph_id, input=value, stream_mode=mode, stream_subgraphs=True
        )
    ]
    names = {"messages": "messages/complete", "messages-tuple": "messages"}
    wanted = {"messages/partial"} if mode == "messages" else {names.get(mode, mode)}
    assert events[0] == "metadata"
    assert wanted <= set(events)


@covers("runs.stream")
async def test_a_run_streams_in_all_modes_at_once_and_by_the_second_version(
    sdk: LangGraphClient,
) -> None:
    modes: Any = [mode for mode in MODES if mode != "messages"]
    parts = [
        part
        async for part in sdk.runs.stream(
            None, "chat", input=HELLO, stream_mode=modes, version="v2"
        )
    ]
    kinds = {cast("Any", part)["type"] for part in parts}
    assert {"values", "updates", "messages", "tasks", "debug"} <= kinds


async def test_an_interrupted_run_goes_on_with_an_answer(sdk: LangGraphClient) -> None:
    thread_id = await _done(sdk, "ask", {"name": "x"})
    assert (await sdk.threads.get(thread_id))["status"] == "interrupted"
    result = await sdk.runs.wait(thread_id, "ask", command={"resume": "yes"})
    assert cast("Any", result)["log"] == ["asked: yes", "after"]


# Crons and items.


@covers(
    *("crons.create", "crons.create_for_thread", "crons.search", "crons.count"),
    *("crons.update", "crons.delete"),
)
async def test_crons_are_made_found_changed_and_deleted(sdk: LangGraphClient) -> None:
    mark = str(uuid.uuid4())
    thread = await sdk.threads.create()
    made: Any = await sdk.crons.create(
        "chat",
        schedule=NEVER,
        input=HELLO,
        metadata={"mark": mark},
        timezone="Europe/Berlin",
        end_time=datetime.now(UTC) + timedelta(days=9),
    )
    other: Any = await sdk.crons.create_for_thread(
        thread["thread_id"], "chat", schedule=NEVER, metadata={"mark": mark}
    )
    changed = await sdk.crons.update(made["cron_id"], enabled=False, end_time=None)
    assert (changed["enabled"], changed["end_time"]) == (False, None)
    found = await sdk.crons.search(metadata={"mark": mark}, sort_by="created_at", enabled=True)
    assert [cron["cron_id"] for cron in found] == [other["cron_id"]]
    assert await sdk.crons.count(metadata={"mark": mark}) == 2
    for cron in (made, other):
        await sdk.crons.delete(cron["cron_id"])
    assert await sdk.crons.count(metadata={"mark": mark}) == 0


@covers(
    *("store.put_item", "store.get_item", "store.search_items", "store.list_namespaces"),
    "store.delete_item",
)
async def test_items_are_kept_found_and_forgotten(sdk: LangGraphClient) -> None:
    mark = uuid.uuid4().hex
    await sdk.store.put_item([mark, "a"], "one", {"n": 1}, ttl=60)
    await sdk.store.put_item([mark, "b"], "two", {"n": 2}, index=False)
    assert (await sdk.store.get_item([mark, "a"], "one", refresh_ttl=True))["value"] == {"n": 1}
    found = await sdk.store.search_items([mark], filter={"n": {"$gt": 1}})
    assert [item["key"] for item in found["items"]] == ["two"]
    namespaces = await sdk.store.list_namespaces(prefix=[mark], max_depth=2)
    assert sorted(namespaces["namespaces"]) == [[mark, "a"], [mark, "b"]]
    await sdk.store.delete_item([mark, "a"], "one")
    found = await sdk.store.search_items([mark])
    assert [item["key"] for item in found["items"]] == ["two"]


# A graph that is elsewhere.


async def test_a_remote_graph_is_used_like_a_graph(sdk: LangGraphClient) -> None:
    remote = RemoteGraph("ask", client=sdk)
    thread = await sdk.threads.create()
    config: RunnableConfig = {"configurable": {"thread_id": thread["thread_id"]}}
    result = await remote.ainvoke({"name": "x"}, config)
    assert [one["value"] for one in result["__interrupt__"]] == [{"question": "Go on?"}]
    assert (await remote.aget_state(config)).next == ("ask",)

    updates = [
        part async for part in remote.astream(Command(resume="yes"), config, stream_mode="updates")
    ]
    assert updates == [{"ask": {"log": ["asked: yes"]}}, {"after": {"log": ["after"]}}]
    await remote.aupdate_state(config, {"log": ["told"]}, as_node="after")
    state = await remote.aget_state(config, subgraphs=True)
    assert state.values["log"] == ["asked: yes", "after", "told"]
    history = [found async for found in remote.aget_state_history(config, limit=2)]
    assert history[0].values == state.values
    drawn = await remote.aget_graph(xray=True)
    assert {"ask", "after"} <= set(drawn.nodes)


async def test_a_remote_graph_is_a_node_of_another(sdk: LangGraphClient) -> None:
    builder: StateGraph[Any] = StateGraph(Work)
    builder.add_node("elsewhere", RemoteGraph("poison", client=sdk, name="elsewhere"))
    builder.add_edge(START, "elsewhere")
    builder.add_edge("elsewhere", END)
    graph = builder.compile()

    parts: list[Any] = [
        part
        async for part in graph.astream(
            {"kind": "fine"}, stream_mode=["updates", "values"], subgraphs=True
        )
    ]
    # The remote graph's whole log comes back, and is added to what is there: nothing.
    assert parts[-1][2]["log"] == ["fine", "after"]
    assert any(namespace for namespace, _, _ in parts)


def test_a_remote_graph_is_used_without_an_event_loop(server: ServerProcess) -> None:
    sync_client = get_sync_client(url=server.url)
    remote = RemoteGraph("ask", sync_client=sync_client)
    config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4())}}
    (asked,) = remote.invoke({"name": "x"}, config)["__interrupt__"]
    assert asked["value"] == {"question": "Go on?"}
    parts = list(remote.stream(Command(resume="yes"), config, stream_mode="values"))
    state = remote.get_state(config)
    sync_client.close()
    assert parts[-1]["log"] == state.values["log"] == ["asked: yes", "after"]
