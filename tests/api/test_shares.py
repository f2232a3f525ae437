"""Sharing: links that need no login, and members, over live HTTP with users of their own."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from api.bootstrap import Services
from api.settings import Settings
from store import shares
from tests.acceptance.sse import Frame, frames
from tests.graph.engines import until

DEADLINE_SECONDS = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    graphs = {name: f"tests.graph.sample_graphs:{name}" for name in ("chat", "ask", "endless")}
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": graphs, "auth": {"path": "tests.api.auths:owners"}}))
    # Who loses a stream does so however seldom it is kept alive.
    return Settings(config=config, sse_heartbeat_seconds=600, access_look_seconds=0.2)


def of(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


ADA, BOB, EVE = of("ada"), of("bob"), of("eve")


async def session(http: httpx.AsyncClient, *said: str, **attributes: Any) -> str:
    """A session of Ada's."""
    body = {"name": "Ada's", **attributes}
    created = await http.post("/api/sessions", json=body, headers=ADA)
    assert created.status_code == 200, created.text
    session_id = str(created.json()["id"])
    for query in said:
        answered = await ask(http, session_id, query, ADA)
        assert answered.status_code == 200, answered.text
    return session_id


async def ask(
    http: httpx.AsyncClient, session_id: str, query: str, who: dict[str, str]
) -> httpx.Response:
    path = f"/api/sessions/{session_id}/messages"
    return await http.post(path, json={"query": query}, headers=who)


async def share(http: httpx.AsyncClient, session_id: str, **body: Any) -> dict[str, Any]:
    made = await http.post(f"/api/sessions/{session_id}/shares", json=body, headers=ADA)
    assert made.status_code == 200, made.text
    found: dict[str, Any] = made.json()
    return found


async def shown(http: httpx.AsyncClient, url: str, **headers: str) -> list[str]:
    """What a link shows, without a login."""
    answer = await http.get(url, headers=headers)
    assert answer.status_code == 200, answer.text
    return [message["content"] for message in answer.json()["messages"]]


def knowing(password: str, who: dict[str, str] | None = None) -> dict[bytes, bytes]:
    """The headers of somebody who knows a password, in UTF-8 as a shell sends it."""
    known = {name.encode(): value.encode() for name, value in (who or {}).items()}
    return {**known, b"x-share-password": password.encode()}


async def test_a_snapshot_shows_what_was_said_then_and_a_live_link_what_is(
    http: httpx.AsyncClient,
) -> None:
    session_id = await session(http, "first", metadata={"note": "secret"})
    then = await share(http, session_id)
    now = await share(http, session_id, mode="live")
    before = await shown(http, then["url"])
    await ask(http, session_id, "second", ADA)
    await http.patch(f"/api/sessions/{session_id}", json={"name": "Other"}, headers=ADA)
    snapshot, live = await http.get(then["url"]), await http.get(now["url"])

    assert before[0] == "first"
    assert [m["content"] for m in snapshot.json()["messages"]] == before
    assert [m["content"] for m in live.json()["messages"]][:3] == [*before, "second"]
    assert (snapshot.json()["name"], live.json()["name"]) == ("Ada's", "Other")
    assert snapshot.headers["cache-control"] == "no-store"
    for answer in (snapshot, live):
        told = answer.text
        assert "secret" not in told
        assert session_id not in told
        assert "bearer" not in told.lower()
        assert '"ada"' not in told
        assert set(answer.json()["messages"][1]) == {
            "id", "role", "content", "message_type", "create_time"
        }  # fmt: skip


SHARE = (
    "INSERT INTO share (share_id, thread_id, token_hash, mode) "
    "VALUES (gen_random_uuid(), %(id)s, 'x', 'live')"
)
HOLD = "SELECT FROM thread WHERE thread_id = %(id)s FOR UPDATE"
WAITING = "SELECT FROM pg_locks WHERE NOT granted"


async def test_a_link_that_is_made_while_its_session_is_deleted_does_not_come_back_with_it(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = await session(http)
    path = f"/api/sessions/{session_id}"
    params = {"id": session_id}

    async def waits() -> bool:
        return await services.db.tuples(WAITING, {}) != []

    async with services.db.transaction() as tx:
        await tx.tuples(HOLD, params)
        await tx.execute(SHARE, params)
        deleting = asyncio.create_task(http.delete(path, headers=ADA))
        await until(waits)
    assert (await deleting).status_code == 204
    assert (await http.post(f"{path}/restore", headers=ADA)).status_code == 200

    assert (await http.get(f"{path}/shares", headers=ADA)).json()["data"] == []


async def test_a_thread_that_is_marked_deleted_is_shared_with_nobody_and_purged_as_its_session_would_be(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = await session(http)
    await share(http, session_id)
    path = f"/api/sessions/{session_id}/shares"
    await http.post(path, json={"audience": "users", "users": ["bob"]}, headers=ADA)
    marked = {"metadata": {"status": "deleted"}}
    await http.patch(f"/threads/{session_id}", json=marked, headers=ADA)
    ends = "SELECT purge_at > now() + interval '29 days' FROM thread WHERE thread_id = %(id)s"
    assert await services.db.tuples(ends, {"id": session_id}) == [(True,)]

    await http.post(f"/api/sessions/{session_id}/restore", headers=ADA)
    assert (await http.get(path, headers=ADA)).json()["data"] == []
    assert (await http.get(f"/api/sessions/{session_id}", headers=BOB)).status_code == 404


async def test_who_is_a_member_no_more_loses_the_streams_that_are_open(
    http: httpx.AsyncClient,
) -> None:
    session_id = await session(http, assistant_id="endless")
    path = f"/api/sessions/{session_id}"
    body = {"audience": "users", "users": ["bob"], "role": "editor"}
    await http.post(f"{path}/shares", json=body, headers=ADA)
    begun = list[asyncio.Event]()

    async def follow(method: str, path: str, who: dict[str, str], **more: Any) -> bool:
        """Whether it was broken off."""
        begun.append(here := asyncio.Event())
        async with http.stream(method, path, headers=who, **more) as response:
            assert response.status_code == 200
            try:
                async for _ in response.aiter_bytes():
                    here.set()
            except httpx.RemoteProtocolError:
                return True
        return False

    chat = {"id": session_id, "messages": [{"role": "user", "content": "x"}]}
    asked = {"model": "endless", "conversation_id": session_id, "stream": True, **chat}
    streams = [asyncio.create_task(follow("POST", "/v1/chat/completions", BOB, json=asked))]

    async def under_way() -> bool:
        return len(begun) == len(streams) and all(one.is_set() for one in begun)

    async with asyncio.timeout(3 * DEADLINE_SECONDS):
        await until(under_way)
        run = (await http.get(f"/threads/{session_id}/runs", headers=ADA)).json()[0]["run_id"]
        paths = (f"{path}/stream", f"/threads/{session_id}/runs/{run}/stream")
        for one, who in itertools.product(paths, (BOB, ADA)):
            streams.append(asyncio.create_task(follow("GET", one, who)))
        await until(under_way)
        await http.delete(f"{path}/shares/users", params={"user": "bob"}, headers=ADA)
        assert [await streams[place] for place in (0, 1, 3)] == [True] * 3
        assert not streams[2].done()
        await http.post(f"{path}/stop", headers=ADA)
        assert [await streams[place] for place in (2, 4)] == [False] * 2


async def test_a_link_comes_in_pages(http: httpx.AsyncClient) -> None:
    session_id = await session(http, "one", "two")
    for mode in ("snapshot", "live"):
        url = (await share(http, session_id, mode=mode))["url"]
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = (await http.get(url, params={"limit": 3, **cursor})).json()
            found += [message["content"] for message in page["messages"]]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}

        assert len(found) == len(set(found)) == 4
        assert (await http.get(url, params={"cursor": "?"})).status_code == 400


async def test_a_link_with_a_password_is_tried_a_few_times_and_no_more(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = await session(http, "hello")
    url = (await share(http, session_id, password="sésame 芝麻"))["url"]
    right = "sésame 芝麻"

    async def tried(password: str) -> tuple[int, str]:
        answer = await http.get(url, headers=knowing(password))
        return answer.status_code, answer.json().get("code", "")

    assert (await http.get(url)).json()["code"] == "password_required"
    assert await tried(right) == (200, "")
    wrong = await asyncio.gather(*[tried("wrong") for _ in range(shares.MAX_FAILURES + 5)])

    assert (
        sorted(wrong)
        == [(401, "wrong_password")] * shares.MAX_FAILURES + [(429, "too_many_attempts")] * 5
    )
    assert (await http.get(url, headers=knowing(right))).status_code == 429
    assert (await http.post(f"{url}/clone", headers=knowing(right, BOB))).status_code == 429
    await services.db.execute(
        "UPDATE share SET failed_since = failed_since - interval '1 hour'", {}
    )
    assert (await http.get(url, headers=knowing(right))).status_code == 200
    [[kept]] = await services.db.tuples("SELECT password_hash FROM share", {})
    assert kept.startswith("scrypt$")
    assert "sésame" not in kept


async def test_a_link_ends_and_is_revoked_and_goes_with_its_session(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = await session(http, "hello")
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    ended = await share(http, session_id, expires_at=soon)
    revoked = await share(http, session_id)
    kept = await share(http, session_id, mode="live")
    assert await shown(http, ended["url"])
    await services.db.execute("UPDATE share SET expires_at = now() WHERE expires_at > now()", {})
    path = f"/api/sessions/{session_id}/shares"
    listed = (await http.get(path, headers=ADA)).json()["data"]
    gone = await http.delete(f"{path}/{revoked['id']}", headers=ADA)
    answers = [(await http.get(one["url"])).status_code for one in (ended, revoked, kept)]
    again = await http.delete(f"{path}/{revoked['id']}", headers=ADA)
    await http.delete(f"/api/sessions/{session_id}?purge=true", headers=ADA)

    assert [link["id"] for link in listed] == [one["id"] for one in (ended, revoked, kept)]
    assert {link["url"] for link in listed} == {None}
    assert (gone.status_code, again.status_code) == (204, 404)
    assert answers == [410, 404, 200]
    assert (await http.get(kept["url"])).status_code == 404
    assert await services.db.tuples("SELECT 1 FROM share, share_message", {}) == []


async def test_a_session_that_was_deleted_comes_back_shared_with_nobody(
    http: httpx.AsyncClient,
) -> None:
    session_id = await session(http, "hello")
    path = f"/api/sessions/{session_id}"
    url = (await share(http, session_id, mode="live"))["url"]
    await share(http, session_id, audience="users", users=["bob"], role="editor")

    await http.delete(path, headers=ADA)
    while_deleted = [
        (await http.get(url)).status_code,
        (await http.get(f"/threads/{session_id}", headers=BOB)).status_code,
        (await http.get(f"{path}/shares", headers=ADA)).status_code,
        (await http.post(f"{path}/shares", json={}, headers=ADA)).status_code,
        (await http.post(f"{path}/restore", headers=BOB)).status_code,
    ]
    restored = await http.post(f"{path}/restore", headers=ADA)

    assert while_deleted == [404] * 5
    assert restored.status_code == 200
    assert (await http.get(url)).status_code == 404
    assert (await http.get(path, headers=BOB)).status_code == 404
    assert (await http.get(f"{path}/shares", headers=ADA)).json()["data"] == []


SENSELESS: list[dict[str, Any]] = [
    {"audience": "link", "role": "editor"},
    {"audience": "users"},
    {"audience": "users", "users": []},
    {"audience": "users", "users": ["bob"], "password": "long enough"},
    {"audience": "users", "users": ["bob"], "mode": "snapshot"},
    {"users": ["bob"]},
    {"expires_at": "2001-01-01T00:00:00Z"},
    {"expires_at": "tomorrow"},
    {"expires_at": 5},
    {"password": "abc"},
    {"password": "x" * 257},
    {"mode": "frozen"},
]


async def test_shares_that_make_no_sense_are_refused(http: httpx.AsyncClient) -> None:
    session_id = await session(http)
    path = f"/api/sessions/{session_id}/shares"

    for body in SENSELESS:
        refused = await http.post(path, json=body, headers=ADA)

        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input"), body
    for unknown in ("x", "00000000-0000-7000-8000-000000000000"):
        gone = await http.delete(f"{path}/{unknown}", headers=ADA)
        assert gone.status_code == (422 if unknown == "x" else 404)
    assert (await http.get(path, headers=ADA)).json()["data"] == []


async def test_links_and_members_are_bounded(http: httpx.AsyncClient) -> None:
    session_id = await session(http)
    for _ in range(shares.MAX_LINKS):
        await share(http, session_id, mode="live")
    users = [f"user-{n}" for n in range(shares.MAX_MEMBERS)]
    await share(http, session_id, audience="users", users=users)
    path = f"/api/sessions/{session_id}/shares"

    one_more = await http.post(path, json={"mode": "live"}, headers=ADA)
    members = await http.post(path, json={"audience": "users", "users": ["bob"]}, headers=ADA)

    assert (one_more.status_code, members.status_code) == (409, 409)
    assert (await http.get(f"/api/sessions/{session_id}", headers=BOB)).status_code == 404


async def test_who_clones_gets_what_the_link_shows_and_goes_on_from_there(
    http: httpx.AsyncClient,
) -> None:
    session_id = await session(http, "hello", metadata={"note": "secret"})
    url = (await share(http, session_id))["url"]

    nobody = await http.post(f"{url}/clone")
    cloned = await http.post(f"{url}/clone", headers=BOB)
    clone_id = cloned.json()["id"]
    history = await http.get(f"/api/sessions/{clone_id}/messages", headers=BOB)
    answered = await ask(http, clone_id, "go on", BOB)
    state = (await http.get(f"/threads/{clone_id}/state", headers=BOB)).json()

    assert nobody.status_code == 401
    assert cloned.status_code == 200
    assert cloned.json()["name"] == "Ada's"
    assert "secret" not in cloned.text
    assert [m["content"] for m in history.json()["data"]] == await shown(http, url)
    assert answered.status_code == 200
    assert [m["content"] for m in state["values"]["messages"]][:1] == ["hello"]
    assert len(state["values"]["messages"]) == 4
    assert (await http.get(f"/api/sessions/{clone_id}", headers=ADA)).status_code == 404


async def test_a_viewer_reads_and_no_more(http: httpx.AsyncClient) -> None:
    session_id = await session(http, "hello")
    path = f"/api/sessions/{session_id}"
    await share(http, session_id, audience="users", users=["bob"])

    seen = await http.get(f"{path}/messages", headers=BOB)
    listed = (await http.get("/api/sessions", headers=BOB)).json()["data"]
    searched = (await http.post("/threads/search", json={}, headers=BOB)).json()
    as_owner = await http.post("/threads/search", json={"metadata": {"owner": "ada"}}, headers=BOB)
    spoken = await ask(http, session_id, "may I?", BOB)
    changed = await http.post(
        f"/threads/{session_id}/state", json={"values": {"messages": []}}, headers=BOB
    )
    assert seen.status_code == 200
    assert [row["id"] for row in listed] == [session_id]
    assert [row["thread_id"] for row in searched] == [session_id]
    assert [row["thread_id"] for row in as_owner.json()] == [session_id]
    assert (spoken.status_code, changed.status_code) == (404, 404)


async def test_a_viewer_sends_no_file_into_a_session(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = await session(http, "hello")
    await share(http, session_id, audience="users", users=["bob"])
    sent = await http.post("/api/files", files={"file": ("a.txt", b"a")}, headers=BOB)
    image = {"type": "input_image", "image_url": "data:image/gif;base64,R0lGODlh"}
    of_chat = {"type": "image_url", "image_url": {"url": image["image_url"]}}
    asked = {"role": "user", "content": [of_chat]}

    refused = [
        await http.post(
            f"/api/sessions/{session_id}/messages",
            json={"query": "x", "attachments": [sent.json()["id"]]},
            headers=BOB,
        ),
        await http.post(
            "/v1/chat/completions",
            json={"model": "chat", "messages": [asked], "conversation_id": session_id},
            headers=BOB,
        ),
        await http.post(
            f"/v1/conversations/{session_id}/items",
            json={"items": [{"role": "user", "content": [image]}]},
            headers=BOB,
        ),
    ]

    assert [answer.status_code for answer in refused] == [404] * 3
    assert await services.db.tuples("SELECT 1 FROM file_use", {}) == []
    assert len(await services.db.tuples("SELECT 1 FROM file", {})) == 1


async def test_a_list_has_what_is_shared_with_one_or_leaves_it_out(http: httpx.AsyncClient) -> None:
    shared_id, _unshared_id = await session(http), await session(http)
    await share(http, shared_id, audience="users", users=["bob"])
    own = await http.post("/api/sessions", json={}, headers=BOB)

    async def listed(**query: str) -> list[str]:
        found = await http.get("/api/sessions", params=query, headers=BOB)
        return [one["id"] for one in found.json()["data"]]

    assert await listed() == [own.json()["id"], shared_id]
    assert await listed(shared="true") == [shared_id]
    assert await listed(shared="false") == [own.json()["id"]]
    assert await listed(shared="true", user_id="bob") == []


async def test_an_editor_speaks_and_makes_nobody_the_owner(http: httpx.AsyncClient) -> None:
    session_id = await session(http, "hello")
    path = f"/api/sessions/{session_id}"
    made = await share(http, session_id, audience="users", users=["bob"], role="editor")
    spoken = await ask(http, session_id, "now I may", BOB)
    assert made["users"] == {"bob": "editor"}
    assert spoken.status_code == 200, spoken.text

    stolen = {"owner": "bob", "members": {"bob": "editor"}}
    for method, where, body in (
        ("PATCH", path, {"metadata": stolen}),
        ("PATCH", path, {"name": "Bob's"}),
        ("PATCH", f"/threads/{session_id}", {"metadata": stolen}),
        ("PATCH", f"/threads/{session_id}", {"ttl": {"ttl": 1}}),
        ("DELETE", path, None),
        ("DELETE", f"/threads/{session_id}", None),
        ("POST", f"{path}/shares", {}),
        ("POST", f"{path}/shares", {"audience": "users", "users": ["eve"]}),
        ("GET", f"{path}/shares", None),
        ("DELETE", f"{path}/shares", None),
        ("DELETE", f"{path}/shares/users?user=bob", None),
    ):
        refused = await http.request(method, where, json=body, headers=BOB)
        assert refused.status_code == 404, (method, where, refused.text)
    pruned = await http.post("/threads/prune", json={"thread_ids": [session_id]}, headers=BOB)
    assert pruned.json() == {"pruned_count": 0}
    assert (await http.post("/runs/cancel", json={"status": "all"}, headers=BOB)).status_code == 404
    kept = (await http.get(f"/threads/{session_id}", headers=ADA)).json()["metadata"]
    assert (kept["owner"], kept["members"]) == ("ada", {"bob": "editor"})

    removed = await http.delete(f"{path}/shares/users", params={"user": "bob"}, headers=ADA)
    assert removed.status_code == 204
    assert (await http.get(path, headers=BOB)).status_code == 404
    assert (await ask(http, session_id, "again", BOB)).status_code == 404
    assert (await http.get(path, headers=EVE)).status_code == 404


async def test_members_are_nothing_that_metadata_can_say(http: httpx.AsyncClient) -> None:
    members = {"members": {"bob": "editor"}}
    session_id = await session(http, metadata=members)
    made = await http.post("/threads", json={"metadata": members}, headers=ADA)
    thread_id = made.json()["thread_id"]
    await http.patch(f"/threads/{thread_id}", json={"metadata": members}, headers=ADA)
    await http.patch(f"/api/sessions/{session_id}", json={"metadata": members}, headers=ADA)

    for id_ in (session_id, thread_id):
        assert "members" not in (await http.get(f"/threads/{id_}", headers=ADA)).json()["metadata"]
        assert (await http.get(f"/threads/{id_}", headers=BOB)).status_code == 404


async def test_a_copy_is_shared_with_nobody(http: httpx.AsyncClient) -> None:
    session_id = await session(http, "hello")
    await share(http, session_id, audience="users", users=["bob", "eve"])

    copied = await http.post(f"/threads/{session_id}/copy", headers=BOB)
    copy_id = copied.json()["thread_id"]

    assert copied.status_code == 200
    assert "members" not in copied.json()["metadata"]
    assert copied.json()["metadata"]["owner"] == "bob"
    for who in (ADA, EVE):
        assert (await http.get(f"/threads/{copy_id}", headers=who)).status_code == 404


@asynccontextmanager
async def following(
    http: httpx.AsyncClient, session_id: str, who: dict[str, str]
) -> AsyncIterator[AsyncIterator[Frame]]:
    """The events of a thread as one user sees them."""
    async with http.stream("GET", f"/threads/{session_id}/stream", headers=who) as response:
        assert response.status_code == 200
        yield frames(response)


async def until_done(source: AsyncIterator[Frame]) -> list[tuple[str, Any]]:
    seen = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for frame in source:
            seen.append((frame.name, frame.data))
            if frame.name == "metadata" and frame.data.get("status") == "run_done":
                return seen
    raise AssertionError("the stream has ended")


async def test_two_people_live_in_one_session(http: httpx.AsyncClient) -> None:
    session_id = await session(http, "hello")
    await share(http, session_id, audience="users", users=["bob"], role="editor")
    path = f"/api/sessions/{session_id}/messages"
    async with (
        following(http, session_id, ADA) as of_ada,
        following(http, session_id, BOB) as of_bob,
    ):
        watching = [asyncio.create_task(until_done(one)) for one in (of_ada, of_bob)]
        async with http.stream(
            "POST", path, json={"query": "from Bob", "stream": True}, headers=BOB
        ) as own:
            streamed = [frame.name async for frame in frames(own)]
        seen_by_ada, seen_by_bob = await asyncio.gather(*watching)
    histories = [(await http.get(path, headers=who)).json()["data"] for who in (ADA, BOB)]

    assert streamed[-1] == "run.end"
    assert seen_by_ada == seen_by_bob
    assert len(seen_by_ada) > 3
    assert histories[0] == histories[1]
    assert [m["content"] for m in histories[0]][2] == "from Bob"


async def test_a_token_is_in_no_log_and_in_no_row(
    http: httpx.AsyncClient, services: Services
) -> None:
    session_id = await session(http, "hello")
    url = (await share(http, session_id))["url"]
    token = url.rsplit("/", 1)[1]
    # uvicorn's own log is off in the servers that people start.
    with capture_logs() as entries:
        await http.get(url)
    logged = str(entries)
    rows = await services.db.tuples("SELECT s::text FROM share AS s", {})

    assert len(token) >= 43
    assert "/api/shares/" in logged
    assert token not in logged
    assert token not in str(rows)


async def test_a_viewer_moves_no_conversation_by_asking(http: httpx.AsyncClient) -> None:
    session_id = await session(http)
    path = f"/api/sessions/{session_id}"
    given = [{"type": kind, "content": kind, "id": kind} for kind in ("human", "ai")]
    await http.patch(f"/threads/{session_id}", json={"metadata": {"graph_id": "chat"}}, headers=ADA)
    # In one piece: to go back into it takes a change of state.
    update = {"values": {"messages": given}}
    written = await http.post(f"/threads/{session_id}/state", json=update, headers=ADA)
    assert written.status_code == 200, written.text
    await share(http, session_id, audience="users", users=["bob"])

    refused = [
        await http.post(f"{path}/messages", json={"query": "x", "parent_id": "human"}, headers=BOB),
        await http.post(f"{path}/messages/ai/regenerate", json={}, headers=BOB),
        await http.put(f"{path}/head", json={"message_id": "human"}, headers=BOB),
        await http.patch(f"{path}/messages/ai", json={"content": "x"}, headers=BOB),
        await http.delete(f"{path}/messages/ai", headers=BOB),
        await http.post(f"{path}/stop", headers=BOB),
    ]
    seen = (await http.get(f"{path}/messages", headers=BOB)).json()["data"]
    copied = await http.post(f"{path}/fork", json={}, headers=BOB)

    assert [answer.status_code for answer in refused] == [404] * 6
    assert [message["content"] for message in seen] == ["human", "ai"]
    assert copied.status_code == 200, copied.text
    assert "members" not in copied.json()["metadata"]
    copy_id = copied.json()["id"]
    assert (await http.get(f"/api/sessions/{copy_id}", headers=BOB)).status_code == 200
    assert (await http.get(f"/api/sessions/{copy_id}", headers=ADA)).status_code == 404
