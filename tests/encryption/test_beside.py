"""What lies beside runs and messages, sealed: it works as before, and nothing else is let in."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from api.bootstrap import Services
from api.processes.embedded import Servers
from api.settings import Settings
from graph.imports import ImportedMessage, ImportedSession
from store.access import EVERYTHING
from store.cache import open_cache
from store.cipher import KeyRing
from store.events import START, Gap, open_event_log
from store.rooms import open_rooms
from tests.encryption.test_nothing_is_in_the_clear import KEY
from tests.store.event_logs import until

RING = KeyRing([b"r" * 32])
OTHER = KeyRing([b"o" * 32])
THREAD = "00000000-0000-7000-8000-00000000e0e0"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"chat": "tests.graph.sample_graphs:chat"}}))
    return Settings(config=config, aes_key=KEY)


VALUES: dict[str, Any] = {
    "ada": {"who": {"name": "Ada", "age": 36}, "likes": ["tea"], "left": None},
    "bob": {"who": {"name": "Bob", "age": 36.0}, "likes": [], "left": True},
    "eve": {"who": "Eve", "size": 1.5},
    "far": {"far": 1e22, "near": -(2.0**63), "end": 2.0**64},
    "nil": {},
}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"who": {"name": "Ada"}}, ["ada"]),
        ({"who": {"age": 36}}, ["ada", "bob"]),
        ({"who": {"age": {"$ne": 36}}}, []),
        ({"size": {"$eq": 1.5}}, ["eve"]),
        ({"size": {"$ne": 1.5}}, ["ada", "bob", "far", "nil"]),
        ({"likes": ["tea"]}, ["ada"]),
        ({"likes": []}, ["bob"]),
        ({"far": 1e22, "near": -(2**63), "end": {"$eq": 2.0**64}}, ["far"]),
        ({"left": None}, ["ada", "eve", "far", "nil"]),
        ({"left": {"$ne": None}}, ["bob"]),
        ({"left": 1}, []),
        ({"who": {}}, ["ada", "bob"]),
        ({"who": "Eve", "size": 1.5}, ["eve"]),
    ],
)
async def test_items_are_found_by_what_is_equal(
    http: httpx.AsyncClient, asked: dict[str, Any], found: list[str]
) -> None:
    for key, value in VALUES.items():
        body = {"namespace": ["n"], "key": key, "value": value}
        assert (await http.put("/store/items", json=body)).status_code == 204
    answer = await http.post(
        "/store/items/search", json={"namespace_prefix": ["n"], "filter": asked}
    )

    items = answer.json()["items"]
    assert sorted(item["key"] for item in items) == found
    assert all(item["value"] == VALUES[item["key"]] for item in items)


async def test_an_order_of_sealed_items_is_refused(http: httpx.AsyncClient) -> None:
    for operator in ("$gt", "$gte", "$lt", "$lte"):
        asked = {"namespace_prefix": [], "filter": {"size": {operator: 1}}}
        answer = await http.post("/store/items/search", json=asked)
        assert (answer.status_code, answer.json()["code"]) == (400, "encrypted")


async def test_the_same_file_is_kept_once_and_its_hash_is_nobody_elses(
    http: httpx.AsyncClient, database_url: str
) -> None:
    data = "分析机 engine\n".encode() * 60_000
    made = [
        (await http.post("/api/files", files={"file": (f"{name}.txt", data)})).json()
        for name in ("one", "two")
    ]

    digest = hashlib.sha256(data)
    assert [(file["name"], file["sha256"]) for file in made] == [
        ("one.txt", digest.hexdigest()), ("two.txt", digest.hexdigest())
    ]  # fmt: skip
    for file in made:
        assert (await http.get(f"/api/files/{file['id']}")).content == data
    with psycopg.connect(database_url) as connection:
        kept = connection.execute("SELECT sha256, sealed_sha256 FROM file_content").fetchall()
        chunks = connection.execute("SELECT data FROM file_chunk").fetchall()
    assert len(kept) == 1
    assert digest.digest() not in bytes(kept[0][0])
    assert digest.hexdigest() not in kept[0][1]
    assert len(chunks) > 1
    # One that somebody put in another's place is not served.
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE file_chunk SET data = (SELECT data FROM file_chunk WHERE place = 0)"
            " WHERE place = 1"
        )
    with pytest.raises(httpx.HTTPError):
        await http.get(f"/api/files/{made[0]['id']}")


async def test_a_follower_in_another_process_opens_what_was_written_for_its_place(
    servers: Servers,
) -> None:
    prefix = "sealed"
    urls: Any = {"prefix": prefix, "ttl_seconds": 60.0}
    client: Any = redis.Redis.from_url(servers.redis_url)
    client.delete(f"{prefix}:ev:{{{THREAD}}}")
    async with open_event_log(servers.redis_url, **urls, cipher=RING) as log:
        writer = log.writer(THREAD, 1, "r", timed=True)
        for number in range(40):
            writer.emit("messages", b'{"text": "analysis %d"}' % number)
        writer.close()
    [key] = client.keys(f"{prefix}:ev:*")
    entries = client.xrange(key)
    assert all(set(entry) == {b"x"} and b"analysis" not in entry[b"x"] for _, entry in entries)

    async def read(cipher: KeyRing, count: int) -> list[Any]:
        found: list[Any] = []
        async with open_event_log(servers.redis_url, **urls, cipher=cipher) as log:
            async for part in log.follow(THREAD, START, idle_seconds=0.2):
                if not part:
                    break
                found += [part] if isinstance(part, Gap) else [event.data for event in part]
                if len(found) >= count:
                    break
        return found

    assert await read(RING, 40) == [b'{"text": "analysis %d"}' % number for number in range(40)]
    assert await read(OTHER, 1) == []

    # What a stranger writes, in the clear or from another place, is not told; what follows it is.
    client.xadd(key, {"r": "r", "e": '[["values", 2, false]]', "d": "{}"}, id="1-41")
    client.xadd(key, entries[-1][1], id="1-42")
    async with open_event_log(servers.redis_url, **urls, cipher=RING) as log:
        writer = log.writer(THREAD, 2, "s")
        writer.emit("values", b'{"told": true}')
        writer.close()
    assert (await read(RING, 41))[-1] == b'{"told": true}'
    assert b"{}" not in await read(RING, 41)
    client.close()


async def test_the_cache_keeps_no_names_and_takes_nothing_from_strangers(servers: Servers) -> None:
    client: Any = redis.Redis.from_url(servers.redis_url)
    async with (
        open_cache(servers.redis_url, prefix="c", cipher=RING) as cache,
        open_cache(servers.redis_url, prefix="c", cipher=OTHER) as other,
    ):
        await cache.put("of ada", b"value", ttl_seconds=60)
        [key] = client.keys("c:cache:*")
        assert b"ada" not in key
        assert b"value" not in client.get(key)
        assert await cache.get("of ada") == b"value"
        assert await other.get("of ada") is None
        client.set(key, b"value")
        assert await cache.get("of ada") is None
    client.close()


async def test_a_room_hears_only_who_has_its_keys(servers: Servers) -> None:
    heard: list[bytes] = []
    client: Any = redis.Redis.from_url(servers.redis_url)
    async with open_rooms(servers.redis_url, prefix="p", cipher=RING) as rooms:
        rooms.hear = lambda room, said: heard.append(said)
        rooms.enter("a")
        await until(lambda: client.pubsub_numsub("p:room:a")[0][1] > 0)
        client.publish("p:room:a", b"a stranger")
        await rooms.say("a", b"ours")
        await until(lambda: bool(heard))
    assert heard == [b"ours"]
    client.close()


async def test_what_was_thought_and_said_elsewhere_is_sealed_and_keeps_its_time(
    services: Services, http: httpx.AsyncClient, database_url: str
) -> None:
    at = datetime(2023, 5, 6, tzinfo=UTC)
    said = ImportedMessage(
        id="a", role="user", content="analysis", created_at=at, score=80, reason="because"
    )
    session = ImportedSession(session_id=THREAD, messages=[said], metadata={"name": "Old"})

    await services.imports.write(session, access=EVERYTHING)

    answer = await http.get(f"/api/sessions/{THREAD}/messages")
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["data"]
    assert (found["content"], found["feedback"]["reason"]) == ("analysis", "because")
    assert datetime.fromisoformat(found["create_time"]) == at
    with psycopg.connect(database_url) as connection:
        [(kept,)] = connection.execute("SELECT reason FROM feedback").fetchall()
    assert "because" not in kept
