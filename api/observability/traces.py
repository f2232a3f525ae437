"""Traces by OpenTelemetry: where they go, and the spans of requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.trace import ProxyTracerProvider, SpanKind
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import __version__
from api.settings import Settings
from graph.tracing import Tracing, fail
from store.errors import InvalidInputError

log = structlog.get_logger(__name__)

#: How long the last spans may take to be sent when the process goes.
FLUSH_SECONDS: Final = 3.0


@asynccontextmanager
async def open_tracing(settings: Settings) -> AsyncIterator[Tracing | None]:
    """
    Have traces taken where the settings say, or where whoever runs this process has said.

    Where they go and which are sampled is read by OpenTelemetry from its own variables.

    Raises:
        InvalidInputError: They are to be sent, and what sends them is not installed.
    """
    if settings.traces == "none":
        provider = trace.get_tracer_provider()
        # One that does nothing, unless somebody has put one there.
        is_there = not isinstance(provider, ProxyTracerProvider)
        yield Tracing(provider.get_tracer("threadwell", __version__)) if is_there else None
        return
    provider = _exporting()
    try:
        yield Tracing(provider.get_tracer("threadwell", __version__))
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await asyncio.to_thread(provider.force_flush, int(1000 * FLUSH_SECONDS))


def _exporting() -> Any:
    """The process's provider, made at the first call."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as exc:
        raise InvalidInputError(
            "OTEL_TRACES_EXPORTER is otlp: pip install 'threadwell[otel]'"
        ) from exc
    there = trace.get_tracer_provider()
    if isinstance(there, TracerProvider):
        return there
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
    about = Resource({"service.name": "threadwell", "service.version": __version__})
    provider = TracerProvider(resource=about.merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


class TracedRequests:
    """
    Makes a span of every request, under the one that its sender names by ``traceparent``.

    It has the route and never the path, which may be a key in itself.

    Args:
        app: What is behind it; the router sees the same scope.
        tracing: Makes the spans.
    """

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self.app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        with self._tracing.tracer.start_as_current_span(
            method,
            context=self._tracing.extract(Headers(scope=scope)),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": method,
                "threadwell.request_id": scope.get("state", {}).get("request_id", ""),
            },
            record_exception=False,
        ) as span:

            async def send_noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        fail(span, str(status))
                await send(message)

            try:
                await self.app(scope, receive, send_noting)
            finally:
                if route := getattr(scope.get("route"), "path", None):
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
