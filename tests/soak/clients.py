"""Clients who do what comes to their minds, and write down what they were told."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.acceptance.sse import Frame

THREADS = 8
#: After a request was refused by a server that is going or gone.
RETRY_SECONDS = 0.2
GONE = (httpx.TransportError, httpx.StreamError)
SESSIONS = 3
KINDS = ("go", "go", "go", "ask", "answer")
MODES = (["values"], ["updates"], ["values", "updates"], ["values", "messages-tuple"])
STRATEGIES = ("enqueue", "enqueue", "enqueue", "interrupt", "rollback", "reject")


@dataclass(slots=True)
class Asked:
    """A run that was acknowledged."""

    run_id: str
    #: Empty if it is stateless and nobody said.
    thread_id: str
    body: dict[str, Any]
    #: When it was asked for, and when the answer came.
    asked_at: float
    acknowledged_at: float
    is_stateless: bool = False

    @property
    def kind(self) -> str:
        """``go``: all steps; ``ask``: up to a question; ``answer``: from there."""
        return str(self.body["input"]["kind"]) if "input" in self.body else "answer"


@dataclass(slots=True)
class Followed:
    """What one client saw of a run over all its connections."""

    run_id: str
    thread_id: str
    frames: list[Frame] = field(default_factory=list)
    #: The number of frames there were when a connection was made, and where to.
    connections: list[tuple[int, str]] = field(default_factory=list)
    #: An `end` came.
    ended: bool = False
    #: The server said that there is no such run.
    missing: bool = False


@dataclass(slots=True)
class Ledger:
    """All that clients know."""

    asked: list[Asked] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    outputs: list[tuple[Asked, Any]] = field(default_factory=list)
    #: What sessions answered, as JSON, and what they streamed: names and data, to the end of it.
    answers: list[dict[str, Any]] = field(default_factory=list)
    talks: list[list[tuple[str, dict[str, Any]]]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    #: Threads of which somebody wished to delete them, or to stop or to roll back a run.
    deleted: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    rolled_back: set[str] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Client:
    """One client; it speaks to any replica."""

    def __init__(
        self,
        rng: random.Random,
        urls: list[str],
        ledger: Ledger,
        pool: list[str],
        sessions: list[str],
        headers: dict[str, str],
    ) -> None:
        self._rng = rng
        self._urls = urls
        self._ledger = ledger
        #: The threads and the sessions in use, the same for all clients.
        self._pool = pool
        self._sessions = sessions
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(10, read=8), headers=headers)
        #: The time is up: do nothing new, but see through what was begun.
        self.leaving = False

    async def act(self) -> None:
        """Do one thing after the other until it is told to leave."""
        acts = [
            *[self._stream] * 5,
            *[self._wait] * 2,
            *[self._create] * 4,
            *[self._stateless] * 2,
            *[self._say] * 2,
            *[self._cancel] * 2,
            self._delete_thread,
        ]
        async with self._http:
            while not self.leaving:
                try:
                    await self._rng.choice(acts)()
                except GONE as exc:
                    self._ledger.statuses[type(exc).__name__] += 1
                    await asyncio.sleep(RETRY_SECONDS)
                await asyncio.sleep(self._rng.uniform(0, 0.3))

    async def _thread(self) -> str:
        if len(self._pool) < THREADS:
            url = f"{self._url()}/threads"
            answer = await self._http.post(url, json={})
            self._count(answer)
            if answer.status_code == 200:
                self._pool.append(answer.json()["thread_id"])
                self._ledger.threads.add(self._pool[-1])
        if not self._pool:
            raise httpx.ConnectError("no thread yet")
        return self._rng.choice(self._pool)

    def _url(self) -> str:
        return self._rng.choice(self._urls)

    def _body(self, thread_id: str) -> dict[str, Any]:
        strategy = self._rng.choice(STRATEGIES)
        body = {**self._work(), "multitask_strategy": strategy}
        kind = self._rng.choice(KINDS)
        if kind == "answer":
            del body["input"]
            body["command"] = {"resume": "yes"}
        else:
            body["input"]["kind"] = kind
        if self._rng.random() < 0.15:
            body["after_seconds"] = self._rng.choice((0.5, 2))
        if strategy in ("interrupt", "rollback"):
            self._ledger.stopped.add(thread_id)
        if strategy == "rollback":
            self._ledger.rolled_back.add(thread_id)
        return body

    def _work(self) -> dict[str, Any]:
        return {
            "assistant_id": "soak",
            "input": {"kind": "go", "messages": [("user", "go")]},
            "stream_mode": self._rng.choice(MODES),
            "durability": self._rng.choice(("sync", "sync", "async", "exit")),
        }

    def _count(self, answer: httpx.Response) -> None:
        request = answer.request
        # A POST of something, a GET of something: without the ids.
        self._ledger.statuses[f"{request.method} {answer.status_code}"] += 1
        if answer.status_code >= 500 and answer.status_code not in (502, 503):
            self._ledger.wrong.append(f"{request.method} {request.url}: {answer.status_code}")

    def _acknowledge(
        self, answer: httpx.Response, thread_id: str, body: dict[str, Any], asked_at: float
    ) -> Asked | None:
        self._count(answer)
        if answer.status_code != 200:
            return None
        place = answer.headers["content-location"].split("/")
        is_stateless = not thread_id
        thread_id = thread_id or (place[2] if len(place) > 4 else "")
        asked = Asked(place[-1], thread_id, body, asked_at, time.monotonic(), is_stateless)
        self._ledger.asked.append(asked)
        return asked

    async def _create(self) -> None:
        thread_id = await self._thread()
        body, asked_at = self._body(thread_id), time.monotonic()
        url = f"{self._url()}/threads/{thread_id}/runs"
        answer = await self._http.post(url, json=body)
        asked = self._acknowledge(answer, thread_id, body, asked_at)
        if asked and self._rng.random() < 0.4:
            await self._join(asked)
        elif asked and self._rng.random() < 0.7:
            await self._follow(Followed(asked.run_id, thread_id))

    async def _stream(self) -> None:
        thread_id = await self._thread()
        body = self._body(thread_id)
        if self._rng.random() < 0.15:
            body["on_disconnect"] = "cancel"
            self._ledger.stopped.add(thread_id)
        await self._stream_run(thread_id, f"/threads/{thread_id}/runs/stream", body)

    async def _stateless(self) -> None:
        """A run without a thread: it leaves nothing but its answer."""
        way = self._rng.choice((self._stream_run, self._wait_for_run))
        await way("", f"/runs/{'stream' if way == self._stream_run else 'wait'}", self._work())

    async def _stream_run(self, thread_id: str, path: str, body: dict[str, Any]) -> None:
        seen = None
        base, asked_at = self._url(), time.monotonic()
        try:
            async with self._http.stream("POST", base + path, json=body) as response:
                asked = self._acknowledge(response, thread_id, body, asked_at)
                if asked is None:
                    return
                seen = Followed(asked.run_id, thread_id, connections=[(0, f"{base} (POST)")])
                await self._read(response, seen)
        except GONE:
            if seen is None:
                raise
        if not seen.ended:
            await self._follow(seen)
        else:
            self._ledger.followed.append(seen)

    async def _follow(self, seen: Followed) -> None:
        """Come back until the end has come."""
        self._ledger.followed.append(seen)
        while not (seen.ended or seen.missing):
            base = self._url()
            owner = f"/threads/{seen.thread_id}" if seen.thread_id else ""
            url = f"{base}{owner}/runs/{seen.run_id}/stream"
            last = next((frame.id for frame in reversed(seen.frames) if frame.id), "-1")
            seen.connections.append((len(seen.frames), base))
            try:
                headers = {"Last-Event-ID": last}
                async with self._http.stream("GET", url, headers=headers) as response:
                    self._count(response)
                    if response.status_code == 200:
                        await self._read(response, seen)
            except GONE as exc:
                self._ledger.statuses[type(exc).__name__] += 1
            if not seen.ended:
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self, response: httpx.Response, seen: Followed) -> None:
        """Read to the end of the connection, or leave it at some event."""
        patience = self._rng.choice((1, 3, 8, 1000, 1000))
        pending = b""
        async for chunk in response.aiter_bytes():
            pending += chunk
            *whole, pending = pending.split(b"\r\n\r\n")
            for raw in whole:
                frame = _frame(raw)
                if frame is None:
                    continue
                if frame.name == "error" and "Run not found" in str(frame.data):
                    seen.missing = True
                    return
                if seen.ended:
                    self._ledger.wrong.append(f"run {seen.run_id}: {frame.name} after the end")
                seen.frames.append(frame)
                seen.ended = seen.ended or frame.name == "end"
                patience -= 1
            if patience <= 0 and not seen.ended:
                return

    async def _wait(self) -> None:
        thread_id = await self._thread()
        path = f"/threads/{thread_id}/runs/wait"
        await self._wait_for_run(thread_id, path, self._body(thread_id))

    async def _wait_for_run(self, thread_id: str, path: str, body: dict[str, Any]) -> None:
        asked, asked_at = None, time.monotonic()
        try:
            async with self._http.stream("POST", self._url() + path, json=body) as response:
                asked = self._acknowledge(response, thread_id, body, asked_at)
                if asked:
                    self._ledger.outputs.append((asked, json.loads(await response.aread())))
        except (*GONE, json.JSONDecodeError):
            if asked is None:
                raise
            await self._join(asked)

    async def _session(self) -> str:
        if len(self._sessions) < SESSIONS:
            answer = await self._http.post(f"{self._url()}/api/sessions", json={})
            self._count(answer)
            if answer.status_code == 200:
                self._sessions.append(answer.json()["id"])
        if not self._sessions:
            raise httpx.ConnectError("no session yet")
        return self._rng.choice(self._sessions)

    async def _say(self) -> None:
        """Say something in a session; what is lost of the answer is in the history."""
        session_id = await self._session()
        on_busy = self._rng.choice(("reject", "enqueue", "enqueue", "interrupt"))
        body = {"query": "go", "on_busy": on_busy, "stream": self._rng.random() < 0.5}
        if on_busy == "interrupt":
            self._ledger.stopped.add(session_id)
        url = f"{self._url()}/api/sessions/{session_id}/messages"
        async with self._http.stream("POST", url, json=body) as response:
            self._count(response)
            if response.status_code != 200:
                return
            if not body["stream"]:
                self._ledger.answers.append(json.loads(await response.aread()))
                return
            frames = [_frame(raw) for raw in (await response.aread()).split(b"\r\n\r\n")]
            self._ledger.talks.append([(frame.name, frame.data) for frame in frames if frame])

    async def _join(self, asked: Asked) -> None:
        while True:
            url = f"{self._url()}/threads/{asked.thread_id}/runs/{asked.run_id}/join"
            try:
                answer = await self._http.get(url)
                self._count(answer)
                if answer.status_code == 200:
                    self._ledger.outputs.append((asked, answer.json()))
                    return
            except (*GONE, json.JSONDecodeError) as exc:
                self._ledger.statuses[type(exc).__name__] += 1
            await asyncio.sleep(RETRY_SECONDS)

    async def _cancel(self) -> None:
        if not self._ledger.asked:
            return
        asked = self._rng.choice(self._ledger.asked[-20:])
        if asked.is_stateless:
            return
        action = self._rng.choice(("interrupt", "rollback"))
        self._ledger.stopped.add(asked.thread_id)
        if action == "rollback":
            self._ledger.rolled_back.add(asked.thread_id)
        wait = self._rng.choice(("true", "false"))
        url = f"{self._url()}/threads/{asked.thread_id}/runs/{asked.run_id}/cancel"
        params = {"wait": wait, "action": action}
        self._count(await self._http.post(url, params=params))

    async def _delete_thread(self) -> None:
        thread_id = self._rng.choice(self._pool) if self._pool else ""
        if not thread_id or self._rng.random() < 0.5:
            return
        self._pool.remove(thread_id)
        self._ledger.deleted.add(thread_id)
        while True:
            try:
                answer = await self._http.delete(f"{self._url()}/threads/{thread_id}")
                self._count(answer)
                if answer.status_code in (204, 404):
                    return
            except GONE as exc:
                self._ledger.statuses[type(exc).__name__] += 1
            await asyncio.sleep(RETRY_SECONDS)


def _frame(raw: bytes) -> Frame | None:
    lines = [line for line in raw.decode().split("\r\n") if line and not line.startswith(":")]
    fields = dict(line.split(": ", 1) for line in lines)
    if "event" not in fields:
        return None
    return Frame(raw, fields["event"], json.loads(fields["data"]), fields.get("id", ""))
