"""The WebSocket of sessions in a page of a real browser, headless; skipped where none is installed."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from api.settings import Settings

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DEADLINE_SECONDS = 60.0

#: What a page does: it has no way to set a header.
PAGE = """
new Promise((resolve, reject) => {
  const told = [];
  const socket = new WebSocket(%(url)s, ["bearer", "ada"]);
  const send = (id, method, params) => socket.send(JSON.stringify({id, method, params}));
  socket.onopen = () => send(1, "session.subscribe", {session_id: %(session_id)s});
  socket.onclose = (event) => reject(new Error("closed: " + event.code));
  socket.onmessage = (message) => {
    const heard = JSON.parse(message.data);
    if (heard.id === 1) send(2, "message.send", {session_id: %(session_id)s, query: "从浏览器"});
    if (heard.type === "event") told.push(heard);
    if (heard.method === "run.end") { socket.onclose = null; socket.close(); resolve(told); }
  };
})
"""
REFUSED = """
new Promise((resolve) => {
  const socket = new WebSocket(%(url)s);
  socket.onopen = () => socket.send("{}");
  socket.onclose = (event) => resolve(event.code);
})
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    graphs = {"chat": "tests.graph.sample_graphs:chat"}
    sections = {"graphs": graphs, "auth": {"path": "tests.api.auths:owners"}}
    config.write_text(json.dumps(sections))
    return Settings(config=config)


@asynccontextmanager
async def page(directory: Path, url: str) -> AsyncIterator[Any]:
    """A page of the server; what evaluates an expression in it."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={directory}", url,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            target = await _target(directory / "DevToolsActivePort", url)
            async with connect(target, max_size=None) as devtools:
                await _loaded(devtools, url)
                yield lambda expression: _evaluate(devtools, expression)
    finally:
        process.terminate()
        await process.wait()


async def _target(port_file: Path, url: str) -> str:
    """Where the page is talked to, once it is there."""
    async with httpx.AsyncClient(timeout=30) as http:
        while True:
            if port := _port(port_file):
                targets = (await http.get(f"http://127.0.0.1:{port}/json")).json()
                for target in targets:
                    if target["type"] == "page" and target["url"].startswith(url):
                        return str(target["webSocketDebuggerUrl"])
            await asyncio.sleep(0.1)


def _port(file: Path) -> str:
    return file.read_text().split("\n")[0] if file.exists() else ""


async def _loaded(devtools: Any, url: str) -> None:
    """Wait until it is this page, and there to stay."""
    asked = f"location.href === {json.dumps(url)} && document.readyState"
    while True:
        if await _evaluate(devtools, asked) == "complete":
            return
        await asyncio.sleep(0.1)


async def _evaluate(devtools: Any, expression: str) -> Any:
    params = {"expression": expression, "awaitPromise": True, "returnByValue": True}
    await devtools.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": params}))
    while True:
        answer = json.loads(await devtools.recv())
        if answer.get("id") == 1:
            # Without a result the page has gone to another one meanwhile.
            found = answer.get("result", {"result": {}})
            assert "exceptionDetails" not in found, answer
            return found["result"].get("value")


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
async def test_a_page_talks_to_its_session_and_reads_why_it_was_refused(
    url: str, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    headers = {"authorization": "Bearer ada"}
    made = await http.post("/api/sessions", json={}, headers=headers)
    session_id = made.json()["id"]
    address = json.dumps(url.replace("http", "ws", 1) + "/api/ws")
    names = {"url": address, "session_id": json.dumps(session_id)}

    async with page(tmp_path / "browser", f"{url}/ok") as evaluate:
        told = await evaluate(PAGE % names)
        refused = await evaluate(REFUSED % names)

    methods = [event["method"] for event in told if event["method"] != "presence"]
    assert methods[0] == "run.start"
    assert methods[-2:] == ["message.end", "run.end"]
    pieces = [e["params"]["delta"] for e in told if e["method"] == "message.delta"]
    [whole] = [e["params"]["content"] for e in told if e["method"] == "message.end"]
    assert "".join(pieces) == whole
    assert "从浏览器" in whole
    assert refused == 4401
