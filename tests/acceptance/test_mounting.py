"""Threadwell inside an application of somebody's, and the other way round: the examples."""

import asyncio
import runpy
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client

from api.processes.embedded import Servers
from tests.acceptance.process import ROOT, ServerProcess, serving as serving_process
from tests.acceptance.talk import contents, says
from tests.serving import serving

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")


@pytest.fixture(params=["outside", "inside"])
async def urls(
    request: pytest.FixtureRequest,
    servers: Servers,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[str, str]]:
    """Where the application is, and where Threadwell."""
    variables = {"DATABASE_URL": database, "REDIS_URL": servers.redis_url}
    if request.param == "inside":
        started = serving_process(EXAMPLES / "inside/langgraph.json", variables)
        server = await asyncio.to_thread(started.__enter__)
        yield server.url, server.url
        await asyncio.to_thread(started.__exit__, None, None, None)
        return
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    app = runpy.run_path(str(EXAMPLES / "outside/app.py"))["app"]
    async with app.router.lifespan_context(app), serving(app) as url:
        yield url, f"{url}/threadwell"


async def test_an_application_and_threadwell_are_one(urls: tuple[str, str]) -> None:
    theirs, ours = urls
    id_ = str(uuid4())
    async with (
        httpx.AsyncClient(base_url=theirs, timeout=30) as http,
        get_client(url=ours) as client,
    ):
        first = await http.post("/old/chat", json={"thread_id": id_, "text": "one"})
        ran = await client.runs.wait(id_, "agent", input=says("two"))
        second = await http.post("/old/chat", json={"thread_id": id_, "text": "three"})
        streamed = [
            part.event
            async for part in client.runs.stream(
                id_, "agent", input=says("four"), stream_mode="values"
            )
        ]
        page = (await http.get(f"{ours}/api/sessions/{id_}/messages")).json()["data"]
        nothing = await http.get(f"{theirs}/nothing")

    assert first.json() == {"answer": "The chain was told 1 things."}
    assert contents(ran)[:3] == ["one", "The chain was told 1 things.", "two"]
    assert second.json() == {"answer": "The chain was told 5 things."}
    assert streamed.count("values") >= 2
    assert [row["role"] for row in page] == ["user", "assistant"] * 4
    assert nothing.status_code == 404


async def test_before_it_lives_it_says_so(tmp_path: Path) -> None:
    app = runpy.run_path(str(EXAMPLES / "outside/app.py"))["app"]
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        answer = await http.get("/threadwell/ok")

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_types_of_a_state_are_known_though_an_application_imports_langgraph_first(
    tmp_path: Path,
) -> None:
    # `threadwell.mounting` imports `api` before all else; alone it is quick.
    script = """
import langgraph.graph
import api
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

class Trip(BaseModel):
    to: str

class State(BaseModel):
    trip: Trip

builder = StateGraph(State)
builder.add_node("go", lambda state: None)
builder.add_edge(START, "go")
# As strict as ours.
saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
graph = builder.compile(checkpointer=saver)
config = {"configurable": {"thread_id": "1"}}
graph.invoke({"trip": Trip(to="Oslo")}, config)
print(type(graph.get_state(config).values["trip"]).__name__)
"""
    status, said = await run_in(tmp_path, script)
    assert (status, said.splitlines()[-1]) == (0, "Trip"), said


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An application that has a package `api`, as many of FastAPI's have."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api/__init__.py").write_text("whose = 'the application'")
    return tmp_path


async def run_in(site: Path, script: str, *arguments: str) -> tuple[int, str]:
    """What a script does that is started where the application is; its status and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *arguments,
        cwd=site, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("api", "threadwell.mounting"),
        ("api", "threadwell.standalone"),
        ("api", "threadwell.command"),
        ("graph", "threadwell.langchain"),
        ("store", "threadwell.files"),
    ],
)
async def test_an_application_with_a_package_of_our_name_is_told_what_to_do(
    site: Path, name: str, module: str
) -> None:
    (site / "api").rename(site / name)
    status, said = await run_in(site, f"import {name}, {module}")
    last = said.splitlines()[-1]
    assert status == 1
    assert last.startswith(f"ImportError: Threadwell has a package `{name}` of its own")
    assert f"gives {site / name}. Move yours into a package" in last


async def test_an_application_with_a_package_api_reaches_a_server_by_its_url(
    site: Path, server: ServerProcess
) -> None:
    script = """
import sys
import api
from threadwell.connection import Connection, use
from threadwell.langchain import SessionChatMessageHistory
from threadwell import repository

use(Connection(sys.argv[1]))
history = SessionChatMessageHistory(sys.argv[2])
history.add_user_message("hello")
print(api.whose, [message.content for message in history.messages])
"""
    status, said = await run_in(site, script, server.url, str(uuid4()))
    assert (status, said) == (0, "the application ['hello']\n")
