"""
Wake-ups between processes, through LISTEN and NOTIFY.

They are rare and small: a run is ready, a run must stop, a queued run has ended, a job is due. None is relied
upon: whoever waits for one also looks for itself from time to time.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, LiteralString, cast

import orjson
from psycopg import AsyncConnection

from store.database import CONNECT, PING_SECONDS, Transaction, limited, translated_errors
from store.models import CancelAction

_NOTIFY: LiteralString = "SELECT pg_notify('threadwell', %(payload)s)"

#: After how much silence a listener asks whether its server is still there.
SILENCE_SECONDS = 5.0

#: What wakes the workers, for statements that do it themselves.
READY = '{"kind":"ready"}'
JOB = '{"kind":"job"}'


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """
    One wake-up.

    ``ready``: a run can be claimed. ``stop``: whoever runs `run_id` must stop it. ``ended``:
    `run_id` ended, and its log does not tell: it was still queued, or deleted with its thread. If it
    had never begun, `queued_on` is its thread: nothing else will ever tell there of it. ``job``: a job of `store.jobs` is due.
    """

    kind: Literal["ready", "stop", "ended", "job"]
    run_id: str = ""
    action: CancelAction = "interrupt"
    queued_on: str = ""


async def notify_ready(tx: Transaction) -> None:
    """Wake every worker when this transaction commits."""
    await tx.execute(_NOTIFY, {"payload": READY})


async def notify_stop(tx: Transaction, run_id: str, action: CancelAction) -> None:
    """Tell the run's owner to stop it when this transaction commits."""
    await _notify(tx, {"kind": "stop", "run_id": run_id, "action": action})


async def notify_ended(tx: Transaction, run_id: str, *, queued_on: str = "") -> None:
    """
    Tell those who follow a run that it has ended, when this transaction commits.

    Args:
        queued_on: The thread that it waited for, if it had never begun.
    """
    await _notify(tx, {"kind": "ended", "run_id": run_id, "queued_on": queued_on})


async def _notify(tx: Transaction, payload: dict[str, str]) -> None:
    await tx.execute(_NOTIFY, {"payload": orjson.dumps(payload).decode()})


@asynccontextmanager
async def listen(conninfo: str) -> AsyncIterator[AsyncIterator[Signal]]:
    """
    Open a connection of its own and yield what is signalled from now on.

    Raises:
        UnavailableError: The connection failed, at once or later.
    """
    with translated_errors():
        connection = await AsyncConnection.connect(
            conninfo, autocommit=True, application_name="threadwell-signals", **CONNECT
        )
        try:
            with limited(connection, PING_SECONDS):
                await connection.execute("LISTEN threadwell")
            yield _signals(connection)
        finally:
            # As a context manager it would wait for its lock, which the iteration may still hold.
            await connection.close()


async def _signals(connection: AsyncConnection[tuple[object, ...]]) -> AsyncIterator[Signal]:
    with translated_errors():
        while True:
            async for notification in connection.notifies(timeout=SILENCE_SECONDS):
                yield _signal(orjson.loads(notification.payload))
            # A server that was frozen or replaced says nothing either.
            with limited(connection, PING_SECONDS):
                await connection.execute("")


def _signal(payload: dict[str, str]) -> Signal:
    return Signal(
        kind=cast("Any", payload["kind"]),
        run_id=payload.get("run_id", ""),
        action=cast("CancelAction", payload.get("action", "interrupt")),
        queued_on=payload.get("queued_on", ""),
    )
