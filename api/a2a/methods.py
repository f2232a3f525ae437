"""The methods of the protocol: what each answers, by its name in either generation."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import orjson
from fastapi import Response

from api.a2a import forms
from api.a2a.agent import Agent
from api.a2a.forms import Address
from api.http.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Call, RpcError, result
from api.http.responses import json_response
from api.sse import frame, long_json, stream_of_run
from graph.encode import dumps
from graph.runs import Submitted
from store import chains
from store.access import EVERYTHING
from store.events import Event, Gap
from store.models import JsonObject

#: How long a task that was canceled may take to stop before it is said to be.
CANCEL_SECONDS: Final = 10.0
MAX_PAGE: Final = 100


async def dispatch(agent: Agent, method: str, asked: Call) -> Response:
    """
    Do what a method says.

    Raises:
        RpcError: There is no such method, or it was refused.
    """
    act, is_modern = _method(method)
    return await act(replace(agent, is_modern=is_modern), asked)


async def _send(agent: Agent, asked: Call) -> Response:
    length = _length(asked.params.get("configuration"), "historyLength")
    submitted, at = await agent.submit(forms.received(asked.params), streams=False)
    if _returns_at_once(asked.params.get("configuration")):
        status = forms.status_json(at, "submitted", when=submitted.run.created_at)
        task = forms.task_json(at, status, [], [])
        return json_response(result(asked.id, agent.said(task, wrapped=agent.is_modern)))

    async def answer() -> bytes:
        status, made = await agent.outcome(submitted, at)
        task = forms.task_json(at, status, await agent.history(at, length), made)
        return dumps(result(asked.id, agent.said(task, wrapped=agent.is_modern)))

    return long_json(
        answer, headers={}, keep_alive_seconds=agent.services.settings.sse_heartbeat_seconds
    )


async def _stream(agent: Agent, asked: Call) -> Response:
    given = forms.received(asked.params)
    submitted, at = await agent.submit(given, streams=True)
    frames = _frames(agent, asked, given, submitted, at)
    return stream_of_run(agent.services, agent.caller, submitted, frames)


async def _frames(
    agent: Agent, asked: Call, given: forms.Received, submitted: Submitted, at: Address
) -> AsyncGenerator[bytes, None]:
    def told(content: JsonObject) -> bytes:
        said = agent.said(content, wrapped=agent.is_modern)
        return frame("message", dumps(result(asked.id, said)))

    echo = {
        "kind": "message",
        "role": "user",
        "parts": _parts_03(given),
        "messageId": given.message_id,
    }
    begun = forms.status_json(at, "submitted", when=submitted.run.created_at)
    yield told(forms.task_json(at, begun, [{**echo, **at.keys}], []))
    async with aclosing(agent.services.follower.follow(submitted.run)) as batches:
        async for batch in batches:
            # Of a message that grows, what it has grown to by now.
            for message in [] if isinstance(batch, Gap) else _spoken(batch):
                working = forms.status_json(at, "working", text=message[1], message_id=message[0])
                yield told(forms.status_update(at, working))
    status, made = await agent.outcome(submitted, at)
    for artifact in made:
        yield told(forms.artifact_update(at, artifact))
    yield told(forms.status_update(at, status, final=True))


def _spoken(events: list[Event]) -> list[tuple[str, str]]:
    """The id and the text so far of each message that the agent says in these events."""
    found: dict[str, str] = {}
    for event in events:
        if event.name in ("messages/partial", "messages/complete"):
            for message in orjson.loads(event.data):
                if message.get("type") == "ai" and (text := _text(message.get("content"))):
                    found[message.get("id") or ""] = text
    return list(found.items())


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(str(b.get("text", "")) for b in blocks if isinstance(b, dict))


def _parts_03(given: forms.Received) -> list[JsonObject]:
    """The parts of a message as 0.3 has them."""
    return [forms.older_part(part) for part in given.message["parts"]]


async def _get(agent: Agent, asked: Call) -> Response:
    length = _length(asked.params, "historyLength")
    chain = await agent.chain(asked.params.get("id"))
    task = await agent.task(chain, length=length, artifacts=True)
    return json_response(result(asked.id, agent.said(task)))


async def _cancel(agent: Agent, asked: Call) -> Response:
    chain = await agent.chain(asked.params.get("id"))
    services, thread_id = agent.services, chain.thread_id
    access = await agent.caller.may("threads", "update", {"thread_id": thread_id})
    stopped = await services.runs.cancel(
        thread_id, [chain.run_id], action="interrupt", access=access
    )
    if not stopped:
        raise RpcError(forms.TASK_NOT_CANCELABLE, "Task is not cancelable in its current state")
    submitted = await services.runs.attach(chain.run_id, thread_id=thread_id, access=EVERYTHING)
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            await services.runs.join(submitted)
    task = await agent.task(await agent.chain(asked.params["id"]), length=None, artifacts=True)
    return json_response(result(asked.id, agent.said(task)))


async def _list(agent: Agent, asked: Call) -> Response:
    params = asked.params
    size, token = params.get("pageSize", 50), params.get("pageToken") or "0"
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_PAGE:
        raise RpcError(INVALID_PARAMS, f"pageSize must be an integer between 1 and {MAX_PAGE}.")
    if not isinstance(token, str) or not token.isdecimal() or len(token) > 9:
        raise RpcError(INVALID_PARAMS, "Invalid pageToken")
    context = params.get("contextId") or None
    if not isinstance(context, str | None):
        raise RpcError(INVALID_PARAMS, "'contextId' must be a string")
    length = _length(params, "historyLength")
    statuses, asks = forms.statuses_of(params.get("status"))
    value: JsonObject = {"metadata": {}, "limit": size, "offset": int(token)}
    page, total = await chains.list_page(
        agent.services.db,
        assistant_id=agent.assistant.assistant_id,
        thread_id=context,
        statuses=statuses,
        asks=asks,
        after=_time(params.get("statusTimestampAfter")),
        limit=size,
        offset=int(token),
        access=await agent.caller.may("threads", "search", value),
    )
    artifacts = params.get("includeArtifacts") is True
    tasks = [await agent.task(c, length=length, artifacts=artifacts) for c in page]
    following = int(token) + len(page)
    listed = {
        "tasks": [agent.said(task) for task in tasks],
        "totalSize": total,
        "pageSize": len(page),
        "nextPageToken": str(following) if following < total else "",
    }
    return json_response(result(asked.id, listed))


async def _show_card(agent: Agent, asked: Call) -> Response:
    return json_response(result(asked.id, await agent.card()))


#: What a method does, and whether it is one of 1.0.
Method = tuple[Callable[[Agent, Call], Awaitable[Response]], bool]

METHODS: Final[dict[str, Method]] = {
    "SendMessage": (_send, True),
    "SendStreamingMessage": (_stream, True),
    "GetTask": (_get, True),
    "CancelTask": (_cancel, True),
    "ListTasks": (_list, True),
    "GetExtendedAgentCard": (_show_card, True),
    "message/send": (_send, False),
    "message/stream": (_stream, False),
    "tasks/get": (_get, False),
    "tasks/cancel": (_cancel, False),
    "tasks/list": (_list, False),
    "agent/getAuthenticatedExtendedCard": (_show_card, False),
}


def _returns_at_once(configuration: Any) -> bool:
    if not isinstance(configuration, dict):
        return False
    return configuration.get("blocking") is False or configuration.get("returnImmediately") is True


def _length(holder: Any, name: str) -> int | None:
    value = holder.get(name) if isinstance(holder, dict) else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RpcError(INVALID_PARAMS, f"{name} must be a non-negative integer")
    return value


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise RpcError(INVALID_PARAMS, "statusTimestampAfter must be a timestamp") from None


def _method(name: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    if "ushNotification" in name:
        raise RpcError(forms.PUSH_NOT_SUPPORTED, "Push notifications are not supported")
    if name in ("SubscribeToTask", "tasks/resubscribe"):
        raise RpcError(forms.UNSUPPORTED_OPERATION, f"{name} is not supported")
    raise RpcError(METHOD_NOT_FOUND, f"Method not found: {name}")
