"""A database of many messages with words as people use them: few of them all the time, most rarely."""

import bisect
import itertools
import random
from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg

from store import terms

#: How many different texts there are; each message has one of them, and a word of its own.
TEXTS: Final = 20_000
#: Words of each language, by how often they are used: the n-th a n-th as often as the first.
VOCABULARY: Final = 30_000

_FILL: Final[tuple[LiteralString, ...]] = (
    """
    INSERT INTO thread (thread_id, metadata, head_checkpoint_id, projected_checkpoint_id,
        message_count, created_at, updated_at, state_updated_at)
    SELECT md5(i::text)::uuid::text,
        jsonb_build_object(
            'user_id', 'user-' || CASE WHEN mod(i, 10) = 0 THEN 0 ELSE mod(i, 5003) + 1 END,
            'name', 'Conversation ' || i
        ),
        'c', 'c', %(messages)s, now() - make_interval(mins => %(threads)s - i + 5),
        now() - make_interval(mins => %(threads)s - i),
        now() - make_interval(mins => %(threads)s - i)
    FROM generate_series(1, %(threads)s) AS i
    """,
    """
    INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq,
        position, checkpoint_id, last_checkpoint_id)
    SELECT 'm' || lpad(seq::text, 6, '0'), md5(i::text)::uuid::text,
        CASE WHEN mod(seq, 2) = 0 THEN 'user' ELSE 'assistant' END,
        x.content || ' n' || ((i - 1) * %(messages)s + seq + 1),
        now() - make_interval(mins => %(threads)s - i, secs => 50 - seq),
        now() - make_interval(mins => %(threads)s - i, secs => 50 - seq),
        seq, seq, 'c', 'c'
    FROM generate_series(1, %(threads)s) AS i, generate_series(0, %(messages)s - 1) AS seq,
        bench_text AS x
    WHERE x.k = mod(abs(hashint4((i * 1000 + seq)::int)::bigint), %(texts)s)
    """,
    # What `store.search` would write, without reading every text anew; in the order of time.
    "DROP INDEX search_message_terms",
    """
    INSERT INTO search_message (number, conversation_id, seq, role, create_time, update_time, terms)
    SELECT n.number, md5(n.i::text)::uuid::text, n.seq,
        CASE WHEN mod(n.seq, 2) = 0 THEN 'user' ELSE 'assistant' END,
        now() - make_interval(mins => %(threads)s - n.i::int, secs => 50 - n.seq),
        m.update_time,
        replace(
            x.terms || ' ''§n' || n.number || ''':' || (x.places + 1), '§', (n.number >> 15) || '.'
        )::tsvector
    FROM (
        SELECT number, (number - 1) / %(messages)s + 1 AS i,
            mod(number - 1, %(messages)s)::int AS seq
        FROM generate_series(1, %(threads)s::bigint * %(messages)s) AS number
    ) AS n
    JOIN bench_text AS x
        ON x.k = mod(abs(hashint4((n.i * 1000 + n.seq)::int)::bigint), %(texts)s)
    CROSS JOIN LATERAL (
        SELECT g.update_time
        FROM message AS g
        WHERE g.conversation_id = md5(n.i::text)::uuid::text AND g.seq = n.seq
        OFFSET 0
    ) AS m
    """,
    """
    CREATE INDEX search_message_terms ON search_message USING gin (terms) WITH (fastupdate = off)
    """,
    """
    INSERT INTO search_thread (thread_id, checkpoint_id, name)
    SELECT thread_id, head_checkpoint_id, metadata ->> 'name' FROM thread
    """,
    "UPDATE search_progress SET touched_at = now() - interval '60 s', caught_up_at = now()",
    "SELECT setval('search_number', %(threads)s::bigint * %(messages)s)",
    "DROP TABLE bench_text",
    "VACUUM (ANALYZE)",
)


def english(number: int) -> str:
    """The word that is used n-th most; never a stop word, and its own stem."""
    letters = "bcdfgklmnprtvz"
    made = "w"
    while True:
        number, at = divmod(number, len(letters) * 3)
        made += letters[at // 3] + "aou"[at % 3]
        if not number:
            return made + "x"


def chinese(number: int) -> str:
    """The word of two characters that is used n-th most."""
    return chr(0x4E00 + number % 3000) + chr(0x4E00 + 3000 + number // 3000 * 7 + number % 7)


class _Speaker:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        weights = itertools.accumulate(1 / rank for rank in range(1, VOCABULARY + 1))
        self._weights = list(weights)

    def word(self) -> int:
        return bisect.bisect(self._weights, self._rng.random() * self._weights[-1])

    def text(self) -> str:
        """A sentence or a few: in English, in Chinese, or in both."""
        kind, count = self._rng.random(), self._rng.randint(4, 40)
        if kind < 0.45:
            return " ".join(english(self.word()) for _ in range(count))
        if kind < 0.9:
            return "，".join(
                "".join(chinese(self.word()) for _ in range(4)) for _ in range(1 + count // 6)
            )
        half = " ".join(english(self.word()) for _ in range(count // 2))
        return half + "".join(chinese(self.word()) for _ in range(count // 4))


def _texts(seed: int = 1) -> Iterator[tuple[int, str, str, int]]:
    speaker = _Speaker(seed)
    for number in range(TEXTS):
        text = speaker.text()
        places = max((term.place for term in terms.read(text)), default=0)
        yield number, text, terms.tsvector(text), places


def index_names(connection: psycopg.Connection[Any]) -> None:
    """Put names into their index that were given while no trigger fired."""
    connection.execute("""
        INSERT INTO thread_name (thread_id, parts)
        SELECT thread_id, name_parts(session_name(metadata))
        FROM thread
        WHERE session_name(metadata) <> session_name('{}')
            AND NOT EXISTS (SELECT FROM thread_name AS n WHERE n.thread_id = thread.thread_id)
    """)
    connection.execute("ANALYZE thread_name")


def fill(database_url: str, *, threads: int, messages: int) -> None:
    """
    Add threads with messages, and their index.

    Args:
        threads: How many.
        messages: How many each of them has.
    """
    params = {"threads": threads, "messages": messages, "texts": TEXTS}
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute("SET work_mem = '256MB'")
        connection.execute(
            "CREATE TABLE bench_text (k int PRIMARY KEY, content text, terms text, places int)"
        )
        with connection.cursor().copy("COPY bench_text FROM STDIN") as copy:
            for row in _texts():
                copy.write_row(row)
        connection.execute("ANALYZE bench_text")
        for statement in _FILL:
            connection.execute(statement, params)
        index_names(connection)
