"""Runs that meet on one thread, asked for by many clients of two servers at once."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.acceptance.gate import Gate
from tests.acceptance.process import BUSY_SECONDS
from tests.acceptance.talk import contents, says
from tests.faults.cluster import Cluster, freeze, kill

Http = list[httpx.AsyncClient]

CLIENTS = 12


async def new_thread(http: Http) -> str:
    return str((await http[0].post("/threads", json={})).json()["thread_id"])


async def ask(http: httpx.AsyncClient, thread_id: str, graph: str, **more: Any) -> httpx.Response:
    """Queue a run."""
    body = {"assistant_id": graph, **more}
    return await http.post(f"/threads/{thread_id}/runs", json=body)


async def wait(http: httpx.AsyncClient, thread_id: str, graph: str, **more: Any) -> Any:
    """The output of a run."""
    body = {"assistant_id": graph, **more}
    return (await http.post(f"/threads/{thread_id}/runs/wait", json=body)).json()


async def race(http: Http, thread_id: str, strategies: list[str], gate: Gate) -> list[Any]:
    """Ask for runs of one thread from everywhere at once; the answers."""
    return await asyncio.gather(
        *(
            ask(
                http[number % len(http)],
                thread_id,
                "alone",
                input={"gate": gate.port},
                multitask_strategy=strategy,
            )
            for number, strategy in enumerate(strategies)
        )
    )


async def settled(cluster: Cluster, thread_id: str) -> str:
    """Wait until no run of the thread is in flight; what it is then."""
    async with asyncio.timeout(40):
        while True:
            [(status,)] = cluster.sql("SELECT status FROM thread WHERE thread_id = %s", thread_id)
            if status != "busy":
                return str(status)
            await asyncio.sleep(0.02)


def runs_of(cluster: Cluster, thread_id: str) -> dict[str, str]:
    """The status of each run, in the order of their creation."""
    query = "SELECT run_id::text, status FROM run WHERE thread_id = %s ORDER BY created_at, seq"
    return dict(cluster.sql(query, thread_id))


def writers_of(cluster: Cluster, thread_id: str) -> set[str]:
    """The runs that the thread has checkpoints of."""
    query = "SELECT DISTINCT metadata ->> 'run_id' FROM checkpoints WHERE thread_id = %s"
    return {run_id for (run_id,) in cluster.sql(query, thread_id)}


async def log_of(http: Http, thread_id: str) -> list[str]:
    values = (await http[1].get(f"/threads/{thread_id}/state")).json()["values"]
    return list(values.get("log", []))


def assert_kept(log: list[str], runs: dict[str, str], gate: Gate) -> None:
    """
    The state has what each run did that succeeded, in their order, and nothing of a deleted one.

    An interrupted run keeps its checkpoints: one that was stopped when its step was done, before its
    end was written, is in the log too.
    """
    kept = set(log)
    done = {run_id for run_id, status in runs.items() if status == "success"}
    assert log == [run_id for run_id in runs if run_id in kept]
    assert kept >= done
    assert {runs[run_id] for run_id in kept - done} <= {"interrupted"}
    assert {f"{run_id}:end" for run_id in kept} <= set(gate.seen)


def assert_no_overlap(gate: Gate) -> None:
    """Nobody began before the one before it had ended, or had been stopped."""
    ends = {entry.removesuffix(":end") for entry in gate.seen if entry.endswith(":end")}
    for one, other in pairwise(gate.seen):
        run_id = one.removesuffix(":start")
        if one.endswith(":start") and run_id in ends:
            assert other == f"{run_id}:end", gate.seen


async def test_of_many_that_do_not_want_to_wait_one_is_taken(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    for number in range(3):
        thread_id = await new_thread(http)
        gate.hold(f"{number}:a")
        work = {"gate": gate.port, "name": str(number)}
        asking = [
            ask(http[n % 2], thread_id, "steps", input=work, multitask_strategy="reject")
            for n in range(CLIENTS)
        ]
        answers = await asyncio.gather(*asking)

        assert sorted(answer.status_code for answer in answers) == [200] + [409] * (CLIENTS - 1)
        [refused, *_] = [answer.json() for answer in answers if answer.status_code == 409]
        assert refused["detail"].startswith("Thread is already running a task.")
        gate.release(f"{number}:a")
        assert await settled(cluster, thread_id) == "idle"
        assert list(runs_of(cluster, thread_id).values()) == ["success"]
        assert await log_of(http, thread_id) == [f"{number}:{step}" for step in "abc"]


async def test_those_that_wait_go_one_by_one_in_the_order_of_their_creation(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)

    await race(http, thread_id, ["enqueue"] * CLIENTS, gate)

    assert await settled(cluster, thread_id) == "idle"
    created = list(runs_of(cluster, thread_id))
    assert gate.seen == [f"{run_id}:{edge}" for run_id in created for edge in ("start", "end")]
    assert await log_of(http, thread_id) == created


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_of_many_that_stop_each_other_the_last_is_carried_out(
    strategy: str, cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    gate.hold("first:b")
    work = {"gate": gate.port, "name": "first", "log": []}
    await ask(http[0], thread_id, "steps", input=work, durability="sync")
    await gate.arrived("first:b")

    answers = await race(http, thread_id, [strategy] * CLIENTS, gate)

    assert await settled(cluster, thread_id) == "idle"
    assert [answer.status_code for answer in answers] == [200] * CLIENTS
    runs = runs_of(cluster, thread_id)
    *earlier, last = runs
    assert {answer.json()["run_id"] for answer in answers} >= set(earlier[1:]) | {last}
    assert runs[last] == "success"
    log = await log_of(http, thread_id)
    assert_no_overlap(gate)
    if strategy == "interrupt":
        assert log[0] == "first:a"
        assert_kept(log[1:], runs, gate)
        assert len(runs) == CLIENTS + 1
        assert {runs[run_id] for run_id in earlier} <= {"interrupted", "success"}
    else:
        assert set(runs.values()) == {"success"}
        assert log == list(runs)
        assert writers_of(cluster, thread_id) == set(runs)


async def test_when_all_strategies_meet_nothing_overlaps_and_nothing_stays(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    threads = [await new_thread(http) for _ in range(4)]
    strategies = ["enqueue", "interrupt", "enqueue", "rollback", "reject", "enqueue"] * 2

    await asyncio.gather(*(race(http, thread_id, strategies, gate) for thread_id in threads))

    for thread_id in threads:
        await settled(cluster, thread_id)
        # Whoever came last finds its thread usable, whatever the others did to it.
        await wait(http[1], thread_id, "alone", input={"gate": gate.port})
        runs = runs_of(cluster, thread_id)
        assert set(runs.values()) <= {"success", "interrupted"}
        assert_kept(await log_of(http, thread_id), runs, gate)
        assert writers_of(cluster, thread_id) <= set(runs)
    mine = {run_id for thread_id in threads for run_id in runs_of(cluster, thread_id)}
    assert not {row[1] for row in cluster.in_flight()} & mine


@pytest.fixture
async def asked(cluster: Cluster, http: Http, gate: Gate) -> str:
    """A thread whose second question is open, after the first one was answered by another run."""
    thread_id = await new_thread(http)
    work = {"gate": gate.port, "name": "it", **says("hello")}
    await wait(http[0], thread_id, "ask_twice", input=work)
    second = await wait(http[1], thread_id, "ask_twice", command={"resume": "yes"})
    assert second["__interrupt__"][0]["value"] == {"question": "Really?"}
    return thread_id


def rows_of(cluster: Cluster, thread_id: str) -> dict[str, list[Any]]:
    """Everything that tables say of a thread, but when it was last touched."""
    tables = {
        "run": "run_id",
        "checkpoints": "checkpoint_id",
        "checkpoint_blobs": "channel, version",
        "checkpoint_writes": "checkpoint_id, task_id, idx",
    }
    found = {
        table: cluster.sql(f"SELECT * FROM {table} WHERE thread_id = %s ORDER BY {key}", thread_id)
        for table, key in tables.items()
    }
    found["message"] = cluster.sql(
        "SELECT * FROM message WHERE conversation_id = %s ORDER BY seq", thread_id
    )
    found["thread"] = cluster.sql(
        "SELECT status, settled_status, interrupts, error, head_checkpoint_id, message_count"
        " FROM thread WHERE thread_id = %s",
        thread_id,
    )
    return found


@pytest.mark.parametrize("by", ["a cancel", "the reaper of a dead owner"])
async def test_an_answer_that_is_rolled_back_leaves_the_question_open_as_it_was(
    by: str, asked: str, cluster: Cluster, http: Http, gate: Gate
) -> None:
    before = rows_of(cluster, asked)
    state = (await http[0].get(f"/threads/{asked}/state")).json()
    gate.hold("it:told")
    resume = {"resume": "never mind"}
    run = (await ask(http[0], asked, "ask_twice", command=resume, durability="sync")).json()
    await gate.arrived("it:told")
    during = rows_of(cluster, asked)

    path = f"/threads/{asked}/runs/{run['run_id']}/cancel"
    if by == "a cancel":
        await http[1].post(path, params={"action": "rollback", "wait": True})
    else:
        owner = cluster.owner(run["run_id"])
        freeze(owner)
        other = http[cluster.servers.index(cluster.other_server(owner))]
        await other.post(path, params={"action": "rollback"})
        await kill(owner)
        await settled(cluster, asked)
        await asyncio.to_thread(cluster.revive)
        await asyncio.to_thread(cluster.wait_until_up)

    assert during["checkpoint_writes"] != before["checkpoint_writes"]
    assert rows_of(cluster, asked) == before
    assert (await http[0].get(f"/threads/{asked}/state")).json() == state
    gate.release("it:told")
    told = await wait(http[0], asked, "ask_twice", command={"resume": "really"})
    assert told["log"] == ["told: yes and really", "after"]


async def test_what_a_rolled_back_run_did_to_the_messages_is_taken_back(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    work = {"gate": gate.port, "name": "before", **says("before")}
    before = await wait(http[0], thread_id, "talking_steps", input=work)
    rows = rows_of(cluster, thread_id)
    gate.hold("after:b")
    # It says the first message anew, and takes the second one out.
    first, second = before["messages"]
    edited = [{**first, "content": "edited"}, {"type": "remove", "id": second["id"], "content": ""}]
    asked = {"gate": gate.port, "name": "after", "messages": edited}
    run = (await ask(http[1], thread_id, "talking_steps", input=asked, durability="sync")).json()
    await gate.arrived("after:b")
    during = rows_of(cluster, thread_id)["message"]

    await http[0].post(
        f"/threads/{thread_id}/runs/{run['run_id']}/cancel",
        params={"action": "rollback", "wait": True},
    )

    assert during[0][3] == "edited"
    assert rows_of(cluster, thread_id) == rows
    state = (await http[1].get(f"/threads/{thread_id}/state")).json()
    assert contents(state["values"]) == ["before", "working for before"]


async def test_a_change_of_the_state_that_races_with_runs_is_made_once_or_refused(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    await wait(http[0], thread_id, "alone", input={"gate": gate.port})

    async def change(number: int) -> tuple[str, int]:
        entry = f"change{number}"
        path = f"/threads/{thread_id}/state"
        answer = await http[number % 2].post(path, json={"values": {"log": [entry]}})
        return entry, answer.status_code

    async def run() -> None:
        # One after the other, so that the thread is idle in between.
        for number in range(2 * CLIENTS):
            await wait(http[number % 2], thread_id, "alone", input={"gate": gate.port})

    running = asyncio.create_task(run())
    changes: list[tuple[str, int]] = []
    while not running.done():
        numbers = range(len(changes), len(changes) + 4)
        changes += await asyncio.gather(*(change(number) for number in numbers))

    assert {status for _, status in changes} == {200, 409}
    log = await log_of(http, thread_id)
    made = [entry for entry in log if entry.startswith("change")]
    assert sorted(made) == sorted(entry for entry, status in changes if status == 200)
    assert await settled(cluster, thread_id) == "idle"


def begun_at(cluster: Cluster, run_id: str) -> tuple[float, float]:
    """When a run was due and when it began, in seconds."""
    query = (
        "SELECT extract(epoch FROM not_before)::float, extract(epoch FROM started_at)::float"
        " FROM run WHERE run_id = %s"
    )
    [(due, begun)] = cluster.sql(query, run_id)
    return due, begun


async def test_delayed_runs_begin_when_they_are_due_and_in_that_order(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    # From now on, and not from when each is asked for, which takes its time on a busy machine.
    began = time.monotonic()
    delays = [8.0, 6.0, None, 7.0, None]

    runs = [
        (await ask(http[n % 2], thread_id, "alone", input={"gate": gate.port}, **more)).json()
        for n, delay in enumerate(delays)
        for more in [{"after_seconds": began + delay - time.monotonic()} if delay else {}]
    ]

    assert await settled(cluster, thread_id) == "idle"
    in_order = [runs[n]["run_id"] for n in (2, 4, 1, 3, 0)]
    assert await log_of(http, thread_id) == in_order
    for run_id in in_order:
        due, begun = begun_at(cluster, run_id)
        # Its poll at the latest.
        assert 0 <= begun - due < 1 + BUSY_SECONDS


async def test_a_delayed_run_survives_all_processes(
    cluster: Cluster, http: Http, gate: Gate
) -> None:
    thread_id = await new_thread(http)
    work = {"gate": gate.port}
    run = (await ask(http[0], thread_id, "alone", input=work, after_seconds=2)).json()
    never = (await ask(http[1], thread_id, "alone", input=work, after_seconds=3600)).json()

    for member in cluster.members:
        await kill(member)
    await asyncio.to_thread(cluster.revive)
    await asyncio.to_thread(cluster.wait_until_up)
    path = f"/threads/{thread_id}/runs/{never['run_id']}/cancel"

    assert (await http[1].post(path)).status_code == 202
    assert await settled(cluster, thread_id) == "idle"
    assert await log_of(http, thread_id) == [run["run_id"]]
    assert runs_of(cluster, thread_id)[never["run_id"]] == "interrupted"
