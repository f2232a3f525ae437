"""Runs of crons are those of who made the cron."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import Settings
from tests.graph.engines import DEADLINE_SECONDS

ADA, EVE = {"authorization": "Bearer ada"}, {"authorization": "Bearer eve"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "langgraph.json"
    graphs = {"ask": "tests.graph.sample_graphs:ask"}
    config.write_text(json.dumps({"graphs": graphs, "auth": {"path": "tests.api.auths:owners"}}))
    return Settings(config=config)


async def test_what_a_cron_makes_is_its_makers(
    http: httpx.AsyncClient,
) -> None:
    async def sent(path: str, body: Any, who: dict[str, str]) -> Any:
        answer = await http.post(path, json=body, headers=who)
        assert answer.status_code == 200, answer.text
        return answer.json()

    body = {
        "assistant_id": "ask",
        "schedule": "* * * * * *",
        "input": {"text": "x"},
        "on_run_completed": "keep",
    }
    cron = await sent("/runs/crons", body, ADA)
    assert cron["user_id"] == "ada"
    assert cron["metadata"] == {"owner": "ada"}
    found: list[Any] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        # Each second there is one more that is busy.
        while not found:
            threads = await sent("/threads/search", {"metadata": {"graph_id": "ask"}}, ADA)
            found = [thread for thread in threads if thread["status"] != "busy"]

    assert await sent("/threads/search", {}, EVE) == []
    assert await sent("/runs/crons/search", {}, EVE) == []
    [run] = (await http.get(f"/threads/{found[0]['thread_id']}/runs", headers=ADA)).json()
    configurable = run["kwargs"]["config"]["configurable"]
    assert configurable["langgraph_auth_user"]["identity"] == "ada"
    assert configurable["cron_id"] == run["metadata"]["cron_id"] == cron["cron_id"]
    assert run["metadata"]["owner"] == found[0]["metadata"]["owner"] == "ada"
