"""Real servers for every test that asks for them, and a database of its own for each test."""

import asyncio
import faulthandler
import functools
import inspect
import logging
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from psycopg.conninfo import make_conninfo
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from api.backing import cipher_of
from api.processes.embedded import Servers, embedded_servers
from api.settings import Settings
from store.database import Database, open_database
from store.migrate import migrate

# A test that waits for what never comes fails, and its traceback says where it waited. A fixture
# that does is ended by faulthandler_timeout of pyproject.toml, with the whole run.
TEST_SECONDS = 300.0
UNBOUNDED = ("bench", "fuzz", "package")
# Of `make test`, which runs tests in several processes: each of these folders runs in one of them,
# for its tests share servers, or what is installed for them. They begin first; the files of the others
# fill what time is left.
WHOLE = (
    "tests/faults",
    "tests/acceptance",
    "tests/soak",
    "tests/differential",
    "tests/deploy",
    "tests/js",
)


class _Parts(LoadScopeScheduling):
    """A folder or a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return _part(nodeid)


def _part(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((folder for folder in WHOLE if file.startswith(f"{folder}/")), file)


def _turn(item: pytest.Item) -> int:
    part = _part(item.nodeid)
    return WHOLE.index(part) if part in WHOLE else len(WHOLE)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Parts:
    return _Parts(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    for item in items:
        if _is_unbounded(item):
            continue
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj)


def pytest_runtest_setup(item: pytest.Item) -> None:
    # What is for hours has no end by faulthandler_timeout either.
    if _is_unbounded(item):
        faulthandler.cancel_dump_traceback_later()


def _is_unbounded(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in UNBOUNDED)


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **arguments: Any) -> None:
        async with asyncio.timeout(TEST_SECONDS):
            await test(*args, **arguments)

    return bounded


@pytest.fixture(scope="session", autouse=True)
def logs_of_tests() -> Iterator[None]:
    """Logs are quickly written, and no logger keeps how a test had them: later ones would see none."""
    with pytest.MonkeyPatch.context() as patch:
        # By default a traceback has the locals of each frame, which takes seconds to write.
        by_default = structlog.get_config()["processors"][-1]
        patch.setattr(by_default, "exception_formatter", structlog.dev.plain_traceback)
        configure = structlog.configure
        patch.setattr(
            structlog,
            "configure",
            lambda **how: configure(**(how | {"cache_logger_on_first_use": False})),
        )
        yield


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a test had logs written like ends with it."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers DATABASE_URL and REDIS_URL name; embedded ones where they are unset."""
    named = Settings()
    with (
        tempfile.TemporaryDirectory(prefix="threadwell-") as directory,
        embedded_servers(
            Path(directory),
            postgres=named.database_url is None,
            valkey=named.redis_url is None,
            durable=False,
        ) as started,
    ):
        yield Servers(
            named.database_url or started.database_url, named.redis_url or started.redis_url
        )


@pytest.fixture(scope="session")
def template(servers: Servers) -> Iterator[str]:
    """The name of a migrated database that tests clone."""
    name = f"template_{uuid.uuid4().hex}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        asyncio.run(migrate(make_conninfo(servers.database_url, dbname=name)))
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def cloned(servers: Servers, template: str) -> Iterator[str]:
    """The URL of a migrated database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        yield make_conninfo(servers.database_url, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(servers: Servers, template: str) -> Iterator[str]:
    with cloned(servers, template) as url:
        yield url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    # With LANGGRAPH_AES_KEY set, every test is one of what is sealed.
    async with open_database(database_url, cipher=cipher_of(Settings())) as database:
        yield database
