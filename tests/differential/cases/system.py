"""What holds for every request, and the routes of the server itself."""

from tests.differential.registry import case, single
from tests.differential.talk import Talk

ORIGIN = {"origin": "https://front.example"}
NOBODY = "00000000-0000-4000-8000-000000000000"

single(
    __name__,
    {
        "the root says that it is up": ("GET", "/"),
        "ok says that it is up": ("GET", "/ok"),
        "ok answers a HEAD": ("HEAD", "/ok"),
        "ok looks at the database": ("GET", "/ok?check_db=1"),
        "info names versions and flags": ("GET", "/info"),
        "a path that is not there": ("GET", "/nothing/here"),
        "a method that a route does not have": ("PUT", "/threads"),
        "a body that is a list": ("POST", "/threads", []),
        "a body that is a string": ("POST", "/threads", "text"),
        "a body that is null": ("POST", "/threads", None),
        "fields that nobody knows are ignored": ("POST", "/threads", {"unknown": 1}),
        "a slash at the end of a path": ("POST", "/threads/", {}),
    },
)
single(
    __name__,
    {
        "docs are a page": ("GET", "/docs"),
        "openapi is served": ("GET", "/openapi.json"),
        "metrics are served": ("GET", "/metrics"),
        "metrics are served as JSON": ("GET", "/metrics?format=json"),
        "metrics of an unknown format": ("GET", "/metrics?format=xml"),
    },
    status_only=True,
)
single(__name__, {"a browser sees three headers": ("GET", "/ok")}, headers=ORIGIN)
single(
    __name__,
    {"a preflight": ("OPTIONS", "/threads")},
    headers={
        **ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, x-api-key",
    },
)
single(
    __name__,
    {"a preflight into a private network": ("OPTIONS", "/threads")},
    headers={
        **ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    },
)

TEXT = {"content-type": "text/plain;charset=UTF-8"}


@case
async def a_body_is_json_whatever_its_type_says(talk: Talk) -> None:
    await talk.post("/threads", headers=TEXT, content=b'{"metadata": {"a": 1}}')


@case
async def a_body_without_a_type(talk: Talk) -> None:
    await talk.post("/threads", content=b'{"metadata": {"a": 1}}')


@case
async def a_body_that_is_no_json(talk: Talk) -> None:
    await talk.post("/threads", content=b"{nope", headers={"content-type": "application/json"})


@case
async def a_body_that_is_no_utf8(talk: Talk) -> None:
    await talk.post("/threads", content=b'{"metadata": {"a": "\xff"}}')


@case
async def a_body_that_is_empty_where_one_is_needed(talk: Talk) -> None:
    await talk.post("/threads", content=b"")


@case
async def a_body_that_is_empty_where_none_is_needed(talk: Talk) -> None:
    thread_id = await talk.thread()
    await talk.post(f"/threads/{thread_id}/copy", content=b"", status_only=True)


@case
async def a_nul_in_a_string_is_replaced(talk: Talk) -> None:
    await talk.post("/threads", {"metadata": {"a": "x\0y"}})


@case
async def a_nul_in_a_key_is_replaced(talk: Talk) -> None:
    await talk.post("/threads", {"metadata": {"x\0y": 1}})


@case
async def a_lone_surrogate_in_a_string(talk: Talk) -> None:
    await talk.post("/threads", content=b'{"metadata": {"a": "\\ud800"}}')


@case
async def every_script_comes_back(talk: Talk) -> None:
    await talk.post("/threads", {"metadata": {"a": "你好 🧵 é ﷽ \u2028 \x7f"}})


@case
async def numbers_come_back(talk: Talk) -> None:
    numbers = {"big": 2**53 + 1, "small": -1, "float": 0.1, "whole": 1.0, "zero": 0, "e": 1e300}
    await talk.post("/threads", {"metadata": numbers})


@case
async def a_number_that_is_not_a_number(talk: Talk) -> None:
    await talk.post("/threads", content=b'{"metadata": {"a": NaN}}')


@case
async def a_number_beyond_64_bits(talk: Talk) -> None:
    await talk.post("/threads", content=b'{"metadata": {"a": 18446744073709551617}}')


@case
async def a_deeply_nested_body(talk: Talk) -> None:
    body = b'{"metadata": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}"
    await talk.post("/threads", content=body, status_only=True)


@case
async def a_key_twice_in_a_body(talk: Talk) -> None:
    await talk.post("/threads", content=b'{"metadata": {"a": 1, "a": 2}}')
