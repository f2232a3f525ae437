"""Titles by a model, as jobs that may fail and come late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from graph.jobs import Jobs, Kind
from graph.loop import Here
from graph.titles import Titles
from store import sessions
from store.access import EVERYTHING
from store.database import Database
from store.errors import NotFoundError
from tests.graph.engines import until

WORDS = {"generated_title": "First words", "title_source": "first_words"}
SAY = """
INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq, position,
    checkpoint_id, last_checkpoint_id)
VALUES ('m', %(id)s, 'user', 'First words', now(), now(), 0, 0, '1', '1')
"""


def saying(*answers: Any) -> BaseChatModel:
    """A model that gives one answer after the other; what is an exception is raised."""

    class Model(GenericFakeChatModel):
        def _generate(self, *args: Any, **more: Any) -> Any:
            answer = next(self.messages)
            if isinstance(answer, Exception):
                raise answer
            object.__setattr__(self, "messages", iter([answer, *self.messages]))
            return super()._generate(*args, **more)

    told: list[Any] = [a if isinstance(a, Exception) else AIMessage(a) for a in answers]
    return Model(messages=iter(told))


@asynccontextmanager
async def titling(db: Database, model: BaseChatModel | None) -> AsyncIterator[None]:
    titles = Titles(db=db, place=Here(None), model=lambda: model)  # type: ignore[arg-type]
    kind = Kind(work=titles.work, timeout_seconds=10, pauses_seconds=(0.01, 0.01))
    jobs = Jobs(db=db, kinds={sessions.TITLE_JOB: kind}, lease_seconds=60, renew_seconds=20)
    task = asyncio.create_task(jobs.work_forever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def made(db: Database, **metadata: Any) -> None:
    await sessions.create(db, "s", metadata={**WORDS, **metadata}, access=EVERYTHING)
    await db.execute(SAY, {"id": "s"})
    await sessions.enqueue_title(db, "s", language=None)


async def all_done(db: Database) -> None:
    async def gone() -> bool:
        return await db.tuples("SELECT FROM job", {}) == []

    await until(gone)


@pytest.mark.parametrize(
    ("answers", "title"),
    [
        (["Made"], "Made"),
        ([ValueError("no"), "", "Made at last"], "Made at last"),
        ([ValueError("no")] * 3, "First words"),
    ],
)
async def test_a_model_that_fails_is_asked_again_a_bounded_number_of_times(
    db: Database, answers: list[Any], title: str
) -> None:
    await made(db)
    async with titling(db, saying(*answers)):
        await all_done(db)

    assert (await sessions.get(db, "s", access=EVERYTHING)).name == title


async def test_a_title_that_comes_late_is_in_nobodys_way(db: Database) -> None:
    await made(db, name="Mine")

    assert not await sessions.set_title(db, "s", "x")
    await sessions.update(db, "s", removed=["name"], access=EVERYTHING)
    assert await sessions.set_title(db, "s", "Made")
    assert not await sessions.set_title(db, "s", "Made again")
    assert (await sessions.get(db, "s", access=EVERYTHING)).name == "Made"
    await sessions.purge(db, "s", access=EVERYTHING)
    assert not await sessions.set_title(db, "s", "x")
    with pytest.raises(NotFoundError):
        await sessions.get(db, "s", access=EVERYTHING)


@pytest.mark.parametrize("name", [None, ""])
async def test_a_name_that_says_nothing_keeps_no_title_away(db: Database, name: str | None) -> None:
    await made(db, name=name)

    assert (await sessions.get(db, "s", access=EVERYTHING)).name == "First words"
    assert await sessions.set_title(db, "s", "Made")
    assert (await sessions.get(db, "s", access=EVERYTHING)).name == "Made"
    await sessions.create(db, "t", metadata={"name": name}, access=EVERYTHING)
    assert (await sessions.get(db, "t", access=EVERYTHING)).name == "新对话"


@pytest.mark.parametrize(
    ("meanwhile", "name"), [({"name": "Mine now"}, "Mine now"), ({"pinned": True}, "Made")]
)
async def test_a_new_title_takes_the_place_of_the_name_that_was_there_and_of_no_other(
    db: Database, meanwhile: dict[str, Any], name: str
) -> None:
    asked, told = asyncio.Event(), asyncio.Event()

    class Waiting(GenericFakeChatModel):
        async def _agenerate(self, *args: Any, **more: Any) -> Any:
            asked.set()
            await told.wait()
            return super()._generate(*args)

    await made(db, name="Mine")
    model = Waiting(messages=iter([AIMessage("Made")]))
    titles = Titles(db=db, place=Here(None), model=lambda: model)  # type: ignore[arg-type]
    renewing = asyncio.create_task(titles.renew("s", None, access=EVERYTHING))
    await asyncio.wait_for(asked.wait(), 10)
    await sessions.update(db, "s", changes=meanwhile, access=EVERYTHING)
    told.set()

    renewed = await renewing
    assert renewed.name == name
    assert renewed.metadata["generated_title"] == "Made"


async def test_what_is_not_there_any_more_has_its_job_done(db: Database) -> None:
    await made(db)
    await sessions.purge(db, "s", access=EVERYTHING)

    async with titling(db, None):
        await all_done(db)

    assert await db.tuples("SELECT FROM thread", {}) == []
