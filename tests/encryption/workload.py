"""A day in the life of a server: every door is used, and everything that people write has a mark."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from langgraph_sdk import get_client
from websockets.asyncio.client import connect

from api import sdk_cache
from tests.receiver import Receiver

#: What people write; a word, and some that are written without spaces.
WORD = "Qzvortexmarker7718kw"
DENSE = "鸞鶴霰雹"
MARK = f"{WORD} {DENSE}"
#: What is not secret: it is in ids and access keys, so that whoever looks finds it.
CLEAR = "plainlyvisible4242tag"

ADA = {"authorization": f"Bearer {CLEAR}"}
UNKNOWN = "00000000-0000-7000-8000-00000000dead"
DEADLINE_SECONDS = 60.0


@dataclass
class Made:
    """What the workload leaves, for those who want to see it again."""

    session_id: str = ""
    thread_id: str = ""
    file_id: str = ""
    share_url: str = ""
    cron_id: str = ""
    import_id: str = ""
    webhook_id: str = ""
    assistant_id: str = ""


class Day:
    """
    One caller's day.

    Args:
        receiver: Where webhooks are.
    """

    def __init__(self, url: str, http: httpx.AsyncClient, receiver: Receiver) -> None:
        self.url = url
        self.http = http
        self.receiver = receiver
        self.made = Made()

    async def post(self, path: str, body: Any, **headers: str) -> Any:
        return await self._sent("POST", path, body, headers)

    async def put(self, path: str, body: Any) -> Any:
        return await self._sent("PUT", path, body, {})

    async def patch(self, path: str, body: Any) -> Any:
        return await self._sent("PATCH", path, body, {})

    async def fails(self, path: str, body: Any) -> None:
        """Ask for what the graph does not bear."""
        answer = await self.http.post(path, json=body, headers=ADA)
        assert answer.status_code == 502, answer.text

    async def get(self, path: str, **params: Any) -> httpx.Response:
        answer = await self.http.get(path, params=params, headers=ADA)
        assert answer.status_code < 300, (path, answer.status_code, answer.text)
        return answer

    async def succeeds(self, path: str) -> None:
        """Wait for the end of a job that is told of there."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                told = (await self.get(path)).json()
                if told["status"] in ("success", "error"):
                    break
                await asyncio.sleep(0.05)
        assert told["status"] == "success", told

    async def _sent(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        answer = await self.http.request(method, path, json=body, headers={**ADA, **headers})
        assert answer.status_code < 300, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content[:1] in b"{[" else answer.text

    # ------------------------------------------------------------------ LangGraph's API

    async def runs(self) -> None:
        """Threads, and runs of all endings."""
        async with get_client(url=self.url, headers=ADA) as client:
            made = await client.assistants.create(
                "kept",
                context={"language": MARK},
                metadata={"note": MARK},
                name="helper",
                description=MARK,
            )
            self.made.assistant_id = made["assistant_id"]
            await client.assistants.update(made["assistant_id"], metadata={"note": f"{MARK} 2"})
            thread = await client.threads.create(metadata={"note": MARK})
            thread_id = self.made.thread_id = thread["thread_id"]
            modes: Any = ["values", "updates", "messages-tuple", "custom", "debug", "tasks"]
            events = [
                part.event
                async for part in client.runs.stream(
                    thread_id,
                    made["assistant_id"],
                    input=says(MARK),
                    stream_mode=modes,
                    stream_resumable=True,
                    metadata={"note": MARK},
                    config={"configurable": {"who": MARK}, "tags": [MARK]},
                    webhook=f"{self.receiver.url}/{WORD}",
                )
            ]
            assert "error" not in events
            assert "messages" in events
            # A second one, on top of what is there.
            await client.runs.wait(thread_id, "kept", input=says(f"more {MARK}"))
            failed: Any = await client.runs.wait(
                thread_id, "kept", input=says(f"fail {MARK}"), raise_error=False
            )
            assert "__error__" in failed
            state: Any = await client.threads.get_state(thread_id)
            forked = await client.threads.update_state(
                thread_id, {"summary": MARK, "messages": []}, checkpoint=state["checkpoint"]
            )
            assert forked["checkpoint"]
            await client.threads.copy(thread_id)
            await self._interrupted(client)
            await self._cut_off(client)
            await client.runs.wait(None, "kept", input=says(MARK))

    async def _interrupted(self, client: Any) -> None:
        waiting = (await client.threads.create(metadata={"note": MARK}))["thread_id"]
        await client.runs.wait(waiting, "kept", input=says(f"ask {MARK}"))
        assert (await client.threads.get(waiting))["status"] == "interrupted"
        answered = (await client.threads.create(metadata={"note": MARK}))["thread_id"]
        await client.runs.wait(answered, "kept", input=says(f"ask {MARK}"))
        await client.runs.wait(answered, "kept", command={"resume": MARK})

    async def _cut_off(self, client: Any) -> None:
        """A run that is stopped, one that waits behind it, and one that is to begin much later."""
        thread_id = (await client.threads.create(metadata={"note": MARK}))["thread_id"]
        run = await client.runs.create(thread_id, "kept", input=says(f"wait {MARK}"))
        await client.runs.create(
            thread_id, "kept", input=says(f"queued {MARK}"), multitask_strategy="enqueue"
        )
        await client.runs.cancel(thread_id, run["run_id"], wait=True)
        await client.runs.create(None, "kept", input=says(MARK), after_seconds=3600)

    async def items(self) -> None:
        """The long-term memory: kept, found by likeness and by value."""
        async with get_client(url=self.url, headers=ADA) as client:
            value = {"text": MARK, "about": {"who": MARK}, "size": 5}
            await client.store.put_item(["notes"], "k", value)
            assert (await client.store.get_item(["notes"], "k"))["value"] == value
            liked = await client.store.search_items(["notes"], query=MARK)
            assert liked["items"][0]["value"] == value

    async def crons(self) -> None:
        """What is to be run by the clock."""
        made = await self.post(
            "/runs/crons",
            {
                "assistant_id": "kept",
                "schedule": "0 0 1 1 *",
                "input": says(MARK),
                "metadata": {"note": MARK},
                "webhook": f"{self.receiver.url}/{WORD}",
            },
        )
        self.made.cron_id = made["cron_id"]
        await self.patch(f"/runs/crons/{made['cron_id']}", {"metadata": {"more": MARK}})

    async def event_streaming(self) -> None:
        """The thread-centric protocol, by commands and over its WebSocket."""
        thread_id = (await self.post("/threads", {}))["thread_id"]
        address = self.url.replace("http", "ws", 1) + f"/threads/{thread_id}/stream/events"
        async with connect(address, additional_headers=ADA) as socket:
            params = {"assistant_id": "kept", "input": says(MARK), "metadata": {"note": MARK}}
            await socket.send(json.dumps({"id": 1, "method": "run.start", "params": params}))
            subscription = {"channels": ["values", "messages", "lifecycle", "custom"]}
            await socket.send(
                json.dumps({"id": 2, "method": "subscription.subscribe", "params": subscription})
            )
            told = ""
            async with asyncio.timeout(DEADLINE_SECONDS):
                while WORD not in told:
                    told = str(await socket.recv())
        body = {"id": 1, "method": "state.get", "params": {}}
        await self.post(f"/threads/{thread_id}/commands", body)

    # ------------------------------------------------------------------ sessions

    async def sessions(self) -> None:
        """Sessions, their messages, and what is thought of them."""
        session = await self.post(
            "/api/sessions",
            {"name": MARK, "assistant_id": "kept", "metadata": {"note": MARK}},
        )
        session_id = self.made.session_id = session["id"]
        path = f"/api/sessions/{session_id}"
        form = {"file": (f"{MARK}.txt", f"{MARK}\n".encode() * 3)}
        uploaded = await self.http.post("/api/files", files=form, headers=ADA)
        assert uploaded.status_code == 200, uploaded.text
        self.made.file_id = uploaded.json()["id"]
        asked = {"query": MARK, "attachments": [self.made.file_id]}
        said = await self.post(f"{path}/messages", asked, **{"idempotency-key": CLEAR})
        again = await self.post(f"{path}/messages", asked, **{"idempotency-key": CLEAR})
        assert said["id"] == again["id"]
        streamed = await self.post(f"{path}/messages", {"query": f"and {MARK}", "stream": True})
        assert WORD in streamed
        opinion = {"score": 1, "reason": MARK, "tags": [CLEAR]}
        await self.put(f"{path}/messages/{said['id']}/feedback", opinion)
        await self.post(f"{path}/messages/{said['id']}/regenerate", {})
        listed = (await self.get(f"{path}/messages")).json()["data"]
        mine = next(message for message in listed if message["role"] == "user")
        await self.patch(f"{path}/messages/{mine['id']}", {"content": f"edited {MARK}"})
        await self.post(f"{path}/fork", {})
        await self.patch(path, {"name": f"renamed {MARK}"})
        # One without a name is called by its first words.
        unnamed = await self.post("/api/sessions", {"assistant_id": "kept"})
        await self.post(f"/api/sessions/{unnamed['id']}/messages", {"query": MARK})
        await self.post(f"/api/sessions/{unnamed['id']}/title", {})
        gone = await self.post("/api/sessions", {"name": MARK, "assistant_id": "kept"})
        await self.post(f"/api/sessions/{gone['id']}/messages", {"query": MARK})
        await self.http.delete(f"/api/sessions/{gone['id']}", headers=ADA)
        context = [{"type": "human", "content": MARK}, {"type": "ai", "content": MARK}]
        await self.post(f"/api/sessions/{unnamed['id']}/context", {"messages": context})

    async def shares(self) -> None:
        """Links to a session, as it was and as it is, and members."""
        path = f"/api/sessions/{self.made.session_id}/shares"
        for mode in ("snapshot", "live"):
            made = await self.post(path, {"mode": mode, "password": f"pass {MARK}"})
            token = made["url"].rsplit("/", 1)[1]
            answer = await self.http.get(
                f"/api/shares/{token}", headers={b"x-share-password": f"pass {MARK}".encode()}
            )
            assert answer.status_code == 200, answer.text
            assert MARK in answer.text
        await self.post(path, {"audience": "users", "users": ["eve"], "role": "editor"})

    async def exchange(self) -> None:
        """Files of sessions, in and out."""
        for shape in ("json", "markdown"):
            path = f"/api/sessions/{self.made.session_id}/export"
            assert WORD in (await self.get(path, format=shape)).text
        assert WORD in (await self.get("/api/sessions/export")).text
        file = {"title": MARK, "messages": [{"role": "user", "content": MARK}]}
        await self.post("/api/sessions/import", file)
        # Kept on the server until somebody comes to it.
        begun = await self.post("/api/sessions/import?background=true", file)
        self.made.import_id = begun["id"]
        await self.succeeds(f"/api/imports/{begun['id']}")

    async def search(self) -> None:
        """Found by a word, by a pair of characters, and by the name."""
        for query in (WORD, DENSE[:2], f'"{MARK}"'):
            found = (await self.get("/api/search", q=query)).json()["data"]
            assert found, query
            assert "<mark>" in found[0]["snippet"]
        named = (await self.get("/api/sessions", q=WORD)).json()["data"]
        assert self.made.session_id in [session["id"] for session in named]

    async def changes(self) -> None:
        """What webhooks of users are told, and what waits for one that is away."""
        hook = await self.post(
            "/api/webhooks", {"url": f"{self.receiver.url}/{WORD}", "description": MARK}
        )
        self.made.webhook_id = hook["id"]
        session = await self.post("/api/sessions", {"name": MARK, "assistant_id": "kept"})
        await self.patch(f"/api/sessions/{session['id']}", {"name": f"more {MARK}"})
        await self.fails(f"/api/sessions/{session['id']}/messages", {"query": f"fail {MARK}"})
        told: list[Any] = []
        while not any(body.get("type") == "run.ended" for body in told):
            told = await self.receiver.told(len(told) + 1)
        async with self.http.stream(
            "GET", "/api/events", params={"since": "-1"}, headers=ADA
        ) as answer:
            async with asyncio.timeout(DEADLINE_SECONDS):
                async for line in answer.aiter_lines():
                    if WORD in line:
                        break

    async def socket(self) -> None:
        """Sessions over a WebSocket."""
        address = self.url.replace("http", "ws", 1) + "/api/ws"
        async with connect(address, additional_headers=ADA) as socket:
            id_ = self.made.session_id
            for number, (method, params) in enumerate(
                [
                    ("session.subscribe", {"session_id": id_}),
                    ("session.typing", {"session_id": id_}),
                    ("message.send", {"session_id": id_, "query": MARK}),
                ]
            ):
                command = {"id": number, "method": method, "params": params}
                await socket.send(json.dumps(command))
            told = ""
            async with asyncio.timeout(DEADLINE_SECONDS):
                while "You" not in told:
                    told = str(await socket.recv())

    # ------------------------------------------------------------------ other front ends

    async def doors(self) -> None:
        """OpenAI's API, the AI SDK, AG-UI, MCP and A2A."""
        said = [{"role": "user", "content": MARK}]
        await self.post("/v1/chat/completions", {"model": "kept", "messages": said})
        await self.post(
            "/v1/chat/completions",
            {"model": "kept", "messages": said, "stream": True, "conversation_id": CLEAR},
        )
        conversation = await self.post("/v1/conversations", {"metadata": {"note": MARK}})
        asked = {"model": "kept", "input": MARK, "conversation": conversation["id"]}
        await self.post("/v1/responses", {**asked, "metadata": {"note": MARK}})
        items = {"items": [{"role": "user", "content": MARK}]}
        await self.post(f"/v1/conversations/{conversation['id']}/items", items)
        parts = [{"type": "text", "text": MARK}]
        await self.post(
            "/api/ai/chat",
            {"id": CLEAR, "model": "kept", "messages": [{"role": "user", "parts": parts}]},
        )
        agent = {"threadId": UNKNOWN, "runId": CLEAR, "messages": [{"id": CLEAR, **said[0]}]}
        await self.post("/agui", agent, accept="text/event-stream")
        call = {"name": "kept", "arguments": {"messages": MARK}}
        await self.post("/mcp", rpc("tools/call", **call), accept="application/json")
        message = {
            "role": "user", "kind": "message", "messageId": CLEAR,
            "parts": [{"kind": "text", "text": MARK}],
        }  # fmt: skip
        await self.post("/a2a/kept", rpc("message/send", message=message))

    async def old_projects(self) -> None:
        """The routes of the projects that the server stands in for."""
        made = await self.post(
            "/api/conversations", {"user_id": CLEAR, "name": MARK, "chat_type": "general_chat"}
        )
        old = {"query": MARK, "conversation_id": made["id"]}
        await self.post("/api/chat", old)
        await self.put(f"/api/conversations/{made['id']}/update_name", {"name": f"and {MARK}"})
        await self.post("/chat/chat", {**old, "stream": False})
        pairs = (await self.get("/api/pairs", conversation_id=made["id"])).json()
        pair = (pairs["data"] if isinstance(pairs, dict) else pairs)[0]
        await self.put(f"/api/pairs/{pair['id']}/feedback", {"score": 5, "reason": MARK})

    async def gone(self) -> None:
        """What is taken out, deleted for good, or goes by itself."""
        await self.post("/threads", {"metadata": {"note": MARK}, "ttl": {"ttl": 60}})
        session = await self.post("/api/sessions", {"name": MARK, "assistant_id": "kept"})
        path = f"/api/sessions/{session['id']}"
        for _ in range(2):
            said = await self.post(f"{path}/messages", {"query": MARK})
        kept = f"/api/sessions/{self.made.session_id}/messages"
        last = (await self.post(kept, {"query": MARK}))["id"]
        for gone in (f"{path}/messages/{said['id']}", f"{kept}/{last}", f"{path}?purge=true"):
            answer = await self.http.delete(gone, headers=ADA)
            assert answer.status_code == 204, answer.text

    async def export(self) -> None:
        """All that is theirs, as a file."""
        about = f"/api/users/{CLEAR}"
        begun = await self.post(f"{about}/export", None)
        await self.succeeds(f"{about}/jobs/{begun['id']}")
        assert WORD in (await self.get(f"{about}/export")).text

    async def cache(self) -> None:
        """What graphs keep for a while by the SDK's cache."""
        await sdk_cache.cache_set("k", {"text": MARK})
        assert await sdk_cache.cache_get("k") == {"text": MARK}


def says(text: str) -> dict[str, Any]:
    """An input."""
    return {"messages": [{"role": "user", "content": text}]}


def rpc(method: str, **params: Any) -> dict[str, Any]:
    """A call by JSON-RPC."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@asynccontextmanager
async def day(url: str, receiver: Receiver) -> AsyncIterator[Day]:
    """A caller of a server."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        yield Day(url, http, receiver)


async def live(day: Day) -> None:
    """All of it, in an order in which what is needed is there."""
    await day.changes()
    await day.runs()
    await day.items()
    await day.crons()
    await day.event_streaming()
    await day.sessions()
    await day.shares()
    await day.exchange()
    await day.search()
    await day.socket()
    await day.doors()
    await day.old_projects()
    await day.cache()
    await day.gone()
    await day.export()
