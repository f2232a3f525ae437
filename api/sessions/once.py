"""
Once only: requests that are one get one run. See decision 20.

A request has the id of its run before there is a run: from its idempotency key, or from the id that
its client gave the message. Each of those that come at once tries to make that run. One does; the
others find it here, also if it is not there yet.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from uuid_utils.compat import uuid7

from api.bootstrap import Services
from api.identity.auth import Caller
from graph.runs import Submitted
from store import idempotency
from store.access import EVERYTHING, Access
from store.errors import AlreadyExistsError, LeaseLostError, NotFoundError, ThreadBusyError
from store.models import Session

#: How often it is looked for a run that another request is about to make.
LOOK_SECONDS: Final = 0.1

#: Submits a run under the id that the request has.
Make = Callable[[], Awaitable[Submitted]]


async def claim(
    services: Services,
    caller: Caller,
    session: Session,
    key: str | None,
    payload: bytes,
    *,
    run_id: str | None = None,
    access: Access,
) -> str | None:
    """
    The id of the run that the key of a request stands for, in a session; None without a key.

    Args:
        payload: What is asked: another one with the same key is refused.
        run_id: What a new key stands for, if its run has an id already.

    Raises:
        NotFoundError: There is no such session that is visible.
        ConflictError: The key came with another payload.
    """
    if key is None:
        return None
    return await idempotency.claim(
        services.db,
        session.id,
        caller=caller.identity,
        key=key,
        payload_hash=hashlib.sha256(payload).digest(),
        run_id=run_id or str(uuid7()),
        access=access,
    )


async def known_run(services: Services, session: Session, run_id: str | None) -> Submitted | None:
    """The run of a request, if somebody has made it; nobody is asked who may see it."""
    if run_id is None:
        return None
    try:
        return await services.runs.attach(run_id, thread_id=session.id, access=EVERYTHING)
    except NotFoundError:
        return None


async def once(services: Services, session: Session, run_id: str | None, make: Make) -> Submitted:
    """
    The run of a request: the one that was made, or that `make` makes.

    Args:
        run_id: By which its twins know it; None if it has none.

    Raises: as `made_or_found`.
    """
    if known := await known_run(services, session, run_id):
        return known
    return await made_or_found(services, session, run_id, make)


async def made_or_found(
    services: Services, session: Session, run_id: str | None, make: Make
) -> Submitted:
    """
    The run that `make` makes, or that another request has made or is about to make in its place.

    Of two that go back to where no checkpoint is kept, the second takes the thread's lease from the first.
    So who loses it waits for the run of the other: for `DATABASE_POOL_TIMEOUT_SECONDS` at the most, as
    that one may have been refused.

    Raises:
        ThreadBusyError: The session is still being answered, by another run.
        Error: What else `make` raises.
    """
    wait_seconds = 0.0
    try:
        with session_busy():
            return await make()
    except AlreadyExistsError as exc:
        refusal: Exception = exc
    except ThreadBusyError as exc:
        refusal = exc
        if isinstance(exc.__cause__, LeaseLostError):
            wait_seconds = services.settings.database_pool_timeout_seconds
    if known := await _awaited(services, session, run_id, wait_seconds):
        return known
    raise refusal


async def _awaited(
    services: Services, session: Session, run_id: str | None, wait_seconds: float
) -> Submitted | None:
    """The run of a request, as soon as it is there."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_seconds
    while (known := await known_run(services, session, run_id)) is None:
        if run_id is None or clock() >= deadline:
            return None
        await asyncio.sleep(LOOK_SECONDS)
    return known


@contextmanager
def session_busy() -> Iterator[None]:
    """Say that an answer is coming, or came meanwhile, in a session's own words."""
    try:
        yield
    except (ThreadBusyError, LeaseLostError) as exc:
        raise busy() from exc


def busy() -> ThreadBusyError:
    """The error for a session that is not to be written to now."""
    return ThreadBusyError("The session is still being answered", code="session_busy")
