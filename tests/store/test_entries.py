"""What is written to a stream is read from it, whatever the events share."""

import os

import pytest

from store.cipher import KeyRing
from store.entries import ENTRY_BYTES, events_of, fields, opened, portions
from store.errors import UnreadableError
from store.rings import Event

METADATA = b',"id":"run-1"},{"langgraph_node":"model","thread_id":"%b"}]' % (b"0" * 300)


def log(*datas: bytes, epoch: int = 7, first: int = 3, run_id: str = "r") -> list[Event]:
    return [
        Event(epoch, seq, run_id, "messages|a:1", data) for seq, data in enumerate(datas, first)
    ]


def kept(events: list[Event]) -> dict[bytes, bytes]:
    flat = [part.encode() if isinstance(part, str) else part for part in fields(events)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def token(text: bytes) -> bytes:
    return b'[{"content":"%b"%b' % (text, METADATA)


@pytest.mark.parametrize(
    "datas",
    [
        [b""],
        [b"{}", b"{}"],
        [b"x" * 100] * 3,
        [b"a" + b"x" * 100, b"x" * 100, b"bx" + b"x" * 100],
        [b"x" * 63, b"y" + b"x" * 63],
        [token(b"hello"), token(b"jello"), token(b"o"), b'{"values":1}', token(b"")],
        [os.urandom(2_000) for _ in range(5)],
        [b"\x00\r\n", "十".encode()],
    ],
)
def test_events_come_back_as_they_were(datas: list[bytes]) -> None:
    events = log(*datas)
    assert events_of(events[-1].position, kept(events)) == events


def test_what_tokens_share_is_kept_once() -> None:
    events = log(*(token(b"%d" % number) for number in range(50)))
    size = sum(len(value) for value in kept(events).values())
    assert size < 50 * len(METADATA) / 5
    assert events_of(events[-1].position, kept(events)) == events


def test_an_end_of_a_few_is_kept_once_for_them() -> None:
    events = log(b'{"run_id":"r"}', *(token(b"%d" % n) for n in range(20)), b'{"messages":[]}')
    assert sum(len(value) for value in kept(events).values()) < 5 * len(METADATA)
    assert events_of(events[-1].position, kept(events)) == events


def test_only_what_follows_each_other_in_a_run_is_kept_together() -> None:
    first, other = log(b"1", b"2"), log(b"3", first=5, run_id="other")
    hole, later = log(b"4", first=9, run_id="other"), log(b"5", epoch=8, first=1, run_id="other")

    assert portions([*first, *other, *hole, *later]) == [first, other, hole, later]


def test_a_portion_is_bounded_and_a_big_event_is_one() -> None:
    half = bytes(ENTRY_BYTES // 2)
    events = log(half, half, b"1", bytes(2 * ENTRY_BYTES), b"2")

    assert [len(portion) for portion in portions(events)] == [2, 1, 1, 1]


def test_an_entry_that_only_wakes_readers_has_no_event() -> None:
    assert events_of((1, 0), {b"w": b"1"}) == []


def test_when_events_were_logged_is_kept_with_them() -> None:
    events = [Event(7, seq, "r", "values", b"{}", at=1_795_691_321_000 + seq) for seq in (3, 4)]

    assert events_of((7, 4), kept(events)) == events


def test_an_entry_of_before_there_was_a_key_cannot_be_read() -> None:
    events = log(b"{}")
    for accepts_clear in (False, True):
        ring = KeyRing([b"n" * 32], accepts_clear=accepts_clear)
        with pytest.raises(UnreadableError):
            opened(ring, "key", events[-1].position, kept(events))
