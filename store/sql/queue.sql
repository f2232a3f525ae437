-- The only writers of a run's status. docs/runs.md draws the machine.
--
-- Whoever writes to a thread has locked it FOR NO KEY UPDATE, as an UPDATE does. Rows that only name it, such
-- as those that are counted in advance, are written beside: the key of a thread never changes.

-- name: start
-- The fast way: an idle thread becomes busy and the run starts, in one statement. An UPDATE that
-- waited for the row looks at its newest version again, so two starters never both succeed.
-- A worker that was buried and does not know it yet gets nothing: it would be lost at once.
WITH taken AS (
    UPDATE thread
    SET status = 'busy', epoch = epoch + 1, updated_at = now(),
        metadata = metadata || %(thread_metadata)s::jsonb,
        config = config || %(thread_config)s::jsonb
    WHERE thread_id = %(thread_id)s AND status <> 'busy'
        AND metadata @> ANY(%(visible)s::jsonb[])
        AND EXISTS (SELECT FROM worker WHERE worker_id = %(worker_id)s::uuid)
    RETURNING thread_id, epoch, head_checkpoint_id, projected_checkpoint_id, settled_status,
        checkpoint_count,
        NOT EXISTS (
            SELECT FROM checkpoints AS c
            WHERE c.thread_id = thread.thread_id AND c.checkpoint_ns = ''
                AND c.checkpoint_id > coalesce(thread.head_checkpoint_id, '')
        ) AS head_is_newest
), started AS (
    INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata,
        kwargs, temporary, priority, fairness_group, attempt, epoch, first_epoch, worker_id,
        started_at)
    SELECT %(run_id)s::uuid, thread_id, %(assistant_id)s::uuid, 'running',
        %(multitask_strategy)s, %(metadata)s::jsonb, %(kwargs)s::jsonb, %(temporary)s,
        %(priority)s::smallint, %(fairness_group)s, 1, epoch, epoch, %(worker_id)s::uuid, now()
    FROM taken
    RETURNING created_at
), told AS (
    INSERT INTO outbox (name, thread_id, run_id)
    SELECT 'run.started', thread_id, %(run_id)s::uuid
    FROM taken
    WHERE NOT %(temporary)s
)
SELECT taken.thread_id, epoch, head_checkpoint_id, projected_checkpoint_id, settled_status,
    head_is_newest, checkpoint_count, started.created_at
FROM taken, started;

-- name: started
-- What `start` gave and nobody heard.
SELECT run.thread_id, run.epoch, head_checkpoint_id, projected_checkpoint_id, settled_status,
    false AS head_is_newest, checkpoint_count, run.created_at
FROM run
JOIN thread ON thread.thread_id = run.thread_id AND thread.epoch = run.epoch
WHERE run_id = %(run_id)s::uuid AND worker_id = %(worker_id)s::uuid AND run.status = 'running'
    -- And was not taken away since, be it that the same worker claimed it then.
    AND run.attempt = 1 AND run.epoch = run.first_epoch;

-- name: lock
SELECT thread_id, status FROM thread WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[]) FOR NO KEY UPDATE;

-- name: in_flight
SELECT run_id
FROM run
WHERE thread_id = %(thread_id)s AND status IN ('pending', 'running');

-- name: enqueue
-- The clock is read under the thread's lock, so that of two runs the later one is also due later.
-- Workers are woken as this commits, if it is due. By which graph a thread is read changes when the
-- run is claimed: until then another one's state is there.
WITH queued AS (
    UPDATE thread
    SET status = 'busy', updated_at = now(), metadata = %(thread_metadata)s::jsonb || metadata,
        config = config || %(thread_config)s::jsonb
    WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[])
    RETURNING thread_id, epoch,
        clock_timestamp() + make_interval(secs => %(after_seconds)s) AS due_at
), pending AS (
    INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata,
        kwargs, temporary, priority, fairness_group, not_before, created_at)
    SELECT %(run_id)s::uuid, thread_id, %(assistant_id)s::uuid, 'pending',
        %(multitask_strategy)s, %(metadata)s::jsonb, %(kwargs)s::jsonb, %(temporary)s,
        %(priority)s::smallint, %(fairness_group)s, due_at, due_at
    FROM queued
    RETURNING created_at
)
SELECT pending.created_at, queued.epoch + 1,
    CASE WHEN %(after_seconds)s <= 0 THEN pg_notify('threadwell', %(signal)s) END
FROM pending, queued;

-- name: enqueue_new
-- Runs with a thread of their own each, in their order. Workers are woken as this commits, if one
-- is due.
WITH asked AS MATERIALIZED (
    SELECT n.run_id, n.thread_id, n.assistant_id, n.multitask_strategy, n.metadata, n.kwargs,
        n.thread_metadata, n.thread_config, n.temporary, n.priority, n.fairness_group, n.place,
        clock_timestamp() + make_interval(secs => n.after_seconds) AS due_at,
        n.after_seconds <= 0 AS is_due
    FROM ROWS FROM (
        jsonb_to_recordset(%(runs)s::jsonb) AS (
            run_id uuid, thread_id text, assistant_id uuid, multitask_strategy text, metadata jsonb,
            kwargs jsonb, thread_metadata jsonb, thread_config jsonb, temporary boolean,
            priority smallint, fairness_group text, after_seconds double precision
        )
    ) WITH ORDINALITY AS n (
        run_id, thread_id, assistant_id, multitask_strategy, metadata, kwargs, thread_metadata,
        thread_config, temporary, priority, fairness_group, after_seconds, place
    )
), made AS (
    INSERT INTO thread (thread_id, status, metadata, config)
    SELECT thread_id, 'busy', thread_metadata, thread_config
    FROM asked
    RETURNING thread_id, epoch, updated_at
), told AS (
    INSERT INTO outbox (name, thread_id)
    SELECT 'session.created', thread_id
    FROM asked
    WHERE NOT temporary
), given_life AS (
    INSERT INTO thread_ttl (thread_id, strategy, ttl_minutes, due_at)
    SELECT made.thread_id, %(strategy)s, %(ttl_minutes)s,
        made.updated_at + make_interval(secs => 60 * %(ttl_minutes)s::double precision)
    FROM made
    JOIN asked ON asked.thread_id = made.thread_id
    WHERE %(ttl_minutes)s::double precision IS NOT NULL AND NOT asked.temporary
), pending AS (
    INSERT INTO run (run_id, thread_id, assistant_id, status, multitask_strategy, metadata,
        kwargs, temporary, priority, fairness_group, not_before, created_at)
    SELECT run_id, thread_id, assistant_id, 'pending', multitask_strategy, metadata, kwargs,
        temporary, priority, fairness_group, due_at, due_at
    FROM asked
    ORDER BY place
    RETURNING run_id, thread_id, created_at
)
SELECT pending.run_id, pending.created_at, made.epoch + 1,
    CASE WHEN asked.is_due THEN pg_notify('threadwell', %(signal)s) END
FROM pending
JOIN made ON made.thread_id = pending.thread_id
JOIN asked ON asked.run_id = pending.run_id;

-- name: hurry
SELECT set_config('lock_timeout', %(lock_timeout)s, true);

-- name: queued
-- Runs that are there, as `enqueue_new` tells of them.
SELECT r.run_id, r.created_at, coalesce(r.first_epoch, t.epoch + 1)
FROM run r
JOIN thread t ON t.thread_id = r.thread_id
WHERE r.run_id = ANY(%(run_ids)s::uuid[]);

-- part: lease
-- What a claim makes of the runs in `next`: their rows are locked, and those of their threads.
leased AS (
    UPDATE thread t
    SET epoch = epoch + 1, status = 'busy', metadata = t.metadata || next.of_run
    FROM next
    WHERE t.thread_id = next.thread_id
    RETURNING t.thread_id, t.epoch, t.head_checkpoint_id, t.projected_checkpoint_id,
        t.settled_status, t.checkpoint_count,
        NOT EXISTS (
            SELECT FROM checkpoints AS c
            WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
                AND c.checkpoint_id > coalesce(t.head_checkpoint_id, '')
        ) AS head_is_newest
), claimed AS (
    UPDATE run r
    SET status = 'running', worker_id = %(worker_id)s::uuid, attempt = attempt + 1,
        epoch = leased.epoch, first_epoch = coalesce(r.first_epoch, leased.epoch),
        started_at = coalesce(r.started_at, now()), updated_at = now()
    FROM next
    JOIN leased ON leased.thread_id = next.thread_id
    WHERE r.run_id = next.run_id
    RETURNING r.run_id, r.thread_id, r.assistant_id, r.status, r.multitask_strategy, r.metadata,
        r.kwargs, r.attempt, r.first_epoch, r.first_epoch AS log_epoch, r.temporary, r.error,
        r.created_at, r.updated_at, r.fairness_group
), told AS (
    INSERT INTO outbox (name, thread_id, run_id, data)
    SELECT 'run.started', thread_id, run_id,
        CASE WHEN attempt > 1 THEN jsonb_build_object('attempt', attempt) END
    FROM claimed
    WHERE NOT temporary
)
SELECT claimed.run_id, claimed.thread_id, claimed.assistant_id, claimed.status,
    claimed.multitask_strategy, claimed.metadata, claimed.kwargs, claimed.attempt,
    claimed.first_epoch, claimed.log_epoch, claimed.temporary, claimed.error, claimed.created_at,
    claimed.updated_at, leased.epoch, leased.head_checkpoint_id, leased.projected_checkpoint_id,
    leased.settled_status, leased.head_is_newest, leased.checkpoint_count, claimed.fairness_group
FROM claimed
JOIN leased ON leased.thread_id = claimed.thread_id;

-- name: claim
-- The runs that are due longest and whose threads are free. What it read may be stale by the time it
-- holds the row's lock; then the index run_one_running refuses, and the caller asks again.
WITH next AS MATERIALIZED (
    SELECT r.run_id, r.thread_id,
        jsonb_strip_nulls(jsonb_build_object(
            'graph_id', r.metadata -> 'graph_id', 'assistant_id', r.metadata -> 'assistant_id'
        )) AS of_run
    FROM run r
    JOIN thread t ON t.thread_id = r.thread_id
    WHERE r.status = 'pending' AND r.not_before <= now()
        AND EXISTS (SELECT FROM worker WHERE worker_id = %(worker_id)s::uuid)
        AND NOT EXISTS (
            SELECT FROM run o
            WHERE o.thread_id = r.thread_id AND o.status IN ('pending', 'running')
                AND (o.status = 'running' OR (o.not_before, o.seq) < (r.not_before, r.seq))
        )
    ORDER BY r.not_before, r.seq
    LIMIT %(slots)s
    FOR NO KEY UPDATE OF t, r SKIP LOCKED
),
{lease}

-- name: claim_by_priority
-- As `claim`, in another order: for processes whose langgraph.json has `priority`. Of every line, that
-- is a priority and a group, the runs that are due longest are looked at; who waits becomes more urgent
-- by and by, so that nobody waits for ever; and of those equally urgent the group comes first that has
-- the fewest running, each that is taken counted, and then the one that the caller served longest ago.
-- A group may have `most_running` under way, in all processes.
WITH line AS MATERIALIZED (
    SELECT priority, fairness_group FROM run_line
), busy AS MATERIALIZED (
    SELECT fairness_group, running FROM run_group
), head AS (
    SELECT h.run_id, h.not_before, h.seq, line.fairness_group,
        greatest(
            -5,
            line.priority
                - floor(extract(epoch FROM now() - h.not_before) / %(aging_seconds)s)
        ) AS urgency
    FROM line
    CROSS JOIN LATERAL (
        SELECT r.run_id, r.not_before, r.seq
        FROM run r
        WHERE r.status = 'pending' AND r.priority = line.priority
            AND r.fairness_group = line.fairness_group AND r.not_before <= now()
            AND NOT EXISTS (
                SELECT FROM run o
                WHERE o.thread_id = r.thread_id AND o.status IN ('pending', 'running')
                    AND (o.status = 'running' OR (o.not_before, o.seq) < (r.not_before, r.seq))
            )
        ORDER BY r.not_before, r.seq
        -- others hold some of them locked
        LIMIT %(slots)s + 32
    ) AS h
), turned AS (
    SELECT head.run_id, head.not_before, head.seq, head.urgency, head.fairness_group,
        array_position(%(served)s::text[], head.fairness_group) AS served,
        coalesce(busy.running, 0) + row_number() OVER (
            PARTITION BY head.fairness_group ORDER BY head.urgency, head.not_before, head.seq
        ) AS turn
    FROM head
    LEFT JOIN busy ON busy.fairness_group = head.fairness_group
), ranked AS (
    SELECT run_id, not_before, seq, urgency, served, turn
    FROM turned
    WHERE turn <= coalesce(%(most_running)s::bigint, turn)
    ORDER BY urgency, turn, served NULLS FIRST, not_before, seq
    LIMIT %(slots)s + 32
), next AS MATERIALIZED (
    SELECT r.run_id, r.thread_id,
        jsonb_strip_nulls(jsonb_build_object(
            'graph_id', r.metadata -> 'graph_id', 'assistant_id', r.metadata -> 'assistant_id'
        )) AS of_run
    FROM ranked
    JOIN run r ON r.run_id = ranked.run_id
    JOIN thread t ON t.thread_id = r.thread_id
    WHERE r.status = 'pending'
        AND EXISTS (SELECT FROM worker WHERE worker_id = %(worker_id)s::uuid)
    ORDER BY ranked.urgency, ranked.turn, ranked.served NULLS FIRST, ranked.not_before,
        ranked.seq
    LIMIT %(slots)s
    FOR NO KEY UPDATE OF t, r SKIP LOCKED
),
{lease}

-- name: lock_all
-- In one order, so that two who lock several do not wait for each other.
SELECT thread_id
FROM thread
WHERE thread_id = ANY(ARRAY(SELECT jsonb_array_elements_text(%(thread_ids)s::jsonb)))
ORDER BY thread_id
FOR NO KEY UPDATE;

-- name: lock_all_at_once
-- Or not at all: whoever is locked out by another has others wait with it.
SELECT thread_id
FROM thread
WHERE thread_id = ANY(ARRAY(SELECT jsonb_array_elements_text(%(thread_ids)s::jsonb)))
ORDER BY thread_id
FOR NO KEY UPDATE NOWAIT;

-- name: finish
-- Each fenced by its epoch; the rows of the threads are locked already. Workers are woken as this
-- commits. The epochs rise, so that what the runs left going on writes nothing more. One that somebody
-- wants rolled back by now ends in no other way.
WITH ending AS (
    SELECT *
    FROM jsonb_to_recordset(%(endings)s::jsonb) AS e (
        run_id uuid, epoch bigint, status text, error jsonb, thread_status text, interrupts jsonb,
        thread_error jsonb, event_count int, first_token_ms int, webhook jsonb
    )
), done AS (
    UPDATE run
    SET status = ending.status, error = ending.error, told = ending.event_count,
        first_token_ms = ending.first_token_ms, worker_id = NULL, ended_at = now(),
        updated_at = now()
    FROM ending
    WHERE run.run_id = ending.run_id AND run.epoch = ending.epoch AND run.status = 'running'
        AND run.cancel_action IS DISTINCT FROM 'rollback'
    RETURNING run.run_id, run.thread_id, run.status, run.started_at, ending.thread_status,
        ending.interrupts, ending.thread_error, ending.webhook
), to_tell AS (
    -- Nobody is told of an end that is not one, and every end is told.
    INSERT INTO job (kind, payload, owner)
    SELECT 'webhook', webhook || jsonb_build_object('run_started_at', started_at),
        coalesce(webhook ->> 'webhook_owner', '')
    FROM done
    WHERE webhook IS NOT NULL
    RETURNING pg_notify('threadwell', %(job_signal)s)
), told AS (
    INSERT INTO outbox (name, thread_id, run_id, run_status)
    SELECT 'run.ended', thread_id, run_id, status
    FROM done
), waiting AS (
    -- not now(): this transaction may have waited for the lock while a run was queued
    SELECT r.thread_id, bool_or(r.not_before <= clock_timestamp()) AS due
    FROM run r
    JOIN done ON done.thread_id = r.thread_id
    WHERE r.status = 'pending'
    GROUP BY r.thread_id
), settled AS (
    UPDATE thread
    SET status = CASE WHEN waiting.due IS NULL THEN done.thread_status ELSE 'busy' END,
        settled_status = done.thread_status,
        epoch = epoch + 1,
        interrupts = done.interrupts,
        error = done.thread_error,
        updated_at = now(),
        state_updated_at = now()
    FROM done
    LEFT JOIN waiting ON waiting.thread_id = done.thread_id
    WHERE thread.thread_id = done.thread_id
    RETURNING done.run_id, waiting.due
)
SELECT run_id, CASE WHEN due THEN pg_notify('threadwell', %(signal)s) END FROM settled
UNION ALL
-- They had ended so before: by a call that nobody heard the answer of.
SELECT run.run_id, NULL
FROM run
JOIN ending ON ending.run_id = run.run_id AND ending.epoch = run.epoch
    AND ending.status = run.status;

-- name: finish_temporary
-- The thread goes with its run, fenced by the epoch like any end.
WITH gone AS (
    DELETE FROM thread
    USING run
    WHERE thread.thread_id = run.thread_id AND run.run_id = %(run_id)s::uuid
        AND run.epoch = %(epoch)s AND run.status = 'running'
    RETURNING run.run_id, run.started_at
), to_tell AS (
    INSERT INTO job (kind, payload, owner)
    SELECT 'webhook', %(webhook)s::jsonb || jsonb_build_object('run_started_at', started_at),
        coalesce(%(webhook)s::jsonb ->> 'webhook_owner', '')
    FROM gone
    WHERE %(webhook)s::jsonb IS NOT NULL
    RETURNING pg_notify('threadwell', %(job_signal)s)
)
SELECT run_id FROM gone
UNION ALL
SELECT %(run_id)s::uuid WHERE NOT EXISTS (SELECT FROM run WHERE run_id = %(run_id)s::uuid);

-- name: cancel_begun
-- One that has written something and waits for another worker is to be taken back as if it ran: it
-- is `lost`, and whoever finds it does so.
UPDATE run
SET status = 'running', cancel_action = %(action)s, updated_at = now()
WHERE thread_id = %(thread_id)s AND status = 'pending'
    AND %(action)s = 'rollback' AND first_epoch IS NOT NULL AND NOT temporary
    AND (%(run_ids)s::uuid[] IS NULL OR run_id = ANY(%(run_ids)s::uuid[]))
RETURNING run_id;

-- name: cancel_pending
WITH ended AS (
    UPDATE run
    SET status = 'interrupted', ended_at = now(), updated_at = now()
    WHERE thread_id = %(thread_id)s AND status = 'pending'
        AND (%(run_ids)s::uuid[] IS NULL OR run_id = ANY(%(run_ids)s::uuid[]))
    RETURNING run_id, thread_id, temporary, first_epoch IS NOT NULL AS begun,
        CASE WHEN kwargs ->> 'webhook' IS NOT NULL THEN to_jsonb(run) END AS with_webhook
), told AS (
    INSERT INTO outbox (name, thread_id, run_id, run_status)
    SELECT 'run.ended', thread_id, run_id, 'interrupted'
    FROM ended
    WHERE NOT temporary
)
SELECT run_id, temporary, begun, with_webhook FROM ended;

-- name: cancel_running
-- Of two wishes the one that leaves less counts: 'rollback' is the greater word too.
UPDATE run
SET cancel_action = greatest(cancel_action, %(action)s), updated_at = now()
WHERE thread_id = %(thread_id)s AND status = 'running'
    AND (%(run_ids)s::uuid[] IS NULL OR run_id = ANY(%(run_ids)s::uuid[]))
RETURNING run_id;

-- name: held
SELECT run_id
FROM run
WHERE run_id = %(run_id)s::uuid AND epoch = %(epoch)s AND status = 'running';

-- name: to_undo
SELECT run_id
FROM run
WHERE run_id = %(run_id)s::uuid AND epoch = %(epoch)s AND status = 'running'
    AND cancel_action = 'rollback';

-- name: ended
SELECT run_id
FROM run
WHERE run_id = %(run_id)s::uuid AND thread_id = %(thread_id)s
    AND status NOT IN ('pending', 'running');

-- name: discard
WITH gone AS (
    DELETE FROM run
    WHERE run_id = %(run_id)s::uuid AND epoch = %(epoch)s AND status = 'running'
    RETURNING run_id, thread_id,
        CASE WHEN kwargs ->> 'webhook' IS NOT NULL THEN to_jsonb(run) END AS with_webhook
), told AS (
    INSERT INTO outbox (name, thread_id, run_id, run_status, data)
    SELECT 'run.ended', thread_id, run_id, 'interrupted', '{"rolled_back": true}'
    FROM gone
)
SELECT with_webhook FROM gone;

-- name: delete_run
DELETE FROM run
WHERE run_id = ANY(%(run_ids)s::uuid[]) AND thread_id = %(thread_id)s
    AND status NOT IN ('pending', 'running');

-- name: delete_thread
DELETE FROM thread WHERE thread_id = %(thread_id)s;

-- name: settle
-- Runs are gone that the thread was busy with: it is again what the last one left, if no other is
-- in flight.
UPDATE thread
SET status = CASE
        WHEN EXISTS (
            SELECT FROM run
            WHERE run.thread_id = thread.thread_id AND run.status IN ('pending', 'running')
        ) THEN 'busy'
        ELSE settled_status
    END,
    updated_at = now()
WHERE thread_id = %(thread_id)s;

-- name: forget_writes
-- What a run wrote to checkpoints of earlier ones that it went on from: they are again as before it.
WITH own AS MATERIALIZED (
    SELECT first_epoch, epoch FROM run WHERE run_id = %(run_id)s::uuid
), restored AS (
    UPDATE checkpoint_writes w
    SET type = replaced_type, blob = replaced_blob, epoch = replaced_epoch,
        replaced_type = NULL, replaced_blob = NULL, replaced_epoch = NULL
    FROM own
    WHERE w.thread_id = %(thread_id)s AND w.epoch BETWEEN own.first_epoch AND own.epoch
        AND w.replaced_blob IS NOT NULL
)
DELETE FROM checkpoint_writes w
USING own
WHERE w.thread_id = %(thread_id)s AND w.epoch BETWEEN own.first_epoch AND own.epoch
    AND w.replaced_blob IS NULL;

-- name: forget_checkpoints
-- What a rolled-back run wrote. Its lease is the thread's, so nobody writes meanwhile.
WITH gone AS (
    DELETE FROM checkpoints
    WHERE thread_id = %(thread_id)s AND metadata ->> 'run_id' = %(run_id)s
    RETURNING checkpoint_ns, checkpoint_id
)
DELETE FROM checkpoint_writes w
USING gone
WHERE w.thread_id = %(thread_id)s
    AND w.checkpoint_ns = gone.checkpoint_ns
    AND w.checkpoint_id = gone.checkpoint_id;

-- name: forget_blobs
WITH kept AS MATERIALIZED (
    SELECT c.checkpoint_ns, v.key AS channel, v.value AS version
    FROM checkpoints AS c
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
    WHERE c.thread_id = %(thread_id)s
)
DELETE FROM checkpoint_blobs b
WHERE b.thread_id = %(thread_id)s
    AND (b.checkpoint_ns, b.channel, b.version) NOT IN (
        SELECT checkpoint_ns, channel, version FROM kept
    );

-- name: forget_messages
-- What it only changed or took out is put right when the thread is projected again. Their places are
-- given again, and so told again.
WITH gone AS (
    DELETE FROM message
    WHERE conversation_id = %(thread_id)s AND run_id = %(run_id)s::uuid
    RETURNING seq
)
UPDATE change_of_messages
SET message_count = least(message_count, (SELECT min(seq) FROM gone))
WHERE thread_id = %(thread_id)s;

-- name: reset_head
-- The projection is stale until it is made again, and whatever still runs writes nothing more.
UPDATE thread
SET epoch = epoch + 1,
    head_checkpoint_id = (
        SELECT max(checkpoint_id)
        FROM checkpoints
        WHERE checkpoints.thread_id = thread.thread_id AND checkpoint_ns = ''
    ),
    projected_checkpoint_id = NULL
WHERE thread_id = %(thread_id)s;

-- name: register
-- Its key is in use from here on. The row is written even if that says so already: whoever ends a change
-- of keys has locked it, and comes before or after.
WITH used AS (
    UPDATE encryption
    SET key_ids = CASE
            WHEN %(key_id)s::text = ANY(key_ids) THEN key_ids
            ELSE key_ids || %(key_id)s::text
        END
    WHERE %(key_id)s::text IS NOT NULL
)
INSERT INTO worker (worker_id, host, pid, version, slots, key_id)
VALUES (%(worker_id)s::uuid, %(host)s, %(pid)s, %(version)s, %(slots)s, %(key_id)s::text);

-- name: drain
UPDATE worker SET draining = true WHERE worker_id = %(worker_id)s::uuid;

-- name: retire
DELETE FROM worker WHERE worker_id = %(worker_id)s::uuid;

-- name: to_stop
-- Runs of a worker that someone wants stopped; also asked on every beat, should a signal get lost.
SELECT run_id, cancel_action
FROM run
WHERE worker_id = %(worker_id)s::uuid AND status = 'running' AND cancel_action IS NOT NULL;

-- name: owned
SELECT run_id, thread_id, epoch
FROM run
WHERE worker_id = %(worker_id)s::uuid AND status = 'running';

-- name: bury
-- Workers that stopped beating; their runs are reaped by whoever sees them first.
-- Never oneself: a process that slept with its machine finds its runs still its own.
DELETE FROM worker
WHERE last_seen_at < now() - make_interval(secs => %(lease_seconds)s)
    AND worker_id <> %(worker_id)s::uuid;

-- name: lost
SELECT run_id, thread_id, epoch
FROM run
WHERE status = 'running'
    AND NOT EXISTS (SELECT FROM worker WHERE worker.worker_id = run.worker_id)
ORDER BY seq
LIMIT 100;

-- name: give_up
-- Take a run from its lease, which its epoch names: nobody else can have given it up. The thread's
-- row is locked, and gets a new epoch, so that the owner writes nothing from here on. One that is
-- to be rolled back stays running, for the worker that asks to do it: should that one be lost too,
-- the next one does. Without max_attempts the attempt does not count.
WITH fenced AS (
    UPDATE thread
    SET epoch = thread.epoch + 1
    FROM run
    WHERE run.run_id = %(run_id)s::uuid AND run.epoch = %(epoch)s AND run.status = 'running'
        AND thread.thread_id = run.thread_id
    RETURNING run.run_id, thread.epoch,
        run.cancel_action = 'rollback' AND NOT run.temporary AS undone
), given AS (
    UPDATE run
    SET worker_id = CASE WHEN undone THEN coalesce(%(worker_id)s::uuid, run.worker_id) END,
        epoch = CASE WHEN undone THEN fenced.epoch ELSE run.epoch END,
        updated_at = now(),
        attempt = attempt - (%(max_attempts)s::int IS NULL)::int,
        status = CASE
            WHEN undone THEN 'running'
            WHEN cancel_action IS NOT NULL THEN 'interrupted'
            WHEN attempt >= %(max_attempts)s::int THEN 'error'
            ELSE 'pending'
        END,
        error = CASE
            WHEN cancel_action IS NULL AND attempt >= %(max_attempts)s::int
                THEN %(error)s::jsonb
        END,
        ended_at = CASE
            WHEN undone THEN NULL
            WHEN cancel_action IS NOT NULL OR attempt >= %(max_attempts)s::int THEN now()
        END
    FROM fenced
    WHERE run.run_id = fenced.run_id
    RETURNING run.status, run.temporary, fenced.epoch, run.run_id, run.thread_id,
        CASE WHEN run.kwargs ->> 'webhook' IS NOT NULL THEN to_jsonb(run) END AS with_webhook
), told AS (
    INSERT INTO outbox (name, thread_id, run_id, run_status)
    SELECT 'run.ended', thread_id, run_id, status
    FROM given
    WHERE status NOT IN ('pending', 'running') AND NOT temporary
)
SELECT status, temporary, epoch, with_webhook FROM given;

-- name: settle_given_up
-- What a run that nobody will go on with leaves: after a checkpoint of its own something is next.
UPDATE thread
SET settled_status = CASE
        WHEN %(status)s = 'error' THEN 'error'
        WHEN wrote.anything THEN 'interrupted'
        ELSE settled_status
    END,
    interrupts = CASE WHEN wrote.anything THEN '{}' ELSE interrupts END,
    error = %(error)s::jsonb,
    state_updated_at = now()
FROM (
    SELECT EXISTS (
        SELECT FROM checkpoints c
        JOIN thread t ON t.thread_id = c.thread_id AND t.head_checkpoint_id = c.checkpoint_id
        WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = ''
            AND c.metadata ->> 'run_id' = %(run_id)s::text
    ) AS anything
) wrote
WHERE thread.thread_id = %(thread_id)s;

-- name: stats
-- How many wait and run, and how long those wait that are due; `unblocked` could begin at once.
SELECT count(*) FILTER (WHERE status = 'pending') AS pending,
    count(*) FILTER (WHERE status = 'running') AS running,
    extract(epoch FROM max(waited))::float8 AS longest_wait_seconds,
    extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY waited))::float8
        AS median_wait_seconds,
    extract(epoch FROM max(waited) FILTER (WHERE NOT blocked))::float8
        AS longest_unblocked_wait_seconds
FROM (
    SELECT status,
        CASE WHEN status = 'pending' AND not_before <= now() THEN now() - not_before END AS waited,
        EXISTS (
            SELECT FROM run AS other WHERE other.thread_id = run.thread_id
                AND (other.status = 'running' OR other.status = 'pending' AND other.seq < run.seq)
        ) AS blocked
    FROM run
    WHERE status IN ('pending', 'running')
) AS in_flight;
