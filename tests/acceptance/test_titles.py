"""What sessions are called that nobody gave a name."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from api.processes.embedded import Servers
from tests.acceptance.conftest import Sql, empty_database
from tests.acceptance.process import ServerProcess, free_port, starting
from tests.acceptance.talk import says
from tests.openai_server import OpenAIServer, Reply, openai_server

SAID = "How do I export\n my   conversations?"
TITLE = "How do I export my conversations?"
PORT = free_port()
DEADLINE_SECONDS = 60.0


@pytest.fixture(scope="module")
def database(servers: Servers) -> Iterator[str]:
    with empty_database(servers) as url:
        yield url


@pytest.fixture(scope="module")
def server(servers: Servers, database: str, project: Path) -> Iterator[ServerProcess]:
    """A server of its own: what others talk about is not to be titled."""
    variables = {
        "DATABASE_URL": database,
        "REDIS_URL": servers.redis_url,
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{PORT}/v1",
        "MODEL": "talker",
        "TITLE_MODEL": "namer",
    }
    with starting(project, variables) as server:
        server.wait_until_up()
        yield server


@pytest.fixture
async def model(sql: Sql) -> AsyncIterator[OpenAIServer]:
    async with openai_server(PORT) as model:
        yield model
        # Or the next test's model is asked for what is still to be named of this one.
        await idle(sql)


async def session(http: httpx.AsyncClient, session_id: str) -> dict[str, Any]:
    answer = await http.get(f"/api/sessions/{session_id}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def titled(http: httpx.AsyncClient, session_id: str) -> dict[str, Any]:
    """The session once the model has titled it."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (shown := await session(http, session_id))["title_source"] != "model":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return shown


async def idle(sql: Sql) -> None:
    """Wait until there is nothing to be done."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while sql("SELECT FROM job"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def ask(http: httpx.AsyncClient, session_id: str, query: str, **headers: str) -> None:
    path = f"/api/sessions/{session_id}/messages"
    answer = await http.post(path, json={"query": query}, headers=headers)
    assert answer.status_code == 200, answer.text


async def new(http: httpx.AsyncClient, **attributes: Any) -> str:
    return str((await http.post("/api/sessions", json=attributes)).json()["id"])


Door = Callable[[httpx.AsyncClient, LangGraphClient], Awaitable[str]]


async def _session(http: httpx.AsyncClient, client: LangGraphClient) -> str:
    session_id = await new(http, assistant_id="chat")
    await ask(http, session_id, SAID)
    return session_id


async def _waited_for(http: httpx.AsyncClient, client: LangGraphClient) -> str:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "chat", input=says(SAID))
    return str(thread_id)


async def _queued(http: httpx.AsyncClient, client: LangGraphClient) -> str:
    thread_id = (await client.threads.create())["thread_id"]
    said: dict[str, Any] = {"messages": [["user", SAID]]}
    run = await client.runs.create(thread_id, "chat", input=said)
    await client.runs.join(thread_id, run["run_id"])
    return str(thread_id)


async def _created(http: httpx.AsyncClient, client: LangGraphClient) -> str:
    thread_id = str(uuid.uuid4())
    await client.runs.wait(thread_id, "chat", input={"messages": SAID}, if_not_exists="create")
    return thread_id


async def _batch(http: httpx.AsyncClient, client: LangGraphClient) -> str:
    blocks = [{"type": "image_url"}, {"type": "text", "text": SAID}]
    message = {"role": "human", "content": blocks}
    body = [{"assistant_id": "chat", "input": {"messages": [message]}, "on_completion": "keep"}]
    run = (await http.post("/runs/batch", json=body)).json()[0]
    await client.runs.join(run["thread_id"], run["run_id"])
    return str(run["thread_id"])


@pytest.mark.parametrize("door", [_session, _waited_for, _queued, _created, _batch])
async def test_the_first_words_are_the_title_at_once_whichever_door_they_come_by(
    door: Door, http: httpx.AsyncClient, client: LangGraphClient, model: OpenAIServer
) -> None:
    session_id = await door(http, client)

    shown = await session(http, session_id)
    assert (shown["name"], shown["title_source"]) in {(TITLE, "first_words"), ("A title", "model")}
    # It is the session's affair alone.
    for metadata in (
        shown["metadata"],
        (await client.threads.get(session_id))["metadata"],
        (await client.runs.list(session_id))[0]["metadata"],
        (await client.threads.get_state(session_id))["metadata"],
    ):
        assert not {"generated_title", "title_source"} & (metadata or {}).keys()


async def test_the_model_gives_the_title_after_the_first_answer(
    http: httpx.AsyncClient, model: OpenAIServer, sql: Sql
) -> None:
    model.title = Reply(tokens=("<think>hm</think>\n", '"Title: Exporting', " chats.", '"\n', "x"))
    session_id = await new(http, assistant_id="agent")
    await ask(http, session_id, SAID)
    before = await session(http, session_id)

    shown = await titled(http, session_id)

    assert shown["name"] == "Exporting chats"
    # It is no reason to come first in a list.
    assert shown["update_time"] == before["update_time"]
    [asked] = model.titles
    assert "in the language of its first message" in asked["messages"][0]["content"]
    assert SAID in asked["messages"][1]["content"]
    assert "assistant: echo:" in asked["messages"][1]["content"]
    await ask(http, session_id, "and then?")
    await idle(sql)
    assert len(model.titles) == 1
    name = sql("SELECT name FROM conversation WHERE id = %s", session_id)
    assert name == [("Exporting chats",)]
    assert (asked["model"], model.requests[0]["model"]) == ("namer", "talker")


@pytest.mark.parametrize(
    ("said", "headers", "language"),
    [
        ("如何导出对话", {}, "in Chinese"),
        ("会話を書き出す", {}, "in Japanese"),
        ("hello", {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}, "in Chinese"),
        ("如何导出对话", {"Accept-Language": "en-GB"}, "in English"),
    ],
)
async def test_a_title_is_in_the_language_that_is_preferred_or_spoken(
    said: str,
    headers: dict[str, str],
    language: str,
    http: httpx.AsyncClient,
    model: OpenAIServer,
) -> None:
    session_id = await new(http)
    await ask(http, session_id, said, **headers)

    await titled(http, session_id)

    assert language in model.titles[0]["messages"][0]["content"]


async def test_a_name_that_somebody_gives_stays(
    http: httpx.AsyncClient, model: OpenAIServer, sql: Sql
) -> None:
    named, unnamed = await new(http, name="Mine"), await new(http, name="新对话")
    for session_id in (named, unnamed):
        await ask(http, session_id, SAID)
    await http.patch(f"/api/sessions/{unnamed}", json={"name": "Also mine"})
    await idle(sql)

    assert (await session(http, named))["name"] == "Mine"
    renamed = await session(http, unnamed)
    assert (renamed["name"], renamed["title_source"]) == ("Also mine", "user")


async def test_a_new_title_is_made_when_somebody_asks_for_it(
    http: httpx.AsyncClient, model: OpenAIServer, sql: Sql
) -> None:
    session_id = await new(http, name="Mine")
    path = f"/api/sessions/{session_id}/title"
    empty = await http.post(path)
    await ask(http, session_id, SAID)
    model.title = Reply(status=500)
    failed = await http.post(path, json={})
    model.title = Reply(tokens=("Made",))

    made = await http.post(path, headers={"Accept-Language": "fr"})

    assert (empty.status_code, empty.json()["code"]) == (409, "no_messages")
    assert (failed.status_code, failed.json()["code"]) == (502, "model_error")
    assert made.json() == {"id": session_id, "name": "Made", "title_source": "model"}
    assert "in French" in model.titles[-1]["messages"][0]["content"]
    assert (await session(http, session_id))["name"] == "Made"
