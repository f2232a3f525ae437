"""
The bundled agent: a chat model with two tools, as plain LangGraph.

It runs under any LangGraph server. The model is chosen when a run begins, by the environment:

OPENAI_API_KEY      a key, or any word for a server that wants none; without it: the offline model
OPENAI_BASE_URL     an OpenAI-compatible server, e.g. ``http://127.0.0.1:8000/v1``
MODEL               the model's name there, unless a run names one as ``configurable.model``;
                    default ``gpt-4.1-mini``
MODEL_MAX_TOKENS    the longest answer, in tokens; default: the server's own
MODEL_TOOLS         ``off`` for a server or model without tool calls, such as FastChat's
TITLE_MODEL         the model that gives conversations their titles; default: the one that answers.
                    ``off``: their first words are their titles
"""

import ast
import operator
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, TypedDict, cast
from zoneinfo import ZoneInfo

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, BaseMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from langgraph.channels import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.graph.message import _messages_delta_reducer
from langgraph.prebuilt import ToolNode, tools_condition

from graph.agents.offline import OfflineModel
from graph.attachments import Inflating

#: What of a request is passed on to the model.
OPTIONS = (
    "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty",
    "reasoning_effort",
)  # fmt: skip

PROMPT = "You are a helpful assistant. Answer in the language of the question."

_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_EXPRESSION_LIMIT = 500


@tool
def current_time(timezone: str = "UTC") -> str:
    """The date and time now, in an IANA time zone such as Asia/Shanghai."""
    return datetime.now(ZoneInfo(timezone)).isoformat(timespec="seconds")


@tool
def calculate(expression: str) -> float:
    """The value of an arithmetic expression of numbers, + - * / // % and parentheses."""
    if len(expression) > _EXPRESSION_LIMIT:
        raise ValueError("the expression is too long")
    return _value(ast.parse(expression, mode="eval").body)


class State(TypedDict):
    """The conversation: each checkpoint keeps what is new in it, and every now and then all."""

    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=500)
    ]


TOOLS = [current_time, calculate]
_Tools = list[BaseTool | dict[str, Any]]


def _value(node: ast.AST) -> float:
    # No powers, names or calls: an expression ends soon and reaches nothing.
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=operation, operand=operand) if type(operation) in _OPERATORS:
            return _OPERATORS[type(operation)](_value(operand))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATORS:
            return _OPERATORS[type(operation)](_value(left), _value(right))
    raise ValueError(f"cannot calculate {ast.unparse(node)!r}")


async def call_model(state: State, config: RunnableConfig) -> dict[str, Any]:
    """Let the model answer, or call tools."""
    asked = config.get("configurable") or {}
    request = asked.get("request")
    request = request if isinstance(request, dict) else {}
    model = _model(asked.get("model"))
    messages = [SystemMessage(request.get("system") or PROMPT), *state["messages"]]
    # All are messages: of a list LangChain would look at each, twice, to make it one.
    prompt = ChatPromptValue.model_construct(messages=messages)
    if isinstance(model, OfflineModel):
        return {"messages": [await model.ainvoke(prompt)]}
    tools: _Tools = [] if os.environ.get("MODEL_TOOLS") == "off" else [*TOOLS]
    bound = model.bind_tools(tools) if tools else model
    answer = await bound.bind(**_options(request)).ainvoke(prompt)
    if not answer.response_metadata.get("finish_reason"):
        # So FastChat ends a stream in which the model has failed: as if all were well.
        answer.response_metadata["finish_reason"] = "incomplete"
    if answer.usage_metadata is None:
        answer.usage_metadata = _estimated(messages, answer, tools)
    return {"messages": [answer]}


def _estimated(asked: Sequence[BaseMessage], answer: BaseMessage, tools: _Tools) -> UsageMetadata:
    """The tokens of an answer whose server counts none, about; marked as that."""
    taken = count_tokens_approximately(asked, tools=tools)
    given = count_tokens_approximately([answer])
    usage = {"input_tokens": taken, "output_tokens": given, "total_tokens": taken + given}
    return cast("UsageMetadata", {**usage, "estimated": True})


def _options(request: dict[str, Any]) -> dict[str, Any]:
    """How a client wants to be answered, as the model's server takes it."""
    options = {name: request[name] for name in OPTIONS if name in request}
    if limit := request.get("max_tokens"):
        # See `_openai`.
        named = {"max_tokens": limit}
        options |= {"extra_body": named} if os.environ.get("OPENAI_BASE_URL") else named
    return options


def _model(asked: str | None = None) -> BaseChatModel:
    if not os.environ.get("OPENAI_API_KEY"):
        return OfflineModel()
    return _openai(
        os.environ["OPENAI_API_KEY"],
        os.environ.get("OPENAI_BASE_URL") or None,
        asked or os.environ.get("MODEL") or "gpt-4.1-mini",
        int(os.environ.get("MODEL_MAX_TOKENS") or 0),
    )


class _OpenAI(Inflating, ChatOpenAI):
    """Reads the files that messages name."""


def title_model() -> BaseChatModel | None:
    """The model that gives conversations their titles; None if none is to."""
    name = os.environ.get("TITLE_MODEL")
    key = os.environ.get("OPENAI_API_KEY")
    if not key or name == "off":
        return None
    url = os.environ.get("OPENAI_BASE_URL") or None
    name = name or os.environ.get("MODEL") or "gpt-4.1-mini"
    return _openai(key, url, name, int(os.environ.get("MODEL_MAX_TOKENS") or 0))


@lru_cache(maxsize=8)
def _openai(api_key: str, base_url: str | None, name: str, max_tokens: int) -> _OpenAI:
    options: dict[str, Any] = {
        "api_key": api_key,
        "model": name,
        "stream_usage": True,
        # With it each token passes asyncio.wait_for, which in Python 3.11 loses a cancellation that
        # comes beside a token: an answer that streams fast could not be stopped.
        "stream_chunk_timeout": None,
    }
    if base_url is None:
        if max_tokens:
            options["max_tokens"] = max_tokens
        return _OpenAI(**options)
    if max_tokens:
        # As `max_tokens` it would be sent as `max_completion_tokens`, which FastChat, Ollama and
        # older servers ignore.
        options["extra_body"] = {"max_tokens": max_tokens}
    # A model's name alone (codex-…, gpt-5-pro) would send it to /v1/responses, which they lack.
    return _OpenAI(base_url=base_url, use_responses_api=False, **options)


def _agent() -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_node("model", call_model)
    builder.add_node("tools", ToolNode(TOOLS))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder


graph = _agent().compile()
