"""Large bodies are held a few at a time; which of those that wait goes on, and which is refused."""

import asyncio

import pytest

from api.http.held import (
    MAX_WAITING,
    MAX_WAITING_OF_ONE,
    SLOWEST_BYTES_PER_SECOND,
    STALLED_SECONDS,
    HeldBodies,
    Hold,
)
from store.errors import OverloadedError
from tests.faults.runs import until


async def test_what_fits_in_is_held_and_one_alone_may_be_larger() -> None:
    held = HeldBodies(10, patience_seconds=0)

    await held.take(25, "ada")
    with pytest.raises(OverloadedError):
        await held.take(1, "eve")
    held.give_back(25, "ada")
    await held.take(6, "ada")
    await held.take(4, "eve")

    assert (held.bytes, held.waiting) == (10, 0)


async def test_of_those_that_wait_the_smallest_goes_on_first_and_only_if_it_fits() -> None:
    held, order = HeldBodies(10), []
    await held.take(10, "ada")

    async def wait(size: int) -> None:
        await held.take(size, f"sender of {size}")
        order.append(size)

    waiting = [asyncio.create_task(wait(size)) for size in (9, 8, 2, 1)]
    await until(lambda: held.waiting == 4)
    held.give_back(10, "ada")
    await until(lambda: len(order) == 2)
    assert (order, held.bytes) == ([1, 2], 3)
    # Smaller than what waits: it is not kept behind it.
    await held.take(3, "ada")
    for size, sender in ((3, "ada"), (2, "sender of 2"), (1, "sender of 1")):
        held.give_back(size, sender)
    await until(lambda: len(order) == 3)
    assert (order[2], held.bytes) == (8, 8)
    held.give_back(8, "sender of 8")
    await asyncio.gather(*waiting)

    assert (held.bytes, held.waiting) == (9, 0)


async def test_who_leaves_or_has_waited_long_enough_holds_nothing() -> None:
    held = HeldBodies(10, patience_seconds=0.01)
    await held.take(10, "ada")
    with pytest.raises(OverloadedError):
        await held.take(5, "ada")
    left = asyncio.create_task(held.take(5, "ada"))
    just_granted = asyncio.create_task(held.take(6, "eve"))
    await asyncio.sleep(0)
    left.cancel()
    held.give_back(10, "ada")
    just_granted.cancel()
    gone = await asyncio.gather(left, just_granted, return_exceptions=True)

    assert [type(one) for one in gone] == [asyncio.CancelledError] * 2
    assert (held.bytes, held.waiting) == (0, 0)


async def test_one_sender_has_half_of_it_and_half_of_the_places_to_wait() -> None:
    held = HeldBodies(10)
    await held.take(3, "ada")
    await held.take(2, "ada")
    waiting = [asyncio.create_task(held.take(1, "ada")) for _ in range(MAX_WAITING_OF_ONE)]
    await until(lambda: held.waiting == MAX_WAITING_OF_ONE)

    with pytest.raises(OverloadedError):
        await held.take(1, "ada")
    # Before those who have their half, however many of them wait, and however small they are.
    await held.take(5, "eve")
    assert (held.bytes, held.waiting) == (10, MAX_WAITING_OF_ONE)
    others = asyncio.create_task(held.take(4, "bob"))
    await until(lambda: held.waiting == MAX_WAITING_OF_ONE + 1)
    held.give_back(5, "eve")
    await others
    assert (held.bytes, held.waiting) == (9, MAX_WAITING_OF_ONE)
    # And of what is free again of their half they get it.
    held.give_back(2, "ada")
    await until(lambda: held.waiting == MAX_WAITING_OF_ONE - 2)
    assert held.bytes == 9
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_large_body_comes_at_a_speed_and_a_small_one_only_has_to_come() -> None:
    now, held = asyncio.get_running_loop().time(), HeldBodies(10)
    small, large, own = Hold(held, largest=9), Hold(held, largest=9), Hold(None, largest=9)
    await large.take(9, "ada")
    await own.take(9, "")

    # What has come in the meantime counts, up to where it has stalled.
    for hold, received, seconds in (
        (large, 0, STALLED_SECONDS), (large, 10**9, STALLED_SECONDS), (small, 0, STALLED_SECONDS),
    ):  # fmt: skip
        assert hold.next_is_due(received) == pytest.approx(now + seconds, abs=5.0)
    large.began_at -= 100
    late = large.next_is_due(10 * SLOWEST_BYTES_PER_SECOND)
    assert late == pytest.approx(now - 100 + STALLED_SECONDS + 10, abs=5.0)
    assert large.next_is_due(90 * SLOWEST_BYTES_PER_SECOND) == pytest.approx(now + 20, abs=5.0)
    assert own.next_is_due(0) is None
    assert held.bytes == 9
    large.give_back()
    assert held.bytes == 0


async def test_no_more_wait_than_may() -> None:
    held = HeldBodies(1)
    await held.take(1, "ada")
    waiting = [
        asyncio.create_task(held.take(1, sender))
        for sender in ("ada", "eve")
        for _ in range(MAX_WAITING_OF_ONE)
    ]
    await until(lambda: held.waiting == MAX_WAITING)

    with pytest.raises(OverloadedError):
        await held.take(1, "bob")

    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert held.waiting == 0
