"""
Long-term memory: LangGraph's `AsyncPostgresStore` on our pool.

What differs: texts are embedded before a connection is borrowed; a put leaves no vector of what an
item was before; filters compare numbers as numbers; pages of a search by likeness go on to its
end; what has expired is not found even before it is swept; and no put or search fails for the
fault of another one of the same moment.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, cast

from langgraph.store.base import (
    NOT_PROVIDED,
    Embeddings,
    GetOp,
    Item,
    NotProvided,
    PutOp,
    SearchItem,
    SearchOp,
    _ensure_refresh,
    _ensure_ttl,
)
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PLACEHOLDER, _decode_ns_bytes, _row_to_search_item
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from store import blinds
from store.cipher import Cipher, at
from store.database import Database
from store.errors import BadRequestError, EmbeddingError
from store.json import dump_json
from store.vectors import Index, index_config

#: The shortest life of an item: Python writes what is less with an exponent, which no interval has.
SHORTEST_MINUTES: Final = 1e-4
#: How long embedding the texts of a put, or a query, may take.
EMBED_SECONDS: Final = 60.0

_COMPARISONS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS: Final = frozenset({"$eq", "$ne", *_COMPARISONS})
#: Of our own, for a condition on what is in an object: that it is one.
_IS_OBJECT: Final = "is object"

_Item = TypeVar("_Item", bound=Item)
_Path = tuple[str, ...]
_Query = tuple[str, list[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemLife:
    """How long items live, in minutes, unless a put says otherwise; None for ever."""

    default_ttl: float | None = None
    #: Whether reading an item begins its life anew, unless the reader says otherwise.
    refresh_on_read: bool = True


def _lasting(op: PutOp) -> PutOp:
    return op if op.ttl is None else op._replace(ttl=max(op.ttl, SHORTEST_MINUTES))


class _Items(AsyncPostgresStore):
    def __init__(self, database: Database, index: Index | None, life: ItemLife) -> None:
        super().__init__(
            cast("Any", database.pool),
            index=None if index is None else index_config(index),
            ttl={
                "default_ttl": life.default_ttl,
                "refresh_on_read": life.refresh_on_read,
                "omit_expired": True,
            },
        )
        self._database = database
        self._dims = index.dims if index is not None else 0
        self._cipher = database.cipher

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        async with (
            self._database.connection() as connection,
            connection.pipeline() if pipeline else nullcontext(),
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            yield cursor

    async def aput(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        """Keep an item, in place of the one that is there. Alone: others' faults are theirs."""
        minutes = _ensure_ttl(self.ttl_config, ttl)
        await self.abatch([PutOp(namespace, key, cast("Any", value), index, ttl=minutes)])

    async def asearch(
        self,
        namespace_prefix: tuple[str, ...],
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        """Find items below a namespace; alone, as `aput`."""
        refresh = _ensure_refresh(self.ttl_config, refresh_ttl)
        op = SearchOp(namespace_prefix, filter, limit, offset, query, refresh_ttl=refresh)
        return cast("list[SearchItem]", (await self.abatch([op]))[0])

    async def _execute_batch(
        self,
        grouped_ops: dict[Any, Any],
        results: list[Any],
        conn: AsyncConnection[DictRow] | None = None,
    ) -> None:
        puts, searches = grouped_ops.pop(PutOp, []), grouped_ops.pop(SearchOp, [])
        gets = [place for place, _ in grouped_ops.get(GetOp, [])]
        # A model is asked before a connection is borrowed.
        put_queries = await self._put_queries(puts)
        search_queries = await self._search_queries([op for _, op in searches])
        if grouped_ops:
            await super()._execute_batch(grouped_ops, results)
            for place in gets:
                if results[place] is not None:
                    self._open(results[place])
        for (place, op), (query, params) in zip(searches, search_queries, strict=True):
            results[place] = await self._search(op, query, params)
        if put_queries:
            async with self._cursor(pipeline=True) as cursor, cursor.connection.transaction():
                for query, params in put_queries:
                    await cursor.execute(cast("Any", query), params)

    async def _put_queries(self, puts: Sequence[tuple[int, PutOp]]) -> list[_Query]:
        # In one order everywhere: two processes that put the same items do not wait in a circle.
        timed = [(place, _lasting(op)) for place, op in puts]
        ordered = sorted(timed, key=lambda put: (put[1].namespace, put[1].key))
        queries, embedding = self._prepare_batch_PUT_queries(ordered)
        found: list[_Query] = [(query, self._sealed(params)) for query, params in queries]
        kept = [op for _, op in ordered if op.value is not None]
        if self.index_config and kept:
            names = [".".join(op.namespace) for op in kept], [op.key for op in kept]
            found.append((_FORGET_VECTORS, list(names)))
        if embedding is not None:
            query, texts = embedding
            vectors = await self._embed([text for *_, text in texts])
            rows = zip(texts, vectors, strict=True)
            found.append((query, [part for (*names, _), v in rows for part in (*names, v)]))
        return found

    async def _search_queries(self, searches: Sequence[SearchOp]) -> list[_Query]:
        exact = [op._replace(filter=_by_path(op.filter)) for op in searches]
        queries, wanted = self._prepare_batch_search_queries(list(enumerate(exact)))
        found: list[_Query] = [(query, list(params)) for query, params in queries]
        for place, text in wanted:
            vector = await self._embed_query(text)
            op, (query, params) = searches[place], found[place]
            # LangGraph's takes the nearest for the first page alone; several may be of one item.
            params[-3] += 2 * op.offset * self._vectors_per_item
            found[place] = query, [vector if part is PLACEHOLDER else part for part in params]
        return found

    @property
    def _vectors_per_item(self) -> int:
        return int(cast("Any", self.index_config)["__estimated_num_vectors"])

    async def _search(self, op: SearchOp, query: str, params: list[Any]) -> list[SearchItem]:
        async with self._cursor() as cursor, cursor.connection.transaction():
            if self.index_config and op.query:
                # Else the index gives the 40 nearest of all namespaces, and of those what fits.
                await cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            await cursor.execute(cast("Any", query), params)
            rows = await cursor.fetchall()
        return [
            self._open(_row_to_search_item(_decode_ns_bytes(row["prefix"]), cast("Any", row)))
            for row in rows
        ]

    def _sealed(self, params: Sequence[Any]) -> list[Any]:
        """The parameters of a put, whose values come right after the names of their items."""
        if not self._cipher.is_on:
            return list(params)
        return [
            Jsonb(blinds.sealed(self._cipher, part.obj, _place(params[i - 2], params[i - 1])))
            if isinstance(part, Jsonb)
            else part
            for i, part in enumerate(params)
        ]

    def _open(self, item: _Item) -> _Item:
        if self._cipher.is_on:
            place = _place(".".join(item.namespace), item.key)
            item.value = self._cipher.open_json(item.value, place)
        return item

    async def _embed(self, texts: list[str]) -> list[list[float]]:
        async with _embedding():
            vectors = await cast("Embeddings", self.embeddings).aembed_documents(texts)
        if len(vectors) != len(texts):
            raise EmbeddingError(
                f"`store.index.embed` made {len(vectors)} vectors, not {len(texts)}"
            )
        return [self._vector(vector) for vector in vectors]

    async def _embed_query(self, text: str) -> list[float]:
        async with _embedding():
            vector = await cast("Embeddings", self.embeddings).aembed_query(text)
        return self._vector(vector)

    def _vector(self, vector: Sequence[float]) -> list[float]:
        if len(vector) != self._dims:
            raise EmbeddingError(
                f"`store.index.embed` made a vector of {len(vector)} numbers; `dims` says {self._dims}"
            )
        # A model's own kind of number may be none of PostgreSQL's.
        return [float(number) for number in vector]

    def _get_filter_condition(self, key: Any, op: str, value: Any) -> tuple[str, list[Any]]:
        if self._cipher.is_on:
            return _blind_condition(self._cipher, key, op, value)
        at = list(key)
        if op == _IS_OBJECT:
            return "jsonb_typeof(store.value #> %s::text[]) = 'object'", [at]
        wanted = dump_json(value).decode()
        if op in ("$eq", "$ne"):
            sign = "=" if op == "$eq" else "<>"
            # What is not there is null, as in LangGraph's store in memory.
            return f"COALESCE(store.value #> %s::text[], 'null') {sign} %s::jsonb", [at, wanted]
        # Numbers with numbers, strings with strings; what differs in kind is neither more nor less.
        return (
            "(jsonb_typeof(store.value #> %s::text[]) = jsonb_typeof(%s::jsonb)"
            f" AND store.value #> %s::text[] {_COMPARISONS[op]} %s::jsonb)",
            [at, wanted, at, wanted],
        )


_FORGET_VECTORS: Final = """
    DELETE FROM store_vectors AS v
    USING unnest(%s::text[], %s::text[]) AS p (prefix, key)
    WHERE v.prefix = p.prefix AND v.key = p.key
"""


def open_items(
    db: Database, *, index: Index | None = None, life: ItemLife | None = None
) -> AsyncPostgresStore:
    """
    The store of items, for routes and graphs alike; belongs to the running event loop.

    Its methods raise UnavailableError when PostgreSQL does not answer in time, and EmbeddingError
    when a text cannot be embedded; then nothing was changed.

    Args:
        index: How items are found by likeness; its tables are there by `store.migrate`. Without
            one a `query` is not looked at.
        life: How long items live.
    """
    return _Items(db, index, life or ItemLife())


def check_filter(conditions: Mapping[str, Any]) -> None:
    """
    See that a filter can be searched by.

    Raises:
        BadRequestError: It has an operator that there is not.
    """
    _by_path(conditions)


@asynccontextmanager
async def _embedding() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(EMBED_SECONDS):
            yield
    except TimeoutError as exc:
        raise EmbeddingError(f"Texts were not embedded in {EMBED_SECONDS:.0f} seconds") from exc
    except Exception as exc:  # the user's function, or a model's client, raises anything
        raise EmbeddingError(f"Texts could not be embedded: {type(exc).__name__}") from exc


def _place(prefix: str, key: str) -> bytes:
    return at("store.value", prefix, key)


def _blind_condition(cipher: Cipher, path: _Path, op: str, value: Any) -> tuple[str, list[Any]]:
    if op in _COMPARISONS:
        raise BadRequestError(
            f"Encrypted items are not found by {op}: only by what is equal, or not",
            code="encrypted",
        )
    if op == _IS_OBJECT:
        marks, wanted = blinds.is_object(cipher, path), True
    elif value is None:
        # What is not there is null.
        marks, wanted = blinds.is_there(cipher, path), op == "$ne"
    else:
        marks, wanted = blinds.is_equal(cipher, path, value), op == "$eq"
    condition = f"coalesce(store.value -> '{blinds.ASKED}' ?| %s::text[], false)"
    return condition if wanted else f"NOT {condition}", [marks]


def _by_path(conditions: Mapping[str, Any] | None) -> dict[Any, Any] | None:
    """A filter as operators by the path in an item's value that they are about."""
    if not conditions:
        return None
    found: dict[_Path, dict[str, Any]] = {}
    for key, condition in conditions.items():
        for path, operator, value in _conditions((key,), condition):
            found.setdefault(path, {})[operator] = value
    return found


def _conditions(path: _Path, condition: Any) -> Iterator[tuple[_Path, str, Any]]:
    if not isinstance(condition, dict):
        yield path, "$eq", condition
    elif any(isinstance(key, str) and key.startswith("$") for key in condition):
        for operator, value in condition.items():
            if operator not in OPERATORS:
                raise BadRequestError(f"Unsupported operator: {operator}")
            yield path, operator, value
    else:
        yield path, _IS_OBJECT, None
        for key, inner in condition.items():
            yield from _conditions((*path, str(key)), inner)
