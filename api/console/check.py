"""`threadwell check`: what does not hold, a line each, and whether it could be put right."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Final

import orjson

from api.backing import admitted
from api.bootstrap import load_graphs
from api.settings import Settings
from store.check import Check, Finding
from store.checkpoints import open_saver
from store.migrate import migrate
from store.streams import PREFIX, open_streams

_AS_TEXT: Final = "{kind} {subject}: {detail}"


async def run(
    settings: Settings, *, database_url: str, redis_url: str, repair: bool, json: bool
) -> bool:
    """
    Print every finding; whether all of them, if any, were put right.

    Args:
        redis_url: Empty: the event log is not looked at.
        json: A JSON object a line, instead of a text.
    """
    left = repaired = 0
    async with _opened(settings, database_url, redis_url) as check:
        async for found in check.findings(repair=repair):
            repaired += found.is_repaired
            left += not found.is_repaired
            print(_shown(found, json=json), flush=True)  # noqa: T201 - the command's answer
    if not json:
        print(_summary(check, left=left, repaired=repaired))  # noqa: T201 - the command's answer
    return not left


@asynccontextmanager
async def _opened(settings: Settings, database_url: str, redis_url: str) -> AsyncIterator[Check]:
    # They say in which channel their messages are.
    graphs, registry = await load_graphs(settings)
    await migrate(database_url)
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(admitted(settings, graphs, database_url))
        saver = await stack.enter_async_context(
            open_saver(
                db,
                allowed_types=graphs.serde.msgpack,
                allowed_json_types=graphs.serde.json,
                head_cache_bytes=0,
            )
        )
        streams = None
        if redis_url:
            streams = await stack.enter_async_context(
                open_streams(redis_url, PREFIX, settings.event_log_max_events)
            )
        yield Check(
            db,
            saver,
            channel_of=registry.channel_of,
            fold_of=registry.fold_of,
            streams=streams,
            log_ttl_seconds=settings.event_log_ttl_seconds,
        )


def _shown(found: Finding, *, json: bool) -> str:
    if json:
        return orjson.dumps(asdict(found)).decode()
    text = _AS_TEXT.format_map(asdict(found))
    return f"{text} (repaired)" if found.is_repaired else text


def _summary(check: Check, *, left: int, repaired: int) -> str:
    text = f"{check.threads} threads looked at, {left + repaired} findings, {repaired} repaired"
    if check.unknown:
        text += f"; messages of {check.unknown} threads not compared: their graphs are not served"
    return text
