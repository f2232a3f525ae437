"""Built-in identities: who gets in by a key or a token, through every door, and to what."""

import asyncio
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import psycopg
import pytest
from a2a.client.card_resolver import parse_agent_card
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from openai import AsyncOpenAI, AuthenticationError as RefusedByOpenAI
from redis.asyncio import Redis
from starlette.requests import HTTPConnection
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.app import create_app
from api.bootstrap import Services, open_services
from api.http.addresses import address_of
from api.identity.keys import KNOWN_SECONDS, Keys, issue
from api.identity.owners import Owners
from api.processes.embedded import Servers
from api.settings import Settings
from graph.user import label_of
from store import keys
from store.audit import Filter, page
from store.errors import AuthenticationError
from tests.api.issuers import AUDIENCE, Issuer, make_key
from tests.graph.engines import until
from tests.serving import serving

RUN = {"assistant_id": "chat", "input": {"messages": [{"role": "user", "content": "hello"}]}}


@pytest.fixture
def settings(tmp_path: Path, issuer: Issuer) -> Settings:
    config = tmp_path / "langgraph.json"
    graphs = {name: f"tests.graph.sample_graphs:{name}" for name in ("chat", "endless")}
    graphs["who"] = "tests.api.auth_graphs:who"
    config.write_text(json.dumps({"graphs": graphs}))
    return Settings(
        config=config,
        auth=("keys", "jwt"),
        jwt_issuer=issuer.url,
        jwt_audience=(AUDIENCE,),
        auth_failures_per_minute=0,
        sse_heartbeat_seconds=0.2,
        caller_look_seconds=0.2,
        access_look_seconds=0.2,
    )


@dataclass
class Doors:
    """The server, and how to come to it as somebody."""

    http: httpx.AsyncClient
    services: Services
    issuer: Issuer

    async def key(self, owner: str, **options: Any) -> dict[str, str]:
        """The headers of somebody with a new key."""
        return bearer(await make_key(self.services.db, owner, **options))

    def token(self, identity: str, **claims: Any) -> dict[str, str]:
        return bearer(self.issuer.token(identity, **claims))

    async def thread(self, who: dict[str, str], **body: Any) -> Any:
        answer = await self.http.post("/threads", json=body, headers=who)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def status(self, who: dict[str, str], method: str, path: str, **more: Any) -> int:
        headers = {**who, **more.pop("headers", {})}
        return (await self.http.request(method, path, headers=headers, **more)).status_code


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


@pytest.fixture
async def doors(http: httpx.AsyncClient, services: Services, issuer: Issuer) -> Doors:
    return Doors(http, services, issuer)


def forged(key: str) -> str:
    """A key with the id of another one, and a checksum that is right."""
    key_id, secret = key.split("_", 2)[1], issue().text.split("_", 2)[2][:-8]
    return f"tw_{key_id}_{secret}{zlib.crc32(f'{key_id}{secret}'.encode()):08x}"


async def test_a_key_and_a_token_of_one_identity_see_the_same(doors: Doors, url: str) -> None:
    key = await make_key(doors.services.db, "ada", name="laptop")
    async with get_client(url=url, api_key=key) as client:
        made: Any = await client.threads.create()
        seen = await client.threads.search()
    one = f"/threads/{made['thread_id']}"
    by_token = await doors.http.get(one, headers=doors.token("ada"))
    by_header = await doors.http.get(
        f"/threads/{made['thread_id']}", headers={"x-api-key": doors.issuer.token("ada")}
    )

    assert made["metadata"]["owner"] == "ada"
    assert [thread["thread_id"] for thread in seen] == [made["thread_id"]]
    assert by_token.json()["metadata"] == by_header.json()["metadata"] == made["metadata"]
    for stranger in (await doors.key("eve"), doors.token("eve")):
        assert await doors.status(stranger, "GET", f"/threads/{made['thread_id']}") == 404
    (listed,) = await keys.list_all(doors.services.db, owner="ada")
    assert listed.last_used_at is not None
    assert listed.name == "laptop"


async def test_who_shows_nothing_that_is_valid_is_refused(doors: Doors) -> None:
    db = doors.services.db
    good, revoked = await make_key(db, "ada"), await make_key(db, "ada")
    await keys.revoke(db, revoked.split("_")[1])
    kept = (await keys.find(db, good.split("_")[1])) or pytest.fail("no key")
    for headers in (
        {}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": f"Basic {good}"},
        {"authorization": good}, bearer("x"), bearer(issue().text), bearer(forged(good)),
        bearer(good[:-1] + ("0" if good[-1] != "0" else "1")), bearer(good + "x"), bearer(good.upper()),
        bearer(f"tw_{kept.key_id}_{kept.secret_hash.hex()}"), bearer(revoked), {"x-api-key": "lsv2_x"},
        # Who says who they are says it once: the other header does not make up for a wrong one.
        {"authorization": "Bearer x", "x-api-key": good},
    ):  # fmt: skip
        refused = await doors.http.get("/threads/x", headers=headers)
        assert refused.status_code == 401, headers
        assert refused.json()["code"] == "unauthenticated"
        assert refused.headers["www-authenticate"] == "Bearer"
        assert good[20:] not in refused.text
    assert await doors.status(bearer(good), "POST", "/threads/search", json={}) == 200
    assert await doors.status({"x-api-key": good}, "POST", "/threads/search", json={}) == 200
    for path in ("/ok", "/info", "/openapi.json"):
        assert await doors.status({}, "GET", path) == 200


async def test_a_key_opens_nothing_once_it_is_revoked_or_has_expired(services: Services) -> None:
    taken = Keys(services.db)
    key, short = await make_key(services.db, "ada"), issue()
    await keys.create(
        services.db, short.key_id, secret_hash=short.secret_hash, owner="ada", name="", roles=["user"],
        permissions=[], expires_seconds=KNOWN_SECONDS - 0.5,
    )  # fmt: skip
    found, soon = await taken.authenticate(key), await taken.authenticate(short.text)
    # So long it may be believed without asking.
    assert found.seconds == KNOWN_SECONDS
    assert soon.seconds < KNOWN_SECONDS - 0.5

    await keys.revoke(services.db, key.split("_")[1])
    async with await psycopg.AsyncConnection.connect(services.db.conninfo) as connection:
        await connection.execute("UPDATE api_key SET expires_at = now() WHERE revoked_at IS NULL")
    for text, why in ((key, "revoked"), (short.text, "expired")):
        with pytest.raises(AuthenticationError, match=why):
            await taken.authenticate(text)
    with pytest.raises(AuthenticationError, match="not valid"):
        await taken.authenticate(forged(key))


async def test_a_scoped_key_does_what_it_is_for_and_nothing_else(doors: Doors) -> None:
    whole = await doors.key("ada")
    thread_id = (await doors.thread(whole))["thread_id"]
    reader, role = (
        await doors.key("ada", permission=["threads:read"]),
        await doors.key("ada", role=["reader"]),
    )
    one = f"/threads/{thread_id}"
    hook = {"url": "https://1.1.1.1/x", "enabled": False}
    refused: list[tuple[str, str, Any]] = [
        ("POST", "/threads", {}), ("PATCH", one, {"metadata": {}}), ("DELETE", one, None),
        ("POST", f"{one}/runs/wait", RUN), ("POST", "/runs", RUN), ("POST", "/assistants", {"graph_id": "chat"}),
        ("POST", "/api/webhooks", hook), ("POST", "/api/sessions", {}), ("POST", f"{one}/state", {"values": {}}),
        ("PUT", "/store/items", {"namespace": ["ada"], "key": "k", "value": {}}),
        ("POST", "/runs/crons", {**RUN, "schedule": "0 0 1 1 *"}), ("POST", "/v1/conversations", {}),
        ("POST", f"/api/sessions/{thread_id}/shares", {}), ("POST", "/api/files", None),
    ]  # fmt: skip
    for who in (reader, role):
        assert await doors.status(who, "GET", one) == 200
        for method, path, body in refused:
            answer = await doors.http.request(method, path, json=body, headers=who)
            assert answer.status_code == 403, (method, path, answer.text)
            assert "permission_denied" in answer.text
    # The role may look at lists, too; the one permission is for one thing.
    for method, path, body in (
        ("POST", "/threads/search", {}), ("POST", "/assistants/search", {}), ("GET", "/api/webhooks", None),
        ("GET", "/api/search?q=x", None), ("GET", "/api/stats", None), ("GET", "/api/sessions/export", None),
    ):  # fmt: skip
        assert await doors.status(role, method, path, json=body) == 200, path
        assert await doors.status(reader, method, path, json=body) == 403, path
    tool = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "chat", "arguments": {}},
    }
    called = await doors.http.post(
        "/mcp", json=tool, headers={**role, "accept": "application/json"}
    )
    assert called.status_code == 403
    assert "threads:create_run" in called.text


async def test_a_users_data_as_a_whole_is_for_whoever_may_all_that_is_in_it(doors: Doors) -> None:
    whole, admin = await doors.key("ada"), await doors.key("root", role=["admin"])
    service = await doors.key("backend", role=["service"])
    of_threads = [f"{name}:*" for name in ("threads", "assistants", "crons")]
    scoped = await doors.key("ada", permission=of_threads)
    less = await doors.key("ada", permission=["store:*", "webhooks:*"])
    data, export = "/api/users/ada/data", "/api/users/ada/export"
    assert await doors.status(whole, "POST", export) == 202
    for who in (scoped, less):
        for method, path in (("GET", export), ("POST", export), ("DELETE", data)):
            assert await doors.status(who, method, path) == 403, (method, path)
    assert await doors.status(whole, "GET", export) in (200, 409)

    # To act for somebody is not to take all of theirs, their keys too.
    for user in ("root", "ada"):
        in_their_name = {**service, "x-on-behalf-of": user}
        assert await doors.status(in_their_name, "DELETE", f"/api/users/{user}/data") == 403
    assert await doors.status(admin, "POST", "/threads/search", json={}) == 200
    both = await doors.key("more", role=["service"], permission=["users:erase"])
    assert await doors.status({**both, "x-on-behalf-of": "ada"}, "DELETE", data) == 202


async def test_whose_something_is_nobody_gives_away_or_takes(doors: Doors) -> None:
    ada = await doors.key("ada")
    thread = await doors.thread(ada, metadata={"owner": "eve", "note": 1})
    thread_id = thread["thread_id"]
    changed = await doors.http.patch(
        f"/threads/{thread_id}", json={"metadata": {"owner": "eve", "note": 2}}, headers=ada
    )
    session = await doors.http.patch(
        f"/api/sessions/{thread_id}", json={"metadata": {"owner": "eve"}}, headers=ada
    )
    assistant = await doors.http.post(
        "/assistants", json={"graph_id": "chat", "metadata": {"owner": "eve"}}, headers=ada
    )
    run = await doors.http.post("/runs", json={**RUN, "metadata": {"owner": "eve"}}, headers=ada)
    await doors.http.patch(
        f"/assistants/{assistant.json()['assistant_id']}",
        json={"metadata": {"owner": "eve"}},
        headers=ada,
    )

    # Nor whom a list shows for it; which one may look for.
    named = {"metadata": {"user_id": "eve"}}
    for method, path, body in (
        ("POST", "/threads", named), ("PATCH", f"/threads/{thread_id}", named),
        ("POST", f"/threads/{thread_id}/runs", {**RUN, **named}), ("POST", "/runs", {**RUN, **named}),
    ):  # fmt: skip
        assert await doors.status(ada, method, path, json=body) == 403, path
    assert await doors.status(ada, "POST", "/threads/search", json=named) == 200
    assert (await doors.thread(ada, metadata={"user_id": "ada"}))["metadata"]["user_id"] == "ada"

    assert thread["metadata"]["owner"] == "ada"
    assert changed.json()["metadata"] == {**thread["metadata"], "note": 2}
    assert session.status_code == 200
    assert run.json()["metadata"]["owner"] == "ada"
    eve = doors.token("eve")
    for path in ("/threads/search", "/assistants/search"):
        found = (await doors.http.post(path, json={}, headers=eve)).json()
        assert not [one for one in found if (one.get("metadata") or {}).get("owner")]
    still = await doors.http.get(f"/threads/{thread_id}", headers=ada)
    assert still.json()["metadata"]["owner"] == "ada"


async def test_what_becomes_somebody_else_s_is_in_the_audit_log(doors: Doors) -> None:
    ada, admin = await doors.key("ada"), await doors.key("root", role=["admin"])

    async def ask(who: dict[str, str], method: str, path: str, body: Any, **more: str) -> Any:
        answer = await doors.http.request(method, path, json=body, headers={**who, **more})
        assert answer.status_code in (200, 412), answer.text
        return answer.json()

    cron = {"assistant_id": "chat", "schedule": "0 0 1 1 *", "input": {}}
    thread = (await doors.thread(ada))["thread_id"]
    session = (await ask(ada, "POST", "/api/sessions", {}))["id"]
    conversation = (await ask(ada, "POST", "/v1/conversations", {}))["id"]
    assistant = (await ask(ada, "POST", "/assistants", {"graph_id": "chat"}))["assistant_id"]
    timed = (await ask(ada, "POST", "/runs/crons", cron))["cron_id"]
    to_bob = {"metadata": {"owner": "bob", "note": 1}}
    one = f"/assistants/{assistant}"
    # What leaves it whose it is, and what is refused.
    await ask(ada, "PATCH", f"/threads/{thread}", to_bob)
    await ask(admin, "PATCH", one, {"metadata": {"owner": "ada"}})
    await ask(admin, "PATCH", f"/api/sessions/{session}", to_bob, **{"if-match": '"old"'})

    await ask(admin, "PATCH", f"/threads/{thread}", to_bob)
    await ask(admin, "PATCH", f"/api/sessions/{session}", to_bob)
    await ask(admin, "POST", f"/v1/conversations/{conversation}", to_bob)
    await ask(admin, "PATCH", one, to_bob)
    await ask(admin, "PATCH", f"/runs/crons/{timed}", to_bob)
    await ask(doors.token("bob"), "POST", f"{one}/latest", {"version": 1})

    found, _ = await page(doors.services.db, Filter(act="owner.changed"), limit=10, seen_by=None)
    told = [(e.subject, e.actor, e.owner, e.details) for e in reversed(found)]
    assert told == [
        (f"session:{thread}", "root", "ada", {"to": "bob"}),
        (f"session:{session}", "root", "ada", {"to": "bob"}),
        (f"session:{conversation}", "root", "ada", {"to": "bob"}),
        (f"assistant:{assistant}", "root", "ada", {"to": "bob"}),
        (f"cron:{timed}", "root", "ada", {"to": "bob"}),
        (f"assistant:{assistant}", "bob", "bob", {"to": "ada"}),
    ]
    # Who lost something can see it.
    seen = await doors.http.get("/api/audit?act=owner.changed&owner=ada", headers=ada)
    assert len(seen.json()["data"]) == 5


async def test_who_may_acts_for_users_and_sees_what_is_theirs_alone(doors: Doors) -> None:
    service = await doors.key("backend", role=["service"])
    admin, plain = await doors.key("root", role=["admin"]), await doors.key("bob")
    own = await doors.thread(service)
    for_ada = {**service, "x-on-behalf-of": "ada"}
    made = await doors.thread(for_ada)
    one = f"/threads/{made['thread_id']}"
    run = await doors.http.post(f"{one}/runs/wait", json=RUN, headers=for_ada)
    runs = (await doors.http.get(f"{one}/runs", headers=doors.token("ada"))).json()
    user = runs[0]["kwargs"]["config"]["configurable"]["langgraph_auth_user"]

    assert run.status_code == 200
    assert made["metadata"]["owner"] == "ada"
    assert (user["identity"], user["actor"]) == ("ada", "backend")
    assert not [one for one in user["permissions"] if one.startswith("users:")]
    assert await doors.status(service, "GET", one) == 404
    assert await doors.status(for_ada, "GET", f"/threads/{own['thread_id']}") == 404
    # Who may see everything sees no more than the user does in their name.
    assert await doors.status(admin, "GET", one) == 200
    for_bob = {**admin, "x-on-behalf-of": "bob"}
    assert await doors.status(for_bob, "GET", one) == 404
    assert await doors.status({**plain, "x-on-behalf-of": "ada"}, "GET", one) == 403
    # Not as a user's: that would be no right of theirs.
    for name in ("", "a" * 256, "a\tb", "\xff\xfe"):
        sent = httpx.Headers({**service, "x-on-behalf-of": name}, encoding="latin-1")
        refused = await doors.http.get(one, headers=sent)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_request"), name
    named = [*service.items(), ("x-on-behalf-of", "李雷".encode().decode("latin-1"))]
    chinese = await doors.http.post(
        "/threads", json={}, headers=httpx.Headers(named, encoding="latin-1")
    )
    assert chinese.json()["metadata"]["owner"] == "李雷"


async def test_who_may_see_everything_does(doors: Doors) -> None:
    ada, admin = doors.token("ada"), await doors.key("root", role=["admin"])
    thread_id = (await doors.thread(ada))["thread_id"]
    given = await doors.thread(admin, metadata={"owner": "ada"})
    own = await doors.thread(admin)
    found = (await doors.http.post("/threads/search", json={}, headers=admin)).json()

    assert {one["thread_id"] for one in found} == {
        thread_id, given["thread_id"], own["thread_id"],
    }  # fmt: skip
    assert own["metadata"]["owner"] == "root"
    assert await doors.status(ada, "GET", f"/threads/{given['thread_id']}") == 200
    assert await doors.status(admin, "DELETE", f"/threads/{thread_id}") == 204


async def test_items_are_whose_namespace_begins_with_who_they_are(doors: Doors) -> None:
    ada, eve, dotted = doors.token("ada"), doors.token("eve"), doors.token("a.b@example.com")
    admin = await doors.key("root", role=["admin"])
    item = {"namespace": ["ada", "n"], "key": "k", "value": {"x": 1}}
    label = label_of("a.b@example.com")

    assert await doors.status(ada, "PUT", "/store/items", json=item) == 204
    assert await doors.status(eve, "PUT", "/store/items", json=item) == 403
    assert (
        await doors.status(dotted, "PUT", "/store/items", json={**item, "namespace": [label]})
        == 204
    )
    assert label == "a%2Eb@example%2Ecom"
    # To LangGraph, that alone would be a label of anybody's.
    anybody = await doors.http.post("/store/namespaces", json={}, headers=doors.token("*"))
    assert anybody.json()["namespaces"] == []
    assert (
        await doors.status(
            doors.token("*"), "PUT", "/store/items", json={**item, "namespace": ["%2A"]}
        )
        == 204
    )
    read = {"namespace": "ada.n", "key": "k"}
    assert (await doors.http.get("/store/items", params=read, headers=ada)).json()["value"] == {
        "x": 1
    }
    for who, seen in (
        (ada, [["ada", "n"]]),
        (eve, []),
        (admin, [["%2A"], ["a%2Eb@example%2Ecom"], ["ada", "n"]]),
    ):
        listed = await doors.http.post("/store/namespaces", json={}, headers=who)
        found = await doors.http.post(
            "/store/items/search", json={"namespace_prefix": []}, headers=who
        )
        assert listed.json()["namespaces"] == seen
        assert sorted(one["namespace"] for one in found.json()["items"]) == seen
    for method, path, more in (
        ("GET", "/store/items", {"params": read}),
        ("POST", "/store/items/search", {"json": {"namespace_prefix": ["ada"]}}),
        ("POST", "/store/namespaces", {"json": {"prefix": ["ada"]}}),
    ):  # fmt: skip
        assert await doors.status(eve, method, path, **more) == 403, path


async def test_every_door_lets_in_who_has_a_key(doors: Doors, url: str) -> None:
    key = await make_key(doors.services.db, "ada")
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as ai:
        said = await ai.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "hello"}]
        )
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as ai:
        with pytest.raises(RefusedByOpenAI):
            await ai.models.list()
    async with (
        httpx2.AsyncClient(headers=bearer(key)) as sent,
        Client(streamable_http_client(f"{url}/mcp", http_client=sent)) as tools,
    ):
        listed = {tool.name for tool in (await tools.list_tools()).tools}
    card = await doors.http.get("/a2a/chat", headers=bearer(key))
    studio = {"x-auth-scheme": "langsmith", "x-api-key": "lsv2_of_langsmith"}

    assert said.choices[0].message.content
    assert listed == {"chat", "endless", "who"}
    assert card.status_code == 200
    read = parse_agent_card(card.json())
    assert read.security_schemes["bearer"].http_auth_security_scheme.scheme == "bearer"
    named = read.security_schemes["api_key"].api_key_security_scheme
    assert (named.location, named.name) == ("header", "x-api-key")
    asked = [set(required.schemes) for required in read.security_requirements]
    assert asked == [{"bearer"}, {"api_key"}]
    # As 0.3 has it.
    assert card.json()["securitySchemes"]["bearer"]["type"] == "http"
    assert card.json()["security"] == [{"bearer": []}, {"api_key": []}]
    # Studio shows its own key beside the header that is configured in it; alone it opens nothing.
    assert await doors.status({**studio, **bearer(key)}, "POST", "/threads/search", json={}) == 200
    assert await doors.status(studio, "POST", "/threads/search", json={}) == 401
    preflight = {
        "origin": "https://smith.langchain.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-api-key,x-auth-scheme,x-on-behalf-of",
    }
    assert await doors.status(preflight, "OPTIONS", "/threads/search") == 200


async def test_a_socket_lets_in_who_has_a_key(doors: Doors, url: str) -> None:
    key, base = await make_key(doors.services.db, "ada"), url.replace("http", "ws", 1)
    thread_id = (await doors.thread(bearer(key)))["thread_id"]
    ping = json.dumps({"id": 2, "method": "ping", "params": {}})
    said = json.dumps({"id": 1, "method": "auth", "params": {"token": key}})
    for options, first in (
        ({"additional_headers": {"x-api-key": key}}, None), ({"additional_headers": bearer(key)}, None),
        ({"subprotocols": ["bearer", key]}, None), ({}, said),
    ):  # fmt: skip
        async with connect(f"{base}/api/ws", **options) as socket:
            if first:
                await socket.send(first)
                assert json.loads(await socket.recv())["result"] == {"identity": "ada"}
            await socket.send(ping)
            assert json.loads(await socket.recv())["type"] == "success"
    async with connect(f"{base}/api/ws", subprotocols=["bearer", "wrong"]) as socket:  # type: ignore[list-item]
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4401

    stream = f"{base}/threads/{thread_id}/stream/events"
    async with connect(stream, additional_headers={"x-api-key": key}) as socket:
        await socket.send(json.dumps({"id": 1, "method": "state.get", "params": {}}))
        assert json.loads(await socket.recv())["id"] == 1
    with pytest.raises(InvalidStatus):
        await connect(stream)


async def test_what_is_open_ends_soon_after_its_key_is_revoked(doors: Doors, url: str) -> None:
    key, base = await make_key(doors.services.db, "ada"), url.replace("http", "ws", 1)
    thread_id = (await doors.thread(bearer(key)))["thread_id"]
    paths = ("/api/events", f"/threads/{thread_id}/stream")
    run = f"/threads/{thread_id}/runs/stream"
    body = {"assistant_id": "endless", "input": {}, "on_disconnect": "cancel"}
    ping = json.dumps({"id": 2, "method": "ping", "params": {}})
    async with (
        asyncio.timeout(30),
        connect(f"{base}/api/ws", subprotocols=["bearer", key]) as socket,  # type: ignore[list-item]
        doors.http.stream("GET", paths[0], headers=bearer(key)) as events,
        doors.http.stream("GET", paths[1], headers=bearer(key)) as thread,
        doors.http.stream("POST", run, json=body, headers=bearer(key)) as answer,
    ):
        await asked_again(doors.services)
        await socket.send(ping)
        assert json.loads(await socket.recv())["type"] == "success"
        await keys.revoke(doors.services.db, key.split("_")[1])
        _expire(doors.services)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        # Not as if they were over: who comes again is told why.
        for stream in (events, thread, answer):
            with pytest.raises(httpx.RemoteProtocolError):
                await stream.aread()
    # Whose stream was broken off has not left: what they began goes on.
    [[status]] = await doors.services.db.tuples("SELECT status FROM run", {})
    assert status == "running"
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4401
    assert await doors.status(bearer(key), "GET", paths[0]) == 401


async def test_who_may_make_runs_and_read_nothing_is_told_what_comes_of_those_that_they_make(
    doors: Doors,
) -> None:
    whole = await doors.key("ada")
    narrow = await doors.key("ada", permission=["threads:create_run", "assistants:read"])
    run = f"/threads/{(await doors.thread(whole))['thread_id']}/runs"
    body = {"assistant_id": "endless", "input": {}}
    async with (
        asyncio.timeout(30),
        doors.http.stream("POST", f"{run}/stream", json=body, headers=narrow) as answer,
    ):
        # Each time it is looked, too, whether the run is theirs: at the second, once it was.
        for _ in range(2):
            await asked_again(doors.services)
        run_id = answer.headers["content-location"].rpartition("/")[2]
        assert await doors.status(narrow, "GET", f"{run}/{run_id}/stream") == 403
        assert await doors.status(whole, "POST", f"{run}/{run_id}/cancel") in (200, 202, 204)
        await answer.aread()


async def test_a_webhook_is_told_of_its_users_sessions_and_the_log_of_the_webhook(
    doors: Doors,
) -> None:
    hook = {"url": "https://1.1.1.1/secret-place", "events": ["run.ended"], "enabled": False}
    admin = await doors.key("root", role=["admin"])
    made = (await doors.http.post("/api/webhooks", json=hook, headers=admin)).json()
    rows = await doors.services.db.tuples("SELECT visible FROM webhook", {})
    await doors.http.patch(f"/api/webhooks/{made['id']}", json={"enabled": False}, headers=admin)
    again = await doors.services.db.tuples("SELECT visible FROM webhook", {})
    assert await doors.status(admin, "DELETE", f"/api/webhooks/{made['id']}") == 204
    told, _ = await page(doors.services.db, Filter(owner="root"), limit=10, seen_by=None)

    own = [{"owner": "root"}, *({"members": {"root": role}} for role in ("viewer", "editor"))]
    assert rows == again == [(own,)]
    acts = {entry.act: entry for entry in told}
    assert {"webhook.created", "webhook.deleted"} <= set(acts)
    assert acts["webhook.created"].details == {"events": ["run.ended"]}
    assert acts["webhook.created"].subject == f"webhook:{made['id']}"
    assert "secret-place" not in str(told)


async def test_a_run_knows_who_it_is_for_and_nothing_that_opens(
    doors: Doors, database_url: str
) -> None:
    key = await make_key(doors.services.db, "ada")
    secret = key.split("_", 2)[2]
    answer = await doors.http.post(
        "/runs/wait",
        json={"assistant_id": "who", "input": {}, "on_completion": "keep"},
        headers=bearer(key),
    )
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        tables = await connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in await tables.fetchall():
            rows = await (
                await connection.execute(f'SELECT t::text FROM "{table}" AS t')
            ).fetchall()
            assert not [row for (row,) in rows if secret in row or secret[:20] in row], table

    assert "ada" in answer.text
    assert key.split("_")[1] not in answer.text


async def test_the_description_says_how_to_say_who_one_is(doors: Doors) -> None:
    schema = (await doors.http.get("/openapi.json")).json()
    assert schema["security"] == [{"bearer": []}, {"api_key": []}]
    assert set(schema["components"]["securitySchemes"]) == {"bearer", "api_key"}


def test_ipv4_is_told_apart_where_a_proxy_writes_it_as_ipv6() -> None:
    def of(host: str) -> str:
        return address_of(HTTPConnection({"type": "http", "client": (host, 1)}))

    assert of("::ffff:192.0.2.1") == of("192.0.2.1") == "192.0.2.1"
    assert of("::ffff:192.0.2.1") != of("::ffff:192.0.2.2")
    assert of("2001:db8::1") == of("2001:db8::2") == "2001:db8::/64"
    assert of("a.sock") == "elsewhere"


@pytest.mark.parametrize("redis", [True, False])
async def test_an_address_that_fails_too_often_waits_and_disturbs_nobody_who_is_known(
    settings: Settings, servers: Servers, database_url: str, redis: bool
) -> None:
    settings = settings.model_copy(update={"auth_failures_per_minute": 3})
    redis_url = servers.redis_url if redis else ""
    async with Redis.from_url(servers.redis_url) as shared:
        # What other tests did is counted, too: it is one address.
        await shared.delete("threadwell:cache:auth-failures:127.0.0.1")
    async with (
        open_services(settings, database_url=database_url, redis_url=redis_url) as services,
        serving(create_app(services)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        known, fresh = [bearer(await make_key(services.db, "ada")) for _ in range(2)]

        async def ask(who: dict[str, str]) -> httpx.Response:
            return await http.post("/threads/search", json={}, headers=who)

        assert (await ask(known)).status_code == 200
        # Nothing is no attempt.
        assert [(await ask({})).status_code for _ in range(5)] == [401] * 5
        tried = [(await ask(bearer(f"wrong{n}"))).status_code for n in range(3)]
        late, new, old = await ask(bearer("wrong")), await ask(fresh), await ask(known)
        # Nor is it one more attempt of the address when it is looked up again, long after.
        _expire(services)
        later = await ask(known)
        await keys.revoke(services.db, known["authorization"].split("_")[1])
        _expire(services)
        revoked = [(await ask(known)).status_code for _ in range(2)]
        told, _ = await page(services.db, Filter(), limit=10, seen_by=None)

    assert tried == [401] * 3
    assert (late.status_code, late.json()["code"]) == (429, "too_many_attempts")
    assert 0 < int(late.headers["retry-after"]) <= 61
    assert new.status_code == 429
    assert old.status_code == later.status_code == 200
    assert revoked == [401, 429]
    acts = [entry.act for entry in told if entry.act != "key.revoked"]
    assert acts == ["login.locked", "login.refused", "key.created", "key.created"]
    assert "wrong" not in str(told)


def _expire(services: Services) -> None:
    """Have what is known for a short time looked up again."""
    known = _known(services)
    known.update({digest: (0.0, user) for digest, (_, user) in known.items()})


def _known(services: Services) -> dict[bytes, tuple[float, Any]]:
    assert isinstance(services.authority, Owners)
    return services.authority._known._users


async def asked_again(services: Services) -> None:
    """Return when what is open has been asked anew whose it is, and was let go on."""
    _expire(services)

    async def known_anew() -> bool:
        return any(until > 0 for until, _ in _known(services).values())

    await until(known_anew)


async def test_without_a_key_or_an_issuer_everybody_is_let_in_and_with_one_nobody_else(
    settings: Settings, servers: Servers, database_url: str
) -> None:
    plain = Settings(config=settings.config)
    urls = {"database_url": database_url, "redis_url": servers.redis_url}
    async with open_services(plain, **urls) as services:
        assert services.authority is None
        await keys.revoke(services.db, (await make_key(services.db, "ada")).split("_")[1])
    async with open_services(plain, **urls) as services:
        assert isinstance(services.authority, Owners)
    off = plain.model_copy(update={"auth": ("none",)})
    async with open_services(off, **urls) as services:
        assert services.authority is None


async def test_an_auth_of_ones_own_wins(
    settings: Settings, servers: Servers, database_url: str
) -> None:
    config = json.loads(settings.config.read_text())
    settings.config.write_text(json.dumps({**config, "auth": {"path": "tests.api.auths:owners"}}))
    async with (
        open_services(settings, database_url=database_url, redis_url=servers.redis_url) as services,
        serving(create_app(services)) as url,
        get_client(url=url, headers=bearer("somebody")) as client,
    ):
        thread = await _made(client)
    assert thread["metadata"]["owner"] == "somebody"


async def _made(client: LangGraphClient) -> Any:
    return await client.threads.create()
