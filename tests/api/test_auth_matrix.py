"""
Every route, taken from the application: others get nothing of the first user's, and change nothing.

Under a custom `Auth`; and under the built-in identities, where the first user is known by a key and a
token in turn, the second by a key, and there is a third, known by a token. A route that is new has no case here, and fails the test by its name until it gets one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.app import create_app
from api.bootstrap import Services
from api.compat import unserved
from api.identity.auth import OPEN_PATHS
from api.settings import Settings
from graph.requests import system_assistant_id
from store.access import EVERYTHING
from tests.api.issuers import AUDIENCE, Issuer, make_key
from tests.api.test_threads import UNKNOWN
from tests.store.queues import in_flight

#: In everything that is the first user's, and in nothing else.
MARK = "belongs-to-ada"
#: Whose ids name what is the first user's.
OF_ADA = frozenset(
    {
        "thread_id",
        "busy",
        "pending",
        "waiting",
        "late",
        "session_id",
        "message_id",
        "run_id",
        "checkpoint_id",
        "assistant_id",
        "share_id",
        "import_id",
        "webhook_id",
        "file_id",
        "unsent_file",
    }
)
#: As a custom `Auth` takes them; `Http` puts keys and tokens in their place.
ADA, EVE, BOB = ({"authorization": f"Bearer {name}"} for name in ("ada", "eve", "bob"))
KINDS = ("custom", "built in")
EVENTS = "text/event-stream"
DEADLINE_SECONDS = 60.0


class Http(httpx.AsyncClient):
    """A client that shows what somebody has to show: by turns, where that are several things."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=30)
        self.has: dict[str, Iterator[str]] = {}

    def show(self, sent: Mapping[str, str]) -> dict[str, str]:
        """Headers with what is shown in place of a name."""
        name = sent.get("authorization", "")
        return {**sent, "authorization": next(self.has[name])} if name in self.has else {**sent}

    def build_request(self, *args: Any, **kwargs: Any) -> httpx.Request:
        kwargs["headers"] = self.show(kwargs.get("headers") or {})
        return super().build_request(*args, **kwargs)


@dataclass(frozen=True)
class World:
    """What is the first user's, by the names of parameters of paths."""

    ids: dict[str, str]
    kind: str = "custom"

    def cases(self, route: str) -> list["Case"]:
        """What is asked of a route."""
        return (self.kind != "custom" and BUILT_IN.get(route)) or CASES.get(route, [])

    def fill(self, value: Any) -> Any:
        """A path, or a body, with the ids in it."""
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, str):
            for name, id_ in self.ids.items():
                value = value.replace(f"{{{name}}}", id_)
        return value

    def fault(self, case: "Case", status: int, told: str) -> bool:
        """Whether a second user was told what is not theirs, or not what the case says."""
        is_answer = case.answer is None or json.loads(told) == case.answer
        # A refusal repeats the id that was asked for.
        is_theirs = MARK in told or (
            status < 300 and any(id_ in told for name, id_ in self.ids.items() if name in OF_ADA)
        )
        return is_theirs or not is_answer or case.says not in told


@dataclass(frozen=True)
class Case:
    """
    What the second user asks of a route, and what comes of it.

    Args:
        status: Of the answer.
        answer: The whole of it, where the status does not tell all.
        says: What is in it.
        path: In place of the route's own.
        owner: What the owner is answered to the same: it is not refused to everybody. 0 for what
            would be refused, or undo the world.
        seconds: How long a stream that never ends is listened to.
    """

    status: int = 404
    body: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    answer: Any = None
    says: str = ""
    path: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    owner: int = 200
    seconds: float = DEADLINE_SECONDS


RUN = {"assistant_id": "ask", "input": {"text": "x"}}
FOREIGN = {"assistant_id": "{assistant_id}", "input": {"text": "x"}}
SAYS = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
PARTS = [{"type": "text", "text": "x"}]
ITEMS = {"items": [{"role": "user", "content": "x"}]}
ITEM = {"namespace": ["n"], "key": "k"}

CRON = {"assistant_id": "ask", "schedule": "0 0 1 1 *", "input": {"text": "x"}}
#: It is told nothing: nothing is sent beyond this machine.
HOOK = {"url": f"https://1.1.1.1/{MARK}", "enabled": False}
HUMAN = {"type": "human", "content": "eve's"}
#: A question as the old front ends ask it.
OLD = {"query": "x", "conversation_id": "{session_id}"}
MCP = {"accept": "application/json"}


def command(method: str, **params: Any) -> dict[str, Any]:
    """A command of the event-streaming protocol."""
    return {"id": 1, "method": method, "params": params}


def rpc(method: str, **params: Any) -> dict[str, Any]:
    """A call by JSON-RPC: of a tool, or of an agent."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def message(**more: Any) -> dict[str, Any]:
    """What is said to an agent."""
    parts = [{"kind": "text", "text": "x"}]
    return {"role": "user", "kind": "message", "messageId": "m", "parts": parts, **more}


#: By route; several where there are several ways to what is the first user's.
CASES: dict[str, list[Case]] = {
    "POST /assistants": [
        Case(409, {"assistant_id": "{assistant_id}", "graph_id": "ask"}, owner=409),
        Case(409, {"assistant_id": "{assistant_id}", "graph_id": "ask", "if_exists": "do_nothing"}),
    ],
    "PATCH /assistants/{assistant_id}": [
        Case(body={"name": "eve's"}),
        Case(body={"name": "eve's"}, path="/assistants/{of_graph}", owner=404),
    ],
    "DELETE /assistants/{assistant_id}": [
        Case(params={"delete_threads": "true"}, owner=204),
        Case(path="/assistants/{of_graph}", owner=404),
    ],
    "POST /assistants/{assistant_id}/versions": [Case(body={})],
    "POST /assistants/{assistant_id}/latest": [
        Case(body={"version": 1}),
        Case(body={"version": 1}, path="/assistants/{of_graph}/latest", owner=404),
    ],
    "POST /assistants/search": [Case(200, {"metadata": {"owner": "ada"}}, answer=[])],
    "POST /assistants/count": [Case(200, {"metadata": {"owner": "ada"}}, answer=0)],
    "GET /assistants/{assistant_id}": [Case()],
    "GET /assistants/{assistant_id}/schemas": [Case()],
    "GET /assistants/{assistant_id}/graph": [Case()],
    "GET /assistants/{assistant_id}/subgraphs": [Case()],
    "GET /assistants/{assistant_id}/subgraphs/{namespace}": [Case()],
    "POST /threads": [
        Case(409, {"thread_id": "{thread_id}"}, owner=409),
        Case(409, {"thread_id": "{thread_id}", "if_exists": "do_nothing"}),
    ],
    "POST /threads/search": [
        Case(200, {}, says=UNKNOWN),
        Case(200, {"metadata": {"owner": "ada"}}, answer=[]),
        Case(200, {"ids": ["{thread_id}"]}, answer=[]),
        Case(200, {"status": "interrupted"}, answer=[]),
        Case(200, {"values": {"text": "{mark}"}}, answer=[]),
    ],
    "POST /threads/count": [
        Case(200, {}, answer=1),
        Case(200, {"values": {"text": "{mark}"}}, answer=0),
        Case(200, {"status": "interrupted", "metadata": {"owner": "ada"}}, answer=0),
    ],
    "GET /threads/{thread_id}": [Case(), Case(params={"include": "ttl"})],
    "PATCH /threads/{thread_id}": [
        Case(body={"metadata": {"note": "eve's"}}), Case(body={"ttl": {"ttl": 1}})
    ],
    "DELETE /threads/{thread_id}": [Case(owner=204)],
    "POST /threads/prune": [
        Case(200, {"thread_ids": ["{thread_id}"], "strategy": "keep_latest"}, says="0", owner=0),
        Case(200, {"thread_ids": ["{waiting}"]}, answer={"pruned_count": 0}),
    ],
    "POST /threads/{thread_id}/copy": [Case()],
    "GET /threads/{thread_id}/storage": [Case()],
    "GET /threads/{thread_id}/state": [Case(), Case(params={"subgraphs": "true"})],
    "GET /threads/{thread_id}/state/{checkpoint_id}": [Case()],
    "POST /threads/{thread_id}/state/checkpoint": [
        Case(body={"checkpoint": {"checkpoint_id": "{checkpoint_id}"}})
    ],
    "POST /threads/{thread_id}/state": [
        Case(body={"values": {"text": "eve's"}}),
        Case(body={"values": None, "as_node": "first", "checkpoint_id": "{checkpoint_id}"}),
    ],
    "GET /threads/{thread_id}/stream": [
        Case(), Case(params={"stream_mode": "state_update"}, headers={"last-event-id": "0-0"})
    ],
    "GET /threads/{thread_id}/history": [Case()],
    "POST /threads/{thread_id}/history": [Case(body={"limit": 9})],
    "POST /threads/{thread_id}/runs": [
        Case(body=RUN),
        Case(body={**RUN, "if_not_exists": "create"}),
        Case(body=FOREIGN, path="/threads/{thread_of_eve}/runs", owner=404),
        Case(body={**RUN, "multitask_strategy": "rollback"}, path="/threads/{busy}/runs", owner=0),
    ],
    "POST /threads/{thread_id}/runs/stream": [
        Case(body=RUN),
        Case(body={**RUN, "if_not_exists": "create"}),
        Case(body=FOREIGN, path="/threads/{thread_of_eve}/runs/stream", owner=404),
    ],
    "POST /threads/{thread_id}/runs/wait": [
        Case(body=RUN),
        Case(body={**RUN, "if_not_exists": "create"}),
        Case(body=FOREIGN, path="/threads/{thread_of_eve}/runs/wait", owner=404),
    ],
    "POST /runs": [Case(body=FOREIGN)],
    "POST /runs/batch": [Case(body=[RUN, FOREIGN])],
    "POST /runs/stream": [Case(body=FOREIGN)],
    "POST /runs/wait": [Case(body=FOREIGN)],
    "GET /threads/{thread_id}/runs": [Case(), Case(params={"status": "success"})],
    "GET /threads/{thread_id}/runs/{run_id}": [
        Case(), Case(path="/threads/{thread_of_eve}/runs/{run_id}", owner=404)
    ],
    "DELETE /threads/{thread_id}/runs/{run_id}": [Case(owner=204)],
    "GET /threads/{thread_id}/runs/{run_id}/join": [Case(200, says="404")],
    "GET /threads/{thread_id}/runs/{run_id}/stream": [
        Case(200, says="404"),
        Case(200, says="404", headers={"last-event-id": "-1"}),
        Case(200, says="404", path="/threads/{thread_of_eve}/runs/{run_id}/stream"),
    ],
    "GET /runs/{run_id}/stream": [Case(200, says="404")],
    "POST /threads/{thread_id}/runs/{run_id}/cancel": [
        Case(path="/threads/{busy}/runs/{pending}/cancel", params={"action": "rollback"}, owner=0),
        Case(path="/threads/{waiting}/runs/{late}/cancel", owner=202),
    ],
    "POST /runs/cancel": [
        Case(body={"thread_id": "{busy}", "run_ids": ["{pending}"]}, owner=0),
        Case(body={"status": "all"}, owner=204),
    ],
    "POST /runs/crons": [Case(body={**CRON, "assistant_id": "{assistant_id}"})],
    "POST /threads/{thread_id}/runs/crons": [
        Case(body=CRON),
        Case(
            body={**CRON, "assistant_id": "{assistant_id}"},
            path="/threads/{thread_of_eve}/runs/crons",
            owner=404,
        ),
    ],
    "POST /runs/crons/search": [
        Case(200, {}, answer=[]), Case(200, {"thread_id": "{thread_id}"}, answer=[])
    ],
    "POST /runs/crons/count": [
        Case(200, {}, answer=0), Case(200, {"thread_id": "{thread_id}"}, answer=0)
    ],
    "GET /runs/crons/{cron_id}": [Case()],
    "PATCH /runs/crons/{cron_id}": [
        Case(body={"metadata": {"note": "eve's"}}), Case(body={"enabled": False})
    ],
    "DELETE /runs/crons/{cron_id}": [Case(owner=204)],
    "POST /threads/{thread_id}/commands": [
        Case(body=command("run.start", **RUN)),
        Case(
            body=command("run.start", **FOREIGN),
            path="/threads/{thread_of_eve}/commands",
            owner=404,
        ),
        Case(200, command("input.respond", interrupt_id="x", response=1), says="no_such_run"),
        Case(body=command("input.inject", message={"role": "user", "content": "x"})),
        Case(200, command("agent.getTree"), says="no_such_run"),
        Case(200, command("agent.getTree", run_id="{run_id}"), says="no_such_run"),
        Case(body=command("state.get")),
        Case(body=command("state.listCheckpoints")),
        Case(body=command("state.fork", checkpoint_id="{checkpoint_id}")),
    ],
    "POST /threads/{thread_id}/stream/events": [
        Case(body={"channels": ["values", "lifecycle", "messages"]}),
        Case(body={"channels": ["values"], "since": 0}),
    ],
    "WEBSOCKET /threads/{thread_id}/stream/events": [Case(owner=101)],
    "POST /mcp": [
        Case(200, rpc("tools/list"), headers=MCP, says='"ask"'),
        Case(200, rpc("tools/call", name="{tool}", arguments={}), headers=MCP, says="Unknown tool"),
    ],
    "POST /mcp/": [Case(200, rpc("tools/list"), headers=MCP, says='"ask"')],
    "GET /mcp": [Case(405, owner=405)],
    "DELETE /mcp": [Case(owner=404)],
    "POST /a2a/{assistant_id}": [
        Case(200, rpc("message/send", message=message()), says="not found"),
        Case(
            200, rpc("message/send", message=message(contextId="{thread_id}")), says="error",
            path="/a2a/chat",
            owner=0,
        ),
        Case(200, rpc("ListTasks"), path="/a2a/ask", answer=None, says='"totalSize":0'),
        Case(200, rpc("ListTasks", contextId="{thread_id}"), path="/a2a/ask", says='"totalSize":0'),
        Case(200, rpc("GetTask", id="{task}"), path="/a2a/ask", says="not found"),
        Case(200, rpc("CancelTask", id="{task}"), path="/a2a/ask", says="not found"),
    ],
    # Of everybody's work, and of nobody's: for whom it is, see tests/api/test_observability.py.
    "GET /metrics": [Case(403, owner=403)],
    "GET /a2a/{assistant_id}": [Case(400)],
    "GET /a2a/{assistant_id}/.well-known/agent-card.json": [Case(400)],
    "GET /a2a/{assistant_id}/.well-known/agent.json": [Case(400)],
    "GET /.well-known/agent-card.json": [
        Case(400, params={"assistant_id": "{assistant_id}"})
    ],
    "PUT /store/items": [Case(204, {**ITEM, "value": {"text": "eve's"}}, owner=204)],
    "GET /store/items": [
        Case(200, params={"namespace": "n", "key": "k"}, says="eve's"),
        Case(200, params={"namespace": "ada.n", "key": "k"}, says="null"),
    ],
    "DELETE /store/items": [Case(204, {**ITEM, "namespace": ["ada", "n"]}, owner=204)],
    "POST /store/items/search": [
        Case(200, {"namespace_prefix": []}, says="eve's"),
        Case(200, {"namespace_prefix": ["ada"]}, answer={"items": []}, owner=0),
    ],
    "POST /store/namespaces": [
        Case(200, {}, says="eve"), Case(200, {"prefix": ["ada"]}, answer={"namespaces": []}, owner=0)
    ],
    "POST /api/sessions": [Case(409, {"id": "{thread_id}"}, owner=409)],
    # What is asked over it is in tests/api/test_session_socket.py.
    "WEBSOCKET /api/ws": [Case(101, owner=101)],
    "GET /api/events": [Case(200, params={"since": "-1"}, seconds=2.0)],
    "POST /api/webhooks": [Case(200, {"url": "https://1.1.1.1/eve", "enabled": False})],
    "GET /api/webhooks": [Case(200)],
    "GET /api/webhooks/{webhook_id}": [Case()],
    "PATCH /api/webhooks/{webhook_id}": [Case(body={"description": "eve's"})],
    "DELETE /api/webhooks/{webhook_id}": [Case(owner=204)],
    "GET /api/webhooks/{webhook_id}/deliveries": [Case()],
    "POST /api/webhooks/{webhook_id}/deliveries/{delivery_id}/replay": [Case(owner=404)],
    "GET /api/sessions": [
        Case(200, says=UNKNOWN), Case(200, params={"user_id": "ada"}, says='"data":[]')
    ],
    "GET /api/sessions/{session_id}": [Case()],
    "PATCH /api/sessions/{session_id}": [Case(body={"name": "eve's"})],
    "POST /api/sessions/{session_id}/restore": [Case()],
    "POST /api/sessions/{session_id}/title": [Case()],
    "PUT /api/sessions/{session_id}/messages/{message_id:path}/feedback": [
        Case(body={"score": 1}, path="/api/sessions/{session_id}/messages/{message_id}/feedback")
    ],
    "DELETE /api/sessions/{session_id}/messages/{message_id:path}/feedback": [
        Case(owner=204, path="/api/sessions/{session_id}/messages/{message_id}/feedback")
    ],
    "DELETE /api/sessions/{session_id}": [
        Case(owner=204, params={"purge": "true"}), Case(owner=404),
    ],
    "GET /api/sessions/{session_id}/messages": [Case()],
    "POST /api/sessions/{session_id}/messages": [
        # Who may not see a file cannot send it to where they could.
        Case(
            body={"query": "x", "attachments": ["{file_id}"]},
            path="/api/sessions/{thread_of_eve}/messages",
            owner=404,
        ),
        Case(body={"query": "hello"}), Case(body={"query": "hello", "stream": True}),
        Case(body={"query": "hello"}, headers={"idempotency-key": "k"}),
        Case(body={"query": "hello", "parent_id": "{message_id}"}),
    ],
    "POST /api/sessions/{session_id}/messages/{message_id:path}/regenerate": [
        Case(body={}, path="/api/sessions/{session_id}/messages/{message_id}/regenerate")
    ],
    "POST /api/sessions/{session_id}/shares": [
        Case(body={}), Case(body={"audience": "users", "users": ["eve"], "role": "editor"}, owner=0)
    ],
    "GET /api/sessions/{session_id}/shares": [Case()],
    "DELETE /api/sessions/{session_id}/shares": [Case(owner=204)],
    "DELETE /api/sessions/{session_id}/shares/users": [Case(params={"user": "eve"}, owner=404)],
    "DELETE /api/sessions/{session_id}/shares/{share_id}": [Case(owner=204)],
    # Whoever has the token may: that is what it is for. Without it there is nothing.
    "GET /api/shares/{token}": [Case(path="/api/shares/{share_id}", owner=404)],
    "POST /api/shares/{token}/clone": [Case(path="/api/shares/{share_id}/clone", owner=404)],
    # Nobody's: they are of langgraph.json.
    "POST /ui/{graph_id}": [Case(body={"name": "x"}, path="/ui/ask", owner=404)],
    "GET /ui/{graph_id}/{file}": [Case(path="/ui/ask/entrypoint.js", owner=404)],
    "GET /api/sessions/{session_id}/export": [Case(), Case(params={"format": "markdown"})],
    "GET /api/sessions/export": [Case(200, says=UNKNOWN)],
    "POST /api/sessions/import": [
        Case(200, {"messages": [{"role": "user", "content": "x"}]}, params={"dry_run": "true"})
    ],
    "GET /api/imports/{import_id}": [Case()],
    "GET /api/audit": [
        Case(
            200, params={"owner": "ada"}, answer={"data": [], "next_cursor": None, "has_more": False}
        ),
        Case(
            200, params={"actor": "ada"}, answer={"data": [], "next_cursor": None, "has_more": False}
        ),
    ],
    # It would undo the world.
    "DELETE /api/users/{user_id}/data": [Case(403, path="/api/users/ada/data", owner=0)],
    "POST /api/users/{user_id}/export": [Case(403, path="/api/users/ada/export", owner=202)],
    # Sooner or later there is one.
    "GET /api/users/{user_id}/export": [Case(403, path="/api/users/ada/export", owner=0)],
    "GET /api/users/{user_id}/jobs/{job_id}": [
        Case(path="/api/users/ada/jobs/{thread_id}", owner=404)
    ],
    "PATCH /api/sessions/{session_id}/messages/{message_id:path}": [
        Case(body={"content": "{mark}"}, path="/api/sessions/{session_id}/messages/{message_id}")
    ],
    "DELETE /api/sessions/{session_id}/messages/{message_id:path}": [Case(owner=204, path="/api/sessions/{session_id}/messages/{message_id}")],
    "PUT /api/sessions/{session_id}/head": [Case(body={"message_id": "{message_id}"})],
    "POST /api/sessions/{session_id}/fork": [
        Case(body={}), Case(body={"message_id": "{message_id}"})
    ],
    "POST /api/sessions/{session_id}/stop": [Case(owner=409)],
    "GET /api/sessions/{session_id}/stream": [
        Case(owner=204), Case(headers={"last-event-id": "1-1"}, owner=204)
    ],
    "GET /api/stats": [
        Case(200, params={"group_by": "user", "user_id": "ada"}, says='"data":[]')
    ],
    "GET /api/search": [
        Case(200, params={"q": "{mark}"}, answer={"data": [], "next_cursor": None, "has_more": False}),
        Case(params={"q": "{mark}", "session_id": "{session_id}"}),
    ],
    # No form: whoever uploads a file has one of their own.
    "POST /api/files": [Case(422, owner=422)],
    "GET /api/files/{file_id}": [Case(), Case(path="/api/files/{unsent_file}")],
    "GET /v1/models": [Case(200, says='"chat"')],
    "GET /v1/models/{model}": [Case(200, says='"chat"', path="/v1/models/chat")],
    "POST /v1/chat/completions": [
        Case(body={**SAYS, "conversation_id": "{session_id}"}),
        Case(body={**SAYS, "conversation_id": "{session_id}", "stream": True}),
        Case(body=SAYS, headers={"x-chat-id": "{session_id}"}),
        Case(body={**SAYS, "model": "{assistant_id}"}, owner=0),
    ],
    "POST /v1/responses": [
        Case(body={"input": "x", "conversation": "{session_id}", "model": "chat"}),
        Case(body={"input": "x", "previous_response_id": "{run_id}", "model": "chat"}, owner=0),
    ],
    "GET /v1/responses/{response_id}": [
        Case(path="/v1/responses/{run_id}"),
        Case(path="/v1/responses/{run_id}", params={"stream": "true"}),
    ],
    "POST /v1/responses/{response_id}/cancel": [Case(path="/v1/responses/{run_id}/cancel")],
    "POST /v1/conversations": [Case(200, {"metadata": {"owner": "ada"}}, says="eve")],
    "GET /v1/conversations/{conversation_id}": [Case(path="/v1/conversations/{session_id}")],
    "POST /v1/conversations/{conversation_id}": [
        Case(body={"metadata": {"note": "eve's"}}, path="/v1/conversations/{session_id}")
    ],
    "DELETE /v1/conversations/{conversation_id}": [
        Case(path="/v1/conversations/{session_id}", owner=0)
    ],
    "GET /v1/conversations/{conversation_id}/items": [
        Case(path="/v1/conversations/{session_id}/items")
    ],
    "POST /v1/conversations/{conversation_id}/items": [
        Case(body=ITEMS, path="/v1/conversations/{session_id}/items")
    ],
    "GET /v1/conversations/{conversation_id}/items/{item_id:path}": [
        Case(path="/v1/conversations/{session_id}/items/{message_id}")
    ],
    "DELETE /v1/conversations/{conversation_id}/items/{item_id:path}": [
        Case(path="/v1/conversations/{session_id}/items/{message_id}", owner=0)
    ],
    "POST /api/ai/chat": [
        Case(body={"id": "{session_id}", "messages": [{"role": "user", "parts": PARTS}]})
    ],
    "GET /api/ai/chat/{chat_id}/stream": [
        Case(204, path="/api/ai/chat/{session_id}/stream", owner=204)
    ],
    "GET /api/sessions/{session_id}/context": [Case()],
    "POST /api/sessions/{session_id}/context": [Case(body={"messages": [HUMAN]})],
    "DELETE /api/sessions/{session_id}/context": [Case(owner=204)],
    "POST /api/conversations": [
        Case(403, {"user_id": "ada", "chat_type": "general_chat"}),
    ],
    "GET /api/users/{user_id}/conversations": [
        Case(200, params={"chat_types": "llm"}, path="/api/users/ada/conversations", says="[]")
    ],
    "DELETE /api/conversations/{conversation_id}": [
        Case(path="/api/conversations/{session_id}", owner=0)
    ],
    "PUT /api/conversations/{conversation_id}/update_name": [
        Case(body={"name": "eve's"}, path="/api/conversations/{session_id}/update_name")
    ],
    "GET /api/conversations/{conversation_id}/messages": [
        Case(path="/api/conversations/{session_id}/messages")
    ],
    # Who calls is what counts, and not who registered.
    "POST /api/users/register": [Case(501, {"username": "eve", "password": "x"}, owner=501)],
    "POST /api/users/login": [Case(501, {"username": "eve", "password": "x"}, owner=501)],
    "GET /api/llm_model/list_running_models": [Case(200, says="chat")],
    "POST /api/chat": [Case(body=OLD)],
    "POST /api/chat/knowledge_base_chat": [Case(body=OLD)],
    "POST /api/chat/search_engine_chat": [Case(body=OLD)],
    "POST /api/chat/recommend_chat": [Case(body=OLD)],
    "POST /api/chat/agent_chat": [Case(body=OLD)],
    "POST /chat/chat": [Case(body=OLD), Case(body={**OLD, "stream": True})],
    "POST /chat/knowledge_base_chat": [Case(body=OLD)],
    "POST /chat/search_engine_chat": [Case(body=OLD)],
    "POST /chat/file_chat": [Case(body=OLD)],
    "POST /chat/agent_chat": [Case(body=OLD)],
    "POST /chat/kb_chat": [Case(body=OLD)],
    "POST /chat/chat/completions": [Case(body={**SAYS, "conversation_id": "{session_id}"})],
    "POST /chat/feedback": [Case(body={"message_id": "{message_id}", "score": 1})],
    "GET /api/pairs": [Case(params={"conversation_id": "{session_id}"})],
    "GET /api/pairs/{message_id:path}": [Case(path="/api/pairs/{message_id}")],
    "PUT /api/pairs/{message_id:path}/feedback": [
        Case(path="/api/pairs/{message_id}/feedback", body={"score": 1})
    ],
    "POST /agui": [
        Case(
            body={
                "threadId": "{session_id}",
                "runId": "r",
                "messages": [{"id": "m", "role": "user", "content": "x"}],
            }
        )
    ],
}  # fmt: skip

#: What is another thing there: namespaces are named as they are, and not rewritten.
BUILT_IN: dict[str, list[Case]] = {
    "PUT /store/items": [
        Case(204, {**ITEM, "namespace": ["eve", "n"], "value": {"text": "eve's"}}, owner=403),
        Case(403, {**ITEM, "namespace": ["ada", "n"], "value": {"text": "eve's"}}, owner=0),
        Case(403, {**ITEM, "value": {"text": "eve's"}}, owner=403),
    ],
    "GET /store/items": [
        Case(200, params={"namespace": "eve.n", "key": "k"}, says="eve's", owner=403),
        Case(403, params={"namespace": "ada.n", "key": "k"}),
    ],
    "DELETE /store/items": [Case(403, {**ITEM, "namespace": ["ada", "n"]}, owner=204)],
    "POST /store/items/search": [
        Case(200, {"namespace_prefix": []}, says="eve's"),
        Case(403, {"namespace_prefix": ["ada"]}),
    ],
    "POST /store/namespaces": [Case(200, {}, says="eve"), Case(403, {"prefix": ["ada"]})],
}

#: What needs no name: a path of it is a secret of its own, or a page's element asks for it.
CAPABILITIES = ("GET /api/shares/{token}", "GET /ui/{graph_id}/{file}")

#: What takes from the world what others are about: the owner tries it last, in this order.
LAST = [
    "POST /runs/cancel",
    "DELETE /runs/crons/{cron_id}",
    "DELETE /threads/{thread_id}/runs/{run_id}",
    "DELETE /runs/crons/{cron_id}",
    "DELETE /assistants/{assistant_id}",
    "DELETE /api/sessions/{session_id}/shares/{share_id}",
    "DELETE /api/sessions/{session_id}/shares",
    "DELETE /api/webhooks/{webhook_id}",
    "DELETE /api/sessions/{session_id}/messages/{message_id:path}",
    "DELETE /api/sessions/{session_id}/context",
    "DELETE /api/sessions/{session_id}",
    "POST /threads/prune",
    "DELETE /threads/{thread_id}",
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(tmp_path: Path, kind: str, issuer: Issuer) -> Settings:
    sections: dict[str, Any] = {
        "graphs": {name: f"tests.graph.sample_graphs:{name}" for name in ("ask", "chat")}
    }
    known: Any = {"auth": ("keys", "jwt"), "jwt_issuer": issuer.url, "jwt_audience": (AUDIENCE,)}
    if kind == "custom":
        known = {}
        sections["auth"] = {"path": "tests.api.auths:owners"}
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps(sections))
    return Settings(
        config=config, compat=("fufan", "chatchat"), auth_failures_per_minute=0, **known
    )


@pytest.fixture
async def http(
    url: str, services: Services, issuer: Issuer, kind: str
) -> AsyncIterator[httpx.AsyncClient]:
    async with Http(url) as http:
        if kind == "built in":
            shown = {
                "ada": [await make_key(services.db, "ada"), issuer.token("ada")],
                "eve": [await make_key(services.db, "eve")],
                "bob": [issuer.token("bob")],
            }
            http.has = {
                f"Bearer {name}": cycle([f"Bearer {one}" for one in several])
                for name, several in shown.items()
            }
        yield http


@pytest.fixture
def routes(services: Services) -> list[str]:
    """Every method and path of the application."""
    return sorted(_routes(services))


def _routes(services: Services) -> Iterator[str]:
    for route in create_app(services).routes:
        if isinstance(route, Route):
            yield from (f"{method} {route.path}" for method in route.methods or ())
        elif isinstance(route, WebSocketRoute):
            yield f"WEBSOCKET {route.path}"


def _guarded(routes: list[str]) -> list[str]:
    """The routes that tell of somebody's things."""
    others = {f"{method} /docs/oauth2-redirect" for method in ("GET", "HEAD")}
    for router in (unserved.fufan, unserved.chatchat):
        for route in router.routes:
            assert isinstance(route, Route)
            others |= {f"{method} {route.path}" for method in route.methods or ()}
    return [name for name in routes if name.split()[1] not in OPEN_PATHS and name not in others]


async def _sent_file(http: httpx.AsyncClient, name: str) -> str:
    form = {"file": (name, f"{name} {MARK}".encode())}
    return str((await http.post("/api/files", files=form, headers=ADA)).json()["id"])


@pytest.fixture
async def world(http: httpx.AsyncClient, routes: list[str], kind: str) -> World:
    """The first user's: all that there can be."""
    metadata = {"note": MARK}

    async def made(path: str, body: Any, *, who: dict[str, str] = ADA) -> Any:
        answer = await http.post(path, json=body, headers=who)
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    thread_id = (await made("/threads", {"metadata": metadata}))["thread_id"]
    asked = {**RUN, "input": {"text": MARK}, "metadata": metadata}
    await made(f"/threads/{thread_id}/runs/wait", asked)
    queued = [
        await made("/runs", {**asked, "after_seconds": 3600, "on_completion": "keep"})
        for _ in range(2)
    ]
    session = {"name": MARK, "assistant_id": "chat", "user_id": "ada"}
    session_id = (await made("/api/sessions", session))["id"]
    file_ids = [await _sent_file(http, name) for name in (MARK, "unsent")]
    asked_with = {"query": MARK, "attachments": file_ids[:1]}
    messages = f"/api/sessions/{session_id}/messages"
    said = await made(messages, asked_with)
    opinion = f"{messages}/{said['id']}/feedback"
    await http.put(opinion, json={"score": 1, "reason": MARK}, headers=ADA)
    for name, who, note in (("ada", ADA, MARK), ("eve", EVE, "eve's")):
        namespace = ["n"] if kind == "custom" else [name, "n"]
        item = {"namespace": namespace, "key": "k", "value": {"note": note}}
        assert (await http.put("/store/items", json=item, headers=who)).status_code == 204

    named = {"graph_id": "ask", "name": "adas", "description": MARK, "metadata": metadata}
    reading = [f"/threads/{thread_id}/{part}" for part in ("runs", "state")]
    found = [(await http.get(path, headers=ADA)).json() for path in reading]
    if "POST /runs/crons" in _guarded(routes):
        cron = await made(f"/threads/{thread_id}/runs/crons", {**CRON, "metadata": metadata})
    else:
        cron = {"cron_id": UNKNOWN}
    ids = {
        **await _exchanged(http, session_id),
        "cron_id": cron["cron_id"], "task": f"{thread_id}:{found[0][0]['run_id']}", "tool": "adas",
        "thread_id": thread_id, "busy": queued[0]["thread_id"], "pending": queued[0]["run_id"],
        "waiting": queued[1]["thread_id"], "late": queued[1]["run_id"], "session_id": session_id,
        "run_id": found[0][0]["run_id"], "checkpoint_id": found[1]["checkpoint"]["checkpoint_id"],
        "assistant_id": (await made("/assistants", named))["assistant_id"], "namespace": "x",
        "of_graph": system_assistant_id("ask"), "mark": MARK, "delivery_id": UNKNOWN,
        "webhook_id": (await made("/api/webhooks", HOOK))["id"],
        "thread_of_eve": UNKNOWN, "message_id": said["id"], "file_id": file_ids[0],
        "unsent_file": file_ids[1],
    }  # fmt: skip
    await made("/threads", {"thread_id": UNKNOWN}, who=EVE)
    return World(ids, kind)


async def _exchanged(http: httpx.AsyncClient, session_id: str) -> dict[str, str]:
    """A link to the first user's session, and an import of theirs."""
    shares, imports = f"/api/sessions/{session_id}/shares", "/api/sessions/import"
    share = await http.post(shares, json={"mode": "live"}, headers=ADA)
    file = {"messages": [{"role": "user", "content": MARK}]}
    params = {"background": True, "dry_run": True}
    begun = await http.post(imports, params=params, json=file, headers=ADA)
    return {"share_id": share.json()["id"], "import_id": begun.json()["id"]}


async def _send(
    http: httpx.AsyncClient, world: World, route: str, case: Case, who: dict[str, str]
) -> tuple[int, str]:
    """The status, and what is told: of a stream that goes on, what is told soon."""
    method, path = route.split()
    filled = world.fill(case.path or path)
    if method == "WEBSOCKET":
        return await _open(http, filled, _shown(http, who))
    told = b""
    request = http.stream(
        method,
        filled,
        json=world.fill(case.body),
        params=world.fill(case.params),
        headers={**who, **world.fill(case.headers)},
    )
    async with request as answer:
        is_stream = answer.headers.get("content-type", "").startswith(EVENTS)
        listened = case.seconds if who is EVE else 0.5 if who is ADA else 1.0
        try:
            async with asyncio.timeout(listened if is_stream else DEADLINE_SECONDS):
                async for chunk in answer.aiter_bytes():
                    told += chunk
        except TimeoutError:
            assert is_stream
    return answer.status_code, told.decode()


def _shown(http: httpx.AsyncClient, who: dict[str, str]) -> dict[str, str]:
    return http.show(who) if isinstance(http, Http) else who


async def _told_a_third(
    http: httpx.AsyncClient, world: World, route: str, case: Case
) -> tuple[int, str] | None:
    """What a third user is told that is the first one's or the second one's; or a fault of the server."""
    status, told = await _send(http, world, route, case, BOB)
    is_of_eve = UNKNOWN in told and status < 300
    if status >= 500 and status != 501:
        return status, told
    return (
        (status, told)
        if is_of_eve or world.fault(replace(case, answer=None, says=""), status, told)
        else None
    )


async def _open(http: httpx.AsyncClient, path: str, who: dict[str, str]) -> tuple[int, str]:
    """The status of a WebSocket's handshake, and what is told instead of one."""
    url = str(http.base_url).replace("http", "ws", 1).rstrip("/") + path
    try:
        async with connect(url, additional_headers=who) as socket:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await socket.recv()
            return 101, ""
    except ConnectionClosed as closed:
        return (closed.rcvd.code if closed.rcvd else 0) - 4000, ""
    except InvalidStatus as refused:
        return refused.response.status_code, (refused.response.body or b"").decode()


async def _all_of_ada(http: httpx.AsyncClient, world: World) -> dict[str, Any]:
    """What the first user sees of what is theirs."""
    threads = (await http.post("/threads/search", json={}, headers=ADA)).json()
    seen: dict[str, Any] = {"threads": threads}
    for path in (
        "/threads/{thread_id}/history", "/threads/{thread_id}/runs", "/threads/{busy}/runs",
        "/threads/{busy}/state", "/api/sessions", "/api/sessions/{session_id}/messages",
        f"/store/items?namespace={'n' if world.kind == 'custom' else 'ada.n'}&key=k",
        "/assistants/{assistant_id}",
    ):  # fmt: skip
        answer = await http.get(world.fill(path), headers=ADA)
        assert answer.status_code == 200, path
        seen[path] = answer.json()
    return seen


def test_every_route_has_its_case(routes: list[str]) -> None:
    guarded = _guarded(routes)
    assert len(guarded) > 45
    assert [route for route in guarded if route not in CASES] == []


async def test_nobody_gets_in_without_a_name(http: httpx.AsyncClient, routes: list[str]) -> None:
    for route in routes:
        status, _ = await _send(http, World({}), route, Case(), {})
        is_open = route.split()[1] in OPEN_PATHS or (route in CAPABILITIES and status == 404)
        # Over a socket of sessions they may say who they are in its first frame.
        is_late = (status, route) == (101, "WEBSOCKET /api/ws")
        assert status == 401 or is_open or is_late, route


async def test_others_get_and_change_nothing_of_the_first_ones(
    http: httpx.AsyncClient, world: World, routes: list[str], services: Services
) -> None:
    before = await _all_of_ada(http, world)
    faults = []
    for route in _guarded(routes):
        for case in world.cases(route):
            status, told = await _send(http, world, route, case, EVE)
            if status != case.status or world.fault(case, status, told):
                faults.append((route, case, status, told))
            if world.kind == "built in" and (
                told_bob := await _told_a_third(http, world, route, case)
            ):
                faults.append((route, case, *told_bob))
    assert not faults, "\n".join(map(str, faults))
    assert await _all_of_ada(http, world) == before
    pending = await in_flight(services.db, ["pending", "running"], access=EVERYTHING)
    of_ada = [("pending", "busy"), ("late", "waiting")]
    assert pending == [(world.ids[run], world.ids[thread]) for run, thread in of_ada]

    # The owner is not refused: it is not the request that is wrong.
    for route in sorted(_guarded(routes), key=_order):
        for case in (case for case in world.cases(route) if case.owner):
            status, told = await _send(http, world, route, case, ADA)
            if status != case.owner or (
                case.answer is not None and json.loads(told) == case.answer
            ):
                faults.append((route, case, status, told))
    assert not faults, "\n".join(map(str, faults))


async def test_a_second_user_gets_nothing_over_a_socket(
    http: httpx.AsyncClient, world: World
) -> None:
    url = world.fill(f"{http.base_url}/threads/{{thread_id}}/stream/events")
    codes = []
    for who in (EVE, ADA):
        shown = _shown(http, who)
        async with connect(url.replace("http", "ws", 1), additional_headers=shown) as socket:
            try:
                await socket.send(json.dumps(command("state.get")))
                told = json.loads(await socket.recv())
            except ConnectionClosed as closed:
                codes.append(closed.rcvd and closed.rcvd.code)
    with pytest.raises(InvalidStatus) as refused:
        await connect(url.replace("http", "ws", 1))

    assert codes == [4404]
    assert told["result"]["values"]["text"] == MARK
    assert refused.value.response.status_code == 401


async def test_a_conversation_of_a_door_is_its_callers_whatever_it_is_called(
    http: httpx.AsyncClient,
) -> None:
    body = {**SAYS, "conversation_id": "my chat"}
    made = []
    for who in (ADA, EVE):
        answer = await http.post(
            "/v1/chat/completions", json=body, headers={**who, "x-user-id": "somebody"}
        )
        assert answer.status_code == 200, answer.text
        made.append(answer.json()["conversation_id"])
    mine = (await http.get(f"/api/sessions/{made[0]}", headers=ADA)).json()

    assert made[0] != made[1]
    assert (mine["user_id"], mine["metadata"]["client_id"]) == ("ada", "my chat")
    assert (await http.get(f"/api/sessions/{made[0]}", headers=EVE)).status_code == 404


def _order(route: str) -> tuple[int, str]:
    return LAST.index(route) if route in LAST else -1, route
