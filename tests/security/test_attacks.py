"""What somebody would try who means harm; docs/security.md says which test is for what."""

import ast
import asyncio
import gzip
import importlib
import itertools
import pickle
import pkgutil
import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from re import _parser as re_parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any
from uuid import uuid4

import httpx
import orjson
import ormsgpack
import pytest
import structlog

import api
import graph
import store
from api.app import create_app
from api.bootstrap import open_services
from api.exchange import markdown
from api.http.bodies import parse
from api.http.held import HeldBodies
from api.http.languages import in_chinese
from api.observability import logs
from api.processes.embedded import Servers
from api.settings import Settings, without_password
from store.checkpoints import open_saver
from store.database import Database
from store.errors import Error, TooLargeError
from tests.faults.runs import until
from tests.receiver import receiving
from tests.serving import serving

ROOT = Path(__file__).parents[2]
#: Each would delay, break or widen a statement that it became a part of.
INJECTIONS = [
    "' OR '1'='1", "'; SELECT pg_sleep(5) --", "%(owner)s", "$.a ? (@ like_regex \".*\")",
    "a') || pg_sleep(5)::text || ('",
]  # fmt: skip
#: None of ours takes that long; `pg_sleep` would.
SLEEP_SECONDS = 5.0
MARK = "not-to-be-found"
#: What a frame of another event would look like in the middle of one.
FORGED = (
    "a\r\n\r\nevent: forged\r\ndata: {}\r\n\r\nb\nevent: forged\rid: 9-9\u2028event: forged\x85"
)


def _modules() -> Iterator[ModuleType]:
    for package in (api, graph, store):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


async def test_no_filter_is_a_part_of_a_statement(http: httpx.AsyncClient) -> None:
    """SQL and JSON paths, in every query parameter and every text of a body that filters."""
    thread = (await http.post("/threads", json={"metadata": {"secret": MARK}})).json()["thread_id"]
    item = {"namespace": ["n"], "key": MARK, "value": {"secret": MARK}}
    await http.put("/store/items", json=item)
    spec = (await http.get("/openapi.json")).json()
    slowest = 0.0

    for text in INJECTIONS:
        for method, path, given in _filters(spec, thread, text):
            started = time.perf_counter()
            answer = await http.request(method, path, **given)
            slowest = max(slowest, time.perf_counter() - started)
            assert answer.status_code < 500, (path, given, answer.text)
            assert MARK not in answer.text, (path, given)

        # And of a thread that is there, which may show its own.
        for path, params in _filters_of_one(spec, thread, text):
            started = time.perf_counter()
            answer = await http.get(path, params=params)
            slowest = max(slowest, time.perf_counter() - started)
            assert answer.status_code < 500, (path, params, answer.text)

    assert slowest < SLEEP_SECONDS
    assert (await http.get(f"/threads/{thread}")).json()["metadata"] == {"secret": MARK}


def _filters(spec: Any, thread: str, text: str) -> Iterator[tuple[str, str, Any]]:
    for path, operations in spec["paths"].items():
        # Streams are of what happens from now on, and a thread's own of what it may show.
        if "stream" in path or path == "/api/events" or "{thread_id}" in path:
            continue
        filled = re.sub(r"{\w+(:path)?}", str(uuid4()), path)
        told = operations.get("get", {}).get("parameters", [])
        names = [parameter["name"] for parameter in told if parameter["in"] == "query"]
        yield from (("GET", filled, {"params": {name: text}}) for name in names)
    yield from (("POST", path, {"json": body}) for path, body in _bodies(thread, text))
    yield "GET", f"/threads/{thread}/runs", {"params": {"status": text}}


def _filters_of_one(spec: Any, thread: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    for path, operations in spec["paths"].items():
        found = re.fullmatch(r"/[\w/]*{(thread_id|session_id|conversation_id)}(/\w+)*", path)
        if found is None or "stream" in path:
            continue
        told = operations.get("get", {}).get("parameters", [])
        names = [parameter["name"] for parameter in told if parameter["in"] == "query"]
        yield from ((path.replace(f"{{{found[1]}}}", thread), {name: text}) for name in names)


def _bodies(thread: str, text: str) -> Iterator[tuple[str, Any]]:
    where: Any
    body: Any
    for where in ({"metadata": {"secret": text}}, {"metadata": {text: text}}):
        for path in ("/threads", "/assistants", "/runs/crons"):
            yield f"{path}/search", where
            yield f"{path}/count", where
        yield f"/threads/{thread}/history", where
    for body in (
        {"values": {text: text}}, {"sort_by": text}, {"sort_order": text}, {"status": text},
        {"select": [text]}, {"ids": [text]}, {"extract": {"x": text}, "ids": [str(uuid4())]},
    ):  # fmt: skip
        yield "/threads/search", body
    for body in (
        {"filter": {text: text}}, {"filter": {"secret": {"$eq": text}}},
        {"filter": {"secret": {text: 1}}}, {"namespace_prefix": [text]},
    ):  # fmt: skip
        yield "/store/items/search", body
    yield "/store/namespaces", {"prefix": [text]}


async def test_no_url_that_comes_with_content_is_fetched(http: httpx.AsyncClient) -> None:
    """In messages, attachments, imports and whatever the doors take: only the model may look."""
    async with receiving() as receiver:
        url = f"{receiver.url}/secret.png"
        session = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
        image = {"type": "image_url", "image_url": {"url": url}}
        blocks = [{"type": "text", "text": "x"}, image, {"type": "image", "url": url}]
        text = {"type": "input_text", "text": "x"}
        said: list[tuple[str, Any]] = [
            (f"/api/sessions/{session}/messages", {"content": blocks}),
            (f"/api/sessions/{session}/messages", {"query": "x", "attachments": [url]}),
            ("/v1/chat/completions", {"model": "chat", "messages": [_user(blocks[:2])]}),
            ("/v1/responses", {"model": "chat", "input": [_user([text, {
                "type": "input_image", "image_url": url}])]}),
            ("/v1/responses", {"model": "chat", "input": [_user([text, {
                "type": "input_file", "file_url": url}])]}),
            ("/api/ai/chat", {"id": str(uuid4()), "messages": [{"id": "m", "role": "user", "parts": [
                {"type": "text", "text": "x"},
                {"type": "file", "mediaType": "image/png", "url": url}]}]}),
            ("/a2a/chat", {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {
                "message": {"role": "user", "kind": "message", "messageId": "m", "parts": [
                    {"kind": "text", "text": "x"}, {"kind": "file", "file": {"uri": url}}]}}}),
            ("/api/sessions/import", {"messages": [_user(blocks)]}),
        ]  # fmt: skip
        for path, body in said:
            answer = await http.post(path, json=body)
            assert answer.status_code < 500, (path, answer.text)
        hook = await http.post("/api/webhooks", json={"url": url})
        run = {"assistant_id": "chat", "webhook": url, "input": {"messages": []}}

        assert hook.status_code == 422
        assert (await http.post("/runs", json=run)).status_code == 422
        assert receiver.heard == []


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def test_nothing_in_a_name_leads_out_of_where_files_are(http: httpx.AsyncClient) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "..\\..\\x.txt", "a\x00.txt", "C:\\x.txt"):
        sent = await http.post("/api/files", files={"file": (name, b"hello", "text/plain")})
        if sent.status_code != 200:
            assert sent.status_code == 422, sent.text
            continue
        got = await http.get(f"/api/files/{sent.json()['id']}")
        shown = got.headers["content-disposition"]
        assert got.content == b"hello"
        # Of a name that a browser saves under, what is not of a name is escaped.
        assert "/" not in shown.partition("''")[2]
        assert "\\" not in shown
    for path in (
        "/api/files/..%2f..%2f..%2fetc%2fpasswd", "/api/files/%2e%2e/%2e%2e/etc/passwd",
        "/ui/..%2f..%2flanggraph.json", "/docs/..%2f..%2fetc%2fpasswd", "//etc/passwd",
        "/api/shares/..%2f..%2fetc%2fpasswd", "/v1/models/..%2f..%2fetc%2fpasswd",
    ):  # fmt: skip
        refused = await http.get(path)
        assert refused.status_code in (404, 405, 422), path
        assert "root:" not in refused.text


async def test_what_is_said_breaks_out_of_no_frame_and_no_header(http: httpx.AsyncClient) -> None:
    """CR, LF and their like, in what streams and headers are made of."""
    session = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    asked: list[tuple[str, Any]] = [
        (f"/api/sessions/{session}/messages", {"query": FORGED}),
        ("/runs/stream", {"assistant_id": "chat", "input": {"messages": [_user(FORGED)]}}),
        ("/v1/chat/completions", {"model": "chat", "stream": True, "messages": [_user(FORGED)]}),
        ("/agui", {"threadId": str(uuid4()), "runId": FORGED, "state": {}, "tools": [],
                   "context": [], "forwardedProps": {},
                   "messages": [{"id": "m", "role": "user", "content": FORGED}]}),
    ]  # fmt: skip
    for path, body in asked:
        told = await http.post(path, json=body, headers={"Accept": "text/event-stream"})
        assert told.status_code == 200, (path, told.text)
        lines = re.split(r"\r\n|\r|\n", told.text)
        assert {line.partition(":")[0] for line in lines} <= {"event", "data", "id", "retry", ""}
        assert "event: forged" not in lines
        assert "id: 9-9" not in lines
    sent = await http.post("/api/files", files={"file": ("a\r\nX-Forged: 1", b"x", "text/plain")})
    if sent.status_code == 200:
        assert "x-forged" not in (await http.get(f"/api/files/{sent.json()['id']}")).headers
    query = {"stream_mode": "run_modes\r\nX-Forged: 1"}
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    async with http.stream("GET", f"/threads/{thread}/stream", params=query) as answer:
        assert answer.status_code == 422
        assert "x-forged" not in answer.headers


async def test_a_small_body_stays_small(http: httpx.AsyncClient) -> None:
    """Nothing is inflated that was not asked for; what is deep, wide or a huge number is refused."""
    zeros = b'{"metadata": {"a": "' + b"0" * 50_000_000 + b'"}}'
    for name, packed in (("gzip", gzip.compress(zeros)), ("deflate", zlib.compress(zeros))):
        refused = await http.post("/threads", content=packed, headers={"Content-Encoding": name})
        assert refused.status_code == 422, refused.text
        assert refused.json()["code"] == "invalid_json"
    for body in (
        b"[" * 60_000, b'{"a":' * 10_000, b'{"metadata":' + b'{"a":' * 150 + b"1" + b"}" * 151,
        b'{"metadata": {"a": 1' + b"0" * 60_000 + b"}}", b'{"metadata": {"a": 1e999999}}',
    ):  # fmt: skip
        refused = await http.post("/threads", content=body)
        assert refused.status_code == 422, refused.text


async def test_a_wide_body_is_refused_before_anything_is_made_of_it(
    settings: Settings, servers: Servers, database_url: str
) -> None:
    """Lists, objects, numbers and texts: what is short takes a hundred times as much in memory."""
    wide = settings.model_copy(
        update={"request_body_max_bytes": 1 << 25, "json_body_max_bytes": 1 << 24}
    )
    async with (
        open_services(wide, database_url=database_url, redis_url=servers.redis_url) as services,
        serving(create_app(services)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        for value in (b"[],", b"{},", b"1,", b'"",', b'{"a":0},'):
            raw = b'{"metadata":{"a":[' + value * 1_000_001 + b"1]}}"
            began = time.process_time()
            with pytest.raises(TooLargeError):
                parse(raw)
            # Nothing but its bytes was looked at.
            assert time.process_time() - began < 0.5
            refused = await http.post("/threads", content=raw)
            assert (refused.status_code, refused.json()["code"]) == (413, "too_large"), value

        # What is long and not wide is taken: a file in JSON, for example; up to a bound of its own.
        long = b'{"metadata":{"a":"' + b"x" * 15_000_000 + b'"}}'
        assert (await http.post("/threads", content=long)).status_code == 200
        longer = b'{"metadata":{"a":"' + b"x" * (1 << 24) + b'"}}'

        async def pieces() -> AsyncIterator[bytes]:
            yield longer[:1000]
            yield longer[1000:]

        for content in (longer, pieces()):
            refused = await http.post("/threads", content=content)
            assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
            assert refused.json()["detail"] == "The request body is larger than 16777216 bytes"


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/threads/search", {"select": ["x"] * 5_000}, "invalid_input"),
        ("/store/items", {"namespace": [1] * 10_000, "key": "k", "value": {}}, "invalid_input"),
        ("/v1/responses", {"model": "m", "input": "x", "tools": [1] * 10_000}, "invalid_request_error"),
    ],
)  # fmt: skip
async def test_very_many_faults_are_refused_without_being_named(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], told: str
) -> None:
    """A million of them would keep the event loop for a minute."""
    method = "PUT" if path == "/store/items" else "POST"
    refused = await http.request(method, path, json=body)

    assert refused.status_code in (400, 422)
    assert "More than 100 values of the request body are invalid" in refused.text
    assert told in refused.text


class LargeBodies:
    """Bodies of 2 MiB to a server that holds 3 MiB of them; some stop before their end."""

    def __init__(self, http: httpx.AsyncClient, held: HeldBodies) -> None:
        self.http = http
        self.held = held
        self.body = b'{"metadata":{"a":"' + b"x" * (2 << 20) + b'"}}'
        self.goes_on = asyncio.Event()

    def send(self, *, stops: bool = False) -> asyncio.Task[httpx.Response]:
        content = self._slow() if stops else self.body
        size = {"content-length": str(len(self.body))}
        return asyncio.create_task(self.http.post("/threads", content=content, headers=size))

    async def _slow(self) -> AsyncIterator[bytes]:
        yield self.body[:1000]
        await self.goes_on.wait()
        yield self.body[1000:]

    async def half_sent(self, size: int, *, dribbles: bool) -> bytes:
        """The answer to a body of which only the first byte comes, or one byte after the other."""
        reader, writer = await asyncio.open_connection(
            self.http.base_url.host, self.http.base_url.port
        )
        head = f"POST /threads HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n{{"
        writer.write(head.encode())
        answer = asyncio.create_task(reader.readuntil(b"}"))
        while dribbles and not answer.done():
            writer.write(b" ")
            await asyncio.wait([answer], timeout=0.05)
        told = await answer
        writer.close()
        return told

    async def until_held(self, count: int) -> None:
        await until(lambda: self.held.bytes == count * len(self.body))


@pytest.fixture
async def large(
    settings: Settings, servers: Servers, database_url: str
) -> AsyncIterator[LargeBodies]:
    few = settings.model_copy(
        update={"request_body_max_bytes": 1 << 24, "json_bodies_max_bytes": 3 << 20}
    )
    async with open_services(
        few, database_url=database_url, redis_url=servers.redis_url
    ) as services:
        app = create_app(services)
        given = [value for one in app.user_middleware for value in one.kwargs.values()]
        [held] = [value for value in given if isinstance(value, HeldBodies)]
        async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
            yield LargeBodies(http, held)


async def test_many_large_bodies_at_once_are_held_a_few_at_a_time(
    large: LargeBodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait, or are refused; a small one waits for none of them."""
    first = large.send(stops=True)
    await large.until_held(1)
    second = large.send()
    await until(lambda: large.held.waiting == 1)

    assert (await large.http.post("/threads", json={})).status_code == 200
    monkeypatch.setattr("api.http.held.MAX_WAITING", 1)
    refused = await large.send()
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) > 0

    large.goes_on.set()
    assert [(await one).status_code for one in (first, second)] == [200, 200]
    assert (large.held.bytes, large.held.waiting) == (0, 0)


async def test_a_large_body_that_does_not_come_keeps_nobody_waiting(
    large: LargeBodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender leaves in the middle, or stalls."""
    left = large.send(stops=True)
    await large.until_held(1)
    left.cancel()
    await large.until_held(0)

    monkeypatch.setattr("api.http.held.STALLED_SECONDS", 0.05)
    # A small one does not stay either, and one that comes byte by byte, so that it never stalls.
    monkeypatch.setattr("api.http.held.SLOWEST_BYTES_PER_SECOND", 1 << 40)
    for size, dribbles in ((2_000_000, False), (5, False), (2_000_000, True)):
        if dribbles:
            monkeypatch.setattr("api.http.held.STALLED_SECONDS", 3.0)
        answer = await large.half_sent(size, dribbles=dribbles)

        assert answer.startswith(b"HTTP/1.1 408 "), size
        assert b'"code":"body_stalled"' in answer
        await large.until_held(0)


def test_no_expression_of_ours_takes_long_on_any_text() -> None:
    """Each is tried on texts that it nearly matches, with any of its repetitions made long."""
    patterns = [*_patterns()]
    slow = [(place, why) for place, one in patterns if (why := _slow_on(one)) is not None]

    assert len(patterns) > 50
    assert slow == []


def _patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Every regular expression that our modules hold, and those that stand in functions."""
    for module in _modules():
        for name, one in vars(module).items():
            if isinstance(one, re.Pattern):
                text = one.pattern.decode() if isinstance(one.pattern, bytes) else one.pattern
                yield f"{module.__name__}.{name}", re.compile(text, one.flags & ~re.UNICODE)
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
                told = node.args[0]
                if isinstance(told, ast.Constant) and isinstance(told.value, str):
                    yield f"{module.__name__}:{node.lineno}", re.compile(told.value)


def _slow_on(pattern: re.Pattern[str]) -> tuple[str, str, int] | None:
    """What a text begins with, what it goes on with and how often, that the expression takes long on."""
    prefixes = sorted(_prefixes(re_parser.parse(pattern.pattern, pattern.flags), ""))
    pumps = sorted({*_letters(pattern.pattern), " ", "a", "0", "\n"})
    # First so short that what takes the third power of it ends, then as long as tells the second.
    for count, most in ((300, 0.01), (3_000, 0.02)):
        for prefix, pump in itertools.product(prefixes, pumps):
            for text in (prefix + pump * count + "\x00", (prefix + pump) * count + "\x00"):
                for ask in (pattern.fullmatch, pattern.match):
                    # Once may be by something else that the machine does.
                    if all(_seconds(ask, text[:20_000]) > most for _ in range(3)):
                        return prefix, pump, count
    return None


def _seconds(ask: Callable[[str], Any], text: str) -> float:
    started = time.process_time()
    ask(text)
    return time.process_time() - started


def _letters(pattern: str) -> str:
    """What stands in an expression as itself, and some that does not."""
    return "".join(sorted(set(pattern) - set("\\()[]{}?^$|")))[:8]


REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}
OF_CATEGORIES = {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "0"}


def _parts(code: Any, argument: Any) -> list[Any]:
    """What a part of an expression is made of."""
    if str(code) in REPEATS:
        return [argument[2]]
    if str(code) == "SUBPATTERN":
        return [argument[-1]]
    return list(argument[1]) if str(code) == "BRANCH" else []


def _prefixes(parsed: Any, before: str) -> set[str]:
    """Of each place where something may be repeated, a text that leads there."""
    found = {before}
    for code, argument in parsed:
        for part in _parts(code, argument):
            found |= _prefixes(part, before)
        before += _shortest(code, argument)
        found.add(before)
    return found


def _shortest(code: Any, argument: Any) -> str:
    """A text that a part of an expression matches; of what may be left out, once."""
    if parts := _parts(code, argument):
        times = max(1, argument[0]) if str(code) in REPEATS else 1
        return "".join(_shortest(*part) for part in parts[0]) * times
    if str(code) == "IN":
        return _shortest(*argument[0])
    if str(code) in ("LITERAL", "RANGE"):
        return chr(argument if str(code) == "LITERAL" else argument[0])
    return "" if str(code) == "AT" else OF_CATEGORIES.get(str(argument), "a")


def test_no_text_takes_long_where_expressions_would_backtrack() -> None:
    """Errors in another language, and what is logged: both may have a text of a client's in them."""
    for text in (
        "x" + " should have at least 1 items after validation, not" * 2_000,
        "'s cron schedule: " + "' is invalid: " * 5_000,
        "a: b\n" * 50_000,
    ):
        assert _seconds(lambda one: in_chinese(one, "invalid_input"), text) < 0.1, text[:20]
    for text in ("://:" * 50_000, "://a:b" * 30_000, "?password=" * 30_000, "://@" * 50_000):
        assert _seconds(without_password, text) < 0.1, text[:20]
    for line in ("# a" + " " * 50_000 + "x", "**a" + " " * 50_000 + "x", "# " + "!" * 50_000 + "x"):
        assert _seconds(partial(_refused, markdown.documents), line) < 0.5, line[:5]


def _refused(read: Callable[[BytesIO], Iterator[Any]], text: str) -> None:
    with pytest.raises(Error):
        list(read(BytesIO(text.encode())))


class Program:
    """Runs when a pickle of it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/pickled"),)


async def test_a_row_that_is_a_program_is_not_run(db: Database, tmp_path: Path) -> None:
    """A pickle, and msgpack that names what is to be called, in the row of a checkpoint."""
    made = tmp_path / "made"
    # LangGraph's extensions: a module, what of it to call, and with what.
    calls = [ormsgpack.packb(["os", "mkdir", argument]) for argument in (str(made), [str(made)])]
    rows = [ormsgpack.packb(ormsgpack.Ext(kind, call)) for kind in range(6) for call in calls]
    async with open_saver(db) as saver:
        for row in rows:
            with suppress(Exception):
                saver.serde.loads_typed(("msgpack", row))
        with pytest.raises(NotImplementedError):
            saver.serde.loads_typed(("pickle", pickle.dumps(Program())))

    assert not made.exists()


def test_secrets_are_compared_in_constant_time() -> None:
    """No `==` on what only its owner knows, anywhere."""
    secret = re.compile(r"(secret|digest|signature|token_hash|password|_hash)$")
    faults = []
    for path in (
        file for name in ("api", "graph", "store") for file in (ROOT / name).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Compare):
                continue
            if not any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops):
                continue
            sides = [node.left, *node.comparators]
            names = [getattr(side, "attr", getattr(side, "id", "")) for side in sides]
            if any(secret.search(str(name)) for name in names):
                faults.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")

    assert faults == []


@pytest.mark.parametrize("in_json", [True, False])
def test_a_line_of_the_log_is_one_line_whatever_was_sent(
    capsys: pytest.CaptureFixture[str], in_json: bool
) -> None:
    forged = "/x\n2026-01-01T00:00:00Z [critical] forged\r\x1b[2J\x1b]0;title\x07"
    logs.configure(level="DEBUG", json=in_json)
    structlog.get_logger("tests").debug("request", path=forged, method=forged)
    written = capsys.readouterr()
    text = (written.out + written.err).strip()

    assert text
    assert len(text.splitlines()) == 1
    assert "\x1b[2J" not in text
    assert "\x1b]0" not in text


async def test_a_token_of_a_share_is_not_guessed(http: httpx.AsyncClient) -> None:
    session = (await http.post("/api/sessions", json={})).json()["id"]
    made = await http.post(f"/api/sessions/{session}/shares", json={"mode": "live"})
    token = made.json()["url"].rsplit("/", 1)[1]
    others = [token[:-1], token + "A", token.swapcase(), token[::-1], "A" * 43, "%00", "*", "%"]

    answers = [await http.get(f"/api/shares/{other}") for other in others]

    # 256 bits, in base64; what is nearly right is as wrong as anything.
    assert len(token) >= 43
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert (await http.get(f"/api/shares/{token}")).status_code == 200


async def test_what_the_server_writes_nobody_else_does(http: httpx.AsyncClient) -> None:
    """Reserved keys, in every body that has metadata or attributes of a row."""
    other = str(uuid4())
    reserved = {"thread_id": other, "run_id": other, "members": {"eve": "editor"},
                "assistant_id": other, "counters_since_delta_snapshot": 5}  # fmt: skip
    thread = (await http.post("/threads", json={"metadata": reserved})).json()
    await http.patch(f"/threads/{thread['thread_id']}", json={"metadata": reserved})
    session = (await http.post("/api/sessions", json={
        "metadata": {**reserved, "deleted_at": "2020-01-01T00:00:00Z"},
        "create_time": "2020-01-01T00:00:00Z", "message_count": 9, "members": {"eve": "editor"},
    })).json()  # fmt: skip
    run = (await http.post(f"/threads/{thread['thread_id']}/runs", json={
        "assistant_id": "steps", "input": {"text": "x"}, "status": "success", "run_id": other,
        "metadata": reserved,
        "config": {"configurable": {"langgraph_auth_user": {"identity": "root"}}},
    })).json()  # fmt: skip

    shown = (await http.get(f"/threads/{thread['thread_id']}")).json()
    assert not set(shown["metadata"]) & {"members", "counters_since_delta_snapshot", "run_id"}
    assert session["message_count"] == 0
    assert session["status"] == "active"
    assert not session["create_time"].startswith("2020")
    assert "members" not in session["metadata"]
    assert run["run_id"] != other
    assert run["thread_id"] == thread["thread_id"]
    assert orjson.dumps(run["kwargs"]).count(b"root") == 0
