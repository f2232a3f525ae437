"""
The commands of the event-streaming protocol that act on a thread, whatever they came by.

An answer is an envelope: ``success`` with a result, or ``error`` with one of the protocol's codes.
Who may not see a thread, and a server that cannot answer, are no matter of the protocol: those
errors are raised.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from api.bootstrap import Services
from api.identity.auth import Caller
from api.protocol.stream import Tape, applied_through
from api.schemas.runs import RunCommand, RunCreate
from api.submissions import submit
from graph.protocol_events import namespace_of
from graph.protocol_run import STREAM_MODES
from graph.requests import RunRequest
from store import threads
from store.access import Access
from store.errors import BadRequestError, InvalidInputError, ThreadBusyError
from store.models import JsonObject, Thread

#: How long `input.respond` waits for the run that asked to settle, and how often it looks.
SETTLE_SECONDS, LOOK_SECONDS = 5.0, (0.02, 0.2)

#: How many checkpoints `state.listCheckpoints` lists, unless it is told, and at the most.
CHECKPOINTS, MAX_CHECKPOINTS = 10, 1000

Code = Literal[
    "invalid_argument", "unknown_command", "unknown_error", "no_such_run", "no_such_subscription",
    "no_such_namespace", "no_such_interrupt", "no_such_checkpoint", "permission_denied",
    "not_supported",
]  # fmt: skip


class CommandError(Exception):
    """A command that was refused, with a code of the protocol."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class _InputMessage(BaseModel):
    role: Literal["user", "system"]
    content: str
    name: str | None = None


def envelope(content: Any) -> tuple[int, str, JsonObject]:
    """
    Read a command: its id, its method, its params.

    Raises:
        BadRequestError: It is none.
    """
    command = content if isinstance(content, dict) else {}
    number, method, params = command.get("id"), command.get("method"), command.get("params")
    if type(number) is not int or not 0 <= number < 1 << 53 or not isinstance(method, str):
        raise BadRequestError(
            "Protocol commands must include an integer id and string method.",
            code="invalid_argument",
        )
    return number, method, params if isinstance(params, dict) else {}


def failure(number: int | None, code: str, message: str) -> JsonObject:
    """The answer to a command that was refused."""
    return {"type": "error", "id": number, "error": code, "message": message}


class Commands:
    """
    Answers one caller's commands on one thread.

    Args:
        thread_id: A UUID; the thread need not exist.
    """

    def __init__(self, services: Services, caller: Caller, thread_id: str) -> None:
        self._services = services
        self._caller = caller
        self._thread_id = thread_id
        self._methods: dict[str, Callable[[JsonObject], Awaitable[JsonObject]]] = {
            "run.start": self._start,
            "input.respond": self._respond,
            "input.inject": self._inject,
            "agent.getTree": self._tree,
            "state.get": self._state,
            "state.listCheckpoints": self._checkpoints,
            "state.fork": self._fork,
        }

    async def answer(self, number: int, method: str, params: JsonObject) -> JsonObject:
        """
        Do what a command says.

        Raises:
            PermissionDeniedError: The caller may not.
            NotFoundError: The thread is not the caller's, or the assistant is not there.
            ConflictError: The state of the thread cannot be read.
            UnavailableError: Something that it needs does not answer.
        """
        if (act := self._methods.get(method)) is None:
            return failure(number, "unknown_command", f"Unknown protocol command: {method}")
        # Before it acts: what it leads to comes after that.
        applied = await applied_through(self._services, self._thread_id)
        try:
            result = await act(params)
        except CommandError as exc:
            return failure(number, exc.code, str(exc))
        except ValidationError as exc:
            return failure(number, "invalid_argument", _text(exc))
        except InvalidInputError as exc:
            return failure(number, "invalid_argument", exc.message)
        except ThreadBusyError as exc:
            return failure(number, "unknown_error", exc.message)
        meta = {"applied_through_seq": applied}
        return {"type": "success", "id": number, "result": result, "meta": meta}

    async def _start(self, params: JsonObject) -> JsonObject:
        assistant_id = params.get("assistant_id")
        if not isinstance(assistant_id, str) or not assistant_id:
            raise CommandError("invalid_argument", "run.start requires an assistant_id.")
        value = params.get("input")
        strategy = params.get("multitask_strategy") or params.get("multitaskStrategy")
        more: JsonObject = {"input": value, "multitask_strategy": strategy}
        if value is not None and not _forks(params) and await self._is_asking():
            more = {"command": {"resume": value}, "multitask_strategy": strategy}
        return {"run_id": await self._submit(assistant_id, params, **more)}

    async def _is_asking(self) -> bool:
        access = await self._caller.may("threads", "read", {"thread_id": self._thread_id})
        thread = await threads.find(self._services.db, self._thread_id, access=access)
        return thread is not None and thread.status == "interrupted" and bool(thread.interrupts)

    async def _submit(self, assistant_id: str, params: JsonObject, **more: Any) -> str:
        """Start a run whose clients read the protocol."""
        given = {key: params.get(key) for key in ("config", "metadata")}
        body = RunCreate(
            assistant_id=assistant_id,
            stream_mode=["values"],
            stream_subgraphs=True,
            stream_resumable=True,
            if_not_exists="create",
            **given,
            **more,
        )
        request = _of_protocol(body.request(), strict=params.get("strict_resume") is True)
        submitted = await submit(
            self._services, self._caller, request, thread_id=self._thread_id, attached=True
        )
        return submitted.run.run_id

    async def _respond(self, params: JsonObject) -> JsonObject:
        answers = _answers(params)
        thread = await self._settled()
        if thread is None:
            raise CommandError("no_such_run", "No interrupted run is bound to this thread.")
        asked = {one["id"] for of_task in thread.interrupts.values() for one in of_task}
        for interrupt_id in answers:
            if interrupt_id not in asked:
                raise CommandError(
                    "no_such_interrupt", f"Unknown or already-consumed interrupt: {interrupt_id}"
                )
        beside = {key: params[key] for key in ("update", "goto") if params.get(key) is not None}
        command = RunCommand.model_validate({"resume": answers, **beside})
        await self._submit(_assistant_of(thread), params, command=command)
        return {}

    async def _settled(self) -> Thread | None:
        """The thread, once the run that asks on it is through; None if none asks."""
        until = asyncio.get_running_loop().time() + SETTLE_SECONDS
        access = await self._caller.may("threads", "read", {"thread_id": self._thread_id})
        pause, longest = LOOK_SECONDS
        while True:
            thread = await threads.find(self._services.db, self._thread_id, access=access)
            if thread is None or (thread.status != "busy" and not thread.interrupts):
                return None
            if thread.status != "busy":
                return thread
            if asyncio.get_running_loop().time() > until:
                raise CommandError("no_such_run", "A run is going on on this thread.")
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _inject(self, params: JsonObject) -> JsonObject:
        """A message as the thread's next input: after what is going on, or at once."""
        if namespace_of(params.get("namespace", [])):
            raise CommandError("not_supported", "Only the root namespace takes messages.")
        message = _InputMessage.model_validate(params.get("message"))
        thread = await self._readable()
        graph_id = str(thread.metadata.get("graph_id"))
        channel = self._services.registry.messages_channel(graph_id)
        if channel is None:
            raise CommandError("not_supported", f"Graph {graph_id} has no messages.")
        if thread.status == "interrupted":
            raise CommandError("not_supported", "The thread waits for input.respond.")
        told = message.model_dump(exclude_none=True)
        await self._submit(_assistant_of(thread), {}, input={channel: [told]})
        return {}

    async def _tree(self, params: JsonObject) -> JsonObject:
        access = await self._read_access()
        logged = await self._services.follower.retained(self._thread_id)
        run_id = params.get("run_id") or next((e.run_id for e in reversed(logged) if e.run_id), "")
        ours = [event for event in logged if event.run_id == run_id]
        thread = await threads.find(self._services.db, self._thread_id, access=access)
        if not ours or thread is None:
            raise CommandError("no_such_run", "No run of this thread is known any more.")
        tape = Tape(self._services, self._thread_id, access=access, channels=("lifecycle",))
        tape.view.know(thread)
        for event in ours:
            tape.view.read(event)
        return {"tree": tape.view.tree}

    async def _state(self, params: JsonObject) -> JsonObject:
        namespace = namespace_of(params.get("namespace", []))
        keys = params.get("keys")
        if keys is not None:
            _strings("keys", keys)
        access = await self._read_access()
        address = {"checkpoint_ns": "|".join(namespace)}
        state = await _of_namespace(
            self._services.states.get(self._thread_id, checkpoint=address, access=access)
        )
        if namespace and not state["checkpoint"]:
            raise CommandError("no_such_namespace", f"Nothing is at {'|'.join(namespace)}.")
        values = state["values"] if isinstance(state["values"], dict) else {}
        if keys is not None:
            values = {key: values[key] for key in keys if key in values}
        if (found := state["checkpoint"]) is None:
            return {"values": values}
        ref = {"id": found["checkpoint_id"], "ns": "|".join(namespace)}
        return {"values": values, "checkpoint": ref}

    async def _checkpoints(self, params: JsonObject) -> JsonObject:
        namespace = namespace_of(params.get("namespace", []))
        limit, before = params.get("limit", CHECKPOINTS), params.get("before")
        if type(limit) is not int or not 1 <= limit <= MAX_CHECKPOINTS:
            raise CommandError("invalid_argument", f"limit must be from 1 to {MAX_CHECKPOINTS}.")
        if before is not None and not isinstance(before, str):
            raise CommandError("invalid_argument", "before must be a checkpoint's id.")
        access = await self._read_access()
        states = await _of_namespace(
            self._services.states.history(
                self._thread_id,
                # One more: what a checkpoint came of is said by the one before.
                limit=limit + 1,
                before=before,
                checkpoint={"checkpoint_ns": "|".join(namespace)},
                access=access,
            )
        )
        older = [*states[1:], None]
        found = [_summary(one, last) for one, last in zip(states, older, strict=True)]
        return {"checkpoints": found[:limit]}

    async def _fork(self, params: JsonObject) -> JsonObject:
        checkpoint_id = params.get("checkpoint_id")
        if not isinstance(checkpoint_id, str) or not checkpoint_id:
            raise CommandError("invalid_argument", "state.fork requires a checkpoint_id.")
        thread = await self._readable()
        access = await self._read_access()
        address = {"checkpoint_id": checkpoint_id}
        state = await self._services.states.get(self._thread_id, checkpoint=address, access=access)
        if not state["checkpoint"] or not state["created_at"]:
            raise CommandError("no_such_checkpoint", f"Checkpoint {checkpoint_id} not found")
        run_id = await self._submit(
            _assistant_of(thread), params, input=params.get("input"), checkpoint_id=checkpoint_id
        )
        return {"run_id": run_id, "thread_id": self._thread_id}

    async def _read_access(self) -> Access:
        return await self._caller.may("threads", "read", {"thread_id": self._thread_id})

    async def _readable(self) -> Thread:
        """
        The thread, which some run has made.

        Raises:
            NotFoundError: It is not there, or not the caller's.
        """
        access = await self._read_access()
        thread = await threads.get(self._services.db, self._thread_id, access=access)
        if not thread.metadata.get("graph_id"):
            raise CommandError("no_such_run", "No run has been on this thread yet.")
        return thread


def _forks(params: JsonObject) -> bool:
    """Whether a run is to begin at a checkpoint; of a config that is none nothing is said here."""
    config = params.get("config")
    configurable = config.get("configurable") if isinstance(config, dict) else None
    return isinstance(configurable, dict) and "checkpoint_id" in configurable


async def _of_namespace(read: Awaitable[Any]) -> Any:
    try:
        return await read
    except BadRequestError as exc:
        raise CommandError("no_such_namespace", exc.message) from exc


def _of_protocol(request: RunRequest, *, strict: bool) -> RunRequest:
    return replace(request, stream_modes=STREAM_MODES, protocol=True, strict_resume=strict)


def _strings(name: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise CommandError("invalid_argument", f"{name} must be an array of strings.")


def _answers(params: JsonObject) -> JsonObject:
    """The answers of `input.respond`, one or several, by interrupt."""
    entries = params.get("responses")
    if entries is None:
        entries = [params]
    elif not isinstance(entries, list) or not entries:
        raise CommandError("invalid_argument", "input.respond requires at least one response.")
    answers: JsonObject = {}
    for entry in entries:
        interrupt_id = entry.get("interrupt_id") if isinstance(entry, dict) else None
        if not isinstance(interrupt_id, str) or not interrupt_id:
            raise CommandError("invalid_argument", "input.respond requires an interrupt_id.")
        namespace_of(entry.get("namespace", []))
        answers[interrupt_id] = entry.get("response")
    return answers


def _assistant_of(thread: Thread) -> str:
    """The assistant that the thread's runs are of, or its graph's own."""
    return str(thread.metadata.get("assistant_id") or thread.metadata.get("graph_id") or "")


def _summary(state: JsonObject, before: JsonObject | None) -> JsonObject:
    """A checkpoint in a list."""
    metadata = state["metadata"] or {}
    told = {
        "id": state["checkpoint"]["checkpoint_id"],
        "timestamp": state["created_at"],
        "step": metadata.get("step"),
        "metadata": metadata,
    }
    ran: list[str] = []
    if before is not None and metadata.get("source") == "loop":
        ran += before["next"]
    return {**told, "node_name": ran[0]} if len(ran) == 1 else told


def _text(error: ValidationError) -> str:
    """The first fault: where, and what is expected there."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
