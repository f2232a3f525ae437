"""What clients send to have a graph run, named as in the SDK. Unknown fields are ignored."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict

from api.schemas import Checkpoint, Payload
from graph.requests import RunRequest
from graph.stream import StreamPlan
from store.errors import BadRequestError, UnsupportedError
from store.models import JsonObject, MultitaskStrategy

#: A week and a day: longer delays are crons.
MAX_AFTER_SECONDS = 8 * 24 * 3600


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StreamModes = Annotated[list[str], BeforeValidator(_as_list)]
Nodes = Literal["*"] | list[str]
#: JSON has no tuples.
Pair = Annotated[tuple[str, Any], Strict(False)]


class RunConfig(Payload):
    """A `RunnableConfig` as it travels."""

    tags: list[str] | None = None
    recursion_limit: int | None = Field(default=None, ge=1, le=10_000)
    max_concurrency: int | None = Field(default=None, ge=1, le=10_000)
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
    webhook: str | None = None
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    stream_mode: StreamModes | None = None
    stream_subgraphs: bool | None = False
    stream_resumable: bool | None = False
    on_disconnect: Literal["cancel", "continue"] | None = "continue"
    on_completion: Literal["delete", "keep"] | None = "delete"
    after_seconds: float | None = Field(default=None, ge=0, le=MAX_AFTER_SECONDS)
    if_not_exists: Literal["create", "reject"] | None = "reject"
    checkpoint_during: bool | None = None
    durability: Literal["sync", "async", "exit"] | None = None

    def request(self) -> RunRequest:
        """
        The run as `graph.runs` takes it.

        Raises:
            BadRequestError: It resumes a thread that it does not name.
            UnsupportedError: It asks for a webhook.
        """
        if self.command is not None and self.command.resume is not None:
            raise BadRequestError("You must provide a thread_id when resuming.")
        return self._request(temporary=self.on_completion != "keep")

    def _request(self, **more: Any) -> RunRequest:
        if self.webhook:
            raise UnsupportedError("Webhooks are not supported by this version")
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
            if_not_exists=self.if_not_exists or "reject",
            after_seconds=self.after_seconds or 0.0,
            durability=self.durability or ("exit" if self.checkpoint_during is False else "async"),
            **more,
        )


class RunCreate(RunCreateStateless):
    """A run on a thread."""

    checkpoint: Checkpoint | None = None
    checkpoint_id: str | None = None
    multitask_strategy: MultitaskStrategy | None = "enqueue"

    def request(self) -> RunRequest:
        """
        The run as `graph.runs` takes it.

        Raises:
            UnsupportedError: It asks for a webhook.
        """
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
    thread_id: str | None = None
    run_ids: list[str] | None = Field(default=None, max_length=1000)
