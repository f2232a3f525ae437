"""
An HTTP server that speaks OpenAI's chat completions, streamed or whole, and says what it is told.

Like OpenAI's it refuses a conversation in which a tool call has no answer.

Run by hand: `python -m tests.openai_server PORT`, then `OPENAI_BASE_URL=http://127.0.0.1:PORT/v1`.
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from graph.titles import PROMPT

UNANSWERED = "An assistant message with 'tool_calls' must be followed by tool messages"


@dataclass(frozen=True)
class Reply:
    """One answer to one request."""

    tokens: tuple[str, ...] = ()
    tool_calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    """(name, arguments) each; sent in pieces, as models do."""
    fails_after: int | None = None
    """Break off after so many tokens with an `error` object, as OpenAI and vLLM do."""
    errs_after: int | None = None
    """After so many tokens end as if all were well, as FastChat does when its worker fails."""
    status: int = 200
    """Any other is the whole answer, with an error for its body."""
    stops_after: int | None = None
    """Say nothing more after so many tokens."""
    counts: bool = True
    """Say how many tokens it took; FastChat does not."""


@dataclass
class OpenAIServer:
    """
    Scripted replies in order; with none left it repeats the last message, a word at a time.

    Whoever asks for the title of a conversation gets `title`, and is in `titles`, not in `requests`.
    """

    url: str
    replies: deque[Reply] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    title: Reply = field(default_factory=lambda: Reply(tokens=("A title",)))
    titles: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        """Chat completions."""
        body = await request.json()
        if str(body["messages"][0].get("content")).startswith(PROMPT.partition(".")[0]):
            self.titles.append(body)
            return _answered(body, self.title)
        self.requests.append(body)
        if _open_calls(body["messages"]):
            error = {"message": UNANSWERED, "type": "invalid_request_error", "code": None}
            return JSONResponse({"error": error}, 400)
        return _answered(body, self.replies.popleft() if self.replies else _echo(body))


def _answered(body: dict[str, Any], reply: Reply) -> Response:
    if reply.status != 200:
        error = {"message": "the server says no", "type": "test", "code": None}
        return JSONResponse({"error": error}, reply.status)
    if not body.get("stream"):
        return JSONResponse(_whole(body, reply))
    return StreamingResponse(_stream(body, reply), media_type="text/event-stream")


def _open_calls(messages: list[dict[str, Any]]) -> set[str]:
    """The calls whose answers do not follow right after them."""
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                return {message["tool_call_id"]}
            waiting.discard(message["tool_call_id"])
        elif waiting:
            break
        else:
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
    return waiting


def _echo(body: dict[str, Any]) -> Reply:
    content = body["messages"][-1].get("content") or ""
    text = content if isinstance(content, str) else json.dumps(content)
    return Reply(tokens=tuple(f"{word} " for word in f"echo: {text}".split(" ")))


def _whole(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    calls = [
        {
            "id": _call_id(name, index),
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for index, (name, arguments) in enumerate(reply.tool_calls)
    ]
    message = {"role": "assistant", "content": "".join(reply.tokens), "tool_calls": calls or None}
    finish_reason = "tool_calls" if calls else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": _usage(reply),
    }


def _usage(reply: Reply) -> dict[str, int]:
    count = len(reply.tokens)
    return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}


def _call_id(name: str, index: int) -> str:
    return f"call_{name}_{index}"


async def _stream(body: dict[str, Any], reply: Reply) -> AsyncIterator[str]:
    yield _chunk(body, {"role": "assistant", "content": ""})
    for number, token in enumerate(reply.tokens):
        if number == reply.fails_after:
            error = {"message": "the model broke down", "type": "server_error", "code": None}
            yield f"data: {json.dumps({'error': error})}\n\n"
            return
        if number == reply.errs_after:
            yield f"data: {json.dumps({'text': 'the worker broke down', 'error_code': 50001})}\n\n"
            yield "data: [DONE]\n\n"
            return
        if number == reply.stops_after:
            await asyncio.Event().wait()
        yield _chunk(body, {"content": token})
        await asyncio.sleep(0)
    for index, (name, arguments) in enumerate(reply.tool_calls):
        call = {"index": index, "id": _call_id(name, index), "type": "function"}
        yield _calls(body, {**call, "function": {"name": name, "arguments": ""}})
        text = json.dumps(arguments)
        for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
            yield _calls(body, {"index": index, "function": {"arguments": piece}})
    yield _chunk(body, {}, "tool_calls" if reply.tool_calls else "stop")
    if reply.counts and (body.get("stream_options") or {}).get("include_usage"):
        yield _chunk(body, None, usage=_usage(reply))
    yield "data: [DONE]\n\n"


def _calls(body: dict[str, Any], call: dict[str, Any]) -> str:
    return _chunk(body, {"tool_calls": [call]})


def _chunk(
    body: dict[str, Any],
    delta: dict[str, Any] | None,
    finish_reason: str | None = None,
    **more: Any,
) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
        "choices": [] if delta is None else [choice],
        **more,
    }
    return f"data: {json.dumps(chunk)}\n\n"


@asynccontextmanager
async def openai_server(port: int = 0) -> AsyncIterator[OpenAIServer]:
    """A server on loopback for the length of the block; port 0 takes a free one."""
    fake = OpenAIServer("")
    app = Starlette(routes=[Route("/v1/chat/completions", fake.answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
    config = server.config
    socket = config.bind_socket()
    fake.url = f"http://127.0.0.1:{socket.getsockname()[1]}/v1"
    serving = asyncio.create_task(server.serve([socket]))
    try:
        yield fake
    finally:
        server.should_exit = True
        # A client's idle connection would be waited for otherwise.
        server.force_exit = True
        await serving
        socket.close()


async def _serve(port: int) -> None:
    async with openai_server(port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
