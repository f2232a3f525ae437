"""Two server processes on one database and one Redis, for most tests; and a gate for each test."""

import json
import shutil
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from api.processes.embedded import Servers
from tests.acceptance import graphs
from tests.acceptance.gate import Gate, open_gate
from tests.acceptance.process import ServerProcess, free_port, starting

GRAPHS = (
    "chat",
    "delta",
    "steps",
    "talking_steps",
    "blocking",
    "computing",
    "alone",
    "ask",
    "ask_twice",
    "asking",
    "tools",
    "stubborn",
    "poison",
    "asks_oddly",
    "tells_oddly",
    "large",
    "boom",
    "endless",
    "nested",
    "nested_ask",
    "tells",
    "transforming",
    "choir",
    "duet",
    "trio",
    "half",
    "route",
    "parts_by_edges",
    "parts_by_command",
    "ask_in_chat",
    "adds",
    "finds",
)
#: So that what a killed process left is taken up soon.
QUICK = {"LEASE_SECONDS": "3", "HEARTBEAT_SECONDS": "0.5"}
TEST_SECONDS = 120

#: Rows of a query on the servers' database.
Sql = Callable[..., list[tuple[Any, ...]]]
#: An SDK client of a server.
Connect = Callable[[ServerProcess], LangGraphClient]


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """No test waits for ever."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"the test took longer than {TEST_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The langgraph.json of a project that lives elsewhere."""
    directory = tmp_path_factory.mktemp("project")
    shutil.copy(Path(graphs.__file__), directory / "my_graphs.py")
    named = {name: f"./my_graphs.py:{name}" for name in GRAPHS}
    named["agent"] = "graph.agents.chat:graph"
    config = directory / "langgraph.json"
    config.write_text(json.dumps({"dependencies": ["."], "graphs": named}))
    return config


@contextmanager
def empty_database(servers: Servers) -> Iterator[str]:
    """The URL of an empty database; whoever uses it migrates it."""
    name = f"acceptance_{uuid.uuid4().hex}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield urlsplit(servers.database_url)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def database(servers: Servers) -> Iterator[str]:
    """The URL of the servers' database."""
    with empty_database(servers) as url:
        yield url


@pytest.fixture(scope="session")
def model_port() -> int:
    """Where the servers look for their OpenAI-compatible model; a test may put one there."""
    return free_port()


@pytest.fixture(scope="session")
def replicas(
    servers: Servers, database: str, project: Path, model_port: int
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two processes that were started at once on an empty database."""
    variables = {
        **QUICK,
        "DATABASE_URL": database,
        "REDIS_URL": servers.redis_url,
        "OPENAI_API_KEY": "none",
        "TITLE_MODEL": "off",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
    }
    with starting(project, variables) as one, starting(project, variables) as other:
        one.wait_until_up()
        other.wait_until_up()
        yield one, other


@pytest.fixture
def server(replicas: tuple[ServerProcess, ServerProcess]) -> Iterator[ServerProcess]:
    """The first of the two; what it logs meanwhile is shown if the test fails."""
    printed = [len(replica.lines) for replica in replicas]
    yield replicas[0]
    for replica, count in zip(replicas, printed, strict=True):
        print(f"{replica.url}:\n", *replica.lines[count:], sep="")  # noqa: T201
        assert replica.process.poll() is None, "the server has died"


@pytest.fixture
def replica(server: ServerProcess, replicas: tuple[ServerProcess, ServerProcess]) -> ServerProcess:
    """The second of the two."""
    return replicas[1]


@pytest.fixture
def sql(server: ServerProcess, database: str) -> Iterator[Sql]:
    with psycopg.connect(database, autocommit=True) as connection:

        def fetch(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
            return connection.execute(query.encode(), parameters).fetchall()

        yield fetch


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    async with open_gate() as gate:
        yield gate


@pytest.fixture
async def clients() -> AsyncIterator[Connect]:
    """SDK clients of any server, closed in the end."""
    async with AsyncExitStack() as stack:
        opened: list[LangGraphClient] = []

        def connect(server: ServerProcess) -> LangGraphClient:
            opened.append(get_client(url=server.url))
            stack.push_async_callback(opened[-1].aclose)
            return opened[-1]

        yield connect


@pytest.fixture
async def client(server: ServerProcess, clients: Connect) -> LangGraphClient:
    return clients(server)


@pytest.fixture
async def other_client(replica: ServerProcess, clients: Connect) -> LangGraphClient:
    return clients(replica)


@pytest.fixture
async def http(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        yield http


@pytest.fixture
async def other_http(replica: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=replica.url, timeout=30) as http:
        yield http
