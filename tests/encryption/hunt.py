"""Looks for a text where servers keep things: in rows, in keys, and in the bytes of their files."""

import base64
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg import sql

#: What is shorter may be there by chance, in a form that makes little of it.
LONG_CHARACTERS = 4
LONG_BYTES = 12


@dataclass(frozen=True, order=True)
class Leak:
    """A place that has a text, and in what form."""

    place: str
    form: str
    #: What stands around it.
    around: str

    def __str__(self) -> str:
        return f"{self.place}  [{self.form}]  {self.around}"


class Hunt:
    """
    A search for texts in all the forms that they may be written down in.

    Args:
        texts: What must not be found; each of it long or rare enough to be in nothing else.
    """

    def __init__(self, *texts: str) -> None:
        self._forms = {form: name for text in texts for name, form in _forms(text)}

    def leaks(self, place: str, data: bytes | mmap.mmap) -> list[Leak]:
        """The first hit of each form, of all that is kept in a place."""
        found = []
        for form, name in self._forms.items():
            at = data.find(form)
            if at >= 0:
                around = data[max(0, at - 60) : at + len(form) + 30]
                text = around.decode("utf-8", "backslashreplace")
                found.append(Leak(place, name, re.sub(r"[\s\x00-\x1f]+", " ", text)))
        return found


def _forms(text: str) -> Iterator[tuple[str, bytes]]:
    for name, plain in (("text", text.encode()), ("words", text.lower().encode())):
        yield name, plain
        yield "hexadecimal", plain.hex().encode()
        yield from _base64(plain)
    if len(text) >= LONG_CHARACTERS:
        yield "UTF-16 LE", text.encode("utf-16-le")
        yield "UTF-16 BE", text.encode("utf-16-be")
    if not text.isascii():
        escaped = text.encode("unicode_escape")
        yield "JSON escapes", escaped
        yield "JSON escapes within JSON", escaped.replace(b"\\", b"\\\\")
        yield "percent signs", "".join(f"%{byte:02X}" for byte in text.encode()).encode()


def _base64(plain: bytes) -> Iterator[tuple[str, bytes]]:
    if len(plain) < LONG_BYTES:
        return
    for offset in range(3):
        # What stands beside it spoils the first letters and the last ones.
        whole = base64.b64encode(bytes(offset) + plain)
        inner = whole[(0, 2, 3)[offset] : -4]
        yield f"base64 at {offset}", inner
        yield f"base64url at {offset}", inner.replace(b"+", b"-").replace(b"/", b"_")


# --------------------------------------------------------------------------- PostgreSQL


def in_tables(hunt: Hunt, url: str) -> list[Leak]:
    """In every column of every row of every table, PostgreSQL's own statistics among them."""
    found: set[Leak] = set()
    with psycopg.connect(url, autocommit=True) as connection:
        # What is in a planner's histogram is as readable as a row.
        connection.execute("ANALYZE")
        for schema, table, column, kind in connection.execute(_COLUMNS).fetchall():
            name = f"{table}.{column}"
            value = sql.Identifier(column)
            # Of pg_statistic and the like.
            shown = value if kind == "bytea" else sql.SQL("{}::text").format(value)
            query = sql.SQL("SELECT {} FROM {}").format(shown, sql.Identifier(schema, table))
            for (row,) in connection.execute(query):
                if row is not None:
                    data = bytes(row) if kind == "bytea" else row.encode()
                    found.update(hunt.leaks(name, data))
    return sorted({(leak.place, leak.form): leak for leak in sorted(found)}.values())


_COLUMNS = """
    SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, NULL)
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm', 'S') AND a.attnum > 0 AND NOT a.attisdropped
        AND (n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
            OR c.relname IN ('pg_statistic', 'pg_statistic_ext_data'))
    ORDER BY 1, 2, 3
"""


def row_counts(url: str) -> dict[str, int]:
    """How many rows each table has."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace"
            " WHERE relkind = 'r' AND nspname = 'public' ORDER BY 1"
        ).fetchall()
        counts = {}
        for (name,) in tables:
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
            row = connection.execute(query).fetchone()
            counts[name] = row[0] if row else 0
        return counts


def unwritten(url: str) -> set[str]:
    """The tables that never had a row, as PostgreSQL counted."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'public' AND n_tup_ins = 0"
        ).fetchall()
    return {name for (name,) in rows}


# --------------------------------------------------------------------------- Redis


def in_redis(hunt: Hunt, url: str) -> tuple[list[Leak], int]:
    """In every key, by its name and all that it holds; and how many keys there are."""
    client: Any = redis.Redis.from_url(url)
    found: list[Leak] = []
    keys: list[bytes] = list(client.scan_iter(count=1000))
    for key in keys:
        name = re.sub(rb"[0-9a-f]{8}-[0-9a-f-]{27}", b"*", key).decode("utf-8", "backslashreplace")
        found += hunt.leaks(f"redis {name}", key + b"\0" + _value(client, key))
    client.close()
    return sorted({(leak.place, leak.form): leak for leak in sorted(found)}.values()), len(keys)


def _value(client: Any, key: bytes) -> bytes:
    kind = client.type(key)
    read = {
        b"string": lambda: [client.get(key)],
        b"hash": lambda: [part for pair in client.hgetall(key).items() for part in pair],
        b"list": lambda: client.lrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1),
        b"stream": lambda: [
            part for _, entry in client.xrange(key) for pair in entry.items() for part in pair
        ],
        # It was there a moment ago.
        b"none": list,
    }[kind]
    parts: Any = read()  # type: ignore[no-untyped-call]
    return b"\0".join(parts)


# --------------------------------------------------------------------------- files


def in_files(hunt: Hunt, root: Path) -> tuple[list[Leak], int]:
    """In the bytes of all files below a directory: heaps, WAL, logs; and how many there are."""
    found: list[Leak] = []
    count = 0
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.stat().st_size == 0:
            continue
        count += 1
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            found += hunt.leaks(str(path.relative_to(root)), data)
    return found, count
