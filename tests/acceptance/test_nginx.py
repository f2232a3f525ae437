"""Behind a real nginx with the settings of deploy/nginx.conf, nothing is told later, less or otherwise."""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from websockets.asyncio.client import connect

from tests.acceptance.gate import Gate
from tests.acceptance.process import ROOT, ServerProcess, free_port
from tests.acceptance.sse import frames
from tests.acceptance.talk import says

UPSTREAMS = ("server 127.0.0.1:2024 ", "server 127.0.0.1:2025 ")
START_SECONDS = 10.0
#: Everything that nginx would put where its package has it.
MAIN = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/threadwell.conf;
}}
"""


def _installed() -> str:
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None and shutil.which("apt-get"):
        install = ["apt-get", "install", "--yes", "--no-install-recommends", "nginx-light"]
        subprocess.run(install, capture_output=True, check=False, timeout=100)
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed, and there is no right to install it")
    return program


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where nginx has its files."""
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def nginx(replicas: tuple[ServerProcess, ServerProcess], directory: Path) -> Iterator[str]:
    """The URL of nginx before both replicas, and a third one that is down."""
    program = _installed()
    port = free_port()
    text = (ROOT / "deploy/nginx.conf").read_text("utf-8")
    for line, replica in zip(UPSTREAMS, replicas, strict=True):
        assert line in text
        text = text.replace(line, f"server {replica.url.removeprefix('http://')} ")
    text = text.replace("keepalive 64;", f"server 127.0.0.1:{free_port()};\n    keepalive 64;")
    (directory / "threadwell.conf").write_text(
        text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    )
    main = directory / "nginx.conf"
    main.write_text(MAIN.format(directory=directory))
    command = [program, "-c", str(main), "-p", str(directory)]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            _wait_until_it_answers(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_until_it_answers(url: str) -> None:
    transport = httpx.HTTPTransport(retries=10)  # with growing pauses
    with httpx.Client(transport=transport, timeout=START_SECONDS) as http:
        assert http.get(f"{url}/ok").json()["ok"] is True


@pytest.fixture
async def proxied(nginx: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=nginx, timeout=30) as http:
        yield http


def asked(gate: Gate) -> dict[str, Any]:
    words = f"hold {gate.port} middle one two three"
    return {
        "assistant_id": "chat",
        "input": says(words),
        "stream_mode": ["messages-tuple", "values"],
    }


async def test_the_first_token_comes_before_the_model_has_finished_and_a_reload_misses_nothing(
    proxied: httpx.AsyncClient, gate: Gate
) -> None:
    gate.hold("middle")
    thread_id = (await proxied.post("/threads", json={})).json()["thread_id"]
    url = f"/threads/{thread_id}/runs/stream"
    first = []
    async with proxied.stream("POST", url, json=asked(gate)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for frame in frames(response):
            first.append(frame)
            # The model waits here: had nginx kept the token, it would not be there.
            if frame.name == "messages":
                await gate.arrived("middle")
                break
    run_id = first[0].data["run_id"]
    path, since = f"/threads/{thread_id}/runs/{run_id}/stream", {"Last-Event-ID": first[-1].id}
    async with proxied.stream("GET", path, headers=since) as response:
        gate.release("middle")
        rest = [frame async for frame in frames(response)]

    seen = [frame for frame in (*first, *rest) if frame.name == "messages"]
    assert "".join(frame.data[0]["content"] for frame in seen) == "(1) one two three"
    async with proxied.stream("GET", path, headers={"Last-Event-ID": "-1"}) as response:
        whole = [frame.raw async for frame in frames(response)]
    assert whole == [frame.raw for frame in (*first, *rest)]


async def test_the_sdk_works_through_it_and_no_request_meets_the_replica_that_is_down(
    nginx: str,
) -> None:
    async with get_client(url=nginx) as client:
        for number in range(12):
            thread = await client.threads.create()
            values: Any = await client.runs.wait(
                thread["thread_id"], "chat", input=says(f"turn {number}")
            )
            assert values["messages"][-1]["content"] == f"(1) turn {number}"


async def test_a_websocket_is_upgraded(nginx: str, proxied: httpx.AsyncClient) -> None:
    session = (await proxied.post("/api/sessions", json={})).json()["id"]
    async with connect(nginx.replace("http", "ws") + "/api/ws") as socket:
        told: list[Any] = []

        async def ask(number: int, method: str, last: str, **params: str) -> None:
            command = {"id": number, "method": method, "params": {"session_id": session, **params}}
            await socket.send(json.dumps(command))
            while not told or last not in (told[-1]["type"], told[-1].get("method")):
                told.append(json.loads(await socket.recv()))

        await ask(1, "session.subscribe", "success")
        await ask(2, "message.send", "message.end", query="hello")
    assert "message.delta" in [frame.get("method") for frame in told]


async def test_a_large_attachment_passes_and_what_is_too_large_is_told_by_the_server(
    proxied: httpx.AsyncClient,
) -> None:
    whole = b"words " * (4 * 1024 * 1024 // 6)
    sent = await proxied.post("/api/files", files={"file": ("a.txt", whole)})
    assert sent.status_code == 200, sent.text
    got = await proxied.get(f"/api/files/{sent.json()['id']}")
    assert got.content == whole

    refused = await proxied.post("/api/files", files={"file": ("b.txt", whole * 8)})
    assert refused.status_code == 413
    assert set(refused.json()) == {"detail", "code"}


async def test_a_link_to_a_session_is_in_no_log_of_nginx(
    proxied: httpx.AsyncClient, directory: Path
) -> None:
    session = (await proxied.post("/api/sessions", json={})).json()["id"]
    shared = await proxied.post(f"/api/sessions/{session}/shares", json={"mode": "live"})
    link = shared.json()["url"]
    token = link.rpartition("/")[2]
    assert (await proxied.get(link)).status_code == 200
    # nginx writes a line once it has answered: when the last one is there, those before are.
    for number in range(3):
        await proxied.get(f"/ok?after={number}")

    written = "".join((directory / name).read_text() for name in ("access.log", "error.log"))
    assert "/ok?after=1" in written
    assert f"/api/sessions/{session}/shares" in written
    assert token not in written


async def test_metrics_are_not_shown_to_those_outside(proxied: httpx.AsyncClient) -> None:
    assert (await proxied.get("/metrics")).status_code == 403


def test_nginx_finds_the_page_of_the_documentation_named() -> None:
    page = Path(ROOT / "docs/deployment.md").read_text("utf-8")
    assert "deploy/nginx.conf" in page
