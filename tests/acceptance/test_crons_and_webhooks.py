"""Crons and webhooks of two server processes, of which one is killed."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from api.processes.embedded import Servers
from tests.acceptance.conftest import QUICK, Connect, empty_database
from tests.acceptance.process import ServerProcess, starting
from tests.measured import read, value
from tests.receiver import Receiver, receiving

TOKEN = "t0ken-of-the-receiver"
SAID: Any = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def with_webhooks(project: Path) -> Path:
    """The project, with webhooks on this machine that know a token."""
    config = json.loads(project.read_text())
    config["webhooks"] = {
        "url": {"require_https": False, "disable_loopback": False},
        "headers": {"Authorization": "Bearer ${{ env.LG_WEBHOOK_TOKEN }}"},
    }
    path = project.with_name("webhooks.json")
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def variables(servers: Servers) -> Iterator[dict[str, str]]:
    """The settings of servers on a database of their own."""
    with empty_database(servers) as url:
        yield {
            **QUICK,
            "DATABASE_URL": url,
            "REDIS_URL": servers.redis_url,
            "LG_WEBHOOK_TOKEN": TOKEN,
            "WEBHOOK_RETRY_SECONDS": ",".join(["0.2"] * 20),
        }


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def in_time(receiver: Receiver, times: int) -> list[Any]:
    async with asyncio.timeout(30):
        return await receiver.told(times)


async def test_a_cron_fires_each_of_its_times_once_though_a_server_is_killed(
    with_webhooks: Path, variables: dict[str, str], receiver: Receiver, clients: Connect
) -> None:
    with (
        starting(with_webhooks, variables) as one,
        starting(with_webhooks, variables) as other,
    ):
        await asyncio.gather(*(asyncio.to_thread(each.wait_until_up) for each in (one, other)))
        cron: Any = await clients(one).crons.create(
            "chat",
            schedule="* * * * * *",
            input=SAID,
            on_run_completed="keep",
            webhook=receiver.url,
        )
        await in_time(receiver, 3)
        one.stop(signal.SIGKILL)
        before = len(receiver.heard)
        await in_time(receiver, before + 3)
        await clients(other).crons.update(cron["cron_id"], enabled=False)
        times = _times(variables["DATABASE_URL"])
        heard = await in_time(receiver, 1)
        # The one that was killed may have told of some that it could not note: they are told twice.
        while len({body["run_id"] for body in heard}) < len(times):
            heard = await in_time(receiver, len(heard) + 1)

    # One a second, each once, but for those that were missed while the dead one had them in hand.
    assert len(times) >= 6
    assert all(later - earlier >= timedelta(seconds=1) for earlier, later in pairwise(times))
    assert {body["status"] for body in heard} == {"success"}
    assert {body["metadata"]["cron_id"] for body in heard} == {cron["cron_id"]}
    assert len({body["run_id"] for body in heard}) == len(times)


def _times(database_url: str) -> list[datetime]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT scheduled_for FROM run ORDER BY scheduled_for")
        return [row[0] for row in rows]


async def test_a_webhook_is_told_by_another_process_if_the_first_is_killed_before(
    with_webhooks: Path, variables: dict[str, str], receiver: Receiver, clients: Connect
) -> None:
    # The receiver is in trouble, so that the end of the run waits to be told.
    receiver.statuses = [503] * 100
    with starting(with_webhooks, variables) as one:
        await asyncio.to_thread(one.wait_until_up)
        client = clients(one)
        thread_id = (await client.threads.create())["thread_id"]

        result: Any = await client.runs.wait(thread_id, "chat", input=SAID, webhook=receiver.url)
        assert result["messages"][-1]["content"]
        await in_time(receiver, 1)
        await one.printed("job is tried again")
        await _counted(one, "again")
        _hold_back(variables["DATABASE_URL"])
        one.stop(signal.SIGKILL)
        log = one.log
    receiver.statuses = []
    told_before = len(receiver.heard)
    with starting(with_webhooks, variables) as other:
        await asyncio.to_thread(other.wait_until_up)
        _let_go(variables["DATABASE_URL"])
        heard = await in_time(receiver, told_before + 1)
        await other.printed("webhook told")
        await _counted(other, "done")
        assert other.stop() == 0
        log += other.log

    assert {body["run_id"] for body in heard} == {heard[0]["run_id"]}
    assert heard[-1]["values"]["messages"][-1]["content"] == result["messages"][-1]["content"]
    assert receiver.heard[-1].headers["authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in log
    assert _jobs(variables["DATABASE_URL"]) == 0


async def _counted(server: ServerProcess, outcome: str) -> None:
    """Return once a try to tell a webhook is counted: that follows the line in the log."""
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=server.url) as http:
        while True:
            found = read((await http.get("/metrics")).text)
            if value(found, "threadwell_jobs_total", kind="webhook", outcome=outcome) >= 1:
                return


def _hold_back(database_url: str) -> None:
    """As if the next try were far away, whichever is under way."""
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE job SET due_at = now() + interval '1 hour', attempt = 1")


def _let_go(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE job SET due_at = now()")


def _jobs(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT count(*) FROM job").fetchall()
        return int(rows[0][0])


def test_a_header_whose_variable_is_missing_stops_the_start(
    with_webhooks: Path, variables: dict[str, str]
) -> None:
    del variables["LG_WEBHOOK_TOKEN"]
    with starting(with_webhooks, variables) as server:
        assert server.wait() == 1

    assert "names LG_WEBHOOK_TOKEN, which is not set" in server.log
