"""Pages in a browser that are not this server's own: by the name of their host, and by their origin."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.requests import HTTPConnection
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from api.app import create_app
from api.bootstrap import Services
from api.browsers import KnownHosts, KnownOrigins
from api.errors import RefusedError
from api.http.origins import is_default_origin
from api.identity.authority import AuthHandlers
from api.settings import Settings
from tests.api import auths
from tests.serving import serving

EVIL = "https://evil.example"
TEXT = {"content-type": "text/plain;charset=UTF-8"}
ADA = {"authorization": "Bearer ada"}
DEADLINE_SECONDS = 60.0

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve(services: Services) -> Serve:
    """Serves the same services with other settings."""

    @asynccontextmanager
    async def served(**update: Any) -> AsyncIterator[httpx.AsyncClient]:
        changed = replace(services, settings=services.settings.model_copy(update=update))
        async with (
            serving(create_app(changed)) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as http,
        ):
            yield http

    return served


async def _answer(http: httpx.AsyncClient, *headers: str, version: str = "1.1") -> tuple[int, Any]:
    """The answer to a request of which only the head is sent: its body never comes."""
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    lines = ["POST /threads HTTP/" + version, *headers, "content-length: 5", "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"}")
        return int(head.split(b" ")[1]), json.loads(body)
    finally:
        writer.close()


async def _status(http: httpx.AsyncClient, host: str) -> int:
    return (await http.post("/threads", json={}, headers={"host": host})).status_code


async def test_a_name_that_was_led_to_this_machine_reaches_nothing(
    serve: Serve, services: Services
) -> None:
    """DNS rebinding: the browser takes the page and the server for one origin, and asks by its name."""
    async with serve() as http:
        for host in (
            "host: evil.example", "Host: evil.example:2024", "host: localhost.evil.example",
            "host: evil-localhost", "host: 127.0.0.1.evil.example", "host: 2130706433", "host: 0x7f.1", "host: localhost.",
            "host: user@localhost", "host: localhost:x", "host: localhost, evil.example",
            "host: localhost/x", "host: ::1", "host: \xe9", "host:",
        ):  # fmt: skip
            status, told = await _answer(http, host)
            assert (status, told["code"]) == (421, "misdirected_request"), host
            assert told.keys() == {"detail", "code"}
        # Two of them: which one a browser or a proxy means nobody knows.
        for headers in (["host: localhost", "host: evil.example"], ["host: localhost"] * 2):
            assert (await _answer(http, *headers))[0] in (400, 421), headers
        # As a page of it would: of one origin, by any method, and also what is open to everybody.
        own = {"host": "evil.example:2024", "origin": "http://evil.example:2024"}
        for method, path in (("GET", "/ok"), ("GET", "/threads/x"), ("POST", "/threads/search")):
            assert (await http.request(method, path, headers=own)).status_code == 421, path
        assert (await http.get("/ok", headers={"host": "evil.example"})).json()["code"]

        assert await _count(http) == 0
        for host in (
            "localhost", "LocalHost:9", "a.b.localhost:80", "127.0.0.1", "127.9.8.7:1", "[::1]:2024",
            "host.docker.internal:2024",
            # Whoever leads a name elsewhere needs a name. Probes call by the address of a pod.
            "192.168.0.7:2024", "128.0.0.1", "[::2]",
        ):  # fmt: skip
            assert await _status(http, host) == 200, host
        # As health checkers of HTTP/1.0 do; browsers always send one.
        assert (await _answer(http, "x: y", version="1.0"))[0] != 421


async def _count(http: httpx.AsyncClient) -> int:
    return int((await http.post("/threads/count", json={})).text)


async def test_a_socket_is_not_opened_by_a_name_that_was_led_here(serve: Serve) -> None:
    async with serve() as http:
        port = http.base_url.port
        for path in ("/api/ws", f"/threads/{uuid4()}/stream/events"):
            url = f"ws://evil.example:{port}{path}"
            with pytest.raises(InvalidStatus) as refused:
                async with connect(
                    url, host="127.0.0.1", origin=Origin(f"http://evil.example:{port}")
                ):
                    pass

            assert refused.value.response.status_code == 421
            assert json.loads(refused.value.response.body or b"")["code"] == "misdirected_request"
        async with connect(f"ws://localhost:{port}/api/ws", host="127.0.0.1") as socket:
            await socket.send('{"id": 1, "method": "ping"}')
            assert json.loads(await socket.recv())["id"] == 1


async def test_a_server_has_the_names_that_a_setting_gives_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_ALLOWED_HOSTS", "Chat.example.com, *.tunnel.example")
    names = Settings().http_allowed_hosts
    # Also where it listens on more than loopback.
    for host in ("127.0.0.1", "0.0.0.0"):
        async with serve(http_allowed_hosts=names, host=host) as http:
            for name in ("chat.example.com", "CHAT.example.com:443", "a.b.tunnel.example"):
                assert await _status(http, name) == 200, name
            assert await _status(http, "192.0.2.7:80") == await _status(http, "localhost") == 200
            assert (await _answer(http, "x: y", version="1.0"))[0] != 421
            for name in ("example.com", "tunnel.example", "atunnel.example", "x.chat.example.com"):
                assert await _status(http, name) == 421, name
    async with serve(http_allowed_hosts=("*",)) as http:
        assert await _status(http, "evil.example") == 200
    for wrong in ("https://a.example", "a.example:80", "*.", "a/b", "[::1]"):
        monkeypatch.setenv("HTTP_ALLOWED_HOSTS", wrong)
        with pytest.raises(ValueError, match="HTTP_ALLOWED_HOSTS"):
            Settings()


async def test_who_listens_elsewhere_or_comes_over_no_network_may_have_any_name(
    serve: Serve, services: Services
) -> None:
    async with serve(host="0.0.0.0") as http:
        assert await _status(http, "evil.example") == 200
        foreign = await http.post("/threads", json={}, headers={"origin": EVIL})
        assert foreign.status_code == 200
    transport = httpx.ASGITransport(create_app(services))
    async with httpx.AsyncClient(base_url="http://testserver", transport=transport) as client:
        assert (await client.get("/ok")).status_code == 200


async def test_a_page_of_another_origin_starts_and_reads_nothing(serve: Serve) -> None:
    """What browsers send without a leave, and what `*` of CORS gives leave for."""
    run = json.dumps({"assistant_id": "chat", "input": {"messages": []}, "if_not_exists": "create"})
    async with serve() as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        for origin in (
            EVIL, "null", "http://evil.example:2024", "https://smith.langchain.com.evil.example",
            "https://evilsmith.langchain.com", "https://evil.vercel.app", "http://smith.langchain.com", "chrome-extension://a",
            "http://localhost.evil.example", "http://[", "http://localhost@evil.example", "",
        ):  # fmt: skip
            told = {"origin": origin, **TEXT}
            for path in (
                f"/threads/{thread}/runs",
                "/runs",
                f"/threads/{uuid4()}/runs",
                "/threads",
            ):
                refused = await http.post(path, content=run, headers=told)
                assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
                # The page may read why.
                assert refused.headers["access-control-allow-origin"] == "*"
            form = {"origin": origin, "content-type": "application/x-www-form-urlencoded"}
            assert (await http.post("/runs", content=run, headers=form)).status_code == 403
            for path in (f"/threads/{thread}", "/api/sessions", "/metrics", "/runs/crons/count"):
                assert (await http.get(path, headers=told)).status_code == 403, (origin, path)
        assert (await http.get(f"/threads/{thread}/runs")).json() == []
        assert await _count(http) == 1

        # What CORS says is as before, and so is what everybody may see.
        leave = {"origin": EVIL, "access-control-request-method": "POST"}
        preflight = await http.options("/runs", headers=leave)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (
            200,
            "*",
        )
        for path in ("/ok", "/info", "/openapi.json"):
            assert (await http.get(path, headers={"origin": EVIL})).status_code == 200, path
            # An application of the user's may have a route for it that does something.
            assert (await http.post(path, headers={"origin": EVIL})).status_code == 403, path
        own = str(http.base_url).rstrip("/")
        for origin in (
            own,
            "http://localhost:3000",
            "https://smith.langchain.com",
            "https://agentchat.vercel.app",
            "https://dev.agentinbox.ai",
        ):
            told = {"origin": origin, **TEXT}
            assert (await http.post("/runs", content=run, headers=told)).status_code == 200, origin

        url = own.replace("http", "ws", 1)
        for path in ("/api/ws", f"/threads/{thread}/stream/events"):
            async with connect(url + path, origin=Origin(EVIL)) as socket:
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4403


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("http://localhost", True), ("http://LOCALHOST:80", True), ("http://a.localhost:5173", True),
        ("http://127.0.0.1:3000", True), ("http://[::1]:3000", True), ("https://localhost", True),
        ("https://eu.smith.langchain.com", True), ("https://smith.langchain.com:8443", True),
        ("ftp://localhost", False), ("localhost", False), ("https://langchain.com", False),
        ("http://192.168.0.7", False), ("http://localhost:x", False), ("http://", False),
    ],
)  # fmt: skip
def test_pages_of_this_machine_and_studio_may_call(origin: str, may: bool) -> None:
    assert is_default_origin(origin) is may


async def test_a_page_of_a_server_behind_a_proxy_may_call_it(serve: Serve) -> None:
    """Its proxy may pass on the name without the port that the origin has."""
    async with serve(http_allowed_hosts=("chat.example.com", "*.tunnel.example", "*")) as http:
        for origin, status in (
            ("https://chat.example.com:8443", 200), ("http://a.tunnel.example", 200),
            ("https://a.chat.example.com", 403), (EVIL, 403), ("ftp://a.tunnel.example", 403),
        ):  # fmt: skip
            told = {"origin": origin, "host": "chat.example.com", **TEXT}
            answer = await http.post("/threads", content="{}", headers=told)
            assert answer.status_code == status, origin
    async with serve(
        http_allowed_hosts=("chat.example.com",), cors_allow_origins=("https://good.example",)
    ) as http:
        told = {"origin": "https://chat.example.com:8443", "host": "chat.example.com", **TEXT}
        assert (await http.post("/threads", content="{}", headers=told)).status_code == 403


async def test_what_is_no_request_passes() -> None:
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        return {}

    hosts = KnownHosts(app, names=("a.example",), only_loopback=False)
    for guard in (hosts, KnownOrigins(app, origins=None)):
        await guard({"type": "lifespan"}, nothing, nothing)
    assert passed == ["lifespan", "lifespan"]


async def test_origins_that_somebody_names_are_those_that_may_call(serve: Serve) -> None:
    async def statuses(http: httpx.AsyncClient, *origins: str) -> list[int]:
        return [
            (await http.post("/threads", content="{}", headers={"origin": one, **TEXT})).status_code
            for one in origins
        ]

    good, here = "https://good.example", "http://localhost:3000"
    # Also where it listens on more than loopback: CORS alone would not keep a page from sending.
    for host in ("127.0.0.1", "0.0.0.0"):
        async with serve(cors_allow_origins=(good,), host=host) as http:
            assert await statuses(http, good, EVIL, here) == [200, 403, 403]
    async with serve(cors_allow_origins=("*",)) as http:
        assert await statuses(http, good, EVIL, "null") == [200, 200, 200]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "langgraph.json"


class TestWithAuthentication:
    """A page has no key: who it is counts, and not where it comes from."""

    @pytest.fixture
    def auth(self) -> dict[str, Any]:
        return {"path": "tests.api.auths:owners"}

    @pytest.fixture
    def settings(self, config: Path, auth: dict[str, Any]) -> Settings:
        graphs = {"chat": "tests.graph.sample_graphs:chat"}
        config.write_text(json.dumps({"graphs": graphs, "auth": auth}))
        return Settings(config=config)

    async def test_neither_name_nor_origin_is_asked_for(self, serve: Serve) -> None:
        told = {**ADA, "origin": EVIL, "host": "chat.example.com"}
        async with serve() as http:
            assert (await http.post("/threads", json={}, headers=told)).status_code == 200
            assert (
                await http.post("/threads", json={}, headers={"origin": EVIL})
            ).status_code == 401
        async with serve(http_allowed_hosts=("a.example",)) as http:
            assert (await http.post("/threads", json={}, headers=told)).status_code == 421


class TestWithStudiosUser(TestWithAuthentication):
    """Whoever says so on this machine is that user: so may a page that reaches the server."""

    @pytest.fixture
    def auth(self) -> dict[str, Any]:
        return {"path": "tests.api.auths:owners", "disable_studio_auth": False}

    async def test_neither_name_nor_origin_is_asked_for(self, serve: Serve) -> None:
        studio = {"x-auth-scheme": "langsmith"}
        async with serve() as http:
            for more, status in (
                ({"origin": EVIL}, 403), ({"host": "evil.example"}, 421), ({}, 200),
                ({"origin": "https://smith.langchain.com"}, 200),
            ):  # fmt: skip
                answer = await http.post("/threads", json={}, headers={**studio, **more})
                assert answer.status_code == status, more
        # Also where it listens on more than loopback, and asks everybody else who they are.
        async with serve(host="0.0.0.0") as http:
            for more, status in (
                ({"origin": EVIL}, 401), ({"host": "evil.example"}, 401), ({}, 200),
                ({"origin": "null"}, 401), ({"host": "192.0.2.7"}, 401),
                ({"origin": "https://smith.langchain.com"}, 200),
                ({"origin": EVIL, **ADA}, 200), ({"host": "chat.example.com", **ADA}, 200),
            ):  # fmt: skip
                answer = await http.post("/threads", json={}, headers={**studio, **more})
                assert answer.status_code == status, more

    async def test_a_studio_of_an_origin_that_somebody_allowed_is_studio(self) -> None:
        """Others do not come so far."""
        headers = [
            (b"x-auth-scheme", b"langsmith"),
            (b"host", b"localhost"),
            (b"origin", b"https://own.example"),
        ]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": headers,
            "client": ("127.0.0.1", 1),
        }
        for are_origins_set in (True, False):
            authority = AuthHandlers(auths.owners, are_origins_set=are_origins_set)
            asked = authority.authenticate(HTTPConnection(scope), path_params=dict)
            if are_origins_set:
                assert (await asked).identity == "langgraph-studio-user"
            else:
                with pytest.raises(RefusedError):
                    await asked
