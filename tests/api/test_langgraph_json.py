"""What langgraph.json says of HTTP: a custom application, prefix, CORS, switches, headers."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute
from langgraph_sdk import get_client
from structlog.testing import capture_logs

from api import loopback
from api.app import ROUTERS, open_app
from api.bootstrap import open_services
from api.http.bodies import JsonRoute
from api.http.headers import HeaderFilter
from api.middleware import RequestLog
from api.processes.embedded import Servers
from api.settings import Settings
from graph.http_section import HeaderRule
from store.errors import InvalidInputError
from tests.graph.engines import until
from tests.project import site
from tests.serving import serving

GRAPHS = (
    "echo", "call", "call_from_a_thread", "call_by_protocol", "leave", "remote", "hang", "raising",
    "chat", "missing",
)  # fmt: skip
BODY_MAX_BYTES = 10_000

#: Serves a langgraph.json with these keys, and settings; gives the application and its URL.
Serve = Callable[..., AbstractAsyncContextManager[tuple[FastAPI, httpx.AsyncClient]]]


@pytest.fixture
def serve(tmp_path: Path, servers: Servers, database_url: str) -> Serve:
    @asynccontextmanager
    async def start(
        settings: dict[str, Any] | None = None, **keys: Any
    ) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
        path = tmp_path / "langgraph.json"
        graphs = {name: f"tests.project.agents:{name}" for name in GRAPHS}
        path.write_text(json.dumps({"graphs": graphs, **keys}))
        given = Settings(config=path, request_body_max_bytes=BODY_MAX_BYTES, **(settings or {}))
        async with (
            open_services(
                given, database_url=database_url, redis_url=servers.redis_url
            ) as services,
            open_app(services) as app,
            services.worker.working(),
            serving(app) as url,
            httpx.AsyncClient(base_url=url, timeout=60) as http,
        ):
            yield app, http

    return start


@pytest.fixture
async def http(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """With the site as `http.app`."""
    site.history.clear()
    async with serve(http={"app": "tests.project.site:app"}) as (_, http):
        yield http


async def _wait(http: httpx.AsyncClient, graph_id: str, **more: Any) -> Any:
    body = {"assistant_id": graph_id, "input": {"text": "outer"}}
    answer = await http.post("/runs/wait", json=body, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


# The custom application


async def test_a_custom_application_has_its_routes_before_ours_but_for_a_few(
    http: httpx.AsyncClient,
) -> None:
    theirs = [(await http.get(path)).json() for path in ("/info", "/threads")]
    ours = (await http.get("/ok")).json()
    created = await http.post("/threads", json={})
    unknown = await http.get("/nowhere")

    assert theirs == [{"theirs": True}] * 2
    assert ours == {"ok": True, "services": {}}
    assert created.status_code == 200
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert (await http.put("/hello")).status_code == 405


async def test_its_middleware_sees_every_request(http: httpx.AsyncClient) -> None:
    answers = [await http.get(path) for path in ("/hello", "/ok", "/nowhere")]
    stopped = await http.post("/threads", json={}, headers={"x-stop": "1"})

    assert {answer.headers["x-signed"] for answer in answers} == {"by the site"}
    assert (stopped.status_code, stopped.text) == (403, "stopped by the site")
    assert all(answer.headers["x-request-id"] for answer in (*answers, stopped))


async def test_streams_pass_its_middleware_as_they_come_and_so_does_their_client_leaving(
    http: httpx.AsyncClient,
) -> None:
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": "hang", "input": {}, "on_disconnect": "cancel"}
    async with asyncio.timeout(30):
        async with http.stream("POST", f"/threads/{thread}/runs/stream", json=body) as stream:
            first = await anext(stream.aiter_lines())
            run = stream.headers["content-location"]
        joined = await http.get(f"{run}/join")
        ended = (await http.get(run)).json()

    assert first == "event: metadata"
    assert joined.status_code == 200
    assert ended["status"] == "interrupted"


async def test_its_exception_handlers_are_for_its_routes_alone(http: httpx.AsyncClient) -> None:
    thread_id = uuid.uuid4()
    answers = {path: await http.get(path) for path in ("/odd", "/fault", "/refused")}
    ours = await http.get(f"/threads/{thread_id}")
    with capture_logs() as logs:
        failed = await http.get("/fault", headers={"Origin": "https://a.example"})

    assert {path: (a.status_code, a.json()) for path, a in answers.items()} == {
        "/odd": (418, {"theirs": "odd"}),
        "/fault": (500, {"theirs": "LookupError"}),
        "/refused": (409, {"theirs": "no"}),
    }
    assert (ours.status_code, ours.json()["code"]) == (404, "not_found")
    assert failed.headers["access-control-allow-origin"] == "*"
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []


async def test_a_body_that_is_too_large_for_us_is_too_large_for_it(
    http: httpx.AsyncClient,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 1000

    fits = await http.post("/bodies", content=b" " * BODY_MAX_BYTES)
    announced = await http.post("/bodies", content=b" " * (BODY_MAX_BYTES + 1))
    chunked = await http.post("/bodies", content=chunks())

    assert fits.json() == BODY_MAX_BYTES
    assert (announced.status_code, chunked.status_code) == (413, 413)
    assert announced.json() == chunked.json()


async def test_its_lifespan_is_within_ours(serve: Serve) -> None:
    site.history.clear()
    async with serve(http={"app": "tests.project.site:app"}) as (_, http):
        assert site.history == ["started"]
        hello = (await http.get("/hello")).json()
    assert site.history == ["started", "stopped"]
    assert hello == {"opened": "opened", "shared": "shared"}


async def test_its_routes_are_in_the_documentation(http: httpx.AsyncClient) -> None:
    spec = (await http.get("/openapi.json")).json()
    schemas = spec["components"]["schemas"]

    def model(path: str) -> Any:
        body = spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        return schemas[body["$ref"].rsplit("/", 1)[1]]

    assert spec["info"]["title"] == "Site"
    assert {"get", "post"} <= spec["paths"]["/threads"].keys()
    assert list(model("/paint")["properties"]) == ["colour"]
    assert "if_exists" in model("/threads")["properties"]


async def test_its_routes_reach_the_server_without_a_url(http: httpx.AsyncClient) -> None:
    assert (await http.get("/ask")).json()["found"][0]["text"] == "from a route"


async def test_a_starlette_application_will_do(serve: Serve) -> None:
    async with serve(http={"app": "tests.project.site:plain"}) as (_, http):
        assert (await http.get("/plain")).json() == "plain"
        assert "/threads" in (await http.get("/openapi.json")).json()["paths"]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"app": "tests.project.nothing:app"}, "ModuleNotFoundError"),
        ({"app": "tests.project.site:missing"}, "no variable 'missing'"),
        ({"app": "tests.project.site:history"}, "no Starlette or FastAPI"),
        ({"app": "tests.project.site:late"}, "use `lifespan` instead"),
        ({"app": "tests.project.site:failing"}, r"its lifespan failed: OSError: no disk"),
    ],
)
async def test_an_application_that_cannot_be_served_stops_the_start(
    serve: Serve, keys: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        async with serve(http=keys):
            pass


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
@pytest.mark.parametrize("covered", [False, True])
async def test_who_calls_is_asked_before_or_after_its_middleware_and_for_its_routes_or_not(
    serve: Serve, order: str, covered: bool
) -> None:
    http_keys = {
        "app": "tests.project.site:app",
        "middleware_order": order,
        "enable_custom_route_auth": covered,
    }
    auth = {"path": "tests.project.auth:auth", "disable_studio_auth": True}
    name, stop = {"x-name": "ada"}, {"x-stop": "1"}
    async with serve(http=http_keys, auth=auth) as (_, http):
        known = [(await http.get(p, headers=name)).status_code for p in ("/hello", "/ask")]
        ours = [
            (await http.post("/threads", json={}, headers=headers)).status_code
            for headers in (name, {}, stop, {**name, **stop})
        ]
        theirs = [(await http.get(p)).status_code for p in ("/hello", "/ask", "/info", "/ok")]
        stopped = (await http.get("/hello", headers=stop)).status_code

    auth_first = order == "auth_first"
    assert known == [200, 200]
    assert ours == [200, 401, 401 if auth_first else 403, 403]
    # A graph that a route calls for nobody is called by the server itself.
    assert theirs == ([401, 401, 401, 200] if covered else [200, 200, 200, 200])
    assert stopped == (401 if covered and auth_first else 403)


async def test_a_webhook_may_be_a_path_of_this_server_which_asks_it_who_it_is(
    serve: Serve,
) -> None:
    site.history.clear()
    keys = {
        "http": {"app": "tests.project.site:app", "mount_prefix": "/my"},
        "auth": {"path": "tests.project.auth:auth", "disable_studio_auth": True},
        "webhooks": {"url": {"disable_loopback": False}, "headers": {"x-hook": "1"}},
    }
    name = {"x-name": "ada"}
    async with serve(**keys) as (app, http):
        db = app.state.services.db
        body = {"assistant_id": "echo", "input": {"text": "x"}}
        for webhook in ("/hooks?a=1", "/threads"):
            answer = await http.post(
                "/my/runs/wait", json={**body, "webhook": webhook}, headers=name
            )
            assert answer.status_code == 200
        bad = await http.post("/my/runs/wait", json={**body, "webhook": "hooks"}, headers=name)

        async def is_tried() -> bool:
            left = await db.tuples("SELECT payload ->> 'url', attempt > 0 FROM job", {})
            return left == [("/threads", True)] and any("a=1" in line for line in site.history)

        await until(is_tried)
        threads = await http.post("/my/threads/search", json={}, headers=name)

    assert [line.split()[1:] for line in site.history if "a=1" in line] == [["a=1", "1"]]
    # It knew nobody's name, so the server did nothing for it.
    assert threads.json() == []
    assert bad.status_code == 422


# Prefix


async def test_a_prefix_is_before_everything_but_what_probes_ask_for(serve: Serve) -> None:
    keys = {"mount_prefix": "/my/api/", "app": "tests.project.site:app"}
    async with serve(http=keys) as (_, http):
        outside = [(await http.get(path)).status_code for path in ("/ok", "/metrics", "/docs")]
        refused = [
            await http.get("/hello"),
            await http.post("/threads", json={}, headers={"Origin": "https://a.example"}),
            await http.get("/my/apis/hello"),
        ]
        inside = [
            (await http.get(f"/my/api{path}")).status_code
            for path in ("", "/", "/ok", "/hello", "/openapi.json")
        ]
        docs = (await http.get("/my/api/docs")).text
        slash = await http.post("/my/api/mcp/?a=1")
        async with get_client(url=f"{http.base_url}/my/api") as client:
            thread = await client.threads.create()
            run = await client.runs.create(thread["thread_id"], "call", input={})
            joined = await client.runs.join(thread["thread_id"], run["run_id"])
            outputs = []
            for transport in ("sse", "websocket"):
                async with client.threads.stream(
                    assistant_id="echo", transport=transport
                ) as events:
                    await events.run.start(input={"text": transport})
                    outputs.append((await events.output)["found"][0]["text"])
        answer = await http.post("/my/api/runs/wait", json={"assistant_id": "echo", "input": {}})

    assert outside == [200, 200, 200]
    assert [answer.status_code for answer in refused] == [404, 404, 404]
    assert refused[1].headers["access-control-allow-origin"] == "*"
    assert inside == [200, 200, 200, 200, 200]
    assert "url: '/my/api/openapi.json'" in docs
    assert (slash.status_code, slash.headers["location"]) == (307, "/my/api/mcp?a=1")
    assert outputs == ["sse", "websocket"]
    # A node needs no prefix.
    assert joined["found"][1]["found"][0]["text"] == "inner"
    # Both SDKs append what they are given to the URL that they have.
    assert answer.headers["content-location"].startswith("/threads/")


async def test_the_environment_has_the_last_word(serve: Serve) -> None:
    settings = {"mount_prefix": "", "cors_allow_origins": ("https://b.example",)}
    keys = {"mount_prefix": "/api", "cors": {"allow_origins": ["https://a.example"]}}
    async with serve(settings, http=keys) as (_, http):
        answers = {
            name: await http.post(
                "/threads", json={}, headers={"Origin": f"https://{name}.example"}
            )
            for name in "ab"
        }

    assert {name: answer.status_code for name, answer in answers.items()} == {"a": 403, "b": 200}
    assert "access-control-allow-origin" not in answers["a"].headers
    assert answers["b"].headers["access-control-allow-origin"] == "https://b.example"


# CORS


async def test_every_key_of_cors_counts(serve: Serve) -> None:
    cors = {
        "allow_origins": ["https://a.example"],
        "allow_origin_regex": r"https://\w+\.b\.example",
        "allow_methods": ["GET"],
        "allow_headers": ["x-mine"],
        "allow_credentials": False,
        "expose_headers": ["x-theirs"],
        "max_age": 33,
    }

    async with serve(http={"cors": cors}) as (_, http):

        async def preflight(origin: str, method: str = "GET") -> httpx.Response:
            headers = {"Origin": origin, "Access-Control-Request-Method": method}
            headers["Access-Control-Request-Private-Network"] = "true"
            return await http.options("/threads", headers=headers)

        listed, matched = (
            await preflight("https://a.example"),
            await preflight("https://x.b.example"),
        )
        refused = [
            await preflight("https://c.example"),
            await preflight("https://a.example", "POST"),
        ]
        read = await http.get("/ok", headers={"Origin": "https://a.example"})

    assert (listed.status_code, matched.status_code) == (200, 200)
    assert matched.headers["access-control-allow-origin"] == "https://x.b.example"
    assert listed.headers["access-control-allow-methods"] == "GET"
    assert "x-mine" in listed.headers["access-control-allow-headers"]
    assert listed.headers["access-control-max-age"] == "33"
    assert listed.headers["access-control-allow-private-network"] == "true"
    assert [answer.status_code for answer in refused] == [400, 400]
    exposed = read.headers["access-control-expose-headers"].split(", ")
    assert {"x-theirs", "content-location", "location"} <= set(exposed)
    assert "access-control-allow-credentials" not in read.headers


# Switches

SWITCHED = {
    "assistants": ("POST", "/assistants/search"),
    "threads": ("POST", "/threads/search"),
    "runs": ("POST", "/runs/wait"),
    "store": ("POST", "/store/items/search"),
    "meta": ("GET", "/info"),
    "mcp": ("POST", "/mcp"),
    "a2a": ("GET", "/.well-known/agent-card.json"),
    "ui": ("POST", "/ui/echo"),
    "event_streaming": ("POST", f"/threads/{uuid.UUID(int=0)}/commands"),
}


async def test_what_is_switched_off_is_not_there(serve: Serve) -> None:
    off = {f"disable_{name}": True for name in SWITCHED}
    async with serve(http=off) as (_, http):
        answers = [await http.request(method, path, json={}) for method, path in SWITCHED.values()]
        sessions = await http.get("/api/sessions")
        gone = [
            (await http.get(path)).status_code for path in ("/docs", "/openapi.json", "/metrics")
        ]
        up = await http.get("/ok?check_db=1")

    assert [answer.status_code for answer in answers] == [404] * len(SWITCHED)
    assert sessions.status_code == 404
    assert gone == [404, 404, 404]
    assert up.json() == {"ok": True, "services": {}}


async def test_a_switch_takes_nothing_else_with_it(serve: Serve) -> None:
    async with serve(http={"disable_threads": True, "disable_mcp": True}) as (_, http):
        spec = (await http.get("/openapi.json")).json()["paths"]
        run = await http.post(f"/threads/{uuid.uuid4()}/runs", json={"assistant_id": "echo"})
        await _wait(http, "echo")

    assert "/threads/search" not in spec
    assert "/threads/{thread_id}/runs" in spec
    assert run.json()["detail"] == "Thread or assistant not found."


# Headers


RULE = {"includes": ["X-*", "sec-*", "authorization", "__*", "cookie"], "excludes": ["x-not-*"]}
HEADERS = {
    "X-Tenant": "one", "x-not-this": "2", "authorization": "Bearer secret", "cookie": "a=secret",
    "x-api-key": "secret", "X-Request-Id": "rid", "__pregel_task_id": "3", "baggage": "b=1",
    "langsmith-trace": "t", "user-agent": "test", "accept": "4", "x-share-password": "secret",
    "sec-websocket-protocol": "bearer, secret",
}  # fmt: skip


async def test_headers_are_copied_to_the_configurable(serve: Serve) -> None:
    config = {"configurable": {"x-tenant": "spoofed", "mine": "kept"}}
    async with serve(http={"configurable_headers": RULE}) as (_, http):
        body = {"assistant_id": "echo", "input": {}, "config": config}
        answer = await http.post("/runs/wait", json=body, headers=HEADERS)
    [seen] = [found["headers"] for found in answer.json()["found"]]

    names = {*(name.lower() for name in HEADERS), "mine"}
    assert {name: seen[name] for name in names & seen.keys()} == {
        "x-tenant": "one",
        "x-request-id": "rid",
        "baggage": "b=1",
        "langsmith-trace": "t",
        "mine": "kept",
    }
    assert "secret" not in answer.text


async def test_headers_are_part_of_every_line_logged_for_a_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        logged.update(structlog.contextvars.get_contextvars())

    logged: dict[str, Any] = {}
    raw = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": raw}
    unused: Any = None
    rule = HeaderRule.model_validate(RULE)
    await RequestLog(app, headers=HeaderFilter(rule))(scope, unused, unused)

    assert logged == {"request_id": "rid", "headers": {"x-tenant": "one", "x-request-id": "rid"}}
    logged.clear()
    await RequestLog(app, headers=HeaderFilter(HeaderRule()))(scope, unused, unused)
    assert logged == {"request_id": "rid"}


# Graphs that call their server


async def test_a_node_creates_a_thread_and_runs_graphs_on_it(serve: Serve) -> None:
    async with serve() as (_, http):
        events: list[str] = []
        body = {"assistant_id": "call", "input": {}, "stream_mode": ["values", "messages-tuple"]}
        async with http.stream("POST", "/runs/stream", json=body) as stream:
            lines = [line async for line in stream.aiter_lines()]
        events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        [*_, final] = [json.loads(line[6:]) for line in lines if line.startswith('data: {"found"')]
        thread_id, waited, parts, failed = final["found"]
        thread = (await http.get(f"/threads/{thread_id}")).json()

    assert thread["metadata"]["made_by"] == "a node"
    assert thread["status"] == "idle"
    assert waited["found"][0]["text"] == "inner"
    assert waited["found"][0]["headers"]["thread_id"] == thread_id
    assert parts.count("messages") > 2
    assert failed == {"__error__": {"error": "ValueError", "message": "not today"}}
    # What the inner run says is the inner run's: nothing of it came through the outer one's stream.
    assert "messages" not in events


async def test_a_node_reaches_the_server_from_any_thread_and_by_a_remote_graph(
    serve: Serve,
) -> None:
    async with serve() as (_, http):
        assert (await _wait(http, "call_from_a_thread"))["found"] == [1]
        found = (await _wait(http, "remote"))["found"]
        events = (await _wait(http, "call_by_protocol"))["found"]

    assert events[0]["found"][0]["text"] == "by events"
    assert found[0]["found"][0]["text"] == "through a RemoteGraph"


async def test_a_node_that_stops_reading_a_stream_leaves_nothing_behind(serve: Serve) -> None:
    async with serve() as (_, http):
        assert (await _wait(http, "leave"))["found"] == ["metadata"]
        requests = [task for task in asyncio.all_tasks() if task.get_name() == "loopback request"]
        if requests:
            await asyncio.wait_for(asyncio.gather(*requests), 10)


async def test_an_answer_that_nobody_reads_is_not_made_ahead() -> None:
    made, full = 0, asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal made
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            made += 1
            if made == loopback.MAX_WAITING:
                full.set()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    client = httpx.AsyncClient(transport=loopback.Transport(), base_url="http://api", timeout=30)
    with loopback.serving(app):
        async with client as http, http.stream("GET", "/") as answer:
            await asyncio.wait_for(full.wait(), 10)
            for _ in range(1000):
                await asyncio.sleep(0)
            ahead = made
            body = await answer.aread()

    assert ahead == loopback.MAX_WAITING
    assert body == b"x" * 1000


async def test_an_answer_that_breaks_off_is_an_error_and_so_is_a_server_that_is_gone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise LookupError

    async with httpx.AsyncClient(
        transport=loopback.Transport(), base_url="http://api", timeout=30
    ) as http:
        with loopback.serving(app):
            for path in ("/begun", "/not-begun"):
                with pytest.raises(httpx.RemoteProtocolError):
                    await http.get(path)
        with pytest.raises(httpx.ConnectError):
            await http.get("/")


def test_a_request_from_outside_is_not_taken_for_a_graphs() -> None:
    assert not loopback.is_loopback({"type": "http", "path": "/", "root_path": "/noauth"})


# Graphs that fail


async def test_a_graph_that_fails_is_named_and_the_others_run(serve: Serve) -> None:
    async with serve() as (_, http):
        await _wait(http, "echo")
        missing = await http.post("/runs/wait", json={"assistant_id": "missing", "input": {}})
        assistants = (await http.post("/assistants/search", json={"graph_id": "raising"})).json()
        schemas = await http.get(f"/assistants/{assistants[0]['assistant_id']}/schemas")

    assert (missing.status_code, missing.json()["code"]) == (424, "invalid_graph")
    assert "has no variable 'missing'" in missing.json()["detail"]
    assert schemas.status_code == 424
    assert schemas.json()["detail"].endswith("its factory raised ValueError")


async def test_strict_means_that_everything_named_must_be_there(serve: Serve) -> None:
    with pytest.raises(InvalidInputError) as refused:
        async with serve({"strict": True}, surprise=1, dependencies=["no-such-package"]):
            pass

    complaint = refused.value.message
    assert "graph 'missing': InvalidGraphError" in complaint
    assert "`surprise`" in complaint
    assert "'no-such-package'" in complaint


# Metrics


async def test_metrics_tell_the_queue_the_slots_and_the_connections(serve: Serve) -> None:
    async with serve({"slots": 7}) as (_, http):
        body = {"assistant_id": "echo", "input": {}, "after_seconds": 3600}
        await http.post("/runs", json=body)
        found = (await http.get("/metrics?format=json")).json()
        shown = await http.get("/metrics")
        wrong = await http.get("/metrics?format=xml")

    assert found["queue"]["n_pending"] == 1
    assert found["queue"]["n_running"] == 0
    assert found["queue"]["pending_runs_wait_time_max_secs"] is None
    assert found["workers"] == {"max": 7, "active": 0, "available": 7}
    assert found["postgres"]["max"] == 20
    lines = shown.text.splitlines()
    assert {"lg_api_num_pending_runs 1.0", "lg_api_workers_available 7.0"} <= set(lines)
    assert "process_resident_memory_bytes" in shown.text
    assert shown.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert wrong.status_code == 422


def test_every_route_with_a_body_reads_it_whatever_its_type() -> None:
    plain = [
        f"{route.methods} {route.path}"
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.body_field and not isinstance(route, JsonRoute)
    ]

    assert plain == []
