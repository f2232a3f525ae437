"""An old chain and the graph alternate on one id, in every way that a chain may reach it (case 5)."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph_sdk.client import LangGraphClient

from api import loopback
from api.app import create_app
from api.bootstrap import open_services
from api.processes.embedded import Servers
from api.settings import Settings
from tests.acceptance.gate import Gate
from tests.acceptance.process import ROOT, ServerProcess
from tests.acceptance.talk import contents, says
from threadwell.connection import Connection, RequestError, default, use
from threadwell.langchain import SessionChatMessageHistory, attach, get_session_history
from threadwell.memory import CustomSessionMemory
from threadwell.standalone import open_database

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")

WAYS = ["http", "inside", "standalone"]


@pytest.fixture(params=WAYS)
async def way(
    request: pytest.FixtureRequest,
    server: ServerProcess,
    servers: Servers,
    database: str,
    project: Path,
) -> AsyncIterator[Connection]:
    """A connection to sessions that the server process runs graphs on."""
    if request.param == "http":
        with Connection(server.url) as connection:
            yield connection
        return
    if request.param == "standalone":
        opened = partial(open_database, database, config=project, redis_url=servers.redis_url)
        with await asyncio.to_thread(opened) as connection:
            yield connection
        return
    settings = Settings(config=project, slots=1)
    async with open_services(
        settings, database_url=database, redis_url=servers.redis_url
    ) as services:
        with loopback.serving(create_app(services)), Connection() as connection:
            yield connection
            # Before the loop that serves it ends.
            await asyncio.to_thread(connection.close)


@contextmanager
def used(connection: Connection) -> Iterator[None]:
    before = default()
    use(connection)
    try:
        yield
    finally:
        use(before)


def _answer(messages: list[BaseMessage]) -> AIMessage:
    return AIMessage(f"chain heard {len(messages)}")


def keyed() -> Runnable[Any, Any]:
    """A chain of a prompt with a place for the history."""
    prompt = ChatPromptTemplate([MessagesPlaceholder("history"), ("human", "{question}")])
    model: Runnable[Any, AIMessage] = RunnableLambda(lambda p: _answer(p.to_messages()))
    return prompt | model


KEYS = {"input_messages_key": "question", "history_messages_key": "history"}


async def test_a_chain_and_the_graph_alternate(
    way: Connection, client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    id_ = str(uuid4())
    config: Any = {"configurable": {"thread_id": id_}}
    chain = attach(keyed(), connection=way, **KEYS)

    first = await chain.ainvoke({"question": "one"}, config)
    ran = await client.runs.wait(id_, "chat", input=says("two"))
    second = await asyncio.to_thread(chain.invoke, {"question": "three"}, config)
    again = await client.runs.wait(id_, "chat", input=says("four"))

    said = [
        "one", "chain heard 1", "two", "(3) two", "three", "chain heard 5", "four", "(7) four",
    ]  # fmt: skip
    assert (first.content, second.content) == (said[1], said[5])
    assert contents(ran) == said[:4]
    assert contents(again) == said
    assert (await client.threads.get_state(id_))["next"] == []
    history = await SessionChatMessageHistory(id_, connection=way).aget_messages()
    assert [message.content for message in history] == said
    page = (await http.get(f"/api/sessions/{id_}/messages")).json()["data"]
    assert [row["content"] for row in page] == said
    assert [row["id"] for row in page] == [message.id for message in history]
    assert (await http.get(f"/api/sessions/{id_}")).json()["name"] == "one"


async def test_a_graph_that_goes_on_meanwhile_is_waited_for_and_nothing_is_lost(
    way: Connection, client: LangGraphClient, gate: Gate
) -> None:
    id_ = uuid4().hex
    name = f"late-{id_}"
    gate.hold(name)
    history = SessionChatMessageHistory(id_, connection=way)
    await history.aadd_messages([HumanMessage("before")])
    run = await client.runs.create(id_, "chat", input=says(f"hold {gate.port} {name} x"))
    await gate.arrived(name)

    impatient = SessionChatMessageHistory(id_, connection=way, wait_seconds=0)
    with pytest.raises(RequestError) as refused:
        await impatient.aadd_messages([AIMessage("too early")])
    late = asyncio.create_task(history.aadd_messages([HumanMessage("after"), AIMessage("yes")]))
    await asyncio.sleep(0)  # it is on its way
    gate.release(name)
    await late
    await client.runs.join(id_, run["run_id"])

    assert (refused.value.status, refused.value.code) == (409, "session_busy")
    said = [message.content for message in await history.aget_messages()]
    assert said == ["before", f"hold {gate.port} {name} x", "(2) x", "after", "yes"]


async def test_chains_and_graphs_at_the_same_time_lose_nothing(
    way: Connection, client: LangGraphClient
) -> None:
    id_ = str(uuid4())
    # Without a key for the history, what LangChain stores is what it finds behind the history.
    plain: Runnable[Any, Any] = RunnableLambda(_answer)
    with used(way):
        chain = RunnableWithMessageHistory(plain, get_session_history)
        config: Any = {"configurable": {"session_id": id_}}
        await chain.ainvoke([HumanMessage("start")], config)

        async def graph(word: str) -> None:
            await client.runs.wait(id_, "chat", input=says(word), multitask_strategy="enqueue")

        await asyncio.gather(
            *(chain.ainvoke([HumanMessage(f"chain {n}")], config) for n in range(3)),
            *(graph(f"graph {n}") for n in range(3)),
        )
        history = await get_session_history(id_).aget_messages()

    asked = [m.content for m in history if m.type == "human"]
    words = [*(f"chain {n}" for n in range(3)), *(f"graph {n}" for n in range(3))]
    assert sorted(map(str, asked)) == sorted(["start", *words])
    assert [m.type for m in history] == ["human", "ai"] * 7


async def test_what_is_cleared_is_kept_for_people(
    way: Connection, client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    id_ = str(uuid4())
    history = SessionChatMessageHistory(
        id_, connection=way, attributes={"user_id": "ada", "name": "Old"}
    )
    unborn = await asyncio.to_thread(lambda: history.messages)
    await history.aclear()
    await asyncio.to_thread(history.add_user_message, "forget this")
    await asyncio.to_thread(history.clear)
    ran = await client.runs.wait(id_, "chat", input=says("anew"))

    assert unborn == []
    assert contents(ran) == ["anew", "(1) anew"]
    session = (await http.get(f"/api/sessions/{id_}")).json()
    assert (session["user_id"], session["name"]) == ("ada", "Old")
    page = (await http.get(f"/api/sessions/{id_}/messages")).json()["data"]
    assert [(row["content"], row["in_context"]) for row in page] == [
        ("forget this", False), ("anew", True), ("(1) anew", True),
    ]  # fmt: skip


async def test_a_memory_sees_its_own_mode_and_the_graph(
    way: Connection, client: LangGraphClient
) -> None:
    id_ = uuid4().hex
    chatting = CustomSessionMemory(id_, "llm_chat", message_limit=4, connection=way)
    searching = CustomSessionMemory(id_, "search", 10, "past", False, connection=way)

    await chatting.asave_context({"input": "chat"}, {"output": "chatted"})
    await asyncio.to_thread(searching.save_context, {"input": "search"}, {"output": "found"})
    await client.runs.wait(id_, "chat", input=says("graph"))
    seen = await chatting.aload_memory_variables({})
    text = await asyncio.to_thread(searching.load_memory_variables, {})
    await chatting.aclear()

    assert [m.content for m in seen["chat_history"]] == ["chat", "chatted", "graph", "(5) graph"]
    assert text == {"past": "Human: search\nAI: found\nHuman: graph\nAI: (5) graph"}
    assert (await chatting.aload_memory_variables({})) == {"chat_history": []}


async def test_inside_a_server_a_thread_with_an_event_loop_is_not_blocked_for_ever() -> None:
    with pytest.raises(RuntimeError, match="aget_messages"):
        _ = get_session_history(str(uuid4())).messages


async def test_without_a_server_it_says_so() -> None:
    with pytest.raises(RequestError, match="no server runs in this process"):
        await get_session_history(str(uuid4())).aget_messages()


def test_a_script_needs_nothing_but_the_database(
    database: str, project: Path, server: ServerProcess
) -> None:
    id_ = str(uuid4())
    script = (
        "from threadwell.standalone import open_database\n"
        "from threadwell.langchain import SessionChatMessageHistory\n"
        f"connection = open_database({database!r}, config={str(project)!r})\n"
        f"history = SessionChatMessageHistory({id_!r}, connection=connection)\n"
        "history.add_user_message('from a script')\n"
        "print([m.content for m in history.messages])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=90
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['from a script']"
    page = httpx.get(f"{server.url}/api/sessions/{id_}/messages", timeout=30).json()["data"]
    assert [row["content"] for row in page] == ["from a script"]


async def test_the_id_of_a_session_is_no_more_than_an_id(
    server: ServerProcess, http: httpx.AsyncClient
) -> None:
    session_id = (await http.post("/api/sessions", json={})).json()["id"]
    with Connection(server.url) as connection:
        history = SessionChatMessageHistory(f"{session_id}?purge=true#", connection=connection)
        with pytest.raises(RequestError):
            await history.aclear()

    assert (await http.get(f"/api/sessions/{session_id}")).status_code == 200


def test_a_forked_process_opens_its_connection_anew(server: ServerProcess) -> None:
    script = f"""
import os, signal, sys
from threadwell.connection import Connection

def ask():
    connection.call("GET", "/api/sessions")

connection = Connection({server.url!r})
ask()
child = os.fork()
if child == 0:
    signal.alarm(60)
    ask()
    os._exit(7)
status = os.waitpid(child, 0)[1]
ask()
connection.close()
sys.exit(0 if os.waitstatus_to_exitcode(status) == 7 else 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
