"""The processes that tests strike; whoever fell is replaced before the next test."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from api.processes.embedded import Servers
from tests.acceptance.conftest import GRAPHS, clients, database, deadline, gate, model_port
from tests.faults.cluster import QUICK, Cluster, open_cluster

__all__ = ["clients", "database", "deadline", "gate", "model_port"]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of the acceptance tests and of the soak."""
    graphs = {name: f"tests.acceptance.graphs:{name}" for name in GRAPHS}
    graphs |= {
        "agent": "graph.agents.chat:graph",
        "soak": "tests.soak.graph:graph",
        "hog": "tests.faults.graphs:hog",
    }
    config = tmp_path_factory.mktemp("faults") / "langgraph.json"
    config.write_text(json.dumps({"graphs": graphs}))
    return config


@pytest.fixture(scope="session")
def processes(servers: Servers, database: str, project: Path, model_port: int) -> Iterator[Cluster]:
    variables = {
        **QUICK,
        "DATABASE_URL": database,
        "REDIS_URL": servers.redis_url,
        "OPENAI_API_KEY": "none",
        "TITLE_MODEL": "off",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
    }
    with open_cluster(project, variables) as cluster:
        yield cluster


@pytest.fixture
def cluster(processes: Cluster) -> Iterator[Cluster]:
    """All three of them up; what they log meanwhile is shown if the test fails."""
    processes.wait_until_up()
    printed = [(member, member.now, len(member.now.lines)) for member in processes.members]
    yield processes
    for member, life, count in printed:
        print(f"{member.name}:\n", *life.lines[count:], sep="")  # noqa: T201
        if member.now is not life:
            print("and after it:\n", member.now.log, sep="")  # noqa: T201
    processes.revive()


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client of each server."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=30))
            for server in cluster.servers
        ]
