"""After whatever happens to a state, the message table says what the state says."""

import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.graph import END
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command, StateUpdate

from store import messages
from store.checkpoints import Saver
from store.database import Database
from store.projection import born_at
from tests.store.graphs import ask, config, create_thread, leased, talk

ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


class Conversation:
    """A thread under random treatment, each step by a saver with a lease of its own."""

    def __init__(self, db: Database, saver: Saver, seed: int) -> None:
        self.db, self.saver = db, saver
        self.random = random.Random(seed)
        self.thread_id = str(uuid.uuid4())
        self.config = config(self.thread_id)

    async def graph(self, build: Callable[[Any], Any] = talk) -> Any:
        run_id = str(uuid.UUID(int=self.random.getrandbits(128)))
        return build(await leased(self.db, self.saver, self.thread_id, run_id=run_id))

    async def list(self) -> list[AnyMessage]:
        state = await talk(self.saver).aget_state(self.config)
        return list(state.values.get("messages", []))

    async def past(self) -> Any:
        """The config of some earlier checkpoint that has messages."""
        history = talk(self.saver).aget_state_history(self.config)
        return self.random.choice([s async for s in history if s.values.get("messages")]).config

    async def run(self) -> None:
        mode = self.random.choice(["sync", "async", "exit"])
        message = HumanMessage(f"question {self.random.random()}")
        await (await self.graph()).ainvoke(
            {"messages": [message], "steps": 1}, self.config, durability=mode
        )

    async def update(self, *changes: AnyMessage | RemoveMessage, at: Any = None) -> None:
        graph = await self.graph()
        await graph.aupdate_state(at or self.config, {"messages": list(changes)}, as_node="answer")

    async def edit(self) -> None:
        message = self.random.choice(await self.list())
        await self.update(HumanMessage(f"edited {self.random.random()}", id=message.id))

    async def remove(self) -> None:
        await self.update(RemoveMessage(self.random.choice(await self.list()).id or ""))

    async def summarise(self) -> None:
        kept = (await self.list())[-2:]
        await self.update(RemoveMessage(REMOVE_ALL_MESSAGES), AIMessage("summary"), *kept)

    async def fork(self) -> None:
        await self.update(HumanMessage("another way"), at=await self.past())

    async def edit_in_the_past(self) -> None:
        at = await self.past()
        graph = await self.graph()
        state = await graph.aget_state(at)
        edited = HumanMessage("edited in the past", id=state.values["messages"][0].id)
        await graph.aupdate_state(at, {"messages": [edited]}, as_node="answer")

    async def replay(self) -> None:
        graph = await self.graph()
        await graph.ainvoke(None, await self.past())

    async def switch(self) -> None:
        await (await self.graph()).aupdate_state(await self.past(), None, as_node="__copy__")

    async def begin_anew(self) -> None:
        listed = await self.list()
        kept = listed[: self.random.randrange(len(listed))]
        saver = await leased(self.db, self.saver, self.thread_id)
        graph = talk(saver)
        await graph.aget_state(self.config)
        with saver.beginning_anew():
            await graph.abulk_update_state(
                self.config,
                [[StateUpdate({"messages": kept}, "__start__")], [StateUpdate(None, END)]],
            )

    async def interrupt_and_resume(self) -> None:
        mode = self.random.choice(["sync", "async", "exit"])
        graph = await self.graph(ask)
        await graph.ainvoke({"messages": [HumanMessage("ask me")]}, self.config, durability=mode)
        await self.check()
        if self.random.random() < 0.5:
            graph = await self.graph(ask)
        await graph.ainvoke(Command(resume="go on"), self.config, durability=mode)

    async def step(self) -> None:
        steps = [
            self.run, self.run, self.edit, self.remove, self.summarise, self.fork,
            self.edit_in_the_past, self.replay, self.interrupt_and_resume, self.switch,
            self.begin_anew,
        ]  # fmt: skip
        if len(await self.list()) < 3:
            steps = [self.run]
        await self.random.choice(steps)()

    async def check(self) -> None:
        rows = [
            (m.id, m.role, m.content) for m in await messages.in_context(self.db, self.thread_id)
        ]
        assert rows == [(m.id, ROLES[m.type], m.text) for m in await self.list()]


async def table(db: Database, thread_id: str) -> list[tuple[Any, ...]]:
    """The messages, each with what it is known to follow if that is not the one before it."""
    return await db.tuples(
        """
        SELECT m.id, m.seq, role, content, message_type, meta_data, position, on_branch, run_id,
            m.checkpoint_id, last_checkpoint_id, create_time, update_time, f.parent_seq,
            f.checkpoint_id AS forked_at
        FROM message AS m
        FULL JOIN message_fork AS f
            ON f.conversation_id = m.conversation_id AND f.seq = m.seq
        WHERE coalesce(m.conversation_id, f.conversation_id) = %(id)s
        ORDER BY coalesce(m.seq, f.seq), id
        """,
        {"id": thread_id},
    )


async def thread_row(db: Database, thread_id: str) -> list[tuple[Any, ...]]:
    query = """
        SELECT head_checkpoint_id, projected_checkpoint_id, message_count
        FROM thread WHERE thread_id = %(id)s
        """
    return await db.tuples(query, {"id": thread_id})


@pytest.mark.parametrize("seed", range(4))
async def test_the_table_mirrors_the_head_after_every_random_step_and_rebuilds_the_same(
    db: Database, saver: Saver, seed: int
) -> None:
    conversation = Conversation(db, saver, seed)
    await create_thread(db, conversation.thread_id)
    for _ in range(50):
        await conversation.step()
        await conversation.check()
    before = await table(db, conversation.thread_id)
    row = await thread_row(db, conversation.thread_id)

    done = await messages.rebuild(db, saver, everything=True)

    # A fork after which nothing has been said yet has no message.
    said = [seq for id_, seq, *_ in before if id_ is not None]
    assert (done.threads, done.messages, done.skipped) == (1, len(said), 0)
    assert await table(db, conversation.thread_id) == before
    assert await thread_row(db, conversation.thread_id) == row
    assert said == list(range(len(said)))


@pytest.mark.parametrize("keep", [1, 7])
async def test_branches_last_when_their_checkpoints_are_gone(
    db: Database, saver: Saver, keep: int
) -> None:
    conversation = Conversation(db, saver, keep)
    await create_thread(db, conversation.thread_id)
    steps = [conversation.run, conversation.switch, conversation.fork, conversation.begin_anew]
    for _ in range(20):
        few = len(await conversation.list()) < 3
        await (conversation.run if few else conversation.random.choice(steps))()
    await (await leased(db, saver, conversation.thread_id)).trim(keep=keep)
    before = await table(db, conversation.thread_id)

    done = await messages.rebuild(db, saver, thread_id=conversation.thread_id)

    assert done.threads == 1
    assert await db.tuples("SELECT count(*) FROM checkpoints", {}) == [(keep,)]
    assert sum(row[-2] is not None for row in before) > 1
    assert await table(db, conversation.thread_id) == before


@pytest.mark.parametrize(
    ("told", "born"),
    [
        ("2024-01-01T08:00:00+08:00", "2024-01-01T00:00:00+00:00"),
        ("2024-01-01T00:00:00+23:59", "2023-12-31T00:01:00+00:00"),
        *[(told, None) for told in ("x", "infinity", "2024-01-01T00:00:00", 5)],
        ("0001-01-01T00:00:00+00:00", None),
        ("9999-12-31T23:59:59-01:00", None),
    ],
)
def test_an_imported_message_is_as_old_as_a_time_says_that_postgresql_reads(
    told: Any, born: str | None
) -> None:
    assert born_at(HumanMessage("x", additional_kwargs={"created_at": told})) == born
