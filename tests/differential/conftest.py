"""One server for all cases, and what it says in those that were chosen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.processes.embedded import Servers
from tests.acceptance.conftest import empty_database
from tests.acceptance.process import ServerProcess
from tests.differential.cases import CASES
from tests.differential.servers import heard, ours
from tests.differential.talk import Exchange


@pytest.fixture(scope="session")
def server(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the graphs of the cases."""
    directory: Path = tmp_path_factory.mktemp("differential")
    with (
        empty_database(servers) as database,
        ours(directory, database, servers.redis_url) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def answers(server: ServerProcess, request: pytest.FixtureRequest) -> dict[str, list[Exchange]]:
    """What our server says in the cases of this session, by name."""
    chosen = {
        item.callspec.params["case"]
        for item in request.session.items
        if hasattr(item, "callspec") and "case" in item.callspec.params
    }
    return heard([case for name, case in CASES.items() if name in chosen], server.url)
