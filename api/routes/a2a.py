"""
A2A: every assistant whose graph takes messages is an agent, over JSON-RPC.

Both generations of the protocol are spoken, told apart by the names of the methods.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Header, Request, Response
from uuid_utils.compat import uuid7

from api import __version__, a2a
from api.a2a import Address
from api.bootstrap import Services
from api.deps import CallerDep, ServicesDep
from api.http.bodies import bounded, described
from api.http.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Call,
    RpcError,
    error,
    parse,
    result,
)
from api.http.responses import json_response
from api.identity.auth import Caller
from api.schemas.common import UUID_FORM
from api.sse import frame, long_json, output_of, stream_of_run
from api.submissions import submit
from graph.encode import dumps
from graph.factory import InvalidGraphError
from graph.requests import RunRequest, system_assistant_id
from graph.runs import Submitted
from store import assistants, chains, messages
from store.access import EVERYTHING
from store.chains import CONTINUES, Chain
from store.errors import (
    AlreadyExistsError,
    BadRequestError,
    Error,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from store.events import Event, Gap
from store.models import Assistant, JsonObject

router = APIRouter(tags=["a2a"])

#: How long a task that was canceled may take to stop before it is said to be.
CANCEL_SECONDS: Final = 10.0
MAX_PAGE: Final = 100

Scope = Annotated[str, Header(alias=a2a.HISTORY_SCOPE)]


@router.post(
    "/a2a/{assistant_id}",
    response_class=Response,
    openapi_extra=described("jsonrpc", "id", "method", "params"),
)
async def call(
    request: Request,
    assistant_id: str,
    services: ServicesDep,
    caller: CallerDep,
    scope: Scope = "context",
) -> Response:
    """Answer a call of the Agent2Agent protocol; errors too are answers of 200."""
    try:
        asked = parse(await bounded(request).body())
    except RpcError as exc:
        return json_response(error(None, exc))
    if asked.id is None or asked.method is None:
        wrong = RpcError(INVALID_REQUEST, "Invalid JSON-RPC message: a call has an id and a method")
        return json_response(error(asked.id, wrong))
    try:
        agent = await _agent(request, services, caller, assistant_id, scope)
        act, is_modern = _method(asked.method)
        return await act(replace(agent, is_modern=is_modern), asked)
    except RpcError as exc:
        return json_response(error(asked.id, exc))
    except (PermissionDeniedError, UnavailableError):
        raise
    except Error as exc:
        return json_response(error(asked.id, _rpc_error(exc)))


@router.get("/a2a/{assistant_id}")
@router.get("/a2a/{assistant_id}/.well-known/agent-card.json")
@router.get("/a2a/{assistant_id}/.well-known/agent.json")
async def card(
    request: Request, assistant_id: str, services: ServicesDep, caller: CallerDep
) -> Response:
    """Show an agent's card."""
    try:
        agent = await _agent(request, services, caller, assistant_id, "context")
    except RpcError as exc:
        raise BadRequestError(exc.message) from exc
    return json_response(await agent.card())


@router.get("/.well-known/agent-card.json")
async def default_card(
    request: Request, services: ServicesDep, caller: CallerDep, assistant_id: str = ""
) -> Response:
    """Show the card of an agent, or of the one that `DEFAULT_A2A_ASSISTANT_ID` names."""
    found = assistant_id or services.settings.default_a2a_assistant_id
    if not found:
        raise BadRequestError("Missing required query parameter: assistant_id")
    return await card(request, found, services, caller)


@dataclass(frozen=True, slots=True)
class Agent:
    """An assistant, asked by somebody in the words of one generation."""

    services: Services
    caller: Caller
    assistant: Assistant
    url: str
    scope: str
    is_modern: bool = True

    def said(self, content: JsonObject, *, wrapped: bool = False) -> JsonObject:
        """It in the generation's words."""
        return a2a.modern(content, wrapped=wrapped) if self.is_modern else content

    async def card(self) -> JsonObject:
        """Its card."""
        authority = self.services.authority
        openapi = authority.openapi if authority else {}
        return a2a.card(self.assistant, self.url, __version__, await self.fields(), openapi)

    async def fields(self) -> JsonObject:
        """What its graph takes."""
        registry, graph_id = self.services.registry, self.assistant.graph_id
        try:
            found = await self.services.place.run(
                lambda backing: registry.schemas(graph_id, store=backing.items)
            )
        except InvalidGraphError as exc:
            raise RpcError(INTERNAL_ERROR, exc.message) from exc
        return found["input_schema"] or {}

    async def chain(self, task: Any) -> Chain:
        """
        Find a task of this agent that the caller may see.

        Raises:
            RpcError: There is none of this id.
        """
        if not task:
            raise RpcError(INVALID_PARAMS, "Missing required parameter: id (task_id)")
        address = a2a.task_address(task)
        if address is not None:
            access = await self.caller.may("threads", "read", {"thread_id": address[0]})
            with suppress(NotFoundError):
                return await chains.get(
                    self.services.db,
                    address[1],
                    thread_id=address[0],
                    assistant_id=self.assistant.assistant_id,
                    access=access,
                )
        raise RpcError(a2a.TASK_NOT_FOUND, "Task not found")

    async def submit(self, asked: a2a.Received, *, streams: bool) -> tuple[Submitted, Address]:
        """
        Begin the run that a message asks for.

        Raises:
            RpcError: The task does not take a message, or the graph none of this kind.
        """
        first: str | None = None
        thread_id = asked.context_id
        if asked.task_id is not None:
            chain = await self.chain(asked.task_id)
            if thread_id not in (None, chain.thread_id):
                raise RpcError(a2a.TASK_NOT_FOUND, "Task not found")
            _require_asking(chain)
            first, thread_id = chain.first_run_id, chain.thread_id
        elif asked.content and "messages" not in (
            known := (await self.fields()).get("properties", {})
        ):
            raise RpcError(INVALID_PARAMS, self._takes_no_messages(list(known)))
        if thread_id is not None and not UUID_FORM.fullmatch(thread_id.lower()):
            raise RpcError(INVALID_PARAMS, "Invalid context ID: must be a UUID")
        request = RunRequest(
            assistant_id=self.assistant.assistant_id,
            input=a2a.graph_input(asked) if first is None else None,
            command=None if first is None else {"resume": asked.answer()},
            metadata={} if first is None else {CONTINUES: first},
            stream_modes=("values", "messages") if streams else ("values",),
            if_not_exists="create",
        )
        submitted = await submit(
            self.services,
            self.caller,
            request,
            thread_id=(thread_id or str(uuid7())).lower(),
            attached=True,
        )
        run = submitted.run
        return submitted, self.address(run.thread_id, first or run.run_id)

    def address(self, thread_id: str, first_run_id: str) -> Address:
        """Where a task is."""
        return Address(a2a.task_id(thread_id, first_run_id), thread_id)

    async def outcome(
        self, submitted: Submitted, at: Address
    ) -> tuple[JsonObject, list[JsonObject]]:
        """How a run ended, once it has, and what it made."""
        services, run = self.services, submitted.run
        ended = await services.runs.join(submitted)
        if ended.error is not None:
            text = f"{ended.error['error']}: {ended.error['message']}"
            return a2a.status_json(at, "failed", text=text), []
        if ended.status != "success":
            return a2a.status_json(at, "canceled", text="Task was canceled"), []
        if ended.interrupted:
            asked = [a2a.interrupt_artifact(found.id, found.value) for found in ended.interrupts]
            return a2a.status_json(at, "input-required"), asked
        part = await self._response(run.thread_id, run.run_id)
        if part is None:
            part = a2a.data_part(await output_of(services, submitted, ended))
        made = a2a.response_artifact(run.run_id, self.assistant.assistant_id, part)
        return a2a.status_json(at, "completed"), [made]

    async def _response(self, thread_id: str, run_id: str) -> JsonObject | None:
        """What the agent said last in a run."""
        rows = await self.services.runs.patiently(
            lambda: messages.of_run(self.services.db, thread_id, run_id)
        )
        said = [row.content for row in rows if row.role == "assistant" and row.content]
        return a2a.text_part(said[-1]) if said else None

    async def task(self, chain: Chain, *, length: int | None, artifacts: bool) -> JsonObject:
        """A task as it stands."""
        at = self.address(chain.thread_id, chain.first_run_id)
        state, text = a2a.state_of(chain), None
        if chain.error is not None:
            text = f"{chain.error['error']}: {chain.error['message']}"
        status = a2a.status_json(at, state, text=text, when=chain.updated_at)
        made: list[JsonObject] = []
        if artifacts and state == "completed":
            part = await self._response(chain.thread_id, chain.run_id)
            by = self.assistant.assistant_id
            made = [a2a.response_artifact(chain.run_id, by, part)] if part else []
        elif artifacts and state == "input-required":
            made = await self._interrupts(chain.thread_id)
        return a2a.task_json(at, status, await self.history(at, length), made)

    async def _interrupts(self, thread_id: str) -> list[JsonObject]:
        found = await self.services.states.get(thread_id, access=EVERYTHING)
        return [a2a.interrupt_artifact(i["id"], i["value"]) for i in found["interrupts"]]

    async def history(self, at: Address, length: int | None) -> list[JsonObject]:
        """The messages of a task's context, or of the task alone; the last ones if not all."""
        if length == 0:
            return []
        db = self.services.db
        rows = await messages.in_context(db, at.context_id)
        firsts = await chains.firsts(db, sorted({row.run_id for row in rows if row.run_id}))
        found = []
        for row in rows:
            of = self.address(at.context_id, firsts.get(row.run_id or "", row.run_id or ""))
            if self.scope == "task" and of != at:
                continue
            if message := a2a.history_message(row, of if row.run_id else at):
                found.append(message)
        return found[-length:] if length else found

    def _takes_no_messages(self, fields: list[str]) -> str:
        return (
            f"Assistant '{self.assistant.assistant_id}' (graph '{self.assistant.graph_id}') does not "
            "support A2A conversational messages. Graph input schema must include a 'messages' field "
            f"to accept text or file parts. Available input fields: {fields}"
        )


async def _send(agent: Agent, asked: Call) -> Response:
    length = _length(asked.params.get("configuration"), "historyLength")
    submitted, at = await agent.submit(a2a.received(asked.params), streams=False)
    if _returns_at_once(asked.params.get("configuration")):
        status = a2a.status_json(at, "submitted", when=submitted.run.created_at)
        task = a2a.task_json(at, status, [], [])
        return json_response(result(asked.id, agent.said(task, wrapped=agent.is_modern)))

    async def answer() -> bytes:
        status, made = await agent.outcome(submitted, at)
        task = a2a.task_json(at, status, await agent.history(at, length), made)
        return dumps(result(asked.id, agent.said(task, wrapped=agent.is_modern)))

    return long_json(
        answer, headers={}, keep_alive_seconds=agent.services.settings.sse_heartbeat_seconds
    )


async def _stream(agent: Agent, asked: Call) -> Response:
    given = a2a.received(asked.params)
    submitted, at = await agent.submit(given, streams=True)
    frames = _frames(agent, asked, given, submitted, at)
    return stream_of_run(agent.services, agent.caller, submitted, frames)


async def _frames(
    agent: Agent, asked: Call, given: a2a.Received, submitted: Submitted, at: Address
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
    begun = a2a.status_json(at, "submitted", when=submitted.run.created_at)
    yield told(a2a.task_json(at, begun, [{**echo, **at.keys}], []))
    async with aclosing(agent.services.runs.follow(submitted)) as batches:
        async for batch in batches:
            # Of a message that grows, what it has grown to by now.
            for message in [] if isinstance(batch, Gap) else _spoken(batch):
                working = a2a.status_json(at, "working", text=message[1], message_id=message[0])
                yield told(a2a.status_update(at, working))
    status, made = await agent.outcome(submitted, at)
    for artifact in made:
        yield told(a2a.artifact_update(at, artifact))
    yield told(a2a.status_update(at, status, final=True))


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


def _parts_03(given: a2a.Received) -> list[JsonObject]:
    """The parts of a message as 0.3 has them."""
    return [a2a.older_part(part) for part in given.message["parts"]]


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
        raise RpcError(a2a.TASK_NOT_CANCELABLE, "Task is not cancelable in its current state")
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
    statuses, asks = a2a.statuses_of(params.get("status"))
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


async def _agent(
    request: Request, services: Services, caller: Caller, name: str, scope: str
) -> Agent:
    if scope not in ("context", "task"):
        raise RpcError(INVALID_PARAMS, "historyScope must be 'context' or 'task'")
    known = name in services.registry.graph_ids
    assistant_id = system_assistant_id(name) if known else name.lower()
    access = await caller.may("assistants", "read", {"assistant_id": assistant_id})
    if not UUID_FORM.fullmatch(assistant_id):
        raise RpcError(INVALID_PARAMS, "Invalid assistant ID: must be a UUID")
    try:
        assistant = await assistants.get(services.db, assistant_id, access=access)
    except NotFoundError:
        raise RpcError(INVALID_PARAMS, "Assistant not found") from None
    url = f"{str(request.base_url).rstrip('/')}/a2a/{assistant.assistant_id}"
    return Agent(services, caller, assistant, url, scope)


def _require_asking(chain: Chain) -> None:
    state = a2a.state_of(chain)
    if state in a2a.TERMINAL:
        raise RpcError(a2a.UNSUPPORTED_OPERATION, "A terminal task cannot accept another message")
    if state != "input-required":
        raise RpcError(a2a.UNSUPPORTED_OPERATION, "A task that is at work takes no message")


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
        raise RpcError(a2a.PUSH_NOT_SUPPORTED, "Push notifications are not supported")
    if name in ("SubscribeToTask", "tasks/resubscribe"):
        raise RpcError(a2a.UNSUPPORTED_OPERATION, f"{name} is not supported")
    raise RpcError(METHOD_NOT_FOUND, f"Method not found: {name}")


def _rpc_error(exc: Error) -> RpcError:
    if isinstance(exc, NotFoundError):
        # Its words have an id in them.
        return RpcError(a2a.TASK_NOT_FOUND, "Not found")
    if isinstance(exc, AlreadyExistsError):
        # A thread that the caller does not see.
        return RpcError(INVALID_PARAMS, "Invalid context ID")
    if isinstance(exc, InvalidInputError):
        return RpcError(INVALID_PARAMS, exc.message)
    return RpcError(INTERNAL_ERROR, exc.message)
