"""What a case says to a server, and what it hears: whoever answers, the same words."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

#: Longer than whatever our server itself waits for before it answers with an error.
SECONDS = 40.0
AT_ONCE = 16
#: Headers that belong to an answer; the others are the connection's.
HEADERS = frozenset(
    (
        *("content-type", "location", "content-location", "cache-control", "x-accel-buffering"),
        *("x-pagination-total", "x-pagination-next", "allow"),
        *("access-control-allow-origin", "access-control-allow-methods", "access-control-max-age"),
        *("access-control-allow-headers", "access-control-allow-credentials"),
        *("access-control-allow-private-network", "access-control-expose-headers"),
    )
)
_ABSENT: Any = object()

#: The words of one request and its answer, ready for JSON.
Exchange = dict[str, Any]


class Talk:
    """
    A conversation with one server, written down in `exchanges`.

    Attributes:
        mark: A word nobody else uses, for what must be found again among others' things.
        asked: The last request.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.exchanges: list[Exchange] = []
        self.mark = str(uuid.uuid4())
        self._http = http
        self.asked = ""
        self._holds = False

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = _ABSENT,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        raw: bool = False,
        unseen: bool = False,
        unordered: bool = False,
        status_only: bool = False,
    ) -> Any:
        """
        Send a request; the decoded body of the answer, or the events of a stream.

        Args:
            content: The body as bytes, in place of `body`.
            raw: Keep the answer's text as it is on the wire.
            unseen: Do not write it down: it only prepares or waits.
            unordered: The order of the answer's list means nothing.
            status_only: The answer's body means nothing.
        """
        if body is not _ABSENT:
            content = json.dumps(body).encode()
            headers = {"content-type": "application/json", **(headers or {})}
        self.asked = f"{method} {path}"
        answer = await self._http.request(method, path, content=content, headers=headers)
        heard = answer.text if raw else _decoded(answer)
        shown = sorted(heard, key=_sort_key) if unordered and isinstance(heard, list) else heard
        if not unseen:
            self.exchanges.append(_exchange(method, path, answer, None if status_only else shown))
        return heard

    async def get(self, path: str, **more: Any) -> Any:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = _ABSENT, **more: Any) -> Any:
        return await self.ask("POST", path, body, **more)

    async def put(self, path: str, body: Any = _ABSENT, **more: Any) -> Any:
        return await self.ask("PUT", path, body, **more)

    async def patch(self, path: str, body: Any = _ABSENT, **more: Any) -> Any:
        return await self.ask("PATCH", path, body, **more)

    async def delete(self, path: str, body: Any = _ABSENT, **more: Any) -> Any:
        return await self.ask("DELETE", path, body, **more)

    async def until(self, path: str, **expected: Any) -> Any:
        """Ask until the answer says so; nothing of it is written down."""
        async with asyncio.timeout(SECONDS):
            while True:
                heard = await self.get(path, unseen=True)
                if expected.items() <= _flat(heard).items():
                    return heard
                await asyncio.sleep(0.02)

    async def gone(self, path: str) -> None:
        """Ask until it is not there; nothing of it is written down."""
        async with asyncio.timeout(SECONDS):
            while (  # noqa: ASYNC110 - across processes
                await self._http.get(path)
            ).status_code != HTTPStatus.NOT_FOUND:
                await asyncio.sleep(0.02)

    # What nearly every case begins with.

    async def thread(self, **body: Any) -> str:
        """The id of a new thread; nothing of it is written down."""
        return str((await self.post("/threads", body, unseen=True))["thread_id"])

    async def done(self, graph_id: str, value: Any, **more: Any) -> str:
        """The id of a new thread on which a graph has run."""
        thread_id = await self.thread()
        await self.again(thread_id, graph_id, input=value, **more)
        return thread_id

    async def again(self, thread_id: str, graph_id: str, **more: Any) -> Any:
        """Run a graph on a thread to its end; nothing of it is written down."""
        body = {"assistant_id": graph_id, **more}
        return await self.post(f"/threads/{thread_id}/runs/wait", body, unseen=True)

    async def held(self, thread_id: str | None = None, **more: Any) -> tuple[str, str]:
        """The ids of a thread and of a run on it that goes on until `release`."""
        if thread_id is None:
            thread_id = await self.thread()
        self._holds = True
        body = {"assistant_id": "held", "input": {"gate": self.mark}, **more}
        run = await self.post(f"/threads/{thread_id}/runs", body, unseen=True)
        path = f"/threads/{thread_id}/runs/{run['run_id']}"
        await self.until(path, status="running")
        await self.until(f"/store/items?namespace=arrived&key={self.mark}", key=self.mark)
        return thread_id, run["run_id"]

    async def tidy(self) -> None:
        """Leave no run behind that waits for ever."""
        if self._holds:
            await self.release()

    async def release(self) -> None:
        """Let the runs of `held` go on."""
        item = {"namespace": ["gate"], "key": self.mark, "value": {}, "index": False}
        await self.put("/store/items", item, unseen=True)

    @asynccontextmanager
    async def listening(
        self,
        method: str,
        path: str,
        body: Any = _ABSENT,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator["Heard"]:
        """Follow a stream aside; what was heard until the last `until` is written down."""
        content = None if body is _ABSENT else json.dumps(body).encode()
        async with self._http.stream(method, path, content=content, headers=headers) as answer:
            place = len(self.exchanges)
            heard = Heard()
            reader = asyncio.create_task(heard.read(answer))
            try:
                yield heard
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            self.exchanges.insert(place, _exchange(method, path, answer, heard.wanted()))


class Heard:
    """The events of a stream that goes on."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._upto = 0
        self._changed = asyncio.Condition()
        self._ended = False

    async def read(self, answer: httpx.Response) -> None:
        pending = ""
        async for text in answer.aiter_text():
            *blocks, pending = (pending + text).replace("\r\n", "\n").split("\n\n")
            async with self._changed:
                self.events += [event for block in blocks if (event := _event(block))]
                self._changed.notify_all()
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """Wait for the next event that fits."""

        def found() -> int | None:
            rest = range(self._upto, len(self.events))
            return next((at for at in rest if wanted(self.events[at])), None)

        async with asyncio.timeout(SECONDS), self._changed:
            await self._changed.wait_for(lambda: found() is not None or self._ended)
            at = found()
            assert at is not None, f"the stream ended before that: {self.events}"
            self._upto = at + 1
            return self.events[at]

    async def end(self) -> None:
        """Wait until the server ends the stream."""
        async with asyncio.timeout(SECONDS), self._changed:
            await self._changed.wait_for(lambda: self._ended)
            self._upto = len(self.events)

    def wanted(self) -> list[Any]:
        return self.events[: self._upto]


@dataclass(frozen=True)
class Case:
    """A conversation by a name that says what it shows."""

    name: str
    area: str
    play: Callable[[Talk], Awaitable[Any]]


async def play(case: Case, http: httpx.AsyncClient) -> list[Exchange]:
    """What a server says in a case; what went wrong in between is its last exchange."""
    talk = Talk(http)
    try:
        async with asyncio.timeout(2 * SECONDS):
            await case.play(talk)
    except Exception as error:  # noqa: BLE001 - it is part of what the server made of it
        because = f"{type(error).__name__} at {talk.asked}"
        talk.exchanges.append({"ask": "the case broke off", "body": because})
    finally:
        await talk.tidy()
    return talk.exchanges


async def play_all(cases: list[Case], url: str) -> dict[str, list[Exchange]]:
    """What a server says in every case."""
    turns = asyncio.Semaphore(AT_ONCE)
    # What is put at the same time the reference's store mixes up: those one after the other.
    alone = asyncio.Lock()

    async def one(case: Case) -> list[Exchange]:
        async with alone if case.area == "items" else turns:
            return await play(case, http)

    # The reference drops connections after a 500: none is used twice.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS, limits=limits) as http:
        heard = await asyncio.gather(*(one(case) for case in cases))
    return {case.name: said for case, said in zip(cases, heard, strict=True)}


def _exchange(method: str, path: str, answer: httpx.Response, body: Any) -> Exchange:
    headers = {name: value for name, value in answer.headers.items() if name in HEADERS}
    return {
        "ask": f"{method} {path}",
        "status": answer.status_code,
        "headers": headers,
        "body": body,
    }


def _decoded(answer: httpx.Response) -> Any:
    kind = answer.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        blocks = answer.text.replace("\r\n", "\n").split("\n\n")
        return [event for block in blocks if (event := _event(block))]
    try:
        return json.loads(answer.text)
    except ValueError:
        return answer.text


def _event(block: str) -> dict[str, Any] | None:
    """An event of a stream, with its data decoded; None for a comment."""
    lines = [line for line in block.split("\n") if line and not line.startswith(":")]
    if not lines:
        return None
    fields: dict[str, Any] = dict(line.partition(": ")[::2] for line in lines)
    if "data" in fields:
        fields["data"] = json.loads(fields["data"])
    return fields


def _flat(heard: Any) -> dict[str, Any]:
    return {k: v for k, v in heard.items() if not isinstance(v, (dict, list))} if heard else {}


def _sort_key(item: Any) -> str:
    return json.dumps(item, sort_keys=True)
