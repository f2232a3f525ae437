import asyncio
import math
import time
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from psycopg import AsyncConnection

from api.processes.embedded import Servers
from store.checkpoints import Saver, open_saver
from store.commits import Entry
from store.database import Database
from store.errors import InvalidInputError, LeaseLostError, UnavailableError
from tests.store.graphs import ask, config, create_thread, leased, take_lease, talk

DEADLINE_SECONDS = 60


def question(text: str = "hello") -> Any:
    return {"messages": [HumanMessage(text)]}


async def count(db: Database, table: str, thread_id: str) -> int:
    rows = await db.tuples(
        f"SELECT count(*) FROM {table} WHERE thread_id = %(id)s", {"id": thread_id}
    )
    return int(rows[0][0])


async def kill_writer(db: Database) -> int:
    query = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'threadwell-checkpoints' AND datname = current_database()
        """
    return int((await db.tuples(query, {}))[0][0])


async def test_the_stock_saver_reads_what_ours_wrote(db: Database, saver: Saver) -> None:
    stock = AsyncPostgresSaver(db.pool)  # type: ignore[arg-type]
    for durability in ("sync", "async", "exit"):
        await talk(saver).ainvoke(question(), config("t"), durability=durability)

    ours = [s async for s in talk(saver).aget_state_history(config("t"))]
    theirs = [s async for s in talk(stock).aget_state_history(config("t"))]

    assert theirs == ours
    assert len(ours[0].values["messages"]) == 6


async def test_our_saver_reads_and_continues_what_the_stock_one_wrote(
    db: Database, saver: Saver
) -> None:
    stock = AsyncPostgresSaver(db.pool)  # type: ignore[arg-type]
    odd = {"steps": 7, "note": 1e300, **question()}
    await ask(stock).ainvoke(odd, config("t"))

    assert await ask(saver).aget_state(config("t")) == await ask(stock).aget_state(config("t"))
    result = await ask(saver).ainvoke(Command(resume="yes"), config("t"))

    assert result["messages"][-1].content == "told yes"
    assert (await ask(saver).aget_state(config("t"))).values == result
    assert result["note"] == 1e300


async def test_runs_of_32_threads_at_once_keep_every_turn(db: Database, saver: Saver) -> None:
    threads = [str(uuid.uuid4()) for _ in range(32)]

    async def chat(thread_id: str) -> int:
        await create_thread(db, thread_id)
        for turn in range(3):
            graph = talk(await leased(db, saver, thread_id))
            await graph.ainvoke(question(str(turn)), config(thread_id))
        return len((await graph.aget_state(config(thread_id))).values["messages"])

    assert await asyncio.gather(*map(chat, threads)) == [6] * 32


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_no_interrupt_is_lost_among_30_runs_at_once(
    db: Database, saver: Saver, durability: Any
) -> None:
    async def chat(i: int) -> str:
        thread_id = str(i)
        await create_thread(db, thread_id)
        graph = ask(await leased(db, saver, thread_id))
        await graph.ainvoke(question(), config(thread_id), durability=durability)
        state = await ask(saver).aget_state(config(thread_id))
        assert [i.value for i in state.interrupts] == ["well?"]
        graph = ask(await leased(db, saver, thread_id))
        done = await graph.ainvoke(Command(resume=i), config(thread_id), durability=durability)
        return str(done["messages"][-1].content)

    assert await asyncio.gather(*map(chat, range(30))) == [f"told {i}" for i in range(30)]


async def test_writes_may_come_before_their_checkpoint(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    own = await leased(db, saver, "t")
    checkpoint: Any = {**empty_checkpoint(), "channel_values": {}, "channel_versions": {}}
    at = config("t", checkpoint_ns="", checkpoint_id=checkpoint["id"])

    await own.aput_writes(at, [("note", "early")], "task")
    await own.aput(config("t", checkpoint_ns=""), checkpoint, {"step": 0}, {})

    found = await own.aget_tuple(config("t"))
    assert found is not None
    assert found.pending_writes == [("task", "note", "early")]


async def test_a_special_write_replaces_and_an_ordinary_one_stays(saver: Saver) -> None:
    at = config("t", checkpoint_ns="", checkpoint_id="1")
    await saver.aput(config("t", checkpoint_ns=""), {**empty_checkpoint(), "id": "1"}, {}, {})
    for value in ("first", "second"):
        await saver.aput_writes(at, [("note", value), ("__interrupt__", value)], "task")

    found = await saver.aget_tuple(at)

    assert found is not None
    assert sorted(found.pending_writes or []) == [
        ("task", "__interrupt__", "second"),
        ("task", "note", "first"),
    ]


class Unserialisable:
    __slots__ = ()


async def test_a_poison_value_fails_its_run_only(db: Database, saver: Saver) -> None:
    async def chat(i: int) -> Any:
        await create_thread(db, str(i))
        note = Unserialisable() if i == 3 else "fine"
        return await talk(await leased(db, saver, str(i))).ainvoke(
            {**question(), "note": note}, config(str(i))
        )

    results = await asyncio.gather(*map(chat, range(8)), return_exceptions=True)

    failed = [i for i, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [3]


async def test_rows_that_postgresql_refuses_fail_alone_in_their_batch(saver: Saver) -> None:
    async def put(i: int) -> None:
        channel = "nul\0nul" if i % 5 == 3 else "fine"
        at = config(str(i), checkpoint_ns="", checkpoint_id="1")
        await saver.aput_writes(at, [(channel, i)], "task")

    results = await asyncio.gather(*map(put, range(20)), return_exceptions=True)

    failed = {i: type(result) for i, result in enumerate(results) if result is not None}
    assert failed == dict.fromkeys((3, 8, 13, 18), InvalidInputError)


@pytest.mark.parametrize(
    "value", ["nul \0", math.inf, -math.inf, 1e300, 1e16, 2**63 - 1, -(2**63), True, 0.1]
)
async def test_a_value_that_jsonb_cannot_hold_comes_back_as_it_was(
    saver: Saver, value: Any
) -> None:
    await talk(saver).ainvoke({**question(), "note": value}, config("t"))

    note = (await talk(saver).aget_state(config("t"))).values["note"]

    assert (note, type(note)) == (value, type(value))


async def test_a_lone_surrogate_fails_nothing(saver: Saver) -> None:
    await talk(saver).ainvoke({**question("lone \udc80"), "note": "lone \udc80"}, config("t"))

    # What LangGraph's serialiser makes of it.
    assert (await talk(saver).aget_state(config("t"))).values["note"] == "lone ?"


async def test_not_a_number_comes_back(saver: Saver) -> None:
    await talk(saver).ainvoke({**question(), "note": math.nan}, config("t"))

    assert math.isnan((await talk(saver).aget_state(config("t"))).values["note"])


async def test_large_values_keep_their_order_and_come_back(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    own = await leased(db, saver, "t")
    await talk(own).ainvoke({**question("x" * 300_000), "note": ["y" * 200_000]}, config("t"))

    values = (await talk(saver).aget_state(config("t"))).values

    assert len(values["messages"][0].content) == 300_000
    assert values["note"] == ["y" * 200_000]


async def test_a_killed_connection_loses_nothing_that_was_acknowledged(
    db: Database, saver: Saver
) -> None:
    acknowledged: list[str] = []
    killed = 0

    async def chat(i: int) -> None:
        nonlocal killed
        for turn in range(6):
            thread_id = f"{i}-{turn}"
            await create_thread(db, thread_id)
            await talk(await leased(db, saver, thread_id)).ainvoke(question(), config(thread_id))
            acknowledged.append(thread_id)
            if len(acknowledged) % 10 == 0:
                killed += await kill_writer(db)

    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.gather(*map(chat, range(16)))

    assert killed > 0
    assert len(acknowledged) == 96
    for thread_id in acknowledged:
        state = await talk(saver).aget_state(config(thread_id))
        assert [m.type for m in state.values["messages"]] == ["human", "ai"]


async def test_writes_give_up_after_the_deadline_and_not_before(
    servers: Servers, db: Database
) -> None:
    at = config("t", checkpoint_ns="", checkpoint_id="1")
    name = (await db.tuples("SELECT current_database()", {}))[0][0]
    refuse = "UPDATE pg_database SET datallowconn = %s WHERE datname = %s"
    async with (
        open_saver(db, deadline_seconds=0.6) as saver,
        await AsyncConnection.connect(servers.database_url, autocommit=True) as other,
    ):
        await saver.aput_writes(at, [("a", 1)], "task")
        await other.execute(refuse, (False, name))
        await kill_writer(db)
        began = time.monotonic()
        with pytest.raises(UnavailableError):
            await saver.aput_writes(at, [("b", 1)], "task2")
        assert 0.6 <= time.monotonic() - began < 5
        await other.execute(refuse, (True, name))
        await saver.aput_writes(at, [("c", 1)], "task3")

    assert await count(db, "checkpoint_writes", "t") == 2


async def test_a_raised_epoch_refuses_every_row_of_the_old_lease(
    db: Database, saver: Saver
) -> None:
    await create_thread(db, "t")
    old = await leased(db, saver, "t")
    await talk(old).ainvoke(question(), config("t"))
    rows = [await count(db, f"checkpoint{t}", "t") for t in ("s", "_blobs", "_writes")]
    new = await leased(db, saver, "t")

    with pytest.raises(LeaseLostError):
        await talk(old).ainvoke(question(), config("t"))
    with pytest.raises(LeaseLostError):
        await old.aput_writes(config("t", checkpoint_ns="", checkpoint_id="1"), [("a", 1)], "task")

    assert [await count(db, f"checkpoint{t}", "t") for t in ("s", "_blobs", "_writes")] == rows
    assert await db.tuples("SELECT count(*) FROM message", {}) == [(2,)]
    assert len((await talk(new).ainvoke(question(), config("t")))["messages"]) == 4


async def test_a_stale_lease_does_not_disturb_the_others_of_its_batch(
    db: Database, saver: Saver
) -> None:
    savers = []
    for i in range(10):
        await create_thread(db, str(i))
        savers.append(await leased(db, saver, str(i)))
    await take_lease(db, "4")

    results = await asyncio.gather(
        *(talk(own).ainvoke(question(), config(str(i))) for i, own in enumerate(savers)),
        return_exceptions=True,
    )

    assert [i for i, r in enumerate(results) if isinstance(r, LeaseLostError)] == [4]
    assert await count(db, "checkpoints", "4") == 0


async def test_a_run_of_a_deleted_thread_brings_nothing_back(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    own = await leased(db, saver, "t")
    await talk(own).ainvoke(question(), config("t"))
    await saver.adelete_thread("t")
    with pytest.raises(LeaseLostError):
        await talk(own).ainvoke(question(), config("t"))
    await db.execute("DELETE FROM thread WHERE thread_id = 't'", {})
    with pytest.raises(LeaseLostError):
        await talk(own).ainvoke(question(), config("t"))

    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
    assert [await count(db, table, "t") for table in tables] == [0, 0, 0]
    assert await db.tuples("SELECT count(*) FROM message", {}) == [(0,)]


async def test_a_process_that_gave_its_lease_up_sends_nothing(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    is_alive = True
    own = await leased(db, saver, "t", alive=lambda: is_alive)
    await talk(own).ainvoke(question(), config("t"))
    before = await count(db, "checkpoints", "t")
    is_alive = False

    with pytest.raises(LeaseLostError):
        await talk(own).ainvoke(question(), config("t"))

    assert await count(db, "checkpoints", "t") == before


async def test_a_process_that_was_frozen_while_it_committed_begins_no_further_step(
    db: Database, saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_thread(db, "t")
    ran: list[str] = []
    frozen = False
    write = saver.writer.write

    async def write_and_freeze(entry: Entry) -> asyncio.Future[None]:
        nonlocal frozen
        committed = await write(entry)
        await committed
        frozen = ran == ["a"] and entry.checkpoint is not None
        return committed

    def step(name: str) -> Any:
        return lambda state: ran.append(name)

    own = await leased(db, saver, "t", alive=lambda: not frozen)
    monkeypatch.setattr(saver.writer, "write", write_and_freeze)
    builder: StateGraph[Any] = StateGraph(MessagesState)
    builder.add_sequence([("a", step("a")), ("b", step("b"))])
    builder.add_edge(START, "a")

    with pytest.raises(LeaseLostError):
        await builder.compile(own).ainvoke(question(), config("t"), durability="sync")

    assert ran == ["a"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_process_that_was_frozen_within_a_step_begins_no_further_one(
    db: Database, saver: Saver, durability: Any
) -> None:
    await create_thread(db, "t")
    ran: list[str] = []

    def step(name: str) -> Any:
        def work(state: MessagesState) -> dict[str, Any]:
            ran.append(name)
            return {"messages": [("ai", name)]}

        return work

    own = await leased(db, saver, "t", alive=lambda: not ran)
    builder: StateGraph[Any] = StateGraph(MessagesState)
    builder.add_sequence([("a", step("a")), ("b", step("b"))])
    builder.add_edge(START, "a")

    with pytest.raises(LeaseLostError):
        await builder.compile(own).ainvoke(question(), config("t"), durability=durability)

    assert ran == ["a"]


async def test_metadata_shows_the_run_and_no_secret(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    run_id = str(uuid.uuid4())
    own = await leased(db, saver, "t", run_id=run_id)
    secrets = {"openai_api_key": "sk-secret", "user_jwt": "eyJ-secret", "model": "secret-model"}
    run_config: Any = {
        "configurable": {"thread_id": "t", "graph_id": "talk", "__private": "secret", **secrets},
        # LangChain copies configurable values to the metadata of what runs inside of a run.
        "metadata": {
            "user_id": "me", "langgraph_version": "1", "topic": "x", "user_jwt": "eyJ-secret",
            "nested": {"a": "secret"},
        },
    }  # fmt: skip
    await talk(own).ainvoke(question(), run_config)

    stored = await db.tuples("SELECT metadata, checkpoint::text FROM checkpoints", {})

    assert "secret" not in repr(stored)
    assert [row[0] for row in stored][-1] == {
        "source": "loop",
        "step": stored[-1][0]["step"],
        "parents": {},
        "run_id": run_id,
        "graph_id": "talk",
        "user_id": "me",
        "langgraph_version": "1",
        "topic": "x",
    }


async def test_metadata_filters_a_listing(saver: Saver) -> None:
    for user in ("a", "b"):
        mine: Any = {**config(user), "metadata": {"user_id": user}}
        await talk(saver).ainvoke(question(), mine)

    found = [t async for t in saver.alist(None, filter={"user_id": "a"})]

    assert found
    assert {t.config["configurable"]["thread_id"] for t in found} == {"a"}


async def test_a_slow_listener_holds_no_connection(db: Database, saver: Saver) -> None:
    await talk(saver).ainvoke(question(), config("t"))

    async with asyncio.timeout(DEADLINE_SECONDS):
        listings = [saver.alist(config("t")) for _ in range(2 * db.pool.max_size)]
        firsts = [await anext(listing) for listing in listings]
        await talk(saver).ainvoke(question(), config("t"))

    assert len({t.checkpoint["id"] for t in firsts}) == 1


@dataclass
class Odd:
    value: int


async def test_only_types_that_are_allowed_are_decoded(db: Database, saver: Saver) -> None:
    await talk(saver).ainvoke({**question(), "note": Odd(3)}, config("t"))

    values = (await talk(saver).aget_state(config("t"))).values
    assert isinstance(values["messages"][0], HumanMessage)
    assert values["note"] == {"value": 3}
    async with open_saver(db, allowed_types=[(__name__, "Odd")]) as allowing:
        assert (await talk(allowing).aget_state(config("t"))).values["note"] == Odd(3)


async def test_a_large_checkpoint_is_written_before_the_small_writes_that_follow_it(
    db: Database, saver: Saver
) -> None:
    await create_thread(db, "t")
    own = await leased(db, saver, "t")
    values = {"note": [{"text": "x" * 50} for _ in range(100_000)]}
    checkpoint: Any = {
        **empty_checkpoint(), "channel_values": values, "channel_versions": {"note": "1"}
    }  # fmt: skip
    at = config("t", checkpoint_ns="", checkpoint_id=checkpoint["id"])
    finished: list[str] = []

    async def put() -> None:
        await own.aput(config("t", checkpoint_ns=""), checkpoint, {}, {"note": "1"})
        finished.append("checkpoint")

    async def put_writes() -> None:
        await own.aput_writes(at, [("note", "small")], "task")
        finished.append("writes")

    await asyncio.gather(put(), put_writes())

    assert finished == ["checkpoint", "writes"]


async def test_a_message_edited_in_place_is_seen(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    own = await leased(db, saver, "t")
    graph = talk(own)
    first = await graph.ainvoke(question("before"), config("t"))
    message = first["messages"][0]
    edited = HumanMessage("after", id=message.id)

    await graph.ainvoke({"messages": [edited, AIMessage("x")]}, config("t"))

    rows = await db.tuples("SELECT content FROM message ORDER BY seq LIMIT 1", {})
    assert rows == [("after",)]
