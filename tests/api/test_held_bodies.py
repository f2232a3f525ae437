"""Large bodies are held a few at a time; which of those that wait goes on, and which is refused."""

import asyncio

import pytest

from api.http.held import MAX_WAITING, HeldBodies
from store.errors import OverloadedError
from tests.faults.runs import until


async def test_what_fits_in_is_held_and_one_alone_may_be_larger() -> None:
    held = HeldBodies(10, patience_seconds=0)

    await held.take(25)
    with pytest.raises(OverloadedError):
        await held.take(1)
    held.give_back(25)
    await held.take(6)
    await held.take(4)

    assert (held.bytes, held.waiting) == (10, 0)


async def test_of_those_that_wait_the_smallest_goes_on_first_and_only_if_it_fits() -> None:
    held, order = HeldBodies(10), []
    await held.take(10)

    async def wait(size: int) -> None:
        await held.take(size)
        order.append(size)

    waiting = [asyncio.create_task(wait(size)) for size in (9, 8, 2, 1)]
    await until(lambda: held.waiting == 4)
    held.give_back(10)
    await until(lambda: len(order) == 2)
    assert (order, held.bytes) == ([1, 2], 3)
    # Smaller than what waits: it is not kept behind it.
    await held.take(3)
    held.give_back(6)
    await until(lambda: len(order) == 3)
    assert (order[2], held.bytes) == (8, 8)
    held.give_back(8)
    await asyncio.gather(*waiting)

    assert (held.bytes, held.waiting) == (9, 0)


async def test_who_leaves_or_has_waited_long_enough_holds_nothing() -> None:
    held = HeldBodies(10, patience_seconds=0.01)
    await held.take(10)
    with pytest.raises(OverloadedError):
        await held.take(5)
    left = asyncio.create_task(HeldBodies.take(held, 5))
    just_granted = asyncio.create_task(HeldBodies.take(held, 6))
    await asyncio.sleep(0)
    left.cancel()
    held.give_back(10)
    just_granted.cancel()
    gone = await asyncio.gather(left, just_granted, return_exceptions=True)

    assert [type(one) for one in gone] == [asyncio.CancelledError] * 2
    assert (held.bytes, held.waiting) == (0, 0)


async def test_no_more_wait_than_may() -> None:
    held = HeldBodies(1)
    await held.take(1)
    waiting = [asyncio.create_task(held.take(1)) for _ in range(MAX_WAITING)]
    await until(lambda: held.waiting == MAX_WAITING)

    with pytest.raises(OverloadedError):
        await held.take(1)

    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert held.waiting == 0
