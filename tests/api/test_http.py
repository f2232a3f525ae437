"""What holds for every request: CORS, bodies, errors, ids, limits."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
from structlog.testing import capture_logs

from api.app import create_app
from api.bootstrap import Services
from api.http.bodies import Arguments, JsonRoute
from api.routes import runs
from store.errors import UnavailableError
from tests.api.conftest import BODY_MAX_BYTES

ORIGIN = {"Origin": "https://studio.example"}
WRONG_BODIES = [
    (b"", "Invalid JSON in request body"),
    (b"{bad", "Invalid JSON in request body"),
    (b"NaN", "Invalid JSON in request body"),
    (b'{"metadata": {"a": "\xff"}}', "Invalid JSON in request body"),
    (b'{"metadata": {"a": "\\ud800"}}', "Invalid JSON in request body"),
    (b"[" * 1000 + b"]" * 1000, "The request body is nested deeper than 100 levels"),
    (
        b'{"metadata":' + b'{"a":' * 100 + b"1" + b"}" * 101,
        "The request body is nested deeper than 100 levels",
    ),
    (b'{"metadata": 3}', "metadata: Input should be a valid dictionary"),
    (b'{"thread_id": "abc"}', "Invalid thread ID: must be a UUID"),
]


async def test_it_says_that_it_is_up_and_what_it_is(http: httpx.AsyncClient) -> None:
    for path in ("/", "/ok", "/ok?check_db=1"):
        assert (await http.get(path)).json() == {"ok": True, "services": {}}
    assert (await http.head("/ok")).status_code == 200
    info = (await http.get("/info")).json()

    assert info["flags"]["assistants"] is True
    assert info["threadwell"]
    assert [int(part) for part in info["version"].split(".")] >= [0, 4]


async def test_the_documentation_shows_request_bodies(http: httpx.AsyncClient) -> None:
    spec = (await http.get("/openapi.json")).json()

    create = spec["paths"]["/threads"]["post"]
    assert (await http.get("/docs")).status_code == 200
    assert create["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ThreadCreate"
    }


async def test_a_browser_may_call_from_a_public_page(http: httpx.AsyncClient) -> None:
    preflight = await http.options(
        "/threads",
        headers={
            **ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-api-key",
            "Access-Control-Request-Private-Network": "true",
        },
    )

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-private-network"] == "true"
    assert preflight.headers["access-control-allow-headers"] == "content-type,x-api-key"
    assert preflight.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in preflight.headers


@pytest.mark.parametrize("path", ["/ok", "/nothing"])
async def test_a_browser_may_read_what_the_sdks_need(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path, headers=ORIGIN)

    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-expose-headers"] == (
        "content-location, location, x-pagination-total, x-pagination-next, retry-after,"
        " x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset"
    )


@pytest.mark.parametrize("content_type", ["text/plain;charset=UTF-8", "x/y", None])
async def test_a_body_is_json_whatever_it_says(
    http: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    created = await http.post("/threads", content=b'{"metadata": {"a": 1}}', headers=headers)

    assert created.json()["metadata"] == {"a": 1}


async def test_a_body_that_is_wrong_is_refused_in_words(http: httpx.AsyncClient) -> None:
    answers = [await http.post("/threads", content=content) for content, _ in WRONG_BODIES]

    assert {answer.status_code for answer in answers} == {422}
    assert [answer.json()["detail"] for answer in answers] == [text for _, text in WRONG_BODIES]


def test_what_begins_runs_is_called_without_fastapi_looking_for_its_arguments() -> None:
    begun_by = {
        route.path
        for route in runs.router.routes
        if isinstance(route, JsonRoute) and Arguments.of(route.dependant)
    }
    assert begun_by == {
        "/threads/{thread_id}/runs",
        "/threads/{thread_id}/runs/stream",
        "/threads/{thread_id}/runs/wait",
        "/runs",
        "/runs/stream",
        "/runs/wait",
        "/runs/batch",
    }


async def test_unknown_fields_are_ignored_and_numbers_may_be_huge(http: httpx.AsyncClient) -> None:
    content = b'{"new_field": 1, "metadata": {"n": ' + b"9" * 30 + b', "m": 18446744073709551615}}'

    created = await http.post("/threads", content=content)

    assert created.status_code == 200
    assert created.json()["metadata"] == {"n": 1e30, "m": 2**64 - 1}


async def test_a_body_of_the_limit_passes_and_one_beyond_does_not(http: httpx.AsyncClient) -> None:
    def body(size: int) -> bytes:
        return orjson.dumps({"metadata": {"a": "x" * (size - len('{"metadata":{"a":""}}'))}})

    async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    for size, status in ((BODY_MAX_BYTES, 200), (BODY_MAX_BYTES + 1, 413)):
        announced = await http.post("/threads", content=body(size))
        chunked = await http.post("/threads", content=in_chunks(body(size)))
        assert (announced.status_code, chunked.status_code) == (status, status)
    assert announced.json()["code"] == chunked.json()["code"] == "too_large"


async def test_a_request_id_is_kept_or_given(http: httpx.AsyncClient) -> None:
    kept = await http.get("/ok", headers={"x-request-id": "abc"})
    given = await http.get("/nothing")
    replaced = await http.get("/ok", headers={"x-request-id": "a b" * 100})

    assert kept.headers["x-request-id"] == "abc"
    for answer in (given, replaced):
        assert str(uuid.UUID(answer.headers["x-request-id"])) == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/nothing", 404, {"detail": "Not Found", "code": "not_found"}),
        ("PUT", "/threads", 405, {"detail": "Method Not Allowed", "code": "method_not_allowed"}),
    ],
)
async def test_an_unknown_route_is_answered_like_any_error(
    http: httpx.AsyncClient, method: str, path: str, status: int, body: dict[str, Any]
) -> None:
    answer = await http.request(method, path)

    assert (answer.status_code, answer.json()) == (status, body)


@pytest.mark.parametrize("path", ["/nothing", "/api/sessions/{0}", "/threads/{0}", "/v1/models/x"])
async def test_an_error_is_a_problem_for_who_asks_for_that(
    http: httpx.AsyncClient, path: str
) -> None:
    path = path.format("00000000-0000-7000-8000-000000000000")
    plain = await http.get(path, headers={"Accept": "application/json"})
    accept = {"Accept": "application/json, application/problem+json;q=0.9"}
    asked = await http.get(path, headers=accept)

    assert plain.headers["content-type"] == "application/json"
    if path.startswith("/v1"):
        assert (asked.json(), asked.headers["content-type"]) == (plain.json(), "application/json")
        return
    assert asked.headers["content-type"] == "application/problem+json"
    about = {"type": "about:blank", "title": "Not Found", "status": 404}
    assert asked.json() == {**about, **plain.json()}


class _BrokenStates:
    """Stands for a fault of ours."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def get(self, *_: Any, **__: Any) -> None:
        raise self.error


async def _broken(services: Services, error: Exception) -> httpx.Response:
    broken: Any = _BrokenStates(error)
    transport = httpx.ASGITransport(create_app(replace(services, states=broken)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as http:
        path = "/threads/00000000-0000-7000-8000-000000000000/state"
        return await http.get(path, headers=ORIGIN)


async def test_a_fault_is_logged_and_not_told(services: Services) -> None:
    with capture_logs() as logs:
        answer = await _broken(services, RuntimeError("a secret"))

    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal Server Error", "code": "internal_error"}
    assert answer.headers["access-control-allow-origin"] == "*"
    assert [entry["log_level"] for entry in logs if entry["event"] == "request failed"] == ["error"]


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault(
    services: Services,
) -> None:
    received = iter(
        [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/threads", "headers": headers}
    with capture_logs() as logs:
        await create_app(services)({**scope, "query_string": b""}, receive, send)

    assert sent == []
    assert [entry["log_level"] for entry in logs] == ["debug", "debug"]


async def test_what_may_be_tried_again_says_when(services: Services) -> None:
    answer = await _broken(services, UnavailableError("The database is not available"))

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_requests_at_once_do_not_mix_their_ids(http: httpx.AsyncClient) -> None:
    ids = [uuid.uuid4().hex for _ in range(20)]

    answers = await asyncio.gather(*(http.get("/ok", headers={"x-request-id": i}) for i in ids))

    assert [answer.headers["x-request-id"] for answer in answers] == ids


async def test_a_method_that_a_path_has_not_is_told_those_that_it_has(
    http: httpx.AsyncClient,
) -> None:
    refused = await http.put(f"/threads/{uuid.uuid4()}")
    session = await http.options(f"/api/sessions/{uuid.uuid4()}")

    assert (refused.status_code, session.status_code) == (405, 405)
    assert refused.headers["allow"] == "GET, PATCH, DELETE"
    assert session.headers["allow"] == "GET, PATCH, DELETE"
