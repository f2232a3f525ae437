"""One connection for many callers at once."""

import asyncio
import uuid
from typing import Any

import pytest

from store.database import Database, open_database
from store.errors import ConnectionLostError, InvalidInputError, LockedError
from store.lane import Statement

PID = Statement("SELECT pg_backend_pid()")
ECHO = Statement("SELECT %(number)s::int, %(text)s::text, %(flag)s::bool, %(json)s::jsonb")
DIVIDE = Statement("SELECT 1 / %(by)s::int")
#: A time that Python does not have.
FOREVER = Statement("SELECT 'infinity'::timestamptz")
BREAK = Statement("SELECT pg_terminate_backend(pg_backend_pid())")
SLEEP = Statement("SELECT pg_sleep(%(seconds)s::float)")
CREATE = Statement("INSERT INTO thread (thread_id) VALUES (%(thread_id)s)")
TOUCH = Statement("UPDATE thread SET updated_at = now() WHERE thread_id = %(thread_id)s")


def row(number: int) -> dict[str, Any]:
    return {"number": number, "text": f"é{number}", "flag": number % 2 == 0, "json": {"n": number}}


async def pid(db: Database) -> int:
    [[(found,)]] = await db.at_once((PID, {}))
    return int(found)


async def test_many_callers_at_once_each_get_their_own_rows_over_one_connection(
    db: Database,
) -> None:
    calls = [db.at_once((ECHO, row(number)), (PID, {})) for number in range(200)]

    answers = await asyncio.gather(*calls)

    assert [answer[0] for answer in answers] == [[tuple(row(n).values())] for n in range(200)]
    assert len({answer[1][0] for answer in answers}) == 1


async def test_a_call_that_fails_fails_alone(db: Database) -> None:
    calls = [db.at_once((DIVIDE, {"by": number})) for number in (1, 0, -1)]

    one, none, minus_one = await asyncio.gather(*calls, return_exceptions=True)

    assert (one, minus_one) == ([[(1,)]], [[(-1,)]])
    assert "division by zero" in str(none)


async def test_a_row_that_cannot_be_read_fails_its_caller_alone(db: Database) -> None:
    calls = db.at_once((FOREVER, {})), db.at_once((ECHO, row(1)))

    async with asyncio.timeout(20):
        unread, read = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(unread, Exception)
    assert read == [[tuple(row(1).values())]]


async def test_the_statements_of_a_call_are_one_transaction(db: Database) -> None:
    params = {"thread_id": str(uuid.uuid4())}

    with pytest.raises(Exception, match="division by zero"):
        await db.at_once((CREATE, params), (DIVIDE, {"by": 0}))

    assert not await db.tuples("SELECT FROM thread WHERE thread_id = %(thread_id)s", params)


async def test_a_statement_that_cannot_be_prepared_fails_each_time_and_nothing_else(
    db: Database,
) -> None:
    wrong = Statement("SELECT nothing FROM nowhere")
    for _ in range(2):
        with pytest.raises(Exception, match="nowhere"):
            await db.at_once((wrong, {}))
    assert await pid(db)


async def test_a_statement_that_is_not_prepared_any_more_is_prepared_anew(db: Database) -> None:
    assert await pid(db)
    await db.at_once((Statement("DISCARD ALL"), {}))
    calls = [pid(db) for _ in range(3)]

    assert len(set(await asyncio.gather(*calls))) == 1


async def test_callers_who_learn_one_by_one_that_a_statement_is_gone_do_not_disturb_each_other(
    db: Database,
) -> None:
    for _ in range(20):
        assert await pid(db)
        await db.at_once((Statement("DISCARD ALL"), {}))
        calls = []
        for number in range(8):
            # Each is sent by itself, while the answers of those before it are on their way.
            calls.append(asyncio.create_task(db.at_once((PID, {}), (ECHO, row(number)))))
            await asyncio.sleep(0)

        assert len({answer[0][0] for answer in await asyncio.gather(*calls)}) == 1


async def test_parameters_and_rows_may_be_larger_than_any_buffer(db: Database) -> None:
    text = "x" * 8_000_000
    calls = [db.at_once((ECHO, {**row(n), "text": text}), (PID, {})) for n in range(4)]

    answers = await asyncio.gather(*calls)

    assert all(answer[0][0][1] == text for answer in answers)


async def test_a_parameter_that_cannot_be_sent_harms_nobody(db: Database) -> None:
    before = await pid(db)

    with pytest.raises(InvalidInputError):
        await db.at_once((ECHO, {**row(1), "text": "a\0b"}))

    assert await pid(db) == before


async def test_a_caller_who_leaves_does_not_take_the_answers_of_the_others(db: Database) -> None:
    leaving = asyncio.create_task(db.at_once((ECHO, row(1))))
    staying = [asyncio.create_task(db.at_once((ECHO, row(n)))) for n in (2, 3)]
    await asyncio.sleep(0)
    leaving.cancel()

    assert [await task for task in staying] == [[[tuple(row(n).values())]] for n in (2, 3)]


async def test_when_the_connection_is_lost_all_who_wait_are_told_and_the_next_has_another(
    db: Database,
) -> None:
    before = await pid(db)
    calls = [db.at_once((BREAK, {})), db.at_once((ECHO, row(1)))]

    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, ConnectionLostError)

    assert await pid(db) != before


async def test_a_server_that_does_not_answer_is_given_up(database_url: str) -> None:
    async with open_database(database_url) as db:
        db.lane._deadline_seconds = 0.1
        with pytest.raises(ConnectionLostError):
            await db.at_once((SLEEP, {"seconds": 60.0}))
        assert await pid(db)


async def test_who_waits_behind_others_has_the_time_that_they_had(database_url: str) -> None:
    async with open_database(database_url) as db:
        before = await pid(db)
        db.lane._deadline_seconds = 1.0
        await asyncio.gather(*(db.at_once((SLEEP, {"seconds": 0.6})) for _ in range(4)))
        assert await pid(db) == before


async def test_nobody_waits_long_for_a_row_that_is_locked(db: Database) -> None:
    params = {"thread_id": str(uuid.uuid4())}
    await db.at_once((CREATE, params))
    async with db.transaction() as tx:
        await tx.execute("SELECT FROM thread WHERE thread_id = %(thread_id)s FOR UPDATE", params)
        with pytest.raises(LockedError):
            await db.at_once((TOUCH, params))
    await db.at_once((TOUCH, params))
