"""Requests that schemathesis makes of the API's own description, and what it finds in the answers."""

import asyncio
import json
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.security.auth import USERS

#: How long the end of a stream that may never end is waited for.
PATIENCE_SECONDS = 0.25
#: Longer than any request that is answered takes on a machine that is busy with something else.
TIMEOUT_SECONDS = 60
#: What a schema allows and the server refuses: it must be one of the statuses that are documented,
#: and never a fault. A JSON schema does not tell a cursor from a text.
REFUSALS = ["2xx", "3xx", 400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 422, 424, 429, 501, 502]
#: A part that is not built, and a graph of the user's that failed, are no faults of the server.
NO_FAULTS = ["2xx", "3xx", "4xx", 501, 502]
#: What a schema does not allow, beside what schemathesis expects of itself: too long is 413 first.
DENIALS = ["4xx", 501]
#: JSON-RPC answers 200 to what is no call, with an error.
RPC = ["/a2a/{assistant_id}", "/mcp"]
#: Begun before it is read: what cannot be read is in its report.
IN_BACKGROUND = "/api/sessions/import"
#: What is made is there, says a check; here a 404 may be of what the body names beside it.
NAMES_MORE = (
    "^/api/sessions/\\{session_id\\}/(context|fork|head|messages|shares)$"
    "|^/threads/\\{thread_id\\}/(commands|runs|runs/\\w+|state|state/checkpoint|stream/events)$"
    # Another graph, or a version.
    "|^/assistants/\\{assistant_id\\}(/latest|/versions)?$"
)
#: What is deleted here is all that is in it: it is there afterwards, and empty.
#: Or it tells of a run that is gone in its body, as the LangGraph Server does.
EMPTIED = (
    "^/api/sessions/\\{session_id\\}/(context|shares)$"
    "|^(/threads/\\{thread_id\\})?/runs/\\{run_id\\}/(join|stream)$"
)
#: Deletes what has another path elsewhere: a check that knows it there takes it for lost.
DELETES_ELSEWHERE = "DELETE /api/conversations/{conversation_id}"
#: An empty `xray` is none, as for the LangGraph Server.
MAY_BE_EMPTY = "GET /assistants/{assistant_id}/graph"
#: Of a scenario, at the most. Each begins with what makes something; a short one has no use of it.
STEPS = 100
#: With another method their last part is an id, which is 422.
ALSO_IDS = (
    "^/(api/sessions|assistants|threads|runs/crons)/(count|export|import|prune|search)$"
    "|^/threads/\\{thread_id\\}/(runs/(crons|stream|wait)|state/checkpoint)$"
    # A message's id may have a slash in it.
    "|^/api/pairs/\\{message_id\\}/feedback$"
    "|^/api/sessions/\\{session_id\\}/messages/\\{message_id\\}/(regenerate|feedback)$"
)


class Impatient:
    """
    Leaves streams of events as a reader does who has seen enough; schemathesis would read on.

    Args:
        app: Whose streams may never end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Reading(receive, send).of(self.app, scope)
        else:
            await self.app(scope, receive, send)


class _Reading:
    """One request, and who reads its answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._left = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None
        self._ended = False

    async def of(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._receive_or_leave, self._send_noting)
        if self._leaving is None:
            return
        self._leaving.cancel()
        if not self._ended:
            await self._send({"type": "http.response.body", "body": b""})

    async def _receive_or_leave(self) -> Message:
        received = asyncio.ensure_future(self._receive())
        left = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({received, left}, return_when=asyncio.FIRST_COMPLETED)
            return received.result() if received.done() else {"type": "http.disconnect"}
        finally:
            received.cancel()
            left.cancel()

    async def _send_noting(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_stream(message):
            self._leaving = asyncio.create_task(self._leave())
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body")
        await self._send(message)

    async def _leave(self) -> None:
        await asyncio.sleep(PATIENCE_SECONDS)
        self._left.set()


def _is_stream(start: Message) -> bool:
    kind: bytes = dict(start["headers"]).get(b"content-type", b"")
    return kind.startswith(b"text/event-stream")


async def seed(http: httpx.AsyncClient, away: httpx.AsyncClient) -> dict[str, list[str]]:
    """
    Make one of everything that a path names; ids by the parameter's name.

    Args:
        away: Somebody who makes no requests later: what they have shared nobody deletes.
    """
    told = {"query": "hello"}
    session = (await http.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    first = (await http.post(f"/api/sessions/{session}/messages", json=told)).json()
    said = (await http.get(f"/api/sessions/{session}/messages")).json()["data"]
    run = {"assistant_id": "ask", "input": {"text": "a"}}
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    await http.post(f"/threads/{thread}/runs/wait", json=run)
    ran = (await http.get(f"/threads/{thread}/runs")).json()[0]
    state = (await http.get(f"/threads/{thread}/state")).json()
    mine = (await http.post("/assistants", json={"graph_id": "chat"})).json()
    cron = await http.post("/runs/crons", json={**run, "schedule": "0 0 1 1 *"})
    hook = await http.post("/api/webhooks", json={"url": "http://127.0.0.1:9/", "enabled": False})
    shares = f"/api/sessions/{session}/shares"
    share = (await http.post(shares, json={"mode": "snapshot"})).json()
    lasting = (await away.post("/api/sessions", json={"assistant_id": "chat"})).json()["id"]
    await away.post(f"/api/sessions/{lasting}/messages", json=told)
    shown = (await away.post(f"/api/sessions/{lasting}/shares", json={"mode": "snapshot"})).json()
    sent = await http.post("/api/files", files={"file": ("a.txt", b"hello", "text/plain")})
    return {
        "session_id": [session],
        "conversation_id": [session],
        "thread_id": [thread, session],
        "message_id": [str(message["id"]) for message in said] or [first["id"]],
        "run_id": [ran["run_id"]],
        "checkpoint_id": [state["checkpoint"]["checkpoint_id"]],
        "assistant_id": [mine["assistant_id"], "chat", "ask", "steps"],
        "cron_id": [cron.json()["cron_id"]],
        "webhook_id": [hook.json()["id"]],
        "share_id": [share["id"]],
        "token": [one["url"].rsplit("/", 1)[1] for one in (share, shown)],
        "file_id": [sent.json()["id"]],
        "model": ["chat", "ask@stateless"],
        "graph_id": ["chat", "ask", "steps"],
        "schedule": ["0 0 1 1 *"],
        "url": ["http://127.0.0.1:9/"],
    }


@dataclass(frozen=True)
class Found:
    """
    What came of it.

    Args:
        cases: Requests that were made.
        links: Requests that took what they name from the answer to another.
        report: All of it, for people.
        sound: No check failed, and no request was left without an answer.
    """

    cases: int
    links: int
    report: str
    sound: bool


async def generate(
    url: str,
    directory: Path,
    ids: dict[str, list[str]],
    *options: str,
    each: int,
    scenarios: int,
    seed: int,
) -> Found:
    """
    Ask a server everything that its description lets one ask, and some of what it does not.

    Args:
        directory: For what schemathesis is told, and what it tells.
        ids: What there is, by the names of parameters.
        options: Of ``schemathesis run``.
        each: Cases of each operation.
        scenarios: Ways that begin with what makes something, and go on with what was made.
        seed: The same one makes the same requests of the same description.
    """
    told = directory / "schemathesis.toml"
    told.write_text("\n".join(_configuration(directory, ids, scenarios)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(told), "--no-color",
        "run", f"{url}/openapi.json", "--seed", str(seed), "-n", str(each), *options,
        "--report", "ndjson", "--report-ndjson-path", "report.ndjson",
        cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    text = output.decode()
    return Found(
        cases=_number(r"(\d+) generated", text),
        links=_number(r"API Links: +(\d+) covered", text),
        report=text,
        sound=process.returncode == 0,
    )


def _configuration(directory: Path, ids: dict[str, list[str]], scenarios: int) -> list[str]:
    who = [{"name": user, "fixedHeaders": [_bearer(user)]} for user in USERS]
    (directory / "users.json").write_text(json.dumps({"auth": who}))
    words = sorted({id_ for known in ids.values() for id_ in known})
    lines = [
        "continue-on-failure = true",
        f"request-timeout = {TIMEOUT_SECONDS}",
        "max-stream-events = 5",
        "[auth.wfc]",
        'path = "users.json"',
        f"peers = {json.dumps(USERS)}",
        "[generation]",
        "no-shrink = true",
        'database = "none"',
        'dictionaries.string = {dictionary = "words", probability = 0.15}',
        # Links are those that the API itself declares: what is made leads to what is done with it.
        "[phases.stateful]",
        f"max-steps = {STEPS}",
        "inference.algorithms = []",
        f"generation.max-examples = {scenarios}",
        "[checks]",
        f"not_a_server_error.expected-statuses = {json.dumps(NO_FAULTS)}",
        f"positive_data_acceptance.expected-statuses = {json.dumps(REFUSALS)}",
        f"negative_data_rejection.expected-statuses = {json.dumps(DENIALS)}",
        "[[operations]]",
        f"include-path = {json.dumps(RPC)}",
        'checks.negative_data_rejection.expected-statuses = [200, "4xx"]',
        "[[operations]]",
        f"include-name = {json.dumps(MAY_BE_EMPTY)}",
        'checks.negative_data_rejection.expected-statuses = [200, "4xx"]',
        "[[operations]]",
        f"include-path = {json.dumps(IN_BACKGROUND)}",
        'checks.negative_data_rejection.expected-statuses = [202, "4xx"]',
        "[[operations]]",
        f"include-path-regex = {json.dumps(ALSO_IDS)}",
        "checks.unsupported_method.enabled = false",
        "checks.allow_header_conformance.enabled = false",
        "[[operations]]",
        # Of different kinds, only regular expressions must both match; of others one is enough.
        f"include-path-regex = {json.dumps(NAMES_MORE)}",
        'include-method-regex = "(?i)^(post|put|patch)$"',
        "checks.ensure_resource_availability.enabled = false",
        "[[operations]]",
        f"include-path-regex = {json.dumps(EMPTIED)}",
        "checks.use_after_free.enabled = false",
        "[[operations]]",
        f"include-name = {json.dumps(DELETES_ELSEWHERE)}",
        "phases.stateful.enabled = false",
        "[dictionaries]",
        f"words = {{values = {json.dumps(words)}}}",
    ]
    lines += [f"{name} = {{values = {json.dumps(known)}}}" for name, known in ids.items()]
    lines += ["[parameters]"]
    return lines + [
        f'"{place}{name}" = {{dictionary = "{name}", probability = 0.7}}'
        for name in ids
        for place in ("", "body.")
    ]


def _bearer(user: str) -> dict[str, str]:
    return {"name": "Authorization", "value": f"Bearer {user}"}


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
