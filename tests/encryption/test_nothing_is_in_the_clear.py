"""
The proof of encryption at rest: a text that went through every door is nowhere to be read.

Not in a row, in WAL, in the heaps, in a log, in a key of Redis, in its snapshot or its append-only file.
"""

import asyncio
import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from structlog.testing import capture_logs

from api.app import create_app
from api.bootstrap import open_services
from api.processes.embedded import Servers, embedded_servers
from api.settings import Settings
from store import tallies
from store.migrate import migrate
from tests.encryption.hunt import (
    Hunt,
    Leak,
    in_files,
    in_redis,
    in_tables,
    row_counts,
    unwritten,
)
from tests.encryption.workload import CLEAR, DENSE, WORD, day, live
from tests.receiver import receiving
from tests.serving import serving

#: 32 bytes, as `LANGGRAPH_AES_KEY` has them.
KEY = base64.b64encode(bytes(range(32))).decode()
#: Tables that are not written: what is in them is nothing that people say.
UNUSED = frozenset({"api_key", "data_key", "listener", "user"})
#: Tables that a day may leave empty; of what came and went there WAL tells.
EMPTY = UNUSED | {"import_part", "job", "outbox", "worker"}


@pytest.fixture
def whole() -> Iterator[tuple[Servers, Path]]:
    """Servers of its own, whose files have nothing of other tests in them; Valkey writes both of its."""
    # Not below pytest's own directory: that lets nobody else in, and servers of root run as others.
    with (
        tempfile.TemporaryDirectory(prefix="threadwell-") as directory,
        embedded_servers(Path(directory), durable=False) as servers,
    ):
        with redis.Redis.from_url(servers.redis_url) as client:
            client.config_set("appendonly", "yes")
            client.config_set("rdbcompression", "no")
            # The server's own keys name nothing that anybody wrote: one that is to be found.
            client.set(CLEAR, CLEAR)
        yield servers, Path(directory)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    config.write_text(
        json.dumps(
            {
                "graphs": {"kept": "tests.encryption.graphs:graph"},
                "auth": {"path": "tests.api.auths:owners"},
                "store": {"index": {"dims": 4, "embed": "tests.encryption.graphs:embed"}},
                "webhooks": {"url": {"require_https": False, "disable_loopback": False}},
            }
        )
    )
    return Settings(
        config=config,
        compat=("fufan", "chatchat"),
        aes_key=KEY,
        webhook_retry_seconds=(0.05, 3600),
        search_index_seconds=0.2,
    )


async def _lived(settings: Settings, servers: Servers) -> None:
    urls = {"database_url": servers.database_url, "redis_url": servers.redis_url}
    await migrate(servers.database_url, index_dims=4)
    async with (
        open_services(settings, **urls) as services,
        services.worker.working(),
        serving(create_app(services)) as url,
        receiving() as receiver,
        day(url, receiver) as one,
    ):
        await live(one)
        while await tallies.count_settled(services.db, settle_seconds=0):
            pass


def _everywhere(hunt: Hunt, servers: Servers, root: Path) -> tuple[list[Leak], dict[str, int]]:
    """All that is found, and how much was looked through."""
    rows = in_tables(hunt, servers.database_url)
    keys, key_count = in_redis(hunt, servers.redis_url)
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    with redis.Redis.from_url(servers.redis_url) as client:
        client.save()
    files, file_count = in_files(hunt, root)
    return [*rows, *keys, *files], {"keys": key_count, "files": file_count}


async def test_a_text_that_went_through_every_door_is_nowhere_to_be_read(
    whole: tuple[Servers, Path], settings: Settings
) -> None:
    servers, root = whole
    with capture_logs() as logs:
        await _lived(settings, servers)
    assert [entry for entry in logs if entry["event"].startswith("vectors of `store.index` lie")]

    def look(*texts: str) -> tuple[list[Leak], dict[str, int]]:
        return _everywhere(Hunt(*texts), servers, root)

    # What is meant to be seen is seen wherever one looks: else nothing would be proved.
    seen, counts = await asyncio.to_thread(look, CLEAR)
    places = {leak.place for leak in seen}
    assert any(place.startswith("postgres/data/pg_wal/") for place in places)
    assert any(place.startswith("postgres/data/base/") for place in places)
    assert any(place.endswith(".aof") for place in places)
    assert any(place.endswith(".rdb") for place in places)
    assert any(place.startswith("redis ") for place in places)
    assert counts["keys"] > 5
    assert _empty(servers) <= EMPTY
    assert await asyncio.to_thread(unwritten, servers.database_url) == UNUSED

    leaks, _ = await asyncio.to_thread(look, WORD, DENSE, DENSE[:2], DENSE[2:])
    assert not leaks, "\n".join(map(str, leaks))


def _empty(servers: Servers) -> Any:
    return {name for name, rows in row_counts(servers.database_url).items() if not rows}
