"""`encryption` of langgraph.json: handlers of the user's own keep the keys that everything is sealed with."""

import base64
import json
from pathlib import Path

import httpx
import psycopg
import pytest

from api.processes.embedded import Servers
from store.errors import InvalidInputError
from tests.api.projects import serving_project
from tests.encryption import keepers
from tests.encryption.hunt import Hunt, in_tables

GRAPHS = {"chat": "tests.graph.sample_graphs:chat"}
WORD = "Qzvorhandlers7718kw"
SEALED_NOTE = {"note": WORD}


def _by(name: str) -> dict[str, str]:
    return {"path": f"tests.encryption.keepers:{name}"}


def _wrapped(database_url: str) -> list[bytes]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT wrapped FROM data_key ORDER BY number").fetchall()
    return [bytes(row[0]) for row in rows]


async def _noted(http: httpx.AsyncClient) -> None:
    body = {"namespace": ["n"], "key": "k", "value": SEALED_NOTE}
    assert (await http.put("/store/items", json=body)).status_code == 204


async def _note(http: httpx.AsyncClient) -> object:
    answer = await http.get("/store/items", params={"namespace": "n", "key": "k"})
    return answer.json()["value"]


async def test_handlers_keep_the_key_that_everything_is_sealed_with(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    keepers.ASKED.clear()
    async with serving_project(
        tmp_path, servers, database_url, graphs=GRAPHS, encryption=_by("old")
    ) as (_, http, services):
        assert services.db.cipher.is_on
        await _noted(http)
        assert await _note(http) == SEALED_NOTE
        found = await http.post(
            "/store/items/search", json={"namespace_prefix": ["n"], "filter": SEALED_NOTE}
        )
        assert [item["key"] for item in found.json()["items"]] == ["k"]
    assert in_tables(Hunt(WORD), database_url) == []
    assert keepers.ASKED == [("encrypt", "key", "data_key"), ("decrypt", "key", "data_key")]
    [first] = _wrapped(database_url)

    # The handlers go over to a key of their own: what they seal anew is kept, and what is at rest stays.
    async with serving_project(
        tmp_path, servers, database_url, graphs=GRAPHS, encryption=_by("rotating")
    ) as (_, http, _services):
        assert await _note(http) == SEALED_NOTE
    [second] = _wrapped(database_url)
    assert first != second
    async with serving_project(
        tmp_path, servers, database_url, graphs=GRAPHS, encryption=_by("new")
    ) as (_, http, _services):
        assert await _note(http) == SEALED_NOTE
    with pytest.raises(InvalidInputError, match=r"`decrypt.blob` failed: InvalidToken"):
        async with serving_project(
            tmp_path, servers, database_url, graphs=GRAPHS, encryption=_by("old")
        ):
            pass


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("idle", "does not encrypt"),
        ("shortened", "does not give back"),
        ("for_json", "needs handlers for blobs"),
        ("contextual", "handler for contexts, which is not supported"),
        ("OLD", "gives a Fernet, not a Encryption"),
    ],
)
async def test_handlers_that_do_not_protect_stop_the_start(
    tmp_path: Path, servers: Servers, database_url: str, name: str, says: str
) -> None:
    with pytest.raises(InvalidInputError, match=says):
        async with serving_project(
            tmp_path, servers, database_url, graphs=GRAPHS, encryption=_by(name)
        ):
            pass


async def test_a_context_to_be_encrypted_in_is_refused_and_not_ignored(
    tmp_path: Path, servers: Servers, database_url: str
) -> None:
    context = base64.b64encode(json.dumps({"tenant": "t"}).encode()).decode()
    wrong = ["no base64!", base64.b64encode(b"[1]").decode()]
    async with serving_project(tmp_path, servers, database_url, graphs=GRAPHS) as (_, http, _s):
        asked = await http.post("/threads", json={}, headers={"x-encryption-context": context})
        assert (asked.status_code, asked.json()["code"]) == (501, "unsupported")
        for text in wrong:
            answer = await http.get("/info", headers={"x-encryption-context": text})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
        assert (await http.post("/threads/count", json={})).json() == 0
