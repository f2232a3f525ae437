"""Attachments: uploaded, seen by those who may, in messages by their ids, and gone when unused."""

import base64
import hashlib
import json
from typing import Any

import httpx
import pytest

from api.bootstrap import Services
from api.settings import Settings
from store import files
from store.access import EVERYTHING
from store.files import CHUNK_BYTES, Upload

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2_000
MAX_BYTES = 1_000_000
KINDS = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0" + b"x" * 40,
    "image/webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    "audio/wav": b"RIFF\x00\x00\x00\x00WAVEfmt ",
    "audio/mpeg": b"ID3\x04" + b"\x00" * 40,
    "audio/mp4": b"\x00\x00\x00\x20ftypM4A " + b"\x00" * 20,
    "text/plain": "名前,値\n".encode() * 40_000,
}


async def upload(http: httpx.AsyncClient, data: bytes, *, name: str = "x.bin") -> httpx.Response:
    return await http.post("/api/files", files={"file": (name, data)})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"request_body_max_bytes": 2 * MAX_BYTES, "file_max_bytes": MAX_BYTES}
    )


async def test_a_file_comes_back_as_it_was_with_the_type_that_it_is(
    http: httpx.AsyncClient,
) -> None:
    for mime_type, data in KINDS.items():
        made = await upload(http, data, name="../../etc/passwd.exe")
        assert made.status_code == 200, made.text
        about = made.json()
        assert (about["mime"], about["name"], about["size"]) == (mime_type, "passwd.exe", len(data))
        assert about["sha256"] == hashlib.sha256(data).hexdigest()

        got = await http.get(f"/api/files/{about['id']}")
        assert got.content == data
        assert got.headers["content-type"].split(";")[0] == mime_type
        assert got.headers["x-content-type-options"] == "nosniff"
        same = {"if-none-match": got.headers["etag"]}
        assert (await http.get(f"/api/files/{about['id']}", headers=same)).status_code == 304


async def test_what_is_not_taken_is_refused_and_leaves_nothing(
    http: httpx.AsyncClient, services: Services
) -> None:
    refused = [
        await upload(http, b"PK\x03\x04 a zip"),
        await upload(http, b"MZ\x90\x00\x03", name="cat.png"),
        await upload(http, b"%PDF-1.7"),
        await upload(http, b""),
        await upload(http, b"text at first " * 40_000 + b"\xff\xfe"),
    ]
    assert [(a.status_code, a.json()["code"]) for a in refused] == [(415, "unsupported_type")] * 5
    large = await upload(http, b"x" * (MAX_BYTES + 1))
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    larger = await upload(http, b"x" * (MAX_BYTES + 100_000))
    assert (larger.status_code, larger.json()["code"]) == (413, "too_large")
    bodies: list[dict[str, Any]] = [
        {"data": {"file": "text"}},
        {"json": {}},
        {"files": {"other": b"x"}},
    ]
    for body in bodies:
        answer = await http.post("/api/files", **body)
        assert answer.status_code == 422, answer.text
    assert (await http.get("/api/files/none")).status_code == 422
    assert (await http.get(f"/api/files/{'0' * 8}-0000-7000-8000-{'0' * 12}")).status_code == 404
    assert await services.db.tuples("SELECT 1 FROM file_content", {}) == []


async def test_the_same_content_is_kept_once(http: httpx.AsyncClient, services: Services) -> None:
    first = (await upload(http, PNG, name="a.png")).json()
    second = (await upload(http, PNG, name="b.png")).json()

    assert first["id"] != second["id"]
    assert first["sha256"] == second["sha256"]
    rows = await services.db.tuples(
        "SELECT sum(octet_length(data)), max(place) FROM file_chunk", {}
    )
    assert rows == [(len(PNG), len(PNG) // CHUNK_BYTES)]


async def test_a_message_names_its_files_and_holds_nothing_of_them(
    http: httpx.AsyncClient, services: Services
) -> None:
    image = (await upload(http, PNG, name="cat.png")).json()
    text = (await upload(http, b"secret words", name="notes.txt")).json()
    session = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]

    sent = {"query": "What is it?", "attachments": [image["id"], text["id"]]}
    answer = await http.post(f"/api/sessions/{session}/messages", json=sent)
    assert answer.status_code == 200, answer.text
    [asked, _] = (await http.get(f"/api/sessions/{session}/messages")).json()["data"]
    assert (asked["content"], asked["message_type"]) == ("What is it?", "image")
    assert asked["meta_data"]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image", "file_id": image["id"], "mime_type": "image/png", "name": "cat.png"},
        {"type": "file", "file_id": text["id"], "mime_type": "text/plain", "name": "notes.txt"},
    ]
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "message", "run"):
        rows = await services.db.tuples(f"SELECT t::text FROM {table} AS t", {})
        told = json.dumps(rows)
        assert b"secret words".hex() not in told
        assert "secret words" not in told
        assert base64.b64encode(PNG)[:64].decode() not in told

    for unknown in (session, "no-id"):
        sent = {"query": "x", "attachments": [unknown]}
        answer = await http.post(f"/api/sessions/{session}/messages", json=sent)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_file_that_comes_in_another_way_than_with_a_question_is_used_too(
    http: httpx.AsyncClient, services: Services
) -> None:
    ids = [(await upload(http, name.encode())).json()["id"] for name in ("a", "b", "c")]
    blocks = [[{"type": "file", "file_id": file_id}] for file_id in ids]
    session = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    path = f"/api/sessions/{session}"
    said = {"messages": [{"type": "human", "id": "m", "content": blocks[0]}]}
    added = await http.post(f"{path}/context", json=said)
    edited = await http.patch(f"{path}/messages/m", json={"content": blocks[1]})
    unknown = [{"type": "file", "file_id": session}]
    refused = [
        await http.patch(f"{path}/messages/m", json={"content": unknown}),
        await http.post(
            f"{path}/context", json={"messages": [{"role": "user", "content": unknown}]}
        ),
    ]

    assert (added.status_code, edited.status_code) == (200, 200), (added.text, edited.text)
    assert [answer.status_code for answer in refused] == [404, 404]
    assert await files.collect(services.db, unused_seconds=0, limit=10) == 1
    statuses = [(await http.get(f"/api/files/{id_}")).status_code for id_ in ids]
    assert statuses == [200, 200, 404]


async def test_what_nothing_uses_is_deleted(http: httpx.AsyncClient, services: Services) -> None:
    used = (await upload(http, b"used")).json()["id"]
    unused = (await upload(http, b"unused")).json()["id"]
    session = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    sent = {"query": "x", "attachments": [used]}
    assert (await http.post(f"/api/sessions/{session}/messages", json=sent)).status_code == 200
    await Upload(services.db).append(b"broken off")
    await services.db.execute("UPDATE file_content SET created_at = now() - interval '2 days'", {})

    assert await files.collect(services.db, unused_seconds=3600, limit=10) == 0
    assert await files.collect(services.db, unused_seconds=0, limit=10) == 1
    statuses = [(await http.get(f"/api/files/{id_}")).status_code for id_ in (used, unused)]
    assert statuses == [200, 404]
    await services.runs.delete_thread(session, access=EVERYTHING)
    assert await files.collect(services.db, unused_seconds=0, limit=10) == 1
    for table in ("file", "file_content", "file_chunk", "file_use"):
        rows = await services.db.tuples(f"SELECT 1 FROM {table}", {})
        assert rows == [], table
