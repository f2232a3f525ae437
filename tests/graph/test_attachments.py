"""Files for models: looked up at once, and no more in a process than there is room for."""

import asyncio
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any, cast

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage

from graph import attachments
from graph.attachments import Attachment, FileRoom, Inflating, attach

IDS = [f"00000000-0000-7000-8000-00000000000{number}" for number in range(4)]
DEADLINE_SECONDS = 60.0


class Files:
    """Files of 6 bytes, under every id but the last."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def find(self, file_ids: Sequence[str]) -> dict[str, Attachment]:
        self.asked.append(list(file_ids))
        return {id_: self._file(id_) for id_ in file_ids if id_ != IDS[-1]}

    def _file(self, file_id: str) -> Attachment:
        async def read() -> bytes:
            return b"words!"

        return Attachment(name=file_id[-1], mime_type="text/plain", size_bytes=6, read=read)


class Model(Inflating, GenericFakeChatModel):
    """Answers in pieces."""


def asking(*ids: str) -> HumanMessage:
    return HumanMessage([{"type": "file", "file_id": file_id} for file_id in ids])


async def test_all_files_of_a_call_are_looked_up_at_once_and_the_oldest_are_named_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attachments, "MODEL_BYTES", 12)
    monkeypatch.setattr(attachments, "MODEL_FILES", 4)
    files = Files()
    attach(files.find, FileRoom())
    history = [asking(IDS[0]), asking(IDS[1]), AIMessage("hm"), asking(IDS[3]), asking(*IDS[1:3])]

    shown = await attachments.inflated(history)

    assert files.asked == [[IDS[1], IDS[2], IDS[3]]]
    texts = [
        [cast("Any", b)["text"] for b in m.content] if m.type == "human" else m.content
        for m in shown
    ]
    assert texts == [
        ["[a file that was shown before]"],
        ["[1, which was shown before]"],
        "hm",
        ["[a file that is not there any more]"],
        ["1:\nwords!", "2:\nwords!"],
    ]


async def test_a_call_waits_while_others_hold_as_much_of_files_as_there_is_room_for() -> None:
    room, holding, let_go = FileRoom(10), asyncio.Semaphore(0), asyncio.Semaphore(0)
    inside: list[int] = []
    attach(Files().find, room)

    async def call(number: int) -> None:
        async with attachments.inflating([asking(IDS[0])]):
            inside.append(number)
            holding.release()
            await let_go.acquire()
            inside.remove(number)

    calls = [asyncio.create_task(call(number)) for number in range(4)]
    async with asyncio.timeout(DEADLINE_SECONDS):
        await holding.acquire()
        # Nothing but what holds none goes by.
        assert await attachments.inflated([HumanMessage("x")]) == [HumanMessage("x")]
        assert inside == [0]
        calls[1].cancel()
        await asyncio.wait({calls[1]})
        for _ in range(2):
            let_go.release()
            await holding.acquire()
            assert len(inside) == 1
        let_go.release()
        await asyncio.wait(calls)
    assert [one.cancelled() for one in calls] == [False, True, False, False]
    async with asyncio.timeout(DEADLINE_SECONDS), room.taken(10**9):
        pass


async def test_who_holds_files_does_not_wait_for_more_and_others_do() -> None:
    room = FileRoom(100)
    outside, inside, over = asyncio.Barrier(2), asyncio.Barrier(3), asyncio.Event()

    async def more() -> None:
        async with room.taken(50):
            await inside.wait()
            await over.wait()

    async def call() -> None:
        async with room.taken(50):
            await outside.wait()
            # As LangChain calls a model: in a task of its own.
            await asyncio.gather(more())
        # It holds nothing any more.
        async with room.taken(50):
            assert last.done()

    async def alone() -> None:
        async with room.taken(100):
            pass

    calls = [asyncio.create_task(call()) for _ in range(2)]
    async with asyncio.timeout(DEADLINE_SECONDS):
        await inside.wait()
        last = asyncio.create_task(alone())
        await asyncio.sleep(0)
        assert not last.done()
        over.set()
        await asyncio.gather(*calls, last)


async def test_a_model_holds_its_files_until_it_has_answered() -> None:
    room = FileRoom(6)
    attach(Files().find, room)
    model = Model(messages=iter([AIMessage("one two")]))
    elsewhere = copy_context()
    stream = model.astream([asking(IDS[0])])
    async with asyncio.timeout(DEADLINE_SECONDS):
        await anext(stream)
        call = attachments.inflated([asking(IDS[1])])
        waiting = asyncio.create_task(call, context=elsewhere)
        await asyncio.sleep(0)
        assert not waiting.done()
        assert "".join([str(piece.content) async for piece in stream]).endswith("two")
        assert (await waiting)[0].content[0]["text"] == "1:\nwords!"  # type: ignore[index]
