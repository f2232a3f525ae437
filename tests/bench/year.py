"""What makes a database of `tests.bench.words` a year of work: runs, tokens, opinions, folders, tags."""

from typing import Final, LiteralString

import psycopg

from tests.bench.words import index_names

#: Sessions are begun all year round; each is taken up ten times, a day and more apart, for five messages.
_SITTING: Final = 5

#: A thread of very many messages, on one branch.
LONG: Final = "7f000000-0000-0000-0000-000000000000"
LONG_MESSAGES: Final = 20_000

_OF_MESSAGES: Final[tuple[LiteralString, ...]] = (
    # Half of all rows are written anew, so that their indexes are made afterwards.
    "DROP INDEX message_by_time",
    """
    UPDATE message AS m SET
        create_time = b.at + make_interval(
            hours => 37 * (m.seq / %(sitting)s), secs => 20 * mod(m.seq, %(sitting)s)
        ),
        run_id = md5(m.conversation_id || (m.seq / 2))::uuid,
        meta_data = CASE WHEN m.role = 'assistant' THEN jsonb_build_object(
            'usage_metadata', jsonb_build_object(
                'input_tokens', 200 + 30 * m.seq,
                'output_tokens', 40 + mod(abs(hashtext(m.conversation_id)), 300),
                'total_tokens', 240 + 30 * m.seq + mod(abs(hashtext(m.conversation_id)), 300),
                'input_token_details', jsonb_build_object('cache_read', 20 * m.seq)
            ),
            'response_metadata', jsonb_build_object(
                'model_name', 'model-' || mod(abs(hashtext(m.conversation_id)) + m.seq / 20, 5),
                'finish_reason', 'stop'
            )
        ) ELSE '{}' END
    FROM (
        SELECT thread_id, now() - interval '350 days'
            + interval '335 days' * mod(abs(hashtext(thread_id)), 1000000) / 1000000 AS at
        FROM thread
    ) AS b
    WHERE m.conversation_id = b.thread_id
    """,
    "CREATE INDEX message_by_time ON message (create_time)",
)
_OF_THREADS: Final[tuple[LiteralString, ...]] = (
    """
    INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata, kwargs,
        attempt, epoch, first_epoch, created_at, updated_at, started_at, ended_at, first_token_ms)
    SELECT m.run_id, m.conversation_id, '00000000-0000-0000-0000-000000000001',
        CASE WHEN mod(m.h, 50) = 0 THEN 'error' ELSE 'success' END, 'enqueue', '{"source": "loop"}',
        '{"input": {}}', 1, 1, 1, m.create_time, m.create_time, m.create_time,
        m.create_time + make_interval(secs => 0.4 + 10 ^ (mod(m.h, 9973)::float8 / 9973)),
        100 + (2000 * (mod(m.h, 7919)::float8 / 7919) ^ 2)::int
    FROM (
        SELECT run_id, conversation_id, create_time, abs(hashtext(id || conversation_id)) AS h
        FROM message
        WHERE role = 'user' AND run_id IS NOT NULL
        ORDER BY create_time
    ) AS m
    """,
    """
    INSERT INTO feedback (conversation_id, message_id, user_id, score, create_time)
    SELECT conversation_id, id, 'x', mod(abs(hashtext(conversation_id || id)), 101), create_time
    FROM message
    WHERE role = 'assistant' AND mod(abs(hashtext(id || conversation_id)), 50) = 0
    """,
    # A user's name and number stay; a hundredth of all is of long ago.
    """
    UPDATE thread AS t SET
        metadata = metadata || jsonb_build_object(
            'chat_type', (ARRAY['support', 'sales', 'private'])[1 + mod(n.number, 3)],
            'project', CASE WHEN b.at < now() - interval '346 days'
                THEN 'old' ELSE 'project-' || mod(n.number, 40) END,
            'number', n.number,
            'folder', 'folder-' || mod(n.number, 7),
            'tags', jsonb_build_array(
                'tag-' || mod(n.number, 11), 'rare-' || mod(n.number, 20011)
            ),
            'members', CASE WHEN mod(n.number, 20) = 3
                THEN jsonb_build_object('user-' || 1 + mod(n.number * 7, 5003), 'viewer') ELSE '{}' END
        ) || CASE WHEN mod(n.number, 50) = 10 THEN '{"status": "archived"}'::jsonb
            WHEN mod(n.number, 50) = 11 THEN '{"status": "deleted"}' ELSE '{}' END
        || CASE WHEN mod(n.number, 60) IN (2, 20) THEN '{"pinned": true}'::jsonb ELSE '{}' END,
        status = CASE WHEN mod(n.number, 500) = 1 THEN 'error'
            WHEN mod(n.number, 100) = 1 THEN 'interrupted' ELSE 'idle' END,
        settled_status = CASE WHEN mod(n.number, 500) = 1 THEN 'error'
            WHEN mod(n.number, 100) = 1 THEN 'interrupted' ELSE 'idle' END,
        created_at = b.at, updated_at = b.at + interval '14 days 12 hours',
        state_updated_at = b.at + interval '14 days 12 hours'
    FROM (
        SELECT thread_id, substring(metadata ->> 'name' FROM '\\d+$')::int AS number,
            now() - interval '350 days'
                + interval '335 days' * mod(abs(hashtext(thread_id)), 1000000) / 1000000 AS at
        FROM thread
        WHERE metadata ->> 'name' LIKE 'Conversation %%'
    ) AS n
    CROSS JOIN LATERAL (SELECT n.at) AS b
    WHERE t.thread_id = n.thread_id
    """,
)
_OF_LONG: Final[tuple[LiteralString, ...]] = (
    """
    INSERT INTO thread (thread_id, metadata, head_checkpoint_id, projected_checkpoint_id,
        message_count, created_at, updated_at)
    SELECT %(long)s, jsonb_build_object('user_id', 'user-of-long', 'name', 'Long'), 'l', 'l',
        %(messages)s, now() - interval '300 days', now() - interval '1 day'
    """,
    """
    INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq, position,
        checkpoint_id, last_checkpoint_id)
    SELECT 'm' || i, %(long)s, CASE WHEN mod(i, 2) = 0 THEN 'user' ELSE 'assistant' END,
        'message ' || i || repeat(' of some words', 8), at, at, i, i, 'l', 'l'
    FROM generate_series(0, %(messages)s - 1) AS i
    CROSS JOIN LATERAL (SELECT now() - interval '300 days' + make_interval(mins => 20 * i) AS at) AS a
    """,
    "INSERT INTO search_thread (thread_id, checkpoint_id, name) VALUES (%(long)s, 'l', 'Long')",
)
#: Of a real run, the checkpoint that a thread would be read from.
_OF_TEMPLATE: Final[tuple[LiteralString, ...]] = (
    """
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata)
    SELECT t.thread_id, '', c.checkpoint_id, c.type, c.checkpoint, c.metadata
    FROM thread AS t, thread AS o, checkpoints AS c
    WHERE t.head_checkpoint_id = 'c' AND o.thread_id = %(template)s AND c.thread_id = o.thread_id
        AND c.checkpoint_id = o.head_checkpoint_id
    """,
    """
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT t.thread_id, '', b.channel, b.version, b.type, b.blob
    FROM thread AS t, thread AS o, checkpoints AS c, checkpoint_blobs AS b
    WHERE t.head_checkpoint_id = 'c' AND o.thread_id = %(template)s AND c.thread_id = o.thread_id
        AND c.checkpoint_id = o.head_checkpoint_id AND b.thread_id = o.thread_id
        AND b.version = c.checkpoint -> 'channel_versions' ->> b.channel
    """,
    # The index of search takes them for what it has read.
    """
    UPDATE search_thread AS s SET checkpoint_id = o.head_checkpoint_id
    FROM thread AS o
    WHERE o.thread_id = %(template)s AND s.checkpoint_id = 'c'
    """,
    """
    UPDATE thread AS t SET metadata = o.metadata || t.metadata,
        head_checkpoint_id = o.head_checkpoint_id, projected_checkpoint_id = o.head_checkpoint_id
    FROM thread AS o
    WHERE o.thread_id = %(template)s AND t.head_checkpoint_id = 'c'
    """,
    "UPDATE search_progress SET touched_at = now() - interval '60 s', caught_up_at = now()",
    # What a server has counted meanwhile is of before.
    "TRUNCATE tally_thread, tally",
    "UPDATE tally_progress SET touched_at = 'epoch'",
    "VACUUM (ANALYZE)",
)

#: By what each part is seen to have been done.
_PARTS: Final[tuple[tuple[LiteralString, tuple[LiteralString, ...]], ...]] = (
    ("SELECT FROM message WHERE run_id IS NOT NULL AND checkpoint_id = 'c' LIMIT 1", _OF_MESSAGES),
    ("SELECT FROM feedback LIMIT 1", _OF_THREADS),
    ("SELECT FROM thread WHERE thread_id = %(long)s", _OF_LONG),
    (
        "SELECT FROM thread WHERE metadata ? 'number' AND head_checkpoint_id <> 'c' LIMIT 1",
        _OF_TEMPLATE,
    ),
)


def is_filled(database_url: str) -> bool:
    """Whether `fill` has done all of it."""
    with psycopg.connect(database_url) as connection:
        return all(
            connection.execute(is_done, {"long": LONG}).fetchone() is not None
            for is_done, _ in _PARTS
        )


def fill(database_url: str, template: str) -> None:
    """
    Make of what `tests.bench.words` has filled in a year, unless it is one.

    Nothing may be at work on the database meanwhile.

    Args:
        template: A thread on which a run ended: all others are to be read as it is.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        # What is generated refers to what is generated: no row is checked for its thread.
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute("SET work_mem = '128MB'")
        params = {
            "sitting": _SITTING,
            "template": template,
            "long": LONG,
            "messages": LONG_MESSAGES,
        }
        for is_done, statements in _PARTS:
            if connection.execute(is_done, params).fetchone() is None:
                for statement in statements:
                    connection.execute(statement, params)
        index_names(connection)
