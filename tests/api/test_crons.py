"""Crons over HTTP, with the official client; what they do when they are due is in tests/graph."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError

from graph.requests import system_assistant_id
from tests.api.test_threads import UNKNOWN

DAILY = {"assistant_id": "chat", "schedule": "0 3 * * *"}


async def made(client: LangGraphClient, **more: Any) -> Any:
    options: dict[str, Any] = {"assistant_id": "chat", "schedule": "0 3 * * *", **more}
    return await client.crons.create(**options)


async def test_a_cron_is_told_as_it_was_asked_for(client: LangGraphClient) -> None:
    end = datetime(2099, 1, 1, tzinfo=UTC)
    cron: Any = await made(
        client,
        input={"x": "1"},
        metadata={"m": 1, "run_id": "stripped"},
        config={"tags": ["t"], "configurable": {"k": 1}},
        webhook="https://8.8.8.8/hook",
        interrupt_before=["n"],
        timezone="Europe/Berlin",
        end_time=end,
        stream_mode=["values"],
        durability="sync",
    )

    next_at = datetime.fromisoformat(cron["next_run_date"])
    assert next_at.utcoffset() == timedelta(0)
    assert next_at.hour in (1, 2)
    assert cron["payload"] == {
        "assistant_id": cron["assistant_id"],
        "schedule": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "end_time": end.isoformat(),
        "input": {"x": "1"},
        "metadata": {"m": 1},
        "config": {"tags": ["t"], "configurable": {"k": 1, "cron_id": cron["cron_id"]}},
        "webhook": "https://8.8.8.8/hook",
        "interrupt_before": ["n"],
        "stream_mode": ["values"],
        "durability": "sync",
    }
    assert cron["assistant_id"] == system_assistant_id("chat")
    assert (cron["thread_id"], cron["user_id"], cron["enabled"]) == (None, "", True)
    assert (cron["metadata"], cron["on_run_completed"]) == ({"m": 1}, "delete")
    assert datetime.fromisoformat(cron["end_time"]) == end
    assert "error" not in cron


async def test_a_cron_on_a_thread_keeps_it(client: LangGraphClient) -> None:
    thread = await client.threads.create()
    cron: Any = await client.crons.create_for_thread(
        thread["thread_id"], "chat", schedule="@hourly", multitask_strategy="interrupt"
    )

    assert cron["thread_id"] == thread["thread_id"]
    assert cron["on_run_completed"] is None
    assert cron["payload"]["multitask_strategy"] == "interrupt"


async def test_crons_are_listed_counted_and_paged(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    ids = [(await made(client, metadata={"n": n}, enabled=n != 1))["cron_id"] for n in range(3)]
    on_thread: Any = await client.crons.create_for_thread(thread_id, "ask", schedule="1 3 1 1 *")

    async def found(**more: Any) -> list[str]:
        return [cron["cron_id"] for cron in await client.crons.search(**more)]

    assert await found() == [on_thread["cron_id"], *reversed(ids)]
    assert await found(metadata={"n": 2}) == [ids[2]]
    assert await found(thread_id=thread_id) == [on_thread["cron_id"]]
    assert await found(assistant_id=system_assistant_id("ask")) == [on_thread["cron_id"]]
    assert await found(enabled=False) == [ids[1]]
    assert await found(sort_by="next_run_date", limit=1) == [on_thread["cron_id"]]
    assert await found(sort_by="cron_id", sort_order="asc", limit=2, offset=1) == ids[1:]
    for column in ("assistant_id", "thread_id", "updated_at", "end_time"):
        assert len(await found(sort_by=column)) == 4
    assert await client.crons.search(select=["schedule", "enabled"], enabled=False) == [
        {"schedule": "0 3 * * *", "enabled": False}
    ]
    assert await client.crons.count() == 4
    assert await client.crons.count(thread_id=thread_id) == 1
    assert await client.crons.count(metadata={"n": 7}) == 0
    page = await http.post("/runs/crons/search", json={"limit": 3})
    assert page.headers["x-pagination-next"] == "3"
    assert page.headers["x-pagination-total"] == "4"


async def test_a_cron_is_changed_where_it_was_asked_to(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    cron = await made(
        client,
        input={"x": 1},
        metadata={"a": 1},
        config={"configurable": {"k": 1}},
        end_time=datetime(2099, 1, 1, tzinfo=UTC),
    )
    changed: Any = await client.crons.update(
        cron["cron_id"],
        schedule="*/5 * * * *",
        timezone="Asia/Tokyo",
        input={"x": 2},
        metadata={"b": 2},
        end_time=None,
        on_run_completed="keep",
    )

    assert (changed["schedule"], changed["timezone"]) == ("*/5 * * * *", "Asia/Tokyo")
    assert changed["metadata"] == {"a": 1, "b": 2}
    assert changed["payload"]["input"] == {"x": 2}
    assert changed["payload"]["metadata"] == {"b": 2}
    assert changed["payload"]["config"]["configurable"] == {"k": 1, "cron_id": cron["cron_id"]}
    assert (changed["end_time"], changed["on_run_completed"]) == (None, "keep")
    soon = datetime.fromisoformat(changed["next_run_date"]) - datetime.now(UTC)
    assert soon < timedelta(minutes=5)
    assert changed["updated_at"] > cron["updated_at"]
    off: Any = await client.crons.update(cron["cron_id"], enabled=False)
    assert off["enabled"] is False
    read = (await http.get(f"/runs/crons/{cron['cron_id']}")).json()
    assert read == off
    # What no version knows changes nothing.
    unknown = await http.patch(f"/runs/crons/{cron['cron_id']}", json={"foo": 1})
    assert unknown.json()["payload"] == off["payload"]


async def test_a_cron_whose_end_has_passed_is_due_never(client: LangGraphClient) -> None:
    ended: Any = await made(client, end_time=datetime(2020, 1, 1, tzinfo=UTC))
    assert ended["next_run_date"] is None

    renewed: Any = await client.crons.update(ended["cron_id"], end_time=None)
    assert renewed["next_run_date"] is not None


async def test_a_cron_is_deleted_once(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    cron = await made(client)

    await client.crons.delete(cron["cron_id"])

    with pytest.raises(NotFoundError):
        await client.crons.delete(cron["cron_id"])
    assert (await http.get(f"/runs/crons/{cron['cron_id']}")).status_code == 404
    assert (await http.patch(f"/runs/crons/{UNKNOWN}", json={"enabled": True})).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"assistant_id": "chat"}, 422, "schedule: Field required"),
        ({"schedule": "0 3 * * *"}, 422, "assistant_id: Field required"),
        ({**DAILY, "schedule": "foo"}, 422, "Invalid cron schedule: 'foo'. Reason: "),
        ({**DAILY, "schedule": ""}, 422, "Invalid cron schedule: ''."),
        ({**DAILY, "schedule": "0 0 30 2 *"}, 422, "Invalid cron schedule"),
        ({**DAILY, "schedule": 5}, 422, "schedule: "),
        ({**DAILY, "timezone": "Mars/Base"}, 422, "Invalid timezone: 'Mars/Base'. Use IANA"),
        ({**DAILY, "timezone": ""}, 422, "Invalid timezone: ''."),
        ({**DAILY, "end_time": "soon"}, 422, "Invalid end_time"),
        ({**DAILY, "assistant_id": "nope"}, 404, "Assistant 'nope' not found"),
        ({**DAILY, "assistant_id": UNKNOWN}, 404, "Thread or assistant not found."),
        ({**DAILY, "on_run_completed": "x"}, 422, "on_run_completed: "),
        ({**DAILY, "stream_mode": "nope"}, 422, ""),
        ({**DAILY, "webhook": "ftp://x/y"}, 422, "Webhook host blocked: scheme 'ftp'"),
        ({**DAILY, "webhook": "http://127.0.0.1/"}, 422, "Webhook host blocked: loopback"),
        ({**DAILY, "webhook": ""}, 422, "webhook: "),
        (
            {**DAILY, "context": {"a": 1}, "config": {"configurable": {"b": 1}}},
            400,
            "Cannot specify both configurable and context",
        ),
    ],
)
async def test_a_cron_that_is_wrong_is_refused(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, detail: str
) -> None:
    refused = await http.post("/runs/crons", json=body)

    assert refused.status_code == status
    assert refused.json()["detail"].startswith(detail)
    assert (await http.post("/runs/crons/count", json={})).json() == 0


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 400),
        ({"schedule": None}, 422),
        ({"schedule": "nope"}, 422),
        ({"timezone": None}, 422),
        ({"timezone": "X/Y"}, 422),
        ({"enabled": None}, 422),
        ({"input": None}, 422),
        ({"webhook": None}, 422),
        ({"webhook": "http://[::1]/"}, 422),
        ({"end_time": "soon"}, 422),
        ({"context": {"a": 1}}, 400),
    ],
)
async def test_a_change_that_is_wrong_changes_nothing(
    client: LangGraphClient, http: httpx.AsyncClient, change: dict[str, Any], status: int
) -> None:
    cron = await made(client, input={"x": 1}, config={"configurable": {"b": 1}})

    refused = await http.patch(f"/runs/crons/{cron['cron_id']}", json=change)

    assert refused.status_code == status
    assert (await http.get(f"/runs/crons/{cron['cron_id']}")).json() == cron


async def test_a_thread_that_is_not_there_has_no_crons(http: httpx.AsyncClient) -> None:
    assert (await http.post(f"/threads/{UNKNOWN}/runs/crons", json=DAILY)).status_code == 404
    assert (await http.post("/threads/x/runs/crons", json=DAILY)).status_code == 422
    assert (await http.get("/runs/crons/x")).json()["detail"] == "Invalid cron ID: must be a UUID"


async def test_a_run_with_a_webhook_that_must_not_be_is_refused(http: httpx.AsyncClient) -> None:
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": "chat", "webhook": "http://169.254.169.254/latest"}
    for path in ("/runs", "/runs/wait", "/runs/stream", f"/threads/{thread_id}/runs"):
        refused = await http.post(path, json=body)
        assert refused.status_code == 422
        assert refused.json()["detail"] == "Webhook host blocked: blocked IP range"
