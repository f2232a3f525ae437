"""Sessions from elsewhere, and the conversation as others than runs write it, on every kind of graph."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from api.bootstrap import Services, open_services
from api.processes.embedded import Servers
from api.settings import Settings
from graph.agents.chat import TOOLS
from graph.imports import Imported, ImportedMessage, ImportedSession
from graph.requests import RunRequest
from store import messages, sessions, threads
from store.access import EVERYTHING, Access
from store.checkpoints import open_saver
from store.errors import AlreadyExistsError, InvalidInputError

#: A plain list of messages, one in deltas, one whose node always leads on, and one that asks.
GRAPHS = {
    "chat": "tests.graph.sample_graphs:chat",
    "agent": "graph.agents.chat:graph",
    "tooled": "tests.graph.test_imports:tooled",
    "things": "tests.graph.sample_graphs:things",
}
ROLES: list[tuple[str, Literal["user", "assistant"]]] = [("human", "user"), ("ai", "assistant")]
LONG_AGO = datetime(2023, 5, 6, 7, 8, 9, tzinfo=UTC)


def _call(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("no tools needed")]}


def _tooled() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("model", _call)
    builder.add_node("tools", ToolNode(TOOLS))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


tooled = _tooled()


@pytest.fixture
async def services(tmp_path: Path, servers: Servers, database_url: str) -> AsyncIterator[Services]:
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"graphs": GRAPHS}))
    async with (
        open_services(
            Settings(config=config), database_url=database_url, redis_url=servers.redis_url
        ) as services,
        services.worker.working(),
    ):
        yield services


def held_elsewhere(turns: int, **more: Any) -> ImportedSession:
    said = [
        ImportedMessage(
            id=f"{kind}-{turn}",
            role=role,
            content=f"{kind} {turn}",
            created_at=LONG_AGO + timedelta(minutes=turn),
        )
        for turn in range(turns)
        for kind, role in ROLES
    ]
    times = {"created_at": LONG_AGO, "updated_at": LONG_AGO + timedelta(minutes=turns)}
    return ImportedSession(**{"session_id": str(uuid4()), "messages": said, **times, **more})


async def rows(services: Services, session_id: str) -> list[Any]:
    page, _ = await messages.list_page(services.db, session_id, limit=100)
    return page


async def ask(services: Services, session_id: str, graph_id: str, text: str) -> None:
    request = RunRequest(
        assistant_id=graph_id,
        input={"messages": [{"role": "user", "content": text}]},
        injected={"langgraph_auth_user_id": ""},
    )
    submitted = await services.runs.submit(
        request, thread_id=session_id, attached=True, access=EVERYTHING,
        assistant_access=EVERYTHING,
    )  # fmt: skip
    assert (await services.runs.join(submitted)).error is None


@pytest.mark.parametrize("graph_id", ["chat", "agent", "tooled"])
async def test_a_session_is_imported_once_and_appended_to(
    services: Services, graph_id: str
) -> None:
    once = held_elsewhere(2, metadata={"name": "Old", "assistant_id": graph_id, "user_id": "ada"})
    longer = replace(once, messages=held_elsewhere(3).messages)

    planned = await services.imports.write(once, access=EVERYTHING, dry_run=True)
    absent = await threads.exists(services.db, once.session_id)
    outcomes = [
        await services.imports.write(session, access=EVERYTHING)
        for session in (once, once, longer, longer)
    ]

    assert (planned, absent) == (Imported("created", 4), False)
    assert outcomes == [
        Imported("created", 4), Imported("skipped"), Imported("updated", 2), Imported("skipped"),
    ]  # fmt: skip
    found = await rows(services, once.session_id)
    assert [row.id for row in found] == [m.id for m in longer.messages]
    assert [row.create_time for row in found] == [m.created_at for m in longer.messages]
    session = await sessions.get(services.db, once.session_id, access=EVERYTHING)
    assert (session.name, session.user_id, session.create_time) == ("Old", "ada", LONG_AGO)
    state = await services.states.get(once.session_id, access=EVERYTHING)
    assert list(state["next"]) == []
    history = await services.states.history(once.session_id, limit=9, access=EVERYTHING)
    assert len(history) == 2, "one checkpoint for each import"

    async with open_saver(services.db) as saver:
        done = await messages.rebuild(
            services.db, saver, thread_id=once.session_id,
            channel_of=services.registry.channel_of, fold_of=services.registry.fold_of,
        )  # fmt: skip
    assert (done.threads, await rows(services, once.session_id)) == (1, found)

    await ask(services, once.session_id, graph_id, "and now?")
    assert [r.content for r in await rows(services, once.session_id)][:7] == [
        "human 0", "ai 0", "human 1", "ai 1", "human 2", "ai 2", "and now?",
    ]  # fmt: skip


async def test_an_import_that_broke_off_is_gone_on_with(services: Services) -> None:
    session = held_elsewhere(1)
    await threads.create(
        services.db, session.session_id, metadata={"graph_id": "chat"}, access=EVERYTHING
    )

    empty = await services.imports.write(session, access=EVERYTHING)
    async with services.db.transaction() as tx:
        await tx.execute(
            "UPDATE message SET create_time = now() WHERE conversation_id = %(id)s",
            {"id": session.session_id},
        )
    unstamped = await services.imports.write(session, access=EVERYTHING)

    assert (empty.status, unstamped.status) == ("updated", "skipped")
    assert {row.create_time for row in await rows(services, session.session_id)} == {LONG_AGO}


async def test_what_is_wrong_leaves_nothing(services: Services) -> None:
    stranger = Access(({"owner": "eve"},))
    theirs = held_elsewhere(1)
    await services.imports.write(theirs, access=EVERYTHING)
    wrong = [
        held_elsewhere(1, session_id="not-a-uuid"),
        held_elsewhere(1, messages=[ImportedMessage(id="", role="user", content="x")]),
        held_elsewhere(
            1,
            messages=[
                ImportedMessage(id="a", role="assistant", content="", more={"tool_calls": 1})
            ],
        ),
        held_elsewhere(1, metadata={"assistant_id": "nobody"}),
    ]

    for session in wrong:
        with pytest.raises(InvalidInputError):
            await services.imports.write(session, access=EVERYTHING)
        assert not await threads.exists(services.db, session.session_id)
    with pytest.raises(AlreadyExistsError):
        await services.imports.write(theirs, access=stranger)


@pytest.mark.parametrize("graph_id", ["chat", "agent"])
async def test_what_is_cleared_stays_in_the_history(services: Services, graph_id: str) -> None:
    session = held_elsewhere(1, metadata={"assistant_id": graph_id})
    await services.imports.write(session, access=EVERYTHING)

    await services.histories.clear(session.session_id, access=EVERYTHING)
    emptied = await services.histories.read(session.session_id, access=EVERYTHING)
    again = await services.imports.write(session, access=EVERYTHING)
    ids = await services.histories.add(
        session.session_id, [HumanMessage("new"), AIMessage("born")], access=EVERYTHING
    )

    assert (emptied, again.status) == ([], "skipped")
    read = await services.histories.read(session.session_id, access=EVERYTHING)
    assert [(m.id, m.text) for m in read] == list(zip(ids, ["new", "born"], strict=True))
    found = await rows(services, session.session_id)
    assert [(row.content, row.in_context) for row in found] == [
        ("human 0", False), ("ai 0", False), ("new", True), ("born", True),
    ]  # fmt: skip


async def test_many_writers_of_one_session_lose_nothing(services: Services) -> None:
    session_id = str(uuid4())
    await threads.create(services.db, session_id, access=EVERYTHING)

    async def chain(number: int) -> None:
        for turn in range(3):
            said = [HumanMessage(f"{number}:{turn}"), AIMessage(f"re {number}:{turn}")]
            await services.histories.add(session_id, said, wait_seconds=30, access=EVERYTHING)

    async def graph() -> None:
        for turn in range(3):
            await ask(services, session_id, "chat", f"graph:{turn}")

    await asyncio.gather(chain(0), chain(1), graph())

    said = [row.content for row in await rows(services, session_id)]
    assert len(said) == 18
    for asked in (f"{number}:{turn}" for number in (0, 1) for turn in range(3)):
        assert said[said.index(asked) + 1] == f"re {asked}", "nothing comes between"
    assert {f"graph:{turn}" for turn in range(3)} < set(said)
