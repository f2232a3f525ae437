"""
Streams as clients read them: server-sent events, and JSON that is long in coming.

Everything is checked before a response is returned: after its first byte there is no status.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from typing import Any

from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from api.bootstrap import Services
from api.errors import BrokenOffError
from api.identity import auth
from api.session_events import Part, SessionReader, whole_message
from api.settings import Settings
from graph.encode import dumps
from graph.executor import Result
from graph.following import ENDED
from graph.protocol_run import PREFIX
from graph.runs import Submitted
from graph.stream import ASIDE
from store import messages, runs, threads
from store.access import EVERYTHING, Access
from store.errors import Error, NotFoundError, TooLargeError, UnavailableError
from store.events import Event, Gap
from store.models import Run

HEARTBEAT = b": heartbeat\r\n\r\n"
#: Why an answer is broken off by a process that goes.
GOES_ON = "The run goes on in another process"


def frame(name: str, data: bytes, event_id: str = "") -> bytes:
    """One event on the wire."""
    tail = f"\r\nid: {event_id}\r\n\r\n" if event_id else "\r\n\r\n"
    return b"event: %b\r\ndata: %b%b" % (name.encode(), data, tail.encode())


def gap_frames(told: list[tuple[str, bytes]], gap: Gap | None) -> bytes:
    """What is told of a gap; the last of it has the id to go on from."""
    *first, (name, data) = told
    last = frame(name, data, gap.event_id if gap else "")
    return b"".join(frame(*one) for one in first) + last


class EventStream(EventSourceResponse):
    """
    A response of frames, with a comment whenever nothing else was sent for some seconds.

    Thousands may be open at once and say nothing: each is this task, and one that attends to its
    client, where sse-starlette takes four.

    Args:
        frames: Closed when they end, and when the client has left.
        caller: Whose stream it is: broken off when they would not be let in any more.
        look: Sees that it is theirs to read, or raises an error: broken off then.
        on_refused: Called before it is broken off for one of these.
    """

    media_type = "text/event-stream; charset=utf-8"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        # FastAPI's documentation reads the default.
        status_code: int = 200,
        *,
        headers: dict[str, str],
        settings: Settings,
        caller: auth.Caller | None = None,
        look: Callable[[], Awaitable[None]] | None = None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        keep_alive_seconds = settings.sse_heartbeat_seconds
        super().__init__(
            frames, status_code, headers, media_type=self.media_type, ping=keep_alive_seconds
        )
        self._settings = settings
        self._frames = frames
        self._keep_alive_seconds = keep_alive_seconds
        self._sent_at = 0.0
        self._has_left = False
        self._caller = caller
        self._look = look
        self._on_refused = on_refused
        self._is_refused = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until it ends or the client leaves."""
        streaming = asyncio.current_task()
        assert streaming is not None
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        attending = asyncio.create_task(self._attend(receive, send, streaming), name="sse")
        try:
            await self._stream(send)
        except asyncio.CancelledError:
            # Cancelled by nobody else, it is over in good order.
            if not (self._has_left or self._is_refused) or streaming.uncancel():
                raise
            if self._is_refused:
                raise BrokenOffError("Whose stream it is would not be let in any more") from None
        finally:
            attending.cancel()
            await asyncio.wait({attending})

    async def _stream(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        self._sent_at = clock()
        async with aclosing(self._frames) as frames:
            async for chunk in frames:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._sent_at = clock()
        await send({"type": "http.response.body", "body": b""})

    async def _attend(self, receive: Receive, send: Send, streaming: asyncio.Task[Any]) -> None:
        """Keep the connection alive, and stop the stream when the client leaves."""
        clock = asyncio.get_running_loop().time
        checks = self._checks()
        checks_at = {check: clock() + seconds for check, seconds in checks.items()}
        while not (self._has_left or self._is_refused):
            beats_at = self._sent_at + self._keep_alive_seconds
            try:
                async with asyncio.timeout_at(min([beats_at, *checks_at.values()])):
                    self._has_left = (await receive())["type"] == "http.disconnect"
            except TooLargeError:
                # A body, where none is asked for. Whether its sender is still there is not to be known.
                self._has_left = True
            except TimeoutError:
                if self._sent_at + self._keep_alive_seconds <= clock():
                    self._sent_at = clock()
                    await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
                for check in [check for check, at in checks_at.items() if at <= clock()]:
                    self._is_refused = self._is_refused or not await _passes(check)
                    checks_at[check] = clock() + checks[check]
        if self._is_refused:
            self._on_refused()
        streaming.cancel()

    def _checks(self) -> Mapping[Callable[[], Awaitable[None]], float]:
        """What an open stream has to pass from time to time, however seldom it is kept alive; and how often."""
        again = self._caller.again if self._caller else None
        settings = self._settings
        every = {again: settings.caller_look_seconds, self._look: settings.access_look_seconds}
        return {check: seconds for check, seconds in every.items() if check is not None}


async def _passes(look: Callable[[], Awaitable[None]]) -> bool:
    try:
        await look()
    except UnavailableError:
        # It is asked again.
        return True
    except Error:
        return False
    return True


def reads(
    services: Services, caller: auth.Caller, thread_id: str, *, begun: Access | None = None
) -> Callable[[], Awaitable[None]] | None:
    """
    Sees that a thread is still a caller's to read; None of who may read all there is.

    Args:
        begun: The threads that they might create the run on whose stream it is: who makes a run is told
            what comes of it, also where they may read nothing. None: they follow another's.
    """
    if caller.may_everything:
        return None

    async def look() -> None:
        if begun and await threads.find(services.db, thread_id, access=begun):
            return
        access = await caller.may("threads", "read", {"thread_id": thread_id})
        found = await threads.find(services.db, thread_id, access=access)
        # One that is not there yet is nobody's, and one that goes tells its followers by its runs.
        if found is None and await threads.exists(services.db, thread_id):
            raise threads.not_found(thread_id)

    return look


def stream_of_run(
    services: Services,
    caller: auth.Caller,
    submitted: Submitted,
    frames: AsyncGenerator[bytes, None],
    *,
    headers: dict[str, str] | None = None,
    on_refused: Callable[[], None] = lambda: None,
) -> EventStream:
    """The frames of a run for a client, for as long as they may read them."""
    run, look = submitted.run, None
    # Who has a run on no thread of theirs shares it with nobody.
    if not run.temporary:
        look = reads(services, caller, run.thread_id, begun=submitted.access)
    return EventStream(
        frames,
        headers=headers or {},
        settings=services.settings,
        caller=caller,
        look=look,
        on_refused=on_refused,
    )


class RunStream:
    """
    The frames of one run for one client.

    Args:
        after: The last event that the client has.
        modes: Only events of these stream modes; None for all.
        cancel_on_disconnect: A client that leaves before the end cancels the run.
    """

    def __init__(
        self,
        services: Services,
        submitted: Submitted,
        *,
        after: tuple[int, int] | None = None,
        modes: Collection[str] | None = None,
        cancel_on_disconnect: bool = False,
    ) -> None:
        self._services = services
        self._submitted = submitted
        self._after = after
        self._names = None if modes is None else _names(modes)
        self._cancel_on_disconnect = cancel_on_disconnect
        self._ended = False

    def let_go_on(self) -> None:
        """Cancel nothing when it is broken off: the client has not left, and may come back."""
        self._cancel_on_disconnect = False

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """
        Everything up to the run's end, then nothing more.

        Raises:
            BrokenOffError: This process goes before the client has been told all of the run.
        """
        follow = self._services.follower.follow(self._submitted.run, after=self._after)
        try:
            async with aclosing(follow):
                async for batch in follow:
                    if isinstance(batch, Gap):
                        chunk = await self._missed(batch)
                    else:
                        chunk = self._chunk(batch)
                    if chunk:
                        yield chunk
            if not self._ended:
                yield await self._unheard_end()
        except (asyncio.CancelledError, GeneratorExit):
            # The client has left. When it is this process that goes, the run goes on elsewhere.
            if self._cancel_on_disconnect and not self._ended:
                self._services.runs.abandon(self._submitted.run)
            raise

    def _chunk(self, events: list[Event]) -> bytes:
        self._ended = events[-1].name == "end"
        return b"".join(self._frame(event) for event in events)

    def _frame(self, event: Event) -> bytes:
        """The event as the LangGraph API has it."""
        return frame(event.name, event.data, event.id) if self._wanted(event.name) else b""

    def _wanted(self, name: str) -> bool:
        if name.startswith(PREFIX) or name == ASIDE:
            return False
        if name == "end":
            return self._services.settings.stream_end_event
        return self._names is None or name.partition("|")[0] in self._names

    async def _missed(self, gap: Gap | None) -> bytes:
        """
        What stands in for events that are gone: word of it, and the state that they led to.

        The state is told only to who asked for ``values``.
        """
        run, services = self._submitted.run, self._services
        told = [("metadata", dumps({"run_id": run.run_id, "status": "gap"}))]
        if "values" in run.kwargs["stream_mode"] and self._wanted("values"):
            with suppress(NotFoundError):
                values = await services.follower.patiently(
                    lambda: services.states.values_of_run(run)
                )
                told += [("values", dumps(values))] if values is not None else []
        return gap_frames(told, gap)

    async def _unheard_end(self) -> bytes:
        """The end of a run whose log does not tell of it: cancelled in the queue, or log lost."""
        services, run_id = self._services, self._submitted.run.run_id
        run = await services.follower.patiently(
            lambda: runs.find(services.db, run_id, access=EVERYTHING)
        )
        # Also where it has ended: what the client has not read yet is there when it comes back.
        if services.follower.leaving or (run is not None and run.status not in ENDED):
            raise BrokenOffError(GOES_ON)
        self._ended = True
        return await self._ending(run)

    async def _ending(self, run: Run | None) -> bytes:
        begun = run is not None and run.first_epoch is not None
        frames = [await self._missed(None)] if begun else []
        if run and run.error:
            frames.append(frame("error", dumps(run.error)))
        if self._wanted("end"):
            run_id, status = self._submitted.run.run_id, run.status if run else "interrupted"
            frames.append(frame("end", dumps({"run_id": run_id, "status": status})))
        return b"".join(frames)


class SessionStream(RunStream):
    """The frames of a session's run; a door of its own overrides `encoded`."""

    def __init__(
        self, services: Services, submitted: Submitted, *, after: tuple[int, int] | None = None
    ) -> None:
        super().__init__(services, submitted, after=after)
        self._reader = SessionReader(submitted.run.thread_id)

    def encoded(self, parts: Sequence[Part], event_id: str) -> bytes:
        """
        What is sent of the session's events that one event of the log means.

        Args:
            event_id: Of the log, to go on from; empty for what the log does not have.
        """
        # The id is the last one's, so that none is lost between.
        frames = [frame(name, dumps(data)) for name, data in parts[:-1]]
        frames += [frame(name, dumps(data), event_id) for name, data in parts[-1:]]
        return b"".join(frames)

    def _frame(self, event: Event) -> bytes:
        return self.encoded(self._reader.read(event), event.id)

    async def _missed(self, gap: Gap | None) -> bytes:
        """Word of it, and the answers of the run so far; one that the client has comes again."""
        run, services = self._submitted.run, self._services
        rows = await services.follower.patiently(
            lambda: messages.of_run(services.db, run.thread_id, run.run_id)
        )
        said = (whole_message(m) for m in rows if m.role == "assistant")
        told: list[Part] = [("gap", {"run_id": run.run_id})]
        told += [("message.end", message) for message in said]
        return self.encoded(told, gap.event_id if gap else "")

    async def _ending(self, run: Run | None) -> bytes:
        asked = self._submitted.run
        frames = [await self._missed(None)] if run and run.first_epoch is not None else []
        parts: list[Part] = []
        if run and run.error:
            error = {"code": run.error["error"], "message": run.error["message"]}
            parts.append(("error", error))
        status = run.status if run else "interrupted"
        parts.append(("run.end", {"run_id": asked.run_id, "status": status}))
        return b"".join([*frames, self.encoded(parts, "")])


def _names(modes: Collection[str]) -> set[str]:
    names = {"metadata", "error", *modes}
    if "messages" in names:
        names |= {"messages/metadata", "messages/partial", "messages/complete"}
    if "messages-tuple" in names:
        names.add("messages")
    return names


async def result_json(services: Services, submitted: Submitted) -> bytes:
    """What a run came to, once it has: its output, or the error it ended with."""
    result = await services.runs.join(submitted)
    if result.error is not None:
        return dumps({"__error__": result.error})
    return dumps(await output_of(services, submitted, result))


async def output_of(services: Services, submitted: Submitted, result: Result) -> Any:
    """The values that a run has led to, with what it asks."""
    values = result.values
    if values is None and not submitted.run.temporary:
        run = submitted.run
        with suppress(NotFoundError):
            values = await services.follower.patiently(lambda: services.states.values_of_run(run))
    if result.interrupts:
        asked = [
            {"value": found.value, "id": found.id, "response_schema": found.response_schema}
            for found in result.interrupts
        ]
        return {**(values or {}), "__interrupt__": asked}
    return values


def long_json(
    answer: Callable[[], Awaitable[bytes]],
    *,
    headers: dict[str, str],
    keep_alive_seconds: float,
    on_disconnect: Callable[[], None] | None = None,
) -> StreamingResponse:
    """
    A JSON response that may take its time: newlines before it keep proxies from giving up.

    Args:
        answer: May raise UnavailableError: then the response is broken off.
    """

    async def body() -> AsyncIterator[bytes]:
        task = asyncio.ensure_future(answer())
        try:
            while not (await asyncio.wait({task}, timeout=keep_alive_seconds))[0]:
                yield b"\n"
            yield task.result()
        except UnavailableError as exc:
            raise BrokenOffError(exc.message) from exc
        finally:
            if not task.done():
                task.cancel()
                if on_disconnect:
                    on_disconnect()

    return StreamingResponse(body(), headers=headers, media_type="application/json")
