"""
Traces by OpenTelemetry: a run, its nodes, and the calls of its models and tools.

There is a `Tracing` only where traces are wanted; without one nothing here is called. A span says what
was done, how long it took and which kind of error ended it, never what was said: no content, no
message of an exception.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langgraph.errors import GraphBubbleUp
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from store.queue import Claim

#: Of a run's kwargs: where its trace begins, as W3C's header of the same name.
TRACEPARENT: Final = "traceparent"
#: What LangGraph tags a node with.
_STEP: Final = "graph:step:"
_HEADER: Final = TraceContextTextMapPropagator()
#: How many spans of a run may be open at a time; what is beyond has none of its own.
MAX_OPEN: Final = 10_000


class Tracing:
    """
    Makes the spans of a process.

    Args:
        tracer: Of the provider that takes them.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer

    def traceparent(self) -> str | None:
        """What is current, for who goes on with it, in whichever process; None if nothing is."""
        carrier: dict[str, str] = {}
        _HEADER.inject(carrier)
        return carrier.get(TRACEPARENT)

    def extract(self, headers: Mapping[str, str]) -> Context:
        """Where a trace goes on that came with headers, or with a run."""
        return _HEADER.extract({name: headers[name] for name in (TRACEPARENT,) if name in headers})

    @contextmanager
    def run(self, claim: Claim) -> Iterator[Span]:
        """The span of an attempt of a run, current in the block; under the request that asked."""
        run = claim.run
        configurable = run.kwargs["config"]["configurable"]
        sent = run.kwargs.get(TRACEPARENT)
        with self.tracer.start_as_current_span(
            f"run {configurable['graph_id']}",
            context=self.extract({TRACEPARENT: sent}) if sent else Context(),
            kind=SpanKind.CONSUMER,
            attributes={
                "threadwell.run_id": run.run_id,
                "threadwell.thread_id": run.thread_id,
                "threadwell.assistant_id": run.assistant_id,
                "threadwell.graph_id": configurable["graph_id"],
                "threadwell.attempt": run.attempt,
                "threadwell.request_id": configurable.get("langgraph_request_id") or "",
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    def steps(self) -> "Steps":
        """A handler for what is done under the span that is current now."""
        return Steps(self.tracer, trace.set_span_in_context(trace.get_current_span()))


class Steps(BaseCallbackHandler):
    """
    Makes spans of the nodes of one run of a graph, and of the calls of models, tools and retrievers.

    Args:
        parent: Under which they are.
    """

    #: Called where things happen, in their order.
    run_inline = True

    def __init__(self, tracer: Tracer, parent: Context) -> None:
        self._tracer = tracer
        self._parent = parent
        #: By run of LangChain's: the span that is open for it, if it has one, and what is under it.
        self._open: dict[UUID, tuple[Span | None, Context]] = {}

    async def aclose(self) -> None:
        """End what was left open: by a run that was stopped."""
        for span, _ in list(self._open.values()):
            if span is not None:
                span.end()
        self._open.clear()

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A node; or a step within one, which has no span."""
        step = next((tag for tag in tags or () if tag.startswith(_STEP)), None)
        if step is None:
            self._open[run_id] = (None, self._under(parent_run_id))
            return
        node = str((metadata or {}).get("langgraph_node", kwargs.get("name")))
        number = int(step.removeprefix(_STEP))
        attributes: dict[str, str | int] = {"langgraph.node": node, "langgraph.step": number}
        self._start(run_id, parent_run_id, f"node {node}", SpanKind.INTERNAL, attributes)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A call of a chat model."""
        self._call(run_id, parent_run_id, "chat", metadata or {})

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A call of a model that completes texts."""
        self._call(run_id, parent_run_id, "text_completion", metadata or {})

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A call of a tool."""
        name = kwargs.get("name") or (serialized or {}).get("name") or "tool"
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": str(name)}
        self._start(run_id, parent_run_id, f"execute_tool {name}", SpanKind.INTERNAL, attributes)

    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A search for documents."""
        name = str(kwargs.get("name") or (serialized or {}).get("name") or "retriever")
        self._start(run_id, parent_run_id, f"retrieve {name}", SpanKind.INTERNAL, {})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model has answered: with how many tokens, and why no more."""
        span, _ = self._open.get(run_id, (None, None))
        if span is not None:
            span.set_attributes(_usage(response))
        self._end(run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """It has ended."""
        self._end(run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """It has ended."""
        self._end(run_id)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """It has ended."""
        self._end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It has failed, or stopped to ask."""
        self._end(run_id, error)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It has failed."""
        self._end(run_id, error)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It has failed, or stopped to ask."""
        self._end(run_id, error)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """It has failed."""
        self._end(run_id, error)

    def _call(
        self, run_id: UUID, parent_run_id: UUID | None, operation: str, metadata: dict[str, Any]
    ) -> None:
        model = str(metadata.get("ls_model_name") or "")
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": str(metadata.get("ls_provider") or ""),
            "gen_ai.request.model": model,
        }
        name = f"{operation} {model}".rstrip()
        self._start(run_id, parent_run_id, name, SpanKind.CLIENT, attributes)

    def _under(self, parent_run_id: UUID | None) -> Context:
        found = self._open.get(parent_run_id) if parent_run_id else None
        return self._parent if found is None else found[1]

    def _start(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, str | int],
    ) -> None:
        if len(self._open) >= MAX_OPEN:
            return
        under = self._under(parent_run_id)
        span = self._tracer.start_span(name, context=under, kind=kind, attributes=attributes)
        self._open[run_id] = (span, trace.set_span_in_context(span, under))

    def _end(self, run_id: UUID, error: BaseException | None = None) -> None:
        span, _ = self._open.pop(run_id, (None, None))
        if span is None:
            return
        if isinstance(error, GraphBubbleUp):
            span.set_attribute("langgraph.interrupted", True)
        elif error is not None:
            fail(span, type(error).__name__)
        span.end()


def fail(span: Span, kind: str) -> None:
    """Say that what a span is of has failed, and by which kind of error."""
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _usage(response: LLMResult) -> dict[str, Any]:
    generation = response.generations[0][0] if response.generations else None
    message = generation.message if isinstance(generation, ChatGeneration) else None
    if not isinstance(message, AIMessage):
        return {}
    found: dict[str, Any] = {}
    if usage := message.usage_metadata:
        found["gen_ai.usage.input_tokens"] = usage["input_tokens"]
        found["gen_ai.usage.output_tokens"] = usage["output_tokens"]
    if reason := message.response_metadata.get("finish_reason"):
        found["gen_ai.response.finish_reasons"] = [str(reason)]
    return found
