"""What the webhook of a run is told: of every ending, at least once, and without secrets."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import structlog

from graph.guard import UrlRules
from graph.runs import Submitted
from graph.webhook_config import WebhookConfig, read_webhooks
from graph.webhooks import VALUES_MAX_BYTES
from store import endings
from store.access import EVERYTHING
from store.database import Database
from store.endings import CANCELLED, ROLLED_BACK, WORKER_LOST
from store.errors import InvalidInputError
from tests.acceptance.process import free_port
from tests.graph import sample_graphs
from tests.graph.engines import HERE, Gate, Process, gated, process, soon, until
from tests.receiver import Receiver, receiving
from tests.store.queues import a_thread, a_worker, begin, lose

USER = {"identity": "ada", "token": "s3cret", "permissions": ["all"]}
INJECTED = {
    "langgraph_auth_user": USER,
    "langgraph_auth_user_id": "ada",
    "langgraph_auth_permissions": ["all"],
}


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def graphs(gate: Gate) -> dict[str, Any]:
    return {"gated": gated(gate), "boom": sample_graphs.boom, "ask": sample_graphs.ask}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def one(db: Database, graphs: dict[str, Any]) -> AsyncIterator[Process]:
    async with process(db, graphs) as one:
        yield one


async def ended(submitted: Submitted) -> None:
    assert submitted.execution is not None
    await soon(submitted.execution.ended)


async def jobs_left(db: Database) -> int:
    return int((await db.tuples("SELECT count(*) FROM job", {}))[0][0])


async def all_told(db: Database) -> None:
    async def gone() -> bool:
        return not await jobs_left(db)

    await until(gone)


async def test_a_run_that_succeeded_is_told_with_its_values_and_times(
    one: Process, gate: Gate, receiver: Receiver
) -> None:
    gate.opened.set()
    url = f"{receiver.url}/hook?key=1"
    submitted = await one.submit(
        await one.thread(), webhook=url, metadata={"a": 1}, injected=INJECTED
    )

    [told] = await receiver.told()

    run = submitted.run
    assert told["run_id"] == run.run_id
    assert (told["thread_id"], told["assistant_id"]) == (run.thread_id, run.assistant_id)
    assert (told["status"], "error" in told) == ("success", False)
    assert told["values"] == {"text": "x", "log": ["first", "wait", "last"]}
    assert told["metadata"]["a"] == 1
    assert told["kwargs"]["webhook"] == url
    assert told["multitask_strategy"] == "enqueue"
    times = ("created_at", "run_started_at", "run_ended_at", "webhook_sent_at")
    moments = [datetime.fromisoformat(told[name]) for name in times]
    assert moments == sorted(moments)
    assert all(told[name].endswith("+00:00") for name in times)
    assert receiver.heard[0].path == "/hook"
    assert receiver.heard[0].headers["content-type"] == "application/json"


async def test_a_webhook_is_not_told_who_its_user_is_beyond_the_name(
    one: Process, gate: Gate, receiver: Receiver
) -> None:
    gate.opened.set()
    with structlog.testing.capture_logs() as logs:
        await one.submit(
            await one.thread(), webhook=f"{receiver.url}/s3cret-path", injected=INJECTED
        )
        [told] = await receiver.told()
        await all_told(one.db)

    configurable = told["kwargs"]["config"]["configurable"]
    assert configurable["langgraph_auth_user_id"] == "ada"
    assert "langgraph_auth_user" not in configurable
    assert "langgraph_auth_permissions" not in configurable
    assert "s3cret" not in str(logs)


async def test_a_run_that_failed_is_told_with_its_error(one: Process, receiver: Receiver) -> None:
    await one.submit(await one.thread(), graph="boom", webhook=receiver.url)

    [told] = await receiver.told()

    assert told["status"] == "error"
    assert told["error"] == {"error": "ValueError", "message": "boom!"}


async def test_a_run_that_stopped_to_ask_has_succeeded(one: Process, receiver: Receiver) -> None:
    await one.submit(await one.thread(), graph="ask", webhook=receiver.url)

    [told] = await receiver.told()

    assert told["status"] == "success"
    assert "__interrupt__" not in told["values"]


async def test_a_run_that_took_too_long_is_told_as_such(
    db: Database, graphs: dict[str, Any], receiver: Receiver
) -> None:
    async with process(db, graphs, run_timeout_seconds=0.1) as one:
        await one.submit(await one.thread(), webhook=receiver.url)
        [told] = await receiver.told()

    assert (told["status"], told["error"]["error"]) == ("timeout", "TimeoutError")


@pytest.mark.parametrize(
    ("action", "status", "error"),
    [("interrupt", "interrupted", CANCELLED), ("rollback", "rollback", ROLLED_BACK)],
)
@pytest.mark.parametrize("temporary", [False, True])
async def test_a_run_that_was_cancelled_is_told_as_such(
    one: Process,
    gate: Gate,
    receiver: Receiver,
    action: Any,
    status: str,
    error: dict[str, str],
    temporary: bool,
) -> None:
    submitted = await one.submit(
        None if temporary else await one.thread(), webhook=receiver.url, temporary=temporary
    )
    await soon(gate.entered)

    await one.runs.cancel(
        submitted.run.thread_id, [submitted.run.run_id], action=action, access=EVERYTHING
    )
    [told] = await receiver.told()

    assert (told["status"], told["error"]) == (status, error)


@pytest.mark.parametrize("temporary", [False, True])
@pytest.mark.parametrize(
    ("action", "status"), [("interrupt", "interrupted"), ("rollback", "rollback")]
)
async def test_a_run_that_was_cancelled_in_the_queue_is_told_as_such(
    one: Process, receiver: Receiver, action: Any, status: str, temporary: bool
) -> None:
    submitted = await one.submit(
        None if temporary else await one.thread(),
        webhook=receiver.url,
        temporary=temporary,
        attached=False,
        after_seconds=60,
    )
    await one.runs.cancel(submitted.run.thread_id, None, action=action, access=EVERYTHING)

    [told] = await receiver.told()

    assert (told["run_id"], told["status"]) == (submitted.run.run_id, status)
    assert (told["run_started_at"], told["values"]) == (None, None)


async def test_a_run_that_makes_way_for_another_is_told_as_interrupted(
    one: Process, gate: Gate, receiver: Receiver
) -> None:
    thread_id = await one.thread()
    await one.submit(thread_id, webhook=receiver.url)
    await soon(gate.entered)
    gate.opened.set()
    await one.submit(thread_id, multitask_strategy="interrupt", attached=False)

    [told] = await receiver.told()

    assert told["status"] in ("interrupted", "success")


async def test_a_stateless_run_is_told_with_values_though_its_thread_is_gone(
    one: Process, gate: Gate, receiver: Receiver
) -> None:
    gate.opened.set()
    await one.submit(None, webhook=receiver.url, temporary=True)

    [told] = await receiver.told()

    assert told["values"]["log"] == ["first", "wait", "last"]
    assert await one.db.tuples("SELECT FROM run", {}) == []


async def test_a_run_whose_worker_was_lost_for_good_is_told_by_another_process(
    db: Database, graphs: dict[str, Any], receiver: Receiver
) -> None:
    worker_id = await a_worker(db)
    kwargs = {"webhook": receiver.url, "config": {"configurable": INJECTED}}
    claimed = await begin(db, await a_thread(db), worker_id, kwargs=kwargs)
    await lose(db, worker_id)

    async with process(db, graphs, max_attempts=1):
        [told] = await receiver.told()

    assert told["run_id"] == claimed.run.run_id
    assert (told["status"], told["error"], told["values"]) == ("error", WORKER_LOST, None)
    assert told["run_started_at"] is not None
    assert "s3cret" not in str(told)


async def test_an_end_that_is_written_twice_is_told_once(one: Process, receiver: Receiver) -> None:
    """As if the answer of the first had been lost."""
    submitted = await one.submit(await one.thread(), webhook=receiver.url, graph="ask")
    await receiver.told()
    assert submitted.execution is not None
    await ended(submitted)
    claim = submitted.execution.claim
    again = endings.Ending(
        claimed=claim,
        status="success",
        thread_status="interrupted",
        interrupts={},
        webhook={"url": receiver.url, "run": {"run_id": claim.run.run_id}},
    )

    assert await endings.finish(one.db, [again]) == {claim.run.run_id}

    assert await jobs_left(one.db) == 0


async def test_a_run_without_a_webhook_makes_no_job(one: Process, gate: Gate) -> None:
    gate.opened.set()
    submitted = await one.submit(await one.thread())
    await ended(submitted)

    assert await one.db.tuples("SELECT last_value, is_called FROM job_job_id_seq", {}) == [
        (1, False)
    ]


async def test_a_receiver_that_fails_is_told_again(
    one: Process, gate: Gate, receiver: Receiver
) -> None:
    gate.opened.set()
    receiver.statuses = [500, 302]
    receiver.location = "http://169.254.169.254/"
    await one.submit(await one.thread(), webhook=receiver.url)

    told = await receiver.told(3)
    await all_told(one.db)

    assert len({body["run_id"] for body in told}) == 1
    assert len({body["run_ended_at"] for body in told}) == 1
    assert len({body["webhook_sent_at"] for body in told}) == 3


async def test_a_receiver_that_is_gone_is_told_no_more(
    one: Process, gate: Gate, receiver: Receiver
) -> None:
    gate.opened.set()
    receiver.statuses = [410, 200]
    await one.submit(await one.thread(), webhook=receiver.url)

    await receiver.told()
    await all_told(one.db)

    assert len(receiver.heard) == 1


async def test_a_receiver_that_is_not_there_is_told_when_it_is(
    db: Database, graphs: dict[str, Any], gate: Gate
) -> None:
    gate.opened.set()
    host, port = "127.0.0.1", free_port()
    async with process(db, graphs, pauses_seconds=[0.05] * 400) as one:
        await one.submit(await one.thread(), webhook=f"http://{host}:{port}/")

        async def refused() -> bool:
            found = await db.tuples("SELECT max(attempt) FROM job", {})
            return (found[0][0] or 0) >= 2

        await until(refused)
        heard = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            heard.set()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, host, port):
            await soon(heard)
            await all_told(db)


async def test_a_name_that_has_come_to_lead_inside_is_not_sent_to(
    db: Database, graphs: dict[str, Any], gate: Gate, receiver: Receiver
) -> None:
    """DNS rebinding: outside when the run was made, this machine when it has ended."""
    gate.opened.set()
    port = receiver.url.rsplit(":", 1)[1]
    asked: list[str] = []

    async def rebind(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["8.8.8.8"] if len(asked) == 1 else ["127.0.0.1"]

    with structlog.testing.capture_logs() as logs:
        async with process(db, graphs, webhooks=WebhookConfig(), resolve=rebind) as one:
            await one.submit(await one.thread(), webhook=f"http://rebind.example:{port}/s3cret")
            await soon_logged(logs, "job given up")
            await all_told(db)

    assert receiver.heard == []
    assert asked == ["rebind.example"] * 2
    assert "loopback IP range" in logs_of(logs, "job given up")[0]["reason"]
    assert "s3cret" not in str(logs)


def logs_of(logs: Any, event: str) -> list[Any]:
    return [line for line in logs if line["event"] == event]


async def soon_logged(logs: Any, event: str) -> None:
    async def said() -> bool:
        return bool(logs_of(logs, event))

    await until(said)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "ftp://x/", "/inside", "http://x.invalid/"])
async def test_a_run_with_a_webhook_that_must_not_be_is_not_made(
    db: Database, graphs: dict[str, Any], url: str
) -> None:
    async with process(db, graphs, webhooks=WebhookConfig(), working=False) as one:
        with pytest.raises(InvalidInputError):
            await one.submit(None, webhook=url)

    assert await db.tuples("SELECT FROM run UNION ALL SELECT FROM thread", {}) == []


async def test_only_allowed_fields_are_sent(
    db: Database, graphs: dict[str, Any], receiver: Receiver
) -> None:
    config = WebhookConfig(rules=HERE.rules, allowed_fields=frozenset({"run_id", "status"}))
    async with process(db, graphs, webhooks=config) as one:
        submitted = await one.submit(await one.thread(), graph="ask", webhook=receiver.url)
        [told] = await receiver.told()

    assert told == {"run_id": submitted.run.run_id, "status": "success"}


async def test_nothing_is_sent_where_webhooks_are_switched_off(
    db: Database, graphs: dict[str, Any], receiver: Receiver
) -> None:
    config = WebhookConfig(rules=HERE.rules, is_disabled=True)
    async with process(db, graphs, webhooks=config) as one:
        submitted = await one.submit(await one.thread(), graph="ask", webhook=receiver.url)
        await ended(submitted)
        await all_told(db)

    assert receiver.heard == []


async def test_values_that_are_too_large_are_left_out(
    one: Process, gate: Gate, receiver: Receiver
) -> None:
    gate.opened.set()
    large = "x" * (VALUES_MAX_BYTES // 2)
    await one.submit(
        await one.thread(), webhook=receiver.url, input={"text": large, "log": [large]}
    )

    [told] = await receiver.told()

    assert (told["status"], told["values"]) == ("success", None)


# The configuration


def test_rules_of_urls_turn_https_on() -> None:
    assert read_webhooks(None).rules == UrlRules()
    assert read_webhooks({"url": {"allowed_ports": [443]}}).rules == UrlRules(
        require_https=True, allowed_ports=(443,)
    )
    assert read_webhooks({"url": {"require_https": False}}).rules == UrlRules()


@pytest.mark.parametrize(
    ("said", "registered"),
    [(None, [True, False]), (True, [True, True]), (False, [False, False])],
)
def test_webhooks_that_are_registered_lead_into_private_networks_only_if_that_is_said(
    said: bool | None, registered: list[bool]
) -> None:
    config = read_webhooks({"url": {"disable_private_ips": said}})

    assert config.rules.disable_private_ips is said
    assert [
        config.for_registered(callers_are_known=known).rules.disable_private_ips
        for known in (True, False)
    ] == registered


def test_headers_are_made_of_variables_that_are_meant_for_it() -> None:
    config = read_webhooks(
        {"headers": {"Authorization": "Bearer ${{ env.LG_WEBHOOK_A }}-${{env.LG_WEBHOOK_B}}"}}
    )

    headers = config.resolved_headers({"LG_WEBHOOK_A": "1", "LG_WEBHOOK_B": "2"})

    assert headers == {"Authorization": "Bearer 1-2"}
    with pytest.raises(InvalidInputError, match="LG_WEBHOOK_B, which is not set"):
        config.resolved_headers({"LG_WEBHOOK_A": "1"})
    with pytest.raises(InvalidInputError) as refused:
        config.resolved_headers({"LG_WEBHOOK_A": "s3cret\r\nX: 1", "LG_WEBHOOK_B": ""})
    assert "s3cret" not in refused.value.message


@pytest.mark.parametrize(
    "section",
    [
        [], {"urls": {}}, {"url": []}, {"url": {"disable_loopbacks": True}},
        {"url": {"require_https": "no"}}, {"url": {"max_url_length": True}},
        {"url": {"max_url_length": "9"}}, {"url": {"allowed_ports": ["443"]}},
        {"url": {"allowed_ports": [0]}}, {"url": {"allowed_domains": "x"}}, {"headers": []},
        {"headers": {"X": 1}}, {"headers": {"X Y": "a"}}, {"headers": {"Host": "a"}},
        {"headers": {"X": "${{ env.DATABASE_URL }}"}}, {"headers": {"X": "${{ secrets.X }}"}},
        {"env_prefix": ""}, {"env_prefix": 1}, {"allowed_fields": "run_id"},
    ],
)  # fmt: skip
def test_a_section_that_is_wrong_is_refused(section: Any) -> None:
    with pytest.raises(InvalidInputError, match="webhooks"):
        read_webhooks(section)
