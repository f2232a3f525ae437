"""A model that takes its time, and an `auth` by which every token is somebody. Served from a copy."""

import asyncio
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph_sdk import Auth

#: As of a model that is near: to its first token, and between two.
FIRST_SECONDS, NEXT_SECONDS, TOKENS = 0.1, 0.02, 20

auth = Auth()


@auth.authenticate
async def authenticate(authorization: str | None) -> dict[str, Any]:
    return {"identity": (authorization or "").removeprefix("Bearer ") or "nobody"}


@auth.on
async def own(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> dict[str, str]:
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}


async def _say(state: MessagesState) -> dict[str, Any]:
    write = get_stream_writer()
    await asyncio.sleep(FIRST_SECONDS)
    for number in range(TOKENS):
        write({"token": number})
        await asyncio.sleep(NEXT_SECONDS)
    return {"messages": [AIMessage("said")]}


async def _echo(state: MessagesState) -> dict[str, Any]:
    get_stream_writer()({"token": 0})
    return {"messages": [AIMessageChunk(content="echo")]}


def _graph(node: Any) -> Any:
    builder: Any = StateGraph(MessagesState)
    builder.add_node("say", node)
    builder.add_edge(START, "say")
    builder.add_edge("say", END)
    return builder.compile()


model = _graph(_say)
echo = _graph(_echo)
