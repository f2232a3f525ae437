import asyncio
import operator
import uuid
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer

from store import messages
from store.checkpoints import Saver
from store.database import Database
from tests.store.graphs import config, create_thread, leased, talk
from tests.store.test_projection import table, thread_row


async def say(db: Database, saver: Saver, text: str, **how: Any) -> str:
    run_id = str(uuid.uuid4())
    graph = talk(await leased(db, saver, "t", run_id=run_id))
    await graph.ainvoke({"messages": [HumanMessage(text)]}, config("t"), **how)
    return run_id


async def texts(db: Database, **how: Any) -> list[str]:
    return [m.content for m in (await messages.list_page(db, "t", limit=100, **how))[0]]


async def test_a_page_goes_either_way_and_knows_if_there_is_more(
    db: Database, saver: Saver
) -> None:
    await create_thread(db, "t")
    for i in range(5):
        await say(db, saver, f"q{i}")

    first, more = await messages.list_page(db, "t", limit=4)
    assert ([m.seq for m in first], more) == ([0, 1, 2, 3], True)
    rest, more = await messages.list_page(db, "t", limit=6, after_seq=3)
    assert ([m.seq for m in rest], more) == ([4, 5, 6, 7, 8, 9], False)
    newest, more = await messages.list_page(db, "t", limit=3, order="desc")
    assert ([m.seq for m in newest], more) == ([9, 8, 7], True)
    older, more = await messages.list_page(db, "t", limit=30, before_seq=7, order="desc")
    assert ([m.seq for m in older], more) == ([6, 5, 4, 3, 2, 1, 0], False)
    assert await messages.list_page(db, "nobody", limit=3) == ([], False)


async def test_a_message_names_its_run_and_its_time(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    runs = [await say(db, saver, "a"), await say(db, saver, "b", durability="exit")]

    rows, _ = await messages.list_page(db, "t", limit=10)

    assert [m.run_id for m in rows] == [runs[0], runs[0], runs[1], runs[1]]
    assert [m.create_time for m in rows] == sorted(m.create_time for m in rows)


async def test_switching_between_branches_shows_each_as_it_was(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    await say(db, saver, "root")
    root = (await talk(saver).aget_state(config("t"))).config

    async def continue_from(at: Any, text: str) -> Any:
        graph = talk(await leased(db, saver, "t"))
        await graph.aupdate_state(at, {"messages": [HumanMessage(text)]}, as_node="count")
        return (await graph.aget_state(config("t"))).config

    left = await continue_from(root, "left")
    right = await continue_from(root, "right")
    assert await texts(db) == ["root", "answer 1", "right"]
    left = await continue_from(left, "left again")
    assert await texts(db) == ["root", "answer 1", "left", "left again"]
    await continue_from(right, "right again")
    assert await texts(db) == ["root", "answer 1", "right", "right again"]
    await continue_from(left, "back")
    assert await texts(db) == ["root", "answer 1", "left", "left again", "back"]
    assert len(await texts(db, branch="all")) == 7


async def test_a_whole_list_that_continues_the_thread_leaves_its_branch_alone(
    db: Database, saver: Saver
) -> None:
    await create_thread(db, "t")
    await say(db, saver, "root")
    root = (await talk(saver).aget_state(config("t"))).config

    async def update(at: Any, change: Any) -> None:
        graph = talk(await leased(db, saver, "t"))
        await graph.aupdate_state(at, {"messages": [change]}, as_node="count")

    await update(root, HumanMessage("on both", id="both"))
    await update(root, HumanMessage("on both", id="both"))
    await update(config("t"), RemoveMessage("both"))
    head = await saver.aget_tuple(config("t"))
    assert head is not None
    after: Any = {**head.checkpoint, "id": str(uuid6())}
    # A lease that never loaded the head does not know its list.
    own = await leased(db, saver, "t")
    await own.aput(head.config, after, head.metadata, {})

    assert await texts(db) == ["root", "answer 1", "on both"]
    rows = await table(db, "t")
    await messages.rebuild(db, saver, everything=True)
    assert await table(db, "t") == rows


async def test_a_run_writes_its_own_messages_and_no_old_one(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    await say(db, saver, "first")
    before = await db.tuples("SELECT id, xmin::text FROM message", {})
    for durability in ("sync", "async", "exit"):
        own = await leased(db, saver, "t")
        # As the executor may do, before and while the run loads the head itself.
        await talk(own).aget_state(config("t"))
        await talk(own).ainvoke(
            {"messages": [HumanMessage("x")]},
            config("t"),
            durability=durability,
        )
        rows = await db.tuples("SELECT id, xmin::text FROM message", {})
        assert set(before) < set(rows)
        before = rows


async def test_a_thread_whose_rows_are_behind_is_projected_whole_by_its_next_checkpoint(
    db: Database, saver: Saver
) -> None:
    await create_thread(db, "t")
    await say(db, saver, "one")
    await talk(saver).ainvoke({"messages": [HumanMessage("without a lease")]}, config("t"))
    await say(db, saver, "two")

    rows = await messages.in_context(db, "t")

    assert [m.content for m in rows] == [
        "one", "answer 1", "without a lease", "answer 3", "two", "answer 5",
    ]  # fmt: skip


async def test_rebuild_makes_good_what_is_behind_and_only_that(db: Database, saver: Saver) -> None:
    for name in ("s", "t"):
        await create_thread(db, name)
    await say(db, saver, "one")
    before = await table(db, "t")
    await db.execute("DELETE FROM message", {})
    await db.execute("UPDATE thread SET projected_checkpoint_id = NULL", {})

    done = await messages.rebuild(db, saver)

    assert (done.threads, done.messages) == (1, 2)
    assert await table(db, "t") == before
    assert (await messages.rebuild(db, saver)).threads == 0


async def test_rebuild_beside_a_writing_run_ends_with_the_same_rows(
    db: Database, saver: Saver
) -> None:
    await create_thread(db, "t")
    writing = asyncio.create_task(_write(db, saver))
    rebuilds = 0
    while not writing.done():
        done = await messages.rebuild(db, saver, everything=True)
        rebuilds += done.threads
    await writing

    rows = await table(db, "t")
    assert rebuilds > 0
    assert [m.content for m in await messages.in_context(db, "t")] == [
        m.content for m in (await talk(saver).aget_state(config("t"))).values["messages"]
    ]
    await messages.rebuild(db, saver, everything=True)
    assert await table(db, "t") == rows


async def _write(db: Database, saver: Saver) -> None:
    for i in range(20):
        await say(db, saver, f"q{i}")


async def test_a_thread_that_is_locked_is_skipped(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    await say(db, saver, "one")
    async with db.transaction() as tx:
        await tx.execute("SELECT FROM thread FOR UPDATE", {})
        done = await messages.rebuild(db, saver, everything=True)

    assert (done.threads, done.skipped) == (0, 1)


async def test_pruning_keeps_the_history_also_through_a_rebuild(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    await say(db, saver, "one")
    await say(db, saver, "two")
    before = await table(db, "t")
    await saver.aprune(["t"])
    await messages.rebuild(db, saver, everything=True)
    assert await table(db, "t") == before

    await saver.aprune(["t"], strategy="delete")
    await messages.rebuild(db, saver, everything=True)
    assert await texts(db) == ["one", "answer 1", "two", "answer 3"]
    assert await messages.in_context(db, "t") == []
    await say(db, saver, "new")
    assert await texts(db) == ["one", "answer 1", "two", "answer 3", "new", "answer 1"]
    assert [m.content for m in await messages.in_context(db, "t")] == ["new", "answer 1"]


async def test_rolling_a_run_back_takes_its_messages_too(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    first = await say(db, saver, "one")
    before = await table(db, "t")
    second = await say(db, saver, "two")
    for run_id, rows in ((second, before), (first, [])):
        await saver.adelete_for_runs([run_id], thread_id="t")
        await messages.rebuild(db, saver, thread_id="t")
        assert await table(db, "t") == rows
    assert await thread_row(db, "t") == [(None, None, 0)]
    assert await db.tuples("SELECT count(*) FROM checkpoint_blobs", {}) == [(0,)]


async def test_a_copy_has_the_same_messages_and_goes_its_own_way(
    db: Database, saver: Saver
) -> None:
    for name in ("t", "copy"):
        await create_thread(db, name)
    await say(db, saver, "one")
    await saver.acopy_thread("t", "copy")
    assert await table(db, "copy") == await table(db, "t")
    assert await thread_row(db, "copy") == await thread_row(db, "t")

    await say(db, saver, "two")

    assert [m.content for m in await messages.in_context(db, "copy")] == ["one", "answer 1"]
    rows = await table(db, "copy")
    await messages.rebuild(db, saver, thread_id="copy")
    assert await table(db, "copy") == rows


class Plain(TypedDict):
    messages: Annotated[list[Any], operator.add]


async def test_messages_without_ids_get_ids_that_last(db: Database, saver: Saver) -> None:
    async def answer(state: Plain) -> Any:
        return {"messages": [{"role": "assistant", "content": "ok"}]}

    graph = StateGraph(Plain)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    await create_thread(db, "t")
    said: Any = {"messages": [{"role": "user", "content": "hi"}, "no message"]}
    for _ in range(3):
        compiled = graph.compile(checkpointer=await leased(db, saver, "t"))
        await compiled.ainvoke(said, config("t"))

    rows = await messages.in_context(db, "t")

    assert [(m.role, m.content) for m in rows] == [("user", "hi"), ("assistant", "ok")] * 3
    assert [m.seq for m in rows] == list(range(6))
    before = await table(db, "t")
    await messages.rebuild(db, saver, everything=True)
    assert await table(db, "t") == before


class Delta(TypedDict):
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=4)
    ]


async def test_a_delta_channel_is_projected_at_its_snapshots(db: Database, saver: Saver) -> None:
    async def answer(state: Delta) -> Any:
        return {"messages": [AIMessage(f"answer {len(state['messages'])}")]}

    graph = StateGraph(Delta)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    await create_thread(db, "t")
    behind, mirrored = 0, 0
    for i in range(6):
        compiled = graph.compile(checkpointer=await leased(db, saver, "t"))
        await compiled.ainvoke({"messages": [HumanMessage(f"q{i}")]}, config("t"))
        ((head, projected, _),) = await thread_row(db, "t")
        if projected is None:
            behind += 1
            continue
        assert projected == head
        mirrored += 1
        state = (await compiled.aget_state(config("t"))).values["messages"]
        rows = await messages.in_context(db, "t")
        assert [m.content for m in rows] == [m.content for m in state]

    assert behind > 0
    assert mirrored > 0
    assert len((await compiled.aget_state(config("t"))).values["messages"]) == 12


async def test_what_a_message_has_beside_its_text_is_kept(db: Database, saver: Saver) -> None:
    await create_thread(db, "t")
    graph = talk(await leased(db, saver, "t"))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    call = {"name": "add", "args": {"a": 1, "b": float("nan")}, "id": "call-1"}
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    said: list[AnyMessage] = [
        HumanMessage([{"type": "text", "text": "look "}, picture, "here"]),
        AIMessage("nul \0, lone \udc80", tool_calls=[call], usage_metadata=usage),
        ToolMessage("3", tool_call_id="call-1", name="add", additional_kwargs={"k": "\0"}),
    ]
    await graph.aupdate_state(config("t"), {"messages": said}, as_node="count")

    human, ai, tool = await messages.in_context(db, "t")

    assert (human.content, human.message_type) == ("look here", "image")
    assert human.meta_data["content"][1] == picture
    assert (ai.role, ai.content) == ("assistant", "nul \ufffd, lone \ufffd")
    assert ai.meta_data["tool_calls"][0]["args"] == {"a": 1, "b": None}
    assert ai.meta_data["usage_metadata"] == usage
    assert (tool.role, tool.meta_data["tool_call_id"]) == ("tool", "call-1")
    assert tool.meta_data["additional_kwargs"] == {"k": "\ufffd"}
