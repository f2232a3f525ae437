"""What a process still has of the threads that it wrote to last, and when it may use it."""

import asyncio
import random
import threading
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph, add_messages
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Command, Overwrite, interrupt
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from store import messages, threads
from store.access import EVERYTHING
from store.checkpoints import Saver, open_saver
from store.codec import Codec
from store.database import Database
from store.folds import fold_of
from store.heads import Fold
from store.projection import identified
from tests.store.graphs import Graph, config, create_thread

DEADLINE_SECONDS = 60.0


class Full(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    do: dict[str, Any]


class Delta(TypedDict, total=False):
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=7)
    ]
    do: dict[str, Any]


def said(text: str) -> AIMessage:
    # LangGraph gives a message without an id another one on every read.
    return AIMessage(text, id=str(uuid.uuid4()))


def graph(state: Any, saver: BaseCheckpointSaver[Any]) -> Graph:
    """One node answers as it is told to; another may ask first."""

    async def answer(state: Any) -> dict[str, Any]:
        do = state["do"]
        if do.get("mutate"):
            state["messages"][0].content += "!"
            state["messages"].append(HumanMessage("not returned"))
        new: list[Any] = [said(f"answer {len(state['messages'])}")]
        if do.get("remove") and len(state["messages"]) > 2:
            new.append(RemoveMessage(state["messages"][1].id))
        if do.get("edit"):
            new.append(HumanMessage("edited", id=state["messages"][0].id))
        return {"messages": new}

    async def ask(state: Any) -> dict[str, Any]:
        return {"messages": [said(f"told {interrupt('well?')}")]} if state["do"].get("ask") else {}

    async def beside(state: Any) -> dict[str, Any]:
        return {"messages": [said("beside")]} if state["do"].get("ask") else {}

    builder: StateGraph[Any] = StateGraph(state)
    for name, node in (("answer", answer), ("ask", ask), ("beside", beside)):
        builder.add_node(name, node)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", "ask")
    builder.add_edge("answer", "beside")
    return builder.compile(checkpointer=saver)


async def opened(db: Database, saver: Saver, state: Any, thread_id: str = "t") -> Graph:
    """The graph with a new lease on the thread."""
    lease = await threads.lease(db, thread_id, access=EVERYTHING)
    own = saver.leased(lease, run_id=None, messages_channel="messages", alive=lambda: True)
    made = graph(state, own)
    own.attend(made.channels)
    return made


@pytest.fixture
async def stock(database_url: str) -> AsyncIterator[AsyncPostgresSaver]:
    """LangGraph's own saver on the same tables."""
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(
        database_url, min_size=1, max_size=2, kwargs=options, open=False
    ) as pool:
        yield AsyncPostgresSaver(pool)  # type: ignore[arg-type]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read of checkpoints."""
    seen: list[str] = []
    rows, history = Saver._rows, AsyncPostgresSaver.aget_delta_channel_history

    async def noting_rows(self: Saver, where: str, args: Any) -> Any:
        seen.append(where)
        return await rows(self, where, args)

    async def noting_history(self: Saver, **options: Any) -> Any:
        if options["channels"]:
            seen.append("history")
        return await history(self, **options)

    monkeypatch.setattr(Saver, "_rows", noting_rows)
    monkeypatch.setattr(AsyncPostgresSaver, "aget_delta_channel_history", noting_history)
    return seen


def says(text: str = "hello", **do: Any) -> dict[str, Any]:
    return {"messages": [("user", text)], "do": do}


@pytest.mark.parametrize("state", [Full, Delta])
async def test_the_next_run_of_a_thread_reads_nothing(
    db: Database, saver: Saver, reads: list[str], state: Any
) -> None:
    await create_thread(db, "t")

    for turn in range(10):
        made = await opened(db, saver, state)
        values = await made.ainvoke(says(), config("t"))
        assert len(values["messages"]) == 2 * turn + 2

    assert reads == []


@pytest.mark.parametrize("state", [Full, Delta])
async def test_of_a_long_thread_only_the_new_messages_are_encoded_and_projected(
    db: Database, saver: Saver, monkeypatch: pytest.MonkeyPatch, state: Any
) -> None:
    await create_thread(db, "t")
    made = await opened(db, saver, state)
    long = [HumanMessage(str(i)) for i in range(200)]
    await made.ainvoke({"messages": long, "do": {}}, config("t"))
    encoded: list[Any] = []
    encode = Codec.encode

    def noting(self: Codec, message: object) -> bytes:
        encoded.append(message)
        return encode(self, message)

    monkeypatch.setattr(Codec, "encode", noting)

    await (await opened(db, saver, state)).ainvoke(says(), config("t"))

    assert len(encoded) <= 4
    rows = await db.tuples("SELECT count(*), max(position) FROM message", {})
    assert rows == [(203, 202)]


@pytest.mark.parametrize("state", [Full, Delta])
async def test_messages_with_values_that_are_no_json_are_kept_as_the_stock_saver_reads_them(
    db: Database, saver: Saver, stock: AsyncPostgresSaver, state: Any
) -> None:
    await create_thread(db, "t")
    odd = HumanMessage("odd", id="odd", additional_kwargs={"set": {1}})
    for message in (HumanMessage("plain", id="plain"), odd, HumanMessage("more", id="more")):
        made = await opened(db, saver, state)
        await made.ainvoke({"messages": [message], "do": {}}, config("t"))

    found = (await made.aget_state(config("t"))).values["messages"]
    assert [m.id for m in found if m.type == "human"] == ["plain", "odd", "more"]
    assert found[2].additional_kwargs == {"set": {1}}
    assert found == (await graph(state, stock).aget_state(config("t"))).values["messages"]


async def other_process(db: Database, saver: Saver) -> None:
    async with open_saver(db) as other:
        await (await opened(db, other, Full)).ainvoke(says("from elsewhere"), config("t"))


async def stock_saver(db: Database, saver: Saver) -> None:
    await graph(Full, Saver(db, saver.writer, saver.cache)).ainvoke(
        says("from elsewhere"), config("t")
    )


async def pending_writes(db: Database, saver: Saver) -> None:
    made = await opened(db, saver, Full)
    await made.ainvoke(says("from elsewhere", ask=True), config("t"))


async def update(db: Database, saver: Saver) -> None:
    async with open_saver(db) as other:
        made = await opened(db, other, Full)
        await made.aupdate_state(config("t"), says("from elsewhere"), as_node="answer")


@pytest.mark.parametrize("change", [other_process, stock_saver, pending_writes, update])
async def test_what_others_wrote_is_read(db: Database, saver: Saver, change: Any) -> None:
    await create_thread(db, "t")
    await (await opened(db, saver, Full)).ainvoke(says(), config("t"))

    await change(db, saver)

    values = await (await opened(db, saver, Full)).ainvoke(says("more"), config("t"))
    texts = [message.content for message in values["messages"]]
    assert "from elsewhere" in texts
    assert texts[0] == "hello"


async def test_a_thread_that_only_a_stock_saver_wrote_to_is_not_taken_for_new(
    db: Database, saver: Saver, stock: AsyncPostgresSaver
) -> None:
    await create_thread(db, "t")
    await graph(Full, stock).ainvoke(says("first"), config("t"))

    values = await (await opened(db, saver, Full)).ainvoke(says("second"), config("t"))

    assert [m.content for m in values["messages"]] == ["first", "answer 1", "second", "answer 3"]


async def test_a_deleted_thread_comes_back_empty(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    await (await opened(db, saver, Full)).ainvoke(says(), config("t"))
    await saver.adelete_thread("t")

    values = await (await opened(db, saver, Full)).ainvoke(says("again"), config("t"))

    assert [m.content for m in values["messages"]] == ["again", "answer 1"]


async def test_no_more_is_kept_than_there_is_room_for(db: Database) -> None:
    async with open_saver(db, head_cache_bytes=200_000) as saver:
        for i in range(12):
            await create_thread(db, str(i))
            made = await opened(db, saver, Full, str(i))
            await made.ainvoke(says("x" * 30_000), config(str(i)))

        assert 2 <= len(saver.cache) <= 6


@pytest.mark.parametrize("state", [Full, Delta])
async def test_no_interrupt_is_lost(db: Database, saver: Saver, state: Any) -> None:
    async def talk(thread_id: str) -> list[Any]:
        await create_thread(db, thread_id)
        for _ in range(2):
            made = await opened(db, saver, state, thread_id)
            asked = await made.ainvoke(says(ask=True), config(thread_id), durability="async")
            assert [found.value for found in asked["__interrupt__"]] == ["well?"]
            made = await opened(db, saver, state, thread_id)
            told = await made.ainvoke(Command(resume="yes"), config(thread_id))
        return [m.content for m in told["messages"]]

    async with asyncio.timeout(DEADLINE_SECONDS):
        found = await asyncio.gather(*(talk(str(i)) for i in range(50)))

    lost = [texts for texts in found if texts.count("told yes") != 2 or texts.count("beside") != 2]
    assert lost == []


async def own_saver(db: Database, saver: Saver) -> Saver:
    lease = await threads.lease(db, "t", access=EVERYTHING)
    return saver.leased(lease, run_id=None, messages_channel=None, alive=lambda: True)


async def put(own: Saver, checkpoint: Any) -> None:
    await own.aput(config("t", checkpoint_ns=""), checkpoint, {}, {})


async def put_writes(own: Saver, checkpoint: Any) -> None:
    at = config("t", checkpoint_ns="", checkpoint_id=checkpoint["id"])
    await own.aput_writes(at, [("channel", "value")], "task")


@pytest.mark.parametrize("steps", [(put, put_writes), (put_writes, put)])
async def test_writes_to_the_head_are_seen_whichever_came_first(
    db: Database, saver: Saver, steps: Any
) -> None:
    await create_thread(db, "t")
    checkpoint = empty_checkpoint()
    own = await own_saver(db, saver)
    for step in steps:
        await step(own, checkpoint)

    following = await own_saver(db, saver)

    for _ in range(2):
        found = await following.aget_tuple(config("t"))
        assert found is not None
        assert found.pending_writes == [("task", "channel", "value")]


async def test_writes_of_another_process_to_the_head_are_seen(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    checkpoint = empty_checkpoint()
    await put(await own_saver(db, saver), checkpoint)
    async with open_saver(db) as other:
        await put_writes(await own_saver(db, other), checkpoint)

    found = await (await own_saver(db, saver)).aget_tuple(config("t"))

    assert found is not None
    assert found.pending_writes == [("task", "channel", "value")]


class Talk:
    """A conversation in which anything happens, some of it in another process."""

    def __init__(self, db: Database, savers: list[Saver], state: Any, seed: int) -> None:
        self.db, self.savers, self.state = db, savers, state
        self.chance = random.Random(seed)

    async def step(self) -> str:
        saver = self.savers[self.chance.random() < 0.15]
        made = await opened(self.db, saver, self.state)
        steps = ["say"] * 6 + ["ask", "resume", "update", "fork", "replay", "trim", "overwrite"]
        step = self.chance.choice(steps)
        await getattr(self, step)(made)
        return step

    def options(self) -> dict[str, Any]:
        return {"durability": self.chance.choice(["sync", "async", "exit"])}

    async def say(self, made: Graph) -> None:
        do = {key: self.chance.random() < 0.2 for key in ("mutate", "remove", "edit")}
        await made.ainvoke(says(f"say {self.chance.random()}", **do), config("t"), **self.options())

    async def ask(self, made: Graph) -> None:
        await made.ainvoke(says(ask=True), config("t"), **self.options())

    async def resume(self, made: Graph) -> None:
        if (await made.aget_state(config("t"))).interrupts:
            await made.ainvoke(Command(resume="yes"), config("t"), **self.options())

    async def update(self, made: Graph) -> None:
        await made.aupdate_state(config("t"), says("updated"), as_node="answer")

    async def overwrite(self, made: Graph) -> None:
        values = {"messages": Overwrite([HumanMessage("all anew", id="anew")]), "do": {}}
        if self.state is Delta:
            await made.ainvoke(values, config("t"), **self.options())

    async def fork(self, made: Graph) -> None:
        if past := await self.past(made):
            await made.aupdate_state(past, says("forked"), as_node="answer")

    async def replay(self, made: Graph) -> None:
        if past := await self.past(made):
            await made.ainvoke(None, past, **self.options())

    async def trim(self, made: Graph) -> None:
        saver: Any = made.checkpointer
        await saver.trim(keep=self.chance.randint(1, 12))

    async def past(self, made: Graph) -> Any:
        found = [s async for s in made.aget_state_history(config("t"), limit=8)]
        # The empty state that "exit" hangs its first writes on cannot be gone on from.
        begun = [
            snapshot.config for snapshot in found if (snapshot.metadata or {}).get("step", 0) >= 0
        ]
        return self.chance.choice(begun) if begun else None


@pytest.mark.parametrize("state", [Full, Delta])
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_the_stock_saver_finds_the_same(
    db: Database, saver: Saver, stock: AsyncPostgresSaver, state: Any, seed: int
) -> None:
    await create_thread(db, "t")
    reader = graph(state, stock)
    async with open_saver(db) as other:
        talk = Talk(db, [saver, other], state, seed)
        await talk.say(await opened(db, saver, state))
        for _ in range(40):
            step = await talk.step()
            ours = await opened(db, saver, state)
            seen, expected = (
                await ours.aget_state(config("t")),
                await reader.aget_state(config("t")),
            )
            assert seen == expected, step
            # Named by its id, it is shown without what tasks have written to it.
            head = await reader.aget_state(expected.config)
            await _assert_projected(db, head.values["messages"], step)
        await _assert_rebuilt(db, saver, state)
        history = [s async for s in graph(state, saver).aget_state_history(config("t"))]
        assert history == [s async for s in reader.aget_state_history(config("t"))]


async def _assert_rebuilt(db: Database, saver: Saver, state: Any) -> None:
    channel = graph(state, saver).channels["messages"]
    fold = fold_of(channel) if isinstance(channel, DeltaChannel) else None
    query = "SELECT id, content, position FROM message WHERE position IS NOT NULL ORDER BY position"
    before = await db.tuples(query, {})

    done = await messages.rebuild(db, saver, everything=True, fold_of=lambda graph_id: fold)

    assert (done.threads, done.unreadable) == (1, 0)
    assert await db.tuples(query, {}) == before


@pytest.mark.parametrize("state", [Full, Delta])
async def test_lists_are_made_again_beside_the_event_loop(
    db: Database, saver: Saver, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_thread(db, "t")
    ours = await opened(db, saver, state)
    for text in ("one " * 30_000, "two"):
        await ours.ainvoke({"messages": [HumanMessage(text)], "do": {}}, config("t"))
    channel = ours.channels["messages"]
    fold = fold_of(channel) if isinstance(channel, DeltaChannel) else None
    decoded, reduced = set(), set()
    loads = JsonPlusSerializer.loads_typed

    def load(self: JsonPlusSerializer, data: tuple[str, bytes]) -> Any:
        decoded.add(threading.current_thread())
        return loads(self, data)

    def reduce(value: list[Any] | None, writes: Sequence[Any]) -> Any:
        reduced.add(threading.current_thread())
        assert fold is not None
        return fold.apply(value, writes)

    monkeypatch.setattr(JsonPlusSerializer, "loads_typed", load)
    noting = Fold(reduce, appends=True) if fold else None
    done = await messages.rebuild(db, saver, thread_id="t", fold_of=lambda graph_id: noting)

    assert done.messages == 4
    assert decoded
    assert bool(reduced) == (state is Delta)
    assert threading.current_thread() not in decoded | reduced


async def test_what_cannot_be_made_again_stays_as_it_is(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    ours = await opened(db, saver, Delta)
    for text in ("one", "two"):
        await ours.ainvoke({"messages": [HumanMessage(text)], "do": {}}, config("t"))
    query = "SELECT id, content, position FROM message ORDER BY seq"
    before = await db.tuples(query, {})

    # As of a graph that is made anew for each use: nobody knows how its channel comes by its value.
    done = await messages.rebuild(db, saver, thread_id="t")

    assert (done.threads, done.unreadable) == (0, 1)
    assert len(before) == 4
    assert await db.tuples(query, {}) == before


async def _assert_projected(db: Database, said: list[AnyMessage], step: str) -> None:
    query = "SELECT id, content FROM message WHERE position IS NOT NULL ORDER BY position"
    rows = await db.tuples(query, {})
    listed = identified(said)
    assert rows == [(id_, message.content) for id_, (message, _) in listed.items()], step
