"""What clients send to have a graph run, named as in the SDK. Unknown fields are ignored."""

import uuid
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from api.errors import SENTENCE
from api.schemas.common import Checkpoint, Payload, RunId, ThreadId
from graph.requests import RunRequest
from graph.stream import StreamPlan
from store.errors import BadRequestError
from store.models import JsonObject, MultitaskStrategy

#: A week and a day: longer delays are crons.
MAX_AFTER_SECONDS = 8 * 24 * 3600

#: How many runs one request creates.
MAX_BATCH = 1_000

MIXED = (
    "When providing a 'status', 'thread_id' and 'run_ids' must be omitted. The 'status' parameter "
    "cancels all runs with the given status, regardless of thread or run ID."
)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _checkpoint_id(value: str) -> str:
    try:
        uuid.UUID(value)
    except ValueError:
        raise PydanticCustomError(SENTENCE, "Invalid checkpoint ID") from None
    return value


CheckpointId = Annotated[str, AfterValidator(_checkpoint_id)]
StreamModes = Annotated[list[str], BeforeValidator(_as_list)]
Nodes = Literal["*"] | list[str]
#: JSON has no tuples.
Pair = Annotated[tuple[str, Any], Strict(False)]


class RunConfig(Payload):
    """A `RunnableConfig` as it travels."""

    tags: list[str] | None = None
    recursion_limit: int | None = Field(default=None, ge=1, le=10_000)
    max_concurrency: int | None = Field(default=None, ge=1, le=10_000)
    run_name: str | None = None
    configurable: JsonObject | None = None
    metadata: JsonObject | None = None


class Goto(Payload):
    """A node to go to with an input of its own."""

    node: str
    input: Any = None


class RunCommand(Payload):
    """A `Command` as it travels."""

    resume: Any = None
    update: JsonObject | list[Pair] | None = None
    goto: str | Goto | list[str | Goto] | None = None


class RunCreateStateless(Payload):
    """A run on a thread of its own."""

    assistant_id: str
    input: Any = None
    command: RunCommand | None = None
    metadata: JsonObject | None = None
    config: RunConfig | None = None
    context: JsonObject | None = None
    webhook: str | None = Field(default=None, min_length=1)
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    stream_mode: StreamModes | None = None
    stream_subgraphs: bool | None = False
    stream_resumable: bool | None = False
    on_disconnect: Literal["cancel", "continue"] | None = "continue"
    on_completion: Literal["delete", "keep"] | None = "delete"
    after_seconds: float | None = Field(default=None, le=MAX_AFTER_SECONDS)
    if_not_exists: Literal["create", "reject"] | None = "reject"
    checkpoint_during: bool | None = None
    durability: Literal["sync", "async", "exit"] | None = None
    strict_resume: bool | None = False
    feedback_keys: list[str] | None = Field(
        None, description="Kept on the run; there is no LangSmith to give feedback to."
    )
    langsmith_tracer: JsonObject | None = Field(
        None, description="Taken and left: this server traces nothing to LangSmith."
    )

    def request(self) -> RunRequest:
        """
        The run as `graph.runs` takes it.

        Raises:
            BadRequestError: It resumes a thread that it does not name.
        """
        if self.command is not None and self.command.resume is not None:
            raise BadRequestError("You must provide a thread_id when resuming.")
        return self._request(temporary=self.on_completion != "keep")

    def _request(self, **more: Any) -> RunRequest:
        modes = self.stream_mode or ["values"]
        StreamPlan.parse(modes)
        config = self.config or RunConfig()
        return RunRequest(
            assistant_id=self.assistant_id,
            input=self.input,
            command=self.command.model_dump(exclude_unset=True) if self.command else None,
            metadata=self.metadata or {},
            config=config.model_dump(exclude_none=True),
            context=self.context,
            stream_modes=modes,
            stream_subgraphs=bool(self.stream_subgraphs),
            resumable=bool(self.stream_resumable),
            interrupt_before=self.interrupt_before,
            interrupt_after=self.interrupt_after,
            webhook=self.webhook,
            if_not_exists=self.if_not_exists or "reject",
            after_seconds=max(self.after_seconds or 0.0, 0.0),
            strict_resume=bool(self.strict_resume),
            durability=self.durability or ("exit" if self.checkpoint_during is False else "async"),
            checkpoint_during=self.checkpoint_during,
            feedback_keys=self.feedback_keys,
            **more,
        )


#: Runs that are created together.
RunBatch = Annotated[list[RunCreateStateless], Field(min_length=1, max_length=MAX_BATCH)]


class RunCreate(RunCreateStateless):
    """A run on a thread."""

    checkpoint: Checkpoint | None = None
    checkpoint_id: CheckpointId | None = None
    multitask_strategy: MultitaskStrategy | None = "enqueue"

    def request(self) -> RunRequest:
        """The run as `graph.runs` takes it."""
        checkpoint = (self.checkpoint or Checkpoint()).model_dump(exclude_none=True)
        if self.checkpoint_id is not None:
            checkpoint["checkpoint_id"] = self.checkpoint_id
        return self._request(
            checkpoint=checkpoint or None,
            multitask_strategy=self.multitask_strategy or "enqueue",
        )


class RunsCancel(Payload):
    """Which runs to cancel: all with a status, or some of a thread."""

    status: Literal["pending", "running", "all"] | None = None
    thread_id: ThreadId | None = None
    run_ids: list[RunId] | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _one_of_two(self) -> "RunsCancel":
        if self.status is not None and (self.thread_id is not None or self.run_ids is not None):
            raise PydanticCustomError(SENTENCE, MIXED)
        if self.status is None and (self.thread_id is None or self.run_ids is None):
            raise PydanticCustomError(SENTENCE, "Give either a status, or a thread_id with run_ids")
        return self
