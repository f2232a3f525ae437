"""What a newcomer does in the first hour, on embedded servers and with the SDK."""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.acceptance.conftest import QUICK, Connect
from tests.acceptance.gate import Gate
from tests.acceptance.process import ServerProcess, serving
from tests.acceptance.sse import Frame, frames
from tests.acceptance.talk import contents, says

Start = Callable[..., AbstractContextManager[ServerProcess]]

SECOND_START_SECONDS = 5.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A data directory; its path leaves room for a socket's name, which tmp_path's would not."""
    with tempfile.TemporaryDirectory(prefix="threadwell-") as directory:
        yield Path(directory) / "data"


@pytest.fixture
def start(project: Path, home: Path) -> Start:
    """Starts a server on the data directory, as `make run` does in a checkout."""
    return lambda **variables: serving(project, {**QUICK, **variables}, data_dir=home)


def processes_of(directory: Path) -> list[str]:
    """The processes that live in a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if directory in Path(process.cwd()).parents:
                found.append(process.name())
        except psutil.Error:
            continue
    return found


async def test_tokens_arrive_before_the_model_has_finished(
    client: LangGraphClient, gate: Gate
) -> None:
    gate.hold("middle")
    thread = await client.threads.create()
    parts: list[Any] = []

    async for part in client.runs.stream(
        thread["thread_id"],
        "chat",
        input=says(f"hold {gate.port} middle one two"),
        stream_mode=["messages-tuple", "values", "updates"],
    ):
        parts.append(part)
        if part.event == "messages" and "middle" in gate.held:
            # The model waits here; had the first token waited for it, we would not have it.
            await gate.arrived("middle")
            assert part.data[0]["content"] == "(1)"
            gate.release("middle")

    names = [part.event for part in parts]
    assert names == ["metadata", "values", *["messages"] * 4, "updates", "values", "end"]
    said = [part.data[0]["content"] for part in parts if part.event == "messages"]
    assert said == ["(1)", " one", " two", ""]
    assert contents(parts[-2].data)[1] == "(1) one two"


async def test_a_second_run_remembers_the_first(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]

    await client.runs.wait(thread_id, "chat", input=says("one"))
    values = await client.runs.wait(thread_id, "chat", input=says("two"))

    assert contents(values) == ["one", "(1) one", "two", "(3) two"]


async def test_state_and_history_are_read_and_changed(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create(metadata={"topic": "states"}))["thread_id"]
    await client.runs.wait(thread_id, "chat", input=says("one"))

    answered = await client.threads.get_state(thread_id)
    await client.threads.update_state(thread_id, says("a correction"), as_node="model")
    corrected = await client.threads.get_state(thread_id)
    history = await client.threads.get_history(thread_id)
    found = await client.threads.search(metadata={"topic": "states"})

    assert contents(answered["values"]) == ["one", "(1) one"]
    assert answered["next"] == []
    assert contents(corrected["values"]) == ["one", "(1) one", "a correction"]
    assert corrected["parent_checkpoint"] == answered["checkpoint"]
    assert [state["metadata"]["source"] for state in history] == ["update", "loop", "loop", "input"]  # type: ignore[index]
    assert [state["checkpoint"] for state in history[:2]] == [
        corrected["checkpoint"],
        answered["checkpoint"],
    ]
    assert history[-1]["parent_checkpoint"] is None
    assert [(thread["thread_id"], thread["status"]) for thread in found] == [(thread_id, "idle")]
    assert contents(found[0]["values"]) == contents(corrected["values"])


async def test_a_created_run_is_joined_and_its_stream_too(
    client: LangGraphClient, gate: Gate
) -> None:
    gate.hold("middle")
    thread_id = (await client.threads.create())["thread_id"]

    run = await client.runs.create(
        thread_id,
        "chat",
        input=says(f"hold {gate.port} middle one"),
        stream_mode=["messages-tuple", "values"],
    )
    await gate.arrived("middle")
    running = await client.runs.get(thread_id, run["run_id"])
    said = []
    async for part in client.runs.join_stream(thread_id, run["run_id"]):
        if part.event == "messages":
            said.append(part.data[0]["content"])
            if "middle" in gate.held:
                gate.release("middle")
    values = await client.runs.join(thread_id, run["run_id"])

    assert running["status"] == "running"
    assert said == ["(1)", " one", ""]
    assert contents(values)[1] == "(1) one"
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "success"
    assert [listed["run_id"] for listed in await client.runs.list(thread_id)] == [run["run_id"]]


async def conversation(client: LangGraphClient, thread_id: str) -> Any:
    """All that is known of a thread, the streams of its runs too."""
    runs = await client.runs.list(thread_id)
    streams = [client.runs.join_stream(thread_id, run["run_id"]) for run in runs]
    replayed = [[part async for part in stream] for stream in streams]
    assert all(replayed)
    return [
        runs,
        await client.threads.get_state(thread_id),
        await client.threads.get_history(thread_id),
        replayed,
    ]


@contextmanager
def timed(start: Start) -> Iterator[tuple[ServerProcess, float]]:
    """A server, and how long it took to start."""
    began_at = time.monotonic()
    with start() as server:
        yield server, time.monotonic() - began_at


async def test_everything_is_there_after_kill_9_and_the_run_under_way_finishes(
    start: Start, clients: Connect, gate: Gate
) -> None:
    gate.hold("job:b")
    with timed(start) as (server, first):
        client = clients(server)
        thread_id = (await client.threads.create())["thread_id"]
        await client.runs.wait(thread_id, "agent", input=says("hello"))
        said = contents(await client.runs.wait(thread_id, "agent", input=says("again")))
        before = await conversation(client, thread_id)
        working = (await client.threads.create())["thread_id"]
        job: dict[str, Any] = {"gate": gate.port, "name": "job"}
        run = await client.runs.create(working, "steps", input=job, durability="sync")
        await gate.arrived("job:b")
        server.process.kill()
        server.wait()

    with timed(start) as (server, second):
        client = clients(server)
        assert await conversation(client, thread_id) == before
        with psycopg.connect(server.database_url) as connection:
            query = "SELECT content FROM message WHERE conversation_id = %s ORDER BY seq"
            assert [row[0] for row in connection.execute(query, [thread_id])] == said
        await gate.arrived("job:b", times=2)
        gate.release("job:b")
        values: Any = await client.runs.join(working, run["run_id"])
        remembered = await client.runs.wait(thread_id, "agent", input=says("and now?"))

    assert "offline" in said[1]
    assert contents(remembered)[:4] == said
    assert gate.seen == ["job:a", "job:b", "job:b", "job:c"]
    assert values["log"] == ["job:a", "job:b", "job:c"]
    # On a busy machine the first start, which makes the database, tells how long anything takes.
    assert second < max(SECOND_START_SECONDS, 2 * first)


async def test_ctrl_c_lets_a_run_finish_and_stops_everything_that_was_started(
    start: Start, clients: Connect, gate: Gate, home: Path
) -> None:
    gate.hold("middle")
    with start() as server:
        thread_id = (await clients(server).threads.create())["thread_id"]
        asked = {"assistant_id": "chat", "input": says(f"hold {gate.port} middle one two")}
        received: list[Frame] = []
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=30) as http,
            http.stream("POST", f"/threads/{thread_id}/runs/stream", json=asked) as response,
        ):
            async for frame in frames(response):
                received.append(frame)
                if len(received) == 2:
                    await gate.arrived("middle")
                    assert set(processes_of(home)) == {"postgres", "valkey-server"}
                    server.process.send_signal(signal.SIGINT)
                    await server.printed("Shutting down")
                    gate.release("middle")
        assert server.wait() == 0

    assert [frame.name for frame in received] == ["metadata", "values", "values"]
    assert contents(received[-1].data)[1] == "(1) one two"
    assert processes_of(home) == []
    assert "Traceback" not in server.log


async def test_sigterm_hands_a_longer_run_over_to_the_next_process(
    start: Start, clients: Connect, gate: Gate
) -> None:
    gate.hold("job:b")
    with start(BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS="0.1") as server:
        client = clients(server)
        thread_id = (await client.threads.create())["thread_id"]
        job: dict[str, Any] = {"gate": gate.port, "name": "job"}
        run = await client.runs.create(thread_id, "steps", input=job)
        await gate.arrived("job:b")
        assert server.stop(signal.SIGTERM) == 0
        assert "Traceback" not in server.log

    with start() as server:
        client = clients(server)
        await gate.arrived("job:b", times=2)
        gate.release("job:b")
        values = await client.runs.join(thread_id, run["run_id"])
        thread = await client.threads.get(thread_id)

    assert isinstance(values, dict)
    assert values["log"] == ["job:a", "job:b", "job:c"]
    assert gate.seen == ["job:a", "job:b", "job:b", "job:c"]
    assert thread["status"] == "idle"
