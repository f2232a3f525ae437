"""What a run is asked for, and what it becomes with all that it inherits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID, uuid5

from langgraph.types import Command, Send

from graph.first_words import without_title
from store.access import MEMBERS, UNDER_WAY, Access
from store.errors import BadRequestError
from store.models import JsonObject, MultitaskStrategy
from store.runs import Setting

#: The namespace of system assistants: ``uuid5(NAMESPACE, graph_id)``, as on every such server.
NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")

Durability = Literal["sync", "async", "exit"]

_INTERRUPT_ID = re.compile("[0-9a-f]{32}")

#: What of a config is LangGraph's own affair.
_PASSED_ON = ("tags", "recursion_limit", "max_concurrency", "run_name")

BOTH_GIVEN = (
    "Cannot specify both configurable and context. Prefer setting context alone. Context was "
    "introduced in LangGraph 0.6.0 and is the long term planned replacement for configurable."
)

#: Keys of ``configurable`` that only the server sets.
RESERVED = frozenset(
    {
        "langgraph_auth_user",
        "langgraph_auth_user_id",
        "langgraph_auth_permissions",
        "langgraph_request_id",
        "__request_start_time_ms__",
        "__after_seconds__",
        "__pregel_node_finished",
        "__context_provided__",
    }
)
_RESERVED_PREFIXES = ("langgraph_auth_", "__langsmith_", "__otel_", "__dd_")
#: Keys of ``metadata`` that only the server sets; stripped, as the reference does.
RESERVED_METADATA = frozenset(
    {
        "thread_id",
        "assistant_id",
        "run_id",
        "cron_id",
        "counters_since_delta_snapshot",
        MEMBERS,
        UNDER_WAY,
    }
)


@lru_cache(maxsize=1024)
def system_assistant_id(graph_id: str) -> str:
    """The id of the assistant that every graph has."""
    return str(uuid5(NAMESPACE, graph_id))


@dataclass(frozen=True, slots=True)
class Admission:
    """Where a run may be that was taken in ahead of what is made for it: nobody is asked again."""

    access: Access
    assistant_access: Access


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """A run as a door decoded it; all of it is checked, none of it is merged."""

    assistant_id: str
    #: Made when the run is submitted, unless given.
    run_id: str | None = None
    input: Any = None
    command: JsonObject | None = None
    checkpoint: JsonObject | None = None
    metadata: JsonObject = field(default_factory=dict)
    config: JsonObject = field(default_factory=dict)
    context: JsonObject | None = None
    stream_modes: Sequence[str] = ("values",)
    stream_subgraphs: bool = False
    resumable: bool = False
    interrupt_before: str | list[str] | None = None
    interrupt_after: str | list[str] | None = None
    multitask_strategy: MultitaskStrategy = "enqueue"
    if_not_exists: Literal["create", "reject"] = "reject"
    after_seconds: float = 0.0
    durability: Durability = "async"
    #: Refuse to resume with an answer to what is not asked.
    strict_resume: bool = False
    #: Its clients read the event-streaming protocol.
    protocol: bool = False
    #: Of one that a session begins: what its clients are told at its beginning, as ``user_message_id``.
    session: JsonObject | None = None
    #: As asked for; `durability` is what counts.
    checkpoint_during: bool | None = None
    #: Kept on the run, for those who look at it.
    feedback_keys: list[str] | None = None
    #: Delete the thread when the run ends; nothing of it is checkpointed.
    temporary: bool = False
    #: Told when the run has ended.
    webhook: str | None = None
    #: It was allowed, and there was room for it: what was done for it since counts on that.
    admitted: Admission | None = None
    #: The cron that it is a run of.
    cron_id: str | None = None
    #: That its client likes best, as ``zh``.
    language: str | None = None
    #: Keys of ``configurable`` that the server adds: who is calling, and the request's id.
    injected: JsonObject = field(default_factory=dict)


def compose(
    request: RunRequest, setting: Setting, *, run_id: str, thread_id: str
) -> tuple[JsonObject, JsonObject]:
    """
    Merge what the run inherits: assistant, then thread, then request, the later one winning.

    Returns:
        The run's metadata, and the kwargs that its row keeps: what `graph.executor` executes.

    Raises:
        BadRequestError: Both ``context`` and ``config.configurable`` are given.
    """
    configurable, context = _configurable(request, setting)
    ids = {
        "run_id": run_id,
        "thread_id": thread_id,
        "graph_id": setting.graph_id,
        "assistant_id": setting.assistant_id,
    }
    of_cron = {"cron_id": request.cron_id} if request.cron_id else {}
    metadata = {
        **setting.metadata,
        **without_title(setting.thread_metadata or {}),
        **metadata_of(request),
        "graph_id": setting.graph_id,
        "assistant_id": setting.assistant_id,
        **of_cron,
    }
    config = {
        **_plain(setting.config),
        **_plain(request.config),
        "configurable": {
            **_own(configurable),
            **_checkpoint(request.checkpoint),
            "user_id": configurable.get("user_id", ""),
            **request.injected,
            **of_cron,
            **ids,
        },
        "metadata": metadata,
    }
    kwargs = {
        "input": request.input,
        "command": request.command,
        "config": config,
        "context": context,
        "stream_mode": list(request.stream_modes),
        "interrupt_before": request.interrupt_before,
        "interrupt_after": request.interrupt_after,
        "webhook": request.webhook,
        "feedback_keys": request.feedback_keys,
        "temporary": request.temporary,
        "subgraphs": request.stream_subgraphs,
        "resumable": request.resumable,
        "checkpoint_during": request.checkpoint_during is not False,
        "durability": request.durability,
    }
    if request.strict_resume:
        kwargs["strict_resume"] = True
    if request.protocol:
        kwargs["protocol"] = "v2"
    if request.session is not None:
        kwargs["session"] = request.session
    return metadata, kwargs


def thread_config(request: RunRequest, setting: Setting) -> JsonObject:
    """What a thread keeps of the config of a run: all of it but what was asked for as configurable."""
    metadata = without_reserved(request.config.get("metadata") or {})
    asked = {**_plain(request.config), "metadata": metadata}
    return {
        **_plain(setting.config),
        **(setting.thread_config or {}),
        **{key: value for key, value in asked.items() if value},
        "configurable": _inherited(setting),
    }


def _configurable(request: RunRequest, setting: Setting) -> tuple[JsonObject, JsonObject]:
    """Context and configurable: two names of one thing, of which a request may use one."""
    asked = _asked(request.config, request.context)
    return {**_inherited(setting), **asked}, {**setting.context, **asked}


def mirrored(
    config: JsonObject | None, context: JsonObject | None
) -> tuple[JsonObject, JsonObject]:
    """
    The config and context that an assistant keeps: what was given as one of them, as both.

    Raises:
        BadRequestError: Both ``context`` and ``config.configurable`` are given.
    """
    asked = _asked(config or {}, context)
    kept = {key: value for key, value in (config or {}).items() if key != "configurable"}
    if asked or "configurable" in (config or {}):
        kept["configurable"] = asked
    return kept, asked


def _asked(config: JsonObject, context: JsonObject | None) -> JsonObject:
    """What a client gave as configurable, or as context, without the keys of the server."""
    configurable, context = _own(config.get("configurable") or {}), _own(context or {})
    if configurable and context:
        raise BadRequestError(BOTH_GIVEN)
    return configurable or context


def _own(values: JsonObject) -> JsonObject:
    return {
        key: value
        for key, value in values.items()
        if key not in RESERVED and not key.startswith(_RESERVED_PREFIXES)
    }


def _inherited(setting: Setting) -> JsonObject:
    return {
        **(setting.config.get("configurable") or {}),
        **((setting.thread_config or {}).get("configurable") or {}),
    }


def _plain(config: JsonObject) -> JsonObject:
    return {key: config[key] for key in _PASSED_ON if config.get(key) is not None}


def fork_of(kwargs: JsonObject) -> str | None:
    """The checkpoint of its thread that a run begins from; None if that is the newest."""
    configurable = kwargs["config"]["configurable"]
    return None if configurable.get("checkpoint_ns") else configurable.get("checkpoint_id")


def _checkpoint(checkpoint: JsonObject | None) -> JsonObject:
    keys = ("checkpoint_id", "checkpoint_ns", "checkpoint_map")
    return {key: checkpoint[key] for key in keys if checkpoint and checkpoint.get(key) is not None}


def metadata_of(request: RunRequest) -> JsonObject:
    """What a request says of its run, and of a thread that is made for it."""
    return {
        **without_reserved(request.config.get("metadata") or {}),
        **without_reserved(request.metadata),
    }


def without_reserved(metadata: JsonObject) -> JsonObject:
    """Metadata without the keys that only the server sets."""
    return {key: value for key, value in metadata.items() if key not in RESERVED_METADATA}


def graph_input(kwargs: JsonObject) -> Any:
    """The input of the graph; a command that says anything wins over an input beside it."""
    command = kwargs.get("command") or {}
    said = any(value is not None for value in command.values())
    return as_command(command) if said else kwargs.get("input")


def answered_ids(command: JsonObject) -> list[str]:
    """The interrupts that a command answers by their ids; none if it does not name them."""
    resume = command.get("resume")
    if not isinstance(resume, dict) or not all(_INTERRUPT_ID.fullmatch(key) for key in resume):
        return []
    return list(resume)


def as_command(command: JsonObject) -> Command[Any]:
    """A `Command` that travelled as JSON."""
    update = command.get("update")
    if isinstance(update, list):
        update = [tuple(pair) for pair in update]
    # LangGraph iterates over the targets, and fails for None on a thread that has nothing to resume.
    goto = _targets(command.get("goto") or ())
    return Command(resume=command.get("resume"), update=update, goto=goto)


def _targets(goto: Any) -> Any:
    if isinstance(goto, list):
        return [_targets(target) for target in goto]
    return Send(goto["node"], goto.get("input")) if isinstance(goto, dict) else goto
