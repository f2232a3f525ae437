"""What keeps things, as the settings and the langgraph.json name it: database, saver, items, event log."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import structlog
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore, Embeddings

from api.settings import Settings
from graph import custom, encryption
from graph.checkpointer import AnySaver, CustomSaver
from graph.config import GraphConfig
from graph.loop import Backing, Place
from graph.memory import DistantStore
from store import resealing
from store.checkpoints import Saver, open_saver
from store.cipher import CLEAR, Cipher, KeyRing, secret_of
from store.database import Database, open_database
from store.errors import InvalidInputError
from store.events import EventLog, open_event_log
from store.items import ItemLife, open_items
from store.migrate import migrate
from store.vectors import Index

log = structlog.stdlib.get_logger(__name__)


def cipher_of(settings: Settings) -> Cipher:
    """What seals and opens what is at rest."""
    if settings.aes_key is None:
        return CLEAR
    secrets = [secret_of(text) for text in (settings.aes_key, *settings.encryption_old_keys)]
    return KeyRing(secrets, clear_keys=settings.encryption_clear_keys)


async def opened_cipher(settings: Settings, graphs: GraphConfig, database_url: str) -> Cipher:
    """
    The same, with the keys that handlers of the user's own keep, where langgraph.json names them.

    The key of the environment then opens what it has sealed before, and seals nothing.

    Raises:
        InvalidInputError: The handlers cannot be used.
        UnavailableError: PostgreSQL does not answer.
    """
    if graphs.encryption is None:
        return cipher_of(settings)
    async with open_database(database_url, min_size=1, max_size=1) as db:
        kept = await encryption.keys(db, graphs.encryption, graphs.path.parent)
    others = [settings.aes_key] if settings.aes_key else []
    secrets = [secret_of(text) for text in (*others, *settings.encryption_old_keys)]
    return KeyRing([*kept, *secrets], clear_keys=settings.encryption_clear_keys)


@asynccontextmanager
async def admitted(settings: Settings, graphs: GraphConfig, url: str) -> AsyncIterator[Database]:
    """
    The database, with the keys that what it has is sealed by.

    Raises:
        InvalidInputError: It is sealed by other keys, or has something in the clear.
        UnavailableError: PostgreSQL does not answer.
    """
    async with _database(settings, url, await opened_cipher(settings, graphs, url)) as db:
        await resealing.admit(db)
        if db.cipher.is_on and graphs.store.index_dims is not None:
            log.warning("vectors of `store.index` lie in the clear: see docs/encryption.md")
        yield db


def _database(
    settings: Settings, url: str, cipher: Cipher
) -> AbstractAsyncContextManager[Database]:
    return open_database(
        url,
        min_size=settings.database_pool_min_size,
        max_size=settings.database_pool_max_size,
        timeout_seconds=settings.database_pool_timeout_seconds,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        # A frozen process lets go of its threads before others may take its runs.
        idle_transaction_seconds=settings.lease_seconds - settings.heartbeat_seconds,
        slow_query_seconds=settings.slow_query_seconds,
        cipher=cipher,
    )


@asynccontextmanager
async def backing_of_graphs(
    settings: Settings, graphs: GraphConfig, url: str, cipher: Cipher
) -> AsyncIterator[Backing]:
    """Of the graphs' own event loop, with connections of its own."""
    async with (
        _database(settings, url, cipher) as db,
        _saver(db, settings, graphs) as saver,
        _items(db, graphs) as items,
    ):
        yield Backing(saver, items, db)


@asynccontextmanager
async def backing_beside(db: Database, graphs: GraphConfig, place: Place) -> AsyncIterator[Backing]:
    """Of what is read beside the graphs' loop: what the user's own code is in stays there."""
    there = await place.run(_itself)
    async with AsyncExitStack() as stack:
        if isinstance(there.saver, CustomSaver):
            saver: AnySaver = there.saver.beside(place)
        else:
            # It has no lease, and no use for a cache.
            saver = await stack.enter_async_context(_our_saver(db, graphs, head_cache_bytes=0))
        if graphs.store.path is None and graphs.store.index is None:
            items = await stack.enter_async_context(_items(db, graphs))
        else:
            items = DistantStore(place, there.items)
        yield Backing(saver, items, db)


async def _itself(backing: Backing) -> Backing:
    return backing


def _our_saver(
    db: Database, graphs: GraphConfig, *, head_cache_bytes: int
) -> AbstractAsyncContextManager[Saver]:
    return open_saver(
        db,
        allowed_types=graphs.serde.msgpack,
        allowed_json_types=graphs.serde.json,
        head_cache_bytes=head_cache_bytes,
    )


@asynccontextmanager
async def _saver(db: Database, settings: Settings, graphs: GraphConfig) -> AsyncIterator[AnySaver]:
    if graphs.checkpointer is None:
        async with _our_saver(db, graphs, head_cache_bytes=settings.head_cache_bytes) as ours:
            yield ours
        return
    async with custom.opened(
        graphs.checkpointer, graphs.path.parent, BaseCheckpointSaver, "checkpointer.path"
    ) as inner:
        if type(inner).aput is BaseCheckpointSaver.aput:
            raise InvalidInputError(
                f"langgraph.json: `checkpointer.path`: {type(inner).__name__} is not async"
            )
        yield CustomSaver(inner)


@asynccontextmanager
async def _items(db: Database, graphs: GraphConfig) -> AsyncIterator[BaseStore]:
    config, root = graphs.store, graphs.path.parent
    if config.path is not None:
        async with custom.opened(config.path, root, BaseStore, "store.path") as store:  # type: ignore[type-abstract]
            yield store
        return
    index = None
    if config.index is not None:
        embed: Embeddings = custom.embeddings(config.index.embed, root)
        index = Index(dims=config.index.dims, embed=embed, fields=config.index.fields)
    life = ItemLife(default_ttl=config.default_ttl, refresh_on_read=config.refresh_on_read)
    async with open_items(db, index=index, life=life) as items:
        yield items


def event_log(
    settings: Settings, url: str, cipher: Cipher
) -> AbstractAsyncContextManager[EventLog]:
    """In Redis; without its URL, in this process alone."""
    return open_event_log(
        url or None,
        max_events=settings.event_log_max_events,
        max_bytes=settings.event_log_max_bytes,
        ttl_seconds=settings.event_log_ttl_seconds,
        cipher=cipher,
    )


async def add_indexes(settings: Settings, graphs: GraphConfig, database_url: str) -> None:
    """Have the tables and indexes that only some servers need."""
    if graphs.store.index_dims is not None or settings.compat:
        await migrate(
            database_url,
            index_dims=graphs.store.index_dims,
            index_messages=bool(settings.compat),
        )
