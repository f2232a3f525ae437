"""A database of many threads and messages, made of one real conversation by SQL."""

from typing import Final, LiteralString

import psycopg

#: Who talks: a tenth of all threads is user-0's, the others have about 20 each.
_THREADS: Final[LiteralString] = """
INSERT INTO thread (thread_id, status, settled_status, metadata, head_checkpoint_id,
    projected_checkpoint_id, message_count, created_at, updated_at, state_updated_at)
SELECT md5(i::text)::uuid::text,
    CASE WHEN mod(i, 500) = 0 THEN 'error' WHEN mod(i, 100) = 0 THEN 'interrupted' ELSE 'idle' END,
    CASE WHEN mod(i, 500) = 0 THEN 'error' WHEN mod(i, 100) = 0 THEN 'interrupted' ELSE 'idle' END,
    t.metadata || jsonb_build_object(
        'user_id', 'user-' || CASE WHEN mod(i, 10) = 0 THEN 0 ELSE mod(i, 5003) + 1 END,
        'name', 'Conversation ' || i,
        'chat_type', (ARRAY['support', 'sales', 'private'])[1 + mod(i, 3)],
        -- what was long ago: a hundredth of all, every one of them older than the rest
        'project', CASE WHEN i > %(threads)s * 0.99 THEN 'old' ELSE 'project-' || mod(i, 40) END,
        'number', i,
        'folder', 'folder-' || mod(i, 7),
        'tags', jsonb_build_array('tag-' || mod(i, 11), 'rare-' || mod(i, 20011))
    ) || CASE WHEN mod(i, 50) = 0 THEN '{"status": "archived"}'::jsonb
        WHEN mod(i, 50) = 1 THEN '{"status": "deleted"}' ELSE '{}' END
    || CASE WHEN mod(i, 60) IN (2, 20) THEN '{"pinned": true}'::jsonb ELSE '{}' END,
    t.head_checkpoint_id, t.projected_checkpoint_id, %(messages)s,
    now() - make_interval(mins => i + 5), now() - make_interval(mins => i),
    now() - make_interval(mins => i)
FROM generate_series(1, %(threads)s) AS i, thread AS t
WHERE t.thread_id = %(template)s
"""

_COPIES: Final[tuple[LiteralString, ...]] = (
    """
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata)
    SELECT t.thread_id, '', c.checkpoint_id, c.type, c.checkpoint, c.metadata
    FROM thread AS t, checkpoints AS c
    WHERE t.thread_id <> %(template)s AND c.thread_id = %(template)s
        AND c.checkpoint_id = t.head_checkpoint_id
    """,
    """
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT t.thread_id, '', b.channel, b.version, b.type, b.blob
    FROM thread AS t, checkpoint_blobs AS b
    WHERE t.thread_id <> %(template)s AND b.thread_id = %(template)s
        AND b.version = (
            SELECT c.checkpoint -> 'channel_versions' ->> b.channel
            FROM checkpoints AS c
            WHERE c.thread_id = %(template)s AND c.checkpoint_id = t.head_checkpoint_id
        )
    """,
    """
    INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel,
        type, blob)
    SELECT t.thread_id, '', w.checkpoint_id, w.task_id, w.idx, w.channel, w.type, w.blob
    FROM thread AS t, checkpoint_writes AS w
    WHERE t.thread_id <> %(template)s AND w.thread_id = %(template)s AND octet_length(w.blob) < 1000
    """,
    """
    INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata, kwargs,
        attempt, epoch, first_epoch, created_at, started_at, ended_at)
    SELECT gen_random_uuid(), t.thread_id, r.assistant_id, 'success', 'enqueue', r.metadata,
        r.kwargs, 1, 1, 1, t.created_at, t.created_at, t.updated_at
    FROM thread AS t, run AS r, generate_series(1, 3)
    WHERE t.thread_id <> %(template)s AND r.thread_id = %(template)s
    """,
    """
    INSERT INTO message (id, conversation_id, role, content, create_time, update_time, seq,
        position, checkpoint_id, last_checkpoint_id)
    SELECT t.thread_id || '-' || lpad(i::text, 6, '0'), t.thread_id,
        CASE WHEN mod(i, 2) = 0 THEN 'user' ELSE 'assistant' END,
        'message ' || i || repeat(' of some words', 8),
        t.created_at, t.created_at, i, i, t.head_checkpoint_id, t.head_checkpoint_id
    FROM thread AS t, generate_series(0, %(messages)s - 1) AS i
    WHERE t.thread_id <> %(template)s
    """,
)


def fill(database_url: str, template: str, *, threads: int, messages: int) -> None:
    """
    Add threads that are as the template, a thread on which a run ended.

    Args:
        threads: How many.
        messages: How many rows of messages each of them has.
    """
    params = {"template": template, "threads": threads, "messages": messages}
    with psycopg.connect(database_url, autocommit=True) as connection:
        # What is generated refers to what is generated: no row is checked for its thread.
        connection.execute("SET session_replication_role = replica")
        for statement in (_THREADS, *_COPIES):
            connection.execute(statement, params)
        connection.execute("VACUUM (ANALYZE)")
