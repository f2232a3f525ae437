"""
What a cache of sessions in Redis could save at the most: see decision 19, which leaves it out.

A session and its newest messages are read from PostgreSQL as they are served, and as bytes that are in Redis
already: without asking who may see them, and with the question in SQL that every route has to ask.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, LiteralString

import psycopg
import pytest
from redis.asyncio import Redis

from api.processes.embedded import embedded_servers
from api.schemas.sessions import message_json, session_json
from graph.encode import dumps
from store import messages, sessions, threads
from store.access import EVERYTHING
from store.database import Database, open_database
from store.migrate import migrate
from tests.bench.servers import load, quantile, size

SESSIONS, MESSAGES, READ = size("SESSIONS", 1000), 100, 50
ROUNDS, READS = 12, 25
FILL: Final[tuple[LiteralString, ...]] = (
    """
    INSERT INTO thread (thread_id, metadata)
    SELECT 's' || i, jsonb_build_object('user_id', 'user-' || i, 'name', 'Conversation ' || i)
    FROM generate_series(1, %(sessions)s) AS i
    """,
    """
    INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq, position,
        checkpoint_id, last_checkpoint_id)
    SELECT t.thread_id || '-' || i, t.thread_id,
        CASE WHEN mod(i, 2) = 0 THEN 'user' ELSE 'assistant' END,
        repeat('some words of a message ', 20), now(), now(), i, i, '1', '1'
    FROM thread AS t, generate_series(0, %(messages)s - 1) AS i
    """,
    "VACUUM ANALYZE",
)

Read = Callable[[str], Awaitable[object]]


@pytest.mark.bench
def test_what_a_cache_of_sessions_could_save(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=False) as servers:
        asyncio.run(migrate(servers.database_url))
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            for statement in FILL[:2]:
                connection.execute(statement, {"sessions": SESSIONS, "messages": MESSAGES})
            connection.execute(FILL[2])
        asyncio.run(_measure(servers.database_url, servers.redis_url))


async def _measure(database_url: str, redis_url: str) -> None:
    async with open_database(database_url) as db, Redis.from_url(redis_url, protocol=2) as redis:
        ways = _ways(db, redis)
        for number in range(SESSIONS):
            whole = await ways["PostgreSQL: both"](f"s{number + 1}")
            await redis.set(f"s{number + 1}", whole)  # type: ignore[arg-type]
        taken: dict[str, list[float]] = {name: [] for name in ways}
        cpu = dict.fromkeys(ways, 0.0)
        for number in range(ROUNDS * READS):
            for name, read in ways.items():
                began, spent = time.perf_counter(), time.process_time()
                assert await read(f"s{number % SESSIONS + 1}")
                taken[name].append(1000 * (time.perf_counter() - began))
                cpu[name] += 1000 * (time.process_time() - spent)
    print(f"\n{'ms':<32}{'CPU':>8}{'least':>8}{'p50':>8}   {load()}")
    for name, each in taken.items():
        least, p50 = min(each), quantile(each, 0.5)
        print(f"{name:<32}{cpu[name] / len(each):>8.2f}{least:>8.2f}{p50:>8.2f}")
    # What there is to win of a session by itself is less than what the question costs.
    assert cpu["Redis: both, and who may"] > cpu["PostgreSQL: the session"]


def _ways(db: Database, redis: Redis) -> dict[str, Read]:
    async def session(session_id: str) -> bytes:
        return dumps(session_json(await sessions.get(db, session_id, access=EVERYTHING)))

    async def both(session_id: str) -> bytes:
        found = await sessions.get(db, session_id, access=EVERYTHING)
        page, _ = await messages.list_page(db, session_id, limit=READ, order="desc")
        return dumps({"session": session_json(found), "data": [message_json(m) for m in page]})

    async def cached(session_id: str) -> object:
        return await redis.get(session_id)

    async def cached_and_asked(session_id: str) -> object:
        await threads.get(db, session_id, access=EVERYTHING)
        return await redis.get(session_id)

    return {
        "PostgreSQL: the session": session,
        "PostgreSQL: both": both,
        "Redis: both, nobody asks": cached,
        "Redis: both, and who may": cached_and_asked,
    }
