"""Traces over two processes, their logs, and LangSmith's: what each is told, and that none is told content."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import langsmith
import pytest
from google.protobuf.json_format import MessageToDict
from langchain_core.tracers import LangChainTracer
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from psycopg.conninfo import conninfo_to_dict
from websockets.asyncio.client import connect

from api.processes.embedded import Servers
from tests.acceptance.process import free_port, serving, starting
from tests.acceptance.talk import says

SECRET = "marzipan-and-saffron"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
DEADLINE_SECONDS = 60


class Receiver(ThreadingHTTPServer):
    """Takes whatever is posted; by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[tuple[str, bytes]] = []
        self.came = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def wait_for(self, holds: Any) -> None:
        with self.came:
            assert self.came.wait_for(holds, DEADLINE_SECONDS), self.bodies


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self._body()
        with self.server.came:
            self.server.bodies.append((self.path, body))
            self.server.came.notify_all()
        self._answer(b"{}" if self.path != "/v1/traces" else b"")

    do_PATCH = do_POST  # noqa: N815 - how the library wants it

    def do_GET(self) -> None:
        # What LangSmith's client asks for first.
        self._answer(b"{}")

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_without_its_variables_nothing_of_langsmith_is_made(
    client: LangGraphClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for kind in (langsmith.Client, LangChainTracer):
        name = kind.__name__
        monkeypatch.setattr(kind, "__init__", lambda *_, name=name, **__: made.append(name))

    await client.runs.wait(None, "chat", input=says("hello"))

    assert made == []


def _spans(receiver: Receiver, *, of_caller: bool = True) -> dict[str, dict[str, Any]]:
    """Spans by their names, with their service and attributes: of our trace, or of others."""
    found = {}
    for body in (body for path, body in receiver.bodies if path == "/v1/traces"):
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                about = {
                    item.key: next(iter(MessageToDict(item.value).values()))
                    for item in (*resource.resource.attributes, *span.attributes)
                }
                if (span.trace_id.hex() == TRACE) != of_caller:
                    continue
                found[span.name] = about | {
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "failed": span.status.code == 2,
                }
    return found


async def test_a_trace_goes_on_in_the_process_that_executes_the_run(
    tmp_path: Path, servers: Servers, database_url: str, receiver: Receiver
) -> None:
    """One that serves and executes nothing, and one that works; traces, logs and LangSmith of both."""
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": {"watched": "tests.api.watched_graphs:watched"}}))
    variables = {
        "DATABASE_URL": f"postgresql:///?{urlencode(conninfo_to_dict(database_url))}",
        "REDIS_URL": servers.redis_url,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "LOG_JSON": "true",
        # Whatever a library would say: operators turn it on when something is wrong.
        "LOG_LEVEL": "debug",
    }
    serves = variables | {"THREADWELL_WORKERS": "0", "OTEL_SERVICE_NAME": "front"}
    works = variables | {
        "OTEL_SERVICE_NAME": "back",
        "LANGSMITH_TRACING": "true",
        "LANGSMITH_ENDPOINT": receiver.url,
        "LANGSMITH_API_KEY": "lsv2-key",
        "LANGSMITH_PROJECT": "watched",
        "METRICS_PORT": str(port := free_port()),
    }
    with serving(config, serves) as front, starting(config, works, serves=False) as back:
        async with get_client(
            url=front.url,
            headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "request-1"},
        ) as client:
            thread = await client.threads.create()
            run = await client.runs.create(thread["thread_id"], "watched", input=says(SECRET))
            values = await client.runs.join(thread["thread_id"], run["run_id"])
            assert SECRET in str(values)
        async with get_client(url=front.url, headers={"x-request-id": "request-2"}) as client:
            failing = await client.runs.create(
                thread["thread_id"], "watched", input=says(f"fail {SECRET}")
            )
            await client.runs.join(thread["thread_id"], failing["run_id"])
        await _socket(front.url)
        receiver.wait_for(lambda: _is_all_told(receiver))
        # Of a process that serves nobody.
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            metrics = (await http.get("/metrics")).text
            assert (await http.get("/ready")).json()["ready"] is True
        assert 'threadwell_runs_ended_total{process="0",status="error"} 1.0' in metrics
        assert back.stop() == 0
    assert '"level": "debug"' in front.log
    assert SECRET not in front.log + back.log
    _check_trace(receiver, thread["thread_id"], run["run_id"])
    _check_log(back.lines, thread["thread_id"], failing["run_id"])


async def _socket(url: str) -> None:
    """A socket with a secret in its handshake, in its first frame and in what it is told."""
    address = url.replace("http", "ws", 1) + "/api/ws"
    async with connect(address, additional_headers={"authorization": f"Bearer {SECRET}"}) as socket:
        for method, params in (("auth", {"token": SECRET}), (SECRET, {})):
            frame = {"id": 1, "method": method, "params": params}
            await socket.send(json.dumps(frame))
            async with asyncio.timeout(DEADLINE_SECONDS):
                await socket.recv()


def _is_all_told(receiver: Receiver) -> bool:
    spans, smith = _spans(receiver), [b for path, b in receiver.bodies if path != "/v1/traces"]
    names = {"run watched", "node check", "node answer", "POST /threads/{thread_id}/runs"}
    failed = _spans(receiver, of_caller=False).get("run watched")
    return (
        failed is not None
        and names <= set(spans)
        and any(SECRET.encode() in body for body in smith)
    )


def _check_trace(receiver: Receiver, thread_id: str, run_id: str) -> None:
    assert SECRET.encode() not in b"".join(b for path, b in receiver.bodies if path == "/v1/traces")
    spans = _spans(receiver)
    request, run = spans["POST /threads/{thread_id}/runs"], spans["run watched"]
    node, model = spans["node answer"], spans["chat"]
    assert [request["parent"], run["parent"], node["parent"], model["parent"]] == [
        CALLER, request["id"], run["id"], node["id"],
    ]  # fmt: skip
    assert [request["service.name"], run["service.name"]] == ["front", "back"]
    assert request["http.response.status_code"] in (200, "200")
    assert run["threadwell.request_id"] == "request-1"
    assert (run["threadwell.thread_id"], run["threadwell.run_id"]) == (thread_id, run_id)
    assert run["threadwell.status"] == "success"
    assert not any(span["failed"] for span in spans.values())
    failed = _spans(receiver, of_caller=False)
    assert failed["run watched"]["failed"]
    assert failed["run watched"]["error.type"] == failed["node answer"]["error.type"]
    assert failed["node answer"]["error.type"] == "RuntimeError"


def _check_log(lines: list[str], thread_id: str, run_id: str) -> None:
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    ids = {"run_id": run_id, "thread_id": thread_id, "request_id": "request-2"}
    [failed] = [line for line in logged if line["event"] == "run failed"]
    told = [line for line in logged if line["logger"] == "watched"]
    assert ids.items() <= failed.items()
    # Where the node itself logs, on the loop of the graphs and by the standard library.
    assert [line["run_id"] for line in told].count(run_id) == 1
    assert all(line["thread_id"] == thread_id for line in told)
    # Which errors, and where, but not what they say.
    assert "ValueError" in failed["exception"]
    assert "RuntimeError" in failed["exception"]
    assert "watched_graphs.py" in failed["exception"]
