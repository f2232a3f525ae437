"""Custom authentication: who is let in, what their handlers decide, and what a run knows of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from langgraph_sdk import Auth
from langgraph_sdk.auth import is_studio_user

from api.app import create_app
from api.bootstrap import Services, open_services
from api.identity import authority
from api.identity.auth import Authentication, is_open
from api.processes.embedded import Servers
from api.settings import Settings
from graph.requests import system_assistant_id
from store.access import Access
from store.errors import InvalidInputError, PermissionDeniedError
from tests.api import auths
from tests.api.test_threads import UNKNOWN
from tests.graph.engines import until

Ask = Callable[..., Awaitable[httpx.Response]]
OPENAPI = {
    "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
    "security": [{"bearer": []}],
    "paths": {"/threads/search": {"POST": [{"bearer": ["read"]}]}, "/nothing": {"GET": []}},
}
STUDIO = {"x-auth-scheme": "langsmith"}


def config_of(tmp_path: Path, **auth: Any) -> Path:
    graphs = {"who": "tests.api.auth_graphs:who", "maker": "tests.api.auth_graphs:maker"}
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": graphs, "auth": auth}))
    return config


@pytest.fixture
def auth() -> dict[str, Any]:
    return {"path": "tests.api.auths:auth", "openapi": OPENAPI}


@pytest.fixture
def look_seconds() -> float:
    """How often it is looked whether a stream is still its reader's."""
    return 30.0


@pytest.fixture
def settings(tmp_path: Path, auth: dict[str, Any], look_seconds: float) -> Settings:
    auths.SEEN.clear()
    return Settings(config=config_of(tmp_path, **auth), access_look_seconds=look_seconds)


@pytest.fixture
def ask(http: httpx.AsyncClient) -> Ask:
    """Send a request as somebody."""

    async def send(method: str, path: str, who: str | None = None, **more: Any) -> httpx.Response:
        headers = {**more.pop("headers", {})}
        if who is not None:
            headers["authorization"] = f"Bearer {who}"
        return await http.request(method, path, headers=headers, **more)

    return send


async def test_who_is_not_known_gets_nothing_but_what_is_open(ask: Ask) -> None:
    for path in ("/", "/ok", "/info", "/docs", "/openapi.json"):
        assert (await ask("GET", path)).status_code == 200, path
    for method, path in (
        ("GET", "/threads/x"), ("POST", "/threads"), ("GET", "/nothing"),
        ("GET", "/ok/"), ("POST", "/ui/x"), ("GET", "/mcp"), ("GET", "/.well-known/agent-card.json"),
    ):  # fmt: skip
        refused = await ask(method, path, content=b"{bad")
        assert refused.status_code == 401, path
        assert refused.json() == {"detail": "Who is it?", "code": "unauthenticated"}
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["x-request-id"]
    preflight = await ask(
        "OPTIONS",
        "/threads",
        headers={"origin": "https://x.test", "access-control-request-method": "POST"},
    )
    assert preflight.status_code == 200


async def test_a_failing_authentication_has_its_status_and_tells_no_secret(
    ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {
        "fails:403": (403, {"detail": "Forbidden", "code": "permission_denied"}),
        "fails:418": (418, {"detail": "tea", "code": "i'm_a_teapot"}),
        "fails:200": (500, {"detail": "Internal Server Error", "code": "internal_error"}),
        "fails:value": (400, None),
        "fails:key": (500, {"detail": "Internal Server Error", "code": "internal_error"}),
        "fails:assertion": (500, {"detail": "Internal Server Error", "code": "internal_error"}),
        "none": (401, {"detail": "The authentication told no identity", "code": "unauthenticated"}),
        "number": (401, None),
        "nameless": (401, None),
    }
    for token, (status, body) in answers.items():
        answer = await ask("POST", "/threads/search", token, json={})
        assert answer.status_code == status, token
        assert answer.json() == (body or answer.json())
        assert "S3CRET" not in answer.text
    logged = capsys.readouterr().out
    assert "auth handler failed" in logged
    assert "S3CRET" not in logged


@pytest.mark.parametrize("look_seconds", [0.2])
async def test_who_may_not_read_any_more_loses_the_stream_that_is_open(
    ask: Ask, http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread_id = (await ask("POST", "/threads", "ada", json={})).json()["thread_id"]

    async def reads() -> bool:
        return len([seen for seen in auths.SEEN if seen.get("action") == "read"]) > 2

    async def refuse(*_: Any) -> Access:
        raise PermissionDeniedError("Not today")

    who = {"authorization": "Bearer ada"}
    async with (
        asyncio.timeout(30),
        http.stream("GET", f"/threads/{thread_id}/stream", headers=who) as stream,
    ):
        assert stream.status_code == 200
        await until(reads)  # once by the route
        monkeypatch.setattr(services.authority, "authorize", refuse)
        with pytest.raises(httpx.RemoteProtocolError):
            await stream.aread()


async def test_authenticate_is_told_all_that_there_is_and_the_route_gets_it_too(ask: Ask) -> None:
    made = (await ask("POST", "/threads?a=b", "me", json={"metadata": {"x": "é"}})).json()
    await ask("GET", f"/threads/{made['thread_id']}/runs/{UNKNOWN}", "me", headers={"x-token": "t"})

    first, second = (seen for seen in auths.SEEN if "path" in seen)
    assert made["metadata"] == {"x": "é"}
    assert first == {
        "request": "Request", "body": {"metadata": {"x": "é"}}, "user": None, "path": "/threads",
        "method": "POST", "scopes": [], "path_params": {}, "query_params": {"a": "b"},
        "token": None, "authorization": "Bearer me", "type": "http",
    }  # fmt: skip
    assert second["path_params"] == {"thread_id": made["thread_id"], "run_id": UNKNOWN}
    assert (second["token"], second["body"]) == (b"t", None)


async def test_a_stranger_has_no_larger_body_read_and_not_for_ever(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`authenticate` asks for the body: it is read before anybody knows who sent it."""
    monkeypatch.setattr("api.http.held.STALLED_SECONDS", 0.05)
    for size, status in ((64 * 1024 * 1024 + 1, 413), (2_000_000, 408), (5, 408)):
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        writer.write(
            f"POST /threads HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        answer = await reader.readuntil(b"}")
        writer.close()

        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), size


async def test_a_file_is_not_read_for_authenticate(ask: Ask, http: httpx.AsyncClient) -> None:
    """`authenticate` asks for the body; a file is none that it could read, and may be larger than JSON."""
    for kind in ("multipart/form-data; boundary=b", "Application/Octet-Stream", "application/zip"):
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        head = f"POST /api/files HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n"
        # Nothing of it is sent.
        writer.write(f"{head}Content-Length: {64 * 1024 * 1024 + 1}\r\n\r\n".encode())
        answer = await reader.readuntil(b"}")
        writer.close()
        assert answer.startswith(b"HTTP/1.1 401 "), kind
    auths.SEEN.clear()
    kept = await ask("POST", "/api/files", "me", files={"file": ("a.txt", b"hello")})
    assert kept.status_code == 200
    assert [seen["body"] for seen in auths.SEEN if "path" in seen] == [None]
    # Nobody gets JSON past it under another name.
    for path in ("/threads", "/mcp"):
        told = {"content-type": "application/octet-stream"}
        refused = await ask("POST", path, "me", content=b"{}", headers=told)
        assert (refused.status_code, refused.json().get("code")) == (415, "unsupported_type"), path


@pytest.mark.parametrize(
    ("token", "fields", "permissions", "extra"),
    [
        ("me", {"identity": "me", "display_name": "me"}, [], None),
        ("dict", auths.USERS["dict"], ["x"], 1),
        (
            "tuple",
            {"identity": "tuple", "display_name": "tuple", "permissions": ["p"]},
            ["p"],
            None,
        ),
        (
            "thing",
            {"identity": "thing", "display_name": "Thing", "permissions": ["look"]},
            ["look"],
            None,
        ),
        (
            "row",
            {"identity": "row", "display_name": "row", "team": {"name": "T"}},
            [],
            None,
        ),
    ],
)
async def test_nodes_know_the_user_and_a_client_cannot_say_who_it_is(
    ask: Ask, token: str, fields: dict[str, Any], permissions: list[str], extra: Any
) -> None:
    thread_id = (await ask("POST", "/threads", token, json={})).json()["thread_id"]
    spoofed = {
        "user_id": "root", "langgraph_auth_user": {"identity": "root"}, "langgraph_auth_new": 1,
        "langgraph_auth_user_id": "root", "langgraph_auth_permissions": ["all"], "mine": 1,
    }  # fmt: skip
    told = []
    for given in ({"config": {"configurable": spoofed}}, {"context": spoofed}):
        asked = {"assistant_id": "who", "input": {}, **given}
        answer = await ask("POST", f"/threads/{thread_id}/runs/wait", token, json=asked)
        told.append(answer.json()["told"])
    user = {"is_authenticated": True, **fields}
    assert told[0] == told[1]
    assert told[0] == {
        "json": user, "attributes": [user["identity"], user["display_name"], True, permissions],
        "item": user["identity"], "keys": sorted(user), "extra": extra,
        "user_id": user["identity"], "id": user["identity"], "permissions": permissions,
        "others": ["langgraph_auth_permissions", "langgraph_auth_user", "langgraph_auth_user_id"],
        "server_info": user["identity"], "is_studio": False,
    }  # fmt: skip
    runs = (await ask("GET", f"/threads/{thread_id}/runs", token)).json()
    configurable = runs[0]["kwargs"]["config"]["configurable"]
    assert configurable["langgraph_auth_user"] == user
    assert configurable["langgraph_auth_user_id"] == configurable["user_id"] == user["identity"]
    # What makes a graph for its user knows them too, whatever the graph is for.
    asked = {"assistant_id": "maker", "input": {}}
    made = await ask("POST", f"/threads/{thread_id}/runs/wait", token, json=asked)
    assert made.json()["told"] == {"identity": user["identity"]}
    for path in (f"/threads/{thread_id}/state", "/assistants/maker/schemas"):
        assert (await ask("GET", path, token)).status_code == 200
    update = {"values": {"told": 1}, "as_node": "tell_identity"}
    assert (await ask("POST", f"/threads/{thread_id}/state", token, json=update)).status_code == 200


@pytest.mark.parametrize("auth", [{"path": "tests.api.auths:auth", "disable_studio_auth": False}])
async def test_studio_on_this_machine_is_a_user_of_its_own(ask: Ask) -> None:
    asked = {"assistant_id": "who", "input": {}}
    told = (await ask("POST", "/runs/wait", headers=STUDIO, json=asked)).json()["told"]
    assert told["json"] == {
        "identity": "langgraph-studio-user", "display_name": "langgraph-studio-user",
        "is_authenticated": False, "permissions": [], "kind": "StudioUser",
    }  # fmt: skip
    assert told["is_studio"] is True
    seen = auths.SEEN[-1]["ctx"].user
    assert isinstance(seen, Auth.types.StudioUser)
    assert is_studio_user(seen)
    proxied = await ask("POST", "/threads", headers={**STUDIO, "x-forwarded-for": "9.9.9.9"})
    assert proxied.status_code == 401


async def test_the_nearest_handler_decides_and_sees_what_is_to_be_done(ask: Ask) -> None:
    made = (await ask("POST", "/threads", "me", json={"metadata": {"x": 1}})).json()
    thread_id = made["thread_id"]
    asked = {"assistant_id": "who", "input": {}, "metadata": {"m": 1}}
    run = (await ask("POST", f"/threads/{thread_id}/runs", "dict", json=asked)).json()
    await ask("PUT", "/store/items", "me", json={"namespace": ["n"], "key": "k", "value": {}})

    create, create_run, put = (seen for seen in auths.SEEN if "resource" in seen)
    assert create["handler"] == "threads.create"
    assert create["value"]["thread_id"] == UUID(thread_id)
    assert create["value"]["metadata"] == {"x": 1}
    assert (create_run["resource"], create_run["action"]) == ("threads", "create_run")
    assert create_run["ctx"].permissions == ["x"]
    value = create_run["value"]
    assert value["thread_id"] == UUID(thread_id)
    assert value["assistant_id"] == UUID(system_assistant_id("who"))
    assert value["run_id"] == UUID(run["run_id"])
    assert value["metadata"] == {"m": 1}
    assert value["kwargs"]["input"] == {}
    assert (put["resource"], put["action"]) == ("store", "put")
    assert list(put["value"]["namespace"]) == ["n"]


async def test_what_a_handler_returns_or_raises_is_the_answer(
    ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    for result, status, code in (
        ("true", 200, None),
        ("null", 200, None),
        ("false", 403, "permission_denied"),
        ('"text"', 500, "invalid_filter"),
        ('{"a": {"b": 1}}', 500, "invalid_filter"),
    ):
        answer = await ask("POST", "/threads/search", f"filter:{result}", json={})
        assert answer.status_code == status, result
        if code:
            assert answer.json()["code"] == code
    for error, status in (
        ("401", 401), ("403", 403), ("418", 418), ("200", 500), ("value", 400), ("key", 500),
        ("assertion", 403),
    ):  # fmt: skip
        answer = await ask("POST", "/threads/search", f"raises:{error}", json={})
        assert answer.status_code == status, error
        assert "S3CRET" not in answer.text
    assert answer.json()["detail"] == "because"
    assert "S3CRET" not in capsys.readouterr().out
    # A filter that items have nothing to be met by is no leave to see them all.
    item = {"namespace": "n", "key": "k"}
    assert (await ask("GET", "/store/items", 'filter:{"a": 1}', params=item)).status_code == 403
    assert (await ask("GET", "/store/items", "filter:{}", params=item)).status_code == 200


async def test_filters_are_what_somebody_finds(ask: Ask) -> None:
    rows = [{"owner": "a"}, {"owner": "b", "tags": ["x", "y"]}, {"owner": "c", "tags": "x"}]
    ids = [
        (await ask("POST", "/threads", "me", json={"metadata": row})).json()["thread_id"]
        for row in rows
    ]
    found = {
        '{"owner": "a"}': {0},
        '{"owner": {"$eq": "b"}}': {1},
        '{"tags": {"$contains": "x"}}': {1},
        '{"tags": {"$contains": ["y", "x"]}}': {1},
        '{"tags": "x"}': {2},
        '{"$or": [{"owner": "a"}, {"owner": "c"}]}': {0, 2},
        '{"$and": [{"owner": "b"}, {"tags": {"$contains": "y"}}]}': {1},
        '{"owner": null}': set(),
        "{}": {0, 1, 2},
    }
    for told, expected in found.items():
        who = f"filter:{told}"
        answer = (await ask("POST", "/threads/search", who, json={})).json()
        assert {ids.index(thread["thread_id"]) for thread in answer} == expected, told
        assert (await ask("POST", "/threads/count", who, json={})).json() == len(expected)
        for number, thread_id in enumerate(ids):
            status = (await ask("GET", f"/threads/{thread_id}", who)).status_code
            assert status == (200 if number in expected else 404), told


async def test_the_api_says_how_to_authenticate(ask: Ask) -> None:
    for _ in range(2):
        schema = (await ask("GET", "/openapi.json")).json()
        assert schema["components"]["securitySchemes"] == OPENAPI["securitySchemes"]
        assert schema["security"] == OPENAPI["security"]
        assert schema["paths"]["/threads/search"]["post"]["security"] == [{"bearer": ["read"]}]
        assert "/nothing" not in schema["paths"]


@pytest.mark.parametrize(
    "auth",
    [
        {
            "path": "tests.api.auths:auth",
            "cache": {"cache_keys": ["Authorization"], "ttl_seconds": 600, "max_size": 2},
        }
    ],
)
async def test_studio_is_nobody_by_itself_and_users_are_known_for_a_time(ask: Ask) -> None:
    assert (await ask("POST", "/threads/search", headers=STUDIO, json={})).status_code == 401
    auths.SEEN.clear()
    for who in ("a", "b", "a", "a", "c", "c", "a", "fails:403", "fails:403"):
        await ask("POST", "/threads/search", who, json={})
    asked = [seen["authorization"] for seen in auths.SEEN if "path" in seen]
    assert asked == ["Bearer a", "Bearer b", "Bearer c", "Bearer a", *["Bearer fails:403"] * 2]


@pytest.mark.parametrize("auth", [{"path": "tests.api.auths:owners"}])
async def test_what_a_handler_adds_makes_things_their_makers(ask: Ask) -> None:
    """Also a thread that a run makes, and a sync `authenticate` is as good."""
    asked = {"assistant_id": "who", "input": {}, "on_completion": "keep", "metadata": {"m": 1}}
    await ask("POST", "/runs/wait", "ada", json=asked)
    await ask(
        "POST", f"/threads/{UNKNOWN}/runs/wait", "ada", json={**asked, "if_not_exists": "create"}
    )
    taken = await ask(
        "POST", f"/threads/{UNKNOWN}/runs/wait", "bob", json={**asked, "if_not_exists": "create"}
    )
    assert (taken.status_code, taken.json()["code"]) == (404, "not_found")

    for body in ({}, {"metadata": None}):
        made = (await ask("POST", "/threads", "ada", json=body)).json()
        assert made["metadata"] == {"owner": "ada"}
        await ask("DELETE", f"/threads/{made['thread_id']}", "ada")
    mine = (await ask("POST", "/threads/search", "ada", json={})).json()
    assert len(mine) == 2
    for thread in mine:
        assert thread["metadata"]["owner"] == "ada"
        assert thread["metadata"]["m"] == 1
    assert (await ask("POST", "/threads/search", "bob", json={})).json() == []
    graphs = (await ask("POST", "/assistants/search", "bob", json={})).json()
    assert {assistant["graph_id"] for assistant in graphs} == {"who", "maker"}

    item = {"namespace": ["n"], "key": "k"}
    await ask("PUT", "/store/items", "ada", json={**item, "value": {"a": 1}})
    params = {"namespace": "n", "key": "k"}
    kept = (await ask("GET", "/store/items", "ada", params=params)).json()
    assert kept["namespace"] == ["ada", "n"]
    assert (await ask("GET", "/store/items", "bob", params=params)).json() is None


@pytest.mark.parametrize("auth", [{"path": "tests.api.auths:owners"}])
async def test_a_sync_authentication_that_hangs_is_given_up_too(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "HANDLER_SECONDS", 0.05)
    try:
        async with asyncio.timeout(20):
            answer = await ask("POST", "/threads/search", "hang", json={})
    finally:
        auths.HELD.set()
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_who_may_only_read_a_run_does_not_stop_it_by_leaving(ask: Ask) -> None:
    made = (await ask("POST", "/threads", "me", json={})).json()["thread_id"]
    later = {"assistant_id": "who", "input": {}, "after_seconds": 3600}
    run = (await ask("POST", f"/threads/{made}/runs", "me", json=later)).json()["run_id"]
    cancels = {"cancel_on_disconnect": "true"}
    for path in (
        f"/threads/{made}/runs/{run}/join", f"/threads/{made}/runs/{run}/stream",
        f"/runs/{run}/stream",
    ):  # fmt: skip
        async with asyncio.timeout(20):
            refused = await ask("GET", path, "only:read", params=cancels)
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied"), path
    await ask("POST", f"/threads/{made}/runs/{run}/cancel", "me")
    for who, params in (("only:read", {}), ("me", cancels)):
        told = await ask("GET", f"/threads/{made}/runs/{run}/stream", who, params=params)
        assert '"status":"interrupted"' in told.text


async def test_what_a_handler_adds_to_a_search_counts_for_every_list(ask: Ask) -> None:
    kept = (await ask("POST", "/api/sessions", "me", json={})).json()["id"]
    asked = {"assistant_id": "who", "input": {}, "on_completion": "keep"}
    await ask("POST", "/runs/wait", "me", json=asked)
    for who, expected in (("me", [kept]), ('adds:{"owner": "somebody"}', [])):
        listed = (await ask("GET", "/api/sessions", who)).json()["data"]
        assert [session["id"] for session in listed if session["id"] == kept] == expected
        found = (await ask("POST", "/threads/search", who, json={})).json()
        assert (kept in {thread["thread_id"] for thread in found}) is bool(expected)


async def test_an_authentication_that_hangs_is_given_up(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "HANDLER_SECONDS", 0.05)
    answer = await ask("POST", "/threads/search", "hang", json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


@pytest.mark.parametrize(
    "auth",
    [
        {"path": "tests.api.auths:missing"},
        {"path": "tests.api.nowhere:auth"},
        {"path": "./nowhere.py:auth"},
        {"path": "./broken.py:auth"},
        {"path": "./odd.py:auth"},
        {"path": "./depends.py:auth"},
        {"path": "tests.api.auths:nobody"},
        {"path": "tests.api.auths:not_an_auth"},
        {"path": "no colon"},
        {"disable_studio_auth": True},
        {"path": "tests.api.auths:auth", "disable_studio_auth": "yes"},
        {"path": "tests.api.auths:auth", "cache": {"cache_keys": []}},
        {"path": "tests.api.auths:auth", "openapi": {"security": ["key"]}},
        {"path": "tests.api.auths:auth", "openapi": {"security": [{"key": None}]}},
        {"path": "tests.api.auths:auth", "openapi": {"securitySchemes": {"key": "apiKey"}}},
        {"path": "tests.api.auths:auth", "openapi": {"paths": {"/threads": ["POST"]}}},
    ],
    ids=str,
)
async def test_a_server_without_its_authentication_does_not_start(
    settings: Settings, servers: Servers, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('at import')")
    head = "from fastapi import Depends\nfrom langgraph_sdk import Auth\nauth = Auth()\n"
    decorated = f"{head}@auth.authenticate\n"
    (tmp_path / "odd.py").write_text(f"{decorated}async def check(password): ...")
    (tmp_path / "depends.py").write_text(f"{decorated}async def check(x=Depends(int)): ...")
    with pytest.raises(InvalidInputError, match="auth"):
        async with open_services(settings, database_url=database_url, redis_url=servers.redis_url):
            pass


async def test_a_websocket_is_let_in_like_a_request(services: Services) -> None:
    """Refused with the answer that a request gets, if the server can; else closed."""
    inside: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append((scope["state"]["caller"].user.identity, await receive()))

    guarded = Authentication(app, authority=services.authority)

    async def connect(
        token: bytes, *, extensions: dict[str, Any], state: dict[str, Any] | None = None
    ) -> list[Any]:
        sent: list[Any] = []
        scope = {
            "type": "websocket", "path": "/ok", "headers": [(b"authorization", token)],
            "query_string": b"", "extensions": extensions, "app": create_app(services),
            "state": {**(state or {})},
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await guarded(scope, receive, send)
        return sent

    assert await connect(b"Bearer me", extensions={}) == []
    assert inside == [("me", {"type": "websocket.connect"})]
    refused = await connect(b"", extensions={"websocket.http.response": {}})
    assert refused[0]["status"] == 401
    assert b"unauthenticated" in refused[1]["body"]
    closed = await connect(b"", extensions={}, state={"caller": "not one of ours"})
    assert (closed[0]["type"], closed[0]["code"]) == ("websocket.close", 1008)
    assert len(inside) == 1
    assert not is_open({"type": "websocket", "path": "/ok"})


@pytest.mark.parametrize("auth", [{"path": "tests.api.auths:owners"}])
async def test_who_follows_a_thread_hears_nothing_of_anothers_by_its_name(
    ask: Ask, http: httpx.AsyncClient
) -> None:
    thread = {"thread_id": UNKNOWN}
    asked = {"assistant_id": "who", "input": {}, "metadata": {"secret": "of ada"}}
    await ask("POST", "/threads", "eve", json=thread)
    following = http.stream(
        "GET", f"/threads/{UNKNOWN}/stream", headers={"authorization": "Bearer eve"}
    )
    async with following as stream, asyncio.timeout(20):
        await ask("POST", f"/threads/{UNKNOWN}/runs/wait", "eve", json={**asked, "metadata": {}})
        await ask("DELETE", f"/threads/{UNKNOWN}", "eve")
        await ask("POST", "/threads", "ada", json=thread)
        theirs = await ask("POST", f"/threads/{UNKNOWN}/runs", "ada", json=asked)
        heard = (await stream.aread()).decode()
    assert "event: values" in heard
    assert theirs.status_code == 200
    assert theirs.json()["run_id"] not in heard
    assert "of ada" not in heard
